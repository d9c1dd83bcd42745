//! The systemd unit that keeps a mount (systemd.service(5), systemd.exec(5)). It uses only hardening options that work
//! with FUSE: none that creates a mount namespace, none that implies `NoNewPrivileges=` where `fusermount3` mounts.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The name of the systemd unit.
pub const UNIT: &str = "simpletuner-live.service";

/// The service manager that runs the service: the user's or the machine's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The user's own service manager.
    User,
    /// The machine's service manager, which runs the service for a user.
    System {
        /// The user that the service runs as.
        user: String,
    },
}

/// The service that keeps a mount.
#[derive(Clone, Debug)]
pub struct Service {
    /// Which service manager runs it.
    pub scope: Scope,
    /// The program.
    pub program: PathBuf,
    /// The arguments after `mount --foreground`.
    pub arguments: Vec<std::ffi::OsString>,
    /// The arguments after `upgrade`.
    pub upgrade_arguments: Vec<std::ffi::OsString>,
    /// The folder below `/run` that the service manager makes for the user, and removes in the end.
    pub runtime_folder: Option<PathBuf>,
}

/// The folder below `/run` in which an ordinary user's mount point is to be. Only root may make it, and `/run` is empty after each
/// boot. `None`: the mount point is not below `/run`.
///
/// # Errors
/// [`Error::Settings`]: the mount point would be such a folder itself. The service manager changes its mode at each start, also
/// while it is the root of a mount, where it may not.
pub fn runtime_folder(mount_point: &Path) -> Result<Option<PathBuf>> {
    let run = ["/run", "/var/run"];
    let below = run
        .iter()
        .find_map(|run| mount_point.strip_prefix(run).ok());
    let Some(below) = below.filter(|below| !below.starts_with("user")) else {
        return Ok(None);
    };
    match below.parent() {
        Some(folder) if folder != Path::new("") => Ok(Some(folder.to_owned())),
        _ => Err(Error::Settings(format!(
            "only root may make {}; choose a folder in one of its own, which the service manager makes: {}",
            mount_point.display(),
            mount_point.join("live").display()
        ))),
    }
}

/// A command line for a unit, its words quoted as systemd reads them.
fn command_line<'a>(words: impl Iterator<Item = &'a OsStr>) -> Result<String> {
    let mut line = String::new();
    for word in words {
        let Some(word) = word.to_str().filter(|word| !word.contains(['\n', '\0'])) else {
            let word = word.to_string_lossy();
            return Err(Error::Settings(format!(
                "a systemd unit cannot contain the path {word:?}"
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
    /// [`Error::Settings`] if a unit cannot contain a path.
    pub fn unit(&self) -> Result<String> {
        let command = |verb: &[&'static str], arguments: &[std::ffi::OsString]| {
            let program = std::iter::once(self.program.as_os_str());
            let verb = verb.iter().map(OsStr::new);
            let arguments = arguments.iter().map(|argument| argument.as_os_str());
            let all: Vec<&OsStr> = program.chain(verb).chain(arguments).collect();
            command_line(all.into_iter())
        };
        let start = command(&["mount", "--foreground"], &self.arguments)?;
        let upgrade = command(&["upgrade"], &self.upgrade_arguments)?;
        let mut unit = format!(
            "# Made by `simpletuner-live install-service`.\n\
             # No option here may give the service a mount namespace, which would hide the mount from all others\n\
             # (ProtectSystem=, ProtectHome=, PrivateTmp=, PrivateDevices=, ReadWritePaths=, ...).\n\
             [Unit]\n\
             Description=SimpleTuner's secrets as files\n\
             StartLimitIntervalSec=60\n\
             StartLimitBurst=10\n\
             \n\
             [Service]\n\
             Type=notify\n\
             # Keeper and server replace each other, so either may be the main process.\n\
             NotifyAccess=all\n\
             ExitType=cgroup\n\
             ExecStart={start}\n\
             # `systemctl reload` upgrades to the program now on disk; the mount and its open files stay.\n\
             ExecReload={upgrade}\n\
             # The service survives a killed process; after an unmount it is not started again.\n\
             SuccessExitStatus=SIGKILL SIGABRT SIGSEGV SIGBUS SIGILL SIGFPE\n\
             Restart=always\n\
             RestartPreventExitStatus=0\n\
             RestartSec=100ms\n\
             # systemd stores the mount's device here, so that the mount survives even if both processes end.\n\
             FileDescriptorStoreMax=4\n\
             TimeoutStopSec=30\n\
             UMask=0077\n\
             LimitCORE=0\n"
        );
        match &self.scope {
            Scope::User => unit.push_str(
                "# With NoNewPrivileges=, or an option that implies it, fusermount3 could not mount.\n",
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
                     # With NoNewPrivileges=, or an option that implies it, fusermount3 could not mount.\n"
                });
            }
        }
        if let Some(folder) = &self.runtime_folder {
            let folder = command_line(std::iter::once(folder.as_os_str()))?;
            writeln!(
                unit,
                "# The mount may outlive a restart in this folder.\n\
                 RuntimeDirectory={folder}\n\
                 RuntimeDirectoryMode=0700\n\
                 RuntimeDirectoryPreserve=restart"
            )
            .map_err(|e| Error::Settings(e.to_string()))?;
        }
        unit.push_str(match self.scope {
            Scope::User => "\n[Install]\nWantedBy=default.target\n",
            Scope::System { .. } => "\n[Install]\nWantedBy=multi-user.target\n",
        });
        Ok(unit)
    }

    /// The unit's path: below `home` or `config_home` for a user's own service.
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
            command_line(all.into_iter().map(OsStr::new)).unwrap(),
            r#"/usr/bin/x "a b" "100%%" "$$HOME" "say \"hi\"" "back\\slash" """#
        );
        assert!(command_line([OsStr::new("two\nlines")].into_iter()).is_err());
    }
}
