//! Unmounts what is mounted in scratch homes when the test process ends, however it ends. (The kernel kills its servers:
//! `servers/child.rs`.)

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// Has all that is mounted below a folder unmounted when the test process ends, which ends its daemons, and the folder
/// removed. A shell that waits for the end of a pipe does it.
pub fn clean_up_after(dir: &Path) {
    const SCRIPT: &str = r#"
        while IFS= read -r dir; do dirs+=("$dir"); done
        for dir in "${dirs[@]}"; do
            [ -d "$dir" ] || continue
            for _ in 1 2 3; do
                while IFS=' ' read -r _ _ _ _ point _; do
                    point=$(printf '%b.' "$point"); point=${point%.}
                    case $point in "$dir"/*) umount -l "$point" || fusermount3 -uz "$point";; esac
                done < /proc/self/mountinfo
            done
            rm -rf --one-file-system "$dir"
        done"#;
    static CLEANER: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    let cleaner = CLEANER.get_or_init(|| {
        let cleaner = Command::new("bash")
            .args(["-c", SCRIPT])
            .current_dir("/")
            // Names are bytes.
            .env("LC_ALL", "C")
            // Ctrl-C at the terminal is for the tests.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Mutex::new(cleaner.unwrap().stdin.unwrap())
    });
    let mut cleaner = cleaner.lock().unwrap();
    cleaner
        .write_all(dir.as_os_str().as_encoded_bytes())
        .unwrap();
    cleaner.write_all(b"\n").unwrap();
}
