//! The kernel's queue of the files that were opened on a filesystem (fanotify(7)): through whichever mount of it, and in whichever namespace.
//! A process that opens a file does not wait for the queue. The queue needs CAP_SYS_ADMIN.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;

use super::reserve;

/// The lengths of an event, and of what the kernel adds to it: the process (`fanotify_event_info_pidfd`).
const EVENT: usize = 24;
const PROCESS_INFO: usize = 8;
/// How many events are taken at once: each opens two descriptors.
const AT_ONCE: usize = 8;
/// The type of the added information (FAN_EVENT_INFO_TYPE_PIDFD).
const PIDFD_TYPE: u8 = 4;

/// The queue. It goes on for as long as any process has its descriptor.
pub(crate) struct OpenEvents(OwnedFd);

/// One or more opens of a file by a process: the kernel counts equal ones that nobody has taken yet as one.
pub(crate) enum OpenEvent {
    /// A file was opened.
    Opened(Opened),
    /// The kernel dropped events.
    Lost,
}

/// See [`OpenEvent`].
pub(crate) struct Opened {
    file: OwnedFd,
    /// The process's number; 0 if it is in a pid namespace that this process cannot see.
    pub(crate) pid: u32,
    process: Handle,
}

enum Handle {
    Pidfd(OwnedFd),
    HasEnded,
    /// An older kernel gives none.
    Unknown,
}

impl OpenEvents {
    /// A queue without a filesystem yet.
    ///
    /// # Errors
    /// EPERM: this process has no CAP_SYS_ADMIN. ENOSYS: the kernel has no fanotify.
    pub(crate) fn new() -> io::Result<Self> {
        Self::with_flags(InitFlags::FAN_UNLIMITED_QUEUE)
    }

    fn with_flags(flags: InitFlags) -> io::Result<Self> {
        let flags =
            flags | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK | InitFlags::FAN_CLASS_NOTIF;
        let files = EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC | EventFFlags::O_LARGEFILE;
        let queue = Fanotify::init(flags | InitFlags::FAN_REPORT_PIDFD, files);
        let queue = match queue {
            // Before Linux 5.15.
            Err(nix::Error::EINVAL) => Fanotify::init(flags, files)?,
            queue => queue?,
        };
        Ok(Self(queue.into()))
    }

    /// The queue behind a descriptor of another process.
    pub(crate) fn of_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Has the opens on the filesystem of this folder queued from now on. Doing so again changes nothing.
    ///
    /// # Errors
    /// The filesystem's, or the kernel's.
    pub(crate) fn add_filesystem(&self, dir: impl AsFd) -> io::Result<()> {
        let queue = queue_of(self.0.try_clone()?);
        let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
        Ok(queue.mark(flags, MaskFlags::FAN_OPEN, dir, Some("."))?)
    }

    /// Waits until there is an event, for at most so long.
    pub(crate) fn wait(&self, timeout: Duration) {
        let timeout = Timespec::try_from(timeout).ok();
        let mut queue = [PollFd::new(&self.0, PollFlags::IN)];
        let _ = poll(&mut queue, timeout.as_ref());
    }

    /// The next few events, without waiting.
    pub(crate) fn take(&self) -> Vec<OpenEvent> {
        let mut buffer = [MaybeUninit::uninit(); AT_ONCE * (EVENT + PROCESS_INFO)];
        match reserve::with(|| rustix::io::read(&self.0, &mut buffer)) {
            Ok((events, _)) => parse(events),
            Err(Errno::AGAIN | Errno::INTR) => Vec::new(),
            // The kernel could not open the file, and has dropped the event.
            Err(_) => vec![OpenEvent::Lost],
        }
    }
}

impl From<OpenEvents> for OwnedFd {
    fn from(queue: OpenEvents) -> Self {
        queue.0
    }
}

/// nix's face of the queue.
fn queue_of(descriptor: OwnedFd) -> Fanotify {
    // SAFETY: nix only passes it to the calls for such queues, which refuse any other descriptor.
    unsafe { Fanotify::from_owned_fd(descriptor) }
}

impl Opened {
    /// The file's inode number, as the kernel knows it without asking the filesystem.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn ino(&self) -> io::Result<u64> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        Ok(rustix::fs::statx(&self.file, "", flags, StatxFlags::INO)?.stx_ino)
    }

    /// What `look` finds of the process by its number; `None` if the number may be another process's by now.
    pub(crate) fn of_process<T>(&self, look: impl FnOnce(u32) -> Option<T>) -> Option<T> {
        if self.pid == 0 || matches!(self.process, Handle::HasEnded) {
            return None;
        }
        look(self.pid).filter(|_| match &self.process {
            Handle::Pidfd(process) => has_number(process),
            _ => true,
        })
    }
}

/// Whether the process still has its number. One that has ended has it until its parent knows.
fn has_number(process: &OwnedFd) -> bool {
    // SAFETY: no signal is sent, and no memory is passed.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            0,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    sent == 0 || Errno::from_io_error(&io::Error::last_os_error()) != Some(Errno::SRCH)
}

/// Takes over all descriptors in what the kernel has written (`fanotify_event_metadata`).
fn parse(mut events: &[u8]) -> Vec<OpenEvent> {
    let mut parsed = Vec::new();
    while let Some(len) = number(events, 0).map(|len| len as usize)
        && len >= EVENT
        && let Some((event, rest)) = events.split_at_checked(len)
    {
        parsed.extend(event_of(event));
        events = rest;
    }
    parsed
}

fn event_of(event: &[u8]) -> Option<OpenEvent> {
    let descriptor = |at: usize| {
        let descriptor = number(event, at)?.cast_signed();
        // SAFETY: the kernel has just opened it for this event, and no other object owns it.
        (descriptor >= 0).then(|| unsafe { OwnedFd::from_raw_fd(descriptor) })
    };
    let (mask, pid) = (number(event, 8)?, number(event, 20)?);
    let file = descriptor(16);
    let process = match event.get(EVENT) {
        Some(&PIDFD_TYPE) => descriptor(EVENT + 4).map_or(Handle::HasEnded, Handle::Pidfd),
        _ => Handle::Unknown,
    };
    if u64::from(mask) & MaskFlags::FAN_Q_OVERFLOW.bits() != 0 {
        return Some(OpenEvent::Lost);
    }
    let file = file?;
    Some(OpenEvent::Opened(Opened { file, pid, process }))
}

/// Four bytes of the kernel's structure, in this machine's order. Of the 64 bits of the mask, none of this program's is in the upper half.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let at = match cfg!(target_endian = "big") && at == 8 {
        true => at + 4,
        false => at,
    };
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    fn watched(flags: InitFlags) -> Option<(OpenEvents, tempfile::TempDir)> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let queue = OpenEvents::with_flags(flags).unwrap();
        // Not the whole filesystem, which other tests use as well.
        let marked = queue_of(queue.0.try_clone().unwrap());
        let mask = MaskFlags::FAN_OPEN | MaskFlags::FAN_EVENT_ON_CHILD;
        let folder = File::open(dir.path()).unwrap();
        marked
            .mark(MarkFlags::FAN_MARK_ADD, mask, &folder, Some("."))
            .unwrap();
        Some((queue, dir))
    }

    #[test]
    fn an_open_gives_the_file_and_the_process_and_one_that_has_ended_is_not_looked_up() {
        let Some((queue, dir)) = watched(InitFlags::FAN_UNLIMITED_QUEUE) else {
            return;
        };
        let path = dir.path().join("file");
        fs::write(&path, "x").unwrap();
        while !queue.take().is_empty() {}

        let file = File::open(&path).unwrap();
        let Some(OpenEvent::Opened(opened)) = queue.take().pop() else {
            panic!("no event")
        };
        assert_eq!(opened.ino().unwrap(), file.metadata().unwrap().ino());
        assert_eq!(opened.pid, std::process::id());
        assert_eq!(opened.of_process(Some), Some(std::process::id()));

        let mut cat = Command::new("cat").arg(&path).spawn().unwrap();
        cat.wait().unwrap();
        let Some(OpenEvent::Opened(opened)) = queue.take().pop() else {
            panic!("no event")
        };
        assert_eq!(opened.pid, cat.id());
        assert_eq!(opened.of_process(Some), None);
    }

    #[test]
    fn a_queue_that_overflows_says_so() {
        let Some((queue, dir)) = watched(InitFlags::empty()) else {
            return;
        };
        let limit = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
        for number in 0..limit.trim().parse::<u32>().unwrap() + 10 {
            // Equal events would be merged.
            let path = dir.path().join(number.to_string());
            drop(File::create(path).unwrap());
        }
        let mut has_lost = false;
        loop {
            let events = queue.take();
            has_lost |= events.iter().any(|event| matches!(event, OpenEvent::Lost));
            if events.is_empty() {
                break;
            }
        }
        assert!(has_lost);
    }

    #[test]
    fn nothing_is_taken_from_bytes_that_are_no_events() {
        for bytes in [&[][..], &[1; 3], &[0; 64], &[255; 64]] {
            assert!(parse(bytes).is_empty());
        }
    }
}
