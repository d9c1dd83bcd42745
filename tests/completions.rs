//! Completion in interactive shells: `script` runs each at a terminal, a line and a tab are typed, and then the line that came
//! of it is written to a file.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};

use support::home::{BINARY, Home, signal};
use support::wait_until;

const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];
const START_OF_LINE: &str = "\x01";
const END_OF_LINE: &str = "\x05";
const LEFT: &str = "\x02";

/// An interactive shell with the completion script.
struct Shell {
    name: &'static str,
    script: Child,
    keyboard: ChildStdin,
    screen: Arc<Mutex<String>>,
    lines: usize,
    home: std::path::PathBuf,
}

impl Shell {
    fn start(home: &Home, name: &'static str) -> Self {
        let (start, source) = match name {
            "bash" => (
                "bash --noprofile --norc -i",
                "source <(simpletuner-live completions bash)",
            ),
            "zsh" => ("zsh -f -i", "source <(simpletuner-live completions zsh)"),
            _ => (
                "fish --no-config -i",
                "simpletuner-live completions fish | source",
            ),
        };
        let path = format!(
            "{}:{}:{}",
            Path::new(BINARY).parent().unwrap().display(),
            home.path("bin").display(),
            std::env::var("PATH").unwrap()
        );
        let mut command = home.command("script");
        let at_terminal = format!("stty cols 200 rows 50; exec {start}");
        command.args(["-qec", &at_terminal, "/dev/null"]);
        command.env("SHELL", "/bin/sh").env("TERM", "xterm");
        let mut script = command
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let screen = Arc::new(Mutex::new(String::new()));
        let (shown, mut output) = (screen.clone(), script.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]);
                shown.lock().unwrap().push_str(&text);
            }
        });
        let mut shell = Self {
            name,
            keyboard: script.stdin.take().unwrap(),
            script,
            screen,
            lines: 0,
            home: home.0.path().to_owned(),
        };
        shell.types(&format!("{source}\r"));
        shell.line_of("true ready");
        shell
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    fn screen(&self) -> String {
        self.screen.lock().unwrap().clone()
    }

    /// The line that is there after these keys.
    fn line_of(&mut self, keys: &str) -> String {
        self.lines += 1;
        let (written, whole) = (
            format!("written-{}", self.lines),
            format!("line-{}", self.lines),
        );
        let (written, whole) = (self.home.join(written), self.home.join(whole));
        let (from, to) = (written.display(), whole.display());
        self.types(&format!(
            "{keys}{START_OF_LINE}echo {END_OF_LINE} > {from}; mv {from} {to}\r"
        ));
        let name = self.name;
        wait_until(
            &format!("{name} has a line of {keys:?}: {}", self.screen()),
            || whole.exists(),
        );
        fs::read_to_string(whole).unwrap().trim().to_owned()
    }

    /// Waits until tab behind these arguments makes them `completed`: on a busy machine names may come too late.
    #[track_caller]
    fn completes(&mut self, arguments: &str, completed: &str) {
        let mut last = String::new();
        for _ in 0..20 {
            last = self.completed(arguments);
            if last == completed {
                return;
            }
        }
        panic!("{}: {arguments} becomes {last}, not {completed}", self.name);
    }

    /// What becomes of the arguments when tab is typed behind them.
    fn completed(&mut self, arguments: &str) -> String {
        let line = self.line_of(&format!("simpletuner-live {arguments}\t"));
        let arguments = line.strip_prefix("simpletuner-live");
        arguments
            .unwrap_or_else(|| panic!("{line}"))
            .trim()
            .to_owned()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// A home with a store, a mount and a program that records when it is asked.
fn home() -> Home {
    let home = Home::new();
    home.write(
        ".simpletuner/secrets.json",
        r#"{"HF_TOKEN": "1", "WANDB_API_KEY": "2", "a.b-c": "3"}"#,
    );
    let asked = home.path("asked");
    home.write(
        ".simpletuner/live.yaml",
        &format!(
            "command: [{{name: vaulted, run: [touch, '{}']}}]\n",
            asked.display()
        ),
    );
    fs::create_dir(home.path("folder")).unwrap();
    for file in ["folder.txt", "some file", "other.yaml"] {
        home.write(file, "");
    }
    home
}

#[test]
fn names_of_views_are_completed() {
    let home = Home::new();
    home.run(&["mount"]).done();
    home.write(
        ".simpletuner/live/views/trainer.json",
        r#"{"secrets": ["A"]}"#,
    );
    for name in SHELLS {
        let mut shell = Shell::start(&home, name);
        shell.completes("view rm tr", "view rm trainer");
        shell.completes("view path tr", "view path trainer");
    }
    home.run(&["umount"]).done();
}

#[test]
fn names_and_files_are_completed_in_interactive_shells() {
    let home = home();
    home.run(&["mount"]).done();
    for name in SHELLS {
        let mut shell = Shell::start(&home, name);
        for (typed, completed) in [
            ("unmo", "unmount"),
            ("get HF_T", "get HF_TOKEN"),
            ("show a.b", "show a.b-c"),
            ("get a.b-", "get a.b-c"),
            ("get -- W", "get -- WANDB_API_KEY"),
            ("rm HF_TOKEN a", "rm HF_TOKEN a.b-c"),
            ("get \"HF_T", "get HF_TOKEN"),
            ("ls 'W", "ls WANDB_API_KEY"),
            ("audit tail -n 5 --fol", "audit tail -n 5 --follow"),
            ("hardware reset gpu-l", "hardware reset gpu-l40s"),
            ("cache clear hard", "cache clear hardware"),
            (
                "cache invalidate secret:HF_T",
                "cache invalidate secret:HF_TOKEN",
            ),
            ("cache invalidate sec", "cache invalidate secret:"),
            ("settings ttl.d", "settings ttl.default"),
            ("set K --file some", "set K --file some file"),
            ("--config=oth", "--config=other.yaml"),
            ("--config oth", "--config other.yaml"),
            (
                "--config other.yaml completions z",
                "--config other.yaml completions zsh",
            ),
            ("mount fold", "mount folder/"),
            (
                "install-service --system --user nobod",
                "install-service --system --user nobody",
            ),
            ("help sett", "help settings"),
            ("set K a", "set K a"),
            ("nonsense a", "nonsense a"),
        ] {
            shell.completes(typed, completed);
        }
        let middle = format!("simpletuner-live get HF_T -n{}\t", LEFT.repeat(3));
        assert_eq!(
            shell.line_of(&middle),
            "simpletuner-live get HF_TOKEN -n",
            "{name}"
        );
        let quiet = shell.screen();
        for word in ["error", "warning", "not found", "panicked"] {
            assert!(!quiet.contains(word), "{name}: {quiet}");
        }
    }
    assert!(!home.path("asked").exists(), "a backend was asked");
    home.run(&["umount"]).done();
    assert_eq!(home.run(&["audit", "tail"]).done(), "");
}

/// The package that completes the arguments of other programs.
const BASH_PACKAGE: &str = "source /usr/share/bash-completion/bash_completion";
const COMPLETES_ZEBRAFIND: [(&str, &str); 3] = [
    ("bash", "complete -W 'stripes --herd' zebrafind"),
    (
        "zsh",
        "_zebrafind() { compadd -- stripes --herd }; compdef _zebrafind zebrafind",
    ),
    (
        "fish",
        "complete -c zebrafind -f -a stripes; complete -c zebrafind -l herd",
    ),
];

#[test]
fn the_command_of_run_is_completed_as_it_is_without_run() {
    let home = home();
    home.write("bin/zebrafind", "#!/bin/sh\n");
    home.sh("chmod +x bin/zebrafind; cp bin/zebrafind folder/zebralocal");
    for (name, definition) in COMPLETES_ZEBRAFIND {
        let mut shell = Shell::start(&home, name);
        if name == "bash" {
            // Without the package it has programs and files.
            for (typed, completed) in [
                ("run --all -- zebraf", "run --all -- zebrafind"),
                (
                    "run --all -- folder/zebra",
                    "run --all -- folder/zebralocal",
                ),
                (
                    "run -e HF_TOKEN=X zebrafind oth",
                    "run -e HF_TOKEN=X zebrafind other.yaml",
                ),
            ] {
                shell.completes(typed, completed);
            }
            shell.types(&format!("{BASH_PACKAGE}\r"));
        }
        shell.types(&format!("{definition}\r"));
        for (typed, completed) in [
            ("run --all -- zebraf", "run --all -- zebrafind"),
            ("run --all zebraf", "run --all zebrafind"),
            (
                "run --all -- folder/zebra",
                "run --all -- folder/zebralocal",
            ),
            (
                "run --all -- zebrafind str",
                "run --all -- zebrafind stripes",
            ),
            (
                "run --all -- zebrafind --h",
                "run --all -- zebrafind --herd",
            ),
            ("run --all zebrafind --h", "run --all zebrafind --herd"),
            // bash cuts words at these.
            (
                "run -e HF_TOKEN=A:B -- zebrafind a=b str",
                "run -e HF_TOKEN=A:B -- zebrafind a=b stripes",
            ),
            (
                "run --env=HF_TOKEN=X zebrafind 'a b' str",
                "run --env=HF_TOKEN=X zebrafind a b stripes",
            ),
            ("run --all -- cat oth", "run --all -- cat other.yaml"),
            (
                "run --all -- simpletuner-live get HF_T",
                "run --all -- simpletuner-live get HF_TOKEN",
            ),
            // Before the command, the options and names are ours.
            ("run --env HF_T", "run --env HF_TOKEN"),
            ("run --no-f", "run --no-files"),
        ] {
            shell.completes(typed, completed);
        }
        let quiet = shell.screen();
        for word in ["error", "warning", "not found", "panicked"] {
            assert!(!quiet.contains(word), "{name}: {quiet}");
        }
    }
    assert!(!home.path("asked").exists(), "a backend was asked");
}

/// The commands and long options that a help text lists.
fn words_of_help(home: &Home, command: &[&str]) -> Vec<String> {
    let help = home.run(&[command, &["-h"]].concat()).done();
    let lists = help.lines().take_while(|line| *line != "Examples:");
    let word = |line: &str| {
        let entry = line.strip_prefix("  ")?;
        // What is below a short option, and what goes on from the line before.
        let entry = match entry.strip_prefix("    ") {
            Some(long) => Some(long).filter(|long| long.starts_with("--"))?,
            None => entry,
        };
        let mut words = entry.split([' ', ',', '=']).filter(|word| !word.is_empty());
        let word = words.find(|word| word.len() > 2 || !word.starts_with('-'))?;
        let is_word = word
            .trim_start_matches("--")
            .starts_with(|c: char| c.is_ascii_lowercase());
        is_word.then(|| word.to_owned())
    };
    lists.filter_map(word).collect()
}

#[test]
fn every_command_and_option_is_completed_in_interactive_shells() {
    let home = home();
    let mut lines = Vec::new();
    let mut commands = vec![Vec::new()];
    while let Some(command) = commands.pop() {
        let before: Vec<&str> = command.iter().map(String::as_str).collect();
        for word in words_of_help(&home, &before) {
            let line = [&*before, &[&word]].concat().join(" ");
            if !word.starts_with("--") && word != "help" {
                let mut longer = command.clone();
                longer.push(word);
                commands.push(longer);
            }
            lines.push(line);
        }
    }
    assert!(
        lines.iter().any(|line| line == "audit tail --follow"),
        "{lines:#?}"
    );
    assert!(lines.len() > 100, "{lines:#?}");
    for name in SHELLS {
        let mut shell = Shell::start(&home, name);
        for line in &lines {
            let typed = beginning(line, &lines);
            let completed = shell.completed(typed);
            assert!(
                completed.starts_with(line.as_str()),
                "{name}: {typed} became {completed}, not {line}"
            );
        }
    }
}

/// The shortest beginning of the last word of a line that can only go on to that word.
fn beginning<'a>(line: &'a str, lines: &[String]) -> &'a str {
    let word = line.rfind(' ').map_or(0, |at| at + 1);
    let first = word + if line[word..].starts_with("--") { 3 } else { 1 };
    let leads_to_it = |end: &usize| {
        let mut others = lines
            .iter()
            .filter(|other| other.starts_with(&line[..*end]));
        others.all(|other| other.starts_with(line) || other[*end..].contains(' '))
    };
    let end = (first..line.len()).find(leads_to_it);
    &line[..end.unwrap_or(line.len())]
}

#[test]
fn a_mount_that_hangs_or_is_not_there_delays_no_completion() {
    let home = home();
    home.run(&["mount"]).done();
    let mut shells = SHELLS.map(|name| Shell::start(&home, name));
    let status = fs::read(home.live("status")).unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    let pids = ["keeper_pid", "server_pid"].map(|field| status[field].as_u64().unwrap() as u32);
    pids.iter().for_each(|pid| signal("STOP", *pid));
    for shell in &mut shells {
        // The secrets file still has names.
        shell.completes("get HF_T", "get HF_TOKEN");
        shell.completes("get --no-m", "get --no-mount");
        assert_eq!(shell.completed("cache clear hard"), "cache clear hard");
    }
    pids.iter().for_each(|pid| signal("CONT", *pid));
    home.run(&["umount"]).done();
    // Without a mount, the secrets file has names.
    for shell in &mut shells {
        shell.completes("get HF_T", "get HF_TOKEN");
        shell.completes(
            "hardware estimate gpu-a",
            "hardware estimate gpu-a100-large",
        );
    }
    home.write(".simpletuner/live.yaml", "nonsense: [");
    for shell in &mut shells {
        shell.completes("get HF_T", "get HF_T");
        shell.completes("get --no-m", "get --no-mount");
        let shown = shell.screen();
        for word in ["error", "warning"] {
            assert!(!shown.contains(word), "{}: {shown}", shell.name);
        }
    }
    assert!(!home.path("asked").exists(), "a backend was asked");
}
