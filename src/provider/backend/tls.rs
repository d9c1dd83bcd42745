//! How a backend's server is verified: the system's authorities, further certificates, a name. Knows no backend.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use zeroize::Zeroizing;

use super::FetchError;
use crate::error::in_words;
use crate::files::{ReadError, read_file};

/// The largest PEM file, in bytes; a system's bundle has about 250 KiB.
const MAX_PEM: usize = 4 * 1024 * 1024;

/// How to verify the server, and what to show it.
#[derive(Default)]
pub(crate) struct TlsOptions {
    /// Certificates to trust besides the system's: authorities, or the server's own.
    pub(crate) trusted: Vec<CertificateDer<'static>>,
    /// The client's certificate with its chain, and its key.
    pub(crate) client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// The name that the server's certificate must have, instead of the address's.
    pub(crate) server_name: Option<ServerName<'static>>,
    /// Whether to accept any certificate.
    pub(crate) skip_verify: bool,
}

/// The configuration for rustls.
///
/// # Errors
/// What cannot be used.
pub(crate) fn config(options: TlsOptions) -> Result<ClientConfig, String> {
    let provider = provider();
    let webpki = match options.skip_verify {
        true => None,
        false => Some(webpki_verifier(&options.trusted, &provider)?),
    };
    let verifier = Verifier {
        webpki,
        trusted: options.trusted,
        server_name: options.server_name,
        algorithms: provider.signature_verification_algorithms,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    match options.client {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("the client certificate and its key cannot be used: {error}")),
        None => Ok(builder.with_no_client_auth()),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(crypto::ring::default_provider())
}

/// Installs `ring` as the crypto provider of rustls in this process, unless there is one.
///
/// reqwest and vaultrs are built without a provider of their own (`rustls-no-provider`), and panic if there is none.
pub(crate) fn install_crypto() {
    if CryptoProvider::get_default().is_none() {
        // Fails if another thread has installed it already.
        let _ = crypto::ring::default_provider().install_default();
    }
}

/// How many authorities this machine trusts.
pub(crate) fn system_authorities() -> usize {
    let mut roots = RootCertStore::empty();
    let (added, _) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    added
}

fn webpki_verifier(
    trusted: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(trusted.iter().cloned());
    if roots.is_empty() {
        return Err(
            "this machine has no certificates of authorities to verify the server's with; install the package \
             ca-certificates"
                .to_owned(),
        );
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| error.to_string())
}

/// Verifies as webpki does, and accepts a certificate that is itself trusted, although it is an authority's: that is how
/// `openssl req -x509` makes a server's certificate.
#[derive(Debug)]
struct Verifier {
    /// `None`: any certificate is accepted.
    webpki: Option<Arc<WebPkiServerVerifier>>,
    trusted: Vec<CertificateDer<'static>>,
    server_name: Option<ServerName<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(webpki) = &self.webpki else {
            return Ok(ServerCertVerified::assertion());
        };
        let name = self.server_name.as_ref().unwrap_or(server_name);
        let verified =
            webpki.verify_server_cert(end_entity, intermediates, name, ocsp_response, now);
        match verified {
            // webpki has verified its time before it refuses the certificate of an authority.
            Err(Error::InvalidCertificate(CertificateError::Other(_)))
                if self.trusted.iter().any(|trusted| trusted == end_entity) =>
            {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&certificate, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The certificates of a PEM file that `variable` names.
///
/// # Errors
/// The variable, the file, and why it cannot be used.
pub(crate) fn certificates(
    variable: &str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, FetchError> {
    let invalid = |why: &str| invalid(variable, path, why);
    let pem = read_pem(variable, path)?;
    let mut trusted = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| invalid("is damaged PEM"))?;
        let unusable = |_| invalid("holds a certificate that cannot be read");
        RootCertStore::empty()
            .add(certificate.clone())
            .map_err(unusable)?;
        trusted.push(certificate);
    }
    match trusted.is_empty() {
        true => Err(invalid("holds no PEM certificate")),
        false => Ok(trusted),
    }
}

/// The content of a PEM file.
///
/// # Errors
/// The variable, the file, and why it cannot be read.
pub(crate) fn read_pem(variable: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, FetchError> {
    let why = match read_file(path, MAX_PEM) {
        Ok(content) => return Ok(content.bytes),
        Err(ReadError::Missing) => "does not exist".to_owned(),
        Err(ReadError::NotAFile(what)) => format!("cannot be used: {what}"),
        Err(ReadError::TooLarge) => "is over 4 MiB".to_owned(),
        Err(ReadError::Io(error)) => format!("cannot be read: {}", in_words(&error)),
    };
    Err(invalid(variable, path, &why))
}

/// The error for a file that a variable names.
pub(crate) fn invalid(variable: &str, path: &Path, why: &str) -> FetchError {
    FetchError::lasting(format!("{variable}, {}, {why}", path.display()))
}
