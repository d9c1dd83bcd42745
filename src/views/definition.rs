//! What a view is: which secrets it has, as which files, and who may read them. Parses and validates; knows no file system and no
//! provider.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::pattern::Pattern;
use crate::error::{Error, Result};
use crate::secret::SecretName;

/// The most bytes that a definition may have.
pub const MAX_DEFINITION: usize = 1024 * 1024;
/// The longest name: with `.json` it is a file's name, which has at most 255 bytes.
const MAX_NAME: usize = 250;
/// The most patterns, each of which is tried for a name.
const MAX_PATTERNS: usize = 1000;
/// The most files with a name of their own.
const MAX_FILES: usize = 10_000;
/// The longest name of a user or a group.
const MAX_USER: usize = 256;
/// The permission bits that files of a view may have.
const READABLE: u16 = 0o444;
/// The fields of a definition.
const FIELDS: [&str; 6] = ["secrets", "files", "user", "group", "mode", "documents"];

/// A view's definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewDefinition {
    /// The secrets that it has under their own names.
    pub secrets: Vec<Pattern>,
    /// Files with a name of their own, and the secret of each.
    pub files: BTreeMap<SecretName, SecretName>,
    /// Who owns the files: a name or a number; `None`: the user who mounts.
    pub user: Option<String>,
    /// Their group: a name or a number; `None`: that of the user who mounts.
    pub group: Option<String>,
    /// The permission bits of the files.
    pub mode: u16,
    /// Documents of all the view's secrets.
    pub documents: Vec<DocumentFormat>,
}

/// The form of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentFormat {
    /// `KEY=value` lines.
    Env,
    /// One JSON object.
    Json,
}

impl DocumentFormat {
    /// All forms.
    pub const ALL: [Self; 2] = [Self::Env, Self::Json];

    /// How a definition names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::Json => "json",
        }
    }

    /// Its file in the view.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Env => "secrets.env",
            Self::Json => "secrets.json",
        }
    }
}

/// The content of a file of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileContent {
    /// The value of a secret that was named.
    Secret(SecretName),
    /// The value of a secret that a pattern matches.
    Matched(SecretName),
    /// All secrets of the view.
    Document(DocumentFormat),
}

/// Accepts a view's name: a letter, a digit or `_`, and up to 249 more of those, `.` and `-`.
///
/// # Errors
/// [`Error::Malformed`] says which rule it breaks.
pub fn check_name(name: &str) -> Result<()> {
    let malformed = |reason: &str| {
        let shown: String = name.chars().take(300).collect();
        Err(Error::Malformed {
            what: format!("the view's name {shown:?}"),
            reason: reason.into(),
        })
    };
    if name.len() > MAX_NAME {
        return malformed("it is longer than 250 bytes");
    }
    match SecretName::new(name) {
        Err(Error::InvalidName { reason, .. }) => malformed(reason),
        other => other.map(drop),
    }
}

impl ViewDefinition {
    /// A definition of nothing, to be filled.
    pub fn empty() -> Self {
        Self {
            secrets: Vec::new(),
            files: BTreeMap::new(),
            user: None,
            group: None,
            mode: 0o400,
            documents: Vec::new(),
        }
    }

    /// Parses the definition of the view `name`.
    ///
    /// # Errors
    /// [`Error::Malformed`] says what is wrong, and where; [`Error::TooLarge`].
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        check_name(name)?;
        let what = || format!("the view {name}");
        if bytes.len() > MAX_DEFINITION {
            return Err(Error::TooLarge {
                what: what(),
                limit: MAX_DEFINITION,
            });
        }
        Self::from_json(bytes).map_err(|reason| Error::Malformed {
            what: what(),
            reason,
        })
    }

    fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let fields: Pairs = serde_json::from_slice(bytes)
            .map_err(|error| format!("it must be a JSON object: {error}"))?;
        let mut definition = Self::empty();
        for (field, value) in fields.unique("the field")? {
            let value = value.get();
            match field.as_str() {
                "secrets" => definition.secrets = patterns(value)?,
                "files" => definition.files = files(value)?,
                "user" => definition.user = Some(user(value, "user")?),
                "group" => definition.group = Some(user(value, "group")?),
                "mode" => definition.mode = parse_mode(&text(value, "mode")?)?,
                "documents" => definition.documents = documents(value)?,
                unknown => return Err(unknown_field(unknown)),
            }
        }
        definition.check()?;
        Ok(definition)
    }

    /// Checks what concerns several fields.
    ///
    /// # Errors
    /// What is wrong, in a sentence without its subject's name.
    pub fn check(&self) -> Result<(), String> {
        if self.secrets.is_empty() && self.files.is_empty() {
            return Err("it has no secrets: give \"secrets\" patterns, or \"files\" names".into());
        }
        for format in &self.documents {
            let file = format.file_name();
            if self.files.contains_key(file) {
                return Err(format!(
                    "the file {file} is there twice: \"files\" has it, and it is the document {:?}",
                    format.name()
                ));
            }
        }
        Ok(())
    }

    /// The definition as JSON, without the fields that have their default.
    pub fn to_json(&self) -> Value {
        let mut fields = serde_json::Map::new();
        if !self.secrets.is_empty() {
            let patterns: Vec<&str> = self.secrets.iter().map(Pattern::as_str).collect();
            fields.insert("secrets".into(), json!(patterns));
        }
        if !self.files.is_empty() {
            fields.insert("files".into(), json!(self.files));
        }
        let users = [("user", &self.user), ("group", &self.group)];
        for (field, user) in users {
            if let Some(user) = user {
                fields.insert(field.into(), json!(user));
            }
        }
        fields.insert("mode".into(), json!(format!("{:04o}", self.mode)));
        if !self.documents.is_empty() {
            let names: Vec<&str> = self.documents.iter().map(|format| format.name()).collect();
            fields.insert("documents".into(), json!(names));
        }
        Value::Object(fields)
    }

    /// What a file of this name holds; `None`: the view cannot have such a file. Takes no look at which secrets there are.
    pub fn content_of(&self, file: &str) -> Option<FileContent> {
        let mut documents = self.documents.iter();
        if let Some(format) = documents.find(|format| format.file_name() == file) {
            return Some(FileContent::Document(*format));
        }
        if let Some(secret) = self.files.get(file) {
            return Some(FileContent::Secret(secret.clone()));
        }
        let mut patterns = self.secrets.iter();
        let pattern = patterns.find(|pattern| pattern.matches(file))?;
        let name = SecretName::new(file).ok()?;
        Some(match pattern.is_name() {
            true => FileContent::Secret(name),
            false => FileContent::Matched(name),
        })
    }

    /// Whether a pattern matches the name.
    pub fn matches(&self, name: &str) -> bool {
        self.secrets.iter().any(|pattern| pattern.matches(name))
    }

    /// The secrets that it names, by a pattern without `*` and `?` or for a file, each with the file's name.
    pub fn named_secrets(&self) -> impl Iterator<Item = (SecretName, SecretName)> + '_ {
        let literal = self.secrets.iter().filter(|pattern| pattern.is_name());
        let literal = literal.filter_map(|pattern| SecretName::new(pattern.as_str()).ok());
        let literal = literal.filter(|name| !self.files.contains_key(name));
        let literal = literal.map(|name| (name.clone(), name));
        let files = self.files.iter();
        literal.chain(files.map(|(file, secret)| (file.clone(), secret.clone())))
    }
}

/// Parses permission bits.
///
/// # Errors
/// Why they cannot be a view's.
pub fn parse_mode(text: &str) -> Result<u16, String> {
    let wrong = || {
        format!(
            "\"mode\" must be a text such as \"0440\", with nothing but bits to read, not {text:?}"
        )
    };
    let is_octal = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    match u16::from_str_radix(text, 8) {
        Ok(mode) if is_octal && mode != 0 && mode & !READABLE == 0 => Ok(mode),
        _ => Err(wrong()),
    }
}

/// Accepts a user's or a group's name or number.
///
/// # Errors
/// Which rule it breaks.
pub fn check_user(text: &str, field: &str) -> Result<(), String> {
    let wrong = |must: &str| Err(format!("{field:?} {must}"));
    if text.is_empty() || text.len() > MAX_USER {
        return wrong("must be a name or a number");
    }
    if text.bytes().all(|b| b.is_ascii_digit()) && parse_id(text).is_none() {
        return wrong("must be a number from 0 to 4294967294");
    }
    if text
        .chars()
        .any(|c| c.is_control() || c.is_whitespace() || ":/".contains(c))
    {
        return wrong("must be a name or a number, without spaces, ':' and '/'");
    }
    Ok(())
}

/// The number of a user or group that is given by its number. The largest number means "none".
pub(super) fn parse_id(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|id| is_number && *id != u32::MAX)
}

fn unknown_field(unknown: &str) -> String {
    let shown: String = unknown.chars().take(100).collect();
    let nearest = FIELDS
        .iter()
        .min_by_key(|field| strsim::damerau_levenshtein(field, &shown));
    let near = nearest.filter(|field| strsim::damerau_levenshtein(field, &shown) <= 3);
    match near {
        Some(field) => format!("there is no field {shown:?}; did you mean {field:?}?"),
        None => format!(
            "there is no field {shown:?}; the fields are {}",
            FIELDS.join(", ")
        ),
    }
}

fn text(value: &str, field: &str) -> Result<String, String> {
    serde_json::from_str(value).map_err(|_| format!("{field:?} must be a text, in quotes"))
}

/// A number without quotes is a number, too.
fn user(value: &str, field: &str) -> Result<String, String> {
    let found: Value = serde_json::from_str(value).unwrap_or_default();
    let user = match found {
        Value::String(text) => text,
        Value::Number(number) if number.is_u64() => number.to_string(),
        _ => return Err(format!("{field:?} must be a name or a number")),
    };
    check_user(&user, field)?;
    Ok(user)
}

fn texts(value: &str, field: &str) -> Result<Vec<String>, String> {
    serde_json::from_str(value).map_err(|_| format!("{field:?} must be a list of texts"))
}

fn patterns(value: &str) -> Result<Vec<Pattern>, String> {
    let texts = texts(value, "secrets")?;
    if texts.len() > MAX_PATTERNS {
        return Err(format!(
            "\"secrets\" must have at most {MAX_PATTERNS} patterns"
        ));
    }
    let parsed = texts.iter().map(|text| Pattern::new(text));
    parsed
        .collect::<Result<_>>()
        .map_err(|error| error.to_string())
}

fn documents(value: &str) -> Result<Vec<DocumentFormat>, String> {
    let mut documents = Vec::new();
    for text in texts(value, "documents")? {
        let mut known = DocumentFormat::ALL.into_iter();
        match known.find(|format| format.name() == text) {
            Some(format) if documents.contains(&format) => {}
            Some(format) => documents.push(format),
            None => return Err("\"documents\" must be a list of \"env\" and \"json\"".into()),
        }
    }
    Ok(documents)
}

fn files(value: &str) -> Result<BTreeMap<SecretName, SecretName>, String> {
    let pairs: Pairs = serde_json::from_str(value)
        .map_err(|_| "\"files\" must be an object: the name of each file, and of its secret")?;
    if pairs.0.len() > MAX_FILES {
        return Err(format!("\"files\" must have at most {MAX_FILES} files"));
    }
    let name = |name: &str, what: &str| {
        SecretName::new(name).map_err(|error| match error {
            Error::InvalidName { name, reason } => format!("the {what} {name:?}: {reason}"),
            error => error.to_string(),
        })
    };
    let mut files = BTreeMap::new();
    for (file, secret) in pairs.unique("the file")? {
        let secret = text(secret.get(), "files")
            .map_err(|_| "\"files\" must give the name of a secret for each file")?;
        files.insert(name(&file, "file name")?, name(&secret, "secret name")?);
    }
    Ok(files)
}

/// An object's entries as they stand, also those of one name.
pub(super) struct Pairs(pub(super) Vec<(String, Box<RawValue>)>);

impl Pairs {
    /// The entries.
    ///
    /// # Errors
    /// Two have the same name.
    pub(super) fn unique(self, what: &str) -> Result<Vec<(String, Box<RawValue>)>, String> {
        let mut seen = std::collections::HashSet::new();
        match self.0.iter().find(|(name, _)| !seen.insert(name)) {
            Some((name, _)) => {
                let shown: String = name.chars().take(100).collect();
                Err(format!("{what} {shown:?} is there twice"))
            }
            None => Ok(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests;
