//! Real tools on the mount behave as they do in an ordinary folder.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use support::{Live, Setup, alone, wait_until};

const PEM: &str =
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n";

/// Runs each script and compares its output.
fn said(live: &Live, cases: &[(&str, &str)]) {
    for (script, wanted) in cases {
        assert_eq!(live.sh(script), *wanted, "{script}");
    }
}

#[test]
fn shells_write_and_read_secrets() {
    let _alone = alone();
    let live = Live::start();
    said(
        &live,
        &[
            ("echo one > secrets/K; cat secrets/K", "one\n"),
            ("printf %s two > secrets/K; cat secrets/K", "two"),
            ("printf 'a\\nb\\n' > secrets/K; cat secrets/K", "a\nb\n"),
            ("echo v > secrets/K; echo $(cat secrets/K)", "v\n"),
            ("echo \"$(<secrets/K)\"", "v\n"),
            ("read -r line < secrets/K || true; echo $line", "v\n"),
            (": > secrets/K; cat secrets/K; stat -c %s secrets/K", "0\n"),
            (
                "printf a > secrets/K; printf b >> secrets/K; cat secrets/K",
                "ab",
            ),
            (
                "echo x | tee -a secrets/K > /dev/null; cat secrets/K",
                "abx\n",
            ),
            ("echo x | tee secrets/K secrets/L", "x\n"),
            ("cat secrets/K secrets/L", "x\nx\n"),
            ("cat > secrets/K <<< here; cat secrets/K", "here\n"),
            ("echo new | cat > secrets/NEW; cat secrets/NEW", "new\n"),
            (
                "set -C; echo no 2>&- > secrets/K || echo kept; cat secrets/K",
                "kept\nhere\n",
            ),
        ],
    );
}

#[test]
fn a_pipeline_into_its_own_standard_output_ends() {
    let _alone = alone();
    let live = Live::start();
    live.sh("timeout 20 sh -c 'echo x | tee /dev/stdout > secrets/K'");
    assert!(live.read("secrets/K").contains('x'));
}

#[test]
fn files_are_copied_in_and_out_and_moved() {
    let _alone = alone();
    let live = Live::start();
    fs::write(live.home("pem"), PEM).unwrap();
    live.sh("chmod 600 ~/pem; touch -d '2020-01-02 03:04:05 UTC' ~/pem");
    live.sh("cp ~/pem secrets/A; cmp ~/pem secrets/A");
    live.sh("cp secrets/A ~/out; cmp ~/pem ~/out");
    live.sh("cp -p ~/pem secrets/B; cmp ~/pem secrets/B; cp -p secrets/B ~/back; cmp ~/pem ~/back");
    said(
        &live,
        &[(
            "stat -c '%Y %a' secrets/B ~/back",
            "1577934245 600\n1577934245 600\n",
        )],
    );
    live.sh(
        "cp secrets/A secrets/C; mv secrets/C secrets/D; cmp ~/pem secrets/D; ! test -e secrets/C",
    );
    live.sh("mv secrets/D secrets/A; ! test -e secrets/D");
    live.sh("mv ~/out secrets/A; ! test -e ~/out; cmp ~/pem secrets/A");
    live.sh("mv secrets/A ~/moved; ! test -e secrets/A; cmp ~/pem ~/moved");
    live.sh("install -m 600 ~/pem secrets/I; cmp ~/pem secrets/I; install -m 600 ~/pem secrets/I");
    live.sh("mv -n secrets/I secrets/B 2>/dev/null || true; test -e secrets/I; test -e secrets/B");
    live.sh("rm secrets/I; ! test -e secrets/I; ! rm secrets/I 2>/dev/null; rm -f secrets/I");
    said(&live, &[("ls secrets", "B\n")]);
}

#[test]
fn files_are_edited_in_place_and_no_scratch_file_stays() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/K", "one two");
    live.sh("sed -i s/one/three/ secrets/K");
    assert_eq!(live.read("secrets/K"), "three two");
    live.sh("sed -i.bak~ s/three/four/ secrets/K; rm secrets/K.bak~");
    assert_eq!(live.read("secrets/K"), "four two");
    live.sh("timeout 60 vim -es -u NONE -c '%s/four/five/' -c wq secrets/K");
    assert_eq!(live.read("secrets/K"), "five two\n");
    live.sh("printf 'x\\ny\\n' > secrets/K; timeout 60 vim -es -u NONE -c 'set backup' -c 'normal Goz' -c wq secrets/K");
    assert_eq!(live.read("secrets/K"), "x\ny\nz\n");
    live.sh(
        "rm -f secrets/K~; perl -pi -e s/x/w/ secrets/K 2>/dev/null || sed -i s/x/w/ secrets/K",
    );
    assert_eq!(live.read("secrets/K"), "w\ny\nz\n");
    assert_eq!(live.sh("ls -A secrets"), "K\n");
    let events = live.read("events");
    for scratch in ["4913", ".swp", "\"sed", "~"] {
        assert!(!events.contains(scratch), "{scratch}: {events}");
    }
}

#[test]
fn dd_and_truncate_change_parts_of_a_value() {
    let _alone = alone();
    let live = Live::start();
    fs::write(live.home("abc"), "abcdefgh").unwrap();
    said(
        &live,
        &[
            (
                "dd if=~/abc of=secrets/K bs=3 status=none; cat secrets/K",
                "abcdefgh",
            ),
            (
                "printf XY | dd of=secrets/K bs=1 seek=2 conv=notrunc status=none; cat secrets/K",
                "abXYefgh",
            ),
            ("dd if=secrets/K bs=2 skip=1 count=2 status=none", "XYef"),
            ("dd if=secrets/K bs=3 iflag=direct status=none", "abXYefgh"),
            (
                "printf Z | dd of=secrets/K bs=1 seek=3 status=none; cat secrets/K",
                "abXZ",
            ),
            (
                "dd if=~/abc of=secrets/K bs=3 conv=fsync oflag=append,direct status=none; cat secrets/K",
                "abcdefgh",
            ),
            (
                "truncate -s 3 secrets/K; cat secrets/K; stat -c %s secrets/K",
                "abc3\n",
            ),
            (
                "truncate -s 5 secrets/K; od -An -c secrets/K",
                "   a   b   c  \\0  \\0\n",
            ),
            ("truncate -s 0 secrets/K; stat -c %s secrets/K", "0\n"),
            ("truncate -s 2 secrets/N; stat -c %s secrets/N", "2\n"),
            ("truncate -s -1 secrets/N; stat -c %s secrets/N", "1\n"),
        ],
    );
}

#[test]
fn stat_shows_true_sizes_modes_and_times() {
    let _alone = alone();
    let live = Live::start();
    live.sh("printf 12345 > secrets/K");
    let before = fs::metadata(live.path("secrets/K")).unwrap();
    assert_eq!((before.len(), before.mode() & 0o7777), (5, 0o600));
    said(
        &live,
        &[
            ("stat -c '%s %a %F' secrets/K", "5 600 regular file\n"),
            ("wc -c < secrets/K", "5\n"),
            ("wc -c secrets/K", "5 secrets/K\n"),
            ("tail -c 2 secrets/K", "45"),
            ("head -c 2 secrets/K", "12"),
            ("du -b secrets/K", "5\tsecrets/K\n"),
            (
                "find secrets -type f -size -6c -perm 600 -printf '%f %s\\n'",
                "K 5\n",
            ),
            (
                "ls -l secrets | tail -1 | cut -d' ' -f1,5",
                "-rw------- 5\n",
            ),
            ("ls -la secrets | wc -l", "4\n"),
            (
                "touch -d '2021-02-03 UTC' secrets/K; stat -c '%Y %s' secrets/K; cat secrets/K",
                "1612310400 5\n12345",
            ),
            (
                "touch secrets/K; test $(stat -c %Y secrets/K) -gt 1700000000; cat secrets/K",
                "12345",
            ),
            ("touch secrets/NEW; stat -c %s secrets/NEW", "0\n"),
            (
                "chmod 600 secrets/K; chmod 700 secrets; chown $(id -u):$(id -g) secrets/K",
                "",
            ),
            ("chmod 644 secrets/K 2>&1 | grep -c 'not permitted'", "1\n"),
            ("chown 1:1 secrets/K 2>&1 | grep -c 'not permitted'", "1\n"),
        ],
    );
    live.sh("printf another > secrets/K");
    let after = fs::metadata(live.path("secrets/K")).unwrap();
    assert_eq!((after.len(), after.ino()), (7, before.ino()));
    assert!(after.mtime() > 1_700_000_000);
}

#[test]
fn an_extended_attribute_shows_a_values_provider() {
    let _alone = alone();
    let live = Live::start_with(Setup {
        env: vec![("HF_TOKEN", "from-env")],
        ..Setup::default()
    });
    live.write("secrets/K", "v");
    said(
        &live,
        &[
            (
                "getfattr --only-values -n user.simpletuner.provider secrets/K",
                "file",
            ),
            (
                "getfattr --only-values -n user.simpletuner.provider secrets/HF_TOKEN",
                "environment",
            ),
            (
                "getfattr -d secrets/K | grep -c -E '^user.simpletuner.(provider|expires_in|fetched_at)='",
                "3\n",
            ),
            (
                "getfattr -n user.other secrets/K 2>&1 | grep -c 'No such attribute'",
                "1\n",
            ),
        ],
    );
}

#[test]
fn jq_reads_and_rewrites_documents() {
    let _alone = alone();
    let live = Live::start();
    live.sh("printf v > secrets/K");
    said(
        &live,
        &[
            ("jq -r .K bundle/secrets.json", "v\n"),
            ("jq -c '.secrets | has(\"hits\")' cache/stats", "true\n"),
            ("jq -r .name providers/file", "file\n"),
            (
                "jq '.K = \"w\" | .L = \"x\"' bundle/secrets.json > bundle/.n; mv bundle/.n bundle/secrets.json; cat secrets/K secrets/L",
                "wx",
            ),
            (
                "jq '.cost_per_second = 2.5' hardware/gpu-l40s.json > hardware/.n; mv hardware/.n hardware/gpu-l40s.json; jq .cost_per_second hardware/gpu-l40s.json",
                "2.5\n",
            ),
            ("ls -A bundle hardware | grep -c '^[.]n' || true", "0\n"),
            (
                "(set -a; . bundle/secrets.env; sh -c 'echo $K $L')",
                "w x\n",
            ),
        ],
    );
}

#[test]
fn python_opens_files_in_every_mode() {
    let _alone = alone();
    let live = Live::start();
    let printed = live.python(r#"
import mmap, os
p = "secrets/K"
with open(p, "w") as f: f.write("abc")
with open(p, "a") as f: f.write("def")
with open(p) as f: print(f.read())
with open(p, "r+") as f:
    print(f.read(2)); f.seek(1); f.write("XY")
with open(p, "rb") as f:
    m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ); print(m[:]); m.close()
with open(p, "w+") as f:
    f.write("whole"); f.seek(0); print(f.read())
try: open(p, "x"); print("made")
except FileExistsError: print("exists")
with open("secrets/X", "x") as f: f.write("new")
print(sorted(os.listdir("secrets")), os.path.getsize(p), os.access(p, os.X_OK))
fd = os.open(p, os.O_WRONLY | os.O_APPEND); os.lseek(fd, 0, 0); os.write(fd, b"!"); os.close(fd)
print(open(p).read())
fd = os.open(p, os.O_RDONLY); print(os.lseek(fd, 1000, 0), os.read(fd, 5), os.pread(fd, 3, 1)); os.close(fd)
os.replace("secrets/X", p); print(open(p).read(), os.path.exists("secrets/X"))
"#,
    );
    assert_eq!(
        printed,
        "abcdef\nab\nb'aXYdef'\nwhole\nexists\n['K', 'X'] 5 False\nwhole!\n1000 b'' b'hol'\nnew False\n"
    );
}

#[test]
fn values_are_kept_byte_for_byte() {
    let _alone = alone();
    let live = Live::start();
    let largest = "x".repeat(64 * 1024);
    let lines = "line\n".repeat(64 * 1024 / 5);
    for value in [
        PEM,
        "",
        " ",
        "\t a \t",
        "é漢🔑",
        "a\r\nb",
        "\n\n",
        &largest,
        &lines,
    ] {
        live.write("secrets/K", value);
        assert_eq!(live.read("secrets/K"), value);
    }
    assert_eq!(
        fs::write(live.path("secrets/K"), format!("{largest}\n"))
            .unwrap_err()
            .raw_os_error(),
        Some(27),
        "64 KiB, the newline included"
    );
    assert_eq!(live.read("secrets/K"), lines);
}

#[test]
fn walking_the_whole_mount_terminates() {
    let _alone = alone();
    let live = Live::start();
    live.sh("printf needle-in-hay > secrets/K");
    live.sh("timeout 60 du . > /dev/null; timeout 60 find . -ls > /dev/null; timeout 60 ls -laR > /dev/null");
    let found = live.sh("timeout 60 grep -rl needle-in-hay . | sort; true");
    assert!(
        found.contains("secrets/K\n") && found.contains("bundle/secrets.json\n"),
        "{found}"
    );
    live.try_sh("timeout 60 tar cf ~/all.tar . ; echo $? > ~/tar; timeout 60 cp -r . ~/copy; echo $? > ~/cp");
    for tool in ["tar", "cp"] {
        assert_ne!(
            fs::read_to_string(live.home(tool)).unwrap(),
            "124\n",
            "{tool}"
        );
    }
    assert_eq!(
        fs::read_to_string(live.home("copy/secrets/K")).unwrap(),
        "needle-in-hay"
    );
    live.sh("tar xOf ~/all.tar ./secrets/K | grep -q needle-in-hay");
}

#[test]
fn tail_follows_the_events() {
    let _alone = alone();
    let live = Live::start();
    let out = live.home("tail");
    let mut tail = Command::new("tail")
        .args(["-f", "-s", "0.02"])
        .arg(live.path("events"))
        .stdout(fs::File::create(&out).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    live.write("secrets/FOLLOWED", "v");
    wait_until("tail has printed the line", || {
        fs::read_to_string(&out).unwrap().contains("FOLLOWED")
    });
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn every_file_has_the_mode_and_the_owner_that_the_guide_lists() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/K", "v");
    let mut wanted = String::from(
        "400 f events\n400 f metrics\n200 f reload\n400 f status\n600 f variables\n500 d providers\n400 f providers/environment\n400 f providers/file\n\
         700 d .\n700 d views\n700 d secrets\n600 f secrets/K\n\
         700 d bundle\n600 f bundle/secrets.json\n600 f bundle/secrets.yaml\n400 f bundle/secrets.env\n400 f bundle/docker.env\n\
         700 d hardware\n600 f hardware/all.json\n600 f hardware/gpu-l40s.json\n600 f hardware/gpu-a100-large.json\n\
         700 d cache\n400 f cache/stats\n200 f cache/clear\n600 f cache/invalidate\n",
    );
    for backend in ["aws", "vault"] {
        wanted += &format!("400 f providers/{backend}\n");
    }
    for cache in ["secrets", "hardware"] {
        wanted += &format!(
            "700 d cache/{cache}\n400 f cache/{cache}/stats\n200 f cache/{cache}/clear\n600 f cache/{cache}/invalidate\n"
        );
    }
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(String::from).collect();
        lines.sort();
        lines
    };
    let found = live
        .sh("find . -mindepth 1 -printf '%m %y %P\\n'; find . -maxdepth 0 -printf '%m %y .\\n'");
    // Caches whose users are not mounted add folders of their own.
    let optional = |line: &String| {
        ["config", "cache/provider_config", "cache/user_permission"]
            .iter()
            .any(|name| line[6..].starts_with(name))
    };
    let mut found = sorted(&found);
    found.retain(|line| !optional(line));
    assert_eq!(found, sorted(&wanted));
    let owner = live.sh("id -u; id -g").replace('\n', " ");
    let owners = live.sh("find . -printf '%U %G \\n' | sort -u");
    assert_eq!(owners.trim_end_matches('\n'), owner);
}
