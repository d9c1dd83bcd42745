//! Runs a program, one run at a time, each on a thread of its own. Knows what it is run with, and not what its output means.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::mask::Secrets;
use super::options::{CommandOptions, KEY};
use crate::child::{self, Finished, RunError, RunHandle};
use crate::error::in_words;
use crate::secret::{SecretBuffer, SecretName, SecretValue};
use crate::sync::{self, Condvar, LARGE_STACK, Mutex};

/// The variables that every program gets, if the daemon has them: whose it is, where its files are, in which language it speaks.
const VARIABLES: [&str; 8] = [
    "HOME", "PATH", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR",
];
/// And those that begin so.
const PREFIXES: [&str; 2] = ["LC_", "XDG_"];

/// Why there is no output.
pub(super) enum Failure {
    /// The program says that there is no such key or document.
    Missing(String),
    Failed(String),
}

/// A program, and its run.
pub(super) struct Runner {
    options: CommandOptions,
    turn: Turn,
    running: RunHandle,
    /// What it said last, so that it is logged once.
    last_said: Mutex<String>,
}

/// What a program printed.
pub(super) struct ProgramOutput {
    pub(super) output: SecretBuffer,
    errors: SecretBuffer,
    environment: Vec<SecretValue>,
}

impl ProgramOutput {
    /// What it said on its standard error, without these values and those of its variables.
    pub(super) fn masked_errors(&self, values: &[SecretValue]) -> String {
        if self.errors.as_bytes().is_empty() {
            return String::new();
        }
        let mut secrets = Secrets::default();
        let known = values.iter().chain(&self.environment);
        known.for_each(|value| secrets.add(value.as_str()));
        secrets.add_parts(self.output.as_bytes());
        secrets.masked(self.errors.as_bytes())
    }
}

impl Runner {
    pub(super) fn new(options: CommandOptions) -> Self {
        Self {
            options,
            turn: Turn::default(),
            running: RunHandle::default(),
            last_said: Mutex::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.options.name
    }

    pub(super) fn source(&self) -> String {
        self.options.shown()
    }

    pub(super) fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// The program, for messages.
    pub(super) fn program(&self) -> String {
        crate::text::printable(&self.options.run[0])
    }

    /// Ends the run, and lets no other one begin.
    pub(super) fn close(&self) {
        self.running.close();
    }

    /// Runs the program in the background, and then calls `done`, on any thread. If it is dropped instead, no thread could be
    /// started.
    pub(super) fn start(
        self: &Arc<Self>,
        key: Option<&SecretName>,
        done: impl FnOnce(Result<ProgramOutput, Failure>) + Send + 'static,
    ) {
        let (runner, key) = (self.clone(), key.cloned());
        let run = move || done(runner.run(key.as_ref()));
        // Another user's program may be found on a disk that hangs, so neither the backends' thread nor a reader's does this.
        if let Err(error) = sync::spawn("command", LARGE_STACK, run) {
            tracing::warn!(
                "cannot start a thread that runs {}: {error}",
                self.program()
            );
        }
    }

    /// Logs what the program said, unless it said the same the last time.
    pub(super) fn log(&self, said: String) {
        let mut last = self.last_said.lock();
        if *last != said && !said.is_empty() {
            tracing::info!("the {} provider's program says: {said}", self.name());
        }
        *last = said;
    }

    fn run(&self, key: Option<&SecretName>) -> Result<ProgramOutput, Failure> {
        let program = self.program();
        let failed = |why: String| Failure::Failed(why);
        let Some(_turn) = self.turn.take(self.options.timeout) else {
            let seconds = self.options.timeout.as_secs_f64();
            return Err(failed(format!(
                "{program} was busy with other keys for {seconds} s (setting timeout of this command)"
            )));
        };
        let search = std::env::var_os("PATH");
        let path =
            child::find(Path::new(&self.options.run[0]), search.as_deref()).map_err(failed)?;
        let environment = self.environment();
        let mut command = Command::new(path);
        command
            .arg0(&self.options.run[0])
            .args(self.arguments(key))
            .current_dir(&self.options.folder)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)));
        let ended = child::run(&mut command, self.options.timeout, &self.running);
        let ended = ended.map_err(|stopped| failed(self.why(&program, stopped)))?;
        let Finished {
            status,
            output,
            errors,
        } = ended;
        let is_named = |(name, _): &&(OsString, OsString)| self.is_named(name);
        let named = environment.iter().filter(is_named);
        let printed = ProgramOutput {
            output,
            errors,
            environment: named
                .filter_map(|(_, value)| Some(SecretValue::new(value.to_str()?)))
                .collect(),
        };
        match status.success() {
            true => Ok(printed),
            false => Err(self.failure(&program, status, &printed, key)),
        }
    }

    /// What an exit code or a signal means.
    fn failure(
        &self,
        program: &str,
        status: ExitStatus,
        printed: &ProgramOutput,
        key: Option<&SecretName>,
    ) -> Failure {
        let said = printed.masked_errors(&[]);
        let said = match said.as_str() {
            "" => "and said nothing on its standard error".to_owned(),
            said => format!("and said: {said}"),
        };
        let errors = String::from_utf8_lossy(printed.errors.as_bytes());
        let missing = self.options.missing.as_ref();
        if missing.is_some_and(|missing| errors.contains(missing)) {
            return Failure::Missing(format!("{program} has no such secret, {said}"));
        }
        let ended = match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => {
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
                format!("was killed by {name}")
            }
            (None, None) => "ended".to_owned(),
        };
        let asked = key
            .map(|key| format!(", asked for {key},"))
            .unwrap_or_default();
        let unset = self.options.env.iter();
        let unset = unset.filter(|name| std::env::var_os(name).is_none());
        let unset: String = unset
            .map(|name| format!("; the process that mounted had no variable {name}"))
            .collect();
        Failure::Failed(format!("{program}{asked} {ended}, {said}{unset}"))
    }

    fn why(&self, program: &str, stopped: RunError) -> String {
        match stopped {
            RunError::TimedOut => format!(
                "{program} was killed after {} s (setting timeout of this command)",
                self.options.timeout.as_secs_f64()
            ),
            RunError::TooLarge => format!("{program} printed more than 1 MiB, and was killed"),
            RunError::Closed => format!("{program} was killed, because the mount ends"),
            RunError::NotStarted(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => format!(
                    "{program} cannot be started: the interpreter in its first line, or the folder {}, does not exist",
                    self.options.folder.display()
                ),
                _ => format!("{program} cannot be started: {}", in_words(&error)),
            },
        }
    }

    /// A key begins with a letter, a digit or `_`, so it is never taken for an option where it is a word of its own.
    fn arguments(&self, key: Option<&SecretName>) -> impl Iterator<Item = String> {
        let arguments = self.options.run.iter().skip(1);
        arguments.map(move |word| match key {
            Some(key) => word.replace(KEY, key.as_str()),
            None => word.clone(),
        })
    }

    fn environment(&self) -> Vec<(OsString, OsString)> {
        let all = std::env::vars_os();
        all.filter(|(name, _)| is_common(name) || self.is_named(name))
            .collect()
    }

    fn is_named(&self, name: &OsStr) -> bool {
        self.options.env.iter().any(|named| name == named.as_str())
    }
}

fn is_common(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    let begins = |prefix: &str| bytes.starts_with(prefix.as_bytes());
    VARIABLES.iter().any(|variable| name == *variable) || PREFIXES.into_iter().any(begins)
}

/// One at a time.
#[derive(Default)]
struct Turn {
    is_taken: Mutex<bool>,
    freed: Condvar,
}

struct Taken<'a>(&'a Turn);

impl Turn {
    /// Waits for the turn, at most so long.
    fn take(&self, timeout: Duration) -> Option<Taken<'_>> {
        let until = Instant::now() + timeout;
        let mut is_taken = self.is_taken.lock();
        while *is_taken {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            is_taken = self.freed.wait_timeout(is_taken, left);
        }
        *is_taken = true;
        Some(Taken(self))
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.0.is_taken.lock() = false;
        self.0.freed.notify_one();
    }
}
