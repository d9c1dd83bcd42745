//! What a person at a terminal sees: `script` runs a shell at one, and what is typed is written to it.

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use support::home::{BINARY, Home, signal};
use support::wait_until;

const PROMPT: &str = "a paste is taken whole): ";

/// A shell at a terminal, which runs a script.
struct Terminal {
    script: Child,
    keyboard: ChildStdin,
    screen: ChildStdout,
    shown: String,
}

impl Terminal {
    fn run(home: &Home, script: &str) -> Self {
        home.write(
            "script.sh",
            &format!("ask() {{ {BINARY} set \"$@\"; }}\nlive() {{ {BINARY} \"$@\"; }}\n{script}"),
        );
        let mut command = home.command("script");
        command.args(["-qec", "sh script.sh", "/dev/null"]);
        command.env("SHELL", "/bin/sh");
        let mut script = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            keyboard: script.stdin.take().unwrap(),
            screen: script.stdout.take().unwrap(),
            script,
            shown: String::new(),
        }
    }

    fn wait_for(&mut self, text: &str) {
        let (mut byte, from) = ([0], self.shown.len());
        while !self.shown[from..].contains(text) {
            assert_eq!(
                self.screen.read(&mut byte).unwrap(),
                1,
                "it ended: {}",
                self.shown
            );
            self.shown.push(char::from(byte[0]));
        }
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// What was shown until the script ended.
    fn end(mut self) -> String {
        let mut rest = Vec::new();
        self.screen.read_to_end(&mut rest).unwrap();
        self.shown.push_str(&String::from_utf8_lossy(&rest));
        self.script.wait().unwrap();
        self.shown
    }
}

/// Shows whether the terminal echoes.
const ECHO: &str = "stty -a | grep -ow -e -echo -e echo";

#[test]
fn a_value_typed_at_a_terminal_is_not_shown() {
    let home = Home::new();
    let mut terminal = Terminal::run(&home, &format!("ask HF_TOKEN && {ECHO}"));
    terminal.wait_for(PROMPT);
    terminal.types("hf_wrong\x7f\x15hf_typed\r");
    let shown = terminal.end();
    assert!(!shown.contains("hf_"), "{shown}");
    assert!(shown.ends_with("\necho\r\n"), "{shown}");
    assert_eq!(home.run(&["get", "HF_TOKEN"]).done(), "hf_typed");
}

#[test]
fn a_paste_is_stored_whole_and_the_shell_runs_none_of_it() {
    let home = Home::new();
    let pem = format!(
        "-----BEGIN KEY-----\n{}\n-----END KEY-----\n",
        "x".repeat(60_000)
    );
    for (paste, value) in [
        // A terminal that marks its pastes, and one that does not.
        (
            format!("\x1b[200~{}\x1b[201~\r", pem.replace('\n', "\r")),
            &pem,
        ),
        (pem.replace('\n', "\r"), &pem),
        (format!("{}\r", "y".repeat(60_000)), &"y".repeat(60_000)),
    ] {
        let mut terminal = Terminal::run(
            &home,
            "ask TLS_KEY; printf 'for the shell: '; read line; echo \"[$line]\"",
        );
        terminal.wait_for(PROMPT);
        terminal.types(&paste);
        terminal.wait_for("for the shell: ");
        terminal.types("nothing\r");
        let shown = terminal.end();
        assert!(shown.ends_with("[nothing]\r\n"), "{shown}");
        assert_eq!(&home.run(&["get", "TLS_KEY"]).done(), value);
    }
}

#[test]
fn an_interrupted_prompt_leaves_the_terminal_and_the_secret_as_they_were() {
    let home = Home::new();
    home.run_with("before", &["set", "HF_TOKEN"]).done();
    for (key, code) in [("half\x03", 130), ("half\x1c", 131), ("\x04", 1), ("\r", 1)] {
        let mut terminal = Terminal::run(&home, &format!("ask HF_TOKEN; echo code=$?; {ECHO}"));
        terminal.wait_for(PROMPT);
        terminal.types(key);
        let shown = terminal.end();
        assert!(shown.contains(&format!("code={code}\r\n")), "{shown}");
        assert!(shown.ends_with("\necho\r\n"), "{shown}");
        assert_eq!(home.run(&["get", "HF_TOKEN"]).done(), "before");
    }
}

#[test]
fn a_prompt_that_is_terminated_restores_the_terminal() {
    let home = Home::new();
    let script = format!("{BINARY} set HF_TOKEN & echo $! > pid; wait $!; echo code=$?; {ECHO}");
    // In the background it could not read: job control would stop it.
    let script = script.replace("set HF_TOKEN &", "set HF_TOKEN < /dev/tty &");
    let mut terminal = Terminal::run(&home, &script);
    terminal.wait_for(PROMPT);
    wait_until("the process is known", || {
        std::fs::read_to_string(home.path("pid")).is_ok_and(|pid| pid.ends_with('\n'))
    });
    let pid = std::fs::read_to_string(home.path("pid")).unwrap();
    signal("TERM", pid.trim().parse().unwrap());
    let shown = terminal.end();
    assert!(shown.contains("code=143\r\n"), "{shown}");
    assert!(shown.ends_with("\necho\r\n"), "{shown}");
}

#[test]
fn after_a_passphrase_was_typed_ctrl_c_ends_the_command_as_ever() {
    let home = Home::new();
    home.run_with("before", &["set", "HF_TOKEN"]).done();
    let script =
        format!("live backup b.age; echo made; live restore b.age --force; echo code=$?; {ECHO}");
    let mut terminal = Terminal::run(&home, &format!("trap : INT; {script}"));
    for _ in 0..2 {
        terminal.wait_for(PROMPT);
        terminal.types("open sesame\r");
    }
    terminal.wait_for("made");
    home.run_with("after", &["set", "HF_TOKEN"]).done();
    terminal.wait_for(PROMPT);
    terminal.types("open sesame\r");
    terminal.wait_for("[y/N] ");
    terminal.types("\x03");
    let shown = terminal.end();
    assert!(shown.contains("code=130\r\n"), "{shown}");
    assert!(shown.ends_with("\necho\r\n"), "{shown}");
    assert_eq!(home.run(&["get", "HF_TOKEN"]).done(), "after");
}

#[test]
fn rm_and_undo_ask_at_a_terminal_and_anything_but_yes_changes_nothing() {
    let home = Home::new();
    home.run_with("one", &["set", "HF_TOKEN"]).done();
    home.run_with("two", &["set", "HF_TOKEN"]).done();
    for mounted in [false, true] {
        if mounted {
            home.run(&["mount"]).done();
        }
        for answer in ["n\r", "\r", "\x04", "maybe\r", "\x03"] {
            for (command, question) in [
                ("rm HF_TOKEN", "remove HF_TOKEN? [y/N] "),
                ("undo HF_TOKEN", "this sets HF_TOKEN back. Go on? [y/N] "),
            ] {
                let mut terminal = Terminal::run(&home, &format!("live {command}; echo code=$?"));
                terminal.wait_for(question);
                terminal.types(answer);
                let shown = terminal.end();
                if answer != "\x03" {
                    assert!(shown.contains("nothing has changed"), "{shown}");
                    assert!(shown.contains("code=1"), "{shown}");
                }
                assert_eq!(home.run(&["get", "HF_TOKEN"]).done(), "two");
            }
        }
        let mut terminal = Terminal::run(&home, "live undo HF_TOKEN; live rm HF_TOKEN");
        terminal.wait_for("gets its earlier value");
        terminal.wait_for("[y/N] ");
        terminal.types("y\r");
        terminal.wait_for("remove HF_TOKEN? [y/N] ");
        terminal.types("yes\r");
        terminal.end();
        assert_eq!(home.run(&["get", "HF_TOKEN"]).code, 4);
        home.run(&["undo", "HF_TOKEN", "--yes"]).done();
        // Neither with -f nor for a name that is mistyped.
        let shown = Terminal::run(&home, "live rm NEVER; live rm -f HF_TOKEN; echo code=$?").end();
        assert!(!shown.contains("[y/N]"), "{shown}");
        assert!(shown.contains("code=0"), "{shown}");
        home.run(&["undo", "HF_TOKEN", "--yes"]).done();
        home.run_with("two", &["set", "HF_TOKEN"]).done();
    }
    home.run(&["umount"]).done();
}

#[test]
fn the_first_mount_at_a_terminal_says_what_to_try_and_quotes_its_path() {
    let parent = Home::new();
    for (set, first) in [(false, "echo hf_xxxx > "), (true, "ls -l ")] {
        let home = parent.path(&format!("it's a \"home\" {set}"));
        std::fs::create_dir(&home).unwrap();
        let run = format!("export HOME={}", format!("{home:?}").replace('$', "\\$"));
        if set {
            parent.sh(&format!("{run}; printf old | {BINARY} set HF_TOKEN"));
        }
        let shown = Terminal::run(&parent, &format!("{run}; {BINARY} mount")).end();
        let tries: Vec<&str> = shown
            .lines()
            .filter_map(|line| line.strip_prefix("try: "))
            .collect();
        assert!(tries.len() == 2 && tries[0].starts_with(first), "{shown}");
        let value = if set { "old" } else { "hf_xxxx\n" };
        let did = parent.sh(&format!("cd /; {}", tries.join("\n")));
        assert!(did.ends_with(value), "{did}");
        parent.sh(&format!("{run}; {BINARY} umount"));
        let again = Terminal::run(&parent, &format!("{run}; {BINARY} mount")).end();
        parent.sh(&format!("{run}; {BINARY} umount"));
        assert!(!again.contains("try: "), "{again}");
    }
}

#[test]
fn values_become_plain_once_the_user_has_answered_yes() {
    let home = Home::new();
    home.run_with("a", &["set", "A"]).done();
    let store = || home.sh("cat ~/.simpletuner/secrets.json");
    let encrypted = store();
    for (answer, code) in [
        ("n\r", Some(1)),
        ("\r", Some(1)),
        ("\x04", Some(1)),
        ("\x03", None),
    ] {
        let mut terminal = Terminal::run(&home, &format!("{BINARY} decrypt-file; echo code=$?"));
        terminal.wait_for("[y/N] ");
        terminal.types(answer);
        let shown = terminal.end();
        // Ctrl-C ends the shell, too.
        let code = code.map_or(String::new(), |code| format!("code={code}\r\n"));
        assert!(shown.ends_with(&code), "{shown}");
        assert_eq!(store(), encrypted);
    }
    let mut terminal = Terminal::run(&home, &format!("{BINARY} decrypt-file"));
    terminal.wait_for("1 encrypted value in plain text");
    terminal.wait_for("[y/N] ");
    terminal.types("y\r");
    terminal.end();
    assert!(store().contains("\"A\": \"a\""));
    home.run(&["encrypt-file"]).done();
    home.run(&["adopt"]).done();
    let mut terminal = Terminal::run(&home, &format!("{BINARY} adopt --undo"));
    terminal.wait_for("[y/N] ");
    terminal.types("yes\r");
    terminal.end();
    assert!(store().contains("\"A\": \"a\""));
}

#[test]
fn a_command_in_a_message_can_be_typed_as_it_stands_whatever_the_path() {
    let home = Home::new();
    let odd = home.path("it's a \"home\" of $HOME");
    let cli = |args: &[&str]| support::home::ran(home.command(BINARY).env("HOME", &odd).args(args));
    let typed = |said: &str, before: &str, after: &str| {
        let command = said
            .split(before)
            .nth(1)
            .unwrap_or_else(|| panic!("{said}"));
        let command = command
            .split(after)
            .next()
            .unwrap()
            .replace("simpletuner-live", BINARY);
        support::home::ran(
            home.command("bash")
                .env("HOME", &odd)
                .args(["-c", &command]),
        )
        .done();
    };
    std::fs::create_dir_all(odd.join(".simpletuner")).unwrap();
    let store = odd.join(".simpletuner/secrets.json");
    std::fs::write(&store, "{\"A\": \"a\"}").unwrap();
    for mode in [0o644, 0o622] {
        std::fs::set_permissions(&store, PermissionsExt::from_mode(mode)).unwrap();
        typed(&cli(&["get", "A"]).err, "fix it with: ", "\n");
        let mode = std::fs::metadata(&store).unwrap().permissions().mode();
        assert_eq!(mode & 0o022, 0, "{mode:o}");
    }
    let place = odd.join("a place");
    let place = place.to_str().unwrap();
    typed(&cli(&["status", place]).err, "hint: `", "`");
    assert_eq!(cli(&["status", place]).code, 0);
    std::fs::write(odd.join(".simpletuner/live.yaml"), "ttl: 60\n").unwrap();
    typed(&cli(&["status", place]).err, "in force; `", "`");
    assert_eq!(cli(&["status", place]).err, "");
    cli(&["umount", place]).done();
}
