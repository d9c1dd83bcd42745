//! The systemd unit that keeps a mount: systemd.service(5), and systemd.exec(5) for what a mount can bear.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The unit's name.
pub const UNIT: &str = "simpletuner-live.service";

/// Whose service it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This user's, run by the user's own service manager.
    User,
    /// The machine's, run for this user.
    System {
        /// Whom it runs as.
        user: String,
    },
}

/// What the service starts.
#[derive(Clone, Debug)]
pub struct Service {
    /// Whose it is.
    pub scope: Scope,
    /// The program.
    pub program: PathBuf,
    /// The arguments after `mount --foreground`.
    pub arguments: Vec<std::ffi::OsString>,
    /// The arguments after `upgrade`.
    pub upgrade_arguments: Vec<std::ffi::OsString>,
}

/// The words of a command line, quoted as systemd reads them.
fn words<'a>(words: impl Iterator<Item = &'a OsStr>) -> Result<String> {
    let mut line = String::new();
    for word in words {
        let Some(word) = word.to_str().filter(|word| !word.contains(['\n', '\0'])) else {
            let word = word.to_string_lossy();
            return Err(Error::Settings(format!(
                "{word:?} cannot stand in a systemd unit"
            )));
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:@+,~".contains(c);
        if !line.is_empty() {
            line.push(' ');
        }
        if !word.is_empty() && word.chars().all(is_plain) {
            line.push_str(word);
            continue;
        }
        line.push('"');
        for c in word.chars() {
            match c {
                '"' | '\\' => line.extend(['\\', c]),
                '%' | '$' => line.extend([c, c]),
                c => line.push(c),
            }
        }
        line.push('"');
    }
    Ok(line)
}

impl Service {
    /// The text of the unit.
    ///
    /// # Errors
    /// [`Error::Settings`] where a path cannot be written there.
    pub fn unit(&self) -> Result<String> {
        let command = |verb: &[&'static str], arguments: &[std::ffi::OsString]| {
            let program = std::iter::once(self.program.as_os_str());
            let verb = verb.iter().map(OsStr::new);
            let arguments = arguments.iter().map(|argument| argument.as_os_str());
            let all: Vec<&OsStr> = program.chain(verb).chain(arguments).collect();
            words(all.into_iter())
        };
        let start = command(&["mount", "--foreground"], &self.arguments)?;
        let upgrade = command(&["upgrade"], &self.upgrade_arguments)?;
        let mut unit = format!(
            "# Made by `simpletuner-live install-service`.\n\
             # A mount that others are to see bears nothing that gives the service a mount namespace of its own\n\
             # (ProtectSystem=, ProtectHome=, PrivateTmp=, PrivateDevices=, ReadWritePaths=, ...).\n\
             [Unit]\n\
             Description=SimpleTuner's secrets as files\n\
             StartLimitIntervalSec=60\n\
             StartLimitBurst=10\n\
             \n\
             [Service]\n\
             Type=notify\n\
             # Whichever of its two processes is left speaks for the service, and may change places with the other.\n\
             NotifyAccess=all\n\
             ExitType=cgroup\n\
             ExecStart={start}\n\
             # `systemctl reload` changes to the program now on disk; the mount and all that is open in it stay.\n\
             ExecReload={upgrade}\n\
             # One of the two may be killed, and the service lives on; a mount that was ended is not made anew.\n\
             SuccessExitStatus=SIGKILL SIGABRT SIGSEGV SIGBUS SIGILL SIGFPE\n\
             Restart=always\n\
             RestartPreventExitStatus=0\n\
             RestartSec=100ms\n\
             # The mount itself is kept here, and outlives the end of both processes.\n\
             FileDescriptorStoreMax=4\n\
             TimeoutStopSec=30\n\
             UMask=0077\n\
             LimitCORE=0\n"
        );
        match &self.scope {
            Scope::User => unit.push_str(
                "# NoNewPrivileges=, and what implies it for a user, would take fusermount3 its right to mount.\n",
            ),
            Scope::System { user } => {
                writeln!(unit, "User={user}").map_err(|e| Error::Settings(e.to_string()))?;
                unit.push_str(if user == "root" {
                    "OOMScoreAdjust=-500\n\
                     DevicePolicy=closed\n\
                     DeviceAllow=/dev/fuse rw\n\
                     CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_SYS_PTRACE CAP_KILL CAP_IPC_LOCK\n\
                     LockPersonality=yes\n\
                     MemoryDenyWriteExecute=yes\n\
                     RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n\
                     RestrictRealtime=yes\n\
                     RestrictSUIDSGID=yes\n\
                     SystemCallArchitectures=native\n"
                } else {
                    "OOMScoreAdjust=-500\n\
                     # NoNewPrivileges=, and what implies it here, would take fusermount3 its right to mount.\n"
                });
            }
        }
        unit.push_str(match self.scope {
            Scope::User => "\n[Install]\nWantedBy=default.target\n",
            Scope::System { .. } => "\n[Install]\nWantedBy=multi-user.target\n",
        });
        Ok(unit)
    }

    /// Where it is to lie: below `home` for a user's own.
    pub fn path(&self, home: &Path, config_home: Option<&Path>) -> PathBuf {
        let folder = match self.scope {
            Scope::User => config_home
                .map_or_else(|| home.join(".config"), Path::to_owned)
                .join("systemd/user"),
            Scope::System { .. } => "/etc/systemd/system".into(),
        };
        folder.join(UNIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_systemd_reads_them() {
        let all = [
            "/usr/bin/x",
            "a b",
            "100%",
            "$HOME",
            "say \"hi\"",
            "back\\slash",
            "",
        ];
        assert_eq!(
            words(all.into_iter().map(OsStr::new)).unwrap(),
            r#"/usr/bin/x "a b" "100%%" "$$HOME" "say \"hi\"" "back\\slash" """#
        );
        assert!(words([OsStr::new("two\nlines")].into_iter()).is_err());
    }
}
