//! A program in this process's place, or as its child: with variables of its own, and else with what the caller gave this
//! process. Knows no secret's name and no mount.

mod inherited;
mod supervise;

use std::ffi::{CString, OsStr, OsString, c_char};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::secret::SecretBuffer;
pub(crate) use inherited::{is_output_closed, record as record_inherited};
pub(crate) use supervise::{End, Restarts, supervise};

/// A variable for the program, which replaces one of this process.
pub(crate) struct Variable {
    pub(crate) name: String,
    /// Without a NUL.
    pub(crate) value: Zeroizing<Vec<u8>>,
}

/// A program with its arguments and its whole environment. The environment is in locked memory.
pub(crate) struct Launch {
    arguments: Vec<CString>,
    /// `NAME=VALUE` and a NUL, one after another.
    environment: SecretBuffer,
    /// Where each of them begins.
    starts: Vec<usize>,
}

impl Launch {
    /// `command`: the program, found as execvp(3) does, and its arguments. `variables` are added to those of this process.
    ///
    /// # Errors
    /// There is no program, or a NUL in one of these texts.
    pub(crate) fn new(command: &[OsString], variables: &[Variable]) -> io::Result<Self> {
        let arguments = command
            .iter()
            .map(|word| Ok(CString::new(word.clone().into_vec())?));
        let arguments = arguments.collect::<io::Result<Vec<_>>>()?;
        if arguments.is_empty() || variables.iter().any(|one| one.value.contains(&0)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let is_replaced = |name: &OsStr| {
            let mut variables = variables.iter();
            variables.any(|variable| name == variable.name.as_str())
        };
        let kept: Vec<(OsString, OsString)> = std::env::vars_os()
            .filter(|(name, _)| !is_replaced(name))
            .collect();
        let kept = kept
            .iter()
            .map(|(name, value)| (name.as_encoded_bytes(), value.as_encoded_bytes()));
        let added = variables
            .iter()
            .map(|variable| (variable.name.as_bytes(), &**variable.value));
        let all: Vec<(&[u8], &[u8])> = kept.chain(added).collect();
        let mut environment = SecretBuffer::new(&[]);
        // At once, because a buffer that grows is copied.
        environment.set_len(
            all.iter()
                .map(|(name, value)| name.len() + value.len() + 2)
                .sum(),
        );
        let (mut starts, mut end) = (Vec::with_capacity(all.len()), 0);
        for (name, value) in all {
            starts.push(end);
            for piece in [name, b"=", value, b"\0"] {
                environment.write_at(end, piece);
                end += piece.len();
            }
        }
        Ok(Self {
            arguments,
            environment,
            starts,
        })
    }

    /// The program as it was named.
    pub(crate) fn program(&self) -> String {
        let program = self.arguments.first();
        program.map_or_else(String::new, |program| {
            program.to_string_lossy().into_owned()
        })
    }

    /// Runs the program in this process's place. Returns only if that fails.
    pub(crate) fn exec(&self) -> io::Error {
        let pointers = self.pointers();
        inherited::restore();
        let error = pointers.exec();
        // A closed pipe is an error again, and no signal.
        inherited::ignore_broken_pipes();
        error
    }

    /// Starts the program as a child, which ends with this process.
    ///
    /// # Errors
    /// Those of fork(2) and execve(2).
    fn spawn(self: &Arc<Self>, own_group: bool) -> io::Result<Child> {
        let (launch, pointers) = (self.clone(), self.pointers());
        // Only a name: the program is executed before `Command` would do it.
        let mut command = Command::new(self.program());
        if own_group {
            command.process_group(0);
        }
        let parent = Some(rustix::process::getpid());
        let begin = move || {
            let end = Some(rustix::process::Signal::TERM);
            rustix::process::set_parent_process_death_signal(end)?;
            if rustix::process::getppid() != parent {
                // It ended before, so no signal comes.
                return Err(io::ErrorKind::Interrupted.into());
            }
            inherited::restore();
            let _ = &launch;
            Err(pointers.exec())
        };
        // SAFETY: `begin` allocates nothing, takes no lock, and calls only what is allowed between fork and exec.
        unsafe { command.pre_exec(begin) };
        command.spawn()
    }

    /// The arrays that execve(2) takes, which end with a null pointer.
    fn pointers(&self) -> Pointers {
        let arguments = self.arguments.iter().map(|argument| argument.as_ptr());
        let texts = self.environment.as_bytes();
        let variables = self
            .starts
            .iter()
            .map(|start| texts[*start..].as_ptr().cast());
        Pointers {
            arguments: arguments.chain([std::ptr::null()]).collect(),
            environment: variables.chain([std::ptr::null()]).collect(),
        }
    }
}

/// Into the texts of a [`Launch`], which must outlive them.
struct Pointers {
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
}
// SAFETY: what they point to is not changed.
unsafe impl Send for Pointers {}
unsafe impl Sync for Pointers {}

impl Pointers {
    /// Async-signal-safe.
    fn exec(&self) -> io::Error {
        let (arguments, environment) = (self.arguments.as_ptr(), self.environment.as_ptr());
        // SAFETY: both arrays end with a null pointer, as does each text with a NUL.
        unsafe { libc::execvpe(*arguments, arguments, environment) };
        io::Error::last_os_error()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_replaces_one_of_this_process_and_a_nul_is_refused() {
        let variable = |name: &str, value: &[u8]| Variable {
            name: name.to_owned(),
            value: Zeroizing::new(value.to_vec()),
        };
        let variables = [variable("PATH", b"a b\n"), variable("NEW", b"")];
        let launch = Launch::new(&["x".into()], &variables).unwrap();
        let texts: Vec<&[u8]> = launch
            .environment
            .as_bytes()
            .split(|byte| *byte == 0)
            .collect();
        let paths = texts.iter().filter(|text| text.starts_with(b"PATH="));
        assert_eq!(paths.collect::<Vec<_>>(), [b"PATH=a b\n"]);
        assert!(texts.contains(&&b"NEW="[..]));
        assert!(Launch::new(&["x".into()], &[variable("A", b"a\0b")]).is_err());
        assert!(Launch::new(&[], &[]).is_err());
    }
}
