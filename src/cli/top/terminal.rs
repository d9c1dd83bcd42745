//! The terminal of `top`: entered, drawn on, and left as it was on every way out.

use std::fs::File;
use std::io::{self, IsTerminal, Stdout, Write, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{self, Event, KeyEvent};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use ratatui::layout::Rect;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Signal, getpid, kill_process};

use crate::mount::poll::poll;
use crate::sync::{self, LARGE_STACK};

/// These end it, after the terminal is as it was.
const SIGNALS: [i32; 4] = [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];

pub(super) enum Input {
    None,
    Key(KeyEvent),
    Signal(i32),
}

pub(super) struct Terminal {
    backend: CrosstermBackend<Stdout>,
    /// What is on the screen; `None`: unknown.
    shown: Option<Buffer>,
    signal: Arc<AtomicUsize>,
    /// Where keys come from.
    keys: OwnedFd,
    events: Receiver<io::Result<Event>>,
}

/// Whether standard output is a terminal that can move its cursor.
pub(super) fn can_draw() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
    stdout().is_terminal() && !is_dumb
}

/// <https://no-color.org>: not if it is set to anything.
pub(super) fn has_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

impl Terminal {
    pub(super) fn enter() -> io::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        let is_second = Arc::new(AtomicBool::new(false));
        for number in SIGNALS {
            // The first one may find this process where it cannot be answered.
            signal_hook::flag::register_conditional_default(number, is_second.clone())?;
            signal_hook::flag::register(number, is_second.clone())?;
            signal_hook::flag::register_usize(number, signal.clone(), number as usize)?;
        }
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave();
            before(info);
        }));
        let (sender, events) = channel();
        let terminal = Self {
            backend: CrosstermBackend::new(stdout()),
            shown: None,
            signal,
            keys: keys()?,
            events,
        };
        enter()?;
        sync::spawn("top-keys", LARGE_STACK, move || read_events(&sender))?;
        Ok(terminal)
    }

    pub(super) fn area(&self) -> io::Result<Rect> {
        let (columns, lines) = size()?;
        Ok(Rect::new(0, 0, columns, lines))
    }

    /// Draws what has changed; nothing, if nothing has.
    pub(super) fn show(&mut self, wanted: &Buffer) -> io::Result<()> {
        if self.shown.as_ref() == Some(wanted) {
            return Ok(());
        }
        let empty = Buffer::empty(wanted.area);
        let shown = match self.shown.take() {
            Some(shown) if shown.area == wanted.area => shown,
            _ => {
                self.backend.clear()?;
                empty
            }
        };
        let changes = shown.diff(wanted);
        self.backend.draw(changes.into_iter())?;
        Backend::flush(&mut self.backend)?;
        self.shown = Some(wanted.clone());
        Ok(())
    }

    /// Has everything drawn anew.
    pub(super) fn redraw(&mut self) -> io::Result<()> {
        self.shown = None;
        Ok(())
    }

    /// Gives the terminal to the shell until it continues this process.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        leave();
        kill_process(getpid(), Signal::TSTP)?;
        enter()?;
        self.redraw()
    }

    /// Waits for a key, a change of the size or the end of the timeout. A signal and the end of the terminal are seen after the wait.
    pub(super) fn wait(&self, timeout: Duration) -> io::Result<Input> {
        let event = self.events.recv_timeout(timeout);
        match self.signal.load(Ordering::Relaxed) {
            0 if self.is_gone() => return Ok(Input::Signal(libc::SIGHUP)),
            0 => {}
            signal => return Ok(Input::Signal(signal as i32)),
        }
        match event {
            Ok(Ok(Event::Key(key))) => Ok(Input::Key(key)),
            Ok(Ok(_)) | Err(RecvTimeoutError::Timeout) => Ok(Input::None),
            Ok(Err(error)) => Err(error),
            Err(RecvTimeoutError::Disconnected) => Ok(Input::Signal(libc::SIGHUP)),
        }
    }

    fn is_gone(&self) -> bool {
        let mut keys = [PollFd::new(&self.keys, PollFlags::empty())];
        let _ = poll(&mut keys, Duration::ZERO);
        keys[0]
            .revents()
            .intersects(PollFlags::HUP | PollFlags::ERR)
    }
}

/// Reads keys and changes of the size, on a thread of its own: crossterm waits without end for the rest of an escape sequence, and reads
/// without end from a terminal that is gone.
fn read_events(sender: &Sender<io::Result<Event>>) {
    loop {
        let event = event::read();
        let is_last = event.is_err();
        if sender.send(event).is_err() || is_last {
            return;
        }
    }
}

/// Where crossterm reads keys: standard input, or the terminal of this process if it is something else.
fn keys() -> io::Result<OwnedFd> {
    match stdin().is_terminal() {
        true => stdin().as_fd().try_clone_to_owned(),
        false => File::open("/dev/tty").map(Into::into),
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        leave();
    }
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, Hide)
}

/// A terminal that is gone cannot be restored, and need not be.
fn leave() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
    let _ = stdout().flush();
}
