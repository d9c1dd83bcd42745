//! The files that Vault's variables name: certificates to trust, and the client's own. Knows no address.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::VaultTls;
use crate::error::in_words;
use crate::provider::backend::FetchError;
use crate::provider::backend::tls::{TlsOptions, certificates, invalid, read_pem};

/// Reads the files now.
///
/// # Errors
/// Names the file that cannot be read or holds no certificate, and its variable.
pub(super) fn read(options: &VaultTls) -> Result<TlsOptions, FetchError> {
    if options.skip_verify {
        tracing::warn!(
            "VAULT_SKIP_VERIFY is set: any server at Vault's address is accepted as Vault, and gets the token"
        );
    }
    let name = options.server_name.as_ref().map(|name| {
        ServerName::try_from(name.clone())
            .map_err(|_| FetchError::lasting("VAULT_TLS_SERVER_NAME is not the name of a server"))
    });
    Ok(TlsOptions {
        trusted: match (&options.ca_file, &options.ca_folder) {
            // The order of Vault's own command line.
            (Some(file), _) => certificates("VAULT_CACERT", file)?,
            (None, Some(folder)) => certificates_in(folder)?,
            (None, None) => Vec::new(),
        },
        client: match &options.client {
            Some((cert, key)) => Some(identity(cert, key)?),
            None => None,
        },
        server_name: name.transpose()?,
        skip_verify: options.skip_verify,
    })
}

/// The certificates of all files directly in the folder; at least one file is required.
fn certificates_in(folder: &Path) -> Result<Vec<CertificateDer<'static>>, FetchError> {
    let variable = "VAULT_CAPATH";
    let unreadable = |error: std::io::Error| {
        invalid(
            variable,
            folder,
            &format!("cannot be read: {}", in_words(&error)),
        )
    };
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

fn identity(
    cert: &Path,
    key: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), FetchError> {
    let chain = certificates("VAULT_CLIENT_CERT", cert)?;
    let pem = read_pem("VAULT_CLIENT_KEY", key)?;
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(key) => Ok((chain, key)),
        Err(_) => Err(invalid("VAULT_CLIENT_KEY", key, "holds no key as PEM")),
    }
}
