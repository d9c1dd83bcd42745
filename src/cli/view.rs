//! `view`: the definitions of views, through a running mount, or without one in their file.

mod cdi;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Subcommand, ValueHint};
use serde_json::{Map, Value, json};

use super::failure::{Failure, say, warn};
use super::mount_client::MountClient;
use super::{Context, Outcome, output, reason};
use crate::audit::{Actor, AuditEvent, AuditOptions, AuditTrail};
use crate::error::Error;
use crate::secret::SecretName;
use crate::views::definition::check_name;
use crate::views::{ViewDefinition, ViewStore};

/// Give secrets to a container, a service or another user
///
/// A view is a folder with some of your secrets, whose files belong to the user that you name. It holds their values as they are now,
/// and shows a new value at once. Bind its folder into a container; a single file that is bound keeps its old value.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live view create trainer --secret 'HF_*' --secret WANDB_API_KEY --user 1000
  docker run --mount type=bind,src=\"$(simpletuner-live view path trainer)\",dst=/run/secrets ...
  simpletuner-live view ls"
)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the views
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  simpletuner-live view ls
  simpletuner-live view ls --json | jq '.trainer.path'"
    )]
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Define a view, or define it anew, and print its folder
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  simpletuner-live view create trainer --secret 'HF_*' --user 1000
  simpletuner-live view create web --secret REPLICATE_API_TOKEN=token \\
    --user www-data:www-data --mode 0440
  simpletuner-live view create batch --secret '*' --document env"
    )]
    Create {
        /// The view's name
        name: String,
        /// Secrets by a pattern of `*` and `?` over their names, or one secret under another name
        #[arg(long = "secret", value_name = "PATTERN[=FILE]", required = true)]
        secrets: Vec<String>,
        /// Who may read: names or numbers [default: you]
        #[arg(long, value_name = "USER[:GROUP]", value_hint = ValueHint::Username)]
        user: Option<String>,
        /// The permission bits of the files
        #[arg(long, default_value = "0400")]
        mode: String,
        /// All secrets of the view as one document, too: secrets.env or secrets.json
        #[arg(long = "document", value_name = "FORMAT", value_parser = ["env", "json"])]
        documents: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a view: its folder is empty at once, wherever it is bound
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  simpletuner-live view rm trainer"
    )]
    Rm {
        /// The view's name
        #[arg(value_name = "VIEW")]
        name: String,
    },
    /// Print a view's folder
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  ls \"$(simpletuner-live view path trainer)\"
  docker run --mount type=bind,src=\"$(simpletuner-live view path trainer)\",dst=/run/secrets ..."
    )]
    Path {
        /// The view's name
        #[arg(value_name = "VIEW")]
        name: String,
    },
    /// Write the file by which Podman, Docker and containerd know views as devices (CDI)
    ///
    /// A container that is given the device has the view at /run/secrets. Run it again when a view is made or removed.
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  simpletuner-live view cdi
  podman run --device simpletuner.live/view=trainer ..."
    )]
    Cdi {
        /// The engine's folder for such files
        #[arg(long, default_value = "/etc/cdi", value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let target = Target::open(context)?;
    match args.action {
        Action::Ls { json } => list(&target, json),
        Action::Create {
            name,
            secrets,
            user,
            mode,
            documents,
            json,
        } => {
            check_name(&name)?;
            let definition =
                ViewDefinition::from_words(&secrets, user.as_deref(), &mode, &documents);
            let definition = definition.map_err(|reason| Error::Malformed {
                what: format!("the view {name}"),
                reason,
            })?;
            create(&target, &name, &definition, json)
        }
        Action::Rm { name } => target.remove(&name),
        Action::Path { name } => {
            target.get(&name)?.ok_or_else(|| no_such_view(&name))?;
            warn_of_problem(&target.status);
            output::line(&target.path(&name).display().to_string())
        }
        Action::Cdi { dir } => cdi::run(&target, &dir),
    }
}

/// Where the definitions are.
struct Target {
    /// The mount that runs.
    client: Option<MountClient>,
    /// Without a mount.
    store: Option<Arc<ViewStore>>,
    /// Without a mount: where this process records changes.
    trail: Option<AuditOptions>,
    /// Where the views are, or would be.
    dir: PathBuf,
    /// What the mount's `status` says of the views.
    status: Value,
}

impl Target {
    fn open(context: &Context) -> Outcome<Self> {
        if let Some(client) = MountClient::find(&context.mount_point(None)?)? {
            let status = client.read_json("status")?["views"].take();
            return Ok(Self {
                client: Some(client),
                store: None,
                trail: None,
                dir: status["dir"].as_str().unwrap_or_default().into(),
                status,
            });
        }
        let settings = context.settings()?;
        let store = ViewStore::new(&settings.views_file, settings.timeout.total);
        store.check();
        Ok(Self {
            client: None,
            store: Some(store),
            trail: Some(AuditOptions::from_settings(&settings)),
            dir: settings.views_dir,
            status: Value::Null,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn store(&self) -> Outcome<&ViewStore> {
        let none = || Failure::new("there is neither a mount nor a file of definitions");
        self.store.as_deref().ok_or_else(none)
    }

    /// All definitions, as JSON.
    fn all(&self) -> Outcome<BTreeMap<String, Value>> {
        let Some(client) = &self.client else {
            let store = self.store()?;
            if let Some(problem) = store.problem() {
                return Err(Failure::new(format!(
                    "the definitions cannot be read: {problem}"
                )));
            }
            let views = store.current();
            let views = views
                .all()
                .map(|view| (view.name.clone(), view.definition.to_json()));
            return Ok(views.collect());
        };
        let folder = client.path("views");
        let failed = |e| Failure::Error(Error::io(format!("cannot list {}", folder.display()), e));
        let mut views = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let file = entry.map_err(failed)?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(".json"));
            if let Some(name) = name {
                views.insert(
                    name.to_owned(),
                    client.read_json(&format!("views/{name}.json"))?,
                );
            }
        }
        Ok(views)
    }

    /// A view's definition, as JSON; `None`: there is no such view.
    fn get(&self, name: &str) -> Outcome<Option<Value>> {
        check_name(name)?;
        let Some(client) = &self.client else {
            return Ok(self.all()?.remove(name));
        };
        let file = format!("views/{name}.json");
        match client.path(&file).exists() {
            true => client.read_json(&file).map(Some),
            false => Ok(None),
        }
    }

    fn put(&self, name: &str, definition: &ViewDefinition) -> Outcome {
        let text = definition.to_json().to_string();
        match &self.client {
            Some(client) => {
                let written = client.write_whole(&format!("views/{name}.json"), text.as_bytes());
                written.map_err(|failure| why(client, name, failure))
            }
            None => {
                self.store()?.put(name, text.as_bytes())?;
                self.record(AuditEvent::ViewSet(name.to_owned()));
                Ok(())
            }
        }
    }

    fn remove(&self, name: &str) -> Outcome {
        check_name(name)?;
        match &self.client {
            Some(client) => {
                let path = client.path(&format!("views/{name}.json"));
                fs::remove_file(&path).map_err(|error| match error.raw_os_error() {
                    Some(libc::ENOENT) => no_such_view(name),
                    _ => {
                        let error = Error::io(format!("cannot remove {}", path.display()), error);
                        why(client, name, error.into())
                    }
                })
            }
            None => {
                let removed = self.store()?.remove(name);
                removed.map_err(|error| match error.is_not_found() {
                    true => no_such_view(name),
                    false => Failure::from(error),
                })?;
                self.record(AuditEvent::ViewRemoved(name.to_owned()));
                Ok(())
            }
        }
    }

    fn record(&self, event: AuditEvent) {
        if let Some(trail) = &self.trail {
            AuditTrail::new(trail).record(Actor::this_process(), event);
        }
    }
}

/// The server's own reason, if it gives one, or else what is wrong with the file of the definitions.
fn why(client: &MountClient, name: &str, failure: Failure) -> Failure {
    let reason = SecretName::new(name)
        .ok()
        .and_then(|name| reason::of_key(&client.path(""), &name));
    let problem = || {
        let status = client.read_json("status").ok()?;
        let problem = status["views"]["problem"].as_str()?;
        Some(format!("the view {name} stays as it was: {problem}"))
    };
    reason.or_else(problem).map_or(failure, Failure::new)
}

fn no_such_view(name: &str) -> Failure {
    Failure::with_hint(
        format!("there is no view {name:?}"),
        "`simpletuner-live view ls` shows the names; `simpletuner-live view create` defines one",
    )
}

fn create(target: &Target, name: &str, definition: &ViewDefinition, json: bool) -> Outcome {
    let before = target.get(name)?;
    target.put(name, definition)?;
    if before.is_some_and(|before| before != definition.to_json()) {
        say("note", &format!("the view {name} is defined anew"));
    }
    let path = target.path(name);
    match &target.client {
        None => say(
            "note",
            "no mount is running; `simpletuner-live mount` shows the view",
        ),
        Some(client) => {
            let status = client.read_json("status")?;
            warn_of_views(&status["views"], definition, &path);
        }
    }
    match json {
        true => output::json(&with_path(definition.to_json(), &path)),
        false => output::line(&path.display().to_string()),
    }
}

/// Warns if the views are not as they are defined, by what `status` says of them.
pub(super) fn warn_of_problem(views: &Value) {
    if let Some(problem) = views["problem"].as_str() {
        warn(&match views["mount_point"].is_null() {
            true => format!("the views are not mounted: {problem}"),
            false => format!("the views are not as they are defined: {problem}"),
        });
    }
}

/// Warns if those who should read cannot.
fn warn_of_views(status: &Value, definition: &ViewDefinition, path: &Path) {
    warn_of_problem(status);
    for missing in definition.missing() {
        warn(&format!(
            "{missing} here, so only the user who mounts can read the view's files"
        ));
    }
    let is_for_others =
        definition.user.is_some() || definition.group.is_some() || definition.mode & 0o044 != 0;
    if !is_for_others {
        return;
    }
    if status["allow_other"] == json!(false) {
        warn(
            "no other user can read the view: that takes the line `user_allow_other` in /etc/fuse.conf, and then a new mount",
        );
    }
    let closed = path.ancestors().skip(2).find(|folder| {
        fs::metadata(folder).is_ok_and(|folder| folder.is_dir() && folder.mode() & 0o001 == 0)
    });
    if let Some(folder) = closed {
        warn(&format!(
            "other users cannot pass {}; bind the view's folder where they can (as a container engine does), or name a place that they \
             can reach by the setting views_dir",
            folder.display()
        ));
    }
}

fn with_path(mut definition: Value, path: &Path) -> Value {
    definition["path"] = json!(path);
    definition
}

fn list(target: &Target, json: bool) -> Outcome {
    let views = target.all()?;
    warn_of_problem(&target.status);
    if json {
        let views = views.into_iter().map(|(name, definition)| {
            let path = target.path(&name);
            (name, with_path(definition, &path))
        });
        return output::json(&views.collect::<Map<_, _>>());
    }
    let rows: Vec<_> = views
        .iter()
        .map(|(name, definition)| row(name, definition))
        .collect();
    output::table(&["NAME", "USER", "GROUP", "MODE", "SECRETS"], &rows)
}

fn row(name: &str, definition: &Value) -> Vec<String> {
    let text = |field: &str| definition[field].as_str().unwrap_or("-").to_owned();
    let patterns = definition["secrets"].as_array().into_iter().flatten();
    let mut secrets: Vec<String> = patterns
        .filter_map(|pattern| Some(pattern.as_str()?.to_owned()))
        .collect();
    let files = definition["files"].as_object().into_iter().flatten();
    secrets.extend(
        files.map(|(file, secret)| format!("{}={file}", secret.as_str().unwrap_or_default())),
    );
    let documents = definition["documents"].as_array().into_iter().flatten();
    secrets.extend(documents.map(|name| format!("secrets.{}", name.as_str().unwrap_or_default())));
    vec![
        name.to_owned(),
        text("user"),
        text("group"),
        text("mode"),
        secrets.join(" "),
    ]
}
