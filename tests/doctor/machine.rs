//! The machine: the device, `fusermount3`, limits, disks, certificates. Each is broken in a namespace or for one process.

use super::*;
use support::home::is_root;
use support::user::User;

/// What `doctor` finds in a mount namespace of its own, after `script` there, and again after the command that `id` prints.
#[track_caller]
fn in_namespace(patient: &Patient, script: &str, id: &str) -> [Found; 2] {
    let fix = format!(
        "python3 -c 'import json, sys; checks = json.load(open(\"first\")); \
         print([f[\"fix\"] for c in checks if c[\"id\"] == \"{id}\" for f in c[\"findings\"] if f[\"fix\"]][0])'"
    );
    let script = format!(
        "mount --make-rprivate / && {script} && {{ simpletuner-live doctor --json > first; bash -c \"$({fix})\" >&2
         simpletuner-live doctor --json > second; true; }}"
    );
    ran(patient
        .command("unshare")
        .args(["-m", "bash", "-c", &script]))
    .done();
    ["first", "second"].map(|file| {
        let text = std::fs::read_to_string(patient.home.path(file)).unwrap();
        let checks: Vec<Value> = serde_json::from_str(&text).unwrap();
        Report { code: 0, checks }.check(id)
    })
}

#[test]
fn a_device_that_is_missing_or_another_is_found_and_made() {
    if !is_root() {
        return;
    }
    let patient = Patient::healthy();
    let dev = "mkdir dev && mount -t tmpfs none dev && mkdir dev/shm && mount --rbind /dev/shm dev/shm \
               && mknod -m 666 dev/null c 1 3 && mknod -m 666 dev/urandom c 1 9";
    let here = "mount --rbind dev /dev";
    let [before, after] = in_namespace(&patient, &format!("{dev} && {here}"), "device");
    before.is("failed", "there is no /dev/fuse");
    assert_eq!(after.status(), "ok", "{}", after.0);
    let other = format!("rmdir dev; {dev} && mknod -m 666 dev/fuse c 1 3 && {here}");
    let [before, after] = in_namespace(&patient, &other, "device");
    before.is("failed", "is not the device of FUSE");
    assert_eq!(after.status(), "ok", "{}", after.0);
}

#[test]
fn a_full_or_read_only_disk_is_found() {
    if !is_root() {
        return;
    }
    let patient = Patient::healthy();
    patient.sh("mount -t tmpfs -o size=100m none .simpletuner && chmod 700 .simpletuner");
    assert_eq!(patient.check("disk").status(), "ok");
    patient.sh("fallocate -l 60m .simpletuner/big");
    patient.check("disk").is("warning", "40 MiB left");
    patient.sh("fallocate -l 101900k .simpletuner/big; true");
    let found = patient.check("disk");
    found.is("failed", "is full");
    let fix = found.finding("is full")["fix"].as_str().unwrap().to_owned();
    assert!(patient.sh(&fix).contains("big"));
    patient.sh("rm .simpletuner/big");
    patient.breaks("mount -o remount,ro .simpletuner", "disk", "is read-only");
    patient.sh("umount .simpletuner");
}

#[test]
fn limits_that_are_too_low_are_found() {
    let patient = Patient::healthy();
    let with = |limit: &str| {
        let mut command = patient.command("prlimit");
        command.args([limit, BINARY, "doctor", "--json"]);
        Report::of(ran(&mut command))
    };
    with("--nofile=20:4096")
        .check("descriptors")
        .is("failed", "the limit of open files is 20");
    let few = with("--nofile=256:256").check("descriptors");
    few.is("warning", "may open 256 files at most");
    assert!(
        few.finding("256")["fix"]
            .as_str()
            .unwrap()
            .contains("nofile 65536")
    );
    if is_root() {
        let user = User::new("nobody");
        let program = user.scratch.path("program");
        let mut command = user.command("prlimit");
        command
            .arg("--memlock=65536")
            .arg(program)
            .args(["doctor", "--json"]);
        let few = Report::of(ran(&mut command)).check("memory");
        few.is("warning", "only 64 KiB may be locked");
        assert!(
            few.finding("64 KiB")["fix"]
                .as_str()
                .unwrap()
                .contains("memlock 32768")
        );
    }
}

#[test]
fn what_an_ordinary_user_needs_to_mount_is_found() {
    if !is_root() {
        return;
    }
    let user = User::new("nobody");
    let doctor = |variables: &[(&str, &str)]| {
        let mut command = user.command(user.scratch.path("program"));
        command
            .args(["doctor", "--json"])
            .envs(variables.iter().copied());
        Report::of(ran(&mut command))
    };
    doctor(&[])
        .check("fusermount")
        .is("ok", "mounts for this user");
    let missing = doctor(&[("FUSERMOUNT_PATH", "/nowhere/fusermount3")]).check("fusermount");
    assert_eq!(
        missing.finding("not installed")["fix"],
        "sudo apt install fuse3"
    );
    let weak = user.scratch.path("fusermount3");
    user.scratch
        .sh("install -m 755 \"$(command -v fusermount3)\" fusermount3");
    let path = weak.display().to_string();
    let found = doctor(&[("FUSERMOUNT_PATH", &path)]).check("fusermount");
    let fix = found.finding("is not set-user-id root")["fix"]
        .as_str()
        .unwrap()
        .replace("sudo ", "");
    user.scratch.sh(&fix);
    assert_eq!(
        doctor(&[("FUSERMOUNT_PATH", &path)])
            .check("fusermount")
            .status(),
        "ok"
    );
}

#[test]
fn an_ordinary_user_who_lets_others_in_needs_a_line_of_fuse_conf() {
    if !is_root() {
        return;
    }
    let patient = Patient::healthy();
    // The namespace keeps the machine's own file as it is. The user is not root, because only others need the line.
    patient.sh("chmod 755 . && install -m 755 \"$(readlink -f bin/simpletuner-live)\" program && touch fuse.conf && mkdir user \
         && echo 'allow_root: true' > user/live.yaml && chown -R nobody user && touch /etc/fuse.conf");
    let script = "mount --make-rprivate / && mount --bind fuse.conf /etc/fuse.conf
        look() { setpriv --reuid nobody --clear-groups ./program --config user/live.yaml doctor --json; }
        cd \"$HOME\"; export HOME=\"$HOME/user\"; look > first; cat first >&2; bash -c 'echo user_allow_other | sudo tee -a /etc/fuse.conf' >&2; look > second; true";
    ran(patient
        .command("unshare")
        .args(["-m", "bash", "-c", script]))
    .done();
    let of = |file: &str| {
        let text = std::fs::read_to_string(patient.home.path(file)).unwrap();
        let checks: Vec<Value> = serde_json::from_str(&text).unwrap();
        Report { code: 0, checks }.check("allow_other")
    };
    let before = of("first");
    before.is("failed", "root cannot be let in");
    assert_eq!(
        before.finding("root cannot")["fix"],
        "echo user_allow_other | sudo tee -a /etc/fuse.conf"
    );
    assert_eq!(of("second").status(), "ok");
}

#[test]
fn a_file_of_authorities_that_is_missing_is_found() {
    let patient = Patient::healthy();
    let mut doctor = patient.command(BINARY);
    doctor
        .args(["doctor", "--json"])
        .env("SSL_CERT_FILE", "/nowhere.pem");
    let found = Report::of(ran(&mut doctor)).check("tls");
    assert_eq!(
        found.finding("SSL_CERT_FILE names")["fix"],
        "unset SSL_CERT_FILE"
    );
    assert_eq!(patient.check("tls").status(), "ok");
}
