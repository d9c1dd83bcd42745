//! The variables that a mount takes over from a command: as the text that is written to `reload`, and for the mount's next
//! processes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::setup::absolute_variable;
use crate::error::{Error, Result};

/// What the text begins with.
const FIRST: &str = "environment\0";
/// The most bytes of variables that a mount takes over: it passes them on in one message.
pub(super) const MAX_VARIABLES: usize = 128 * 1024;
/// These stay the mount's own: where its files are, and what a service manager has set.
const KEPT: [&str; 10] = [
    "HOME",
    "NOTIFY_SOCKET",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "FDSTORE",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
];

/// All variables of a process, `NAME=value` each, with a NUL behind it. Zeroed when dropped.
#[derive(Clone, Serialize, Deserialize)]
pub struct Environment(String);

impl Drop for Environment {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Environment {
    /// That of this process. Paths are absolute, because the mount's processes have another working folder. Also returns the names of
    /// variables that are left out, because they are not UTF-8.
    pub fn of_this_process() -> (Self, Vec<OsString>) {
        let (mut text, mut left_out) = (String::new(), Vec::new());
        for (name, value) in std::env::vars_os() {
            let value = absolute_variable(&name, &value).unwrap_or(value);
            match (name.to_str(), value.to_str()) {
                (Some(name), Some(value)) => text.extend([name, "=", value, "\0"]),
                _ => left_out.push(name),
            }
        }
        (Self(text), left_out)
    }

    /// The text to write to `reload`.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub(super) fn to_request(&self) -> Result<zeroize::Zeroizing<String>> {
        self.ensure_size()?;
        Ok(zeroize::Zeroizing::new(format!("{FIRST}{}", self.0)))
    }

    fn ensure_size(&self) -> Result<()> {
        match self.0.len() > MAX_VARIABLES {
            true => Err(Error::TooLarge {
                what: "the environment (all variables together)".into(),
                limit: MAX_VARIABLES,
            }),
            false => Ok(()),
        }
    }

    /// What was written to `reload`: nothing but white space, or variables as well.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::TooLarge`].
    pub(super) fn from_request(request: &[u8]) -> Result<Option<Self>> {
        let malformed = |reason: &str| Error::Malformed {
            what: "reload".into(),
            reason: reason.into(),
        };
        let text = str::from_utf8(request).map_err(|_| malformed("it is not UTF-8 text"))?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        let variables = text.strip_prefix(FIRST).ok_or_else(|| {
            malformed("write a line end to have live.yaml read anew; for the variables, too, type `simpletuner-live reload --env`")
        })?;
        let is_variable = |line: &str| line.find('=').is_some_and(|at| at > 0);
        let mut lines = variables.split_terminator('\0');
        match variables.ends_with('\0') && lines.all(is_variable) {
            true => {
                let environment = Self(variables.to_owned());
                environment.ensure_size()?;
                Ok(Some(environment))
            }
            false => Err(malformed("a variable has no name")),
        }
    }

    /// Gives a command these variables, and those that stay the mount's own.
    pub(super) fn give_to(&self, command: &mut Command) {
        command.env_clear();
        for line in self.0.split_terminator('\0') {
            if let Some((name, value)) = line.split_once('=')
                && !KEPT.contains(&name)
            {
                command.env(OsStr::from_bytes(name.as_bytes()), value);
            }
        }
        command.envs(
            KEPT.iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_white_space_or_variables() {
        assert!(Environment::from_request(b"\n").unwrap().is_none());
        for bad in [
            &b"now"[..],
            b"\xff",
            b"environment\0",
            b"environment\0=x\0",
            b"environment\0A=1",
        ] {
            assert_eq!(
                Environment::from_request(bad).err().unwrap().errno(),
                libc::EINVAL
            );
        }
        let request = b"environment\0A=1=2\nx\0B=\0HOME=/elsewhere\0";
        let environment = Environment::from_request(request).unwrap().unwrap();
        assert_eq!(environment.to_request().unwrap().as_bytes(), request);
        let long = format!("environment\0A={}\0", "x".repeat(MAX_VARIABLES));
        let refused = Environment::from_request(long.as_bytes()).err().unwrap();
        assert_eq!(refused.errno(), libc::EFBIG);
        let mut command = Command::new("true");
        environment.give_to(&mut command);
        let given: Vec<_> = command.get_envs().collect();
        let has = |name: &str, value: &str| given.contains(&(name.as_ref(), Some(value.as_ref())));
        assert!(has("A", "1=2\nx") && has("B", ""), "{given:?}");
        assert!(!has("HOME", "/elsewhere"));
    }
}
