//! Reads a value from standard input: bounded, and zeroed afterwards.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use zeroize::Zeroizing;

use super::failure::Failure;
use super::{Outcome, prompt};
use crate::error::Error;
use crate::secret::{MAX_VALUE, without_newline};

/// Reads standard input to its end, at most `limit` bytes; at a terminal it [asks](prompt::ask). `what` names it in messages.
///
/// # Errors
/// [`Error::TooLarge`] as soon as there is more; [`Error::Io`].
pub(super) fn read(what: &str, limit: usize) -> Outcome<Zeroizing<Vec<u8>>> {
    if io::stdin().is_terminal() {
        return finish(prompt::ask(what, limit), what, limit);
    }
    finish(read_all(&mut unbuffered(), limit), what, limit)
}

/// Reads a value for a secret of this name, [without the newline](without_newline) that ends a single line.
pub(super) fn read_value(name: &str) -> Outcome<Zeroizing<Vec<u8>>> {
    value_of(name, read)
}

/// The same from a file.
pub(super) fn read_value_from(file: &Path, name: &str) -> Outcome<Zeroizing<Vec<u8>>> {
    value_of(name, |what, limit| read_file(file, what, limit))
}

/// Reads a file to its end, at most `limit` bytes. `what` names it in messages.
///
/// # Errors
/// As for [`read`].
pub(super) fn read_file(file: &Path, what: &str, limit: usize) -> Outcome<Zeroizing<Vec<u8>>> {
    let failed = |e| Failure::Error(Error::io(file.display().to_string(), e));
    let mut opened = File::open(file).map_err(failed)?;
    match read_all(&mut opened, limit).map_err(failed)? {
        Some(bytes) => Ok(bytes),
        None => Err(too_large(what, limit)),
    }
}

fn value_of(
    name: &str,
    read: impl FnOnce(&str, usize) -> Outcome<Zeroizing<Vec<u8>>>,
) -> Outcome<Zeroizing<Vec<u8>>> {
    let what = format!("value of {name}");
    // One more byte than a value may have, for the newline that is dropped.
    let mut bytes = read(&what, MAX_VALUE + 1).map_err(|failure| match failure {
        Failure::Error(Error::TooLarge { .. }) => too_large(&what, MAX_VALUE),
        other => other,
    })?;
    let kept = without_newline(&bytes).len();
    if kept > MAX_VALUE {
        return Err(too_large(&what, MAX_VALUE));
    }
    bytes.truncate(kept);
    Ok(bytes)
}

fn too_large(what: &str, limit: usize) -> Failure {
    let what = format!("the {what}");
    Failure::Error(Error::TooLarge { what, limit })
}

/// Standard input without `Stdin`'s buffer, which would keep a copy.
fn unbuffered() -> impl Read {
    struct Descriptor(io::Stdin);
    impl Read for Descriptor {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            Ok(rustix::io::read(&self.0, buffer)?)
        }
    }
    Descriptor(io::stdin())
}

fn finish(
    read: io::Result<Option<Zeroizing<Vec<u8>>>>,
    what: &str,
    limit: usize,
) -> Outcome<Zeroizing<Vec<u8>>> {
    match read {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(too_large(what, limit)),
        Err(error) => Err(Failure::Error(Error::io(
            "cannot read standard input",
            error,
        ))),
    }
}

/// Reads to the end. `None` if there are more than `limit` bytes. The buffer has its full size from the beginning, because
/// one that grows leaves unzeroed copies.
fn read_all(input: &mut impl Read, limit: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut bytes = Zeroizing::new(vec![0; limit + 1]);
    let mut filled = 0;
    loop {
        match input.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if filled > limit {
            return Ok(None);
        }
    }
    bytes.truncate(filled);
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_over_the_limit_is_refused_without_reading_it_all() {
        let mut endless = io::repeat(b'x');
        assert!(read_all(&mut endless, 10).unwrap().is_none());
        let exact = read_all(&mut &b"0123456789"[..], 10).unwrap();
        assert_eq!(exact.unwrap().as_slice(), b"0123456789");
    }
}
