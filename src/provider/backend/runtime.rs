//! One thread for all that waits for the network, started when it is first needed. Knows no backend.

use std::sync::Mutex;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::task::AbortHandle;

use crate::error::{Error, Result};

/// The runtime that all backends of this process share.
///
/// # Errors
/// [`Error::Io`] where its thread cannot be started; the next call tries again.
pub(super) fn runtime() -> Result<Handle> {
    static RUNTIME: Mutex<Option<Handle>> = Mutex::new(None);
    let mut running = RUNTIME.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(handle) = &*running {
        return Ok(handle.clone());
    }
    let failed = |error| Error::io("starting the thread that asks backends", error);
    let runtime = Builder::new_current_thread()
        .enable_all()
        // For names that must be resolved and files of credentials that must be read.
        .max_blocking_threads(8)
        .thread_keep_alive(Duration::from_secs(5))
        .build()
        .map_err(failed)?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("backends".to_owned())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))
        .map_err(failed)?;
    Ok(running.insert(handle).clone())
}

/// What calls something later, unless it is dropped before.
pub(in crate::provider) struct Timer(Option<AbortHandle>);

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Calls `call` after some time, on the thread that asks backends.
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
