//! The server: assembles the tree and answers the kernel.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};

use fuser::Session;

use super::channel::Channel;
use super::handover::{
    HandoverState, Hello, RELOADED, SharedFds, ToKeeper, ToServer, ViewsFds, whole_seconds,
};
use super::in_force;
use super::keeper_link::KeeperLink;
use super::session::{attach_session, request_resend};
use super::setup::Signals;
use super::sockets::Sockets;
use super::views::{Inherited, ViewsMount};
use crate::audit::AuditTrail;
use crate::clock;
use crate::error::{Error, Result};
use crate::files::{base_folder, reserve};
use crate::fuse::{Drain, Fs};
use crate::hardware::{Hardware, database_loader};
use crate::live::{Commits, Owner, Parts, Tree};
use crate::manager::SecretsManager;
use crate::process::heartbeat::{HeartbeatPage, OF_VIEWS, Slot};
use crate::provider::variables_of_programs;
use crate::settings::{Settings, SettingsContent};
use crate::simpletuner_db::ProviderConfigs;
use crate::sync::{self, JoinHandle, LARGE_STACK, Mutex, RwLock, not_started};
use crate::views::ViewStore;

/// This variable makes the server act as on a kernel that cannot resend requests.
const NO_RESEND: &str = "SIMPLETUNER_LIVE_NO_RESEND";

/// Serves the mount of the keeper that started this process, until the mount ends. `load` loads the settings: from the
/// content of the settings file that is in force, or from the file if there is none yet.
///
/// # Errors
/// Why the server cannot serve. The keeper gets the same reason.
pub fn serve(load: impl FnOnce(Option<SettingsContent>) -> Result<Settings>) -> Result<()> {
    let (Hello::Serve(mut state), mut shared, channel) = Channel::inherited()?.receive_hello()?
    else {
        return Err(Error::Settings(
            "only a keeper starts this part of a mount".into(),
        ));
    };
    state.server = std::process::id();
    base_folder::keep(state.base_folder.clone());
    let settings = in_force::load(&shared.settings, state.log_file(), load);
    let channel = Arc::new(RwLock::new(channel));
    let assembled = settings.and_then(|settings| {
        let prepared = prepare(&settings, &mut state, &mut shared, &channel.read())?;
        let Some(manager) = prepared else {
            return Ok(None);
        };
        let parts = assemble(&settings, &state, &shared, manager.clone(), &channel)?;
        Ok(Some((parts, manager, Signals::new()?, settings)))
    });
    let (
        Assembled {
            session,
            heartbeat,
            drain,
            tree,
            unfinished,
            views,
            is_first,
        },
        manager,
        signals,
        settings,
    ) = match assembled {
        Ok(Some(assembled)) => assembled,
        Ok(None) => return Ok(()),
        Err(error) => {
            // The keeper may have ended as well.
            let _ = channel.read().send(&ToKeeper::Failed(error.to_string()));
            return Err(error);
        }
    };
    let sockets = Sockets::start(&settings, &mut state, &mut shared, &views, &channel.read());
    let sockets = Arc::new(sockets);
    reserve::keep();
    drain.resume(unfinished);
    let mount_point = state.mount_point();
    tracing::info!("serving {}", mount_point.display());
    let (begin, begun) = mpsc::channel();
    let keeper_link = KeeperLink {
        channel: channel.clone(),
        keeper: None,
        begin: is_first.then_some(begin),
        signals,
        state,
        shared,
        heartbeat,
        drain: drain.clone(),
        tree,
        views: views.clone(),
        sockets: sockets.clone(),
        manager: manager.clone(),
        slept: clock::slept(),
    };
    keeper_link.start_thread().inspect_err(|error| {
        let _ = channel.read().send(&ToKeeper::Failed(error.to_string()));
    })?;
    // It ends with an error as soon as `begin` is dropped.
    let _ = begun.recv();
    let result = session.run();
    sockets.remove();
    views.end();
    if let Err(error) = &result {
        let why = format!(
            "the device: {}",
            not_started(io::Error::new(error.kind(), error.to_string()))
        );
        let _ = channel.read().send(&ToKeeper::Failed(why));
    }
    drain.finish();
    manager.close();
    result.map_err(|e| Error::io(mount_point.display().to_string(), e))
}

/// Does what is possible while another server still answers, and waits until the keeper says to begin. Puts the restarts so far and the
/// views' mount as it is then into `state` and `shared`. `None`: the mount has ended meanwhile.
fn prepare(
    settings: &Settings,
    state: &mut HandoverState,
    shared: &mut SharedFds,
    channel: &Channel,
) -> Result<Option<Arc<SecretsManager>>> {
    crate::secret::set_fingerprint_key(state.fingerprints);
    let manager = SecretsManager::from_settings(settings)?;
    let warm = warm_up(manager.clone());
    // With `Begin` here already, readers wait: the server then begins before the key is derived.
    if !channel.is_readable()
        && let Some(warm) = warm
    {
        let _ = warm.join();
    }
    channel.send(&ToKeeper::Prepared(whole_seconds(settings.timeout.server)))?;
    loop {
        match channel.receive_with_descriptors()? {
            Some((ToServer::Begin(restarts), _)) => {
                state.restarts = restarts;
                return Ok(Some(manager));
            }
            Some((ToServer::Views(views), received)) => {
                let fds = |state| ViewsFds::from_message(state, received.into_iter());
                shared.views = views.as_ref().and_then(fds);
                state.views = views;
            }
            Some((ToServer::Shutdown, _)) | None => return Ok(None),
            Some(_) => {}
        }
    }
}

struct Assembled {
    session: Session<Fs>,
    heartbeat: HeartbeatPage,
    drain: Drain,
    tree: Arc<Tree>,
    unfinished: Commits,
    views: Arc<ViewsMount>,
    /// No server has answered this mount before.
    is_first: bool,
}

/// Builds everything that can fail before the server answers.
fn assemble(
    settings: &Settings,
    state: &HandoverState,
    shared: &SharedFds,
    manager: Arc<SecretsManager>,
    channel: &Arc<RwLock<Channel>>,
) -> Result<Assembled> {
    let heartbeat = HeartbeatPage::map(&shared.heartbeat)?;
    heartbeat.beat();
    let audit = AuditTrail::from_settings(settings);
    let configs = ProviderConfigs::in_registry(manager.caches(), settings, audit.clone());
    let configs = Arc::new(configs);
    let hardware = Arc::new(Hardware::in_registry(
        manager.caches(),
        database_loader(configs.clone(), false),
    ));
    let owner = Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        allows_root: in_force::allows_root(settings, state.allow_root),
    };
    let file = |fd: &OwnedFd| match fd.try_clone() {
        Ok(file) => Ok(std::fs::File::from(file)),
        Err(error) => Err(Error::io("the journal", error)),
    };
    let journal = [file(&shared.journal[0])?, file(&shared.journal[1])?];
    let view_store = ViewStore::new(&settings.views_file, settings.timeout.total);
    let (tree, unfinished) = Tree::restore(
        Parts {
            manager: manager.clone(),
            hardware,
            configs: Some(configs),
            audit: Some(audit.clone()),
            views: Some(view_store.clone()),
            processes: Arc::new(crate::process::Proc),
        },
        owner,
        journal,
        shared.key.clone(),
        state.numbers_from,
    )?;
    tree.set_mount_info(|info| {
        info.mount_point = state.mount_point().display().to_string();
        info.filesystem = Some(state.mount.filesystem());
        info.allow_root = owner.allows_root;
        info.settings_file = settings.config_file.display().to_string();
        info.settings = settings.content.digest();
        info.variables_of_programs = variables_of_programs(settings);
        info.reload.clone_from(&state.reload);
        info.keeper_pid = Some(state.keeper);
        info.restarts.clone_from(&state.restarts);
        info.program = Some(state.program.to_os().to_string_lossy().into_owned());
        info.upgrade.clone_from(&state.upgrade);
    });
    let threads = |e| Error::io("a thread cannot be started", e);
    let fs = Fs::new(tree.clone(), Some(heartbeat)).map_err(threads)?;
    let drain = fs.drain();
    let slot = Slot::Initialized;
    let is_first = heartbeat.get(slot) == 0;
    let session = attach_session(fs, &state.init, &shared.device, &heartbeat, slot)?;
    if std::env::var_os(NO_RESEND).is_some() {
        tree.set_mount_info(|info| info.kernel.resend = false);
    }
    drain.set_device(shared.device.as_fd()).map_err(threads)?;
    if settings.prefetch {
        // In the background: a backend that hangs must not delay the mount.
        manager.refresh_async(Box::new(|_| {}));
    }
    if let Some(restart) = state.restarts.last() {
        tree.notify_restart(restart);
        if restart.reason == RELOADED {
            // What the server before this one held may be another account's, under the same name.
            manager.clear_cache();
        }
    }
    // Not earlier: if this server ends before it has the requests sent again, its successor must still know them.
    let unanswered = heartbeat.drain_unanswered().into_iter();
    let (of_views, unanswered): (Vec<u64>, Vec<u64>) =
        unanswered.partition(|request| request & OF_VIEWS != 0);
    let last = heartbeat.get(Slot::LastRequest);
    let can_resend = tree.mount_info().kernel.resend;
    request_resend(&shared.device, &unanswered, last, can_resend)
        .map_err(|e| Error::io("the requests of the server before this one", e))?;
    let views = Arc::new(ViewsMount {
        dir: settings.views_dir.clone(),
        manager,
        store: view_store,
        tree: tree.clone(),
        heartbeat,
        key: shared.key.clone(),
        channel: channel.clone(),
        trail: audit,
        serving: Mutex::default(),
    });
    let fds = shared.views.as_ref().map(ViewsFds::try_clone).transpose();
    let fds = fds.map_err(|e| Error::io("the descriptors of the views' mount", e))?;
    views.start(state.views.clone().zip(fds).map(|(state, fds)| Inherited {
        state,
        fds,
        unanswered: of_views.iter().map(|request| request & !OF_VIEWS).collect(),
        last: heartbeat.get(Slot::LastViewsRequest) & !OF_VIEWS,
        can_resend,
    }));
    Ok(Assembled {
        views,
        session,
        heartbeat,
        drain,
        tree,
        unfinished,
        is_first,
    })
}

/// Derives the store's key in the background, which takes a moment, so that the first reader does not wait for it.
fn warm_up(manager: Arc<SecretsManager>) -> Option<JoinHandle<()>> {
    let warm = move || {
        let names = manager.names();
        let mut names = names.iter();
        if let Some((name, _)) = names.find(|(_, provider)| &**provider == "file") {
            let _ = manager.find(name);
        }
    };
    sync::spawn("warm-up", LARGE_STACK, warm).ok()
}
