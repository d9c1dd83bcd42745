//! The one thing all backends need before they speak TLS: a crypto provider for rustls. Knows no backend.

/// Makes `ring` the crypto provider of rustls in this process, unless it has one.
///
/// reqwest and vaultrs are built without a provider of their own (`rustls-no-provider`), and panic when they meet none.
pub(crate) fn install_crypto() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Another thread may have been first, which does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
