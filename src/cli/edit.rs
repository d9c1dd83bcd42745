//! `edit`: a value in the user's editor, in a file that is on no disk.

mod editor;
mod guard;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::failure::{Failure, say, warn};
use super::set::surplus;
use super::target::Target;
use super::{Context, Outcome, input, question};
use crate::error::Error;
use crate::files::memory_folder::MemoryFolder;
use crate::secret::{MAX_VALUE, SecretName, without_newline};
use editor::Editor;

/// What the names of the folders begin with.
const PREFIX: &str = "simpletuner-live-edit-";

/// Change the value of a secret in an editor
///
/// The editor is $VISUAL, $EDITOR, vi or nano. The value is in a file in memory (in $XDG_RUNTIME_DIR or /dev/shm), in a folder that
/// only you can read, and that is removed after the edit. If you do not change the text, or the editor fails, nothing changes. The
/// newline that an editor adds at the end is dropped.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    override_usage = "simpletuner-live edit [OPTIONS] <KEY>",
    after_help = "Examples:
  simpletuner-live edit TLS_KEY
  EDITOR='code --wait' simpletuner-live edit TLS_KEY"
)]
pub(super) struct Args {
    /// The secret's name
    #[arg(value_name = "KEY", required_unless_present = "remove_after")]
    name: Option<SecretName>,
    /// Change the secrets file directly, even if a mount is running
    #[arg(long)]
    no_mount: bool,
    /// Wait until standard input is closed, and remove this folder of an edit that was killed
    #[arg(long, hide = true, value_name = "FOLDER", exclusive = true)]
    remove_after: Option<PathBuf>,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let Some(name) = args.name else {
        args.remove_after.as_deref().map(guard::run);
        return Ok(());
    };
    let editor = Editor::find()?;
    let target = Target::open(context, args.no_mount)?;
    let before = target.get(&name).map_err(|failure| match failure {
        Failure::Error(error) if error.is_not_found() => {
            let hint = format!("`simpletuner-live set {name}` makes a new secret");
            Failure::Hinted(error, hint)
        }
        other => other,
    })?;
    let folder = MemoryFolder::new(PREFIX).map_err(|error| {
        Failure::Error(Error::io("there is no place in memory for the file", error))
    })?;
    let _guard = guard::Guard::start(folder.path())?;
    let file = folder.path().join(name.as_str());
    write(&file, &before)?;
    loop {
        editor
            .edit(&file)
            .map_err(|reason| Failure::new(format!("{reason}; {name} stays as it is")))?;
        match take(&file, &name, &before, &target) {
            Ok(()) => return Ok(()),
            // What was typed would be lost.
            Err(failure) if question::can_ask() => {
                failure.report();
                question::ask_if_possible("edit the text again?")
                    .map_err(|_| Failure::new(format!("{name} stays as it is")))?;
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Sets the value that the file has now, if it is another one.
fn take(file: &Path, name: &SecretName, before: &[u8], target: &Target) -> Outcome {
    // One more byte for the newline that is dropped.
    let text =
        input::read_file(file, &format!("value of {name}"), MAX_VALUE + 1).map_err(|failure| {
            match failure {
                Failure::Error(Error::TooLarge { what, .. }) => Failure::Error(Error::TooLarge {
                    what,
                    limit: MAX_VALUE,
                }),
                other => other,
            }
        })?;
    let value = value_of(&text, before);
    if value == before {
        say(
            "note",
            &format!("the text is the same; {name} stays as it is"),
        );
        return Ok(());
    }
    if value.is_empty() {
        return Err(Failure::with_hint(
            format!("the text is empty; {name} stays as it is"),
            format!("`simpletuner-live set {name} --empty < /dev/null` stores an empty value"),
        ));
    }
    let now = target.get(name)?;
    if *now != before {
        let what = format!("{name} was changed while you edited it");
        if !question::can_ask() {
            return Err(Failure::with_hint(
                format!("{what}; that value stays"),
                "the same command edits the new value",
            ));
        }
        question::ask_if_possible(&format!("{what}. Replace that value?"))?;
    }
    if let Some(surplus) = surplus(value) {
        warn(&format!(
            "the value of {name} {surplus}, and is stored as it is"
        ));
    }
    target.set(name, value)
}

/// The file has the newline that editors expect at the end of a single line.
fn write(file: &Path, value: &[u8]) -> Outcome {
    let failed = |error| Failure::Error(Error::io(file.display().to_string(), error));
    let mut options = OpenOptions::new();
    let mut opened = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .map_err(failed)?;
    opened.write_all(value).map_err(failed)?;
    if !value.is_empty() && !value.contains(&b'\n') {
        opened.write_all(b"\n").map_err(failed)?;
    }
    Ok(())
}

/// What a text means: without the newline of a single line, and without the one that editors add to the last line if the value
/// had none there.
fn value_of<'a>(text: &'a [u8], before: &[u8]) -> &'a [u8] {
    let is_added = before.contains(&b'\n') && !before.ends_with(b"\n");
    match text.strip_suffix(b"\n") {
        Some(line) if is_added => line,
        _ => without_newline(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newline_that_an_editor_adds_is_no_part_of_the_value() {
        for (before, text, value) in [
            ("a", "a\n", "a"),
            ("a", "b", "b"),
            ("a", "b\nc\n", "b\nc\n"),
            ("", "b\n", "b"),
            ("a\nb", "a\nb\n", "a\nb"),
            ("a\nb", "a\nc\n", "a\nc"),
            ("a\nb\n", "a\nb\n", "a\nb\n"),
            ("a\nb\n", "c\n", "c"),
        ] {
            let found = value_of(text.as_bytes(), before.as_bytes());
            assert_eq!(found, value.as_bytes(), "{before:?} {text:?}");
        }
    }
}
