//! Running cells, as the entry writes them down below /run/jailwright.

use std::os::fd::OwnedFd;

use jail_confine::cell::registry;
use jail_provision::error::{Error, Result};

/// A running cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    /// Of which user.
    pub(crate) uid: u32,
    /// The name of the jail.
    pub(crate) jail: String,
    /// Its first process.
    pub(crate) pid: i32,
    /// When that started, in clock ticks since boot.
    pub(crate) started: u64,
}

/// The directory that cells are written down in.
pub(crate) fn run_directory() -> Result<OwnedFd> {
    registry::open_run().map_err(|refusal| Error::failed(refusal.why))
}

/// All running cells; what dead ones left is removed on the way.
pub(crate) fn running() -> Result<Vec<Running>> {
    let found =
        registry::sweep(&run_directory()?, usize::MAX).map_err(|refusal| Error::failed(refusal.why))?;
    Ok(found.iter().filter_map(parse).collect())
}

/// The running cells of a jail.
pub(crate) fn of_jail(name: &str) -> Result<Vec<Running>> {
    Ok(running()?.into_iter().filter(|cell| cell.jail == name).collect())
}

/// `1000-home-jail`, and `1000-home-jail.old-4711` for one that was set aside.
fn parse(found: &registry::Running) -> Option<Running> {
    let (uid, jail) = found.name.split_once('-')?;
    let jail = match jail.rsplit_once(".old-") {
        Some((jail, pid)) if pid.bytes().all(|b| b.is_ascii_digit()) => jail,
        _ => jail,
    };
    let (pid, started) = (found.state.pid, found.state.started);
    Some(Running { uid: uid.parse().ok()?, jail: jail.to_owned(), pid, started })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_made() {
        let of = |name: &str| {
            let state =
                registry::State { boot: String::new(), pid: 7, started: 9, made_from: 0, own_network: false };
            parse(&registry::Running { name: name.to_owned(), state }).map(|cell| (cell.uid, cell.jail))
        };
        assert_eq!(of("1000-home-jail"), Some((1000, "home-jail".to_owned())));
        assert_eq!(of("0-srv-a-b.old-12"), Some((0, "srv-a-b".to_owned())));
        assert_eq!(of("0-srv-a.old-x"), Some((0, "srv-a.old-x".to_owned())));
        assert_eq!(of("x-y"), None);
    }
}
