//! The screen of `top`, in a terminal.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::Stdio;

use super::screen::Screen;
use super::support::home::{BINARY, Home, has_ended, signal};
use super::support::wait_until;

fn mounted() -> Home {
    let home = Home::new();
    home.run_with("hf_hidden", &["set", "HF_TOKEN"]).done();
    home.run(&["mount"]).done();
    home
}

/// The terminal's settings, and the text before, are what they were.
fn is_left_as_it_was(screen: &Screen) {
    // What is typed before it has ended is its own.
    screen.wait_without("q quit");
    screen.enters("stty -a > after; cmp before after && echo 'as it' was");
    let shown = screen.wait_for("as it was");
    assert!(shown.contains("echo the text before"), "{shown}");
    assert!(!shown.contains("PROVIDER"), "{shown}");
}

fn begin(screen: &Screen, command: &str) {
    screen.enters("stty -a > before; echo the text before");
    screen.wait_for("\nthe text before");
    screen.enters(command);
    screen.wait_for("PROVIDER");
}

#[test]
fn the_screen_shows_the_mount_and_who_reads_what_and_ends_clean() {
    let home = mounted();
    let screen = Screen::new(&home, 120, 32);
    begin(&screen, "live top");
    home.sh("cat .simpletuner/live/secrets/HF_TOKEN; cat .simpletuner/live/secrets/HF_TOKEN");
    let shown = screen.wait_until("the readers", |shown| {
        shown.contains("cat") && shown.contains("secrets/HF_TOKEN")
    });
    for text in [
        "simpletuner-live 0.1.0  up ",
        ".simpletuner/live",
        "reads ",
        "/s",
        "no restart",
        "memory ",
        "environment",
        "available",
        "CACHE",
        "READS",
        "EVENT",
        "q quit",
    ] {
        assert!(shown.contains(text), "{text}:\n{shown}");
    }
    assert!(!shown.contains("hf_hidden"), "{shown}");
    home.sh("echo b > .simpletuner/live/secrets/OTHER");
    screen.wait_for("2 secrets");
    screen.wait_for("OTHER");
    let server = home.server(&home.live(""));
    signal("KILL", server);
    screen.wait_for("1 restart (SIGKILL");
    screen.wait_for("server_restarted");
    screen.presses("q");
    is_left_as_it_was(&screen);
}

#[test]
fn keys_sort_filter_pause_and_help() {
    let home = mounted();
    home.sh("cd .simpletuner/live/secrets; cat HF_TOKEN; head -c9 HF_TOKEN; echo b > OTHER");
    let screen = Screen::new(&home, 100, 30);
    begin(&screen, "live top");
    screen.wait_until("both readers", |shown| {
        shown.contains("cat") && shown.contains("head")
    });
    screen.wait_for("sort: reads");
    for sort in ["last", "program", "file", "reads"] {
        screen.types("s");
        screen.wait_for(&format!("sort: {sort}"));
    }
    screen.types("/");
    screen.wait_for("filter: _");
    // Keys that mean something else otherwise.
    screen.types("heaq");
    screen.wait_for("filter: heaq_");
    screen.presses("BSpace");
    screen.types("d");
    screen.wait_until("only head", |shown| {
        shown.contains("head") && !shown.contains("cat ")
    });
    screen.presses("Enter");
    screen.wait_for("/ filter: head");
    screen.presses("Escape");
    screen.wait_for("cat ");
    screen.types("p");
    screen.wait_for("PAUSED");
    home.sh("cat .simpletuner/live/secrets/OTHER; echo c > .simpletuner/live/secrets/THIRD");
    screen.types("?");
    screen.wait_for("scroll the readers");
    screen.types("x");
    let shown = screen.wait_without("scroll the readers");
    assert!(!shown.contains("THIRD"), "{shown}");
    screen.types("p");
    screen.wait_without("PAUSED");
    screen.wait_for("THIRD");
    screen.presses("C-c");
    is_left_as_it_was(&screen);
}

#[test]
fn a_narrow_and_small_screen_shows_what_fits_and_follows_a_new_size() {
    let home = mounted();
    home.sh("cat .simpletuner/live/secrets/HF_TOKEN");
    let screen = Screen::new(&home, 60, 20);
    begin(&screen, "live top");
    let shown = screen.wait_until("the reader", |shown| shown.contains("secrets/HF_TOKEN"));
    for text in ["environment", "available", "READS", "q quit"] {
        assert!(shown.contains(text), "{text}:\n{shown}");
    }
    assert!(!shown.contains("LATENCY"), "{shown}");
    screen.resizes(140, 40);
    screen.wait_for("LATENCY");
    screen.resizes(20, 4);
    screen.wait_without("LATENCY");
    screen.wait_for("q quit");
    screen.resizes(80, 24);
    screen.wait_for("CACHE");
    screen.presses("q");
    // tmux itself may leave some of the other screen after its size changed.
    screen.wait_without("q quit");
}

#[test]
fn a_mount_that_is_gone_or_silent_is_said_and_q_works_at_once() {
    let home = mounted();
    let screen = Screen::new(&home, 100, 30);
    begin(&screen, "live top");
    home.run(&["umount"]).done();
    screen.wait_for("nothing is mounted");
    home.run(&["mount"]).done();
    screen.wait_without("nothing is mounted");
    let status = fs::read(home.live("status")).unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    let pids = ["keeper_pid", "server_pid"].map(|field| status[field].as_u64().unwrap() as u32);
    pids.into_iter().for_each(|pid| signal("STOP", pid));
    screen.wait_until("that it does not answer", |shown| {
        shown.contains("has not answered") || shown.contains("does not answer")
    });
    screen.presses("q");
    is_left_as_it_was(&screen);
    pids.into_iter().for_each(|pid| signal("CONT", pid));
    home.run(&["umount"]).done();
}

#[test]
fn a_signal_ends_it_and_the_terminal_is_as_it_was() {
    let home = mounted();
    for (name, code) in [("TERM", 143), ("HUP", 129)] {
        let screen = Screen::new(&home, 100, 30);
        let top = format!("sh -c 'echo $$ > pid; exec \"{BINARY}\" top'; echo ended: $?");
        begin(&screen, &top);
        let pid = fs::read_to_string(home.path("pid")).unwrap();
        signal(name, pid.trim().parse().unwrap());
        screen.wait_for(&format!("ended: {code}"));
        is_left_as_it_was(&screen);
    }
}

/// Also in the middle of an escape sequence, whose rest a reader of keys waits for.
#[test]
fn it_ends_when_its_terminal_goes_or_a_signal_says_so() {
    let home = mounted();
    for terminal_goes in [true, false] {
        let mut script = home.command("script");
        let command = format!("echo $$ > pid; stty cols 100 rows 30; exec '{BINARY}' top");
        script.args(["-qfec", &command, "typescript"]);
        script.env("TERM", "xterm-256color").env("SHELL", "/bin/sh");
        let script = script.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut script = script.spawn().unwrap();
        wait_until("it has begun", || {
            let written = fs::read(home.path("typescript")).unwrap_or_default();
            String::from_utf8_lossy(&written).contains("PROVIDER")
        });
        let pid = fs::read_to_string(home.path("pid")).unwrap();
        let pid = pid.trim().parse().unwrap();
        let mut keys = script.stdin.take().unwrap();
        keys.write_all(b"?").unwrap();
        wait_until("it reads keys", || {
            let written = fs::read(home.path("typescript")).unwrap();
            // A word of the help: the spaces between are not written where the screen has them.
            String::from_utf8_lossy(&written).contains("PageDown")
        });
        keys.write_all(b"\x1b[").unwrap();
        match terminal_goes {
            true => script.kill().unwrap(),
            false => signal("TERM", pid),
        }
        wait_until("it has ended", || has_ended(pid));
        script.wait().unwrap();
        fs::remove_file(home.path("typescript")).unwrap();
    }
}

#[test]
fn without_a_terminal_it_says_what_to_use_and_once_prints_a_screen() {
    let home = mounted();
    home.sh("cat .simpletuner/live/secrets/HF_TOKEN");
    let ran_without = home.run(&["top"]);
    assert_eq!((ran_without.code, ran_without.out.as_str()), (2, ""));
    for hint in ["status --json", "metrics", "--once"] {
        assert!(ran_without.err.contains(hint), "{}", ran_without.err);
    }
    let mut once = String::new();
    wait_until("the read is in the trail", || {
        once = home.run(&["top", "--once"]).done();
        once.contains("secrets/HF_TOKEN")
    });
    for text in [
        "simpletuner-live 0.1.0",
        "reads 0",
        "PROVIDER",
        "available",
        "CACHE",
        "EVENT",
    ] {
        assert!(once.contains(text), "{text}:\n{once}");
    }
    assert!(
        !once.contains('\x1b') && !once.contains("hf_hidden"),
        "{once}"
    );
    home.run(&["umount"]).done();
    let said = home.run(&["top", "--once"]).failed();
    assert!(said.contains("nothing is mounted"), "{said}");
}

#[test]
fn nothing_is_written_to_the_terminal_while_nothing_changes_and_no_colour_with_no_color() {
    let home = mounted();
    let mut script = home.command("script");
    let command = format!("stty cols 100 rows 30; exec '{BINARY}' top");
    script.args(["-qfec", &command, "typescript"]);
    script.env("TERM", "xterm-256color").env("NO_COLOR", "1");
    script.env("SHELL", "/bin/sh");
    let mut script = script
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let written = || {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(home.path("typescript")) {
            file.read_to_end(&mut bytes).unwrap();
        }
        bytes
    };
    wait_until("it has looked twice", || {
        String::from_utf8_lossy(&written()).contains("0/s")
    });
    let looks = || {
        let text = fs::read_to_string(home.live("metrics")).unwrap();
        let line = text
            .lines()
            .find(|line| line.contains("requests_total{mount=\"live\"}"));
        line.unwrap()
            .rsplit_once(' ')
            .unwrap()
            .1
            .parse::<f64>()
            .unwrap()
    };
    let (before, requests) = (written().len(), looks());
    wait_until("it has looked some times", || looks() > requests + 100.0);
    let grown = written().len() - before;
    assert!(grown < 400, "{grown} bytes");
    script.stdin.take().unwrap().write_all(b"q").unwrap();
    assert!(script.wait().unwrap().success());
    let all = String::from_utf8_lossy(&written()).into_owned();
    assert!(all.contains("\x1b[?1049l"), "the other screen is left");
    for colour in ["\x1b[31m", "\x1b[33m", "\x1b[38;"] {
        assert!(!all.contains(colour), "{colour:?}");
    }
}
