//! The terminal of `top`: entered, drawn on, and left as it was on every way out.

use std::io::{self, IsTerminal, Stdout, Write, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
use rustix::process::{Signal, getpid, kill_process};

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
        for number in SIGNALS {
            signal_hook::flag::register_usize(number, signal.clone(), number as usize)?;
        }
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave();
            before(info);
        }));
        let terminal = Self {
            backend: CrosstermBackend::new(stdout()),
            shown: None,
            signal,
        };
        enter()?;
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

    /// Waits for a key or a signal. A change of the size ends the wait, too.
    pub(super) fn wait(&self, timeout: Duration) -> io::Result<Input> {
        let input = match event::poll(timeout)? {
            true => event::read()?,
            false => Event::FocusLost,
        };
        match (self.signal.load(Ordering::Relaxed), input) {
            (0, Event::Key(key)) => Ok(Input::Key(key)),
            (0, _) => Ok(Input::None),
            (signal, _) => Ok(Input::Signal(signal as i32)),
        }
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
