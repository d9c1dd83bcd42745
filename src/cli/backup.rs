//! `backup`: writes everything that is kept into one encrypted archive.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::ValueHint;
use serde_json::{Value, json};

use super::failure::{Failure, say, warn};
use super::{Context, Outcome, absolute, output, passphrase, same_store};
use crate::audit::{AuditTrail, ReadTarget};
use crate::backup::{self, Collected, Manifest, Part, Seal};
use crate::error::Error;
use crate::files::output::{OutputFile, refuse};
use crate::manager::file_options;
use crate::settings::paths::leads_into;
use crate::text::{counted, shell_path};

/// The most names that a message lists.
const MAX_LISTED: usize = 10;

/// Back up secrets, key, settings, views, SimpleTuner's database and audit trails, encrypted
///
/// The file is a tar archive in the age format, so that `age -d FILE | tar -x` opens it without this program. It is encrypted with a
/// passphrase, which you are asked for, or for keys (-r, -R). Anybody with the file and the passphrase or a private key has all
/// secrets, unless the credential key is left out. Programs go on reading and writing meanwhile. What AWS, Vault and the environment
/// hold is not in it.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live backup ~/secrets.age                      # asks for a passphrase
  simpletuner-live backup ~/secrets.age -r age1ql3z7hjy... -R ~/.ssh/id_ed25519.pub
  simpletuner-live backup --force /backup/secrets.age --passphrase-file ~/.backup-passphrase
  simpletuner-live backup - -r age1ql3z7hjy... | ssh nas 'cat > secrets.age'
  cd ~/.simpletuner && age -d ~/secrets.age | tar -x         # without this program"
)]
pub(super) struct Args {
    /// The file to write, or - for standard output
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Encrypt for this public key (age1..., ssh-ed25519 ..., ssh-rsa ...); may be given several times
    #[arg(short, long = "recipient", value_name = "PUBLIC-KEY")]
    recipients: Vec<String>,
    /// Encrypt for the public keys in this file, one a line; may be given several times
    #[arg(short = 'R', long = "recipients-file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    recipients_files: Vec<PathBuf>,
    /// Read the passphrase from this file instead of asking for it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["recipients", "recipients_files"])]
    passphrase_file: Option<PathBuf>,
    /// Leave the credential key out; the backup then says which key it needs
    #[arg(long)]
    without_key: bool,
    /// Leave SimpleTuner's database and the audit trails out
    #[arg(long)]
    without_databases: bool,
    /// Replace FILE if it exists
    #[arg(short, long)]
    force: bool,
    /// Print what it holds as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let to_stdout = args.file == Path::new("-");
    if to_stdout {
        output::refuse_closed()?;
    }
    if to_stdout && io::stdout().is_terminal() {
        return Err(Failure::with_hint(
            "the backup is no text, so it is not written to a terminal",
            "name a file instead of -, or a program that reads it: ... | ssh HOST 'cat > FILE'",
        ));
    }
    if to_stdout && args.json {
        return Err(Failure::new(
            "with - standard output is the backup, so --json has no place",
        ));
    }
    let settings = context.settings()?;
    let file = absolute(&args.file)?;
    if !to_stdout {
        if leads_into(&file, &settings.mount_point) {
            let shown = file.display();
            let why = format!("{shown} lies in the mount itself; name a file elsewhere");
            return Err(Failure::new(why));
        }
        refuse(&file, args.force)?;
    }
    let store = file_options(&settings).location.locate()?;
    same_store::require(context, &settings, store.path())?;
    let recipients = passphrase::recipients(&args.recipients, &args.recipients_files)?;
    let options = backup::Options {
        without_key: args.without_key,
        without_databases: args.without_databases,
    };
    // Before anybody types a passphrase, so that it is not typed in vain.
    let collected = backup::collect(&settings, options).map_err(|error| match &error {
        Error::Database { .. } => {
            let hint = "--without-databases leaves SimpleTuner's database and the audit trails out";
            Failure::Hinted(error, hint.to_owned())
        }
        _ => error.into(),
    })?;
    let seal = match (&args.passphrase_file, recipients.is_empty()) {
        (_, false) => Seal::Recipients(recipients),
        (Some(file), true) => Seal::Passphrase(passphrase::read(file)?),
        (None, true) => Seal::Passphrase(passphrase::ask_for_new()?),
    };
    let size = match to_stdout {
        true => {
            seal_into(&collected, seal, Stdout)?;
            None
        }
        false => {
            let written = seal_into(
                &collected,
                seal,
                OutputFile::create(&file, 0o600, args.force)?,
            )?;
            Some(written.finish()?)
        }
    };
    let audit = AuditTrail::from_settings(&settings);
    let uid = rustix::process::geteuid().as_raw();
    audit.record_read(uid, std::process::id(), ReadTarget::AllSecrets("backup"));
    drop(audit);
    report(&collected.manifest, size, &file);
    match args.json {
        true => output::json(&to_json(&collected.manifest, size, &file)),
        false => Ok(()),
    }
}

/// Writes the archive through the encryption. Errors of the output are those of the last `write` that failed.
fn seal_into<W: Write>(collected: &Collected, seal: Seal, out: W) -> Outcome<W> {
    let failed = |error| Failure::Error(Error::io("writing the backup", error));
    let sealing = seal.wrap(io::BufWriter::with_capacity(128 * 1024, out))?;
    let sealing = backup::write(collected, sealing).map_err(failed)?;
    let out = sealing.finish().map_err(failed)?;
    out.into_inner().map_err(|error| failed(error.into_error()))
}

/// Standard output without `Stdout`'s buffer, which is by lines.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(io::stdout(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What it holds, in one line, and what to keep beside it.
fn report(manifest: &Manifest, size: Option<u64>, file: &Path) {
    let mut holds = vec![counted(manifest.secrets as u64, "secret")];
    match &manifest.key {
        Some(key) if key.is_included => holds.push(format!("the key {}", key.fingerprint)),
        _ => {}
    }
    for (part, what) in [
        (Part::Settings, "the settings"),
        (Part::Views, "the views"),
        (Part::Database, "SimpleTuner's database"),
        (Part::Trails, "the audit trails"),
    ] {
        if manifest.has(part) {
            holds.push(what.to_owned());
        }
    }
    let (last, first) = holds
        .split_last()
        .map_or(("", &[][..]), |(last, first)| (last, first));
    let holds = match first.is_empty() {
        true => last.to_owned(),
        false => format!("{} and {last}", first.join(", ")),
    };
    let place = match size {
        Some(size) => format!("{} ({size} bytes)", file.display()),
        None => "the backup".to_owned(),
    };
    say("note", &format!("{place} has {holds}"));
    match &manifest.key {
        Some(key) if !key.is_included => say(
            "note",
            &format!(
                "the key {} is not in it: without that key, nobody can read its secrets",
                key.fingerprint
            ),
        ),
        Some(key) if key.is_from_variable => say(
            "note",
            &format!(
                "the key is that of {}; --without-key leaves it out",
                crate::credential::KEY_VARIABLE
            ),
        ),
        _ => {}
    }
    if !manifest.undecryptable.is_empty() {
        let names = &manifest.undecryptable;
        let shown = names
            .iter()
            .take(MAX_LISTED)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        let more = match names.len().saturating_sub(MAX_LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        warn(&format!(
            "the credential key does not decrypt {shown}{more}; the backup has them as they are"
        ));
    }
    if size.is_some() {
        say(
            "note",
            &format!(
                "to look into it, type: simpletuner-live restore --dry-run {}",
                shell_path(file)
            ),
        );
    }
}

fn to_json(manifest: &Manifest, size: Option<u64>, file: &Path) -> Value {
    json!({
        "file": file,
        "size": size,
        "at": manifest.at,
        "form": manifest.form,
        "secrets": manifest.secrets,
        "undecryptable": manifest.undecryptable,
        "key": manifest.key,
        "files": manifest.names(),
    })
}
