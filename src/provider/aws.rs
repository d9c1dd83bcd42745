//! AWS Secrets Manager: one `GetSecretValue` for the whole document, through the SDK, which finds credentials, region
//! and endpoint. Does not cache.

use std::error::Error as StdError;
use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::operation::get_secret_value::{
    GetSecretValueError, GetSecretValueOutput,
};
use aws_smithy_http_client::tls::Provider::Rustls;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::BackendKind;
use super::backend::{
    Backend, BackendDocument, BackendProvider, FetchError, Fetched, Fetching, Retry,
};
use crate::error::Result;
use crate::settings::{BackendSettings, Reader, Settings, as_options, setting, settings_table};

/// Which secret to read, and where.
#[derive(Clone, Debug)]
pub struct AwsOptions {
    /// The secret's name or ARN.
    pub secret_name: String,
    /// The region; `None`: the SDK finds it (`AWS_REGION`, the profile, the instance).
    pub region: Option<String>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

settings_table! {
    /// The settings for AWS.
    struct AwsSettings {
        /// The name or ARN of the secret in AWS Secrets Manager, a flat JSON object of keys and values
        secret_name: Option<String> = setting("aws_secret_name").or_variables(&["SIMPLETUNER_AWS_SECRET_NAME"]),
        /// The region; unless it is set, the SDK finds it (the profile, the instance)
        region: Option<String> = setting("aws_region").else_variables(&["AWS_REGION", "AWS_DEFAULT_REGION"]),
    }
}

pub(super) const KIND: BackendKind = BackendKind {
    name: "aws",
    settings: BackendSettings {
        title: "AWS Secrets Manager",
        switch: "aws_secret_name",
        read: |reader, settings| Ok(as_options(AwsOptions::read(reader, settings)?)),
    },
    // What aws-config reads (its `environment/credentials.rs` and `ecs.rs`).
    credentials: &[
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    ],
    paths: &[
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_CA_BUNDLE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    ],
    open: |settings, options| {
        let backend = settings.backend().cloned().map(AwsBackend::new);
        backend
            .map(|backend| BackendProvider::new(backend, options))
            .transpose()
    },
};

impl AwsOptions {
    fn read(reader: &Reader<'_>, settings: &Settings) -> Result<Option<Self>> {
        let AwsSettings {
            secret_name,
            region,
        } = AwsSettings::read(reader)?;
        Ok(secret_name.map(|secret_name| Self {
            secret_name,
            region,
            connect_timeout: settings.timeout.connect,
        }))
    }
}

/// One secret in AWS Secrets Manager, whose text (`SecretString`, or `SecretBinary`) is a flat JSON object.
///
/// It needs the permission `secretsmanager:GetSecretValue` on that secret and, if the secret has its own KMS key,
/// `kms:Decrypt` on that key.
pub struct AwsBackend {
    options: AwsOptions,
    /// Built at the first call, because finding credentials and reading certificates takes time. Built again after a
    /// call without an answer, because the user may have fixed what it was built from.
    client: Mutex<Option<Client>>,
}

impl AwsBackend {
    /// The backend. Reads and calls nothing yet.
    pub fn new(options: AwsOptions) -> Self {
        Self {
            options,
            client: Mutex::new(None),
        }
    }

    async fn make_client(&self) -> Client {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Rustls(CryptoMode::Ring))
            .build_https();
        // The caller retries, and bounds the time of all retries.
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .retry_config(RetryConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(self.options.connect_timeout)
                    .build(),
            );
        if let Some(region) = &self.options.region {
            loader = loader.region(Region::new(region.clone()));
        }
        Client::new(&loader.load().await)
    }

    async fn fetch_document(&self) -> Result<Fetched, FetchError> {
        let client = {
            let mut made = self.client.lock().await;
            match &*made {
                Some(client) => client.clone(),
                None => made.insert(self.make_client().await).clone(),
            }
        };
        if client.config().region().is_none() {
            self.client.lock().await.take();
            return Err(FetchError::lasting(
                "no AWS region is set: set aws_region (or AWS_REGION, or a region in the AWS profile)",
            ));
        }
        let request = client.get_secret_value();
        match request.secret_id(&self.options.secret_name).send().await {
            Ok(output) => self.document(output),
            Err(SdkError::ServiceError(error)) => {
                let status = error.raw().status().as_u16();
                let retry_after = error.raw().headers().get("retry-after");
                self.refused(error.err(), status, retry_after)
            }
            Err(error) => {
                self.client.lock().await.take();
                Err(self.no_response(&error))
            }
        }
    }

    fn document(&self, output: GetSecretValueOutput) -> Result<Fetched, FetchError> {
        let changed_at = output
            .created_date
            .and_then(|date| SystemTime::try_from(date).ok());
        let json = match (output.secret_string, output.secret_binary) {
            (Some(text), _) => Zeroizing::new(text.into_bytes()),
            (None, Some(bytes)) => Zeroizing::new(bytes.into_inner()),
            (None, None) => Zeroizing::default(),
        };
        let document = BackendDocument::parse(&json).map_err(|why| {
            FetchError::lasting(format!(
                "{}: {why}; store one flat JSON object of names and texts in it",
                self.secret()
            ))
        })?;
        Ok(Fetched::Document {
            document,
            changed_at,
        })
    }

    /// What an error response means.
    fn refused(
        &self,
        error: &GetSecretValueError,
        status: u16,
        retry_after: Option<&str>,
    ) -> Result<Fetched, FetchError> {
        let secret = self.secret();
        let code = error.code().unwrap_or("no error code");
        let said = match error.message() {
            Some(message) => format!("{code}: {message}"),
            None => code.to_owned(),
        };
        match code {
            "ResourceNotFoundException" => {
                return Ok(Fetched::Missing(format!(
                    "{secret} does not exist; create it, or correct its name or aws_region ({said})"
                )));
            }
            "InvalidRequestException" if said.contains("delet") => {
                return Ok(Fetched::Missing(format!(
                    "{secret} is marked for deletion; restore it, or name another ({said})"
                )));
            }
            "AccessDeniedException" => {
                return Err(FetchError::lasting(format!(
                    "{secret}: access is denied; allow the caller secretsmanager:GetSecretValue on it ({said})"
                )));
            }
            "DecryptionFailure" => {
                return Err(FetchError::lasting(format!(
                    "{secret} cannot be decrypted; allow the caller kms:Decrypt on its key ({said})"
                )));
            }
            "ExpiredTokenException"
            | "UnrecognizedClientException"
            | "InvalidSignatureException"
            | "InvalidClientTokenId"
            | "IncompleteSignature"
            | "MissingAuthenticationToken" => {
                return Err(FetchError::lasting(format!(
                    "AWS does not accept the credentials; renew them, or set AWS_PROFILE or AWS_ACCESS_KEY_ID ({said})"
                )));
            }
            // A proxy in front of AWS may use its own error code.
            _ if status == 403 => {
                return Err(FetchError::lasting(format!(
                    "{secret}: access is denied (403); check the credentials, and allow \
                     the caller secretsmanager:GetSecretValue on it ({said})"
                )));
            }
            _ => {}
        }
        let reason = format!("{secret}: AWS answers {status} ({said})");
        let wait = retry_after.and_then(|text| text.trim().parse().ok());
        Err(match wait {
            Some(seconds) => FetchError {
                reason,
                retry: Retry::After(Duration::from_secs(seconds)),
            },
            None if status >= 500 || status == 429 || code.contains("Throttling") => {
                FetchError::passing(reason)
            }
            None => FetchError::lasting(reason),
        })
    }

    /// Why there was no response, or only a part of one.
    fn no_response<R: Debug + 'static>(
        &self,
        error: &SdkError<GetSecretValueError, R>,
    ) -> FetchError {
        let chain = error_chain(error);
        let secret = self.secret();
        if chain.contains("certificate") {
            return FetchError::lasting(format!(
                "{secret}: the server's certificate is not accepted ({chain}); if it is the right one, add its authority to the \
                 system's certificates, or set SSL_CERT_FILE"
            ));
        }
        match error {
            SdkError::ResponseError(_) => {
                FetchError::passing(format!("{secret}: the response cannot be read ({chain})"))
            }
            SdkError::TimeoutError(_) => {
                FetchError::passing(format!("{secret}: AWS does not respond ({chain})"))
            }
            SdkError::DispatchFailure(failure) if failure.is_timeout() || failure.is_io() => {
                FetchError::passing(format!(
                    "{secret}: AWS cannot be reached ({chain}); see AWS_ENDPOINT_URL, aws_region and the network"
                ))
            }
            _ if chain.contains("credentials") => FetchError::lasting(format!(
                "no AWS credentials are found ({chain}); set AWS_PROFILE, or AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY, or give the machine a role"
            )),
            _ => FetchError::passing(format!("{secret}: the call failed ({chain})")),
        }
    }

    fn secret(&self) -> String {
        format!(
            "the AWS secret {} (aws_secret_name)",
            self.options.secret_name
        )
    }
}

/// The messages of an error and its causes, each once. Uses only `Display`: `Debug` may show the body of a response.
fn error_chain(error: &dyn StdError) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let said = error.to_string();
        if !words.contains(&said) {
            words.push(said);
        }
        next = error.source();
    }
    words.join(": ")
}

impl Backend for AwsBackend {
    fn name(&self) -> &'static str {
        "aws"
    }

    fn source(&self) -> String {
        let region = match &self.options.region {
            Some(region) => region.clone(),
            None => match self.client.try_lock().as_deref() {
                Ok(Some(client)) => client.config().region().map(ToString::to_string),
                _ => None,
            }
            .unwrap_or_else(|| "the SDK's region".to_owned()),
        };
        format!("{} ({region})", self.options.secret_name)
    }

    fn fetch(&self) -> Fetching<'_> {
        Box::pin(self.fetch_document())
    }
}
