//! What the files hold: contents made from the manager, the prices and the caches, and what a finished write of each
//! kind does. Knows no inode.

use std::time::SystemTime;

use serde_json::json;

use super::audit::Writer;
use super::bundle::{self, Base, BundleFormat, Document};
use super::nodes::Content;
use super::places::File;
use super::process::Process;
use super::{Tree, WaitOn};
use crate::cache::{NamedCache, function_caches};
use crate::error::{Error, Result};
use crate::hardware;
use crate::manager::Answer;
use crate::provider::Standing;
use crate::secret::{Change, SecretName, SecretValue};
use crate::state::audit::Actor;
use crate::state::{Known, ProviderConfigs};
use std::sync::Arc;

/// How fresh a secret must be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Its present value, for who reads it.
    Fresh,
    /// The last that was known of it, for who looks at names and sizes: he never waits where there is one.
    LastKnown,
}

/// What is known of a file's content without waiting.
pub(super) enum Resolved {
    Content(Content),
    Missing,
    Failed(Error),
    /// Somebody must be asked first.
    Pending(WaitOn),
}

impl Resolved {
    /// A document that is made here, as old as the mount: what it is made of has no time of its own.
    fn text(text: &str, changed_at: SystemTime) -> Self {
        Resolved::Content(Content {
            value: SecretValue::new(text),
            changed_at,
        })
    }
}

/// One trailing newline of a single-line value is dropped (`echo v > f` stores `v`); a value of several lines is kept.
pub(super) fn without_echo_newline(bytes: &[u8]) -> &[u8] {
    match bytes.strip_suffix(b"\n") {
        Some(line) if !line.contains(&b'\n') => line,
        _ => bytes,
    }
}

impl Tree {
    /// The content of a file that is not scratch.
    pub(super) fn resolve(&self, file: &File, look: Look) -> Resolved {
        match file {
            File::Secret(name) => match self.known(name, look) {
                Answer::Found(found) => Resolved::Content(Content {
                    value: found.value,
                    changed_at: found.changed_at,
                }),
                Answer::Missing => Resolved::Missing,
                Answer::Failed(error) => Resolved::Failed(error),
                Answer::Pending => Resolved::Pending(WaitOn::Secret(name.clone())),
            },
            File::Bundle(format) => self.bundle(*format, look),
            File::Price(id) => match self.hardware.get(id) {
                Some(price) => Resolved::text(&hardware::to_json(&price), self.started_at),
                None => Resolved::Missing,
            },
            File::PriceTable => Resolved::text(
                &hardware::table_to_json(&self.hardware.table()),
                self.started_at,
            ),
            File::Config(name) => self.config(name),
            File::Provider(name) => match self.manager.report(name) {
                Some(report) => json_text(&report),
                None => Resolved::Missing,
            },
            File::Stats(None) => {
                let mut stats = self.manager.caches().stats();
                stats.extend(function_caches().stats());
                json_text(&stats)
            }
            File::Stats(Some(cache)) => match self.manager.caches().get(cache) {
                Some(cache) => json_text(&cache.stats()),
                None => Resolved::Missing,
            },
            File::Clear(_) => Resolved::text("", SystemTime::now()),
            File::Invalidate(_) => {
                let count = self.invalidated.load(std::sync::atomic::Ordering::Relaxed);
                Resolved::text(&format!("{count}\n"), SystemTime::now())
            }
            File::Status => json_text(&self.status()),
            // Their bytes are kept elsewhere: with the inode, and in the log.
            File::Scratch | File::Events => Resolved::Missing,
        }
    }

    fn config(&self, name: &str) -> Resolved {
        let Some(configs) = &self.configs else {
            return Resolved::Missing;
        };
        match configs.known(name) {
            Known::Found(config) => Resolved::Content(Content {
                value: config.to_json(),
                changed_at: config.updated_at().unwrap_or(self.started_at),
            }),
            Known::Missing => Resolved::Missing,
            Known::Failed(error) => Resolved::Failed(error),
            Known::Pending => Resolved::Pending(WaitOn::Config(name.into())),
        }
    }

    fn bundle(&self, format: BundleFormat, look: Look) -> Resolved {
        match self.document(look) {
            Ok((document, changed_at)) => {
                let bytes = bundle::render(format, &document);
                match SecretValue::from_bytes("bundle", &bytes) {
                    Ok(value) => Resolved::Content(Content { value, changed_at }),
                    Err(error) => Resolved::Failed(error),
                }
            }
            Err(stopped) => stopped,
        }
    }

    /// All secrets as one document, and when the latest of them changed. A secret that
    /// cannot be read is left out, so that the others can be: writing the document back leaves it alone.
    fn document(&self, look: Look) -> std::result::Result<(Document, SystemTime), Resolved> {
        match self.manager.standing() {
            Standing::Whole => {}
            Standing::Outdated if look == Look::LastKnown => {}
            Standing::Outdated | Standing::Unknown => {
                return Err(Resolved::Pending(WaitOn::Listing));
            }
            Standing::Failed(reason) => return Err(Resolved::Failed(reason)),
        }
        let mut document = Document::new();
        let mut changed_at = self.started_at;
        for (name, _) in self.manager.names() {
            match self.known(&name, look) {
                Answer::Found(found) => {
                    changed_at = changed_at.max(found.changed_at);
                    document.insert(name, found.value);
                }
                Answer::Missing => {}
                Answer::Failed(
                    error @ (Error::CannotDecrypt { .. } | Error::KeyUnusable { .. }),
                ) => {
                    tracing::warn!("left out of the bundle: {error}");
                }
                Answer::Failed(error) => return Err(Resolved::Failed(error)),
                Answer::Pending => return Err(Resolved::Pending(WaitOn::Secret(name))),
            }
        }
        Ok((document, changed_at))
    }

    fn known(&self, name: &SecretName, look: Look) -> Answer {
        match look {
            Look::Fresh => self.manager.held(name),
            Look::LastKnown => self.manager.last_known(name),
        }
    }

    /// Notes what a process has seen of the bundle: the base of its next write.
    pub(super) fn note_base(&self, process: Option<Process>, document: &Document) {
        if let Some(process) = process {
            self.put_base(process, Base::of(document));
        }
    }

    /// Notes what the bytes a process was just given hold.
    pub(super) fn note_base_of(
        &self,
        process: Option<Process>,
        format: BundleFormat,
        value: &SecretValue,
    ) {
        if format != BundleFormat::Env
            && let Ok(document) = bundle::parse(format, value.as_bytes())
        {
            self.note_base(process, &document);
        }
    }

    /// Carries out a finished write of a file that is not scratch.
    ///
    /// # Errors
    /// Those of the contract's table; nothing has changed then.
    pub(super) fn store(&self, file: &File, bytes: &[u8], writer: &Writer) -> Result<()> {
        self.carry_out(file, bytes, writer)?;
        if !matches!(file, File::Secret(_) | File::Bundle(_)) {
            // Emptying a cache puts them back, too.
            self.note_prices();
        }
        Ok(())
    }

    fn carry_out(&self, file: &File, bytes: &[u8], writer: &Writer) -> Result<()> {
        match file {
            File::Secret(name) => {
                let value = SecretValue::from_bytes(name.as_str(), without_echo_newline(bytes))?;
                self.apply(&[Change::Set(name.clone(), value)], &writer.actor)
            }
            File::Bundle(format) => self.store_bundle(*format, bytes, writer),
            File::Price(id) => self.hardware.set(id, hardware::parse_price(bytes)?),
            File::PriceTable => self.hardware.replace(hardware::parse_table(bytes)?),
            File::Config(name) => {
                let configs = self.configs_or_none()?;
                configs.save_text_by(&writer.actor, name, bytes)?;
                self.hardware.forget_configured();
                Ok(())
            }
            File::Clear(cache) => {
                match cache {
                    None => {
                        self.manager.caches().clear();
                        function_caches().clear();
                        self.manager.clear_cache();
                    }
                    Some(name) => {
                        self.cache(name)?.clear();
                        self.tell_invalidated(name, None);
                    }
                }
                self.drop_kernel_caches();
                Ok(())
            }
            File::Invalidate(cache) => {
                let prefix = parse_prefix(bytes)?;
                let count = match cache {
                    None => self.manager.invalidate_prefix(prefix),
                    Some(name) => {
                        self.tell_invalidated(name, Some(prefix));
                        self.cache(name)?.invalidate_prefix(prefix)
                    }
                };
                self.invalidated
                    .store(count as u64, std::sync::atomic::Ordering::Relaxed);
                self.drop_kernel_caches();
                Ok(())
            }
            File::Provider(_) | File::Stats(_) | File::Events | File::Status | File::Scratch => {
                Err(Error::io(
                    "this file is read-only",
                    std::io::Error::from_raw_os_error(libc::EACCES),
                ))
            }
        }
    }

    pub(super) fn configs_or_none(&self) -> Result<&Arc<ProviderConfigs>> {
        self.configs.as_ref().ok_or_else(|| {
            let none = std::io::Error::from_raw_os_error(libc::EPERM);
            Error::io("this tree has no provider configurations", none)
        })
    }

    fn store_bundle(&self, format: BundleFormat, bytes: &[u8], writer: &Writer) -> Result<()> {
        let written = bundle::parse(format, bytes)?;
        let current = match self.document(Look::LastKnown) {
            Ok((document, _)) => document,
            Err(Resolved::Failed(error)) => return Err(error),
            Err(_) => Document::new(),
        };
        let base = writer.process.and_then(|process| self.bases().get(process));
        let changes: Vec<Change> = bundle::merge(base.as_deref(), &current, &written)
            .into_iter()
            // A key that only another provider has cannot be deleted from the file; leaving it out of the document is
            // no reason to refuse the rest.
            .filter(|change| match change {
                Change::Delete(name) => self.manager.is_in_store(name),
                Change::Set(..) => true,
            })
            .collect();
        if !changes.is_empty() {
            self.apply(&changes, &writer.actor)?;
        }
        self.note_base(writer.process, &written);
        Ok(())
    }

    pub(super) fn apply(&self, changes: &[Change], actor: &Actor) -> Result<()> {
        self.manager.apply(changes)?;
        self.record_changes(actor, changes);
        Ok(())
    }

    fn cache(&self, name: &str) -> Result<Arc<dyn NamedCache>> {
        self.manager
            .caches()
            .get(name)
            .ok_or_else(|| Error::NotFound { name: name.into() })
    }

    /// The event of a single cache; of all together the manager tells.
    fn tell_invalidated(&self, cache: &str, prefix: Option<&str>) {
        self.events.push(&json!({
            "at": crate::provider::rfc3339(SystemTime::now()),
            "event": "invalidated",
            "key": prefix,
            "cache": cache,
        }));
    }

    /// The value of a name that is being renamed.
    pub(super) fn value_of(&self, name: &SecretName) -> Result<SecretValue> {
        self.manager.value_in_store(name)
    }
}

fn json_text(value: &impl serde::Serialize) -> Resolved {
    match serde_json::to_string_pretty(value) {
        Ok(mut text) => {
            text.push('\n');
            Resolved::text(&text, SystemTime::now())
        }
        Err(error) => Resolved::Failed(Error::Malformed {
            what: "report".into(),
            reason: error.to_string(),
        }),
    }
}

/// The prefix that was written to an `invalidate` file: one line of printable text.
///
/// # Errors
/// [`Error::Malformed`] where it is empty, of several lines, or no text.
pub fn parse_prefix(bytes: &[u8]) -> Result<&str> {
    let malformed = |reason: &str| Error::Malformed {
        what: "invalidate".into(),
        reason: reason.into(),
    };
    let prefix = std::str::from_utf8(bytes)
        .map_err(|_| malformed("the prefix is not UTF-8 text"))?
        .trim_end_matches('\n');
    if prefix.is_empty() {
        return Err(malformed(
            "the prefix is empty; write to `clear` to drop everything",
        ));
    }
    if prefix.len() > 1024 || prefix.chars().any(char::is_control) {
        return Err(malformed(
            "the prefix must be one line of at most 1024 bytes",
        ));
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newline_of_a_single_line_is_dropped() {
        for (written, stored) in [
            ("v\n", "v"),
            ("v", "v"),
            ("", ""),
            ("\n", ""),
            ("\n\n", "\n\n"),
            ("a\nb\n", "a\nb\n"),
            ("a\nb", "a\nb"),
            ("v\r\n", "v\r"),
        ] {
            assert_eq!(
                without_echo_newline(written.as_bytes()),
                stored.as_bytes(),
                "{written:?}"
            );
        }
    }

    #[test]
    fn a_prefix_is_one_line_of_text() {
        assert_eq!(parse_prefix(b"secret:HF\n").unwrap(), "secret:HF");
        for bad in [&b""[..], b"\n", b"a\nb\n", b"\xff", b"a\0", &[b'x'; 2000]] {
            assert_eq!(parse_prefix(bad).unwrap_err().errno(), libc::EINVAL);
        }
    }
}
