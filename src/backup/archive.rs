//! The files of a backup as a tar stream, and back. Refuses everything that this program does not write: links, devices, folders,
//! other names, other sizes. Knows no file on the disk.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use super::manifest::{FileInfo, MAX_SIZE, Manifest, NAME};
use super::{Collected, Member, malformed};
use crate::error::{Error, Result, in_words};
use crate::text::printable;

/// What may follow the last file: the end mark of tar, and what fills its last block.
const MAX_REST: u64 = 64 * 1024;

/// Writes all files. Only this user may read what `tar -x` makes of them.
///
/// # Errors
/// Those of writing.
pub fn write<W: Write>(backup: &Collected, out: W) -> io::Result<W> {
    let mut tar = tar::Builder::new(out);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let mut append = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o600);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        header.set_mtime(now);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes)
    };
    append(NAME, &backup.manifest.to_json())?;
    for (file, member) in backup.manifest.files.iter().zip(&backup.members) {
        append(&file.name, &member.bytes)?;
    }
    tar.into_inner()
}

/// Reads a whole archive to its end, so that all of it is authenticated.
///
/// # Errors
/// [`Error::Malformed`]: it is damaged, cut off, of a newer form, or holds what this program does not write. [`Error::Io`].
pub fn read(input: impl Read) -> Result<Collected> {
    let mut tar = tar::Archive::new(input);
    // Raw: a name that is too long for its header would be read whole, however long it is.
    let mut entries = tar.entries().map_err(unreadable)?.raw(true);
    let first = entries.next().ok_or_else(|| malformed("it is empty"))?;
    let mut first = first.map_err(unreadable)?;
    let is_manifest = first.path_bytes().as_ref() == NAME.as_bytes();
    if !is_manifest || !first.header().entry_type().is_file() {
        return Err(malformed(format!(
            "it does not begin with {NAME}, so simpletuner-live did not make it"
        )));
    }
    let manifest = Manifest::parse(&read_entry(&mut first, NAME, MAX_SIZE)?)?;
    let mut members: Vec<Option<Member>> = manifest.files.iter().map(|_| None).collect();
    for entry in entries {
        let mut entry = entry.map_err(unreadable)?;
        let name = entry.path_bytes().into_owned();
        let shown = printable(&String::from_utf8_lossy(&name));
        if !entry.header().entry_type().is_file() {
            return Err(malformed(format!(
                "{shown} in it is no regular file, so nothing of it is used"
            )));
        }
        let is_it = |file: &FileInfo| file.name.as_bytes() == name;
        let Some(at) = manifest.files.iter().position(is_it) else {
            return Err(malformed(format!(
                "{shown} in it is not in its list, so nothing of it is used"
            )));
        };
        let file = &manifest.files[at];
        let bytes = read_entry(&mut entry, &shown, file.role.limit())?;
        let member = Member {
            role: file.role,
            bytes,
        };
        if member.bytes.len() != file.size || members[at].replace(member).is_some() {
            return Err(malformed(format!(
                "{shown} in it has another size than its list says"
            )));
        }
    }
    let mut rest = tar.into_inner().take(MAX_REST + 1);
    let rest = io::copy(&mut rest, &mut io::sink()).map_err(unreadable)?;
    if rest > MAX_REST {
        return Err(malformed("something follows its end"));
    }
    let missing = members.iter().position(Option::is_none);
    if let Some(missing) = missing {
        return Err(malformed(format!(
            "{} is missing in it",
            manifest.files[missing].name
        )));
    }
    Ok(Collected {
        members: members.into_iter().flatten().collect(),
        manifest,
    })
}

/// The content of an entry. Allocated at its full size, because a vector that grows leaves unzeroed copies.
fn read_entry<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    shown: &str,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>> {
    let size = entry.size();
    let size = usize::try_from(size).ok().filter(|size| *size <= limit);
    let size = size
        .ok_or_else(|| malformed(format!("{shown} in it is too large: at most {limit} bytes")))?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(size));
    entry
        .take(size as u64)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    match bytes.len() == size {
        true => Ok(bytes),
        false => Err(malformed("it is cut off")),
    }
}

/// An error of the disk, or of what the archive holds.
pub(super) fn unreadable(error: io::Error) -> Error {
    match (error.raw_os_error(), error.kind()) {
        (Some(_), _) => Error::io("reading the backup", error),
        (None, io::ErrorKind::UnexpectedEof) => malformed("it is cut off, or was changed"),
        (None, _) => malformed(format!(
            "it is damaged, or was changed ({})",
            in_words(&error)
        )),
    }
}

impl Collected {
    /// The content of the file with this role.
    pub(super) fn member(&self, role: super::Role) -> Option<&Zeroizing<Vec<u8>>> {
        let member = self.members.iter().find(|member| member.role == role);
        member.map(|member| &member.bytes)
    }

    /// The name that the archive has for the file with this role.
    pub(super) fn name_of(&self, role: super::Role) -> Option<&Path> {
        let file = self.manifest.files.iter().find(|file| file.role == role);
        file.map(|file| Path::new(&file.name))
    }
}
