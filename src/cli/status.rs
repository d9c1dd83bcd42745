//! `status`: the state of a mount and of its providers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueHint;
use serde_json::{Value, json};

use super::failure::warn;
use super::lasting::{lasting, since};
use super::mount_client::MountClient;
use super::{Context, Outcome, output};
use crate::mount;
use crate::settings::SettingsDigest;
use crate::text::counted;

/// How long to wait until the mount knows which values cannot be decrypted.
const DECRYPTING_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait for a disk that may not answer.
const DISK_TIMEOUT: Duration = Duration::from_millis(500);
/// So many keys are named that cannot be decrypted.
const MAX_SHOWN: usize = 10;

/// Show whether a mount runs, and the state of its providers
///
/// The exit code is 0 only if the mount answers.
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
    let fields = in_words(status);
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

/// The fields with their names, for people: what says that all is as it should be in few words, and what does not whole.
fn in_words(mut status: Value) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut add = |name: &str, value: String| fields.push((name.to_owned(), value));
    let mut take = |field: &str| {
        let status = status.as_object_mut();
        // The others stay in their order.
        status.and_then(|status| status.shift_remove(field))
    };
    let mut taken = |field: &str| take(field).unwrap_or_default();
    let started = taken("started_at");
    let up = started.as_str().and_then(since).map(lasting);
    let up = up.map_or_else(String::new, |up| format!(", up {up}"));
    add("mount", format!("{}{up}", plain(&taken("mount_point"))));
    let program = plain(&taken("program"));
    add(
        "version",
        format!("{} ({program})", plain(&taken("version"))),
    );
    let [keeper, server] = ["keeper_pid", "server_pid"].map(|field| plain(&taken(field)));
    add("processes", format!("keeper {keeper}, server {server}"));
    let restarts = taken("restarts");
    add(
        "restarts",
        match restarts.as_array().and_then(|restarts| restarts.last()) {
            None => "none".into(),
            Some(last) => {
                let [number, reason, at] = ["number", "reason", "at"].map(|f| plain(&last[f]));
                format!("{number}, the last at {at}: {reason}")
            }
        },
    );
    add("settings", plain(&taken("settings")["file"]));
    let who = match taken("allow_root") {
        Value::Bool(true) => "this user and root",
        _ => "this user",
    };
    add("who may", who.into());
    let kernel = taken("kernel");
    let mut words = format!("FUSE {}", plain(&kernel["fuse"]));
    if kernel["resend"] == false {
        words.push_str("; requests in flight fail if the server is killed (before Linux 6.9)");
    }
    if kernel["epoch"] == false {
        words.push_str("; each read costs a second request (before Linux 6.16)");
    }
    add("kernel", words);
    let views = taken("views");
    add("views", views_in_words(&views));
    if !views["problem"].is_null() {
        add("views problem", plain(&views["problem"]));
    }
    // What is left is shown as it is, if it says anything.
    if let Some(status) = status.as_object_mut() {
        status.retain(|_, value| !value.is_null());
    }
    flatten("", &status, &mut fields);
    fields.retain(|(_, value)| value != "-");
    fields
}

fn views_in_words(views: &Value) -> String {
    let count = views["count"].as_u64().unwrap_or_default();
    if count == 0 && views["mount_point"].is_null() {
        return "none".into();
    }
    let of_all = counted(count, "view");
    if views["mount_point"].is_null() {
        return format!("{of_all} not mounted");
    }
    let mounted = format!("at {}", plain(&views["mount_point"]));
    let readers = match &views["allow_other"] {
        Value::Bool(true) => "other users may read theirs",
        _ => "only this user may read them (/etc/fuse.conf lacks user_allow_other)",
    };
    let audit = match views["audit"].as_str() {
        Some("off") | None => "reads are not recorded".into(),
        Some(how) => format!("reads are recorded ({how})"),
    };
    format!("{of_all} {mounted}; {readers}; {audit}")
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

pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

/// Whether a provider answers, in words.
pub(super) fn state_of(report: &Value) -> &'static str {
    let is = |field: &str| report[field].as_bool().unwrap_or(false);
    match (is("configured"), report["available"].as_bool()) {
        (false, _) => "not configured",
        (true, None) => "not asked yet",
        (true, Some(true)) => "available",
        (true, Some(false)) if is("stale") => "failing, last values served",
        (true, Some(false)) => "failing",
    }
}

fn row(report: &Value) -> Vec<String> {
    let last_error = match (&report["last_error"], &report["last_error_at"]) {
        (Value::String(error), Value::String(at)) => format!("{at}  {error}"),
        (error, _) => plain(error),
    };
    let keys = report["keys"].as_array().map_or(0, Vec::len);
    vec![
        plain(&report["name"]),
        state_of(report).into(),
        keys.to_string(),
        plain(&report["source"]),
        last_error,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_it_should_be_is_said_in_few_words_and_the_rest_whole() {
        let status = json!({
            "version": "0.1.0", "program": "/usr/bin/simpletuner-live", "keeper_pid": 1, "server_pid": 2,
            "mount_point": "/m", "started_at": "now", "allow_root": false, "reload": null,
            "restarts": [{"at": "then", "reason": "SIGKILL", "number": 7}],
            "kernel": {"fuse": "7.44", "resend": true, "epoch": true},
            "settings": {"file": "/s", "in_force": "hash"},
            "failed_write": {"at": "then", "file": "secrets/A"},
            "views": {"count": 0, "mount_point": null},
            "docker": {"socket": "/d", "problem": "taken"},
        });
        let fields = in_words(status);
        let lines: Vec<_> = fields.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(
            lines,
            [
                "mount=/m",
                "version=0.1.0 (/usr/bin/simpletuner-live)",
                "processes=keeper 1, server 2",
                "restarts=7, the last at then: SIGKILL",
                "settings=/s",
                "who may=this user",
                "kernel=FUSE 7.44",
                "views=none",
                "failed write at=then",
                "failed write file=secrets/A",
                "docker socket=/d",
                "docker problem=taken",
            ]
        );
    }

    #[test]
    fn views_say_who_may_read_them_and_whether_that_is_recorded() {
        let mut views =
            json!({"count": 2, "mount_point": "/v", "allow_other": true, "audit": "fanotify"});
        let words = "2 views at /v; other users may read theirs; reads are recorded (fanotify)";
        assert_eq!(views_in_words(&views), words);
        views["allow_other"] = json!(false);
        views["audit"] = json!("off");
        let words = views_in_words(&views);
        assert!(words.contains("user_allow_other"), "{words}");
        assert!(words.contains("not recorded"), "{words}");
    }
}
