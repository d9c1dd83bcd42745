//! The crypto provider of rustls, which every backend needs before it uses TLS. Knows no backend.

/// Installs `ring` as the crypto provider of rustls in this process, unless there is one.
///
/// reqwest and vaultrs are built without a provider of their own (`rustls-no-provider`), and panic if there is none.
pub(crate) fn install_crypto() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Fails if another thread was first, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
