//! Programs of the user's that give secrets: each prints one flat JSON object, or the value of one key at a time. Knows no
//! program, and caches nothing.
//!
//! - `options`: the settings
//! - `runner`: one run at a time, its environment, and what went wrong
//! - `diagnosis`: what `doctor` asks of the programs
//! - `mask`: what a program says, without values

mod diagnosis;
mod mask;
mod options;
mod runner;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::backend::{Backend, BackendDocument, BackendOptions, BackendProvider};
use super::backend::{FetchError, Fetched, Fetching};
use super::{BackendKind, ChainLink, KeyedProvider, KeyedSource, Provided, Provider};
use crate::error::{Error, Result};
use crate::secret::{MAX_VALUE, SecretName, SecretValue};
use crate::settings::{BackendSettings, Settings, as_options};
use options::Commands;
use runner::{Failure, Runner};

pub use options::CommandOptions;

pub(super) const KIND: BackendKind = BackendKind {
    name: "command",
    settings: BackendSettings {
        title: "Programs",
        switch: "command",
        read: |reader, settings| Ok(as_options(Commands::read(reader, settings)?)),
    },
    credentials: &[],
    paths: &[],
    open: |settings, options| {
        let commands = settings.backend::<Commands>().into_iter();
        let commands = commands.flat_map(|Commands(commands)| commands);
        commands
            .map(|command| link(command.clone(), options.clone()))
            .collect()
    },
    diagnose: |settings, asking| {
        let Commands(commands) = settings.backend::<Commands>()?;
        let commands = commands.clone();
        Some(Box::pin(diagnosis::diagnose(commands, asking.may_log_in)))
    },
    policy: |_| None,
};

/// The variables that the programs get besides the common ones.
pub fn variables(settings: &Settings) -> Vec<String> {
    let commands = settings.backend::<Commands>().into_iter();
    let commands = commands.flat_map(|Commands(commands)| commands);
    commands.flat_map(|command| command.env.clone()).collect()
}

/// How much longer than the program a fetch may take, so that the error that names the program comes first.
const MARGIN: Duration = Duration::from_secs(2);
/// How long a key is not asked for again after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

fn link(command: CommandOptions, options: BackendOptions) -> Result<ChainLink> {
    let priority = command.priority;
    let provider: Arc<dyn Provider> = match command.per_key {
        true => {
            let source = KeyedCommand::new(command);
            Arc::new(KeyedProvider::new(
                Arc::new(source),
                options.ttl,
                options.max_stale,
            ))
        }
        false => {
            let timeout = command.timeout + MARGIN;
            let backend = CommandBackend::new(command);
            Arc::new(BackendProvider::new(
                backend,
                BackendOptions { timeout, ..options },
            )?)
        }
    };
    Ok(ChainLink { provider, priority })
}

/// A program that prints all its secrets as one flat JSON object.
pub struct CommandBackend(Arc<Runner>);

impl CommandBackend {
    /// The backend. Runs nothing yet.
    pub fn new(options: CommandOptions) -> Self {
        Self(Arc::new(Runner::new(options)))
    }

    async fn fetch_document(&self) -> Result<Fetched, FetchError> {
        let (send, receive) = tokio::sync::oneshot::channel();
        self.0.start(None, move |printed| drop(send.send(printed)));
        let lost = |_| Err(Failure::Failed("its thread ended unexpectedly".to_owned()));
        let printed = match receive.await.unwrap_or_else(lost) {
            Ok(printed) => printed,
            Err(Failure::Missing(why)) => return Ok(Fetched::Missing(why)),
            Err(Failure::Failed(why)) => return Err(FetchError::lasting(why)),
        };
        let wrong = |why: &str| {
            let program = self.0.program();
            FetchError::lasting(format!(
                "{program}: {why}; it must print one flat JSON object of names and texts"
            ))
        };
        if printed.output.as_bytes().trim_ascii().is_empty() {
            self.0.log(printed.masked_errors(&[]));
            return Err(wrong("it printed nothing"));
        }
        let document = BackendDocument::parse(printed.output.as_bytes());
        let document = document.map_err(|why| {
            self.0.log(printed.masked_errors(&[]));
            wrong(&why)
        })?;
        let values: Vec<SecretValue> = document.values().cloned().collect();
        self.0.log(printed.masked_errors(&values));
        Ok(Fetched::Document {
            document,
            changed_at: None,
        })
    }
}

impl Backend for CommandBackend {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn source(&self) -> String {
        self.0.source()
    }

    fn fetch(&self) -> Fetching<'_> {
        Box::pin(self.fetch_document())
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.0.close();
        Box::pin(async {})
    }
}

/// A program that prints the value of one key.
pub struct KeyedCommand(Arc<Runner>);

impl KeyedCommand {
    /// The source. Runs nothing yet.
    pub fn new(options: CommandOptions) -> Self {
        Self(Arc::new(Runner::new(options)))
    }

    fn unavailable(&self, reason: String) -> Error {
        Error::Unavailable {
            provider: self.0.name().to_owned(),
            reason,
        }
    }
}

impl KeyedSource for KeyedCommand {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn source(&self) -> String {
        self.0.source()
    }

    fn retry_pause(&self) -> Duration {
        RETRY_PAUSE
    }

    fn get(&self, name: &SecretName) -> Result<Option<Provided>> {
        let (send, receive) = std::sync::mpsc::channel();
        self.0
            .start(Some(name), move |printed| drop(send.send(printed)));
        // Its turn, and the run.
        let within = self.0.timeout() * 2 + MARGIN;
        let printed = match receive.recv_timeout(within) {
            Ok(Ok(printed)) => printed,
            Ok(Err(Failure::Missing(_))) => return Ok(None),
            Ok(Err(Failure::Failed(why))) => return Err(self.unavailable(why)),
            Err(_) => {
                let program = self.0.program();
                return Err(
                    self.unavailable(format!("{program} does not end although it was killed"))
                );
            }
        };
        let bytes = printed.output.as_bytes();
        if bytes.is_empty() {
            self.0.log(printed.masked_errors(&[]));
            return Ok(None);
        }
        let wrong = |why: &str| {
            self.0.log(printed.masked_errors(&[]));
            let program = self.0.program();
            Err(self.unavailable(format!("{program}, asked for {name}: {why}")))
        };
        if bytes.len() > MAX_VALUE {
            return wrong("its value is over 64 KiB");
        }
        let Ok(value) = std::str::from_utf8(bytes) else {
            return wrong("its value is not UTF-8 text");
        };
        let value = SecretValue::new(value).without_newline();
        self.0
            .log(printed.masked_errors(std::slice::from_ref(&value)));
        Ok(Some(Provided::now(value, SystemTime::now())))
    }

    fn close(&self) {
        self.0.close();
    }
}
