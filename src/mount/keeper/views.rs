//! What the keeper does about the views' mount: it holds the descriptors that the server has sent, and passes them on.

use std::io;
use std::os::fd::OwnedFd;

use super::Keeper;
use crate::mount::connection::Connection;
use crate::mount::detach::detach_own;
use crate::mount::handover::{ToServer, ViewsFds, ViewsState};
use crate::mount::server_process::ServerProcess;
use crate::mount::{device, service};

impl Keeper {
    /// The server has mounted the views, or their mount has ended.
    pub(super) fn views_changed(&mut self, state: Option<ViewsState>, received: Vec<OwnedFd>) {
        let fds = |state| ViewsFds::from_message(state, received.into_iter());
        let views = state.as_ref().and_then(fds);
        if state.is_some() && views.is_none() {
            return tracing::error!("the server sent no descriptors of the views' mount");
        }
        match state {
            None if self.state.views.is_some() => service::remove_mount(&service::VIEWS),
            _ => {}
        }
        let mount = |state: &Option<ViewsState>| state.as_ref().map(|state| state.mount.clone());
        let is_another = mount(&self.state.views) != mount(&state);
        self.state.views = state;
        self.shared.views = views;
        if is_another {
            self.store_views();
        }
    }

    /// Sends the views' mount to a server that is about to begin: it has the descriptors of when it began to prepare.
    pub(super) fn send_views(&self, next: &ServerProcess) {
        let message = ToServer::Views(self.state.views.clone());
        let _ = next
            .channel
            .send_views(&message, self.shared.views.as_ref());
    }

    /// Has the service manager store the views' mount.
    pub(super) fn store_views(&self) {
        if let (Some(state), Some(views)) = (&self.state.views, &self.shared.views)
            && device::can_resend(&state.init)
        {
            let (mount, init) = (&state.mount, &state.init);
            service::store_mount(
                &service::VIEWS,
                mount,
                &views.device,
                init,
                state.allow_other,
                state.kernel_opens,
            );
        }
    }

    /// Takes the views' mount out of the tree. Returns its connection if that fails.
    pub(super) fn detach_views(&mut self) -> Option<io::Result<Connection>> {
        detach_own(&self.state.views.take()?.mount)
    }
}
