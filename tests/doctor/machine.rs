//! The machine: the device, the clock, disks, certificates. Each is broken in a namespace or for one process.

use super::*;
use support::home::is_root;

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
    patient.sh("echo v | simpletuner-live set A");
    patient.sh("fallocate -l 101900k .simpletuner/big; true");
    let found = patient.check("disk");
    found.is("failed", "is full");
    // Which file may go, a person must decide.
    let fix = found.finding("is full")["fix"].as_str().unwrap().to_owned();
    assert!(patient.sh(&fix).contains("big"));
    // SQLite may not be able to read them; they are whole.
    patient.sh("head -c 1m /dev/zero > .simpletuner/rest; true");
    let audit = patient.check("audit").0.to_string();
    assert!(!audit.contains("restore"), "{audit}");
    patient.sh("rm .simpletuner/big .simpletuner/rest");
    assert_eq!(patient.check("audit").status(), "ok");
    assert_eq!(patient.check("disk").status(), "ok");
    patient.sh("mount -t tmpfs -o nr_inodes=10,mode=700 none .simpletuner");
    patient
        .check("disk")
        .is("failed", "no room for another file");
    patient.sh("umount .simpletuner");
    patient.breaks("mount -o remount,ro .simpletuner", "disk", "is read-only");
    patient.sh("umount .simpletuner");
}

#[test]
fn a_file_of_authorities_that_is_missing_is_found() {
    let patient = Patient::healthy();
    let mut doctor = patient.command(BINARY);
    doctor
        .args(["doctor", "--json"])
        .env("SSL_CERT_FILE", "/nowhere.pem");
    let found = Report::of(ran(&mut doctor)).check("tls");
    found.is("failed", "SSL_CERT_FILE names");
    let fix = found.finding("SSL_CERT_FILE names")["fix"]
        .as_str()
        .unwrap();
    let script =
        format!("export SSL_CERT_FILE=/nowhere.pem; {fix}; exec simpletuner-live doctor --json");
    let after = Report::of(ran(patient.command("sh").args(["-c", &script])));
    assert_eq!(after.check("tls").status(), "ok");
}

/// Says that it is 1970 for as long as the file `$NO_TIME` is there.
const NO_TIME: &str = "#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    char *file = getenv(\"NO_TIME\");
    if (clock == CLOCK_REALTIME && file && access(file, F_OK) == 0) now->tv_sec = 3600;
    return failed;
}";

#[test]
fn a_clock_that_cannot_be_right_is_found_and_set() {
    let mut patient = Patient::healthy();
    patient.home.write("no_time.c", NO_TIME);
    // A test may not set the machine's clock, and here is no service manager that does, so that a stub does it.
    patient.sh("cc -shared -fPIC -o no_time.so no_time.c; touch no_time
        printf '#!/bin/sh\\n[ \"$*\" = \"set-ntp true\" ] && rm \"$NO_TIME\"' > bin/timedatectl; chmod 755 bin/timedatectl");
    let path = |name: &str| patient.home.path(name).display().to_string();
    patient.env = vec![
        ("LD_PRELOAD", path("no_time.so")),
        ("NO_TIME", path("no_time")),
    ];
    let after = patient.mends(
        "clock",
        "this machine's clock says 1970-01-01T01:00:00Z",
        str::to_owned,
    );
    assert_eq!(after.status(), "ok");
}

#[test]
fn an_old_kernel_is_a_warning_that_no_command_mends() {
    let patient = Patient::healthy();
    let mut old = patient.command("setarch");
    old.args(["--uname-2.6", BINARY, "doctor", "--json"]);
    let found = Report::of(ran(&mut old)).check("kernel");
    found.is("warning", "Linux 6.9 or newer does");
    assert!(found.finding("6.9")["fix"].is_null());
}

#[test]
fn a_machine_without_authorities_gets_them() {
    if !is_root() {
        return;
    }
    let patient = Patient::healthy();
    patient.home.write(
        ".simpletuner/live.yaml",
        "vault_url: https://127.0.0.1:1\ntimeout: {connect: 1, total: 1}\n",
    );
    // There is no network for apt, so a stub brings back what the package has.
    patient.sh("printf '#!/bin/sh\\n[ \"$*\" = \"install ca-certificates\" ] && umount /etc/ssl /usr/share/ca-certificates' > bin/apt
        chmod 755 bin/apt; mkdir none");
    let script = "cd \"$HOME\" && mount --bind none /etc/ssl && mount --bind none /usr/share/ca-certificates";
    let [before, after] = in_namespace(&patient, script, "tls");
    before.is("failed", "this machine has no certificates of authorities");
    assert_eq!(after.status(), "ok", "{}", after.0);
}
