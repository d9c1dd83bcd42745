//! `status`: the state of a mount and of its providers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueHint;
use serde_json::{Value, json};

use super::failure::warn;
use super::mount_client::MountClient;
use super::{Context, Outcome, output};
use crate::mount;
use crate::settings::SettingsDigest;

/// How long to wait until the mount knows which values cannot be decrypted.
const DECRYPTING_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait for a disk that may not answer.
const DISK_TIMEOUT: Duration = Duration::from_millis(500);
/// So many keys are named that cannot be decrypted.
const MAX_SHOWN: usize = 10;

/// Show whether a mount runs, and the state of its providers
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live status
  simpletuner-live status --json | jq .server_pid
  simpletuner-live status > /dev/null 2>&1 || simpletuner-live mount"
)]
pub(super) struct Args {
    /// The mount point [default: ~/.simpletuner/live]
    #[arg(value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let mount_point = context.mount_point(args.dir.as_deref())?;
    let client = match MountClient::require(&mount_point) {
        Ok(client) => client,
        Err(failure) => {
            if args.json {
                output::json(&json!({ "mounted": false, "mount_point": mount_point }))?;
            }
            context.look_for_simpletuner(args.dir.as_deref())(DISK_TIMEOUT);
            return Err(failure);
        }
    };
    let status = client.read_json("status")?;
    let providers = providers_of(&client);
    let is_changed = warn_of_changed_settings(&status);
    if args.json {
        let mut all = json!({ "mounted": true, "settings_changed": is_changed });
        if let (Some(all), Some(status)) = (all.as_object_mut(), status.as_object()) {
            all.extend(status.clone());
            all.insert("providers".into(), providers.into());
        }
        return output::json(&all);
    }
    let mut fields = Vec::new();
    flatten("", &without_hashes(status), &mut fields);
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in fields {
        output::line(&format!("{name:width$}  {value}"))?;
    }
    output::line("")?;
    let rows: Vec<_> = providers.iter().map(row).collect();
    output::table(
        &["PROVIDER", "STATE", "KEYS", "SOURCE", "LAST ERROR"],
        &rows,
    )?;
    let groups = providers
        .iter()
        .filter_map(|report| report["undecryptable"].as_array());
    groups.flatten().try_for_each(|group| {
        let keys = group["keys"].as_array().into_iter().flatten();
        let keys: Vec<&str> = keys.filter_map(Value::as_str).collect();
        let shown = keys
            .iter()
            .take(MAX_SHOWN)
            .copied()
            .collect::<Vec<_>>()
            .join(", ");
        let others = match keys.len().saturating_sub(MAX_SHOWN) {
            0 => String::new(),
            others => format!(" and {others} others"),
        };
        output::line(&format!(
            "\n{shown}{others} cannot be decrypted: {}",
            plain(&group["reason"])
        ))
    })
}

/// The providers' reports. A mount that has just begun may not have tried yet which values can be decrypted.
fn providers_of(client: &MountClient) -> Vec<Value> {
    let until = Instant::now() + DECRYPTING_TIMEOUT;
    loop {
        let providers = client.providers();
        let is_known = providers
            .iter()
            .all(|report| !report["undecryptable"].is_null());
        if is_known || Instant::now() >= until {
            return providers;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The hashes by which commands compare mean nothing to people.
fn without_hashes(mut status: Value) -> Value {
    if let Some(status) = status.as_object_mut() {
        status.remove("backend_variables");
        status["settings"] = status["settings"]["file"].take();
    }
    status
}

/// Warns if the settings file has changed since the mount read it, and returns whether it has.
pub(super) fn warn_of_changed_settings(status: &Value) -> bool {
    let settings = &status["settings"];
    let in_force: Option<SettingsDigest> =
        serde_json::from_value(settings["in_force"].clone()).ok();
    let file = settings["file"].as_str().map(Path::new);
    let is_changed = match (in_force, file) {
        (Some(in_force), Some(file)) => in_force.differs_from(file),
        _ => false,
    };
    if is_changed && let Some(file) = file {
        let mount_point = status["mount_point"].as_str().unwrap_or_default();
        let file = file.display();
        warn(&format!(
            "{file} is newer than what is in force; {} takes it over",
            mount::command_for("reload", Path::new(mount_point))
        ));
    }
    is_changed
}

/// `{"kernel": {"fuse": "7.44"}}` as `kernel fuse` and `7.44`.
fn flatten(name: &str, value: &Value, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let key = key.replace('_', " ");
                flatten(format!("{name} {key}").trim_start(), value, fields);
            }
        }
        Value::Array(items) => {
            fields.push((name.into(), items.len().to_string()));
            for item in items {
                let parts = item.as_object().into_iter().flat_map(|item| item.values());
                let parts: Vec<String> = parts.map(plain).collect();
                fields.push((String::new(), parts.join("  ")));
            }
        }
        scalar => fields.push((name.into(), plain(scalar))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

fn row(report: &Value) -> Vec<String> {
    let is = |field: &str| report[field].as_bool().unwrap_or(false);
    let state = match (is("configured"), report["available"].as_bool()) {
        (false, _) => "not configured",
        (true, None) => "not asked yet",
        (true, Some(true)) => "available",
        (true, Some(false)) if is("stale") => "failing, last values served",
        (true, Some(false)) => "failing",
    };
    let last_error = match (&report["last_error"], &report["last_error_at"]) {
        (Value::String(error), Value::String(at)) => format!("{at}  {error}"),
        (error, _) => plain(error),
    };
    let keys = report["keys"].as_array().map_or(0, Vec::len);
    vec![
        plain(&report["name"]),
        state.into(),
        keys.to_string(),
        plain(&report["source"]),
        last_error,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_fields_become_lines_with_words_for_names() {
        let status = json!({
            "version": "0.1.0", "allow_root": false,
            "restarts": [{"at": "then", "reason": "SIGKILL"}], "kernel": {"fuse": "7.44"},
        });
        let mut fields = Vec::new();
        flatten("", &status, &mut fields);
        let lines: Vec<_> = fields.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(
            lines,
            [
                "version=0.1.0",
                "allow root=no",
                "restarts=1",
                "=then  SIGKILL",
                "kernel fuse=7.44"
            ]
        );
    }
}
