//! Whether a running cell is what its user's next login would make: for `jail-list`, since `stale` decides what such a
//! login does about one that is not.

use std::ffi::OsStr;

use super::registry::{Running, SET_ASIDE, cell_name, digest};
use crate::explain;

/// How a cell stands to policy and jail of now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// It was made from them.
    Current,
    /// They have changed since, or it has made room for a newer one.
    Older,
    /// No login of that user would come to it now: he has left the jail, or is refused.
    NoLongerHis,
}

/// Compares a running cell with what its user's next login would ask for. For root.
#[must_use]
pub fn of(running: &Running, user: &OsStr) -> Age {
    if running.name.contains(SET_ASIDE) {
        return Age::Older;
    }
    match explain::admission_of(user) {
        Ok(admission) if cell_name(&admission) != running.name => Age::NoLongerHis,
        Ok(admission) if digest(&admission) == running.state.made_from => Age::Current,
        Ok(_) => Age::Older,
        Err(_) => Age::NoLongerHis,
    }
}
