//! `encrypt`: the stored text of a value.

use super::{Context, Outcome, input, output};
use crate::credential::encrypt_credential;
use crate::error::Error;
use crate::manager::SecretsManager;

/// Encrypt a value from standard input, as SimpleTuner's encrypt_credential does
///
/// The key is SIMPLETUNER_CREDENTIAL_KEY, else ~/.simpletuner/credential.key, which is created on first use. The newline
/// that ends a single line is not part of the value.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  printf %s \"$TOKEN\" | simpletuner-live encrypt
  simpletuner-live encrypt < key.pem | simpletuner-live decrypt"
)]
pub(super) struct Args {}

pub(super) fn run(_: Args, context: &Context) -> Outcome {
    let value = input::read_value("the text")?;
    let text = std::str::from_utf8(&value).map_err(|_| Error::NotUtf8 {
        name: "the text".into(),
    })?;
    // Makes no key beside values that need an old one. The settings may be unusable here: the text does not depend on them.
    if let Ok(settings) = context.settings() {
        SecretsManager::from_settings(&settings)?.ensure_key()?;
    }
    output::line(&encrypt_credential(text)?)
}
