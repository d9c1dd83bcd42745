//! Which secrets `run` gives, in which variables, and as what.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::cli::Outcome;
use crate::cli::failure::{Failure, WRONG_USAGE};
use crate::cli::secret_list::Detail;
use crate::cli::target::Target;
use crate::launch::Variable;
use crate::mount;
use crate::secret::{SecretName, fingerprint};

/// `KEY` or `KEY=NAME`.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    key: SecretName,
    variable: Option<String>,
}

impl FromStr for Assignment {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (key, variable) = match text.split_once('=') {
            Some((key, variable)) => (key, Some(variable)),
            None => (text, None),
        };
        let key = SecretName::new(key).map_err(|error| error.to_string())?;
        match variable {
            Some(name) if name.is_empty() || name.contains('=') => {
                Err("behind the `=` must be the name of a variable".to_owned())
            }
            variable => Ok(Self {
                key,
                variable: variable.map(str::to_owned),
            }),
        }
    }
}

/// How a secret is given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Value,
    Path,
}

/// Secrets by the variables that they are given in.
pub(super) struct Request {
    named: BTreeMap<String, (SecretName, Form)>,
    all: bool,
    no_files: bool,
}

/// What the command is given now.
pub(super) struct Fetched {
    pub(super) variables: Vec<Variable>,
    /// Of all values, also of those that are given as files: two are equal if nothing has changed.
    pub(super) fingerprints: BTreeMap<SecretName, u64>,
    /// What is left out, and why.
    pub(super) notes: Vec<String>,
}

impl Request {
    /// # Errors
    /// A secret has no name of a variable, or two secrets have the same.
    pub(super) fn new(
        env: Vec<Assignment>,
        file: Vec<Assignment>,
        all: bool,
        no_files: bool,
    ) -> Outcome<Self> {
        let env = env.into_iter().map(|one| (one, Form::Value));
        let file = file.into_iter().map(|one| (one, Form::Path));
        let mut named = BTreeMap::new();
        for (Assignment { key, variable }, form) in env.chain(file) {
            let variable = match variable {
                Some(variable) => variable,
                None if is_variable(key.as_str()) => key.to_string(),
                None => {
                    let option = if form == Form::Value { "env" } else { "file" };
                    let message = format!("{key} is no name of a variable");
                    let hint = format!("name one: --{option} {key}={}", as_variable(&key));
                    return Err(Failure::Coded(WRONG_USAGE, message, Some(hint)));
                }
            };
            let before = named.insert(variable.clone(), (key.clone(), form));
            if let Some((other, other_form)) = before
                && (&other, other_form) != (&key, form)
            {
                let message = format!("{other} and {key} are both to be the variable {variable}");
                return Err(Failure::Coded(WRONG_USAGE, message, None));
            }
        }
        Ok(Self {
            named,
            all,
            no_files,
        })
    }

    /// Reads all values.
    ///
    /// # Errors
    /// One of them cannot be read, or not be given. All that are missing are named.
    pub(super) fn fetch(&self, target: &Target) -> Outcome<Fetched> {
        let mut fetched = Fetched {
            variables: Vec::new(),
            fingerprints: BTreeMap::new(),
            notes: Vec::new(),
        };
        let mut wanted = self.named.clone();
        if self.all {
            self.add_all(target, &mut wanted, &mut fetched.notes)?;
        }
        let mut failures = Vec::new();
        for (variable, (key, form)) in wanted {
            match self.variable(target, variable, &key, form, &mut fetched) {
                Ok(variable) => fetched.variables.push(variable),
                Err(failure) => failures.push(failure),
            }
        }
        Failure::of_all(failures)?;
        Ok(fetched)
    }

    fn add_all(
        &self,
        target: &Target,
        wanted: &mut BTreeMap<String, (SecretName, Form)>,
        notes: &mut Vec<String>,
    ) -> Outcome {
        let missing = target.unlisted().into_iter().map(|unlisted| {
            Failure::with_hint(
                format!(
                    "the names of the {} provider are missing: {}",
                    unlisted.provider, unlisted.reason
                ),
                "--env gives single secrets",
            )
        });
        Failure::of_all(missing.collect())?;
        for listed in target.list(Detail::Names, &|_| true)? {
            let name = listed.name;
            if self.named.values().any(|(key, _)| *key == name) {
                continue;
            }
            if is_variable(name.as_str()) {
                wanted
                    .entry(name.to_string())
                    .or_insert((name, Form::Value));
            } else {
                notes.push(format!(
                    "{name} is left out, because no variable can have this name; --env {name}={} gives it one",
                    as_variable(&name)
                ));
            }
        }
        Ok(())
    }

    fn variable(
        &self,
        target: &Target,
        name: String,
        key: &SecretName,
        form: Form,
        fetched: &mut Fetched,
    ) -> Outcome<Variable> {
        // Also of a file: it must be there, and a change of it starts the command anew.
        let value = target.get(key)?;
        fetched
            .fingerprints
            .insert(key.clone(), fingerprint(&value));
        let has_lines = value.contains(&b'\n') && !self.no_files;
        if form == Form::Value && !has_lines {
            if value.contains(&0) {
                return Err(Failure::with_hint(
                    format!("{key} has a NUL character, which no variable can hold"),
                    format!("--file {key} gives the path of its file in the mount"),
                ));
            }
            return Ok(Variable { name, value });
        }
        let Target::Mount(client) = target else {
            return Err(without_mount(key, form));
        };
        let path = mount::resolve(&client.path("secrets")).join(key.as_str());
        Ok(Variable {
            name,
            value: Zeroizing::new(path.as_os_str().as_bytes().to_vec()),
        })
    }

    /// The secrets that are named, and whether all others are wanted, too.
    pub(super) fn keys(&self) -> (impl Iterator<Item = &SecretName>, bool) {
        (self.named.values().map(|(key, _)| key), self.all)
    }
}

fn without_mount(key: &SecretName, form: Form) -> Failure {
    let mount = "`simpletuner-live mount` mounts it";
    match form {
        Form::Path => Failure::with_hint(
            format!("{key} is to be a file of the mount, and this command uses no mount"),
            mount,
        ),
        Form::Value => Failure::with_hint(
            format!(
                "{key} has several lines, so it is given as a file of the mount, and this command uses no mount"
            ),
            format!("{mount}; --no-files gives the value itself"),
        ),
    }
}

/// Whether shells take it for a variable's name.
fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The name of a variable that comes nearest.
fn as_variable(key: &SecretName) -> String {
    let name = key.as_str().to_ascii_uppercase().replace(['-', '.'], "_");
    match name.starts_with(|c: char| c.is_ascii_digit()) {
        true => format!("_{name}"),
        false => name,
    }
}
