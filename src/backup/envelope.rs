//! Encrypts and decrypts an archive in the age format, with a passphrase or with keys. Knows no file on the disk and asks nobody.

use std::io::{self, BufRead, Read, Write};
use std::str::FromStr;

use age::secrecy::SecretString;
use age::ssh::ParseRecipientKeyError;
use age::stream::StreamWriter;
use age::{DecryptError, ssh, x25519};

use super::malformed;
use crate::error::{Error, Result};

/// How a file in the age format begins.
const MAGIC: &[u8] = b"age-encryption.org/";
/// The same as text.
const ARMORED: &[u8] = b"-----BEGIN AGE";
/// How much work it is to derive the key of a passphrase, as a power of two: 256 MiB, as `age` has it. Not what this machine does in a
/// second: how safe a backup is must not depend on what else runs.
const WORK: u8 = 18;
/// The most work that is done, as `age` has it. Not what this machine does in a given time: on a slow or busy one, a backup must open, too.
const MAX_WORK: u8 = 22;

/// Keys that an archive is encrypted for.
#[derive(Default)]
pub struct Recipients(Vec<Box<dyn age::Recipient + Send>>);

impl Recipients {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one: `age1...`, `ssh-ed25519 ...`, `ssh-rsa ...`.
    ///
    /// # Errors
    /// What is wrong with it, without quoting it: it may be a private key.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let text = text.trim();
        if let Ok(recipient) = x25519::Recipient::from_str(text) {
            self.0.push(Box::new(recipient));
            return Ok(());
        }
        if text.starts_with("AGE-SECRET-KEY-") {
            return Err(
                "this is a private key; give the public one, which begins with age1".to_owned(),
            );
        }
        if text.starts_with("age1") {
            let reason =
                "this key is damaged, or of a kind that needs a plugin, which is not supported";
            return Err(reason.to_owned());
        }
        match ssh::Recipient::from_str(text) {
            Ok(recipient) => {
                self.0.push(Box::new(recipient));
                Ok(())
            }
            Err(ParseRecipientKeyError::Unsupported(kind)) => Err(format!(
                "SSH keys of the kind {} cannot encrypt; use an ssh-ed25519 or ssh-rsa key",
                crate::text::printable(&kind)
            )),
            Err(ParseRecipientKeyError::RsaModulusTooSmall) => {
                Err("this RSA key has less than 2048 bits".to_owned())
            }
            Err(ParseRecipientKeyError::RsaModulusTooLarge) => {
                Err("this RSA key has more bits than are supported".to_owned())
            }
            Err(_) => {
                Err("this is no key that begins with age1, ssh-ed25519 or ssh-rsa".to_owned())
            }
        }
    }
}

/// How an archive is encrypted.
pub enum Seal {
    /// With this passphrase.
    Passphrase(SecretString),
    /// For these keys.
    Recipients(Recipients),
}

/// The stream that encrypts.
pub type Sealing<W> = StreamWriter<W>;

impl Seal {
    /// A stream that encrypts what is written to it. With a passphrase, deriving the key takes about a second.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn wrap<W: Write>(self, out: W) -> Result<Sealing<W>> {
        let failed = |error: io::Error| Error::io("writing the backup", error);
        let encryptor = match self {
            Seal::Passphrase(passphrase) => {
                let mut recipient = age::scrypt::Recipient::new(passphrase);
                recipient.set_work_factor(WORK);
                age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
            }
            Seal::Recipients(Recipients(all)) => {
                let all = all.iter().map(|one| &**one as &dyn age::Recipient);
                age::Encryptor::with_recipients(all)
            }
        };
        let encryptor = encryptor.map_err(|error| failed(io::Error::other(error.to_string())))?;
        encryptor.wrap_output(out).map_err(failed)
    }
}

/// Private keys.
#[derive(Default)]
pub struct Identities(Vec<Box<dyn age::Identity>>);

impl Identities {
    /// Adds those of a file: what `age-keygen` writes, or a private SSH key. `ask` gives the passphrase of an encrypted SSH key.
    ///
    /// # Errors
    /// What is wrong, without quoting the file.
    pub fn add(&mut self, text: &[u8], ask: impl age::Callbacks) -> Result<(), String> {
        if text.starts_with(b"-----BEGIN OPENSSH PRIVATE KEY")
            || text.starts_with(b"-----BEGIN RSA PRIVATE KEY")
        {
            return match ssh::Identity::from_buffer(text, None) {
                Ok(ssh::Identity::Unsupported(_)) | Err(_) => {
                    Err("this SSH key is damaged, or of a kind that cannot decrypt; use an ssh-ed25519 or ssh-rsa key".to_owned())
                }
                Ok(identity) => {
                    self.0.push(Box::new(identity.with_callbacks(ask)));
                    Ok(())
                }
            };
        }
        if text.starts_with(MAGIC) || text.starts_with(ARMORED) {
            return Err(
                "this key is itself encrypted; decrypt it first: -i <(age -d FILE)".to_owned(),
            );
        }
        let file = age::IdentityFile::from_buffer(text);
        let identities = file
            .map_err(|_| ())
            .and_then(|file| file.into_identities().map_err(|_| ()));
        match identities {
            Ok(identities) if !identities.is_empty() => {
                self.0.extend(
                    identities
                        .into_iter()
                        .map(|one| one as Box<dyn age::Identity>),
                );
                Ok(())
            }
            _ => Err(
                "there is no key in it that begins with AGE-SECRET-KEY-1, and it is no SSH key"
                    .to_owned(),
            ),
        }
    }
}

/// What opens an archive.
pub enum Opened {
    /// A passphrase.
    Passphrase(SecretString),
    /// Private keys.
    Identities(Identities),
}

/// An archive of which only the header is read.
pub struct Closed<R>(age::Decryptor<R>);

impl<R: BufRead> Closed<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`Error::Malformed`] if this is no file in the age format; [`Error::Io`].
    pub fn read(mut input: R) -> Result<Self> {
        let begin = input.fill_buf().map_err(super::archive::unreadable)?;
        if begin.is_empty() {
            return Err(malformed("it is empty"));
        }
        if begin.starts_with(ARMORED) {
            return Err(malformed(
                "it is armored, and simpletuner-live writes none such; `age -d` opens it",
            ));
        }
        if !begin.starts_with(MAGIC) {
            return Err(malformed(
                "it is not encrypted in the age format, so simpletuner-live did not make it",
            ));
        }
        age::Decryptor::new_buffered(input)
            .map(Self)
            .map_err(undecryptable)
    }

    /// Whether a passphrase opens it.
    pub fn needs_passphrase(&self) -> bool {
        self.0.is_scrypt()
    }

    /// The stream that decrypts. With a passphrase, deriving the key takes about a second.
    ///
    /// # Errors
    /// [`Error::Malformed`]: another passphrase or key opens it, or it was changed.
    pub fn open(self, with: Opened) -> Result<impl Read> {
        let opened = match with {
            Opened::Passphrase(passphrase) => {
                let mut identity = age::scrypt::Identity::new(passphrase);
                identity.set_max_work_factor(MAX_WORK);
                self.0
                    .decrypt(std::iter::once(&identity as &dyn age::Identity))
            }
            Opened::Identities(Identities(all)) => self.0.decrypt(all.iter().map(|one| &**one)),
        };
        opened.map_err(undecryptable)
    }
}

fn undecryptable(error: DecryptError) -> Error {
    match error {
        DecryptError::Io(error) => super::archive::unreadable(error),
        DecryptError::NoMatchingKeys => {
            malformed("none of these keys opens it; `-i FILE` names another one")
        }
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => {
            malformed("this passphrase does not open it")
        }
        DecryptError::ExcessiveWork { .. } => {
            malformed("to try its passphrase takes more work than a backup may ask for")
        }
        DecryptError::InvalidHeader | DecryptError::InvalidMac => {
            malformed("it is damaged, or was changed")
        }
        DecryptError::UnknownFormat => malformed("it is of a newer version of the age format"),
        other => malformed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(work: Option<u8>) -> Vec<u8> {
        let passphrase = SecretString::from("open sesame".to_owned());
        let Some(work) = work else {
            let mut sealing = Seal::Passphrase(passphrase).wrap(Vec::new()).unwrap();
            sealing.write_all(b"content").unwrap();
            return sealing.finish().unwrap();
        };
        let mut recipient = age::scrypt::Recipient::new(passphrase);
        recipient.set_work_factor(work);
        let one = std::iter::once(&recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(one).unwrap();
        let mut sealing = encryptor.wrap_output(Vec::new()).unwrap();
        sealing.write_all(b"content").unwrap();
        sealing.finish().unwrap()
    }

    /// The factor in the header.
    fn work_of(sealed: &[u8]) -> u8 {
        let header = String::from_utf8_lossy(sealed);
        let stanza = header.lines().nth(1).unwrap();
        stanza.rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn open(sealed: &[u8]) -> Result<String> {
        let passphrase = SecretString::from("open sesame".to_owned());
        let closed = Closed::read(sealed)?;
        let mut text = String::new();
        let mut content = closed.open(Opened::Passphrase(passphrase))?;
        content.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    #[test]
    fn the_work_of_a_passphrase_does_not_depend_on_how_fast_the_machine_is() {
        let own = sealed(None);
        assert_eq!(work_of(&own), WORK);
        assert_eq!(open(&own).unwrap(), "content");
        assert_eq!(open(&sealed(Some(10))).unwrap(), "content");
        let mut hostile = sealed(Some(10));
        let at = hostile
            .windows(4)
            .position(|four| four == b" 10\n")
            .unwrap();
        hostile[at + 1..at + 3].copy_from_slice(b"40");
        let refused = open(&hostile).unwrap_err().to_string();
        assert!(refused.contains("more work"), "{refused}");
    }
}
