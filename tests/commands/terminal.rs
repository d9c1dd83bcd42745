//! A shell at a terminal: `script` runs it, and what is typed is written to it.

#![allow(dead_code)]

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::support::home::{BINARY, Home};

pub struct Terminal {
    script: Child,
    keyboard: ChildStdin,
    screen: ChildStdout,
    shown: Vec<u8>,
}

impl Terminal {
    /// Runs a script in which `live` is this crate's program.
    pub fn run(home: &Home, script: &str) -> Self {
        home.write(
            "script.sh",
            &format!("live() {{ {BINARY} \"$@\"; }}\n{script}"),
        );
        let mut command = home.command("script");
        command.args(["-qec", "sh script.sh", "/dev/null"]);
        Self::start(command)
    }

    /// Starts `script`, with its arguments.
    pub fn start(mut command: Command) -> Self {
        let mut script = command
            .env("SHELL", "/bin/sh")
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            keyboard: script.stdin.take().unwrap(),
            screen: script.stdout.take().unwrap(),
            script,
            shown: Vec::new(),
        }
    }

    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let (mut byte, from) = ([0], self.shown.len());
        while !self.shown[from..]
            .windows(text.len())
            .any(|part| part == text.as_bytes())
        {
            let read = self.screen.read(&mut byte).unwrap();
            assert_eq!(
                read,
                1,
                "it ended: {}",
                String::from_utf8_lossy(&self.shown)
            );
            self.shown.push(byte[0]);
        }
    }

    pub fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Types the keys each time that their text is shown anew. What was shown until the script ended.
    pub fn answers(mut self, answers: &[(&str, &str)]) -> String {
        let (mut bytes, mut from) = ([0; 4096], 0);
        while let Ok(count @ 1..) = self.screen.read(&mut bytes) {
            self.shown.extend_from_slice(&bytes[..count]);
            let shown = String::from_utf8_lossy(&self.shown[from..]).into_owned();
            if let Some((_, keys)) = answers.iter().find(|(text, _)| shown.contains(text)) {
                from = self.shown.len();
                let _ = self.keyboard.write_all(keys.as_bytes());
            }
        }
        self.end()
    }

    /// What was shown until the script ended.
    pub fn end(mut self) -> String {
        self.screen.read_to_end(&mut self.shown).unwrap();
        self.script.wait().unwrap();
        String::from_utf8_lossy(&self.shown).into_owned()
    }
}
