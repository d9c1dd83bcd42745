//! Container engines that have views as volumes: real ones, each with a folder of its own. They need root and are skipped, with a
//! message, where an engine cannot be started.

mod cdi;
mod compose;
mod docker;
mod podman;
mod socket;
#[path = "../support/mod.rs"]
mod support;
mod whole_values;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::home::{CommandOutput, is_root, ran, signal};
use support::{Live, Setup, scratch_home, wait_until};

/// A mount that answers engines at a socket of its own.
struct Daemon {
    live: Live,
    socket: PathBuf,
}

impl Daemon {
    fn at(socket: PathBuf) -> Self {
        let settings = format!("docker: true\ndocker_socket: {}\n", socket.display());
        let live = Live::start_with(Setup {
            files: vec![(".simpletuner/live.yaml", &*settings)],
            ..Setup::default()
        });
        Self { live, socket }
    }

    /// At the name of this driver, where Docker looks for it.
    fn for_docker(driver: &str) -> Self {
        Self::at(Path::new("/run/docker/plugins").join(format!("{driver}.sock")))
    }

    fn set(&self, secret: &str, value: &str) {
        self.cli(&["set", secret, value]).done();
    }

    fn cli(&self, args: &[&str]) -> CommandOutput {
        ran(self.live.cli().args(args))
    }

    /// Kills a process of the mount, and waits for the next one.
    fn kill(&self, part: &str) {
        let pid = || self.live.json("status")[part].as_u64().unwrap() as u32;
        let before = pid();
        signal("KILL", before);
        wait_until("another process is there", || pid() != before);
    }
}

/// A name that no other run of this test has at the same time.
fn own_name(kind: &str) -> String {
    format!("simpletuner-test-{kind}-{}", std::process::id())
}

/// A folder with the root of a container: a shell, and what it is linked to.
fn make_root(folder: &Path) {
    const SCRIPT: &str = r#"
        set -e
        mkdir -p "$0"/bin "$0"/run "$0"/tmp "$0"/proc "$0"/dev "$0"/sys "$0"/etc
        busybox=$(command -v busybox)
        cp -L "$busybox" "$0"/bin/busybox
        { ldd "$busybox" 2> /dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do
            mkdir -p "$0$(dirname "$library")"
            cp -L "$library" "$0$library"
        done
        for name in sh cat ls id stat touch sleep; do ln -s busybox "$0"/bin/$name; done"#;
    let made = Command::new("bash")
        .args(["-c", SCRIPT])
        .arg(folder)
        .output();
    let made = made.unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
}

/// Prints each value that differs from the last one, and `failed` for a read that fails, for ever.
const READER: &str = r#"
    last=
    while :; do
        value=$(cat /run/secrets/HF_TOKEN) || echo failed
        [ "$value" = "$last" ] || echo "$value"
        last=$value
    done"#;
