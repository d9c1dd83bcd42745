//! What Docker and Podman call a container, from their own files: no engine is asked, and the disk is waited for only briefly.

use std::num::NonZero;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use lru::LruCache;
use serde::Deserialize;

use crate::files::read_file;
use crate::sync::{self, Mutex, SMALL_STACK};
use crate::text::printable;

/// Docker's folder of containers.
const DOCKER: &str = "/var/lib/docker/containers";
/// Podman's lists of containers.
const PODMAN: [&str; 2] = [
    "/var/lib/containers/storage/overlay-containers/containers.json",
    "/var/lib/containers/storage/vfs-containers/containers.json",
];
/// The most bytes of such a file.
const MAX_FILE: usize = 4 << 20;
/// How long the disk may take.
const TIMEOUT: Duration = Duration::from_millis(100);
/// How many digits of an id engines show.
const SHOWN_DIGITS: usize = 12;
/// How many containers are remembered.
const MAX_NAMES: NonZero<usize> = NonZero::new(1000).unwrap();

/// The names that were looked up, with those that were not found.
static NAMES: Mutex<Option<LruCache<String, Option<String>>>> = Mutex::new(None);

#[derive(Deserialize)]
struct DockerContainer {
    #[serde(rename = "Name")]
    name: String,
}

#[derive(Deserialize)]
struct PodmanContainer {
    id: String,
    #[serde(default)]
    names: Vec<String>,
}

/// Looks up the names of containers that are not known yet, for at most 0.1 s in all.
pub(super) fn look_up<'a>(ids: impl Iterator<Item = &'a String>) {
    let until = Instant::now() + TIMEOUT;
    for id in ids {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let mut names = NAMES.lock();
        if !names
            .get_or_insert_with(|| LruCache::new(MAX_NAMES))
            .contains(id)
        {
            drop(names);
            let name = within(left, id);
            let mut names = NAMES.lock();
            let names = names.get_or_insert_with(|| LruCache::new(MAX_NAMES));
            names.put(id.clone(), name);
        }
    }
}

/// The name that the container had when it was looked up. `None`: it was not, its engine is another one, this user may not read the
/// engine's files, or the disk did not answer in time.
pub(super) fn container_name(id: &str) -> Option<String> {
    NAMES.lock().as_mut()?.get(id)?.clone()
}

/// What a message calls a container: its name, or the digits of its id that engines show.
pub(crate) fn name_or_id(id: &str) -> String {
    look_up(std::iter::once(&id.to_owned()));
    container_name(id).unwrap_or_else(|| short_id(id).to_owned())
}

/// As much of a container's id as engines show.
pub(crate) fn short_id(id: &str) -> &str {
    id.get(..SHOWN_DIGITS).unwrap_or(id)
}

fn within(timeout: Duration, id: &str) -> Option<String> {
    let (sender, receiver) = channel();
    let id = id.to_owned();
    let find = move || sender.send(find(&id)).unwrap_or_default();
    // Without a thread, there is no sender.
    let _ = sync::spawn("container-name", SMALL_STACK, find);
    receiver.recv_timeout(timeout).ok().flatten()
}

fn find(id: &str) -> Option<String> {
    let of_podman = || PODMAN.iter().find_map(|list| in_list(Path::new(list), id));
    in_docker(Path::new(DOCKER), id).or_else(of_podman)
}

fn in_docker(dir: &Path, id: &str) -> Option<String> {
    let file = read_file(&dir.join(id).join("config.v2.json"), MAX_FILE).ok()?;
    let container: DockerContainer = serde_json::from_slice(&file.bytes).ok()?;
    Some(printable(container.name.trim_start_matches('/')))
}

fn in_list(path: &Path, id: &str) -> Option<String> {
    let file = read_file(path, MAX_FILE).ok()?;
    let containers: Vec<PodmanContainer> = serde_json::from_slice(&file.bytes).ok()?;
    let container = containers.into_iter().find(|listed| listed.id == id)?;
    container.names.first().map(|name| printable(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_name_is_in_the_files_of_docker_and_of_podman() {
        let dir = tempfile::tempdir().unwrap();
        let id = "0f".repeat(32);
        fs::create_dir(dir.path().join(&id)).unwrap();
        let config = dir.path().join(&id).join("config.v2.json");
        fs::write(
            &config,
            r#"{"ID": "x", "Name": "/web\n1", "Config": {"Env": ["A=b"]}}"#,
        )
        .unwrap();
        assert_eq!(in_docker(dir.path(), &id).as_deref(), Some("web\\n1"));
        assert_eq!(in_docker(dir.path(), "another"), None);
        fs::write(&config, "{").unwrap();
        assert_eq!(in_docker(dir.path(), &id), None);

        let list = dir.path().join("containers.json");
        let text =
            format!(r#"[{{"id": "1", "names": ["a"]}}, {{"id": "{id}", "names": ["web"]}}]"#);
        fs::write(&list, text).unwrap();
        assert_eq!(in_list(&list, &id).as_deref(), Some("web"));
        assert_eq!(in_list(&list, "2"), None);
        assert_eq!(container_name("no container"), None);
    }
}
