//! Asks for a value at the terminal. The value is not shown, a paste is taken whole however long it is and however many lines
//! it has, and the terminal is restored on every way out.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios};
use rustix::termios::{tcgetattr, tcsetattr};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::flag::register_conditional_default;
use signal_hook::low_level::{emulate_default_handler, pipe, unregister};
use zeroize::Zeroizing;

/// If more arrives this soon after a line end, the line end is part of a paste, and not the Enter key.
const PASTE_PAUSE: Duration = Duration::from_millis(50);
/// Ask the terminal to mark where a paste begins and ends ("bracketed paste", as xterm introduced it), and to stop that.
const MARK_PASTES: &str = "\x1b[?2004h";
const MARK_NO_PASTES: &str = "\x1b[?2004l";
/// What the terminal sends before and after a paste.
const PASTE_BEGINS: &[u8] = b"\x1b[200~";
const PASTE_ENDS: &[u8] = b"\x1b[201~";

/// Asks for `what` until Enter or Ctrl-D. `None` if more than `limit` bytes are typed.
///
/// # Errors
/// Those of reading the terminal.
pub(super) fn ask(what: &str, limit: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let prompt = format!("{what} (not shown; Enter ends it, a paste is taken whole): ");
    let signals = Signals::hold()?;
    let mut terminal = Some(QuietTerminal::start(&prompt)?);
    let mut typed = Typed::new(limit);
    let raise = |terminal: &mut Option<QuietTerminal>, signal| {
        *terminal = None;
        emulate_default_handler(signal)
    };
    loop {
        // The line end may have been the Enter key, or a paste's own.
        let pause = typed.ends_with_line().then_some(PASTE_PAUSE);
        match wait(&signals.pipes, pause)? {
            Event::Pause => break,
            Event::Signal(signal) => raise(&mut terminal, signal)?,
            Event::Input => {}
        }
        let mut chunk = Zeroizing::new([0; 4096]);
        let read = match rustix::io::read(io::stdin(), chunk.as_mut_slice()) {
            Ok(0) => break,
            Ok(read) => read,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
            Err(error) => return Err(error.into()),
        };
        let mut has_ended = false;
        for byte in &chunk[..read] {
            match typed.take(*byte) {
                None => {}
                Some(Key::End) => has_ended = true,
                Some(Key::Signal(SIGTSTP)) => {
                    raise(&mut terminal, SIGTSTP)?;
                    terminal = Some(QuietTerminal::start(&prompt)?);
                }
                Some(Key::Signal(signal)) => raise(&mut terminal, signal)?,
            }
        }
        if has_ended || typed.bytes.len() > limit {
            break;
        }
    }
    drop(terminal);
    let bytes = typed.finish();
    Ok((bytes.len() <= limit).then_some(bytes))
}

/// The input so far.
struct Typed {
    /// Has its full size from the beginning, because one that grows leaves unzeroed copies.
    bytes: Zeroizing<Vec<u8>>,
    limit: usize,
    /// The beginning of what may be an escape sequence of the terminal.
    escape: Vec<u8>,
    is_in_paste: bool,
    /// The terminal marks its pastes, so that a line end outside is the Enter key.
    has_marked_paste: bool,
}

enum Key {
    /// Ctrl-D, or Enter after a marked paste.
    End,
    /// A key that would have sent this signal.
    Signal(i32),
}

impl Typed {
    fn new(limit: usize) -> Self {
        Self {
            bytes: Zeroizing::new(Vec::with_capacity(limit + 1)),
            limit,
            escape: Vec::new(),
            is_in_paste: false,
            has_marked_paste: false,
        }
    }

    fn take(&mut self, byte: u8) -> Option<Key> {
        if !self.escape.is_empty() || byte == PASTE_BEGINS[0] {
            self.take_escape(byte);
            return None;
        }
        if self.is_in_paste {
            self.push(byte);
            return None;
        }
        match byte {
            0x03 => return Some(Key::Signal(SIGINT)),
            0x04 => return Some(Key::End),
            0x1a => return Some(Key::Signal(SIGTSTP)),
            0x1c => return Some(Key::Signal(SIGQUIT)),
            // Ctrl-U deletes everything, Backspace the last character.
            0x15 => self.bytes.clear(),
            0x08 | 0x7f => while self.bytes.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            b'\n' if self.has_marked_paste => return Some(Key::End),
            byte => self.push(byte),
        }
        None
    }

    /// Recognises the marks of a paste. Other sequences (arrows, function keys) are dropped, unless they are pasted.
    fn take_escape(&mut self, byte: u8) {
        self.escape.push(byte);
        let mark = match self.is_in_paste {
            true => PASTE_ENDS,
            false => PASTE_BEGINS,
        };
        if self.escape == mark {
            self.is_in_paste = !self.is_in_paste;
            self.has_marked_paste = true;
            self.escape.clear();
        } else if self.is_in_paste {
            if !mark.starts_with(&self.escape) {
                for byte in std::mem::take(&mut self.escape) {
                    self.push(byte);
                }
            }
        } else if !matches!(self.escape[1..], [] | [b'['] | [b'[', .., 0x20..=0x3f]) {
            self.escape.clear();
        }
    }

    fn push(&mut self, byte: u8) {
        if self.bytes.len() <= self.limit {
            self.bytes.push(byte);
        }
    }

    fn ends_with_line(&self) -> bool {
        !self.is_in_paste && !self.has_marked_paste && self.bytes.ends_with(b"\n")
    }

    /// The value, without the Enter that ended a single line. A paste of several lines keeps its last line end.
    fn finish(mut self) -> Zeroizing<Vec<u8>> {
        let is_single_line = self.bytes.iter().filter(|byte| **byte == b'\n').count() == 1;
        if self.ends_with_line() && is_single_line {
            self.bytes.pop();
        }
        self.bytes
    }
}

enum Event {
    Input,
    Signal(i32),
    /// The pause passed without input.
    Pause,
}

fn wait(signals: &[(i32, OwnedFd)], pause: Option<Duration>) -> io::Result<Event> {
    let timeout = pause.map(Timespec::try_from).transpose();
    let timeout = timeout.map_err(io::Error::other)?;
    let input = io::stdin();
    let mut fds = vec![PollFd::new(&input, PollFlags::IN)];
    fds.extend(signals.iter().map(|(_, fd)| PollFd::new(fd, PollFlags::IN)));
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(0) => return Ok(Event::Pause),
        // A signal has arrived; its pipe is readable now.
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let arrived = fds[1..].iter().position(|fd| !fd.revents().is_empty());
    let signal = arrived.and_then(|index| signals.get(index));
    match signal {
        Some((signal, _)) => Ok(Event::Signal(*signal)),
        None if fds[0].revents().is_empty() => wait(signals, pause),
        None => Ok(Event::Input),
    }
}

/// Signals that would end the process with the terminal still quiet, each as a pipe that becomes readable. Dropped, they end the
/// process again.
struct Signals {
    pipes: Vec<(i32, OwnedFd)>,
    registered: Vec<SigId>,
}

/// Whether these signals do what they do by default. A handler that was installed once stays.
static ARE_DEFAULT: OnceLock<Arc<AtomicBool>> = OnceLock::new();

impl Signals {
    fn hold() -> io::Result<Self> {
        let mut held = Self {
            pipes: Vec::new(),
            registered: Vec::new(),
        };
        let signals = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];
        for signal in signals {
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            held.registered.push(pipe::register(signal, write)?);
            held.pipes.push((signal, read));
        }
        if let Some(are_default) = ARE_DEFAULT.get() {
            are_default.store(false, Ordering::SeqCst);
            return Ok(held);
        }
        let are_default = ARE_DEFAULT.get_or_init(Arc::default);
        for signal in signals {
            register_conditional_default(signal, are_default.clone())?;
        }
        Ok(held)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        if let Some(are_default) = ARE_DEFAULT.get() {
            are_default.store(true, Ordering::SeqCst);
        }
        for id in self.registered.drain(..) {
            unregister(id);
        }
    }
}

/// Turns off echo and line editing, so that each byte arrives at once, until it is dropped.
struct QuietTerminal(Termios);

impl QuietTerminal {
    fn start(prompt: &str) -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        // Line by line, the kernel cuts a line at 4,095 bytes.
        let line_editing =
            LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN;
        quiet.local_modes.remove(line_editing);
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        // Before the prompt, so that nothing that is typed at it is shown.
        tcsetattr(io::stdin().as_fd(), OptionalActions::Flush, &quiet)?;
        let _ = write!(io::stderr(), "{MARK_PASTES}{prompt}");
        Ok(Self(before))
    }
}

impl Drop for QuietTerminal {
    fn drop(&mut self) {
        let _ = writeln!(io::stderr(), "{MARK_NO_PASTES}");
        // Discards what was not read, so that the shell does not run it.
        let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(input: &[u8]) -> Vec<u8> {
        let mut typed = Typed::new(100);
        for byte in input {
            if typed.take(*byte).is_some() {
                break;
            }
        }
        typed.finish().to_vec()
    }

    #[test]
    fn enter_ends_a_line_and_is_not_part_of_it() {
        assert_eq!(typed(b"secret\n"), b"secret");
        assert_eq!(typed(b"secret\x04more"), b"secret");
    }

    #[test]
    fn a_paste_of_several_lines_keeps_every_byte() {
        assert_eq!(typed(b"one\ntwo\n"), b"one\ntwo\n");
        assert_eq!(
            typed(b"\x1b[200~one\ntwo\x03\x1b[A\n\x1b[201~\nls"),
            b"one\ntwo\x03\x1b[A\n"
        );
    }

    #[test]
    fn backspace_takes_one_character_back_and_ctrl_u_all() {
        assert_eq!(typed("aé\x7fb\n".as_bytes()), b"ab");
        assert_eq!(typed(b"wrong\x15right\n"), b"right");
        assert_eq!(typed(b"\x7fa\n"), b"a");
    }

    #[test]
    fn arrows_and_function_keys_are_not_part_of_the_value() {
        assert_eq!(typed(b"a\x1b[Db\x1b[15~c\x1bOPd\n"), b"abcPd");
    }
}
