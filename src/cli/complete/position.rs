//! Which argument the cursor is at, by the definition of all commands, and what that argument takes. Knows no names of secrets.

use clap::{Arg, ArgAction, Command, Id, ValueHint};

use super::Candidate;
use super::values::ValueKind;

/// What fits at the cursor.
pub(super) enum Wanted {
    Files,
    /// What fits in the command line of another program, which begins with the word of this number, from 0.
    Command(usize),
    Folders,
    Users,
    Words(Vec<Candidate>),
    /// Names of a kind, each behind this text.
    Values(String, ValueKind),
}

/// Where a line has come to before the word at the cursor.
pub(super) struct Position<'a> {
    command: &'a Command,
    /// The option that the word is the value of.
    option: Option<&'a Arg>,
    /// How many positional arguments there are.
    positionals: usize,
    /// Whether no option can follow: there is a `--`, or another program's command line has begun.
    is_escaped: bool,
    /// How many words there are.
    words: usize,
    /// The number of the word with which another program's command line begins.
    command_line: Option<usize>,
    /// The options that may be given once, and have been.
    given: Vec<&'a Id>,
    /// The settings file that was named.
    pub(super) config: Option<String>,
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|count| count.takes_values())
}

fn is_command_line(arg: &Arg) -> bool {
    arg.get_value_hint() == ValueHint::CommandWithArguments
}

impl<'a> Position<'a> {
    /// The position behind these words.
    pub(super) fn behind(command: &'a Command, words: &[String]) -> Self {
        let mut position = Self {
            command,
            option: None,
            positionals: 0,
            is_escaped: false,
            words: 0,
            command_line: None,
            given: Vec::new(),
            config: None,
        };
        for word in words {
            position.advance(word);
            position.words += 1;
        }
        position
    }

    fn advance(&mut self, word: &str) {
        if let Some(option) = self.option.take() {
            self.take_value(option, word);
        } else if self.is_escaped {
            self.advance_positional();
        } else if word == "--" {
            self.is_escaped = true;
        } else if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (long, None),
            };
            if let Some(option) = self.long(name) {
                self.take(option, value);
            }
        } else if word.len() > 1
            && let Some(shorts) = word.strip_prefix('-')
        {
            let mut rest = shorts.chars();
            while let Some(option) = rest.next().and_then(|short| self.short(short)) {
                if takes_value(option) {
                    let value = rest.as_str();
                    self.take(option, Some(value).filter(|value| !value.is_empty()));
                    break;
                }
                self.take(option, None);
            }
        } else if self.positionals == 0
            && let Some(command) = self.command.find_subcommand(word)
        {
            self.command = command;
        } else {
            self.advance_positional();
        }
    }

    fn advance_positional(&mut self) {
        if self.command_line.is_none() && self.positional().is_some_and(is_command_line) {
            self.command_line = Some(self.words);
            self.is_escaped = true;
        }
        self.positionals += 1;
    }

    fn take(&mut self, option: &'a Arg, value: Option<&str>) {
        if !matches!(option.get_action(), ArgAction::Append | ArgAction::Count) {
            self.given.push(option.get_id());
        }
        match value {
            Some(value) => self.take_value(option, value),
            None if takes_value(option) => self.option = Some(option),
            None => {}
        }
    }

    fn take_value(&mut self, option: &Arg, value: &str) {
        if option.get_id() == "config" {
            self.config = Some(value.to_owned());
        }
    }

    fn long(&self, name: &str) -> Option<&'a Arg> {
        let has_name = |arg: &&Arg| {
            let aliases = arg.get_all_aliases().unwrap_or_default();
            arg.get_long() == Some(name) || aliases.contains(&name)
        };
        self.command.get_arguments().find(has_name)
    }

    fn short(&self, name: char) -> Option<&'a Arg> {
        let mut all = self.command.get_arguments();
        all.find(|arg| arg.get_short() == Some(name))
    }

    /// What fits here, where `current` is the word at the cursor, up to it.
    pub(super) fn wanted(&self, current: &str) -> Wanted {
        if let Some(option) = self.option {
            return values_of(option, "").unwrap_or(Wanted::Words(Vec::new()));
        }
        if !self.is_escaped && current.starts_with('-') {
            return self.options(current);
        }
        let commands = self.commands(current);
        if !commands.is_empty() {
            return Wanted::Words(commands);
        }
        if self.positional().is_some_and(is_command_line) {
            return Wanted::Command(self.command_line.unwrap_or(self.words));
        }
        match self.positional().and_then(|arg| values_of(arg, "")) {
            Some(wanted) => wanted,
            // Behind a command that does not exist, nothing fits.
            None if current.is_empty()
                && !self.is_escaped
                && !(self.command.has_subcommands() && self.positionals > 0) =>
            {
                self.options(current)
            }
            None => Wanted::Words(Vec::new()),
        }
    }

    fn positional(&self) -> Option<&'a Arg> {
        let all: Vec<&Arg> = self.command.get_positionals().collect();
        let repeats = |arg: &&&Arg| arg.get_num_args().is_some_and(|n| n.max_values() > 1);
        all.get(self.positionals)
            .or_else(|| all.last().filter(repeats))
            .copied()
    }

    /// The commands that can follow. An alias is only for who types it.
    fn commands(&self, current: &str) -> Vec<Candidate> {
        if self.is_escaped || self.positionals > 0 {
            return Vec::new();
        }
        let shown = |command: &&Command| !command.is_hide_set();
        let all: Vec<&Command> = self.command.get_subcommands().filter(shown).collect();
        let is_name = |command: &&Command| command.get_name().starts_with(current);
        let takes_aliases = !current.is_empty() && !all.iter().any(is_name);
        let mut candidates = Vec::new();
        for command in all {
            let aliases = command.get_visible_aliases().filter(|_| takes_aliases);
            for name in std::iter::once(command.get_name()).chain(aliases) {
                candidates.push(Candidate {
                    word: name.to_owned(),
                    help: command.get_about().map(first_line),
                });
            }
        }
        candidates
    }

    fn options(&self, current: &str) -> Wanted {
        if let Some((name, _)) = current.split_once('=') {
            let option = name.strip_prefix("--").and_then(|name| self.long(name));
            let values = option.and_then(|option| values_of(option, &format!("{name}=")));
            return values.unwrap_or(Wanted::Words(Vec::new()));
        }
        let is_offered = |arg: &&Arg| {
            !arg.is_positional() && !arg.is_hide_set() && !self.given.contains(&arg.get_id())
        };
        let mut candidates = Vec::new();
        for arg in self.command.get_arguments().filter(is_offered) {
            let long = arg.get_long().map(|long| format!("--{long}"));
            let short = arg.get_short().map(|short| format!("-{short}"));
            let short = short.filter(|short| long.is_none() || short == current);
            candidates.extend(long.into_iter().chain(short).map(|word| Candidate {
                word,
                help: arg.get_help().map(first_line),
            }));
        }
        Wanted::Words(candidates)
    }
}

/// What the values of an argument are, each behind this text; `None` if nothing is known of them.
fn values_of(arg: &Arg, before: &str) -> Option<Wanted> {
    let possible = arg.get_possible_values();
    if !possible.is_empty() {
        let shown = possible.iter().filter(|value| !value.is_hide_set());
        let candidate = |value: &clap::builder::PossibleValue| Candidate {
            word: format!("{before}{}", value.get_name()),
            help: value.get_help().map(first_line),
        };
        return Some(Wanted::Words(shown.map(candidate).collect()));
    }
    match arg.get_value_hint() {
        ValueHint::AnyPath | ValueHint::FilePath => Some(Wanted::Files),
        ValueHint::DirPath => Some(Wanted::Folders),
        ValueHint::Username => Some(Wanted::Users),
        _ => {
            let name = arg.get_value_names()?.first()?;
            let kind = ValueKind::of_value_name(name)?;
            Some(Wanted::Values(before.to_owned(), kind))
        }
    }
}

fn first_line(text: &clap::builder::StyledStr) -> String {
    let text = text.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str) -> String {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (current, before) = words.split_last().unwrap();
        let mut command = crate::cli::help::command();
        command.build();
        match Position::behind(&command, before).wanted(current) {
            Wanted::Files => "files".to_owned(),
            Wanted::Command(at) => format!("command {at}"),
            Wanted::Folders => "folders".to_owned(),
            Wanted::Users => "users".to_owned(),
            Wanted::Values(before, kind) => format!("{before}{}", kind.name()),
            Wanted::Words(candidates) => {
                let words = candidates.into_iter().map(|candidate| candidate.word);
                let fits = |word: &String| word.starts_with(current);
                words.filter(fits).collect::<Vec<_>>().join(" ")
            }
        }
    }

    #[test]
    fn each_place_of_a_line_has_what_fits_there() {
        for (line, expected) in [
            ("ge", "get"),
            ("unm", "unmount"),
            ("um", "umount"),
            ("get HF", "secrets"),
            ("get A B", "secrets"),
            ("get -- -", "secrets"),
            ("--config x get ", "secrets"),
            ("--config", "--config"),
            ("--config ", "files"),
            ("--config=", "files"),
            ("get --config ", "files"),
            ("show ", "secrets"),
            (
                "set K ",
                "--file --trim --empty --generate --length --alphabet --print --yes --no-mount --config --help",
            ),
            ("run --env HF", "secrets"),
            ("run --file=HF", "--file=secrets"),
            ("run --all -- py", "command 3"),
            ("run --all py", "command 2"),
            ("--config x run --all -- python --env ", "command 5"),
            ("run --all python --e", "command 2"),
            ("run -eA python -- -", "command 2"),
            (
                "run -",
                "--env --file --all --no-files --watch --jitter --no-mount --config --help",
            ),
            ("edit HF", "secrets"),
            ("import ", "files"),
            ("import --format do", "dotenv docker"),
            ("export HF", "secrets"),
            ("export -o ", "files"),
            ("set K --file ", "files"),
            ("get --no", "--no-newline --no-mount"),
            ("get --no-mount --no", "--no-newline"),
            ("get -n", "-n"),
            ("mount ", "folders"),
            ("mount --p", ""),
            ("cache ", "stats clear invalidate help"),
            ("cache stats ", "caches"),
            ("cache invalidate ", "prefixes"),
            ("hardware reset ", "prices"),
            ("hardware estimate gpu-l40s --hours ", ""),
            ("settings ", "settings"),
            ("audit tail -n ", ""),
            ("audit tail -n 5 --f", "--follow"),
            ("completions ", "bash zsh fish"),
            ("install-service --user ", "users"),
            ("help ca", "cache"),
            ("backup ", "files"),
            ("restore --only ", "secrets settings views database trails"),
            ("restore x --id", "--identity"),
            ("nonsense ", ""),
            ("comple", "completions"),
        ] {
            assert_eq!(shown(line), expected, "{line:?}");
        }
    }
}
