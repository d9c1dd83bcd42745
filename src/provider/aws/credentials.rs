//! The SDK's credentials, looked up once at a time, and what is wrong with the profile that they should come from.

use std::sync::Arc;

use aws_config::profile::{self, ProfileFileLoadError, ProfileSet};
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_types::os_shim_internal::{Env, Fs};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::failure::error_chain;

/// The lookup that runs: a program (`credential_process`), a log-in, the metadata of the machine.
pub(super) type RunningLookup = Arc<Mutex<Option<JoinHandle<provider::Result>>>>;

/// Looks credentials up once at a time. A lookup continues when its caller gives up, and answers the next caller: a
/// program that waits for its user is not started a second time.
#[derive(Debug)]
pub(super) struct SingleflightCredentials {
    pub(super) inner: SharedCredentialsProvider,
    pub(super) running: RunningLookup,
}

impl ProvideCredentials for SingleflightCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            let mut running = self.running.lock().await;
            let lookup = running.get_or_insert_with(|| {
                let inner = self.inner.clone();
                tokio::spawn(async move { inner.provide_credentials().await })
            });
            let ended = lookup.await;
            *running = None;
            let lost = |_| Err(CredentialsError::provider_error("it ended unexpectedly"));
            ended.unwrap_or_else(lost)
        })
    }
}

/// The files of profiles, and the active profile.
pub(super) async fn profiles() -> Result<ProfileSet, ProfileFileLoadError> {
    profile::load(&Fs::real(), &Env::real(), &Default::default(), None).await
}

/// What is wrong with the active profile; `None`: nothing that shows.
pub(super) async fn wrong_profile() -> Option<String> {
    match profiles().await {
        Err(error) => Some(format!(
            "the AWS configuration cannot be read ({}); fix that file, or name another in AWS_CONFIG_FILE or \
             AWS_SHARED_CREDENTIALS_FILE",
            error_chain(&error)
        )),
        Ok(set) => {
            let name = set.selected_profile();
            (name != "default" && set.get_profile(name).is_none()).then(|| {
                format!(
                    "the AWS configuration has no profile {name}; correct AWS_PROFILE, or write [profile {name}] into \
                     ~/.aws/config"
                )
            })
        }
    }
}
