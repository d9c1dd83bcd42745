//! Which editor the user wants, and a run of it on a file that must not be copied to a disk.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::cli::Outcome;
use crate::cli::failure::Failure;
use crate::error::in_words;

/// Those that are taken if the user names none.
const USUAL: [&str; 3] = ["editor", "vi", "nano"];

/// For vim, behind its own settings: it keeps neither registers nor an undo file, which would lie in the home folder.
const OF_VIM: &str = "-n -i NONE -c 'set noundofile nobackup nowritebackup'";

pub(super) struct Editor {
    /// A command of a shell, without the file.
    command: OsString,
}

impl Editor {
    pub(super) fn find() -> Outcome<Self> {
        let named = ["VISUAL", "EDITOR"].into_iter().find_map(|variable| {
            let value = std::env::var_os(variable)?;
            let is_blank = value.to_str().is_some_and(|text| text.trim().is_empty());
            (!is_blank).then_some(value)
        });
        let usual = || USUAL.into_iter().find(|name| in_path(name).is_some());
        match named.or_else(|| Some(usual()?.into())) {
            Some(command) => Ok(Self { command }),
            None => Err(Failure::with_hint(
                "there is no editor: neither vi nor nano is installed",
                "set $EDITOR to the command of yours",
            )),
        }
    }

    /// Runs it on the file until it ends.
    ///
    /// # Errors
    /// Why it failed, as the beginning of a sentence.
    pub(super) fn edit(&self, file: &Path) -> Result<(), String> {
        let mut script = OsString::new();
        if self.is_plain() {
            // So that the signal of this process's death reaches the editor, and not a shell that waits for it.
            script.push("exec ");
        }
        script.push(&self.command);
        if self.is_vim() {
            script.push(" ");
            script.push(OF_VIM);
        }
        script.push(" \"$@\"");
        let shown = self.command.to_string_lossy();
        let status = self
            .run(&script, file)
            .map_err(|error| format!("cannot run {shown}: {}", in_words(&error)))?;
        match (status.success(), status.code()) {
            (true, _) => Ok(()),
            (false, Some(127)) => Err(format!(
                "the editor {shown} was not found (see $VISUAL and $EDITOR)"
            )),
            (false, Some(code)) => Err(format!("the editor {shown} ended with exit code {code}")),
            (false, None) => Err(format!("the editor {shown} was killed")),
        }
    }

    fn run(&self, script: &OsString, file: &Path) -> std::io::Result<ExitStatus> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg("sh").arg(file);
        // As system(3): Ctrl-C is for the editor.
        let signals = [libc::SIGINT, libc::SIGQUIT];
        // SAFETY: an ignored signal runs no handler.
        let before = signals.map(|signal| (signal, unsafe { libc::signal(signal, libc::SIG_IGN) }));
        let begin = move || {
            for (signal, action) in before {
                // SAFETY: as above; it was the action of this process.
                unsafe { libc::signal(signal, action) };
            }
            // An editor that goes on alone would write its copies where nobody removes them.
            let end = Some(rustix::process::Signal::HUP);
            rustix::process::set_parent_process_death_signal(end)?;
            Ok(())
        };
        // SAFETY: `begin` makes system calls only.
        unsafe { command.pre_exec(begin) };
        let status = command.status();
        for (signal, action) in before {
            // SAFETY: as above.
            unsafe { libc::signal(signal, action) };
        }
        status
    }

    /// Whether it is a program with its arguments, and no assignment or list of commands, which a shell cannot `exec`.
    fn is_plain(&self) -> bool {
        let words = self.command.to_str().unwrap_or("=");
        !words.contains(['=', ';', '&', '|', '<', '>', '(', ')', '{', '}', '!', '\n'])
    }

    /// Whether the program is vim, behind whatever link.
    fn is_vim(&self) -> bool {
        let words = self.command.to_str().unwrap_or_default();
        let program = words.split_whitespace().next().and_then(in_path);
        let program = program.and_then(|program| program.canonicalize().ok());
        let name = program.as_deref().and_then(Path::file_name);
        name.and_then(|name| name.to_str())
            .is_some_and(|name| name.contains("vim"))
    }
}

/// The program of this name, or path.
fn in_path(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(program.into());
    }
    let folders = std::env::var_os("PATH")?;
    let mut paths = std::env::split_paths(&folders).map(|folder| folder.join(program));
    paths.find(|path| path.is_file())
}
