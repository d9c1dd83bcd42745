//! The certificates that a client trusts (the system's and those in the options), and its own certificate. Knows no
//! address.

use std::path::{Path, PathBuf};

use reqwest::{Certificate, ClientBuilder, Identity};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::VaultTls;
use crate::files::{ReadError, read_file};
use crate::provider::backend::FetchError;

/// The largest PEM file, in bytes; a system's bundle has about 250 KiB.
const MAX_PEM: usize = 4 * 1024 * 1024;

/// Applies the options to the builder. Reads the files now.
///
/// # Errors
/// Names the file that cannot be read or holds no certificate, and its variable.
pub(super) fn apply(
    mut builder: ClientBuilder,
    options: &VaultTls,
) -> Result<ClientBuilder, FetchError> {
    if options.skip_verify {
        tracing::warn!(
            "VAULT_SKIP_VERIFY is set: any server at Vault's address is accepted as Vault, and gets the token"
        );
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    let trusted = match (&options.ca_file, &options.ca_folder) {
        // The order of Vault's own command line.
        (Some(file), _) => certificates("VAULT_CACERT", file)?,
        (None, Some(folder)) => certificates_in(folder)?,
        (None, None) => Vec::new(),
    };
    if !trusted.is_empty() {
        builder = builder.tls_certs_merge(trusted);
    }
    match &options.client {
        Some((cert, key)) => Ok(builder.identity(identity(cert, key)?)),
        None => Ok(builder),
    }
}

fn certificates(variable: &str, path: &Path) -> Result<Vec<Certificate>, FetchError> {
    let invalid = |why: &str| invalid(variable, path, why);
    let pem = read(variable, path)?;
    let mut trusted = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| invalid("is damaged PEM"))?;
        let unusable = |_| invalid("holds a certificate that cannot be read");
        RootCertStore::empty()
            .add(certificate.clone())
            .map_err(unusable)?;
        trusted.push(
            Certificate::from_der(&certificate)
                .map_err(|_| invalid("holds a certificate that cannot be read"))?,
        );
    }
    match trusted.is_empty() {
        true => Err(invalid("holds no PEM certificate")),
        false => Ok(trusted),
    }
}

/// The certificates of all files directly in the folder; at least one file is required.
fn certificates_in(folder: &Path) -> Result<Vec<Certificate>, FetchError> {
    let variable = "VAULT_CAPATH";
    let unreadable =
        |error: std::io::Error| invalid(variable, folder, &format!("cannot be read: {error}"));
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    let mut trusted = Vec::new();
    for file in files {
        trusted.extend(certificates(variable, &file)?);
    }
    match trusted.is_empty() {
        true => Err(invalid(variable, folder, "has no file in it")),
        false => Ok(trusted),
    }
}

fn identity(cert: &Path, key: &Path) -> Result<Identity, FetchError> {
    let mut pem = read("VAULT_CLIENT_KEY", key)?;
    let cert_pem = read("VAULT_CLIENT_CERT", cert)?;
    // Allocated at full size: a vector that grows leaves copies of the key behind.
    let mut both = Zeroizing::new(Vec::with_capacity(pem.len() + 1 + cert_pem.len()));
    both.append(&mut pem);
    both.push(b'\n');
    both.extend_from_slice(&cert_pem);
    Identity::from_pem(&both).map_err(|_| {
        let why = format!(
            "and VAULT_CLIENT_KEY, {}, do not hold a certificate and its key as PEM",
            key.display()
        );
        invalid("VAULT_CLIENT_CERT", cert, &why)
    })
}

fn read(variable: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, FetchError> {
    let why = match read_file(path, MAX_PEM) {
        Ok(content) => return Ok(content.bytes),
        Err(ReadError::Missing) => "does not exist".to_owned(),
        Err(ReadError::NotAFile(what)) => format!("cannot be used: {what}"),
        Err(ReadError::TooLarge) => "is over 4 MiB".to_owned(),
        Err(ReadError::Io(error)) => format!("cannot be read: {error}"),
    };
    Err(invalid(variable, path, &why))
}

fn invalid(variable: &str, path: &Path, why: &str) -> FetchError {
    FetchError::lasting(format!("{variable}, {}, {why}", path.display()))
}
