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
    /// As it is written down.
    pub(crate) found: registry::Running,
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

/// All running cells; none for an ordinary user, who may not look.
pub(crate) fn if_root() -> Result<Vec<Running>> {
    if rustix::process::geteuid().is_root() { running() } else { Ok(Vec::new()) }
}

/// Clears away state, control groups and layers on disk of all cells that have ended; answers how many run.
pub(crate) fn sweep() -> Result<usize> {
    let run = run_directory()?;
    let number = registry::sweep(&run, usize::MAX).map_err(|refusal| Error::failed(refusal.why))?.len();
    jail_confine::cgroup::sweep_all(&run).map_err(|refusal| Error::failed(refusal.why))?;
    jail_confine::cell::discard::sweep(usize::MAX).map_err(|refusal| Error::failed(refusal.why))?;
    Ok(number)
}

/// The processes in the pid namespace of a cell's first process, that one among them.
pub(crate) fn processes(first: i32) -> Vec<u32> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(of_cell) = namespace(&first.to_string()) else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let inside = pids
        .filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()) && namespace(pid).as_ref() == Some(&of_cell));
    let mut pids: Vec<u32> = inside.filter_map(|pid| pid.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// What a process has in memory, pages that several share counted by their part (Pss); 0 for one that is gone.
pub(crate) fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// What the kernel counts a second in for programs, on every architecture that Debian has.
const TICKS: u64 = 100;

/// When something began, in seconds since 1970, that the kernel counts in ticks since boot.
pub(crate) fn began(ticks: u64) -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok());
    boot.unwrap_or(0) + ticks / TICKS
}

fn parse(found: &registry::Running) -> Option<Running> {
    let (uid, jail) = registry::parse_cell_name(&found.name)?;
    let (pid, started) = (found.state.pid, found.state.started);
    Some(Running { uid, jail: jail.to_owned(), pid, started, found: found.clone() })
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
        assert_eq!(of("0-srv-a-b.old-12-345"), Some((0, "srv-a-b".to_owned())));
        assert_eq!(of("0-srv-a.old-x"), Some((0, "srv-a.old-x".to_owned())));
        assert_eq!(of("x-y"), None);
    }
}
