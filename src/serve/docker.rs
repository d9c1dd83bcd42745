//! The volume plugin protocol, version 1, of Docker and Podman (docs.docker.com/engine/extend/plugins_volume). A volume is the view of
//! that name: there is no other state, so nothing can be lost or disagree.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::http::{self, Served, Service};
use super::socket::Client;
use crate::audit::{AuditEvent, AuditTrail};
use crate::error::{Error, Result};
use crate::provider::rfc3339;
use crate::views::definition::check_name;
use crate::views::{View, ViewDefinition, ViewStore};

/// Where Docker looks for plugins.
pub const SOCKET: &str = "/run/docker/plugins/simpletuner-live.sock";
/// The options of a volume.
const OPTIONS: [&str; 4] = ["secrets", "user", "mode", "documents"];

/// Where the views are mounted, and what has them.
pub trait Mounts: Send + Sync + 'static {
    /// Where the views are mounted.
    ///
    /// # Errors
    /// Why they are not.
    fn place(&self) -> Result<PathBuf, String>;

    /// Where this view's folder is mounted besides, if it is: a container has it.
    fn bound_at(&self, view: &str) -> Option<String>;
}

/// Serves the protocol on this socket.
///
/// # Errors
/// [`Error::Io`].
pub fn serve(
    socket: OwnedFd,
    store: Arc<ViewStore>,
    trail: Arc<AuditTrail>,
    mounts: impl Mounts,
) -> Result<Served> {
    let volumes = Volumes {
        store,
        trail: Some(trail),
        mounts,
    };
    http::serve("docker", socket, Arc::new(volumes))
}

struct Volumes<M> {
    store: Arc<ViewStore>,
    /// Where changes of views are recorded.
    trail: Option<Arc<AuditTrail>>,
    mounts: M,
}

/// What a request has. Docker leaves out options that there are none of, or sends null.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Request {
    name: String,
    #[serde(deserialize_with = "or_default")]
    opts: BTreeMap<String, String>,
}

fn or_default<'de, D: Deserializer<'de>>(value: D) -> Result<BTreeMap<String, String>, D::Error> {
    Option::deserialize(value).map(Option::unwrap_or_default)
}

impl<M: Mounts> Service for Volumes<M> {
    const CONTENT_TYPE: &'static str = "application/vnd.docker.plugins.v1.1+json";

    fn answer(&self, client: Client, path: &str, content: &[u8]) -> (u16, Vec<u8>) {
        // Podman sends no content where none is needed.
        let request = match content.trim_ascii() {
            b"" => Ok(Request::default()),
            content => serde_json::from_slice(content),
        };
        let answer = match request {
            Ok(request) => self.carry_out(client, path, &request),
            Err(error) => Err(format!("the request is malformed: {error}")),
        };
        match answer {
            Ok(Some(answer)) => (200, answer.to_string().into_bytes()),
            Ok(None) => (404, self.problem(&format!("there is no request {path:?}"))),
            Err(why) => (500, self.problem(&why)),
        }
    }

    fn problem(&self, why: &str) -> Vec<u8> {
        json!({ "Err": why }).to_string().into_bytes()
    }
}

impl<M: Mounts> Volumes<M> {
    fn carry_out(
        &self,
        client: Client,
        path: &str,
        request: &Request,
    ) -> Result<Option<Value>, String> {
        let name = &*request.name;
        Ok(Some(match path {
            "/Plugin.Activate" => json!({ "Implements": ["VolumeDriver"] }),
            "/VolumeDriver.Capabilities" => json!({ "Capabilities": { "Scope": "local" } }),
            "/VolumeDriver.Create" => self.create(client, name, &request.opts)?,
            "/VolumeDriver.Remove" => self.remove(client, name)?,
            "/VolumeDriver.Path" | "/VolumeDriver.Mount" => {
                json!({ "Mountpoint": self.folder(name)? })
            }
            // The engine binds the folder, and unbinds it: a view has nothing to begin or to end.
            "/VolumeDriver.Unmount" => json!({}),
            "/VolumeDriver.Get" => {
                let view = self.require(name)?;
                json!({ "Volume": self.volume(&view) })
            }
            "/VolumeDriver.List" => {
                let views = self.store.current();
                let volumes: Vec<Value> = views.all().map(|view| self.volume(view)).collect();
                json!({ "Volumes": volumes })
            }
            _ => return Ok(None),
        }))
    }

    fn volume(&self, view: &View) -> Value {
        let created_at = rfc3339(view.changed_at);
        let mut volume = json!({ "Name": view.name, "CreatedAt": created_at });
        if let Ok(folder) = self.mounts.place() {
            volume["Mountpoint"] = json!(folder.join(&view.name));
        }
        volume
    }

    fn require(&self, name: &str) -> Result<Arc<View>, String> {
        let view = self.store.current().get(name).cloned();
        view.ok_or_else(|| format!("there is no view {name:?}"))
    }

    fn record(&self, client: Client, event: AuditEvent) {
        if let Some(trail) = &self.trail {
            trail.record(client.actor(), event);
        }
    }

    /// Answers from what is known: the values need not be there yet.
    fn folder(&self, name: &str) -> Result<PathBuf, String> {
        self.require(name)?;
        Ok(self.mounts.place()?.join(name))
    }

    fn create(
        &self,
        client: Client,
        name: &str,
        options: &BTreeMap<String, String>,
    ) -> Result<Value, String> {
        check_name(name).map_err(|error| error.to_string())?;
        let views = self.store.current();
        let known = views.get(name).map(|view| &view.definition);
        // A view that was defined by other means is a volume, too.
        if options.is_empty() && known.is_some() {
            return Ok(json!({}));
        }
        let wanted = definition(options)?;
        match known {
            Some(known) if *known == wanted => {}
            Some(_) => {
                return Err(format!(
                    "the view {name} is there already, with another definition; \
                     `simpletuner-live view create {name}` defines it anew"
                ));
            }
            None => {
                if let Some(missing) = wanted.missing().first() {
                    return Err(format!("{missing} here; a number needs no name"));
                }
                let text = wanted.to_json().to_string();
                let put = self.store.put(name, text.as_bytes());
                put.map_err(|error| error.to_string())?;
                // A view that nobody can see is of no use: better said now than by an empty folder.
                if let Err(why) = self.mounts.place() {
                    let _ = self.store.remove(name);
                    return Err(why);
                }
                self.record(client, AuditEvent::ViewSet(name.to_owned()));
            }
        }
        self.mounts.place()?;
        Ok(json!({}))
    }

    fn remove(&self, client: Client, name: &str) -> Result<Value, String> {
        self.require(name)?;
        if let Some(place) = self.mounts.bound_at(name) {
            return Err(format!("the view {name} is in use: {place}"));
        }
        match self.store.remove(name) {
            Ok(()) => {
                self.record(client, AuditEvent::ViewRemoved(name.to_owned()));
                Ok(json!({}))
            }
            Err(Error::NotFound { .. }) => Ok(json!({})),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The definition that a volume's options give.
fn definition(options: &BTreeMap<String, String>) -> Result<ViewDefinition, String> {
    let known = OPTIONS.join(", ");
    let is_unknown = |name: &&String| !OPTIONS.contains(&name.as_str());
    if let Some(unknown) = options.keys().find(is_unknown) {
        let shown: String = unknown.chars().take(100).collect();
        return Err(format!(
            "there is no option {shown:?}; the options are {known}"
        ));
    }
    let words = |name: &str| -> Vec<&str> {
        let text = options.get(name).map_or("", |text| text.trim());
        match text.is_empty() {
            true => Vec::new(),
            false => text.split(',').map(str::trim).collect(),
        }
    };
    let secrets = words("secrets");
    if secrets.is_empty() {
        return Err(format!(
            "the option secrets is missing: -o secrets=HF_TOKEN,WANDB_*; the options are {known}"
        ));
    }
    let user = options.get("user").map(|user| user.trim());
    let mode = options.get("mode").map_or("0400", |mode| mode.trim());
    ViewDefinition::from_words(&secrets, user, mode, &words("documents"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Somewhere;

    impl Mounts for Somewhere {
        fn place(&self) -> Result<PathBuf, String> {
            Ok("/views".into())
        }

        fn bound_at(&self, view: &str) -> Option<String> {
            (view == "busy").then(|| "process 1 has it".into())
        }
    }

    fn volumes(folder: &tempfile::TempDir) -> Volumes<Somewhere> {
        let file = folder.path().join("views.json");
        Volumes {
            store: ViewStore::new(&file, Duration::from_secs(1)),
            trail: None,
            mounts: Somewhere,
        }
    }

    fn client() -> Client {
        let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        Client::admitted(&theirs).unwrap()
    }

    fn ask(volumes: &Volumes<Somewhere>, request: &str, content: &str) -> (u16, Value) {
        let path = format!("/VolumeDriver.{request}");
        let (status, answer) = volumes.answer(client(), &path, content.as_bytes());
        (status, serde_json::from_slice(&answer).unwrap())
    }

    #[test]
    fn a_volume_is_a_view() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = volumes(&folder);
        let create = r#"{"Name":"hf","Opts":{"secrets":"HF_*, A=token","user":"1000:7","mode":"440","documents":"env,json"}}"#;
        for _ in 0..2 {
            assert_eq!(ask(&volumes, "Create", create), (200, json!({})));
        }
        let views = volumes.store.current();
        let expected = json!({"secrets":["HF_*"],"files":{"token":"A"},"user":"1000","group":"7","mode":"0440","documents":["env","json"]});
        assert_eq!(views.get("hf").unwrap().definition.to_json(), expected);
        let created_at = rfc3339(views.get("hf").unwrap().changed_at);
        let volume = json!({"Name":"hf","CreatedAt":created_at,"Mountpoint":"/views/hf"});
        let name = r#"{"Name":"hf","ID":"1"}"#;
        assert_eq!(ask(&volumes, "Get", name).1, json!({ "Volume": volume }));
        assert_eq!(ask(&volumes, "List", "").1, json!({"Volumes":[volume]}));
        for request in ["Mount", "Path"] {
            let place = json!({"Mountpoint":"/views/hf"});
            assert_eq!(ask(&volumes, request, name), (200, place));
        }
        assert_eq!(ask(&volumes, "Unmount", name), (200, json!({})));
        assert_eq!(ask(&volumes, "Create", name), (200, json!({})));
        assert_eq!(ask(&volumes, "Remove", name), (200, json!({})));
        assert_eq!(ask(&volumes, "Get", name).0, 500);
        assert_eq!(ask(&volumes, "Remove", name).0, 500);
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = volumes(&folder);
        let refused = |request: &str, content: &str, words: &str| {
            let (status, answer) = ask(&volumes, request, content);
            let why = answer["Err"].as_str().unwrap();
            assert!(status == 500 && why.contains(words), "{content}: {why}");
        };
        assert_eq!(
            ask(
                &volumes,
                "Create",
                r#"{"Name":"busy","Opts":{"secrets":"A"}}"#
            )
            .0,
            200
        );
        refused(
            "Create",
            r#"{"Name":"busy","Opts":{"secrets":"B"}}"#,
            "another definition",
        );
        refused("Remove", r#"{"Name":"busy"}"#, "is in use: process 1");
        refused(
            "Create",
            r#"{"Name":"a","Opts":null}"#,
            "secrets is missing",
        );
        refused(
            "Create",
            r#"{"Name":"a","Opts":{"secrets":" "}}"#,
            "secrets is missing",
        );
        refused(
            "Create",
            r#"{"Name":"a","Opts":{"secret":"A"}}"#,
            "the options are secrets, user, mode, documents",
        );
        refused(
            "Create",
            r#"{"Name":"a","Opts":{"secrets":"A,,B"}}"#,
            "it is empty",
        );
        refused(
            "Create",
            r#"{"Name":"a","Opts":{"secrets":"A","mode":"0777"}}"#,
            "nothing but bits to read",
        );
        refused(
            "Create",
            r#"{"Name":"a","Opts":{"secrets":"A","documents":"yaml"}}"#,
            "env and json",
        );
        refused(
            "Create",
            r#"{"Name":"a/b","Opts":{"secrets":"A"}}"#,
            "only letters",
        );
        refused("Create", r#"{"Opts":{"secrets":"A"}}"#, "it is empty");
        let user = r#"{"Name":"a","Opts":{"secrets":"A","user":"no-such-user"}}"#;
        refused("Create", user, "no user \"no-such-user\"");
        refused("Mount", r#"{"Name":"a"}"#, "there is no view");
        refused("Get", "[1", "is malformed");
        assert_eq!(ask(&volumes, "Nothing", "{}").0, 404);
        assert_eq!(volumes.answer(client(), "/Plugin.Activate", b"").0, 200);
    }
}
