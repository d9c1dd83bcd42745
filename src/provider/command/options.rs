//! The settings of the programs that give secrets. Runs none.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Result;
use crate::provider::BACKENDS;
use crate::secret::SecretName;
use crate::settings::paths::lexical;
use crate::settings::{Reader, Settings, setting, settings_table};

/// What stands for the key in the words of a command.
pub(super) const KEY: &str = "{key}";
/// The providers that are no backends.
const BUILT_IN: [&str; 2] = ["environment", "file"];
/// The most providers that a chain can reasonably have; a larger number is a mistake.
const MAX_PRIORITY: u32 = 1000;

settings_table! {
    /// One program.
    struct Entry {
        /// The provider's name, as in `providers/NAME`
        name: String = setting("command[].name").example("onepassword"),
        /// The program and its arguments, run without a shell: `[op, item, get, SimpleTuner]`; the first is a path, or found in `PATH`
        run: Vec<String> = setting("command[].run").example("[op, item, get, SimpleTuner]"),
        /// Whether it prints the value of the one key that replaces `{key}` in `run`, instead of a flat JSON object of all keys and values; such keys are not listed
        per_key: bool = setting("command[].per_key"),
        /// A text in its standard error that means that there is no such key (or document), and no failure
        missing: Option<String> = setting("command[].missing"),
        /// How long it may run; unless it is set, as long as `timeout.total`
        timeout: Option<Duration> = setting("command[].timeout"),
        /// The variables that it gets from the daemon's environment, besides `HOME`, `PATH` and the like
        env: Vec<String> = setting("command[].env").example("[OP_SESSION]"),
        /// Its position in the chain, from 1; unless it is set, it comes after Vault
        priority: Option<u32> = setting("command[].priority"),
    }
}

/// A program that gives secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandOptions {
    /// The provider's name.
    pub name: String,
    /// The program and its arguments.
    pub run: Vec<String>,
    /// Whether it gives one value at a time, that of the key which replaces `{key}`.
    pub per_key: bool,
    /// A text in its standard error that means that there is no such key.
    pub missing: Option<String>,
    /// How long it may run.
    pub timeout: Duration,
    /// The further variables that it gets.
    pub env: Vec<String>,
    /// Its position in the chain, from 1.
    pub priority: Option<u32>,
    /// The folder that it runs in.
    pub folder: PathBuf,
}

/// All programs, in the order of the settings.
pub(super) struct Commands(pub(super) Vec<CommandOptions>);

impl Commands {
    /// The programs that the settings name; `None`: none.
    pub(super) fn read(reader: &Reader<'_>, settings: &Settings) -> Result<Option<Self>> {
        let entries = reader.read_each("command", |reader| Entry::read(reader))?;
        let mut names: HashSet<String> = BUILT_IN
            .into_iter()
            .chain(BACKENDS.iter().map(|backend| backend.name))
            .map(ToOwned::to_owned)
            .collect();
        let mut commands = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            let wrong = |setting: &str, what: &str| {
                reader.wrong(&format!("command[].{setting}"), index, what)
            };
            let name = entry.name.clone();
            let command = entry
                .checked(settings)
                .map_err(|(setting, what)| wrong(setting, &what))?;
            if !names.insert(name) {
                return Err(wrong(
                    "name",
                    "is the name of another provider; choose one of its own",
                ));
            }
            commands.push(command);
        }
        Ok((!commands.is_empty()).then_some(Self(commands)))
    }
}

impl Entry {
    /// # Errors
    /// The setting that is wrong, and what its value must be.
    fn checked(self, settings: &Settings) -> Result<CommandOptions, (&'static str, String)> {
        let ensure = |is_right: bool, setting: &'static str, what: &str| match is_right {
            true => Ok(()),
            false => Err((setting, what.to_owned())),
        };
        ensure(
            !self.name.is_empty(),
            "name",
            "must be set: the provider's name",
        )?;
        let name = SecretName::new(&self.name);
        name.map_err(|error| ("name", format!("is wrong: {error}")))?;
        let program = self.run.first().is_some_and(|program| !program.is_empty());
        ensure(
            program,
            "run",
            "must be set: a list of the program and its arguments",
        )?;
        let has_nul = |word: &String| word.contains('\0');
        ensure(!self.run.iter().any(has_nul), "run", "must be without NUL")?;
        let mut arguments = self.run.iter().skip(1);
        let has_key = arguments.any(|word| word.contains(KEY));
        ensure(
            !self.run[0].contains(KEY),
            "run",
            "must name one program: {key} may stand in its arguments only",
        )?;
        ensure(
            has_key || !self.per_key,
            "run",
            "must have {key} in an argument, because per_key is set",
        )?;
        ensure(
            !has_key || self.per_key,
            "per_key",
            "must be true, because {key} stands in run",
        )?;
        let missing = self.missing.filter(|text| !text.is_empty());
        let timeout = self.timeout.unwrap_or(settings.timeout.total);
        ensure(
            !timeout.is_zero(),
            "timeout",
            "must be a number of seconds above 0",
        )?;
        let is_variable = |name: &String| {
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            !name.is_empty() && name.chars().all(is_word)
        };
        ensure(
            self.env.iter().all(is_variable),
            "env",
            "must be a list of names of variables, without their values",
        )?;
        let is_position = |priority: u32| (1..=MAX_PRIORITY).contains(&priority);
        ensure(
            self.priority.is_none_or(is_position),
            "priority",
            "must be a position in the chain, 1 or more",
        )?;
        let folder = settings.config_file.parent().unwrap_or(Path::new("/"));
        Ok(CommandOptions {
            name: self.name,
            run: self.run,
            per_key: self.per_key,
            missing,
            timeout,
            env: self.env,
            priority: self.priority,
            folder: folder.to_owned(),
        }
        .with_paths(&settings.home))
    }
}

impl CommandOptions {
    /// With the paths that begin with `~/`, which a shell would expand, and the program's own made absolute.
    fn with_paths(mut self, home: &Path) -> Self {
        for word in &mut self.run {
            if let Some(rest) = word.strip_prefix("~/") {
                *word = home.join(rest).display().to_string();
            }
        }
        if self.run[0].contains('/') {
            self.run[0] = lexical(&self.folder.join(&self.run[0]))
                .display()
                .to_string();
        }
        self
    }

    /// The program and its arguments, for people. It identifies the source.
    pub(super) fn shown(&self) -> String {
        let words = self
            .run
            .iter()
            .map(|word| match word.contains([' ', '\t']) {
                true => format!("'{word}'"),
                false => word.clone(),
            });
        crate::text::printable(&words.collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Flags;

    #[test]
    fn every_setting_of_a_program_is_read_and_paths_are_made_absolute() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let base = home.join(".simpletuner");
        std::fs::create_dir(&base).unwrap();
        let yaml = "timeout: {total: 2}\n\
                    command:\n  \
                    - {name: pass, run: [~/bin/pass, ~/x, 'a/{key}'], per_key: true, missing: gone, timeout: 1.5, env: [A, B_C], priority: 3}\n  \
                    - {name: op, run: [./op, 'a b']}\n  \
                    - {name: sh, run: [sh, -c, x]}\n";
        std::fs::write(base.join("live.yaml"), yaml).unwrap();
        let env = |name: &str| (name == "HOME").then(|| home.display().to_string());
        let settings = Settings::load_from(&Flags::default(), &env, BACKENDS).unwrap();
        let Commands(commands) = settings.backend::<Commands>().unwrap();
        let text = |path: PathBuf| path.display().to_string();
        let pass = CommandOptions {
            name: "pass".to_owned(),
            run: vec![
                text(home.join("bin/pass")),
                text(home.join("x")),
                "a/{key}".to_owned(),
            ],
            per_key: true,
            missing: Some("gone".to_owned()),
            timeout: Duration::from_millis(1500),
            env: vec!["A".to_owned(), "B_C".to_owned()],
            priority: Some(3),
            folder: base.clone(),
        };
        assert_eq!(commands[0], pass);
        assert_eq!(commands[1].run[0], text(base.join("op")));
        assert!(commands[1].shown().ends_with("/op 'a b'"));
        assert_eq!(commands[1].timeout, Duration::from_secs(2));
        assert_eq!(
            (commands[2].run[0].as_str(), commands[2].priority),
            ("sh", None)
        );
    }
}
