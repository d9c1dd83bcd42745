//! The listening sockets of `serve`. The server makes them and answers; the keeper holds them, too, so that a client that connects while
//! the server changes just waits.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::channel::Channel;
use super::handover::{HandoverState, SharedFds, ToKeeper};
use super::usage::bind_of_folder;
use super::views::ViewsMount;
use crate::error::{Error, Result};
use crate::live::SocketInfo;
use crate::serve::docker::{self, Mounts};
use crate::serve::http::Served;
use crate::serve::socket::{SocketFile, listen};
use crate::settings::Settings;

/// The sockets that this server answers on.
#[derive(Default)]
pub(super) struct Sockets {
    served: Vec<Served>,
    files: Vec<SocketFile>,
}

impl Sockets {
    /// Goes on with the sockets of the server before this one, makes those that the settings want, and removes those that they do not want
    /// any more. One that fails is an error in the log and in `status`; the mount goes on.
    pub(super) fn start(
        settings: &Settings,
        state: &mut HandoverState,
        shared: &mut SharedFds,
        views: &Arc<ViewsMount>,
        channel: &Channel,
    ) -> Self {
        let before = state.sockets.clone();
        let mut inherited: Vec<_> = before
            .iter()
            .cloned()
            .zip(shared.sockets.drain(..))
            .collect();
        let mut sockets = Self::default();
        let path = settings
            .docker
            .then(|| settings.docker_socket.clone())
            .map(|path| path.unwrap_or_else(|| docker::SOCKET.into()));
        if let Some(path) = path {
            let started = held(&mut inherited, &path)
                .map_or_else(|| listen(&path), Ok)
                .and_then(|(socket, file)| {
                    let shared_socket = socket.try_clone();
                    let shared_socket = shared_socket.map_err(|e| Error::io("the socket", e))?;
                    let (store, trail) = (views.store.clone(), views.trail.clone());
                    let served = docker::serve(socket, store, trail, views.clone());
                    let served = served.inspect_err(|_| file.remove())?;
                    Ok((shared_socket, file, served))
                });
            let problem = started.as_ref().err().map(problem_of);
            match started {
                Ok((socket, file, served)) => {
                    tracing::info!("container engines are answered at {}", path.display());
                    shared.sockets.push(socket);
                    sockets.files.push(file);
                    sockets.served.push(served);
                }
                Err(error) => {
                    let problem = problem_of(&error);
                    tracing::error!("container engines are not answered: {problem}");
                }
            }
            views.tree.set_mount_info(|info| {
                info.docker = Some(SocketInfo {
                    socket: path.display().to_string(),
                    problem,
                });
            });
        }
        inherited.iter().for_each(|(file, _)| file.remove());
        state.sockets.clone_from(&sockets.files);
        if state.sockets != before {
            let message = ToKeeper::Sockets(state.sockets.clone());
            // A keeper that has ended gets them from this server as the next one begins.
            let _ = channel.send_sockets(&message, &shared.sockets);
        }
        sockets
    }

    /// Another server is about to take over: answers those who have connected, and leaves it the others.
    pub(super) fn pause(&self, timeout: Duration) {
        self.served.iter().for_each(|served| served.pause(timeout));
    }

    /// The mount ends.
    pub(super) fn remove(&self) {
        self.files.iter().for_each(SocketFile::remove);
    }
}

fn problem_of(error: &Error) -> String {
    match error.errno() {
        libc::EACCES | libc::EPERM | libc::EROFS => {
            format!("{error}; mount as root, or name another path by the setting docker_socket")
        }
        _ => error.to_string(),
    }
}

/// The inherited socket at this path, unless somebody has removed its file.
fn held(inherited: &mut Vec<(SocketFile, OwnedFd)>, path: &Path) -> Option<(OwnedFd, SocketFile)> {
    let mut sockets = inherited.iter();
    let at = sockets.position(|(file, _)| file.path() == path && file.is_there())?;
    let (file, socket) = inherited.swap_remove(at);
    Some((socket, file))
}

impl Mounts for Arc<ViewsMount> {
    fn place(&self) -> Result<PathBuf, String> {
        let views = self.tree.mount_info().views;
        match (views.mount_point, views.problem) {
            (Some(place), _) => Ok(place.into()),
            (None, Some(problem)) => Err(format!("the views are not mounted: {problem}")),
            (None, None) => Err("the views are not mounted".into()),
        }
    }

    fn bound_at(&self, view: &str) -> Option<String> {
        let mount = self.serving.lock().as_ref()?.state.mount.find()?;
        Some(bind_of_folder(&mount, view)?.to_string())
    }
}
