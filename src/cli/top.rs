//! `top`: a live screen of a running mount, over the mount's own files and the audit trail of reads.

mod choices;
mod frame;
mod layout;
mod reader;
mod readers;
mod terminal;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueHint;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::failure::{Failure, WRONG_USAGE};
use super::mount_client::MountClient;
use super::{Context, Outcome, output};
use crate::audit::AuditOptions;
use choices::{Action, Choices};
use frame::Frame;
use reader::Reader;
use terminal::{Input, Terminal};

/// How often the keys and the terminal's size are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How many lines and columns `--once` has, unless the terminal says.
const ONCE_COLUMNS: u16 = 120;
const ONCE_LINES: u16 = 500;

/// Show a live screen: sources, caches, reads a second, who reads what, restarts, events
///
/// Keys: q quits, s sorts the readers by another column, / filters readers and events, p pauses, the arrows scroll, ? shows all
/// keys.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live top
  simpletuner-live top --interval 5
  simpletuner-live top --once | less

Without a terminal, use `simpletuner-live status --json`, `simpletuner-live metrics` or `--once`. NO_COLOR=1 leaves colours out.
Who reads what is known while the setting audit_reads is on."
)]
pub(super) struct Args {
    /// The mount point [default: ~/.simpletuner/live]
    #[arg(value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// The time from one look at the mount to the next
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Print what the screen would show after one interval, and exit
    #[arg(long)]
    once: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    if !args.once && !terminal::can_draw() {
        return Err(Failure::Coded(
            WRONG_USAGE,
            "top needs a terminal that can move its cursor".into(),
            "`simpletuner-live status --json` and `simpletuner-live metrics` are for programs; `simpletuner-live top --once` prints \
             one screen"
                .to_owned()
                .into(),
        ));
    }
    let mount_point = context.mount_point(args.dir.as_deref())?;
    let client = MountClient::require(&mount_point)?;
    // A mount goes on with settings that cannot be read any more, and so does this.
    let trail = context.settings();
    let trail = trail.map(|settings| AuditOptions::from_settings(&settings));
    let interval = Duration::from_secs(args.interval);
    let reader = Reader::start(client, trail.map_err(|error| error.to_string()), interval);
    match args.once {
        true => once(&reader, interval),
        false => watch(&reader, interval),
    }
}

fn draw(reader: &Reader, choices: &mut Choices, interval: Duration, area: Rect) -> Buffer {
    let look = choices.paused.clone().unwrap_or_else(|| reader.look());
    let mut frame = Frame::new(&look, choices, interval, terminal::has_colours());
    let buffer = frame.draw(area);
    choices.scrolled = frame.scrolled();
    buffer
}

fn watch(reader: &Reader, interval: Duration) -> Outcome {
    let failed = |error: io::Error| Failure::new(format!("the terminal: {error}"));
    let mut terminal = Terminal::enter().map_err(failed)?;
    let mut choices = Choices::default();
    loop {
        let area = terminal.area().map_err(failed)?;
        let buffer = draw(reader, &mut choices, interval, area);
        terminal.show(&buffer).map_err(failed)?;
        let action = match terminal.wait(TICK).map_err(failed)? {
            Input::None => Action::None,
            Input::Key(key) => choices.press(key, || reader.look()),
            // The shell learns by which signal it ended.
            Input::Signal(signal) => {
                drop(terminal);
                let _ = signal_hook::low_level::emulate_default_handler(signal);
                return Ok(());
            }
        };
        match action {
            Action::None => {}
            Action::Quit => return Ok(()),
            Action::Redraw => terminal.redraw().map_err(failed)?,
            Action::Suspend => terminal.suspend().map_err(failed)?,
        }
    }
}

/// Prints one screen, of any height, once there are two looks from which it knows how much a second.
fn once(reader: &Reader, interval: Duration) -> Outcome {
    let until = Instant::now() + interval + reader::SILENCE;
    while reader.look().seen.rates.is_none() && Instant::now() < until {
        std::thread::sleep(TICK / 4);
    }
    let columns = match io::stdout().is_terminal() {
        true => ratatui::crossterm::terminal::size().map_or(ONCE_COLUMNS, |(columns, _)| columns),
        false => ONCE_COLUMNS,
    };
    let mut choices = Choices::default();
    let area = Rect::new(0, 0, columns, ONCE_LINES);
    let buffer = draw(reader, &mut choices, interval, area);
    let lines = (0..area.height).map(|y| {
        let cells = (0..area.width).filter_map(|x| buffer.cell((x, y)));
        let line: String = cells.map(|cell| cell.symbol()).collect();
        line.trim_end().to_owned()
    });
    let mut lines: Vec<String> = lines.collect();
    // The last line names the keys.
    lines.pop();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    output::line(&lines.join("\n"))?;
    match reader.look().problem {
        Some(problem) => Err(Failure::new(problem)),
        None => Ok(()),
    }
}
