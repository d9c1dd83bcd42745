//! A definition from words: a command's arguments, or the options of a container engine's volume.

use super::definition::{DocumentFormat, ViewDefinition, check_user, parse_mode};
use super::pattern::Pattern;
use crate::secret::SecretName;

impl ViewDefinition {
    /// The definition that the words give: of each secret a pattern, or `NAME=FILE`; of the user `USER[:GROUP]`; the mode; and the names of
    /// documents.
    ///
    /// # Errors
    /// What is wrong.
    pub fn from_words(
        secrets: &[impl AsRef<str>],
        user: Option<&str>,
        mode: &str,
        documents: &[impl AsRef<str>],
    ) -> Result<Self, String> {
        let mut definition = Self::empty();
        for secret in secrets.iter().map(AsRef::as_ref) {
            let Some((name, file)) = secret.split_once('=') else {
                definition
                    .secrets
                    .push(Pattern::new(secret).map_err(|error| error.to_string())?);
                continue;
            };
            let secret =
                SecretName::new(name).map_err(|error| match name.contains(['*', '?']) {
                    true => format!(
                        "{name:?} is a pattern, and only one secret can be given another name"
                    ),
                    false => error.to_string(),
                })?;
            let file_name = SecretName::new(file)
                .map_err(|error| format!("the file {file:?} cannot have this name: {error}"))?;
            if definition.files.insert(file_name, secret).is_some() {
                return Err(format!("the file {file:?} is there twice"));
            }
        }
        let (user, group) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
            Some((user, group)) => (Some(user), Some(group).filter(|group| !group.is_empty())),
            None => (None, None),
        };
        for (text, field) in [(user, "user"), (group, "group")] {
            text.map_or(Ok(()), |text| check_user(text, field))?;
        }
        (definition.user, definition.group) = (user.map(Into::into), group.map(Into::into));
        definition.mode = parse_mode(mode)?;
        let documents = documents.iter().map(AsRef::as_ref);
        let is_unknown = |name: &&str| {
            DocumentFormat::ALL
                .iter()
                .all(|format| format.name() != *name)
        };
        if let Some(unknown) = documents.clone().find(is_unknown) {
            return Err(format!(
                "there is no document {unknown:?}; the documents are env and json"
            ));
        }
        let chosen = |format: &DocumentFormat| documents.clone().any(|name| name == format.name());
        definition.documents = DocumentFormat::ALL.into_iter().filter(chosen).collect();
        definition.check()?;
        Ok(definition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &[&str] = &[];

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_arguments_make_the_definition_that_a_file_would() {
        let secrets = texts(&["HF_*", "HF_TOKEN=token"]);
        let made =
            ViewDefinition::from_words(&secrets, Some("1000:ml"), "440", &texts(&["json", "env"]))
                .unwrap();
        let file = br#"{"secrets":["HF_*"],"files":{"token":"HF_TOKEN"},"user":"1000","group":"ml","mode":"0440",
            "documents":["env","json"]}"#;
        assert_eq!(made, ViewDefinition::parse("v", file).unwrap());
        let made =
            ViewDefinition::from_words(&texts(&["A"]), Some("www-data"), "0400", NONE).unwrap();
        assert_eq!((made.user.as_deref(), made.group), (Some("www-data"), None));
    }

    #[test]
    fn wrong_arguments_are_refused_with_their_reason() {
        let wrong = |secrets: &[&str], user, mode, words: &str| {
            let reason = ViewDefinition::from_words(&texts(secrets), user, mode, NONE).unwrap_err();
            assert!(reason.contains(words), "{reason}");
        };
        wrong(&["a/b"], None, "0400", "only letters");
        wrong(&["HF_*=token"], None, "0400", "\"HF_*\" is a pattern");
        wrong(&["A=../a"], None, "0400", "the file \"../a\" cannot have");
        wrong(&["A=x", "B=x"], None, "0400", "\"x\" is there twice");
        wrong(&["A"], Some(":ml"), "0400", "\"user\" must be");
        wrong(&["A"], Some("a b"), "0400", "without spaces");
        wrong(&["A"], None, "0777", "nothing but bits to read");
    }
}
