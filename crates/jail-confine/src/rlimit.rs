//! Limits of the caller's that are too low for what this program does itself: they come along through set-uid.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Makes a limit of this process at least so high. Beyond the hard limit that is root's to do.
pub(crate) fn raise(resource: Resource, least: u64) -> Result<(), Errno> {
    let enough = |limit: Option<u64>| limit.is_none_or(|most| most >= least);
    let now = getrlimit(resource);
    let maximum = if enough(now.maximum) { now.maximum } else { Some(least) };
    if enough(now.current) && maximum == now.maximum {
        return Ok(());
    }
    setrlimit(resource, Rlimit { current: maximum, maximum })
}
