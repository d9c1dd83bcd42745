//! What the processes of a scratch home wait for, for the message of a test that hangs.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A line for each process that has this folder in its environment, and the last lines of the daemon's log.
pub fn processes_of(home: &Path) -> String {
    let mut all = String::new();
    for process in fs::read_dir("/proc").unwrap().flatten().map(|e| e.path()) {
        let read = |name: &str| fs::read(process.join(name)).unwrap_or_default();
        let home = home.as_os_str().as_bytes();
        if !read("environ").windows(home.len()).any(|part| part == home) {
            continue;
        }
        let text = |name| {
            String::from_utf8_lossy(&read(name))
                .trim()
                .replace('\0', " ")
        };
        let pid = process.file_name().unwrap().to_string_lossy();
        let what = ["comm", "wchan", "syscall"].map(text).join(" | ");
        all += &format!("{pid} | {what}\n");
    }
    let log = fs::read_to_string(home.join(".simpletuner/live.log")).unwrap_or_default();
    let log: Vec<&str> = log.lines().collect();
    all + &log[log.len().saturating_sub(20)..].join("\n")
}
