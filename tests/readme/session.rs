//! A shell at a terminal in a scratch home, in which the commands of a page are typed.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::page::{Page, Prompt, Step};
use crate::servers::backends::Backends;
use crate::support::home::ran;
use crate::support::user::{LIVE, User};

/// What no two runs have in common is set aside, in what a page shows and in what comes out: the home folder, times, process
/// ids, ports, the user's name, ciphertext, colours, lines that a terminal erases, and how wide blanks are.
const ASIDE: &str = r"
s/^.*\x1b\[K//
s/\x1b\[[0-9;]*m//g
s#HOME#/home/me#g
s/[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,}Z/TIME/g
s/[A-Z][a-z]{2} [ 0-9][0-9] [0-9]{2}:[0-9]{2}/TIME/g
s/\[[0-9]+\]/[PID]/g
s/(pid +)[0-9]+/\1PID/
s/127\.0\.0\.1:[0-9]+/127.0.0.1:PORT/g
s/^([d-][rwx-]{9} +[0-9]+) [^ ]+ [^ ]+/\1 me me/
s/unix:[a-z]+/unix:me/g
s/Z0FBQUFB[A-Za-z0-9_=-]+/CIPHERTEXT/g
s/[[:space:]]+/ /g
s/ $//
";

/// Separates what the steps print.
const NEXT: char = '\u{1e}';

/// The steps of a page, typed one after another as this user.
pub struct Session {
    user: User,
}

impl Session {
    pub fn new(user: &'static str) -> Self {
        let user = User::new(user);
        user.scratch.sh(
            "mkdir -m 755 bin && ln program bin/simpletuner-live && mkdir steps && chmod 755 steps",
        );
        user.mounts.borrow_mut().push(user.path(LIVE));
        Self { user }
    }

    /// What is wrong with the page: each step of which something else came out.
    pub fn flaws(&self, page: &Page) -> Vec<String> {
        let steps = page.steps();
        let came_out = self.type_all(&steps);
        let shown: String = steps
            .iter()
            .map(|step| format!("{}\n{NEXT}\n", step.shown.join("\n")))
            .collect();
        let (shown, came_out) = (self.set_aside(&shown), self.set_aside(&came_out));
        let parts = |text: &str| -> Vec<Vec<String>> {
            let parts = text.split(NEXT).map(|part| {
                let lines = part.lines().filter(|line| !line.is_empty());
                lines.map(str::to_owned).collect()
            });
            parts.collect()
        };
        let (shown, came_out) = (parts(&shown), parts(&came_out));
        let mut flaws = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            // A session that did not get so far shows nothing.
            let came_out = came_out.get(at).cloned().unwrap_or_default();
            if !agree(&shown[at], &came_out) {
                flaws.push(format!(
                    "{}:{} as {}: {}\nThe page shows:\n{}\nWhat came out:\n{}\n",
                    page.name,
                    step.line,
                    self.user.name,
                    step.typed,
                    shown[at].join("\n"),
                    came_out.join("\n")
                ));
            }
        }
        flaws
    }

    /// What the terminal shows, with [`NEXT`] after each step.
    fn type_all(&self, steps: &[Step]) -> String {
        let folder = self.user.scratch.path("");
        let mut script = String::from("cd; stty cols 120\n");
        if steps.iter().any(|step| step.prompt == Prompt::Backends) {
            script += &self.backends(&folder);
        }
        for (at, step) in steps.iter().enumerate() {
            let file = folder.join(format!("steps/{at}"));
            let text = match step.prompt {
                Prompt::Shell => step.typed.clone(),
                Prompt::Backends => format!("backends '{}'", step.typed),
            };
            fs::write(&file, text + "\n").unwrap();
            script += &format!(". {}; printf '\\036'\n", file.display());
        }
        fs::write(folder.join("session"), script).unwrap();
        let path = std::env::var("PATH").unwrap();
        let mut session = self.user.command("timeout");
        session
            .args(["-k", "5", "300", "script", "-qec"])
            .arg(format!(
                "bash --norc --noprofile {}",
                folder.join("session").display()
            ))
            .arg("/dev/null")
            .env("PATH", format!("{}:{path}", folder.join("bin").display()))
            .env("HOME", self.home())
            .env("SHELL", "/bin/sh")
            .env("TERM", "dumb");
        ran(&mut session).out.replace("\r\n", "\n")
    }

    /// Starts the servers. Gives the lines by which the shell has a command that changes them, and leaves the file of their
    /// variables in the home, as `examples/backends.rs` does.
    fn backends(&self, folder: &Path) -> String {
        let mut backends = Backends::start();
        self.user.write("backends.env", &backends.exports());
        let [orders, replies] = ["orders", "replies"].map(|name| folder.join(name));
        for pipe in [&orders, &replies] {
            ran(Command::new("mkfifo").args(["-m", "666"]).arg(pipe)).done();
        }
        let lines = format!(
            "backends() {{ echo \"$1\" > {}; cat {}; }}\n",
            orders.display(),
            replies.display()
        );
        // Ends with this process.
        std::thread::spawn(move || {
            while let Ok(order) = fs::read_to_string(&orders) {
                let reply = backends.obey(&order).unwrap_or_else(str::to_owned);
                let _ = fs::write(&replies, reply + "\n");
            }
        });
        lines
    }

    fn home(&self) -> String {
        self.user.scratch.path("home").display().to_string()
    }

    fn set_aside(&self, text: &str) -> String {
        let rules = ASIDE.replace("HOME", &self.home());
        let mut sed = Command::new("sed")
            .args(["-E", &rules])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = sed.stdin.take().unwrap();
        let text = text.to_owned();
        let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
        let output = sed.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Whether lines are those that a page shows. There, three dots stand for any text, and on a line of their own for any lines.
fn agree(shown: &[String], came_out: &[String]) -> bool {
    match shown.split_first() {
        None => came_out.is_empty(),
        Some((dots, rest)) if dots == "..." => {
            (0..=came_out.len()).any(|skipped| agree(rest, &came_out[skipped..]))
        }
        Some((line, rest)) => match came_out.split_first() {
            Some((first, others)) => is_line(line, first) && agree(rest, others),
            None => false,
        },
    }
}

fn is_line(shown: &str, came_out: &str) -> bool {
    match shown.split_once("...") {
        None => shown == came_out,
        Some((before, after)) => came_out.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices()
                .map(|(at, _)| at)
                .chain([rest.len()])
                .any(|at| is_line(after, &rest[at..]))
        }),
    }
}
