//! What the screen of `top` shows for one look at the mount.

use std::time::{Duration, SystemTime};

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use serde_json::Value;

use super::choices::Choices;
use super::layout::{Column, Line, Table, put, share};
use super::reader::Look;
use crate::cli::lasting::{lasting, since};
use crate::cli::status::{plain, state_of};
use crate::provider::rfc3339;
use crate::text::{counted, printable};

const HELP: &[&str] = &[
    "q, ctrl-C   quit",
    "s           sort the readers by reads, last, program or file",
    "/           filter readers and events by a text; Enter keeps it, Esc ends it",
    "p, space    pause, and go on",
    "arrows, j k scroll the readers; PageUp, PageDown, Home",
    "ctrl-L      draw the screen anew",
    "ctrl-Z      suspend",
    "?           this help; any key leaves it",
    "",
    "Times are UTC. READS counts the reads in the last rows of the audit trail and since.",
];

pub(super) struct Frame<'a> {
    look: &'a Look,
    choices: &'a Choices,
    interval: Duration,
    has_colours: bool,
    scrolled: usize,
}

impl<'a> Frame<'a> {
    pub(super) fn new(
        look: &'a Look,
        choices: &'a Choices,
        interval: Duration,
        has_colours: bool,
    ) -> Self {
        Self {
            look,
            choices,
            interval,
            has_colours,
            scrolled: choices.scrolled,
        }
    }

    /// How far the readers can be and are scrolled.
    pub(super) fn scrolled(&self) -> usize {
        self.scrolled
    }

    pub(super) fn draw(&mut self, area: Rect) -> Buffer {
        let mut buffer = Buffer::empty(area);
        if area.height == 0 || area.width == 0 {
            return buffer;
        }
        let footer = area.height - 1;
        let mut y = 0;
        for (text, style) in self.header() {
            if y < footer || footer == 0 {
                put(&mut buffer, 0, y, &text, style);
                y += 1;
            }
        }
        if footer == 0 {
            return buffer;
        }
        put(&mut buffer, 0, footer, &self.footer(), self.dim());
        if self.choices.shows_help {
            for (line, y) in HELP.iter().zip(y + 1..footer) {
                put(&mut buffer, 0, y, line, Style::default());
            }
            return buffer;
        }
        self.draw_tables(&mut buffer, y, usize::from(footer.saturating_sub(y)));
        buffer
    }

    fn draw_tables(&mut self, buffer: &mut Buffer, mut y: u16, height: usize) {
        let mut tables = [
            self.providers(),
            self.readers(),
            self.caches(),
            self.events(),
        ];
        // An empty line between two of them, if there is room for it.
        let gap = usize::from(height > 16);
        let wants = |table: &Table| (table.height().min(2) + gap, table.height() + gap);
        let given = share(height, &tables.each_ref().map(wants));
        let readers = given[1].saturating_sub(1 + gap);
        self.scrolled = self
            .scrolled
            .min(tables[1].lines.len().saturating_sub(readers));
        tables[1].skipped = self.scrolled;
        for (table, given) in tables.iter().zip(given).filter(|(_, given)| *given > 0) {
            y += gap as u16;
            table.draw(buffer, y, given - gap, self.title());
            y += (given - gap) as u16;
        }
    }

    fn header(&self) -> Vec<(String, Style)> {
        let seen = &self.look.seen;
        let status = &seen.status;
        let mut lines = Vec::new();
        if !status.is_null() {
            let up = match status["started_at"].as_str().and_then(since) {
                // It may have ended.
                _ if self.look.problem.is_some() => String::new(),
                None => String::new(),
                // Seconds would have the screen drawn each second.
                Some(up) if up < Duration::from_secs(60) => "  up < 1 min".into(),
                Some(up) => format!("  up {}", lasting(up)),
            };
            let version = plain(&status["version"]);
            let place = printable(&plain(&status["mount_point"]));
            let paused = match self.choices.paused {
                Some(_) => "  PAUSED",
                None => "",
            };
            let first = format!("simpletuner-live {version}{up}{paused}  {place}");
            lines.push((first, self.bold()));
            lines.push((self.traffic(), Style::default()));
            lines.push((self.health(), Style::default()));
            let failed = &status["failed_write"];
            if !failed.is_null() {
                let [at, file, reason] = ["at", "file", "reason"].map(|f| plain(&failed[f]));
                let text = format!("the last write failed: {file} at {at}: {reason}");
                lines.push((printable(&text), self.bad()));
            }
            if let Value::String(problem) = &status["views"]["problem"] {
                lines.push((printable(&format!("views: {problem}")), self.bad()));
            }
        }
        if let Some(problem) = &self.look.problem {
            let text = format!("{}; this goes on when it answers", printable(problem));
            lines.push((text, self.bad()));
        }
        if lines.is_empty() {
            lines.push(("the mount is being read".into(), Style::default()));
        }
        lines
    }

    fn traffic(&self) -> String {
        let seen = &self.look.seen;
        let rates = match &seen.rates {
            Some(rates) => format!(
                "reads {}/s  writes {}/s  errors {}/s",
                rate(rates.opens),
                rate(rates.writes),
                rate(rates.errors)
            ),
            None => "reads -  writes -  errors -".into(),
        };
        let waiting = seen.sum("requests_waiting");
        let secrets = seen.figure("secrets", None).unwrap_or_default();
        format!(
            "{rates}  waiting {waiting}  {}",
            counted(secrets as u64, "secret")
        )
    }

    fn health(&self) -> String {
        let seen = &self.look.seen;
        let restarts = seen.status["restarts"].as_array();
        let restarts = match restarts.and_then(|all| all.last()) {
            None => "no restart".into(),
            Some(last) => {
                let number = last["number"].as_u64().unwrap_or_default();
                let at = time_of(&plain(&last["at"]));
                let reason = printable(&plain(&last["reason"]));
                format!("{} ({reason} {at})", counted(number, "restart"))
            }
        };
        let memory = seen.sum("resident_memory_bytes") / (1024.0 * 1024.0);
        let views = seen.figure("views", None).unwrap_or_default();
        let views = counted(views as u64, "view");
        let lag = seen.labels("audit_lag_seconds", "trail").into_iter();
        let lag = lag.filter_map(|trail| seen.figure("audit_lag_seconds", Some(("trail", trail))));
        let lag = lag.fold(0.0, f64::max);
        let lag = match lag < 2.0 {
            true => String::new(),
            false => format!(
                "  audit behind {}",
                lasting(Duration::from_secs(lag as u64))
            ),
        };
        format!("{restarts}  {views}  memory {memory:.0} MiB{lag}")
    }

    fn footer(&self) -> String {
        if self.choices.types_filter {
            return format!("filter: {}_", self.choices.filter);
        }
        let filter = match self.choices.filter.as_str() {
            "" => "/ filter".into(),
            filter => format!("/ filter: {filter}"),
        };
        let pause = match self.choices.paused {
            Some(_) => "p go on",
            None => "p pause",
        };
        let sort = self.choices.sort.name();
        let every = self.interval.as_secs();
        format!("q quit  ? help  s sort: {sort}  {filter}  {pause}  every {every} s")
    }

    fn providers(&self) -> Table {
        let seen = &self.look.seen;
        let configured = seen
            .providers
            .iter()
            .filter(|report| report["configured"] == true);
        let lines = configured.map(|report| {
            let name = printable(&plain(&report["name"]));
            let state = state_of(report);
            let call = |figure| seen.figure(figure, Some(("provider", &*plain(&report["name"]))));
            let count = |figure| call(figure).map_or_else(|| "-".into(), |count| count.to_string());
            let latency = report["latency_ms"].as_f64();
            let error = report["last_error"].as_str();
            Line {
                style: match report["available"].as_bool() {
                    Some(false) if report["stale"] == true => self.warning(),
                    Some(false) => self.bad(),
                    _ => Style::default(),
                },
                cells: vec![
                    name,
                    state.into(),
                    report["keys"].as_array().map_or(0, Vec::len).to_string(),
                    latency.map_or_else(|| "-".into(), |ms| format!("{ms:.1} ms")),
                    report["last_success"]
                        .as_str()
                        .map_or_else(|| "-".into(), time_of),
                    count("provider_call_duration_seconds_count"),
                    count("provider_failed_calls_total"),
                    printable(error.unwrap_or(&plain(&report["source"]))),
                ],
            }
        });
        Table {
            lines: lines.collect(),
            columns: vec![
                column("PROVIDER", 0, 16, false),
                column("STATE", 0, 27, false),
                column("KEYS", 0, 6, true),
                column("LATENCY", 80, 10, true),
                column("ANSWERED", 70, 12, false),
                column("CALLS", 100, 8, true),
                column("FAILED", 100, 8, true),
                column("SOURCE OR ERROR", 60, 0, false),
            ],
            skipped: 0,
        }
    }

    fn caches(&self) -> Table {
        let seen = &self.look.seen;
        let lines = seen
            .labels("cache_entries", "cache")
            .into_iter()
            .map(|cache| {
                let figure = |name| {
                    seen.figure(name, Some(("cache", cache)))
                        .unwrap_or_default()
                };
                let (hits, misses) = (figure("cache_hits_total"), figure("cache_misses_total"));
                let hit_rate = match hits + misses > 0.0 {
                    true => format!("{:.0}%", 100.0 * hits / (hits + misses)),
                    false => "-".into(),
                };
                let (entries, most) = (figure("cache_entries"), figure("cache_max_entries"));
                Line {
                    style: Style::default(),
                    cells: vec![
                        printable(cache),
                        format!("{entries}/{most}"),
                        hit_rate,
                        hits.to_string(),
                        misses.to_string(),
                        figure("cache_evictions_total").to_string(),
                    ],
                }
            });
        Table {
            lines: lines.collect(),
            columns: vec![
                column("CACHE", 0, 24, false),
                column("ENTRIES", 0, 12, true),
                column("HIT RATE", 0, 8, true),
                column("HITS", 50, 12, true),
                column("MISSES", 50, 12, true),
                column("EVICTED", 70, 0, false),
            ],
            skipped: 0,
        }
    }

    fn readers(&self) -> Table {
        let mut rows = self.look.readers.as_ref().clone();
        self.choices.sort.sort(&mut rows);
        let lines = rows.into_iter().map(|row| Line {
            style: Style::default(),
            cells: vec![
                row.reads.to_string(),
                time_of(&row.last),
                row.key.program,
                row.key.place,
                row.key.user,
                row.key.file,
            ],
        });
        let mut lines: Vec<Line> = lines.filter(|line| self.is_wanted(line)).collect();
        let nobody = match &self.look.audit_problem {
            Some(problem) => Some(problem.clone()),
            None if !lines.is_empty() => None,
            None if self.choices.filter.is_empty() => {
                Some("no read is in the audit trail yet".into())
            }
            None => Some("no reader fits the filter".into()),
        };
        if let Some(nobody) = nobody {
            let mut cells = vec![String::new(); 5];
            cells.push(printable(&nobody));
            lines.insert(
                0,
                Line {
                    cells,
                    style: self.dim(),
                },
            );
        }
        Table {
            lines,
            columns: vec![
                column("READS", 0, 9, true),
                column("LAST", 56, 12, false),
                column("PROGRAM", 0, 16, false),
                column("IN", 72, 24, false),
                column("USER", 60, 16, false),
                column("FILE", 0, 0, false),
            ],
            skipped: 0,
        }
    }

    fn events(&self) -> Table {
        let events = self.look.seen.events.iter().rev();
        let lines = events.map(|event| {
            let mut rest = Vec::new();
            for (field, value) in event.as_object().into_iter().flatten() {
                if !["at", "event"].contains(&field.as_str()) && !value.is_null() {
                    rest.push(plain(value));
                }
            }
            let [at, what] = ["at", "event"].map(|field| plain(&event[field]));
            Line {
                style: match what.as_str() {
                    "provider_down" | "server_restarted" => self.warning(),
                    _ => Style::default(),
                },
                cells: vec![time_of(&at), printable(&what), printable(&rest.join("  "))],
            }
        });
        Table {
            lines: lines.filter(|line| self.is_wanted(line)).take(20).collect(),
            columns: vec![
                column("TIME", 0, 12, false),
                column("EVENT", 0, 16, false),
                column("WHAT", 0, 0, false),
            ],
            skipped: 0,
        }
    }

    fn is_wanted(&self, line: &Line) -> bool {
        let filter = self.choices.filter.to_lowercase();
        line.cells
            .iter()
            .any(|cell| cell.to_lowercase().contains(&filter))
    }

    fn coloured(&self, colour: Color) -> Style {
        match self.has_colours {
            true => Style::default().fg(colour),
            false => Style::default().add_modifier(Modifier::BOLD),
        }
    }

    fn bad(&self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn warning(&self) -> Style {
        self.coloured(Color::Yellow)
    }

    fn bold(&self) -> Style {
        Style::default().add_modifier(Modifier::BOLD)
    }

    fn dim(&self) -> Style {
        Style::default().add_modifier(Modifier::DIM)
    }

    fn title(&self) -> Style {
        Style::default().add_modifier(Modifier::REVERSED)
    }
}

fn column(title: &'static str, from: u16, most: u16, is_number: bool) -> Column {
    Column {
        title,
        from,
        most,
        is_number,
    }
}

/// With one decimal, if there is anything.
fn rate(a_second: f64) -> String {
    match a_second < 0.05 {
        true => "0".into(),
        false => format!("{a_second:.1}"),
    }
}

/// The time of today, or day and time, in UTC.
fn time_of(rfc3339_text: &str) -> String {
    let today = rfc3339(SystemTime::now());
    let (day, time) = (rfc3339_text.get(..10), rfc3339_text.get(11..19));
    match (day, time) {
        (Some(day), Some(time)) if today.starts_with(day) => time.into(),
        (Some(day), Some(time)) => format!("{} {}", &day[5..], &time[..5]),
        _ => printable(rfc3339_text),
    }
}
