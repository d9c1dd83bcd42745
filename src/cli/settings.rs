//! `settings`: all settings, from the table that the loader uses.

use serde_json::Value;

use super::failure::Failure;
use super::{Context, Outcome, output};
use crate::provider::{BACKENDS, own_credentials};
use crate::settings::{Origin, SettingInForce, groups};

/// Show all settings: their values, and where each comes from
///
/// The value of a credential is never shown.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = EXAMPLES, after_long_help = help())]
pub(super) struct Args {
    /// Only these settings
    #[arg(value_name = "SETTING")]
    names: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print docs/configuration.md
    #[arg(long, hide = true)]
    markdown: bool,
}

const EXAMPLES: &str = "Examples:
  simpletuner-live settings
  simpletuner-live settings ttl.default file_path
  simpletuner-live settings --json | jq '.[] | select(.from != \"default\")'";

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    if args.markdown {
        return output::write(markdown().as_bytes());
    }
    let settings = context.settings()?;
    let shown = wanted(&settings.in_force, &args.names)?;
    if args.json {
        return output::json(&shown);
    }
    let file = settings.config_file.display().to_string();
    let rows = shown.iter().map(|setting| {
        let from = match &setting.from {
            Origin::File => file.clone(),
            other => other.to_string(),
        };
        vec![setting.name.to_owned(), plain(&setting.value), from]
    });
    output::table(&["NAME", "VALUE", "FROM"], &rows.collect::<Vec<_>>())
}

/// The settings of these names, or of the groups of these names; all, if there are none.
fn wanted<'a>(all: &'a [SettingInForce], names: &[String]) -> Outcome<Vec<&'a SettingInForce>> {
    let is_in = |setting: &SettingInForce, name: &str| {
        let rest = setting.name.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let unknown = |name: &&String| !all.iter().any(|setting| is_in(setting, name));
    if let Some(name) = names.iter().find(unknown) {
        return Err(Failure::with_hint(
            format!("there is no setting {name:?}"),
            "`simpletuner-live settings` shows the names",
        ));
    }
    let is_wanted = |setting: &&SettingInForce| {
        names.is_empty() || names.iter().any(|name| is_in(setting, name))
    };
    Ok(all.iter().filter(is_wanted).collect())
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if !text.is_empty() => text.clone(),
        other => other.to_string(),
    }
}

fn help() -> String {
    let mut text = EXAMPLES.to_owned();
    for group in groups(BACKENDS) {
        text += &format!("\n\n{}:", group.title);
        for SettingInForce { name, row, .. } in group.settings {
            let others = row.variables.iter().filter(|variable| **variable != name);
            let others: String = others.map(|variable| format!(", {variable}")).collect();
            let help = row.help.replace('`', "");
            text += &format!("\n  {name}{others} ({})\n      {help}", row.form);
        }
    }
    text
}

const INTRODUCTION: &str = "\
<!-- Printed by `simpletuner-live settings --markdown` from the table of settings; not to be edited. -->

# Settings

The command line's flags come first, then the environment, then `~/.simpletuner/live.yaml` (or `--config FILE`), then the
defaults. An empty variable counts as unset. All of the file is optional; an unknown name is an error that names the known
one it resembles. In it, `timeout.total` is `total` inside `timeout`, and `command[].name` is `name` in each entry of the list `command`. A
path may begin with `~/`; a relative one begins in the folder of the file, or for a variable in the working folder.

A mount takes them over when it is started, at `simpletuner-live reload` and at `upgrade`, and at no other time; another mount point
and `allow_root` only when it is started.

`simpletuner-live settings` shows the values, and where each comes from. `SIMPLETUNER_LIVE_LOG` (`error`, `warn`, `info`,
`debug`) sets what is logged.
";

fn markdown() -> String {
    let mut text = INTRODUCTION.to_owned();
    for group in groups(BACKENDS) {
        text += &format!("\n## {}\n\n", group.title);
        if let Some(switch) = group.switch {
            text += &format!(
                "`{switch}` configures it. Unless that is set, the other variables do not count.\n\n"
            );
        }
        text +=
            "| setting | variable | value | default | meaning |\n| --- | --- | --- | --- | --- |\n";
        for SettingInForce { value, row, .. } in group.settings {
            let name = code(Some(row.name).filter(|name| !name.is_empty()));
            let variables = code(row.variables.iter().copied());
            let rank = match row.file_comes_first {
                true => ", if the file does not set it",
                false => "",
            };
            let default = (!value.is_null()).then(|| plain(&value));
            let (form, default, help) = (row.form, code(default.as_deref()), row.help);
            text += &format!("| {name} | {variables}{rank} | {form} | {default} | {help} |\n");
        }
    }
    let own = code(own_credentials());
    text + &format!(
        "\nThese variables are never served as secrets: {own}, and those that `command[].env` names.\n"
    )
}

fn code<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_of_the_settings_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == markdown(),
            "the table of settings has changed; write its documentation anew with: \
             cargo run --bin simpletuner-live -- settings --markdown > docs/configuration.md"
        );
    }

    #[test]
    fn the_help_names_every_setting_and_variable() {
        let help = help();
        for row in crate::settings::rows(BACKENDS) {
            for word in row.variables.iter().chain([&row.title()]) {
                assert!(help.contains(word), "{word}");
            }
        }
    }
}
