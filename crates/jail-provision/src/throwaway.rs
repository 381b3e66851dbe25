//! Jails that nobody made: jail-run provisions one under the caller's cache, and finds it there the next time.
//!
//! A jail is kept under a name made of the request and of the host files that it was made from, so a changed host gives a
//! new jail and never changes one that somebody may be in. Before a kept jail is used, every file in it must be as it was
//! left, by inode, size, mtime and ctime: nobody can set a ctime back.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::apply::Silent;
use crate::digest::Digest;
use crate::entry::EntryNeeds;
use crate::error::{Error, Result};
use crate::host::RealHost;
use crate::jailroot::JailRoot;
use crate::manifest::Manifest;
use crate::profiles::Profiles;
use crate::provision::{self, Request, Watcher};
use crate::state::State;
use crate::takedown;
use crate::text;
use crate::tree;

/// What jail-run asks for.
#[derive(Debug, Clone)]
pub struct ThrowawayRequest<'a> {
    /// Sections of the jail.
    pub sections: &'a [String],
    /// Programs (or trees) of the host to bring in, absolute or relative to the working directory.
    pub with: &'a [PathBuf],
    /// Directories to have, empty if nothing else is there: the caller's working directory, so that a command can start
    /// in it by its own name.
    pub directories: &'a [PathBuf],
    /// Where jails are kept, such as `~/.cache/jailwright` or `/var/cache/jailwright`; made if need be.
    pub cache_root: PathBuf,
    /// Where sections are looked for.
    pub profiles: Profiles,
}

/// A jail that is ready to be entered, and stays so as long as this value lives.
#[derive(Debug)]
pub struct ThrowawayJail {
    /// Its directory.
    pub path: PathBuf,
    /// What its sections need from the entry.
    pub entry: EntryNeeds,
    /// The absolute paths of what `with` brought, in order.
    pub with: Vec<PathBuf>,
    /// What the caller should know (a plug-in that cannot load, say).
    pub notes: Vec<String>,
    /// Whether it was there already.
    pub reused: bool,
    /// Held shared while it is in use, so that nobody clears it away.
    _in_use: File,
}

/// Provisions a jail in the cache, or finds the one that was made from the same files before.
///
/// # Errors
/// As [`provision::run`].
pub fn throwaway(request: &ThrowawayRequest<'_>) -> Result<ThrowawayJail> {
    let with = request.with.iter().map(|path| absolute(path)).collect::<Result<Vec<_>>>()?;
    let kept = Kept { dir: request.cache_root.join("jails").join(key(request, &with)) };
    if let Some(jail) = kept.current(request, &with)? {
        return Ok(jail);
    }
    kept.make(request, with)
}

/// All jails that were made for one request; the newest is the current one.
struct Kept {
    dir: PathBuf,
}

const CURRENT: &str = "current";

impl Kept {
    /// The jail that is there, if it is still what would be made now.
    fn current(&self, request: &ThrowawayRequest<'_>, with: &[PathBuf]) -> Result<Option<ThrowawayJail>> {
        let Ok(generation) = std::fs::read_link(self.dir.join(CURRENT)) else { return Ok(None) };
        let state = self.state(&generation);
        let Ok(in_use) = File::open(state.dir().join("lock")) else { return Ok(None) };
        if flock(in_use.as_fd(), FlockOperation::NonBlockingLockShared).is_err() {
            return Ok(None);
        }
        let provision = self.request(request, with, &generation);
        // A damaged manifest, a vanished section: the jail is made anew, and what is really wrong is said then.
        let Ok(outlook) = provision::look(&provision, &|_| state.clone(), &RealHost::system()) else {
            return Ok(None);
        };
        if !outlook.unchanged {
            return Ok(None);
        }
        let entry = outlook.entry;
        let (path, with) = (outlook.jail, with.to_vec());
        Ok(Some(ThrowawayJail { path, entry, with, notes: Vec::new(), reused: true, _in_use: in_use }))
    }

    /// Makes a new generation and makes it the current one.
    fn make(&self, request: &ThrowawayRequest<'_>, with: Vec<PathBuf>) -> Result<ThrowawayJail> {
        private_directory(&self.dir)?;
        let generation = PathBuf::from(unique());
        let state = self.state(&generation);
        let provision = self.request(request, &with, &generation);
        private_directory(state.dir())?;
        let made = provision::run(
            &provision,
            &|_| state.clone(),
            &RealHost::system(),
            &mut Watcher { progress: &mut Silent, waiting: &mut |_| {} },
        );
        let outlook = match made {
            Ok(outlook) => outlook,
            Err(error) => {
                takedown::remove_tree(state.dir())?;
                return Err(error);
            }
        };
        let lock = state.dir().join("lock");
        let in_use = File::open(&lock).map_err(|e| Error::io("open", &lock, e))?;
        flock(in_use.as_fd(), FlockOperation::LockShared).map_err(|e| Error::io("lock", &lock, e))?;
        self.make_current(&generation)?;
        self.clear_others(&generation);
        let (path, entry) = (outlook.jail, outlook.entry);
        Ok(ThrowawayJail { path, entry, with, notes: outlook.notes, reused: false, _in_use: in_use })
    }

    fn state(&self, generation: &Path) -> State {
        State::at(&self.dir.join(generation), "throwaway")
    }

    fn request(&self, request: &ThrowawayRequest<'_>, with: &[PathBuf], generation: &Path) -> Request {
        Request {
            sections: request.sections.to_vec(),
            wishes: with.to_vec(),
            directories: request.directories.to_vec(),
            profiles: request.profiles.clone(),
            durable: false,
            ..Request::new(&self.dir.join(generation).join("root"))
        }
    }

    fn make_current(&self, generation: &Path) -> Result<()> {
        let (link, new) = (self.dir.join(CURRENT), self.dir.join(format!("new-{}", unique())));
        std::os::unix::fs::symlink(generation, &new).map_err(|e| Error::io("make the link", &new, e))?;
        std::fs::rename(&new, &link).map_err(|e| Error::io("make the link", &link, e))
    }

    /// Removes generations that nobody uses. Whatever cannot be removed now is tried again next time.
    fn clear_others(&self, generation: &Path) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name == CURRENT || generation == Path::new(&name) || !entry.path().is_dir() {
                continue;
            }
            let lock = entry.path().join("lock");
            let unused = File::open(&lock)
                .is_ok_and(|file| flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok());
            if unused {
                takedown::remove_tree(&entry.path()).unwrap_or_default();
            }
        }
    }
}

fn private_directory(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(|e| Error::io("make the directory", dir, e))
}

/// Different for every process and call; only one process ever makes a generation of this name.
fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}-{}", now.as_nanos(), std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed))
}

/// A short name for a request.
fn key(request: &ThrowawayRequest<'_>, with: &[PathBuf]) -> String {
    let mut bytes = Vec::new();
    for section in request.sections {
        bytes.extend_from_slice(section.as_bytes());
        bytes.push(0);
    }
    for path in with {
        bytes.push(1);
        bytes.extend_from_slice(path.as_os_str().as_bytes());
        bytes.push(0);
    }
    for path in request.directories {
        bytes.push(2);
        bytes.extend_from_slice(path.as_os_str().as_bytes());
        bytes.push(0);
    }
    Digest::of(&bytes).to_string()[..20].to_owned()
}

/// The path a wish is known by: absolute and plain, its links kept.
fn absolute(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
    tree::plain(&absolute).ok_or_else(|| {
        Error::usage(format!("{} holds '..'", text::quote(path))).hint("give the path without it")
    })
}

/// For messages and tests: the manifest of a throw-away jail.
///
/// # Errors
/// It cannot be read.
pub fn manifest_of(jail: &ThrowawayJail) -> Result<Option<Manifest>> {
    let dir = jail.path.parent().unwrap_or(&jail.path);
    State::at(dir, "throwaway").manifest()
}

/// The kept jail's root, checked as any other jail.
///
/// # Errors
/// As [`JailRoot::find_or_make`].
pub fn open_root(jail: &ThrowawayJail) -> Result<JailRoot> {
    JailRoot::find_or_make(&jail.path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A script with its own directory as cache, and one section that asks for a shell.
    fn scratch() -> (tempfile::TempDir, Profiles, PathBuf) {
        let dir = tempfile::tempdir().expect("scratch");
        let profiles = dir.path().join("profiles");
        std::fs::create_dir(&profiles).expect("made");
        std::fs::write(profiles.join("shell.toml"), "description = \"a shell\"\ncommands = [\"sh\"]\n")
            .expect("written");
        let script = dir.path().join("untrusted");
        std::fs::write(&script, "#!/bin/sh\necho hello\n").expect("written");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let profiles = Profiles::only(&profiles);
        (dir, profiles, script)
    }

    #[test]
    fn the_second_run_finds_the_first_ones_jail_until_the_host_changes() {
        let (dir, profiles, script) = scratch();
        let sections = ["shell".to_owned()];
        let with = [script.clone()];
        let request = ThrowawayRequest {
            directories: &[],
            sections: &sections,
            with: &with,
            cache_root: dir.path().join("cache"),
            profiles,
        };
        let first = throwaway(&request).expect("made");
        assert!(!first.reused);
        let inside = first.path.join(script.strip_prefix("/").expect("absolute"));
        assert_eq!(std::fs::read(&inside).expect("there"), std::fs::read(&script).expect("there"));
        assert!(first.path.join("bin/sh").exists() || first.path.join("usr/bin/sh").exists());
        let second = throwaway(&request).expect("found");
        assert!(second.reused);
        assert_eq!(second.path, first.path);

        std::fs::write(&script, "#!/bin/sh\necho changed\n").expect("written");
        let third = throwaway(&request).expect("made anew");
        assert!(!third.reused);
        assert_ne!(third.path, first.path, "a jail that may be in use never changes");
        assert_eq!(std::fs::read(&inside).expect("still there"), b"#!/bin/sh\necho hello\n");
        drop((first, second));

        std::fs::write(&script, "#!/bin/sh\necho again\n").expect("written");
        let fourth = throwaway(&request).expect("made anew");
        assert!(!inside.exists(), "what nobody uses is cleared away");
        assert!(fourth.path.exists());
    }

    #[test]
    fn a_kept_jail_that_was_touched_is_not_used_again() {
        let (dir, profiles, script) = scratch();
        let sections = ["shell".to_owned()];
        let with = [script.clone()];
        let request = ThrowawayRequest {
            directories: &[],
            sections: &sections,
            with: &with,
            cache_root: dir.path().join("cache"),
            profiles,
        };
        let first = throwaway(&request).expect("made");
        let inside = first.path.join(script.strip_prefix("/").expect("absolute"));
        let before = std::fs::metadata(&inside).expect("there");
        // Same size, same mtime: only the ctime tells.
        std::fs::write(&inside, "#!/bin/sh\necho gotya\n").expect("written");
        let file = std::fs::File::options().write(true).open(&inside).expect("opened");
        file.set_modified(before.modified().expect("mtime")).expect("set back");
        assert_eq!(std::fs::metadata(&inside).expect("there").len(), before.len());
        let second = throwaway(&request).expect("made anew");
        assert!(!second.reused);
        assert_ne!(second.path, first.path);
    }
}
