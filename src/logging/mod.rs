//! Log output: commands and a foreground daemon log to standard error, a background daemon to its log file. A daemon's
//! threads do not wait for either (`queue`), and it logs a bounded number of lines a minute from each place in the code.

mod limit;
mod queue;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use crate::error::{Error, Result};
use crate::files::{base_folder, place};
use crate::text::shell_path;
use limit::{Admitted, LineLimit};
use queue::LogQueue;

/// The environment variable that sets the level: `error`, `warn`, `info` or `debug`.
pub const LEVEL_VARIABLE: &str = "SIMPLETUNER_LIVE_LOG";

/// The target of lines about providers that fail. A command does not print them: its own error names each provider once.
pub(crate) const PROVIDER_FAILURES: &str = concat!(env!("CARGO_CRATE_NAME"), "::provider_failures");

/// Above this size the log file is renamed to `NAME.1`, which replaces an older one.
const MAX_LOG_SIZE: u64 = 1024 * 1024;
/// How long a daemon waits until its log file is open. Lines are then written when it is.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

static QUEUE: LogQueue = LogQueue::new();

/// Sets up the log of a command: warnings and errors on standard error, as `warning: ...`, without
/// those about providers (`PROVIDER_FAILURES`) unless the user has set a level.
pub fn init_command() {
    let of_providers = match std::env::var_os(LEVEL_VARIABLE) {
        Some(_) => None,
        None => Some(LevelFilter::OFF),
    };
    let format = LineFormat::of_command();
    start(LevelFilter::WARN, of_providers, format, io::stderr);
}

/// Sets up the log of `mount --foreground`: information on standard error, with the time unless the journal adds its own.
pub fn init_foreground() {
    let with_time = std::env::var_os("JOURNAL_STREAM").is_none();
    let format = LineFormat::of_daemon(with_time);
    match QUEUE.start(|| Some(io::stderr())) {
        Ok(()) => start(LevelFilter::INFO, None, format, || &QUEUE),
        // Without a thread, at least the lines are there.
        Err(_) => start(LevelFilter::INFO, None, format, io::stderr),
    }
}

/// Sets up the log of a background daemon: information in the file `path` (0600, rotated at 1 MiB). If its disk does not answer, the
/// lines are written when it does. If this user may not write there, or nobody may, there is no log.
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened or created.
pub fn init_daemon(path: &Path) -> Result<()> {
    let (sender, opened) = channel();
    let place = path.to_owned();
    let open = move || {
        let log = LogFile::open(&place, MAX_LOG_SIZE);
        let (log, result): (Option<Box<dyn Write + Send>>, _) = match log {
            Ok(log) => {
                let mode = log.file.metadata().map_or(0, |metadata| metadata.mode());
                (Some(Box::new(log)), Ok(mode))
            }
            Err(error) if error.is_read_only() || base_folder::refuse_anew(&place).is_err() => {
                (Some(Box::new(LateLog::Missing(place))), Ok(0))
            }
            Err(error) => (None, Err(error)),
        };
        let _ = sender.send(result);
        log
    };
    QUEUE
        .start(open)
        .map_err(|e| Error::io("a thread cannot be started", e))?;
    start(LevelFilter::INFO, None, LineFormat::of_daemon(true), || {
        &QUEUE
    });
    let mode = opened.recv_timeout(OPEN_TIMEOUT).unwrap_or(Ok(0))?;
    // The user may have chosen the mode, so it is not changed.
    if mode & 0o077 != 0 {
        tracing::warn!(
            "other users may open the log {}; fix it with: chmod 600 {}",
            path.display(),
            shell_path(path)
        );
    }
    Ok(())
}

/// Waits until all that was logged is written, for a second at most. A daemon calls it before it ends.
pub fn flush() {
    QUEUE.flush();
}

/// Only the first call in a process has an effect.
fn start<W>(default: LevelFilter, of_providers: Option<LevelFilter>, format: LineFormat, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let wanted = std::env::var_os(LEVEL_VARIABLE);
    let level = wanted
        .as_deref()
        .map_or(Some(default), |text| text.to_str().and_then(parse_level));
    let level_now = level.unwrap_or(default);
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level_now)
        .with_writer(writer)
        // It would report errors by `eprintln!`, which panics if standard error is closed.
        .log_internal_errors(false)
        .event_format(format)
        .finish()
        // Only this crate's messages: the backends' clients may log what they sent.
        .with(
            Targets::new()
                .with_target(env!("CARGO_CRATE_NAME"), level_now)
                .with_target(PROVIDER_FAILURES, of_providers.unwrap_or(level_now)),
        );
    if tracing::subscriber::set_global_default(subscriber).is_ok() && level.is_none() {
        tracing::warn!("{LEVEL_VARIABLE} must be error, warn, info or debug; it is ignored");
    }
}

fn parse_level(text: &str) -> Option<LevelFilter> {
    match text.trim().to_ascii_lowercase().as_str() {
        "error" => Some(LevelFilter::ERROR),
        "warn" | "warning" => Some(LevelFilter::WARN),
        "info" => Some(LevelFilter::INFO),
        "debug" => Some(LevelFilter::DEBUG),
        _ => None,
    }
}

/// `[TIME ]warning: message key=value`
struct LineFormat {
    with_time: bool,
    /// `None`: there is no limit.
    limit: Option<LineLimit>,
}

impl LineFormat {
    /// A command ends, and its user waits for all that it says.
    fn of_command() -> Self {
        Self {
            with_time: false,
            limit: None,
        }
    }

    fn of_daemon(with_time: bool) -> Self {
        Self {
            with_time,
            limit: Some(LineLimit::default()),
        }
    }

    fn begin(&self, out: &mut Writer<'_>, level: Level) -> fmt::Result {
        if self.with_time {
            // RFC 3339, UTC.
            SystemTime.format_time(out)?;
            out.write_char(' ')?;
        }
        out.write_str(match level {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            Level::INFO => "info: ",
            _ => "debug: ",
        })
    }
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (level, now) = (*event.metadata().level(), Instant::now());
        let mut admitted = Admitted::Yes;
        if let Some(limit) = &self.limit {
            for (module, count) in limit.take_dropped(now) {
                self.begin(&mut out, Level::WARN)?;
                writeln!(out, "{count} more lines of {module} were not logged")?;
            }
            admitted = limit.admit(event.metadata(), now);
        }
        if admitted == Admitted::No {
            return Ok(());
        }
        self.begin(&mut out, level)?;
        context.field_format().format_fields(out.by_ref(), event)?;
        if admitted == Admitted::Last {
            write!(out, " (more such lines within a minute are only counted)")?;
        }
        writeln!(out)
    }
}

/// A log that could not be opened: the lines until it can be are lost.
enum LateLog {
    Missing(PathBuf),
    Open(LogFile),
}

impl Write for LateLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Self::Missing(path) = self
            && let Ok(log) = LogFile::open(path, MAX_LOG_SIZE)
        {
            *self = Self::Open(log);
        }
        match self {
            Self::Missing(_) => Ok(line.len()),
            Self::Open(log) => log.write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that is appended to line by line, and renamed to `NAME.1` when it is full.
struct LogFile {
    path: PathBuf,
    file: File,
    limit: u64,
}

impl LogFile {
    fn open(path: &Path, limit: u64) -> Result<Self> {
        let failed = |e| Error::io(format!("cannot open the log {}", path.display()), e);
        let file = append_to(path).map_err(failed)?;
        // A link of the user's stays, and the file behind it is rotated.
        let path = place::find(path).map_err(failed)?.path().to_owned();
        Ok(Self { path, file, limit })
    }

    /// Whether the open file is still the one at the path. Another process may have rotated it, or the user may have removed it.
    fn is_current(&self) -> bool {
        match (fs::metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(held)) => (there.dev(), there.ino()) == (held.dev(), held.ino()),
            _ => false,
        }
    }

    /// If anything fails, the open file stays in use: a line in the wrong file is better than none.
    fn rotate_if_full(&mut self, added: usize) {
        if !self.is_current()
            && let Ok(file) = append_to(&self.path)
        {
            self.file = file;
        }
        let full = self
            .file
            .metadata()
            .is_ok_and(|m| m.len() > 0 && m.len() + added as u64 > self.limit);
        if full {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            if fs::rename(&self.path, older).is_ok()
                && let Ok(file) = append_to(&self.path)
            {
                self.file = file;
            }
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    place::open_or_create(path, OFlags::WRONLY | OFlags::APPEND)
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.rotate_if_full(line.len());
        self.file.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_private_and_one_older_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/live.log");
        let mut log = LogFile::open(&path, 20).unwrap();
        for line in ["one, ten b\n", "two, ten b\n", "three\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "two, ten b\nthree\n");
        let older = folder.path().join("new/live.log.1");
        assert_eq!(fs::read_to_string(&older).unwrap(), "one, ten b\n");
        for file in [&path, &older] {
            assert_eq!(fs::metadata(file).unwrap().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_log_that_was_removed_or_rotated_by_another_process_is_created_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("live.log");
        let mut log = LogFile::open(&path, 1000).unwrap();
        log.write_all(b"one\n").unwrap();
        fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        log.write_all(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    }

    #[test]
    fn an_existing_log_keeps_its_mode_and_a_link_to_it_stays() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("live.log");
        fs::write(&path, "old\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link.log");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mut log = LogFile::open(&link, 5).unwrap();
        log.write_all(b"new\n").unwrap();
        assert_eq!(
            fs::metadata(folder.path().join("live.log.1"))
                .unwrap()
                .mode()
                & 0o777,
            0o640
        );
        assert_eq!(fs::read_to_string(&link).unwrap(), "new\n");
        assert!(link.is_symlink());
    }

    #[test]
    fn levels_are_the_four_named_ones() {
        assert_eq!(parse_level(" Debug "), Some(LevelFilter::DEBUG));
        assert_eq!(parse_level("warn"), Some(LevelFilter::WARN));
        assert_eq!(parse_level("trace"), None);
        assert_eq!(parse_level(""), None);
    }
}
