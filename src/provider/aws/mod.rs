//! AWS Secrets Manager: one `GetSecretValue` for the whole document, through the SDK, which finds credentials, region
//! and endpoint. Does not cache.
//!
//! - `connector`: the SDK's requests through the client of all backends
//! - `credentials`: looked up once at a time
//! - `diagnosis`: what `doctor` asks of AWS, and the least policy
//! - `failure`: what an error means, and what to do
//! - `process`: `credential_process`, which is killed if it hangs

mod connector;
mod credentials;
mod diagnosis;
mod failure;
mod process;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::SdkError;
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueOutput;
use aws_types::SdkConfig;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::backend::tls::{self, TlsOptions};
use super::backend::{Backend, BackendDocument, BackendProvider, FetchError, Fetched, Fetching};
use super::{BackendKind, ChainLink};
use crate::error::Result;
use crate::settings::{
    BackendSettings, Reader, Settings, as_options, setting, settings_table, variables,
};
use connector::Http;
use credentials::{RunningLookup, SingleflightCredentials};
use failure::Refusal;
use process::CredentialProcess;

/// After this many times `timeout.total`, `credential_process` is killed. Until then it goes on, because it may wait for its user.
const PROCESS_TIMEOUTS: u32 = 10;

/// Which secret to read, and where.
#[derive(Clone, Debug)]
pub struct AwsOptions {
    /// The secret's name or ARN.
    pub secret_name: String,
    /// The region; `None`: the SDK finds it (`AWS_REGION`, the profile, the instance).
    pub region: Option<String>,
    /// A PEM file of certificates to trust besides the system's; `None`: `ca_bundle` of the profile.
    pub ca_bundle: Option<PathBuf>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long finding credentials may take.
    pub total_timeout: Duration,
}

settings_table! {
    /// The settings for AWS.
    struct AwsSettings {
        /// The name or ARN of the secret in AWS Secrets Manager, a flat JSON object of keys and values
        secret_name: Option<String> = setting("aws_secret_name").or_variables(&["SIMPLETUNER_AWS_SECRET_NAME"]),
        /// The region; unless it is set, the SDK finds it (the profile, the instance)
        region: Option<String> = setting("aws_region").else_variables(&["AWS_REGION", "AWS_DEFAULT_REGION"]),
        /// A PEM file of certificates to trust besides the system's; unless it is set, `ca_bundle` of the profile
        ca_bundle: Option<PathBuf> = variables(&["AWS_CA_BUNDLE"]),
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
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    ],
    open: |settings, options| {
        let backend = settings.backend().cloned().map(AwsBackend::new);
        let provider = backend.map(|backend| BackendProvider::new(backend, options));
        Ok(ChainLink::only(&KIND, provider.transpose()?))
    },
    diagnose: |settings, _| {
        let options = settings.backend::<AwsOptions>()?.clone();
        Some(Box::pin(diagnosis::diagnose(options)))
    },
    policy: |settings| settings.backend().map(diagnosis::policy),
};

impl AwsOptions {
    fn read(reader: &Reader<'_>, settings: &Settings) -> Result<Option<Self>> {
        let AwsSettings {
            secret_name,
            region,
            ca_bundle,
        } = AwsSettings::read(reader)?;
        Ok(secret_name.map(|secret_name| Self {
            secret_name,
            region,
            ca_bundle,
            connect_timeout: settings.timeout.connect,
            total_timeout: settings.timeout.total,
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
    /// call without an answer or with bad credentials, because the user may have mended what it was built from.
    made: Mutex<Option<Made>>,
    running: RunningLookup,
}

/// The client, and the HTTP below it.
#[derive(Clone)]
struct Made {
    config: SdkConfig,
    client: Client,
    http: Http,
}

impl AwsBackend {
    /// The backend. Reads and calls nothing yet.
    pub fn new(options: AwsOptions) -> Self {
        Self {
            options,
            made: Mutex::new(None),
            running: RunningLookup::default(),
        }
    }

    async fn make(&self) -> Result<Made, FetchError> {
        let tls = TlsOptions {
            trusted: match self.ca_bundle().await {
                Some((variable, path)) => tls::certificates(variable, &path)?,
                None => Vec::new(),
            },
            ..TlsOptions::default()
        };
        let tls = tls::config(tls).map_err(FetchError::lasting)?;
        let http = Http::new(tls, self.options.connect_timeout);
        // A little less than the whole: the error that names the credentials comes first.
        let total = self.options.total_timeout;
        let for_credentials = total - (total / 10).min(Duration::from_millis(500));
        // The caller retries, and bounds the time of all retries.
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http.clone())
            .identity_cache(IdentityCache::lazy().load_timeout(for_credentials).build())
            .retry_config(RetryConfig::disabled())
            // It would end a call that AWS has not answered for some seconds, whatever `timeout.total` is.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(self.options.connect_timeout)
                    .build(),
            );
        if let Some(region) = &self.options.region {
            loader = loader.region(Region::new(region.clone()));
        }
        let profiles = credentials::profiles().await.ok();
        let timeout = total.saturating_mul(PROCESS_TIMEOUTS);
        let process = profiles.and_then(|profiles| CredentialProcess::of(&profiles, timeout));
        if let Some(process) = process {
            loader = loader.credentials_provider(process);
        }
        let mut config = loader.load().await;
        if let Some(inner) = config.credentials_provider() {
            let running = self.running.clone();
            let provider =
                SharedCredentialsProvider::new(SingleflightCredentials { inner, running });
            config = config.into_builder().credentials_provider(provider).build();
        }
        let client = Client::new(&config);
        Ok(Made {
            config,
            client,
            http,
        })
    }

    /// The file of further certificates, and what names it.
    async fn ca_bundle(&self) -> Option<(&'static str, PathBuf)> {
        if let Some(path) = &self.options.ca_bundle {
            return Some(("AWS_CA_BUNDLE", path.clone()));
        }
        let profiles = credentials::profiles().await.ok()?;
        Some((
            "ca_bundle of the AWS profile",
            profiles.get("ca_bundle")?.into(),
        ))
    }

    async fn fetch_document(&self) -> Result<Fetched, FetchError> {
        let before = self.made.lock().await.clone();
        let is_old = before.is_some();
        let made = match before {
            Some(made) => made,
            None => self.made.lock().await.insert(self.make().await?).clone(),
        };
        match self.fetch_by(&made).await {
            // What it was made from may have been renewed since, as by `aws sso login`.
            Refusal::Credentials(_) if is_old => {
                let made = self.made.lock().await.insert(self.make().await?).clone();
                self.answer(self.fetch_by(&made).await).await
            }
            refusal => self.answer(refusal).await,
        }
    }

    async fn answer(&self, refusal: Refusal) -> Result<Fetched, FetchError> {
        match refusal {
            Refusal::Credentials(error) => {
                self.made.lock().await.take();
                Err(error)
            }
            Refusal::Other(answer) => answer,
        }
    }

    async fn fetch_by(&self, Made { client, http, .. }: &Made) -> Refusal {
        let region = client.config().region();
        if region.is_none_or(|region| region.as_ref().trim().is_empty()) {
            self.made.lock().await.take();
            let advice = "no AWS region is set; set aws_region (or AWS_REGION, or a region in the AWS profile)";
            let why = credentials::wrong_profile().await;
            return Refusal::Other(Err(FetchError::lasting(why.as_deref().unwrap_or(advice))));
        }
        let request = client.get_secret_value();
        let result = request.secret_id(&self.options.secret_name).send().await;
        let secret = self.secret();
        let mut refusal = match result {
            Ok(output) => return Refusal::Other(self.document(output)),
            Err(SdkError::ServiceError(error)) => {
                let status = error.raw().status().as_u16();
                let wait = error.raw().headers().get("retry-after");
                failure::refused(&secret, error.err(), status, wait)
            }
            // The lookup continues, and the next fetch gets its answer.
            Err(error) if failure::credentials_took_too_long(&error) => {
                return Refusal::Other(Err(FetchError::passing(format!(
                    "the AWS credentials took longer than timeout.total ({} s); raise it, or see what credential_process, \
                     the log-in or the role of the profile waits for",
                    self.options.total_timeout.as_secs_f64()
                ))));
            }
            Err(error) => {
                self.made.lock().await.take();
                let error = failure::no_response(&secret, &error);
                let wrong_profile = match error.reason.starts_with("no AWS credentials") {
                    true => credentials::wrong_profile().await,
                    false => None,
                };
                Refusal::Other(Err(wrong_profile.map_or(error, FetchError::lasting)))
            }
        };
        if let Refusal::Credentials(error) | Refusal::Other(Err(error)) = &mut refusal
            && let Some(proxy) = http.last_proxy()
        {
            error.reason = format!("{} (asked through {proxy})", error.reason);
        }
        refusal
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

    fn secret(&self) -> String {
        format!(
            "the AWS secret {} (aws_secret_name)",
            self.options.secret_name
        )
    }
}

impl Backend for AwsBackend {
    fn name(&self) -> &str {
        "aws"
    }

    fn source(&self) -> String {
        let region = match &self.options.region {
            Some(region) => region.clone(),
            None => match self.made.try_lock().as_deref() {
                Ok(Some(made)) => made.client.config().region().map(ToString::to_string),
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
