//! WRITE and FSYNC, into a buffer that nobody but its writer sees before it is committed.

use zeroize::Zeroizing;

use super::kind::FileKind;
use super::{Caller, OpError, Tree};
use crate::error::Error;
use crate::versions::{Handle, State, Unavailable};

/// The most bytes that all scratch files may hold together.
pub(super) const MAX_SCRATCH: usize = 64 * 1024 * 1024;

/// Whether no UTF-8 text can contain these bytes. Characters may be cut at either end.
fn never_utf8(bytes: &[u8]) -> bool {
    let is_continuation = |byte: &&u8| **byte & 0xc0 == 0x80;
    let cut = bytes.iter().take(3).take_while(is_continuation).count();
    match std::str::from_utf8(&bytes[cut..]) {
        Ok(_) => false,
        Err(error) => error.error_len().is_some(),
    }
}

/// The bytes of an append, with the bytes before them that may belong to the same character. For any other write just its
/// bytes, because the program may still replace its neighbours.
fn in_context(state: &State, ino: u64, at: usize, bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let before = match state.buffer(ino).map(|buffer| buffer.data.as_ref()) {
        Some(Ok(data)) if data.len() == at => data.as_bytes(),
        _ => return Zeroizing::new(bytes.to_vec()),
    };
    let lead = before
        .iter()
        .rev()
        .take(3)
        .position(|byte| byte & 0xc0 != 0x80);
    let from = match lead {
        Some(back) => at - back - 1,
        None => at.saturating_sub(3),
    };
    let mut all = Zeroizing::new(Vec::with_capacity(at - from + bytes.len() + 1));
    if at == 0 {
        // The first byte of a text begins a character.
        all.push(b' ');
    }
    all.extend_from_slice(&before[from..]);
    all.extend_from_slice(bytes);
    all
}

impl Tree {
    /// Writes into the buffer of an open file.
    ///
    /// # Errors
    /// EBADF; why the present content, which a write would change, cannot be read. EFBIG past what such a file can hold,
    /// ENOSPC past what all scratch files can hold, and EILSEQ for bytes that no text contains: after each of these, nothing
    /// of the buffer is committed or renamed over a value unless it is truncated to nothing.
    pub fn write(
        &self,
        caller: &Caller,
        handle: u64,
        offset: u64,
        bytes: &[u8],
        appends: bool,
        has_waited: bool,
    ) -> Result<u32, OpError> {
        let mut state = self.state();
        let Some(Handle::Write {
            ino, last_write, ..
        }) = state.handle(handle)
        else {
            return Err(OpError::Errno(libc::EBADF));
        };
        let (ino, last_write) = (*ino, *last_write);
        if let Some((request, count)) = last_write
            && caller.is_resend
            && request == caller.request
        {
            return Ok(count);
        }
        self.supply_base(&mut state, ino, has_waited)?;
        let kind = self.kind_of_inode(&state, ino)?;
        let len = match state.buffer(ino).map(|buffer| buffer.data.as_ref()) {
            Some(Ok(data)) => data.len(),
            Some(Err(Unavailable::Failed(errno))) => return Err(OpError::Errno(*errno)),
            _ => return Err(OpError::unexpected("a write to a buffer without bytes")),
        };
        let start = if appends { len as u64 } else { offset };
        let end = usize::try_from(start)
            .ok()
            .and_then(|start| start.checked_add(bytes.len()));
        let Some(end) = end.filter(|end| *end <= kind.limit()) else {
            let name = name_of(&state, ino);
            let too_large = Error::TooLarge {
                what: name,
                limit: kind.limit(),
            };
            return Err(self.taint(&mut state, ino, too_large));
        };
        if kind == FileKind::Scratch {
            if end > len && state.scratch_bytes() + (end - len) > MAX_SCRATCH {
                let is_full = scratch_is_full(&state, ino);
                return Err(self.taint(&mut state, ino, is_full));
            }
        } else if never_utf8(&in_context(&state, ino, start as usize, bytes)) {
            let name = name_of(&state, ino);
            return Err(self.taint(&mut state, ino, Error::NotUtf8 { name }));
        }
        state.write(handle, caller.request, start as usize, bytes);
        Ok(bytes.len() as u32)
    }

    /// Refuses a write, and with it all that the buffer has.
    fn taint(&self, state: &mut State, ino: u64, error: Error) -> OpError {
        state.taint(ino, error.errno());
        let error = OpError::Error(error);
        if let Some(dir_entry) = state.last_dir_entry(ino) {
            self.record_failed_write(dir_entry, &error);
        }
        error
    }

    /// write(2) fails before its bytes are in the buffer. The writer may ignore the error and close the file, so nothing of
    /// the buffer is committed unless it is truncated to nothing.
    pub fn refuse_write(&self, handle: u64) {
        let mut state = self.state();
        if let Some(ino) = state.written_by(handle) {
            state.taint(ino, libc::EIO);
        }
    }

    /// The file that an inode belongs to.
    pub(super) fn kind_of_inode(&self, state: &State, ino: u64) -> Result<FileKind, OpError> {
        let stale = OpError::Errno(libc::ESTALE);
        let Some(file) = state.file_of(ino).and_then(|file| state.file(file)) else {
            return Err(stale);
        };
        match file.is_scratch {
            true => Ok(FileKind::Scratch),
            false => self.layout.kind_at(&file.last).ok_or(stale),
        }
    }

    /// fsync(2): a rename commits what was written so far.
    pub fn sync(&self, handle: u64) {
        let mut state = self.state();
        if let Some(ino) = state.written_by(handle) {
            state.sync(ino);
        }
    }
}

fn name_of(state: &State, ino: u64) -> String {
    let dir_entry = state.last_dir_entry(ino);
    dir_entry.map_or_else(String::new, |dir_entry| dir_entry.name.clone())
}

pub(super) fn scratch_is_full(state: &State, ino: u64) -> Error {
    Error::io(
        format!(
            "{}: all scratch files together hold at most {} MiB",
            name_of(state, ino),
            MAX_SCRATCH >> 20
        ),
        std::io::Error::from_raw_os_error(libc::ENOSPC),
    )
}

#[cfg(test)]
mod tests {
    use super::never_utf8;

    #[test]
    fn only_bytes_that_no_text_contains_are_refused_wherever_a_write_cuts_a_character() {
        let text = "a\u{e4}\u{20ac}\u{1f600}z";
        let bytes = text.as_bytes();
        for from in 0..bytes.len() {
            for to in from..=bytes.len() {
                assert!(!never_utf8(&bytes[from..to]), "{from}..{to}");
            }
        }
        for bad in [
            &b"\xff"[..],
            b"a\xc0\xafb",
            b"ab\x80",
            b"\xe2\x82z",
            b"\x80\x80\x80\x80",
        ] {
            assert!(never_utf8(bad), "{bad:?}");
        }
    }
}
