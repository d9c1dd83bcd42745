//! What is in a view: whole values, the present ones, under the names of its definition.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

#[test]
fn a_file_of_a_view_follows_every_kind_of_change_even_under_a_name_that_is_open() {
    for env in MODES {
        let live = start_with(Setup {
            env: env.to_vec(),
            ..Setup::default()
        });
        write(&live, "secrets/A", "first");
        define(&live, "v", r#"{"secrets": ["*"]}"#);
        let changes_to = |value: &str, change: &dyn Fn()| {
            let held = File::open(view(&live, "v/A")).unwrap();
            change();
            assert_eq!(read(&live, "v/A"), value);
            drop(held);
        };
        changes_to("by echo", &|| drop(live.sh("echo 'by echo' > secrets/A")));
        changes_to("by mv", &|| {
            drop(live.sh("printf 'by mv' > secrets/.A; mv secrets/.A secrets/A"))
        });
        changes_to("by set", &|| {
            drop(cli(&live, &["set", "A", "by set"]).done())
        });
        changes_to("past the mount", &|| {
            drop(cli(&live, &["set", "--no-mount", "A", "past the mount"]).done());
        });
        changes_to("by bundle", &|| {
            live.sh("jq '.A = \"by bundle\"' bundle/secrets.json > bundle/.n && mv bundle/.n bundle/secrets.json");
        });
        let held = File::open(view(&live, "v/A")).unwrap();
        let store = live.home(".simpletuner/secrets.json");
        fs::write(live.home("new"), r#"{"A": "by an edit", "B": "b"}"#).unwrap();
        fs::rename(live.home("new"), store).unwrap();
        wait_until("the edit shows", || read(&live, "v/A") == "by an edit");
        drop(held);
        assert_eq!(names(&view(&live, "v")), ["A", "B"]);
        live.sh("rm secrets/A");
        assert!(!view(&live, "v/A").exists());
        assert_eq!(names(&view(&live, "v")), ["B"]);
    }
}

/// In a process of its own: while another thread of this one starts a program, that program has the written file open, too.
const STALE: &str = r#"
import os, sys
secret, view = sys.argv[1:]
before = b'before'
for i in range(300):
    new = str(i).encode() + b'.' * (i % 5 * 2000)
    writer = os.open(secret, os.O_WRONLY | os.O_TRUNC)
    os.write(writer, new)
    # Somebody looks the name up between the write and the close.
    assert open(view, 'rb').read() == before, 'too early'
    os.close(writer)
    assert (open(view, 'rb').read(), os.stat(view).st_size) == (new, len(new)), f'stale: {i}'
    before = new
"#;

#[test]
fn no_read_after_a_writers_close_is_stale() {
    for env in MODES {
        let live = start_with(Setup {
            env: env.to_vec(),
            ..Setup::default()
        });
        write(&live, "secrets/A", "before");
        define(&live, "v", r#"{"secrets": ["A"]}"#);
        let mut python = live.command("python3");
        python
            .args(["-c", STALE])
            .arg(live.path("secrets/A"))
            .arg(view(&live, "v/A"));
        let output = live.output_of(&mut python);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{env:?}: {said}");
    }
}

type ReadAll = fn(&Path) -> std::io::Result<Vec<u8>>;

fn read_mapped(path: &Path) -> std::io::Result<Vec<u8>> {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    let file = File::open(path)?;
    let len = file.metadata()?.len() as usize;
    // SAFETY: a private mapping of our own, of which each byte is copied before it is unmapped.
    unsafe {
        let start = mmap(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ,
            MapFlags::PRIVATE,
            &file,
            0,
        )?;
        let bytes = std::slice::from_raw_parts(start.cast::<u8>(), len).to_vec();
        munmap(start, len)?;
        Ok(bytes)
    }
}

fn read_in_pieces(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let (mut all, mut piece) = (Vec::new(), [0; 1000]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(all),
            count => all.extend_from_slice(&piece[..count]),
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_reader_in_a_view_gets_one_whole_value_beside_writers_of_several_kinds() {
    const LEN: usize = 20_000;
    for env in MODES {
        let live = start_with(Setup {
            env: env.to_vec(),
            ..Setup::default()
        });
        write(&live, "secrets/A", &"a".repeat(LEN));
        define(&live, "v", r#"{"secrets": ["A"]}"#);
        let (path, secret) = (view(&live, "v/A"), live.path("secrets/A"));
        let (ended, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let kinds: [ReadAll; 3] = [|path| fs::read(path), read_in_pieces, read_mapped];
            for kind in kinds {
                let (path, ended, reads) = (&path, &ended, &reads);
                scope.spawn(move || {
                    while !ended.load(Ordering::Relaxed) {
                        let bytes = kind(path).unwrap();
                        let is_whole = bytes.len() == LEN && bytes.iter().all(|b| *b == bytes[0]);
                        assert!(is_whole, "{} bytes", bytes.len());
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for round in 0..60 {
                let value = vec![b'a' + round % 20; LEN];
                match round % 3 {
                    0 => fs::write(&secret, &value).unwrap(),
                    1 => {
                        let mut file = OpenOptions::new()
                            .write(true)
                            .truncate(true)
                            .open(&secret)
                            .unwrap();
                        value
                            .chunks(3000)
                            .for_each(|piece| file.write_all(piece).unwrap());
                    }
                    _ => {
                        fs::write(live.path("secrets/.A"), &value).unwrap();
                        fs::rename(live.path("secrets/.A"), &secret).unwrap();
                    }
                }
            }
            wait_until("there were reads", || reads.load(Ordering::Relaxed) > 50);
            ended.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn an_open_file_keeps_its_value_and_size_after_a_change_and_after_the_view_was_removed() {
    let live = start();
    write(&live, "secrets/A", "old value");
    define(&live, "v", r#"{"secrets": ["A"]}"#);
    let mut cold = File::open(view(&live, "v/A")).unwrap();
    write(&live, "secrets/A", "new");
    kill_part(&live, "server_pid");
    live.sh("rm views/v.json");
    let mut read = String::new();
    cold.read_to_string(&mut read).unwrap();
    assert_eq!(
        (read.as_str(), cold.metadata().unwrap().len()),
        ("old value", 9)
    );
    cold.seek(SeekFrom::Start(4)).unwrap();
    read.clear();
    cold.read_to_string(&mut read).unwrap();
    assert_eq!(read, "value");
}

#[test]
fn hot_files_and_listings_are_read_while_no_server_answers() {
    let live = start();
    if live.json("status")["kernel"]["epoch"] != true {
        return eprintln!("skipped: this kernel keeps no names");
    }
    write(&live, "secrets/A", "value");
    define(&live, "v", r#"{"secrets": ["A"]}"#);
    let script = "cat v/A v/A; ls v; stat -c %s v/A";
    let look = |live: &Live| {
        let mut shell = live.command("sh");
        let output = live.output_of(shell.current_dir(view(live, "")).args(["-c", script]));
        String::from_utf8(output.stdout).unwrap()
    };
    let server = live.server_pid();
    // Another change may have ended all names just now.
    wait_until("the kernel has the names", || {
        look(&live);
        signal("STOP", server);
        let seen = look(&live);
        signal("CONT", server);
        seen == "valuevalueA\n5\n"
    });
}

#[test]
fn documents_have_the_secrets_of_their_view_under_the_names_of_its_files() {
    let live = start();
    write(&live, "secrets/A", "one");
    write(&live, "secrets/B", "two words\n");
    write(&live, "secrets/C", "three");
    define(
        &live,
        "v",
        r#"{"secrets": ["A"], "files": {"BEE": "B"}, "documents": ["env", "json"]}"#,
    );
    assert_eq!(
        names(&view(&live, "v")),
        ["A", "BEE", "secrets.env", "secrets.json"]
    );
    assert_eq!(read(&live, "v/secrets.env"), "A=one\nBEE='two words'\n");
    let json: serde_json::Value = serde_json::from_str(&read(&live, "v/secrets.json")).unwrap();
    assert_eq!(json, serde_json::json!({"A": "one", "BEE": "two words"}));
    write(&live, "secrets/A", "other");
    assert!(read(&live, "v/secrets.env").starts_with("A=other\n"));
    // The file holds the value, without the newline that an editor leaves.
    assert_eq!(read(&live, "v/BEE"), "two words");
}

#[test]
fn a_pattern_takes_names_as_they_are_written_and_of_the_environment_only_what_is_listed() {
    let live = start_with(Setup {
        env: vec![("HF_TOKEN", "listed"), ("OTHER", "not listed")],
        ..Setup::default()
    });
    write(&live, "secrets/A", "a");
    define(
        &live,
        "v",
        r#"{"secrets": ["*"], "files": {"named": "OTHER"}}"#,
    );
    assert_eq!(names(&view(&live, "v")), ["A", "HF_TOKEN", "named"]);
    assert_eq!(read(&live, "v/HF_TOKEN"), "listed");
    assert_eq!(read(&live, "v/named"), "not listed");
    for missing in ["OTHER", "hf-token", "a", "Z"] {
        assert!(!view(&live, "v").join(missing).exists(), "{missing}");
    }
}

#[test]
fn nothing_can_be_written_and_nothing_else_is_there() {
    let live = start();
    write(&live, "secrets/A", "a");
    define(&live, "v", r#"{"secrets": ["A"], "mode": "0444"}"#);
    let refused = |script: &str| {
        let mut shell = live.command("bash");
        let output = live.output_of(shell.current_dir(view(&live, "v")).args(["-c", script]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains("Read-only file system"),
            "{script}: {said}"
        );
    };
    for script in [
        "echo x > A",
        "echo x > B",
        "rm A",
        "mv A B",
        "mkdir x",
        "chmod 777 A",
        "ln -s A l",
        "touch A",
    ] {
        refused(script);
    }
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let views = view(&live, "");
    let place = format!(" {} ", views.display().to_string().trim_end_matches('/'));
    let options = table.lines().find(|line| line.contains(&place)).unwrap();
    for option in ["ro,", "nosuid", "nodev", "noexec", "default_permissions"] {
        assert!(options.contains(option), "{options}");
    }
    assert_eq!(
        fs::metadata(views).unwrap().permissions().mode() & 0o777,
        0o711
    );
    assert_eq!(names(&view(&live, "")), ["v"]);
}

#[test]
fn a_secret_that_a_slow_program_must_be_asked_for_delays_no_other_and_a_signal_ends_the_wait() {
    let live = start_with(Setup {
        files: vec![(
            "live.yaml",
            "command: [{name: slow, run: [sh, -c, 'until test -e \"$HOME/go\"; do sleep 0.05; done; echo late', sh, '{key}'], per_key: true, timeout: 60}]\n",
        )],
        ..Setup::default()
    });
    write(&live, "secrets/A", "a");
    define(&live, "v", r#"{"secrets": ["A", "SLOW"]}"#);
    let path = view(&live, "v/SLOW");
    let waiting = || {
        let mut cat = Command::new("cat");
        cat.arg(&path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let waits = |child: &std::process::Child| {
        wait_until("it waits", || support::waits_for_the_mount(child.id()));
    };
    let mut killed = waiting();
    waits(&killed);
    killed.kill().unwrap();
    wait_until("the killed one has ended", || {
        killed.try_wait().unwrap().is_some()
    });
    let reader = waiting();
    waits(&reader);
    assert_eq!(read(&live, "v/A"), "a");
    write(&live, "secrets/A", "changed");
    assert_eq!(read(&live, "v/A"), "changed");
    assert!(names(&view(&live, "v")).contains(&"A".to_owned()));
    assert!(!view(&live, "v/NO").exists());
    fs::write(live.home("go"), "").unwrap();
    let output = reader.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "late");
}

#[test]
fn a_failure_is_the_chains_and_a_damaged_value_fails_alone() {
    let live = start();
    write(&live, "secrets/A", "a");
    write(&live, "secrets/B", "b");
    define(&live, "v", r#"{"secrets": ["*"]}"#);
    live.sh(
        "jq '.A = .B[:-8]' ~/.simpletuner/secrets.json > ~/n && mv ~/n ~/.simpletuner/secrets.json",
    );
    let errno = || {
        File::open(view(&live, "v/A"))
            .err()
            .and_then(|error| error.raw_os_error())
    };
    wait_until("the damage shows", || errno() == Some(libc::EKEYREJECTED));
    assert_eq!(read(&live, "v/B"), "b");
}
