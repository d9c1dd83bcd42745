//! Reads a value from standard input: bounded, zeroed afterwards, and without echo at a terminal.

use std::io::{self, IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::Outcome;
use super::failure::Failure;
use crate::error::Error;
use crate::secret::{MAX_VALUE, without_newline};

/// Reads standard input to its end, at most `limit` bytes; at a terminal one line, without echo. `what` names it in messages.
///
/// # Errors
/// [`Error::TooLarge`] as soon as there is more; [`Error::Io`].
pub(super) fn read(what: &str, limit: usize) -> Outcome<Zeroizing<Vec<u8>>> {
    let input = io::stdin();
    if input.is_terminal() {
        // Before the prompt, so that nothing that is typed at it is shown.
        let echo_off = EchoOff::start();
        let _ = write!(io::stderr(), "{what} (not shown): ");
        let read = read_until(&mut unbuffered(), limit, Some(b'\n'));
        drop(echo_off);
        let _ = writeln!(io::stderr());
        return finish(read, what, limit);
    }
    finish(read_until(&mut unbuffered(), limit, None), what, limit)
}

/// Reads a value for a secret of this name, [without the newline](without_newline) that ends a single line.
pub(super) fn read_value(name: &str) -> Outcome<Zeroizing<Vec<u8>>> {
    let what = format!("value of {name}");
    let too_large = || {
        Failure::Error(Error::TooLarge {
            what: format!("the {what}"),
            limit: MAX_VALUE,
        })
    };
    // One more byte than a value may have, for the newline that is dropped.
    let mut bytes = read(&what, MAX_VALUE + 1).map_err(|failure| match failure {
        Failure::Error(Error::TooLarge { .. }) => too_large(),
        other => other,
    })?;
    let kept = without_newline(&bytes).len();
    if kept > MAX_VALUE {
        return Err(too_large());
    }
    bytes.truncate(kept);
    Ok(bytes)
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
        Ok(None) => Err(Failure::Error(Error::TooLarge {
            what: format!("the {what}"),
            limit,
        })),
        Err(error) => Err(Failure::Error(Error::io(
            "cannot read standard input",
            error,
        ))),
    }
}

/// Reads to the end, or through the byte `end`. `None` if there are more than `limit` bytes. The buffer has its full size
/// from the beginning, because one that grows leaves unzeroed copies.
fn read_until(
    input: &mut impl Read,
    limit: usize,
    end: Option<u8>,
) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
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
        if end.is_some_and(|end| bytes[..filled].ends_with(&[end])) {
            break;
        }
    }
    bytes.truncate(filled);
    Ok(Some(bytes))
}

/// Turns off the terminal's echo until it is dropped.
struct EchoOff(Option<Termios>);

impl EchoOff {
    fn start() -> Self {
        let Ok(before) = tcgetattr(io::stdin()) else {
            return EchoOff(None);
        };
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        let done = tcsetattr(io::stdin(), OptionalActions::Flush, &silent);
        EchoOff(done.ok().map(|()| before))
    }
}

impl Drop for EchoOff {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_over_the_limit_is_refused_without_reading_it_all() {
        let mut endless = io::repeat(b'x');
        assert!(read_until(&mut endless, 10, None).unwrap().is_none());
        let exact = read_until(&mut &b"0123456789"[..], 10, None).unwrap();
        assert_eq!(exact.unwrap().as_slice(), b"0123456789");
    }

    #[test]
    fn a_line_ends_at_its_newline() {
        let mut input = b"one\n".chain(io::repeat(b'x'));
        let line = read_until(&mut input, 100, Some(b'\n')).unwrap();
        assert_eq!(line.unwrap().as_slice(), b"one\n");
    }
}
