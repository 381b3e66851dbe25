//! The sums of the last layer that was written of a jail, so that an unchanged jail is not digested again.
//!
//! An unchanged jail is one whose every entry has the inode, size, mtime and ctime it had: nobody, not even root, can set a
//! ctime back. A change within the clock tick of the last look could go unseen, so a jail that was changed just now is not
//! remembered.

use std::time::{SystemTime, UNIX_EPOCH};

use jail_provision::digest::Digest;
use jail_provision::error::Result;
use jail_provision::state::State;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::contents::Contents;
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
    // Debug output of plain data: stable within one version of the program, which is part of what is digested.
    // Entry by entry: a list of a million would be half a gigabyte of text.
    let mut hash = Sha256::new();
    hash.update(format!("{} {gzip}\n", env!("CARGO_PKG_VERSION")));
    for entry in &contents.entries {
        hash.update(format!("{entry:?}\n"));
    }
    Digest(hash.finalize().into())
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
    let newest = contents.entries.iter().map(|e| (e.stamp.4, e.stamp.5)).max().unwrap_or((0, 0));
    let newest = i128::from(newest.0) * 1_000_000_000 + i128::from(newest.1);
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i128::try_from(d.as_nanos()).unwrap_or(0));
    now - newest < TICK_NANOSECONDS
}
