//! The socket between keeper and server: it keeps messages apart, and carries descriptors and the journal's key. It also
//! starts the program as either part, because that begins with a message.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::environment::{Environment, MAX_VARIABLES};
use super::handover::{FORMAT, HandoverState, Hello, OsBytes, SharedFds, ToKeeper, ViewsFds};
use super::poll::is_ready;
use super::setup::{block_signals, unblock_signals};
use crate::error::{Error, Result};
use crate::secret::SealingKey;
use crate::sync::not_started;

/// The number of descriptors in `SharedFds`.
const SHARED_FDS: usize = 6;
/// The most listening sockets.
const MAX_SOCKETS: usize = 4;
/// The most descriptors in one message: those, those of the views' mount, the sockets, and another channel.
const MAX_FDS: usize = SHARED_FDS + ViewsFds::COUNT + MAX_SOCKETS + 1;
/// The most bytes in one message: the variables of a reload are the longest.
const MAX_MESSAGE: usize = MAX_VARIABLES + 1024;

/// One end of the socket.
pub(super) struct Channel(pub(super) OwnedFd);

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The command that runs the mount's program as one part. The program is opened by its descriptor, so that it is the same
/// one even if another lies at its path now.
fn program(
    shared: &SharedFds,
    state: &HandoverState,
    part: &str,
    environment: Option<&Environment>,
) -> Command {
    let mut command = Command::new(format!("/proc/self/fd/{}", shared.program.as_raw_fd()));
    command
        .arg0("simpletuner-live")
        .args(["mount", "--foreground", "--part", part, "--handover"])
        .arg(FORMAT.to_string())
        .args(state.arguments.iter().map(OsBytes::to_os));
    if let Some(environment) = environment {
        environment.give_to(&mut command);
    }
    command
}

/// Both ends of a new socket.
pub(super) fn pair() -> std::result::Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

fn failed(error: Errno) -> Error {
    Error::io("the channel between keeper and server", error)
}

impl Channel {
    /// The end that this process got as its standard input.
    pub(super) fn inherited() -> Result<Self> {
        let end = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).map_err(failed)?;
        Ok(Self(end))
    }

    /// Starts the program as one part, with the other end of a new channel, and with other variables than this process if
    /// there are any.
    pub(super) fn start(
        shared: &SharedFds,
        state: &HandoverState,
        part: &str,
        environment: Option<&Environment>,
    ) -> Result<(Child, Self)> {
        let (ours, theirs) = pair().map_err(failed)?;
        let mut command = program(shared, state, part, environment);
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null());
        if state.log_file.is_some() {
            command.stderr(Stdio::null());
        }
        let child = command
            .spawn()
            .map_err(|e| Error::io(format!("the {part} cannot be started"), not_started(e)))?;
        Ok((child, Self(ours)))
    }

    /// Executes the program as one part in this process. It finds `message` on its channel, and then answers on `channel`,
    /// which goes along. Returns only if that failed.
    pub(super) fn exec(
        shared: &SharedFds,
        state: &HandoverState,
        part: &str,
        environment: Option<&Environment>,
        message: &Hello,
        channel: &Channel,
    ) -> Error {
        let sent = || {
            let (ours, theirs) = pair().map_err(failed)?;
            // The message stays readable after the sending end is closed.
            Self(ours).send_hello(message, shared, Some(channel))?;
            Ok(theirs)
        };
        match sent() {
            Ok(theirs) => {
                let mut command = program(shared, state, part, environment);
                // The program unblocks them as soon as it has handlers.
                block_signals();
                let error = command.stdin(theirs).exec();
                unblock_signals();
                Error::io("the new program", error)
            }
            Err(error) => error,
        }
    }

    pub(super) fn send(&self, message: &impl Serialize) -> Result<()> {
        self.send_with(&[], message, &[])
    }

    /// Sends the first message and everything shared. The receiver answers on the other end of `channel` if there is one,
    /// else on this socket.
    pub(super) fn send_hello(
        &self,
        message: &Hello,
        shared: &SharedFds,
        channel: Option<&Channel>,
    ) -> Result<()> {
        let [a, b] = &shared.journal;
        let key = shared.key.as_bytes();
        let views = shared.views.iter().flat_map(ViewsFds::all);
        let sockets = &shared.sockets;
        let shared = [
            &shared.device,
            &shared.heartbeat,
            a,
            b,
            &shared.settings,
            &shared.program,
        ];
        let mut descriptors: Vec<BorrowedFd> = shared.map(AsFd::as_fd).into();
        descriptors.extend(views);
        descriptors.extend(sockets.iter().map(AsFd::as_fd));
        descriptors.extend(channel.map(AsFd::as_fd));
        self.send_with(key, message, &descriptors)
    }

    /// Sends a message about the views' mount, with its descriptors if there is one.
    pub(super) fn send_views(
        &self,
        message: &impl Serialize,
        views: Option<&ViewsFds>,
    ) -> Result<()> {
        let descriptors: Vec<BorrowedFd> = views.into_iter().flat_map(ViewsFds::all).collect();
        self.send_with(&[], message, &descriptors)
    }

    /// Sends a message about the listening sockets, with them.
    pub(super) fn send_sockets(&self, message: &ToKeeper, sockets: &[OwnedFd]) -> Result<()> {
        let descriptors: Vec<BorrowedFd> = sockets.iter().map(AsFd::as_fd).collect();
        self.send_with(&[], message, &descriptors)
    }

    /// The key goes in front of the serialized message, so that no other buffer of this process contains it.
    fn send_with(
        &self,
        key: &[u8],
        message: &impl Serialize,
        descriptors: &[BorrowedFd],
    ) -> Result<()> {
        let bytes = postcard::to_stdvec(message).map_err(|_| failed(Errno::INVAL))?;
        let bytes = Zeroizing::new(bytes);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let parts = [IoSlice::new(key), IoSlice::new(&bytes)];
        rustix::net::sendmsg(&self.0, &parts, &mut ancillary, SendFlags::NOSIGNAL)
            .map(drop)
            .map_err(failed)
    }

    /// The next message; `None` if the other process has closed its end.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        Ok(self.receive_with(&mut [])?.map(|(message, _)| message))
    }

    /// The next message, and the descriptors that came with it.
    pub(super) fn receive_with_descriptors<T: DeserializeOwned>(
        &self,
    ) -> Result<Option<(T, Vec<OwnedFd>)>> {
        self.receive_with(&mut [])
    }

    /// Sends the program that this process is about to execute.
    pub(super) fn send_program(&self, program: &OwnedFd) -> Result<()> {
        self.send_with(&[], &ToKeeper::Program, &[program.as_fd()])
    }

    /// The first message on the socket that this process was started with, everything shared, and the channel to answer
    /// on.
    pub(super) fn receive_hello(self) -> Result<(Hello, SharedFds, Self)> {
        let incomplete = || failed(Errno::INVAL);
        let mut key = SealingKey::zeroed();
        let received = self.receive_with(key.as_mut_bytes())?;
        let (message, descriptors) = received.ok_or_else(incomplete)?;
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or_else(incomplete);
        let (Hello::Serve(state) | Hello::Keep(state)) = &message;
        let mut shared = SharedFds {
            device: next()?,
            heartbeat: next()?,
            journal: [next()?, next()?],
            settings: next()?,
            program: next()?,
            key,
            views: None,
            sockets: Vec::new(),
        };
        if let Some(state) = &state.views {
            let views = ViewsFds::from_message(state, descriptors.by_ref());
            shared.views = Some(views.ok_or_else(incomplete)?);
        }
        for _ in &state.sockets {
            shared
                .sockets
                .push(descriptors.next().ok_or_else(incomplete)?);
        }
        let channel = descriptors.next().map_or(self, Self);
        Ok((message, shared, channel))
    }

    /// Whether a message can be read, or the other process has closed its end.
    pub(super) fn is_readable(&self) -> bool {
        is_ready(&mut [PollFd::new(self, PollFlags::IN)], Duration::ZERO)
    }

    fn receive_with<T: DeserializeOwned>(
        &self,
        key: &mut [u8],
    ) -> Result<Option<(T, Vec<OwnedFd>)>> {
        let key_length = key.len();
        let mut bytes = Zeroizing::new(vec![0; MAX_MESSAGE]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(key), IoSliceMut::new(&mut bytes)];
        let received = loop {
            let flags = RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(&self.0, &mut parts, &mut ancillary, flags) {
                // The other process has closed its end and left a message of ours unread. The kernel says so once; what the
                // other process sent before is still to be received.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                received => break received.map_err(failed)?.bytes,
            }
        };
        if received == 0 {
            return Ok(None);
        }
        let descriptors = ancillary.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
            _ => Vec::new(),
        });
        let descriptors = descriptors.collect();
        let message = received
            .checked_sub(key_length)
            .and_then(|length| postcard::from_bytes(&bytes[..length]).ok())
            .ok_or_else(|| failed(Errno::INVAL))?;
        Ok(Some((message, descriptors)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use zeroize::Zeroize;

    use super::super::handover::{ToServer, ViewsState};
    use super::*;

    fn state() -> HandoverState {
        HandoverState {
            mount: crate::process::mountinfo::of_this_process().unwrap()[0].id(),
            mount_point: OsBytes::from("/mount"),
            program: OsBytes::from("/program"),
            arguments: Vec::new(),
            log_file: None,
            fingerprints: [1; 16],
            init: vec![2; 104],
            numbers_from: 3,
            keeper: 4,
            server: 5,
            restarts: Vec::new(),
            upgrade: None,
            reload: None,
            base_folder: None,
            allow_root: false,
            server_timeout: 6,
            views: None,
            sockets: Vec::new(),
        }
    }

    fn shared_fds() -> SharedFds {
        let file = || OwnedFd::from(File::open("/dev/null").unwrap());
        SharedFds {
            device: file(),
            heartbeat: file(),
            journal: [file(), file()],
            settings: file(),
            program: file(),
            key: SealingKey::random().unwrap(),
            views: None,
            sockets: Vec::new(),
        }
    }

    /// The writable ranges of this process's memory, each with whether it is locked memory (which dumps leave out).
    fn mappings() -> Vec<(std::ops::Range<u64>, bool)> {
        let mut mappings = Vec::new();
        for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            if let Some((start, end)) = first.split_once('-') {
                let address = |text| u64::from_str_radix(text, 16).unwrap();
                let is_written = words.next().is_some_and(|may| may.starts_with("rw"));
                let end = if is_written {
                    address(end)
                } else {
                    address(start)
                };
                mappings.push((address(start)..end, false));
            } else if first == "VmFlags:"
                && let Some((_, is_locked)) = mappings.last_mut()
            {
                *is_locked = words.any(|flag| flag == "dd");
            }
        }
        mappings
    }

    /// How often these bytes occur in locked memory, and how often elsewhere.
    fn count(bytes: &[u8]) -> (usize, usize) {
        let memory = File::open("/proc/self/mem").unwrap();
        let (mut locked, mut open) = (0, 0);
        let mut page = vec![0; 4096];
        for (range, is_locked) in mappings() {
            for start in range.step_by(page.len()) {
                if memory.read_exact_at(&mut page, start).is_ok() {
                    let found = page.windows(bytes.len()).filter(|at| *at == bytes).count();
                    *(if is_locked { &mut locked } else { &mut open }) += found;
                }
                page.as_mut_slice().zeroize();
            }
        }
        (locked, open)
    }

    #[test]
    fn the_last_message_of_a_process_that_left_ours_unread_is_received() {
        let (ours, theirs) = pair().unwrap();
        let (ours, theirs) = (Channel(ours), Channel(theirs));
        ours.send(&ToServer::Begin(Vec::new())).unwrap();
        theirs.send(&ToKeeper::Failed("why".into())).unwrap();
        drop(theirs);
        let received = ours.receive::<ToKeeper>().unwrap();
        assert!(matches!(received, Some(ToKeeper::Failed(why)) if why == "why"));
        assert!(ours.receive::<ToKeeper>().unwrap().is_none());
    }

    #[test]
    fn the_key_is_handed_over_from_locked_memory_to_locked_memory_without_another_copy() {
        let (ours, theirs) = pair().unwrap();
        let sent = shared_fds();
        Channel(ours)
            .send_hello(&Hello::Serve(state()), &sent, None)
            .unwrap();
        let (message, received, _) = Channel(theirs).receive_hello().unwrap();
        assert!(matches!(message, Hello::Serve(state) if state.server_timeout == 6));
        assert_eq!(received.key.as_bytes(), sent.key.as_bytes());
        assert_eq!(count(sent.key.as_bytes()), (2, 0));
    }

    #[test]
    fn the_descriptors_of_the_views_go_along_and_so_does_the_channel() {
        let (ours, theirs) = pair().unwrap();
        let (mut sent, mut state) = (shared_fds(), state());
        let file = || OwnedFd::from(File::open("/dev/null").unwrap());
        sent.views = Some(ViewsFds {
            device: file(),
            journal: [file(), file()],
            opens: Some(file()),
        });
        state.views = Some(ViewsState {
            mount: state.mount.clone(),
            mount_point: OsBytes::from("/views"),
            init: vec![3; 104],
            numbers_from: 7,
            allow_other: true,
            watches_opens: true,
            kernel_opens: true,
        });
        let (other, answers) = pair().unwrap();
        let hello = Hello::Keep(state);
        Channel(ours)
            .send_hello(&hello, &sent, Some(&Channel(other)))
            .unwrap();
        let (message, received, channel) = Channel(theirs).receive_hello().unwrap();
        assert!(matches!(message, Hello::Keep(state) if state.views.is_some()));
        assert!(received.views.is_some());
        channel.send(&ToKeeper::Ready).unwrap();
        let answered = Channel(answers).receive::<ToKeeper>().unwrap();
        assert!(matches!(answered, Some(ToKeeper::Ready)));
    }

    #[test]
    fn a_hello_that_is_too_short_for_the_key_is_an_error() {
        let (ours, theirs) = pair().unwrap();
        Channel(ours).send(&ToServer::Shutdown).unwrap();
        assert!(Channel(theirs).receive_hello().is_err());
    }
}
