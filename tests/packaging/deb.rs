//! The Debian package: built by `scripts/package` from the program under test, installed, upgraded under readers, removed and
//! purged in a mount namespace of its own, where the system's folders are copies (overlayfs).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::support::home::{BINARY, Home, is_root};

/// The folders of programs, with that of the cargo-deb that scripts/test-tools installs, which names the same version.
fn path() -> String {
    let tools = std::env::var("SIMPLETUNER_LIVE_TEST_TOOLS").unwrap_or_default();
    let path = std::env::var("PATH").unwrap();
    format!("{path}:{tools}/cargo-deb-3.8.0/bin")
}

/// The package, and one of a higher version, built once. `None`: there is no cargo-deb.
pub fn packages() -> Option<&'static [PathBuf; 2]> {
    static PACKAGES: OnceLock<Option<[PathBuf; 2]>> = OnceLock::new();
    let all = PACKAGES.get_or_init(|| {
        let has_tool = Command::new("cargo")
            .args(["deb", "--version"])
            .env("PATH", path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        has_tool
            .is_ok_and(|status| status.success())
            .then(|| ["1", "2"].map(package))
    });
    if all.is_none() {
        eprintln!("skipped: there is no cargo-deb (cargo install --locked cargo-deb)");
    }
    all.as_ref()
}

/// Builds the package of this revision.
fn package(revision: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("package-{revision}"));
    let output = Command::new("scripts/package")
        .args(["--no-build", "--debug", "--revision", revision, "--out"])
        .arg(&folder)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env(
            "CARGO_TARGET_DIR",
            Path::new(BINARY).ancestors().nth(2).unwrap(),
        )
        .env("PATH", path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap().trim().into()
}

const IN_A_COPY: &str = r#"
set -eu
trap 'exit 1' TERM
exec 2>&1
here=$PWD
for folder in usr etc var; do
    mkdir -p "copy/$folder" "work/$folder"
    mount -t overlay overlay -o "lowerdir=/$folder,upperdir=$here/copy/$folder,workdir=$here/work/$folder" "/$folder" || exit 77
done
say() { echo "== $*"; }
as_user() { setpriv --reuid nobody --regid nogroup --clear-groups env -i PATH="$PATH" HOME="$here/home" LC_ALL=C "$@"; }
live=$here/home/.simpletuner/live
mkdir home && chown nobody:nogroup home && chmod 755 .
umount_all() {
    touch ended
    for mount in "$live" "$here/home/other" "$here/roots"; do umount -l "$mount" || true; done
}
trap umount_all EXIT

say install
dpkg -i "$1"
[ -x /usr/bin/simpletuner-live ]
as_user simpletuner-live mount
as_user sh -c 'printf value > ~/.simpletuner/live/secrets/KEY'
# Another program of the user's, whose mount is not the package's.
install -m 755 /usr/bin/simpletuner-live program
as_user "$here/program" mount "$here/home/other"
mkdir root-home
env -i PATH="$PATH" HOME="$here/root-home" simpletuner-live mount "$here/roots"
program_of() { stat -Lc %i "/proc/$(as_user jq .server_pid "$1/status")/exe"; }
before=$(program_of "$live")
other=$(program_of "$here/home/other")

say upgrade
as_user bash -c '
    exec 9< ~/.simpletuner/live/secrets/KEY
    until [ -e ended ]; do
        read -r value < ~/.simpletuner/live/secrets/KEY || true
        [ "$value" = value ] && echo >> ~/reads || echo >> ~/failures
    done' &
until [ -s home/reads ]; do sleep 0.1; done
dpkg -i "$2"
count=$(wc -l < home/reads)
until [ "$(wc -l < home/reads)" -gt "$count" ]; do sleep 0.1; done
[ ! -e home/failures ]
[ "$(program_of "$live")" = "$(stat -c %i /usr/bin/simpletuner-live)" ]
[ "$(program_of "$live")" != "$before" ]
[ "$(program_of "$here/home/other")" = "$other" ]

say remove
dpkg -r simpletuner-live
[ ! -e /usr/bin/simpletuner-live ]
# The mount outlives the package, and each of its processes.
server=$(as_user jq .server_pid "$live/status")
kill -KILL "$server"
[ "$(as_user cat "$live/secrets/KEY")" = value ]
[ "$(as_user jq .server_pid "$live/status")" != "$server" ]
touch ended
wait $!
[ ! -e home/failures ]

say purge
dpkg -i "$2"
dpkg -P simpletuner-live
umount "$live"
find /usr /etc /var/lib/dpkg -path '*simpletuner-live*' -not -path '/usr/src/*' | sed 's/^/left: /'
ls home/.simpletuner/secrets.json home/.simpletuner/credential.key | sed 's/^/kept: /'
as_user "$here/program" get KEY --no-mount
"#;

#[test]
fn a_package_is_upgraded_under_readers_and_its_removal_takes_nobodys_secrets() {
    if !is_root() {
        eprintln!("skipped: it needs root");
        return;
    }
    let home = Home::new();
    let Some([one, two]) = packages() else {
        return;
    };
    let [one, two] = [one, two].map(|path| path.to_str().unwrap());

    let files = home.sh(&format!("dpkg-deb -c {one}"));
    for file in [
        "usr/bin/simpletuner-live",
        "usr/share/man/man1/simpletuner-live-get.1.gz",
        "usr/share/man/man5/simpletuner-live.yaml.5.gz",
        "usr/lib/systemd/user/simpletuner-live.service",
        "usr/lib/systemd/system/simpletuner-live@.service",
        "usr/share/bash-completion/completions/simpletuner-live",
        "usr/share/zsh/vendor-completions/_simpletuner-live",
        "usr/share/fish/vendor_completions.d/simpletuner-live.fish",
        "usr/share/doc/simpletuner-live/copyright",
        "usr/share/doc/simpletuner-live/changelog.Debian.gz",
        "usr/share/doc/simpletuner-live/docs/operation.md",
    ] {
        let is_it = |line: &str| line.ends_with(&format!("./{file}"));
        let line = files.lines().find(|line| is_it(line));
        let line = line.unwrap_or_else(|| panic!("{file} is missing:\n{files}"));
        assert!(
            line.contains(" root/root ") || line.contains(" 0/0 "),
            "{line}"
        );
        let mode = if file.contains("/bin/") {
            "-rwxr-xr-x"
        } else {
            "-rw-r--r--"
        };
        assert!(line.starts_with(mode), "{line}");
    }
    // The package does not decide who may use allow_other.
    assert!(!files.contains("./etc/"), "{files}");
    home.sh(&format!("dpkg-deb -f {one} Depends | grep -q fuse3"));
    let copyright = home.sh(&format!(
        "dpkg-deb --fsys-tarfile {one} | tar -xO ./usr/share/doc/simpletuner-live/copyright"
    ));
    for part in [
        "the maintainers of simpletuner-live",
        "Brian Smith",
        "The Rust Project Developers",
    ] {
        assert!(copyright.contains(part), "{part}");
    }
    home.sh(&format!(
        "dpkg-deb -x {one} x; systemd-analyze verify --man=no x/usr/lib/systemd/user/simpletuner-live.service 2>&1 | grep -v -e 'not executable' -e 'Unit configuration has fatal error' | grep simpletuner-live.service: && exit 1
         grep -qx 'ExecReload=/usr/bin/simpletuner-live upgrade' x/usr/lib/systemd/system/simpletuner-live@.service
         grep -qx 'User=%i' x/usr/lib/systemd/system/simpletuner-live@.service
         zgrep -q '^.TH SIMPLETUNER-LIVE-GET 1 20' x/usr/share/man/man1/simpletuner-live-get.1.gz"
    ));

    let output = home
        .command("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "bash",
            "-c",
            IN_A_COPY,
            "test",
            one,
            two,
        ])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(77) {
        eprintln!("skipped: there is no overlayfs here");
        return;
    }
    assert!(output.status.success(), "{said}");
    let part = |name: &str| {
        let part = said.split(&format!("== {name}\n")).nth(1);
        let part = part.unwrap_or_else(|| panic!("{name}: {said}"));
        part.split("== ").next().unwrap()
    };
    let live = home.path("home/.simpletuner/live");
    let live = live.display();
    assert!(!part("install").contains("live of nobody"), "{said}");
    let upgrade = part("upgrade");
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        upgrade.contains(&format!("{live} of nobody: {version}")),
        "{said}"
    );
    assert!(
        upgrade.contains(&format!("roots of root: {version}")),
        "{said}"
    );
    assert!(
        upgrade.contains("other of nobody: left as it is, because it runs "),
        "{said}"
    );
    assert!(
        part("remove").contains(&format!("    umount {live}\n")),
        "{said}"
    );
    assert!(part("remove").contains("these mounts go on"), "{said}");
    let purge = part("purge");
    assert!(
        purge.contains("what users have in ~/.simpletuner stays"),
        "{said}"
    );
    assert!(!purge.contains("left: "), "{said}");
    assert!(
        purge.matches("kept: ").count() == 2 && purge.contains("\nvalue"),
        "{said}"
    );
}
