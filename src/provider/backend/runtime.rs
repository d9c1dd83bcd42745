//! The thread that waits for the network, for all backends; started at its first use. Knows no backend.

use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::task::AbortHandle;

use crate::error::{Error, Result};
use crate::sync::{self, LARGE_STACK, Mutex};

/// The runtime of all backends in this process.
///
/// # Errors
/// [`Error::Io`] if its thread cannot be started; the next call tries again.
pub(in crate::provider) fn runtime() -> Result<Handle> {
    static RUNTIME: Mutex<Option<Handle>> = Mutex::new(None);
    let mut running = RUNTIME.lock();
    if let Some(handle) = &*running {
        return Ok(handle.clone());
    }
    let failed = |error| Error::io("starting the thread that calls backends", error);
    let runtime = Builder::new_current_thread()
        .enable_all()
        // For resolving host names and reading files of credentials.
        .thread_name("backends-block")
        .max_blocking_threads(8)
        .thread_keep_alive(Duration::from_secs(5))
        .build()
        .map_err(failed)?;
    let handle = runtime.handle().clone();
    let run = move || runtime.block_on(std::future::pending::<()>());
    sync::spawn("backends", LARGE_STACK, run).map_err(failed)?;
    Ok(running.insert(handle).clone())
}

/// A pending call, cancelled when dropped.
pub(in crate::provider) struct Timer(Option<AbortHandle>);

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Calls `call` after some time, on the thread that calls backends.
pub(in crate::provider) fn after(time: Duration, call: impl FnOnce() + Send + 'static) -> Timer {
    let task = runtime().map(|runtime| {
        let wait = async move {
            tokio::time::sleep(time).await;
            call();
        };
        runtime.spawn(wait).abort_handle()
    });
    if let Err(error) = &task {
        tracing::warn!("{error}");
    }
    Timer(task.ok())
}
