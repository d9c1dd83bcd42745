//! Every example of every command's `--help` is run in a new home, as root and as an ordinary user. [`table`] has what an example
//! needs, and those that are not run, with the reason.

#[path = "../support/mod.rs"]
mod support;
mod table;
#[path = "../commands/terminal.rs"]
mod terminal;

use support::home::{Home, is_root, mounts_below};
use support::user::User;
use table::{FIXTURE, How, PROGRAMS, ROWS, SUBSTITUTES};
use terminal::Terminal;

/// A command's words, and the examples of its help in their order.
struct Command {
    words: Vec<String>,
    examples: Vec<String>,
}

/// The help's lines of a section: what is behind its title, up to an empty line.
fn section<'a>(help: &'a str, title: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = help.lines().skip_while(move |line| *line != title).skip(1);
    lines.take_while(|line| !line.is_empty())
}

/// All commands that the program's own help lists.
fn commands() -> Vec<Command> {
    let home = Home::new();
    let (mut found, mut next) = (Vec::new(), vec![Vec::<String>::new()]);
    while let Some(words) = next.pop() {
        let words_and: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let help = home.run(&words_and).done();
        let below = section(&help, "Commands:").filter(|line| !line.starts_with("   "));
        for name in below.filter_map(|line| line.split_whitespace().next()) {
            if name != "help" {
                next.push([&*words, &[name.to_owned()]].concat());
            }
        }
        let mut examples: Vec<String> = Vec::new();
        for line in section(&help, "Examples:") {
            match (line.strip_prefix("    "), examples.last_mut()) {
                (Some(rest), Some(example)) => {
                    *example = format!("{} {rest}", example.trim_end_matches('\\'));
                }
                _ => examples.push(line.trim().to_owned()),
            }
        }
        found.push(Command { words, examples });
    }
    found
}

/// Without the comment behind it.
fn bare(example: &str) -> &str {
    let comment = example.find("  # ").or_else(|| example.find(" # "));
    comment.map_or(example, |at| &example[..at]).trim_end()
}

fn row(example: &str) -> Option<&'static table::Row> {
    ROWS.iter().find(|row| row.example == bare(example))
}

#[test]
fn each_row_of_the_table_is_an_example_of_some_help() {
    let commands = commands();
    assert!(commands.len() > 45, "{}", commands.len());
    let all: Vec<&str> = commands
        .iter()
        .flat_map(|command| &command.examples)
        .map(|example| bare(example))
        .collect();
    for row in ROWS {
        assert!(all.contains(&row.example), "{}", row.example);
        if let How::Not(reason) = row.how {
            assert!(!reason.is_empty(), "{}", row.example);
        }
    }
}

#[test]
fn every_example_works_in_a_new_home_as_root() {
    run_all("root");
}

#[test]
fn every_example_works_in_a_new_home_as_an_ordinary_user() {
    run_all("nobody");
}

fn run_all(name: &'static str) {
    if !is_root() {
        return;
    }
    let only = std::env::var("EXAMPLES_OF").ok();
    let user = prepared(name);
    let mut failed = Vec::new();
    for command in commands() {
        let words = command.words.join(" ");
        if command.examples.is_empty() || only.as_ref().is_some_and(|only| *only != words) {
            continue;
        }
        // A new home for each command.
        user.scratch
            .sh("find home -mindepth 1 -delete; cp -a prepared/. home");
        let mut outcomes = vec![run(&user, "simpletuner-live mount --quiet", None)];
        for example in &command.examples {
            let row = row(example);
            if row.is_some_and(|row| !row.users.contains(&name) || matches!(row.how, How::Not(_))) {
                continue;
            }
            outcomes.push(run(&user, example, row));
        }
        let failures = outcomes.into_iter().filter_map(Result::err);
        failed.extend(failures.map(|why| format!("--- {words} as {name}: {why}")));
        for left in mounts_below(user.scratch.0.path()) {
            let left = left.display();
            let umount = format!("../bin/simpletuner-live umount --force '{left}'");
            user.try_sh(&umount);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// A user with secrets and files in the folder `prepared`, and with stand-ins for programs that are somewhere else.
fn prepared(name: &'static str) -> User {
    let user = User::new(name);
    let scratch = &user.scratch;
    scratch.sh("mkdir bin && ln -s ../program bin/simpletuner-live");
    for (program, script) in PROGRAMS {
        scratch.write(&format!("bin/{program}"), script);
    }
    scratch.sh("chmod -R a+rX bin && chmod a+x bin/*");
    let (code, screen) = at_terminal(&user, FIXTURE, &[]);
    assert_eq!(code, Some(0), "{screen}");
    scratch.sh("cp -a home prepared");
    user
}

/// What was shown, if the example failed.
fn run(user: &User, example: &str, row: Option<&table::Row>) -> Result<(), String> {
    let mut script = example.to_owned();
    for (there, here) in SUBSTITUTES {
        script = script.replace(there, here);
    }
    if let Some(row) = row {
        if !row.before.is_empty() {
            let (code, screen) = at_terminal(user, row.before, &[]);
            if code != Some(0) {
                return Err(format!("before {example}: {screen}"));
            }
        }
        if row.how == How::Zsh {
            script = format!("zsh -f example.zsh # {script}");
            user.write("example.zsh", example);
        }
    }
    let (ends, expected) = match row.map(|row| &row.how) {
        Some(How::Ended { shows, keys, code }) => (&[(*shows, *keys)][..], *code),
        _ => (&[][..], 0),
    };
    let ends = ends.to_vec();
    match at_terminal(user, &script, &ends) {
        (Some(code), _) if code == expected => Ok(()),
        (code, screen) => Err(format!("{example}: {code:?}, not {expected}: {screen}")),
    }
}

/// Runs a script of bash, answers what it asks, and types the keys when it shows that text.
fn at_terminal(user: &User, script: &str, keys: &[(&str, &str)]) -> (Option<i32>, String) {
    user.write(
        "script.sh",
        &format!("trap : INT\nstty cols 120 rows 40\n{script}\necho \"code=$?\""),
    );
    let bin = user.scratch.path("bin");
    let path = format!(
        "{}:{}/.local/bin:{}",
        bin.display(),
        user.path("").display(),
        std::env::var("PATH").unwrap()
    );
    let mut command = user.command("timeout");
    command
        .args(["160", "script", "-qec", "bash script.sh", "/dev/null"])
        .env("PATH", path)
        .env("TERM", "xterm")
        .env("TOKEN", "hf_token")
        .env("EDITOR", "sed -i s/one/two/")
        .env("LESS", "-FX")
        .env("MANPAGER", "cat");
    let answers = [
        ("[y/N] ", "y\r"),
        ("taken whole): ", "correct horse\r"),
        ("Enter passphrase: ", "correct horse\r"),
    ];
    let screen = Terminal::start(command).answers(&[&answers, keys].concat());
    let code = screen.rsplit_once("code=").and_then(|(_, code)| {
        let digits = code.split(|c: char| !c.is_ascii_digit()).next();
        digits?.parse().ok()
    });
    (code, screen)
}
