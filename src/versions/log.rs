//! A log in memory that outlives its writer: encrypted records in two memfds, which the keeper holds open, too. Does not know
//! what the records mean.
//!
//! A file begins with its generation (8 bytes, little endian; 0: being written) and a salt of 32 bytes. Records follow:
//! length (4 bytes, little endian) and that many bytes, sealed by AES-256-GCM under a key derived from the salt, with
//! the record's number as the nonce. The file with the higher generation is the valid one. A record that was cut off when its
//! writer died is ignored: its operation was not answered yet.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;
use zeroize::Zeroizing;

use crate::secret::SealingKey;

/// Where the records begin.
const HEADER: u64 = 8 + SALT as u64;
const SALT: usize = 32;
/// The log is rewritten when it is this many bytes longer than twice what a new one would take.
const SLACK: u64 = 256 * 1024;
/// How many bytes of the old file each append frees: to free a long file at once takes milliseconds.
const PIECE: u64 = 64 * 1024;

/// The writing end of the sealed log that holds the journal.
pub struct Log {
    /// The file with the higher generation is the first.
    files: [File; 2],
    master: SealingKey,
    generation: u64,
    key: LessSafeKey,
    records: u64,
    end: u64,
    rewrite_at: u64,
    /// The length of the old file.
    old_end: u64,
    /// The last record may be half written, so nothing may be appended behind it.
    is_torn: bool,
}

impl Log {
    /// Calls `read` with each record in the files, and returns the log to continue with. It is empty until
    /// [`rewrite`](Self::rewrite) is called with the whole state.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub fn open(
        files: [File; 2],
        master: SealingKey,
        mut read: impl FnMut(&[u8]),
    ) -> io::Result<Self> {
        let [a, b] = files;
        let (generation_a, generation_b) = (generation(&a)?, generation(&b)?);
        let (files, generation) = match generation_a >= generation_b {
            true => ([a, b], generation_a),
            false => ([b, a], generation_b),
        };
        if generation > 0 {
            read_records(&files[0], &master, &mut read)?;
        }
        let key = key_of(&master, &[0; SALT])?;
        let old_end = files[1].metadata()?.len();
        Ok(Self {
            files,
            master,
            generation,
            key,
            records: 0,
            end: HEADER,
            rewrite_at: 0,
            old_end,
            // There is no salt of its own yet.
            is_torn: true,
        })
    }

    /// Whether to ask if it [is to be rewritten](Self::needs_rewrite). To be asked, too, when much is no longer needed.
    pub fn may_need_rewrite(&self) -> bool {
        self.is_torn || self.end >= self.rewrite_at
    }

    /// Whether the log is to be written anew: the last append failed, or much of it is not needed any more. `needed` says
    /// how many bytes a new one would take, about.
    pub fn needs_rewrite(&mut self, needed: impl FnOnce() -> u64) -> bool {
        if !self.is_torn {
            self.rewrite_at = 2 * needed() + SLACK;
        }
        self.may_need_rewrite()
    }

    /// Begins a new log of what `write` appends, which counts once that is done.
    ///
    /// # Errors
    /// Where it cannot be written; then the old one still counts.
    pub fn rewrite(
        &mut self,
        write: impl FnOnce(&mut dyn FnMut(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt).map_err(|_| io::Error::other("no random numbers"))?;
        let key = key_of(&self.master, &salt)?;
        let file = &self.files[1];
        file.set_len(0)?;
        file.write_all_at(&salt, 8)?;
        let (mut records, mut end) = (0, HEADER);
        write(&mut |record| {
            end += append(file, &key, records, end, record)?;
            records += 1;
            Ok(())
        })?;
        self.generation += 1;
        file.write_all_at(&self.generation.to_le_bytes(), 0)?;
        self.files.swap(0, 1);
        self.old_end = self.files[1].metadata()?.len();
        (self.key, self.records, self.end) = (key, records, end);
        self.rewrite_at = 2 * end + SLACK;
        self.is_torn = false;
        Ok(())
    }

    /// Adds a record, whose bytes are overwritten.
    ///
    /// # Errors
    /// Where it cannot be written. Then nothing more is appended before the log is begun anew, under another salt: a
    /// nonce is never used twice.
    pub fn append(&mut self, record: &mut Vec<u8>) -> io::Result<()> {
        if self.is_torn {
            return Err(io::Error::other("the last record was not written whole"));
        }
        self.is_torn = true;
        self.end += append(&self.files[0], &self.key, self.records, self.end, record)?;
        self.records += 1;
        self.is_torn = false;
        if self.old_end > 0 {
            self.old_end = self.old_end.saturating_sub(PIECE);
            self.files[1].set_len(self.old_end)?;
        }
        Ok(())
    }
}

fn generation(file: &File) -> io::Result<u64> {
    let mut bytes = [0; 8];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(u64::from_le_bytes(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        Err(error) => Err(error),
    }
}

fn key_of(master: &SealingKey, salt: &[u8; SALT]) -> io::Result<LessSafeKey> {
    let failed = |_| io::Error::other("no key can be derived");
    let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(master.as_bytes());
    let okm = derived.expand(&[b"simpletuner-live journal"], &AES_256_GCM);
    let key: UnboundKey = okm.map_err(failed)?.into();
    Ok(LessSafeKey::new(key))
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Seals and writes a record; how long it has become.
fn append(
    file: &File,
    key: &LessSafeKey,
    number: u64,
    at: u64,
    record: &mut Vec<u8>,
) -> io::Result<u64> {
    key.seal_in_place_append_tag(nonce(number), Aad::empty(), record)
        .map_err(|_| io::Error::other("a record cannot be sealed"))?;
    let len = u32::try_from(record.len()).map_err(io::Error::other)?;
    let mut framed = Vec::with_capacity(4 + record.len());
    framed.extend_from_slice(&len.to_le_bytes());
    framed.extend_from_slice(record);
    file.write_all_at(&framed, at)?;
    Ok(framed.len() as u64)
}

fn read_records(file: &File, master: &SealingKey, read: &mut impl FnMut(&[u8])) -> io::Result<()> {
    let mut salt = [0; SALT];
    file.read_exact_at(&mut salt, 8)?;
    let key = key_of(master, &salt)?;
    let all = file.metadata()?.len();
    let (mut number, mut at) = (0, HEADER);
    while at + 4 <= all {
        let mut len = [0; 4];
        file.read_exact_at(&mut len, at)?;
        let len = u64::from(u32::from_le_bytes(len));
        if at + 4 + len > all {
            break;
        }
        let mut record = Zeroizing::new(vec![0; len as usize]);
        file.read_exact_at(&mut record, at + 4)?;
        let Ok(opened) = key.open_in_place(nonce(number), Aad::empty(), &mut record) else {
            // The last one, half written.
            break;
        };
        read(opened);
        number += 1;
        at += 4 + len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> [File; 2] {
        [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()]
    }

    fn twice(files: &[File; 2]) -> [File; 2] {
        [files[0].try_clone().unwrap(), files[1].try_clone().unwrap()]
    }

    fn open(files: &[File; 2]) -> (Log, Vec<String>) {
        let mut found = Vec::new();
        let mut master = SealingKey::zeroed();
        master.as_mut_bytes().fill(7);
        let log = Log::open(twice(files), master, |record| {
            found.push(String::from_utf8(record.to_vec()).unwrap());
        });
        (log.unwrap(), found)
    }

    fn rewrite(log: &mut Log, records: &[String]) {
        let rewritten = log.rewrite(|write| {
            records
                .iter()
                .try_for_each(|record| write(&mut record.clone().into_bytes()))
        });
        rewritten.unwrap();
    }

    #[test]
    fn the_next_server_reads_the_records_and_the_files_hold_no_word_of_them() {
        let files = files();
        let (mut log, found) = open(&files);
        assert!(found.is_empty() && log.needs_rewrite(|| 0));
        rewrite(&mut log, &["first".into()]);
        log.append(&mut b"hunter2".to_vec()).unwrap();
        drop(log);
        for _ in 0..3 {
            let (mut log, found) = open(&files);
            assert_eq!(found, ["first", "hunter2"]);
            rewrite(&mut log, &found);
        }
        for file in &files {
            let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
        }
    }

    #[test]
    fn a_record_that_was_cut_off_anywhere_is_dropped_and_all_before_it_are_kept() {
        let files = files();
        let (mut log, _) = open(&files);
        rewrite(&mut log, &["first".into()]);
        let before = log.end;
        log.append(&mut b"second".to_vec()).unwrap();
        let after = log.end;
        let active = log.files[0].try_clone().unwrap();
        for len in (before..after).rev() {
            active.set_len(len).unwrap();
            assert_eq!(open(&files).1, ["first"]);
        }
    }

    #[test]
    fn a_new_log_that_was_broken_off_leaves_the_old_one() {
        let files = files();
        let (mut log, _) = open(&files);
        rewrite(&mut log, &["old".into()]);
        let broken = log.rewrite(|write| {
            write(&mut b"new".to_vec())?;
            Err(io::Error::other("broken off"))
        });
        assert!(broken.is_err());
        assert_eq!(open(&files).1, ["old"]);
    }

    #[test]
    fn after_a_failed_append_nothing_is_written_under_the_old_salt() {
        let files = files();
        let (mut log, _) = open(&files);
        rewrite(&mut log, &["first".into()]);
        let salt = |file: &File| {
            let mut salt = [0; SALT];
            file.read_exact_at(&mut salt, 8).unwrap();
            salt
        };
        let before = salt(&log.files[0]);
        let full = File::options().write(true).open("/dev/full").unwrap();
        let active = std::mem::replace(&mut log.files[0], full);
        log.append(&mut b"lost".to_vec()).unwrap_err();
        // There is room again; but part of the record may have been written, under the next nonce.
        let len = active.metadata().unwrap().len();
        log.files[0] = active;
        log.append(&mut b"second".to_vec()).unwrap_err();
        assert_eq!(log.files[0].metadata().unwrap().len(), len);
        assert!(log.needs_rewrite(|| u64::MAX / 4));
        // Nor after a renewal that failed.
        log.rewrite(|_| Err(io::Error::other("no room")))
            .unwrap_err();
        log.append(&mut b"second".to_vec()).unwrap_err();
        assert_eq!(log.files[0].metadata().unwrap().len(), len);
        rewrite(&mut log, &["first".into(), "second".into()]);
        assert_ne!(salt(&log.files[0]), before);
        log.append(&mut b"third".to_vec()).unwrap();
        assert_eq!(open(&files).1, ["first", "second", "third"]);
    }

    #[test]
    fn a_log_is_long_past_twice_the_size_that_is_needed() {
        let files = files();
        let (mut log, _) = open(&files);
        rewrite(&mut log, &["old".into()]);
        let mut asked = 0;
        let mut appended = 0;
        let mut append_until_long = |needed_of: fn(u64) -> u64| {
            let begun = appended;
            loop {
                log.append(&mut vec![b'x'; 10_000]).unwrap();
                appended += 10_000;
                let needed = || {
                    asked += 1;
                    needed_of(appended)
                };
                let is_due = log.may_need_rewrite() && log.needs_rewrite(needed);
                if is_due || appended > begun + 10_000_000 {
                    return appended;
                }
            }
        };
        // Nothing of it is needed any more.
        let len = append_until_long(|_| 0);
        assert!((SLACK - 10_000..SLACK + 10_000).contains(&len), "{len}");
        // All of it is needed.
        assert!(append_until_long(|appended| appended) > 10_000_000);
        assert!(asked < 10, "{asked}");
        // What was needed is dropped.
        assert!(!log.may_need_rewrite() && log.needs_rewrite(|| 0));
    }

    #[test]
    fn the_old_file_is_given_back_piece_by_piece() {
        let files = files();
        let (mut log, _) = open(&files);
        rewrite(&mut log, &["x".repeat(3 * PIECE as usize)]);
        rewrite(&mut log, &["new".into()]);
        let len = |log: &Log| log.files[1].metadata().unwrap().len();
        let before = len(&log);
        log.append(&mut b"next".to_vec()).unwrap();
        assert_eq!(len(&log), before - PIECE);
        for _ in 0..3 {
            log.append(&mut b"next".to_vec()).unwrap();
        }
        assert_eq!(len(&log), 0);
        assert_eq!(open(&files).1, ["new", "next", "next", "next", "next"]);
    }
}
