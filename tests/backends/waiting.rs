//! Which operations wait for a backend, and how waiting ends.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use super::*;
use crate::servers::proxy::Fault;

/// Those of the shell's children that wait in the mount.
fn waiting_children(shell: &Child) -> Vec<u32> {
    let children = format!("/proc/{0}/task/{0}/children", shell.id());
    let children = std::fs::read_to_string(children).unwrap_or_default();
    let waits = |pid: &u32| waits_for_the_mount(*pid);
    let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    children.filter(waits).collect()
}

/// A shell with so many readers of a key, all of which wait.
fn readers(live: &Live, count: usize, key: &str) -> Child {
    let script = format!("for i in {{1..{count}}}; do cat secrets/{key} & done; wait");
    let shell = spawn(live, &script);
    let mut waiting = 0;
    while waiting < count {
        // A thousand programs take a busy machine long to start.
        wait_until("more of them wait", || {
            let now = waiting_children(&shell).len();
            let more = now > waiting;
            waiting = now;
            more
        });
    }
    shell
}

/// Hundreds of processes take a busy machine longer to start than a call may take.
const PATIENT: &str = "timeout: {total: 600}\n";

fn threads(live: &Live) -> usize {
    let tasks = format!("/proc/{}/task", live.server_pid());
    std::fs::read_dir(tasks).unwrap().count()
}

#[test]
fn a_thousand_cold_readers_cost_one_call() {
    let world = World::new();
    let live = world.mount(PATIENT);
    world.aws.set(Fault::Hold);
    let before = threads(&live);
    let shell = readers(&live, 1000, "IN_AWS");
    assert!(threads(&live) < before + 10);
    assert_eq!(world.aws.requests(), 1);
    world.aws.set(Fault::None);
    let output = ended(shell);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.stdout, b"a".repeat(1000));
    assert_eq!(world.aws.requests(), 1);
}

/// The client's own limit, which this crate turns off, is at five seconds and more.
#[test]
fn a_slow_answer_is_waited_for_as_long_as_the_setting_says() {
    let world = World::new();
    let live = world.mount(PATIENT);
    world.aws.set(Fault::Hold);
    let reader = readers(&live, 1, "IN_AWS");
    std::thread::sleep(Duration::from_secs(8));
    world.aws.set(Fault::None);
    let output = ended(reader);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.stdout, b"a");
    assert_eq!(world.aws.requests(), 1);
}

#[test]
fn a_thousand_reads_in_flight_survive_twenty_killed_servers() {
    let world = World::new();
    let live = world.mount(PATIENT);
    world.aws.set(Fault::Hold);
    let shell = readers(&live, 1000, "IN_AWS");
    for _ in 0..20 {
        let server = live.server_pid();
        signal("KILL", server);
        wait_until("another one answers", || live.server_pid() != server);
    }
    assert_eq!(waiting_children(&shell).len(), 1000);
    world.aws.set(Fault::None);
    let output = ended(shell);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.stdout, b"a".repeat(1000));
}

#[test]
fn an_exclusive_create_waits_until_it_is_known_whether_the_name_is_there() {
    let world = World::new();
    let live = world.mount("");
    world.aws.set(Fault::Hold);
    let create = |live: &Live, name| {
        let program = format!("open('secrets/{name}', 'x').write('mine')");
        let creator = spawn(live, &format!("exec python3 -c \"{program}\""));
        wait_until("it waits", || waits_for_the_mount(creator.id()));
        creator
    };
    let creator = create(&live, "NEW");
    world.aws.set(Fault::None);
    let made = ended(creator);
    assert!(made.status.success(), "{made:?}");
    assert_eq!(live.read("secrets/NEW"), "mine");

    let live = world.mount("");
    world.aws.set(Fault::Hold);
    let creator = create(&live, "IN_AWS");
    world.aws.set(Fault::None);
    let said = String::from_utf8(ended(creator).stderr).unwrap();
    assert!(said.contains("FileExistsError"), "{said}");
    assert_eq!(live.read("secrets/IN_AWS"), "a");
}

#[test]
fn an_exclusive_create_succeeds_in_an_outage_if_no_provider_is_known_to_have_the_name() {
    let world = World::new();
    world.aws.set(Fault::Refuse);
    world.vault.set(Fault::Refuse);
    let live = world.mount(PATIENT);
    done(&live, "set -C; echo mine > secrets/NEW");
    assert_eq!(live.read("secrets/NEW"), "mine");
    assert!(refused(&live, "set -C; echo other > secrets/IN_FILE").contains("cannot overwrite"));
}

#[test]
fn readers_that_wait_for_a_backend_on_a_cold_start_delay_no_other() {
    let world = World::new();
    let live = world.mount("");
    world.aws.set(Fault::Hold);
    world.vault.set(Fault::Hang);
    let reader = readers(&live, 1, "IN_AWS");
    assert_eq!(done(&live, "ls secrets"), "IN_ALL\nIN_FILE\n");
    assert_eq!(done(&live, "ls -l secrets | wc -l"), "3\n");
    assert_eq!(done(&live, "cat secrets/IN_FILE"), "f");
    done(
        &live,
        "echo new > secrets/NEW; [ \"$(<secrets/NEW)\" = new ]",
    );
    // `mv` first looks the new name up, which waits for the backends; the system call itself does not wait.
    done(
        &live,
        "python3 -c 'import os; os.rename(\"secrets/NEW\", \"secrets/NEWER\")'",
    );
    done(
        &live,
        "mv -T secrets/NEWER secrets/IN_FILE; [ \"$(<secrets/IN_FILE)\" = new ]",
    );
    // The very key that is waited for.
    done(
        &live,
        "echo mine > secrets/IN_BOTH; [ \"$(<secrets/IN_BOTH)\" = mine ]",
    );
    done(&live, "rm secrets/IN_BOTH secrets/IN_FILE");
    for control in [
        "status",
        "metrics",
        "events",
        "cache/stats",
        "providers/aws",
        "hardware/all.json",
    ] {
        assert!(!done(&live, &format!("cat {control}")).is_empty());
    }
    done(
        &live,
        "echo provider: > cache/invalidate; cat cache/invalidate",
    );
    assert_eq!(waiting_children(&reader).len(), 1);
    world.aws.set(Fault::None);
    assert_eq!(ended(reader).stdout, b"a");
    assert_eq!(world.aws.requests(), 1);
}

#[test]
fn a_slow_backend_does_not_delay_reads_of_cached_values() {
    let world = World::new();
    let live = world.mount("");
    assert_eq!(done(&live, "cat secrets/IN_AWS secrets/IN_VAULT"), "av");
    world.aws.set(Fault::Hold);
    done(&live, "echo secret:IN_BOTH > cache/invalidate");
    let reader = readers(&live, 1, "IN_BOTH");
    let held = "cat secrets/IN_AWS secrets/IN_VAULT secrets/IN_FILE";
    assert_eq!(done(&live, held), "avf");
    assert_eq!(done(&live, "ls secrets | wc -l"), "5\n");
    assert_eq!(done(&live, "stat -c %s secrets/IN_BOTH"), "1\n");
    world.aws.set(Fault::None);
    assert_eq!(ended(reader).stdout, b"a");
}

#[test]
fn signals_end_hundreds_of_waiting_readers() {
    let world = World::new();
    let live = world.mount(PATIENT);
    world.aws.set(Fault::Hang);
    for (signal, number) in [("INT", 2), ("TERM", 15), ("KILL", 9)] {
        // A shell that waits does not let its children have a terminal's interrupt.
        let mut shell = spawn(
            &live,
            "exec python3 -c '
import signal, subprocess
# Ignored in the background jobs of a shell, such as these tests.
signal.signal(signal.SIGINT, signal.SIG_DFL)
ended = [subprocess.Popen([\"cat\", \"secrets/IN_AWS\"]) for _ in range(200)]
print([-one.wait() for one in ended])'",
        );
        let mut waiting = Vec::new();
        wait_until("all of them wait", || {
            waiting = waiting_children(&shell);
            waiting.len() == 200
        });
        let waiting: Vec<String> = waiting.iter().map(u32::to_string).collect();
        let mut kill = std::process::Command::new("kill");
        assert!(
            kill.args(["-s", signal])
                .args(waiting)
                .status()
                .unwrap()
                .success()
        );
        wait_until("all have ended", || shell.try_wait().unwrap().is_some());
        let output = shell.wait_with_output().unwrap();
        let wanted = format!("{:?}\n", vec![number; 200]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), wanted);
    }
    // One by one, as from a keyboard.
    let reader = spawn(&live, "exec cat secrets/IN_AWS");
    wait_until("it waits", || waits_for_the_mount(reader.id()));
    let group = format!("-{}", reader.id());
    let mut kill = std::process::Command::new("kill");
    assert!(
        kill.args(["-s", "INT", "--", &group])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(ended(reader).status.signal(), Some(2));
    assert_eq!(world.aws.requests(), 1);
}

#[test]
fn a_call_that_hangs_times_out_with_an_error() {
    let world = World::new();
    let live = world.mount("timeout: {total: 1}\n");
    world.aws.set(Fault::Hang);
    let said = refused(&live, "cat secrets/IN_AWS");
    assert!(said.contains("Input/output error"), "{said}");
    let said = live.json("providers/aws")["last_error"].to_string();
    assert!(
        said.contains("within 1 s (setting timeout.total)"),
        "{said}"
    );
    // Others go on as if nothing were.
    assert_eq!(done(&live, "cat secrets/IN_VAULT secrets/IN_FILE"), "vf");
    world.aws.set(Fault::None);
    wait_until("AWS answers again", || {
        ended(spawn(&live, "cat secrets/IN_AWS")).stdout == b"a"
    });
}

#[test]
fn unmounting_does_not_wait_for_a_backend() {
    let world = World::new();
    let live = world.mount("");
    world.aws.set(Fault::Hang);
    let reader = readers(&live, 3, "IN_AWS");
    // Readers still waiting when the daemon ends get an error.
    drop(live.stop());
    assert_eq!(ended(reader).stdout, b"");
}
