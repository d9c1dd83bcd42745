//! The audit trails and the key that signs them: they are restored together or not at all, and those that a restore replaced stay
//! verifiable with the key that they had. Changes nothing.

use std::path::{Path, PathBuf};

use ring::hmac;

use super::KEPT;
use super::check::Checked;
use super::compare::State;
use super::manifest::{Part, Role};
use super::plan::Step;
use crate::audit::{AuditOptions, Chain, Verified, signing_key};
use crate::error::Result;
use crate::files::{all_beside, read_file};
use crate::settings::Settings;

/// Leaves the trails and their key as they are if the archive's key would take the place of one with which more of a trail can be
/// verified, and the archive has nothing that takes the place of that trail. Returns that trail's path.
///
/// # Errors
/// A trail cannot be read.
pub(super) fn leave_signed(
    steps: &mut [Step],
    checked: &Checked,
    settings: &Settings,
) -> Result<Option<PathBuf>> {
    let is_key = |step: &Step| step.role == Role::AuditKey && step.state == State::Differs;
    let there = checked.archive.member(Role::AuditKey);
    let (Some(there), true) = (there, steps.iter().any(is_key)) else {
        return Ok(None);
    };
    let options = AuditOptions::from_settings(settings);
    // A key that is not usable verifies nothing.
    let Ok(here) = options.signing_key_source().key() else {
        return Ok(None);
    };
    let there = signing_key(there);
    let mut signed = None;
    for (role, chain) in [
        (Role::Changes, options.change_chain()),
        (Role::Reads, options.read_chain()),
    ] {
        let is_replaced = |step: &Step| step.role == role && step.state == State::Differs;
        if steps.iter().any(is_replaced) || signed.is_some() {
            continue;
        }
        let verified = chain.verify(&here)?;
        if verified.rows > 0 && whole_until(&verified) > whole_until(&chain.verify(&there)?) {
            signed = Some(chain.path().to_owned());
        }
    }
    if signed.is_some() {
        let trails = steps.iter_mut().filter(|step| step.part() == Part::Trails);
        for step in trails.filter(|step| step.state != State::Same) {
            step.state = State::Same;
            step.detail = "not restored, because of the trail that is here".to_owned();
        }
    }
    Ok(signed)
}

/// The first row that does not fit.
fn whole_until(verified: &Verified) -> i64 {
    let broken = verified.broken.as_ref();
    broken.map_or(i64::MAX, |broken| broken.id)
}

/// The trails that restores have replaced, each with the key that it had. Without an own one it had the key of the time after it, or
/// has the present one.
///
/// # Errors
/// There is no usable key.
pub fn kept_trails(options: &AuditOptions) -> Result<Vec<(Chain, hmac::Key)>> {
    let key_file = options.state_dir.join("audit.key");
    let mut keys: Vec<(String, PathBuf)> = kept(&key_file);
    keys.sort();
    let mut all = Vec::new();
    let of_reads = options.read_chain();
    for (of, is_of_reads) in [(options.change_chain(), false), (of_reads, true)] {
        let mut trails = kept(of.path());
        trails.sort();
        for (time, path) in trails {
            let own = keys.iter().find(|(of_key, _)| *of_key >= time);
            let own = own.and_then(|(_, path)| read_file(path, crate::credential::MAX_KEY).ok());
            let key = match own {
                Some(content) if !content.bytes.is_empty() => signing_key(&content.bytes),
                _ => options.signing_key_source().key()?,
            };
            let chain = match is_of_reads {
                true => Chain::own(path),
                false => Chain::shared(path),
            };
            all.push((chain, key));
        }
    }
    Ok(all)
}

/// What restores have kept of a file, each with the time in its name.
fn kept(path: &Path) -> Vec<(String, PathBuf)> {
    let all = all_beside(path, "", KEPT).into_iter();
    let with_time = all.filter_map(|path| {
        let name = path.file_name()?.to_str()?;
        let (_, time) = name.split_once(KEPT)?;
        // Not what SQLite has beside a database.
        let is_time = |c: char| c.is_ascii_digit() || matches!(c, 'T' | 'Z' | '-');
        let time = time.chars().all(is_time).then(|| time.to_owned())?;
        Some((time, path))
    });
    with_time.collect()
}
