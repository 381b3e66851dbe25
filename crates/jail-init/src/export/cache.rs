//! The sums of the last layer that was written of a jail, so that an unchanged jail is not digested again.
//!
//! An unchanged jail is one whose every entry has the inode, size, mtime and ctime it had: nobody, not even root, can set a
//! ctime back. A change within the clock tick of the last look could go unseen, so a jail that was changed just now is not
//! remembered.

use std::os::unix::ffi::OsStrExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

use jail_provision::digest::Digest;
use jail_provision::error::Result;
use jail_provision::manifest::Stamp;
use jail_provision::state::State;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::contents::{Content, Contents, Entry};
use super::layout::Sums;

const FILE: &str = "export.json";

/// More than the kernel's clock takes from one tick to the next.
const TICK_NANOSECONDS: i128 = 50_000_000;

#[derive(Serialize, Deserialize)]
struct Remembered {
    key: Digest,
    sums: Sums,
}

/// What the layer's bytes follow from.
pub(crate) fn key(contents: &Contents, gzip: bool) -> Digest {
    let mut hash = Sha256::new();
    hash.update(format!("{} {gzip}\n", env!("CARGO_PKG_VERSION")));
    // A million of them: their bytes, not their text. Entry by entry, for a whole would take as much memory again.
    let mut bytes = Vec::new();
    for entry in &contents.entries {
        bytes.clear();
        put(&mut bytes, entry);
        hash.update(&bytes);
    }
    Digest(hash.finalize().into())
}

/// Everything about an entry. Texts end with a NUL, which none of them holds; numbers have one length.
fn put(bytes: &mut Vec<u8>, entry: &Entry) {
    let Entry { path, what, mode, uid, gid, mtime, capabilities, stamp, in_base } = entry;
    let Stamp(inode, size, changed, changed_part, any_change, any_change_part) = *stamp;
    let (kind, content, target) = match what {
        Content::Directory => (0, 0, None),
        Content::File { size } => (1, *size, None),
        Content::Symlink(target) => (2, 0, Some(target)),
        Content::HardLink(first) => (3, 0, Some(first)),
    };
    for text in [Some(path), target] {
        bytes.extend_from_slice(text.map_or(b"", |text| text.as_os_str().as_bytes()));
        bytes.push(0);
    }
    bytes.extend([kind, u8::from(*capabilities), u8::from(*in_base)]);
    for number in [*mode, *uid, *gid, changed_part, any_change_part] {
        bytes.extend(number.to_le_bytes());
    }
    for number in [content, inode, size] {
        bytes.extend(number.to_le_bytes());
    }
    for number in [*mtime, changed, any_change] {
        bytes.extend(number.to_le_bytes());
    }
}

/// The sums of this very list, if it was written before.
pub(crate) fn recall(state: &State, key: Digest) -> Option<Sums> {
    let bytes = std::fs::read(state.dir().join(FILE)).ok()?;
    let remembered: Remembered = serde_json::from_slice(&bytes).ok()?;
    (remembered.key == key).then_some(remembered.sums)
}

/// Remembers the sums.
///
/// # Errors
/// They cannot be written.
pub(crate) fn remember(state: &State, contents: &Contents, key: Digest, sums: Sums) -> Result<()> {
    if just_changed(contents) {
        return Ok(());
    }
    let json = serde_json::to_vec(&Remembered { key, sums }).unwrap_or_default();
    state.stage_bytes(state.dir().join(FILE), &json, 0o600)?.commit()
}

fn just_changed(contents: &Contents) -> bool {
    let newest = contents.entries.iter().map(|e| (e.stamp.4, e.stamp.5)).max();
    newest.is_some_and(|(seconds, nanoseconds)| is_recent(seconds, nanoseconds))
}

/// Whether a change at this time could be followed by another that bears the same.
pub(super) fn is_recent(seconds: i64, nanoseconds: u32) -> bool {
    let then = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i128::try_from(d.as_nanos()).unwrap_or(0));
    now - then < TICK_NANOSECONDS
}
