//! A terminal in tmux, with a shell in a scratch home: keys are typed, and what is on the screen is read.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::support::home::{BINARY, Home, ran};

pub struct Screen<'a> {
    home: &'a Home,
    /// The server of another screen may be about to end, with its socket.
    socket: String,
}

impl<'a> Screen<'a> {
    pub fn new(home: &'a Home, columns: u32, lines: u32) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let socket = format!("{}.socket", NUMBER.fetch_add(1, Ordering::Relaxed));
        let screen = Self { home, socket };
        home.write(
            "shell.sh",
            &format!("PS1='$ '\nlive() {{ '{BINARY}' \"$@\"; }}\n"),
        );
        let (columns, lines) = (columns.to_string(), lines.to_string());
        let shell = "bash --noprofile --rcfile shell.sh";
        let session = ["new-session", "-d", "-x", &columns, "-y", &lines, shell];
        ran(screen.tmux().args(["-f", "/dev/null"]).args(session)).done();
        screen.wait_for("$");
        screen
    }

    fn tmux(&self) -> Command {
        let mut tmux = self.home.command("tmux");
        tmux.arg("-S").arg(self.home.path(&self.socket));
        tmux.env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8");
        tmux
    }

    pub fn types(&self, text: &str) {
        ran(self.tmux().args(["send-keys", "-l", "--", text])).done();
    }

    /// `Enter`, `C-c`, `Escape`, ...
    pub fn presses(&self, key: &str) {
        ran(self.tmux().args(["send-keys", key])).done();
    }

    pub fn enters(&self, command: &str) {
        self.types(command);
        self.presses("Enter");
    }

    pub fn resizes(&self, columns: u32, lines: u32) {
        let (columns, lines) = (columns.to_string(), lines.to_string());
        let size = ["resize-window", "-x", &columns, "-y", &lines];
        ran(self.tmux().args(size)).done();
    }

    pub fn shown(&self) -> String {
        ran(self.tmux().args(["capture-pane", "-p"])).done()
    }

    /// What is on the screen once that fits.
    #[track_caller]
    pub fn wait_until(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let shown = self.shown();
            if fits(&shown) {
                return shown;
            }
            let is_late = begun.elapsed() > Duration::from_secs(90);
            assert!(!is_late, "it does not show {what}:\n{shown}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_until(text, |shown| shown.contains(text))
    }

    #[track_caller]
    pub fn wait_without(&self, text: &str) -> String {
        self.wait_until(&format!("no {text}"), |shown| !shown.contains(text))
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        let mut end = self.tmux();
        let end = end.arg("kill-server").stderr(Stdio::null());
        let _ = end.status();
    }
}
