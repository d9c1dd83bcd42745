//! The views' mount, in the server: it comes with the first view and goes with the last. The keeper holds its descriptors.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::statfs;

use super::channel::Channel;
use super::connection::Connection;
use super::detach::detach;
use super::handover::{OsBytes, ToKeeper, ViewsFds, ViewsState, journal_files};
use super::mount_point::MountPoint;
use super::mount_point_state::{VIEWS_SOURCE, is_own, mounted, resolve};
use super::open_watch::{self, OpenWatch};
use super::session::{attach_session, request_resend};
use super::usage::binds_of;
use super::{device, usage};
use crate::audit::AuditTrail;
use crate::error::{Error, Result};
use crate::fuse::ViewsFs;
use crate::live::{Tree, ViewsInfo};
use crate::manager::SecretsManager;
use crate::process::heartbeat::{HeartbeatPage, Slot};
use crate::process::mountinfo::Mount;
use crate::secret::SealingKey;
use crate::sync::{self, LARGE_STACK, Mutex, RwLock};
use crate::views::{DefinitionsChange, OpenAudit, ViewStore, Views};

/// How long a mount of a server before this one may take to show that it has ended.
const DEAD_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the end of all reading may take.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// When to try again to mount, or to unmount.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How long the start of a server waits for the definitions.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// What the views' mount is made of.
pub(super) struct ViewsMount {
    pub(super) dir: PathBuf,
    pub(super) manager: Arc<SecretsManager>,
    pub(super) store: Arc<ViewStore>,
    pub(super) tree: Arc<Tree>,
    pub(super) heartbeat: HeartbeatPage,
    pub(super) key: SealingKey,
    pub(super) channel: Arc<RwLock<Channel>>,
    pub(super) trail: Arc<AuditTrail>,
    /// Held while the mount begins or ends, and while the keeper is told.
    pub(super) serving: Mutex<Option<Serving>>,
}

/// The mount as it is served.
pub(super) struct Serving {
    pub(super) state: ViewsState,
    pub(super) fds: ViewsFds,
    views: Arc<Views>,
    watch: Option<Arc<OpenWatch>>,
}

/// The mount of a server before this one.
pub(super) struct Inherited {
    pub(super) state: ViewsState,
    pub(super) fds: ViewsFds,
    /// The requests that it had read and not answered, and the last one; for kernels that cannot send them again.
    pub(super) unanswered: Vec<u64>,
    pub(super) last: u64,
    pub(super) can_resend: bool,
}

impl ViewsMount {
    /// Goes on with the mount of the server before this one, and follows the definitions from now on.
    pub(super) fn start(self: &Arc<Self>, inherited: Option<Inherited>) {
        let mut timeout = READ_TIMEOUT;
        if let Some(inherited) = inherited {
            let mut serving = self.serving.lock();
            match device::is_connected(&inherited.fds.device) {
                true => match self.go_on(inherited) {
                    // What was in force is in force again, however long the disk takes.
                    Ok(now) => {
                        *serving = Some(now);
                        timeout = Duration::ZERO;
                    }
                    Err(error) => tracing::error!("the views cannot be served: {error}"),
                },
                false => drop(self.channel.read().send(&ToKeeper::ViewsEnded)),
            }
        }
        if self.serving.lock().is_none() {
            // Both processes of an earlier mount have ended at once.
            let _ = clear(&self.dir);
        }
        let mount = Arc::downgrade(self);
        self.store.on_change(Box::new(move |change| {
            if let Some(mount) = mount.upgrade() {
                mount.definitions_changed(change);
            }
        }));
        // Before the definitions are read, which may show why they cannot be mounted.
        self.update_status(&mut self.serving.lock(), None);
        self.store.watch(timeout);
    }

    fn go_on(self: &Arc<Self>, inherited: Inherited) -> Result<Serving> {
        let Inherited {
            mut state,
            mut fds,
            unanswered,
            last,
            can_resend,
        } = inherited;
        let had_queue = fds.opens.is_some();
        self.choose_audit(&mut state, &mut fds);
        if had_queue != fds.opens.is_some() {
            let message = ToKeeper::ViewsMounted(state.clone());
            let _ = self.channel.read().send_views(&message, Some(&fds));
        }
        let serving = self.serve(state, fds)?;
        request_resend(&serving.fds.device, &unanswered, last, can_resend)
            .map_err(|e| Error::io("the requests of the server before this one", e))?;
        serving
            .views
            .prefetch(self.store.current().all().cloned(), false);
        Ok(serving)
    }

    /// The definitions have changed. They are acknowledged once this returns.
    fn definitions_changed(self: &Arc<Self>, change: &DefinitionsChange) {
        let mut serving = self.serving.lock();
        let mut problem = None;
        if !change.after.is_empty()
            && serving.is_none()
            && let Err(error) = self.mount(&mut serving)
        {
            problem = Some(error.to_string());
            if !change.is_repeat {
                tracing::error!("the views cannot be mounted: {error}");
            }
            self.store.repeat_after(RETRY_INTERVAL);
        }
        if let Some(serving) = &*serving {
            serving.views.definitions_changed(change);
        }
        if change.after.is_empty() && !self.unmount(&mut serving, !change.is_repeat) {
            self.store.repeat_after(RETRY_INTERVAL);
        }
        self.update_status(&mut serving, problem);
    }

    fn mount(self: &Arc<Self>, serving: &mut Option<Serving>) -> Result<()> {
        clear(&self.dir)?;
        self.clear_folder()?;
        let place = MountPoint::open(&self.dir)?.ok_or_else(|| {
            let dir = self.dir.display();
            Error::Settings(format!("something has just been mounted at {dir}"))
        })?;
        let (device, mount, allow_other) = device::mount_views(&place)?;
        let begin = || {
            let mut state = ViewsState {
                mount: mount.id(),
                mount_point: OsBytes::from(place.path()),
                init: device::read_init(&device)?,
                numbers_from: 0,
                allow_other,
                watches_opens: false,
                kernel_opens: false,
            };
            let mut fds = ViewsFds {
                device,
                journal: journal_files()?,
                opens: None,
            };
            self.choose_audit(&mut state, &mut fds);
            self.heartbeat.set(Slot::ViewsInitialized, 0);
            // A keeper that has ended gets them from this server as the next one begins.
            let message = ToKeeper::ViewsMounted(state.clone());
            let _ = self.channel.read().send_views(&message, Some(&fds));
            self.serve(state, fds)
        };
        let now = begin().inspect_err(|_| {
            let _ = detach(&mount);
            let _ = self.channel.read().send(&ToKeeper::ViewsEnded);
        })?;
        tracing::info!("the views are mounted at {}", place.path().display());
        *serving = Some(now);
        Ok(())
    }

    /// Removes the empty folders of views' names in the mount point: Docker makes one for `-v` while the views are not mounted.
    ///
    /// # Errors
    /// Something else is there.
    fn clear_folder(&self) -> Result<()> {
        let dir = self.dir.display();
        let views = self.store.current();
        // It need not be there yet.
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let shown = name.display();
            let is_view = name.to_str().is_some_and(|name| views.get(name).is_some());
            // Nothing but an empty folder can be removed so.
            if !is_view || std::fs::remove_dir(entry.path()).is_err() {
                return Err(Error::Settings(format!(
                    "{dir} is not empty: the views would hide {shown}; move it to another place, or choose another folder by the \
                     setting views_dir"
                )));
            }
            tracing::warn!(
                "{dir}/{shown} was an empty folder instead of the view, and is removed: restart the container that it was made for"
            );
        }
        Ok(())
    }

    /// Makes the queue of opens if the kernel gives one and reads are recorded, and gives it up if they are not any more.
    fn choose_audit(&self, state: &mut ViewsState, fds: &mut ViewsFds) {
        let records = self.trail.records_reads();
        let queue = fds.opens.take().filter(|_| records);
        fds.opens = queue.or_else(|| open_watch::new_queue().filter(|_| records));
        state.watches_opens = fds.opens.is_some();
        state.kernel_opens |= !records || state.watches_opens;
    }

    /// Answers the kernel, on a thread of its own.
    fn serve(self: &Arc<Self>, state: ViewsState, fds: ViewsFds) -> Result<Serving> {
        let failed = |e| Error::io("the journal", e);
        let ViewsFds {
            device,
            journal,
            opens,
        } = fds.try_clone().map_err(failed)?;
        let views = Views::restore(
            self.manager.clone(),
            self.store.clone(),
            journal.map(File::from),
            self.key.clone(),
            state.numbers_from,
            self.tree.counters().views.clone(),
        )?;
        let records = self.trail.records_reads();
        match records && !(state.kernel_opens && opens.is_none()) {
            // Also until the kernel reports opens.
            true => views.record_opens(OpenAudit::Open, self.trail.clone()),
            false if records => tracing::warn!(
                "who reads views is not recorded before the views are mounted again: reads were not recorded when their mount began"
            ),
            false => {}
        }
        let counters = self.tree.counters().views.clone();
        let fs = ViewsFs::new(views.clone(), self.heartbeat, counters);
        let slot = Slot::ViewsInitialized;
        let session = attach_session(fs, &state.init, &fds.device, &self.heartbeat, slot)?;
        views.set_device(device).map_err(failed)?;
        let (mount, served) = (Arc::downgrade(self), Arc::downgrade(&views));
        let run = move || {
            if let Err(error) = session.run() {
                tracing::error!("the views are not served any more: {error}");
            }
            if let (Some(mount), Some(views)) = (mount.upgrade(), served.upgrade()) {
                mount.has_ended(&views);
            }
        };
        sync::spawn("views", LARGE_STACK, run).map_err(|e| Error::io("threads", e))?;
        let watch = opens.and_then(|queue| {
            let mount = state.mount.clone();
            let watch = OpenWatch::start(queue, mount, &views, self.trail.clone());
            let failed = |error: &Error| {
                tracing::warn!("the kernel does not report who opens files of views: {error}");
            };
            watch.inspect_err(failed).ok()
        });
        Ok(Serving {
            state,
            fds,
            views,
            watch,
        })
    }

    /// Somebody has unmounted it, or this server has.
    fn has_ended(&self, views: &Arc<Views>) {
        let mut serving = self.serving.lock();
        if serving
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(&now.views, views))
        {
            tracing::info!("the views are unmounted");
            *serving = None;
            let _ = self.channel.read().send(&ToKeeper::ViewsEnded);
            self.update_status(&mut serving, None);
        }
    }

    /// Unmounts after the last view has gone, unless a folder of it is still bound somewhere: that one stays, and is empty. Returns
    /// whether there is no mount any more; `is_first`: what holds it is logged.
    fn unmount(&self, serving: &mut Option<Serving>, is_first: bool) -> bool {
        let Some(mount) = serving.as_ref().and_then(|now| now.state.mount.find()) else {
            return true;
        };
        let binds = binds_of(&mount);
        // A search that was cut off may not have found all.
        if !binds.found.is_empty() || binds.cut_off.is_some() {
            if is_first {
                let dir = mount.point.display();
                tracing::info!("{dir} has no view any more, and stays while it is bound elsewhere");
                usage::warn_of(&binds);
            }
            return false;
        }
        match detach(&mount) {
            Ok(()) => {
                *serving = None;
                let _ = self.channel.read().send(&ToKeeper::ViewsEnded);
                tracing::info!("the last view has gone, and the views are unmounted");
                true
            }
            Err(error) => {
                tracing::error!("{error}");
                false
            }
        }
    }

    /// Ends all reading: the mount ends. The kernel may wait for a page that nobody gives it, so a thread of its own does it.
    pub(super) fn end(&self) {
        let now = |serving: &Serving| (serving.views.clone(), serving.watch.clone());
        let Some((views, watch)) = self.serving.lock().as_ref().map(now) else {
            return;
        };
        let _ = sync::within("views-end", END_TIMEOUT, move || views.end());
        if let Some(watch) = watch {
            let finish = move || watch.finish(END_TIMEOUT);
            let _ = sync::within("views-end", END_TIMEOUT, finish);
        }
    }

    /// Takes the mount out of the tree, for a server without a keeper. Returns its connection if that fails.
    pub(super) fn detach(&self) -> Option<std::io::Result<Connection>> {
        super::detach::detach_own(&self.serving.lock().as_ref()?.state.mount)
    }

    /// Leaves the opens that the kernel reports from now on to the next server.
    pub(super) fn leave_opens(&self) {
        let watch = self
            .serving
            .lock()
            .as_ref()
            .and_then(|now| now.watch.clone());
        if let Some(watch) = watch {
            watch.pause();
        }
    }

    /// Has the kernel ask again for every name.
    pub(super) fn next_epoch(&self) {
        if let Some(serving) = &*self.serving.lock() {
            serving.views.kernel_names().next_epoch();
        }
    }

    fn update_status(&self, serving: &mut Option<Serving>, problem: Option<String>) {
        let place = serving.as_ref().map(|now| now.state.mount_point.to_os());
        let place = place.map(|place| place.to_string_lossy().into_owned());
        let allow_other = serving.as_ref().is_some_and(|now| now.state.allow_other);
        let audit = serving.as_ref().map(|now| now.views.open_audit());
        let audit = audit.unwrap_or_default().as_str();
        let count = self.store.current().len();
        self.tree.set_mount_info(|info| {
            info.views = ViewsInfo {
                dir: place
                    .clone()
                    .unwrap_or_else(|| self.dir.display().to_string()),
                mount_point: place,
                allow_other,
                audit,
                count,
                problem,
            };
        });
    }
}

/// Cleans up a mount of views that has ended.
///
/// # Errors
/// Something else is mounted there, or it is alive.
fn clear(dir: &Path) -> Result<()> {
    let dir = resolve(dir);
    let Some(mount) = mounted(&dir)? else {
        return Ok(());
    };
    let shown = dir.display();
    let remedy = "choose another folder by the setting views_dir";
    if !is_own(&mount, VIEWS_SOURCE) {
        let fstype = &mount.fstype;
        return Err(Error::Settings(format!(
            "{shown} has a mount of type {fstype} on it; {remedy}"
        )));
    }
    if !has_ended(&mount) {
        return Err(Error::Settings(format!(
            "{shown} has the views of another mount of this user on it; {remedy}"
        )));
    }
    tracing::warn!("cleaning up the dead mount at {shown}");
    // Afterwards nothing says any more whose they were.
    usage::warn_of_old_values(&binds_of(&mount));
    detach(&mount)
}

/// Where else the views of a mount at `dir` are mounted whose processes have both ended. Who reads them there goes on reading what the
/// kernel still has.
pub(super) fn bound_to_dead_views(dir: &Path) -> usage::Uses {
    let mount = mounted(&resolve(dir)).ok().flatten();
    let dead = mount.filter(|mount| is_own(mount, VIEWS_SOURCE) && has_ended(mount));
    dead.map(|dead| binds_of(&dead)).unwrap_or_default()
}

/// Whether nobody answers a mount any more. One that does not answer in time counts as alive.
fn has_ended(mount: &Mount) -> bool {
    let point = mount.point.clone();
    sync::within("status", DEAD_TIMEOUT, move || statfs(&point).is_err()).unwrap_or(false)
}
