//! What keeper and server tell each other, and the descriptors that go with it: over a socket that each has one end of.

use std::ffi::OsString;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::live::{Restart, Upgrade};
use crate::secret::SealingKey;

/// Which way of handing over this program knows. It changes with `Brief`, with `First`, and with what the tree notes
/// in the ledger: a program that knows another one does not start as a part of this one's mount.
pub const FORMAT: u32 = 3;

/// How many descriptors are held.
const HELD: usize = 5;
/// How many go with a message at most: those, and a channel.
const MOST: usize = HELD + 1;
/// The longest message.
const LONGEST: usize = 64 * 1024;

/// What outlives each of the two, because the other one has it, too.
pub(super) struct Held {
    /// `/dev/fuse`: the mount lives as long as somebody holds it.
    pub(super) device: OwnedFd,
    pub(super) heartbeat: OwnedFd,
    pub(super) ledger: [OwnedFd; 2],
    /// The program that was mounted with.
    pub(super) program: OwnedFd,
    /// The ledger's key.
    pub(super) key: SealingKey,
}

impl Held {
    /// The same, with another program.
    pub(super) fn with_program(&self, program: OwnedFd) -> Result<Self> {
        let copy = |held: &OwnedFd| held.try_clone().map_err(|e| Error::io("descriptors", e));
        Ok(Self {
            device: copy(&self.device)?,
            heartbeat: copy(&self.heartbeat)?,
            ledger: [copy(&self.ledger[0])?, copy(&self.ledger[1])?],
            program,
            key: self.key.clone(),
        })
    }
}

/// What whoever comes next must know.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Brief {
    pub(super) mount_point: Text,
    /// Where the program lay when it was mounted with, and where `upgrade` looks for another one.
    pub(super) program: Text,
    /// What the program is started with.
    pub(super) arguments: Vec<Text>,
    /// Where the log goes, if there is no terminal.
    pub(super) log_file: Option<Text>,
    /// What values are told apart by.
    pub(super) fingerprints: [u8; 16],
    /// The kernel's first request.
    pub(super) init: Vec<u8>,
    /// Where inode numbers and handles begin, besides those of the folders.
    pub(super) numbers_from: u64,
    pub(super) keeper: u32,
    pub(super) server: u32,
    pub(super) restarts: Vec<Restart>,
    /// The last one that was tried.
    pub(super) upgrade: Option<Upgrade>,
    /// In seconds.
    pub(super) patience: u64,
}

impl Brief {
    pub(super) fn path(&self) -> PathBuf {
        self.mount_point.to_os().into()
    }

    /// Where the log goes; `None`: to standard error.
    pub(super) fn log(&self) -> Option<PathBuf> {
        Some(self.log_file.as_ref()?.to_os().into())
    }
}

/// A path or an argument, whatever bytes are in it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Text(Vec<u8>);

impl Text {
    pub(super) fn to_os(&self) -> OsString {
        OsString::from_vec(self.0.clone())
    }
}

impl<T: AsRef<std::ffi::OsStr>> From<T> for Text {
    fn from(text: T) -> Self {
        Self(text.as_ref().as_bytes().to_vec())
    }
}

/// The first message on a socket: all there is to know.
#[derive(Serialize, Deserialize)]
pub(super) enum First {
    /// Be the server.
    Serve(Brief),
    /// Be the keeper of the server that says so.
    Keep(Brief),
}

/// What the keeper says later.
#[derive(Serialize, Deserialize)]
pub(super) enum ToServer {
    /// Nobody else answers any more: begin. The servers that ended before.
    Begin(Vec<Restart>),
    /// What became of an upgrade.
    Upgraded(Upgrade),
    /// Another one is about to answer: leave nothing behind that is only in memory.
    GiveWay,
    /// The mount is out of the tree: finish what is being written, and end.
    Finish,
}

/// What the server says.
#[derive(Serialize, Deserialize)]
pub(super) enum ToKeeper {
    /// All that can be done beforehand is done.
    Prepared,
    /// It answers.
    Ready,
    /// It cannot serve.
    Failed(String),
    /// It was asked to unmount.
    Unmount,
    /// Another one may answer.
    GaveWay,
}

/// How long a server may take to give way.
pub(super) const GIVES_WAY_WITHIN: Duration = Duration::from_secs(1);

/// One end.
pub(super) struct Channel(OwnedFd);

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The file that was mounted with, whatever lies at its path now, as a part.
fn program(held: &Held, brief: &Brief, part: &str) -> Command {
    let mut command = Command::new(format!("/proc/self/fd/{}", held.program.as_raw_fd()));
    command
        .arg0("simpletuner-live")
        .args(["mount", "--foreground", "--part", part, "--handover"])
        .arg(FORMAT.to_string())
        .args(brief.arguments.iter().map(Text::to_os));
    command
}

/// Two ends of a socket that keeps messages apart.
pub(super) fn pair() -> std::result::Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

fn failed(error: Errno) -> Error {
    Error::io("what keeper and server tell each other", error)
}

impl Channel {
    /// The end that this process was started with, as its standard input.
    pub(super) fn inherited() -> Result<Self> {
        let end = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).map_err(failed)?;
        Ok(Self(end))
    }

    /// Starts the program for a part; what it is sent first says which.
    pub(super) fn start(held: &Held, brief: &Brief, part: &str) -> Result<(Child, Self)> {
        let (ours, theirs) = pair().map_err(failed)?;
        let mut command = program(held, brief, part);
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null());
        if brief.log_file.is_some() {
            command.stderr(Stdio::null());
        }
        let child = command
            .spawn()
            .map_err(|e| Error::io("this program cannot be started once more", e))?;
        Ok((child, Self(ours)))
    }

    /// The message for this process's own place, which the program then takes as another part; what it is to send its
    /// answers to goes along. Nothing comes back but for a failure.
    pub(super) fn become_part(
        held: &Held,
        brief: &Brief,
        part: &str,
        message: &First,
        channel: &Channel,
    ) -> Error {
        let sent = || {
            let (ours, theirs) = pair().map_err(failed)?;
            // What was sent can be read when the sending end is gone.
            Self(ours).send_held(message, held, Some(channel))?;
            Ok(theirs)
        };
        match sent() {
            Ok(theirs) => {
                let mut command = program(held, brief, part);
                Error::io("the new program", command.stdin(theirs).exec())
            }
            Err(error) => error,
        }
    }

    pub(super) fn send(&self, message: &impl Serialize) -> Result<()> {
        self.send_with(&[], message, &[])
    }

    /// Sends the first message, and all that is held; the answers are to go to the other end of `channel`, if there is
    /// one, else to this one's.
    pub(super) fn send_held(
        &self,
        message: &First,
        held: &Held,
        channel: Option<&Channel>,
    ) -> Result<()> {
        let [a, b] = &held.ledger;
        let key = held.key.as_bytes();
        let held = [&held.device, &held.heartbeat, a, b, &held.program];
        let mut descriptors: Vec<BorrowedFd> = held.map(AsFd::as_fd).into();
        descriptors.extend(channel.map(AsFd::as_fd));
        self.send_with(key, message, &descriptors)
    }

    /// The key goes before the message as it is, so that it is in no other buffer of this process.
    fn send_with(
        &self,
        key: &[u8],
        message: &impl Serialize,
        descriptors: &[BorrowedFd],
    ) -> Result<()> {
        let bytes = postcard::to_stdvec(message).map_err(|_| failed(Errno::INVAL))?;
        let bytes = Zeroizing::new(bytes);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let parts = [IoSlice::new(key), IoSlice::new(&bytes)];
        rustix::net::sendmsg(&self.0, &parts, &mut ancillary, SendFlags::NOSIGNAL)
            .map(drop)
            .map_err(failed)
    }

    /// The next message; `None` where the other side has ended.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        Ok(self.receive_with(&mut [])?.map(|(message, _)| message))
    }

    /// The first message on the socket that this process was started with, all that is held, and the channel to answer
    /// on.
    pub(super) fn receive_held(self) -> Result<(First, Held, Self)> {
        let incomplete = || failed(Errno::INVAL);
        let mut key = SealingKey::zeroed();
        let received = self.receive_with(key.as_mut_bytes())?;
        let (message, descriptors) = received.ok_or_else(incomplete)?;
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or_else(incomplete);
        let held = Held {
            device: next()?,
            heartbeat: next()?,
            ledger: [next()?, next()?],
            program: next()?,
            key,
        };
        let channel = next().map_or(self, Self);
        Ok((message, held, channel))
    }

    /// Whether the other side has said something, or has ended.
    pub(super) fn has_news(&self) -> bool {
        let now = super::supervised::timespec(std::time::Duration::ZERO);
        let mut ends = [PollFd::new(self, PollFlags::IN)];
        matches!(rustix::event::poll(&mut ends, Some(&now)), Ok(1..))
    }

    fn receive_with<T: DeserializeOwned>(
        &self,
        key: &mut [u8],
    ) -> Result<Option<(T, Vec<OwnedFd>)>> {
        let before = key.len();
        let mut bytes = Zeroizing::new(vec![0; LONGEST]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(key), IoSliceMut::new(&mut bytes)];
        let received = loop {
            let flags = RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(&self.0, &mut parts, &mut ancillary, flags) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None),
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
            .checked_sub(before)
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

    use super::*;

    fn brief() -> Brief {
        Brief {
            mount_point: Text::from("/mount"),
            program: Text::from("/program"),
            arguments: Vec::new(),
            log_file: None,
            fingerprints: [1; 16],
            init: vec![2; 104],
            numbers_from: 3,
            keeper: 4,
            server: 5,
            restarts: Vec::new(),
            upgrade: None,
            patience: 6,
        }
    }

    fn held() -> Held {
        let file = || OwnedFd::from(File::open("/dev/null").unwrap());
        Held {
            device: file(),
            heartbeat: file(),
            ledger: [file(), file()],
            program: file(),
            key: SealingKey::random().unwrap(),
        }
    }

    /// A range of this process's memory that can be written, and whether it is locked memory's (left out of dumps).
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

    /// How often these bytes are in locked memory, and how often in any other.
    fn places_of(bytes: &[u8]) -> (usize, usize) {
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
    fn the_key_is_handed_over_from_locked_memory_to_locked_memory_and_is_nowhere_else() {
        let (ours, theirs) = pair().unwrap();
        let sent = held();
        Channel(ours)
            .send_held(&First::Serve(brief()), &sent, None)
            .unwrap();
        let (message, received, _) = Channel(theirs).receive_held().unwrap();
        assert!(matches!(message, First::Serve(brief) if brief.patience == 6));
        assert_eq!(received.key.as_bytes(), sent.key.as_bytes());
        assert_eq!(places_of(sent.key.as_bytes()), (2, 0));
    }

    #[test]
    fn what_is_too_short_for_a_key_is_no_message() {
        let (ours, theirs) = pair().unwrap();
        Channel(ours).send(&ToServer::Finish).unwrap();
        assert!(Channel(theirs).receive_held().is_err());
    }
}
