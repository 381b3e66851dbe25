//! The jails of this host: where their state lies, who has an account in one, and what runs in one.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jail_accounts::convention::split_home;

use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::state::State;

/// A jail that has state.
#[derive(Debug)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: State,
    /// Its manifest, or what is wrong with that.
    pub manifest: Result<Manifest>,
}

/// Every jail with a manifest below `base`, by name.
///
/// # Errors
/// The directory cannot be read; a missing one means no jails.
pub fn jails(base: &Path) -> Result<Vec<Known>> {
    let read = |state: State| match state.manifest() {
        Ok(None) => None,
        Ok(Some(manifest)) => Some(Known { name: state.name().to_owned(), state, manifest: Ok(manifest) }),
        Err(error) => Some(Known { name: state.name().to_owned(), state, manifest: Err(error) }),
    };
    Ok(states(base)?.into_iter().filter_map(read).collect())
}

/// The directories of all jails that follow this host, by name; an image's is renewed by whoever makes the image.
///
/// # Errors
/// The directory cannot be read, or a manifest in it.
pub fn following(base: &Path) -> Result<Vec<PathBuf>> {
    let mut jails = Vec::new();
    for state in states(base)? {
        jails.extend(state.follower()?);
    }
    Ok(jails)
}

/// Every directory of state below `base`, by name.
fn states(base: &Path) -> Result<Vec<State>> {
    let entries = match std::fs::read_dir(base) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", base, error)),
    };
    let mut states = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read", base, e))?;
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // jail-user keeps a note of its own beside the jails.
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        states.push(State::at(&entry.path(), &name));
    }
    states.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(states)
}

/// The accounts of the host whose home lies in this jail.
///
/// # Errors
/// `/etc/passwd` cannot be read.
pub fn accounts(jail: &Path) -> Result<Vec<String>> {
    let passwd = Path::new("/etc/passwd");
    let content = std::fs::read(passwd).map_err(|e| Error::io("read", passwd, e))?;
    let mut names = Vec::new();
    for line in content.split(|b| *b == b'\n') {
        let fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
        let home = fields.get(5).and_then(|home| split_home(home));
        if home.is_some_and(|home| plain_bytes(home.jail) == jail.as_os_str().as_bytes()) {
            names.push(String::from_utf8_lossy(fields[0]).into_owned());
        }
    }
    Ok(names)
}

fn plain_bytes(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"/").unwrap_or(path)
}

/// Processes whose root is the jail's directory. What the caller may not look at is not counted.
#[must_use]
pub fn processes(device: u64, inode: u64) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let root = PathBuf::from(format!("/proc/{pid}/root"));
            // The link is followed on purpose: the kernel answers with the process's own root.
            std::fs::metadata(root).is_ok_and(|stat| (stat.dev(), stat.ino()) == (device, inode))
        })
        .collect();
    pids.sort_unstable();
    pids
}
