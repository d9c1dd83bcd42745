//! The manual's pages: one for each command, from clap's declarations, and one for the settings, from their table. Writes no
//! file.

use std::io::{self, Write};

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::help;
use crate::provider::BACKENDS;
use crate::settings::{SettingInForce, groups};

/// The program's name, with which every page begins.
const PROGRAM: &str = env!("CARGO_PKG_NAME");
/// The first line of each page, by which a later run knows it for its own.
pub(super) const MARK: &str = r#".\" Made by `simpletuner-live install-man`."#;
/// The page on `live.yaml`, without its section.
const SETTINGS: &str = "simpletuner-live.yaml";

/// Writes a section of a command's page.
type RenderSection = fn(&Man, &mut dyn Write) -> io::Result<()>;

/// A page of the manual.
pub(super) struct Page {
    /// Its name without the section: `simpletuner-live-get`.
    pub(super) name: String,
    /// The section of the manual: 1 for commands, 5 for file formats.
    pub(super) section: u8,
    /// What man(1) reads.
    pub(super) text: Vec<u8>,
}

impl Page {
    /// `simpletuner-live-get.1`
    pub(super) fn file_name(&self) -> String {
        format!("{}.{}", self.name, self.section)
    }
}

/// All pages, as of a date (`YYYY-MM-DD`).
pub(super) fn pages(date: &str) -> Vec<Page> {
    let mut command = help::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, None, date, &mut pages);
    pages.push(settings_page(date));
    pages
}

fn add_pages(command: &Command, parent: Option<&str>, date: &str, pages: &mut Vec<Page>) {
    let name = page_name(command);
    for subcommand in shown(command) {
        add_pages(subcommand, Some(name), date, pages);
    }
    pages.push(Page {
        name: name.to_owned(),
        section: 1,
        text: command_page(command, parent, date),
    });
}

/// The name with those of the commands above it, joined by hyphens.
fn page_name(command: &Command) -> &str {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|sub| !sub.is_hide_set())
}

fn command_page(command: &Command, parent: Option<&str>, date: &str) -> Vec<u8> {
    let man = Man::new(command.clone());
    let mut text = rendered(title(page_name(command), "1", date)).into_bytes();
    let has_options = command
        .get_arguments()
        .any(|argument| !argument.is_hide_set());
    let has_subcommands = shown(command).next().is_some();
    let section = |render: RenderSection, text: &mut Vec<u8>| {
        render(&man, text).expect("memory can be written to");
    };
    section(Man::render_name_section, &mut text);
    text.extend(rendered(synopsis(command)).into_bytes());
    section(Man::render_description_section, &mut text);
    if has_options {
        section(Man::render_options_section, &mut text);
    }
    if has_subcommands {
        section(Man::render_subcommands_section, &mut text);
    }
    let mut end = Roff::new();
    let notes = Notes::of(command);
    notes.add_to(&mut end);
    add_files(&mut end);
    add_see_also(&mut end, command, parent);
    text.extend(rendered(end).into_bytes());
    finished(&String::from_utf8_lossy(&text))
}

fn title(name: &str, section: &str, date: &str) -> Roff {
    let source = format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION"));
    let mut roff = Roff::new();
    let name = name.to_uppercase();
    roff.control("TH", [&*name, section, date, &source, PROGRAM]);
    roff
}

/// The usage line of `--help`: that of clap_mangen has no values of options, and no dots.
fn synopsis(command: &Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let name = command.get_bin_name().unwrap_or(PROGRAM);
    let rest = usage.strip_prefix(name).unwrap_or(usage);
    let mut line = vec![bold(name)];
    // What the user replaces is in capitals.
    let is_value = |c: char| c.is_ascii_uppercase() || c == '_';
    for piece in rest.split_inclusive(|c| !is_value(c)) {
        let value = piece.trim_end_matches(|c| !is_value(c));
        line.extend([italic(value), roman(&piece[value.len()..])]);
    }
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text(line);
    roff
}

fn rendered(roff: Roff) -> String {
    roff.render()
}

/// The page with its mark, one preamble, and the characters that roff would print as others. A break beside a blank line, which
/// clap_mangen writes before possible values, is left out.
fn finished(text: &str) -> Vec<u8> {
    let is_preamble = |line: &&str| line.starts_with(".ie ") || line.starts_with(".el ");
    let preamble = text.lines().filter(is_preamble).take(2);
    let lines: Vec<&str> = text.lines().filter(|line| !is_preamble(line)).collect();
    let is_blank = |at: Option<usize>| {
        at.and_then(|at| lines.get(at))
            .is_some_and(|line| line.is_empty())
    };
    let body = lines
        .iter()
        .enumerate()
        .filter_map(|(at, line)| match *line {
            ".br" if is_blank(at.checked_sub(1)) || is_blank(Some(at + 1)) => None,
            request if request.starts_with('.') => Some(request.to_owned()),
            text => Some(
                [
                    (r"\\", r"\e"),
                    ("~", r"\(ti"),
                    ("^", r"\(ha"),
                    ("`", r"\(ga"),
                ]
                .iter()
                .fold(text.to_owned(), |text, (c, name)| text.replace(c, name)),
            ),
        });
    let mut finished = format!("{MARK}\n");
    for line in preamble.map(str::to_owned).chain(body) {
        finished.push_str(&line);
        finished.push('\n');
    }
    finished.into_bytes()
}

/// What follows a command's help: examples, exit codes, and the rest.
#[derive(Default)]
struct Notes {
    examples: Vec<String>,
    exit_codes: Vec<String>,
    others: Vec<String>,
}

impl Notes {
    fn of(command: &Command) -> Self {
        let text = command.get_after_help().map(ToString::to_string);
        let is_of_all = command.get_name() == PROGRAM;
        let mut notes = Self::default();
        for block in text.unwrap_or_default().split("\n\n") {
            let continues = block.lines().all(|line| line.starts_with(' '));
            let list = match block {
                _ if block.starts_with("Examples:") || continues => &mut notes.examples,
                // That of the whole program is short for what each page has.
                _ if block.starts_with("Exit code") && is_of_all => continue,
                _ if block.starts_with("Exit code") => &mut notes.exit_codes,
                _ => &mut notes.others,
            };
            list.push(block.to_owned());
        }
        notes
    }

    fn add_to(&self, roff: &mut Roff) {
        if !self.others.is_empty() {
            roff.control("SH", ["NOTES"]);
            add_blocks(roff, &self.others);
        }
        if !self.examples.is_empty() {
            roff.control("SH", ["EXAMPLES"]);
            let first = self.examples[0].strip_prefix("Examples:");
            let mut blocks = self.examples.clone();
            if let Some(first) = first {
                blocks[0] = first.trim_start_matches('\n').to_owned();
            }
            add_blocks(roff, &blocks);
        }
        roff.control("SH", ["EXIT STATUS"]);
        match self.exit_codes.is_empty() {
            true => add_terms(roff, EXIT_CODES),
            false => add_blocks(roff, &self.exit_codes),
        }
    }
}

/// Paragraphs; lines that begin with a space stay as they are.
fn add_blocks(roff: &mut Roff, blocks: &[String]) {
    for (at, block) in blocks.iter().enumerate() {
        if at > 0 {
            roff.control("PP", []);
        }
        let mut is_literal = false;
        for line in block.lines() {
            if line.starts_with(' ') != is_literal {
                is_literal = !is_literal;
                roff.control(if is_literal { "EX" } else { "EE" }, []);
            }
            let line = line.strip_prefix("  ").unwrap_or(line);
            roff.text([roman(line)]);
        }
        if is_literal {
            roff.control("EE", []);
        }
    }
}

fn add_terms(roff: &mut Roff, terms: &[(&str, &str)]) {
    for (term, meaning) in terms {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*meaning)]);
    }
}

const EXIT_CODES: &[(&str, &str)] = &[
    ("0", "The command is done."),
    ("1", "It failed; standard error says why."),
    ("2", "Its arguments are wrong."),
    ("4", "No provider has the secret."),
];

const FILES: &[(&str, &str)] = &[
    ("~/.simpletuner/live", "The usual mount point."),
    (
        "~/.simpletuner/views",
        "The usual mount point of the views.",
    ),
    ("~/.simpletuner/live.yaml", "The settings."),
    (
        "~/.simpletuner/secrets.json",
        "The secrets file, its values encrypted.",
    ),
    (
        "~/.simpletuner/credential.key",
        "The key that decrypts them.",
    ),
    (
        "~/.simpletuner/live.log",
        "The log of a mount in the background.",
    ),
];

fn add_files(roff: &mut Roff) {
    roff.control("SH", ["FILES"]);
    add_terms(roff, FILES);
}

/// The page of the command above, those of the commands below, and the settings.
fn add_see_also(roff: &mut Roff, command: &Command, parent: Option<&str>) {
    let mut pages: Vec<(&str, &str)> = Vec::new();
    pages.extend(parent.map(|parent| (parent, "1")));
    let below = shown(command).map(|subcommand| (page_name(subcommand), "1"));
    pages.extend(below);
    pages.extend([(SETTINGS, "5"), ("fusermount3", "1")]);
    roff.control("SH", ["SEE ALSO"]);
    let last = pages.len() - 1;
    for (at, (name, section)) in pages.into_iter().enumerate() {
        let end = if at == last { "" } else { "," };
        roff.text([bold(name), roman(format!("({section}){end}"))]);
    }
}

const SETTINGS_INTRODUCTION: [&str; 3] = [
    "The settings of simpletuner-live. The command line's flags come first, then the environment, then this file (or that of \
     --config), then the defaults. An empty variable counts as unset.",
    "All of the file is optional; an unknown name is an error that names the known one it resembles. In it, timeout.total is \
     total inside timeout, and command[].name is name in each entry of the list command. A path may begin with ~/; a relative \
     one begins in the folder of the file, or for a variable in the working folder.",
    "A mount takes them over when it is started, at `simpletuner-live reload` and at `simpletuner-live upgrade`; another mount \
     point and allow_root only when it is started. `simpletuner-live settings` shows the values, and where each comes from.",
];

const SETTINGS_EXAMPLE: &str = "\
  file_path: ~/secrets/store.json
  ttl:
    default: 60
  aws_secret_name: simpletuner/production
  aws_region: us-west-2";

/// The page on `live.yaml`, from the table that the loader uses.
fn settings_page(date: &str) -> Page {
    let mut roff = title(SETTINGS, "5", date);
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{SETTINGS} - the settings of {PROGRAM}"))]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([italic("~/.simpletuner/live.yaml")]);
    roff.control("SH", ["DESCRIPTION"]);
    add_blocks(&mut roff, &SETTINGS_INTRODUCTION.map(str::to_owned));
    for group in groups(BACKENDS) {
        roff.control("SH", [&*group.title.to_uppercase()]);
        if let Some(switch) = group.switch {
            let rest = " configures it. Unless that is set, the other variables do not count.";
            roff.text([bold(switch), roman(rest)]);
        }
        for setting in group.settings {
            add_setting(&mut roff, &setting);
        }
    }
    roff.control("SH", ["EXAMPLES"]);
    add_blocks(&mut roff, &[SETTINGS_EXAMPLE.to_owned()]);
    add_files(&mut roff);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold(PROGRAM), roman("(1),")]);
    roff.text([bold(format!("{PROGRAM}-settings")), roman("(1)")]);
    Page {
        name: SETTINGS.to_owned(),
        section: 5,
        text: finished(&rendered(roff)),
    }
}

fn add_setting(
    roff: &mut Roff,
    SettingInForce {
        name, value, row, ..
    }: &SettingInForce,
) {
    roff.control("TP", []);
    let form = roman(format!(" ({})", row.form));
    roff.text([bold(*name), form]);
    roff.text([roman(format!("{}.", row.help))]);
    let others: Vec<&str> = row
        .variables
        .iter()
        .copied()
        .filter(|variable| variable != name)
        .collect();
    if !others.is_empty() {
        let rank = match row.file_comes_first {
            true => ", if the file does not set it",
            false => "",
        };
        roff.text([roman(format!("Variable: {}{rank}.", others.join(", ")))]);
    }
    if !value.is_null() {
        roff.text([roman(format!("Default: {value}."))]);
    }
}
