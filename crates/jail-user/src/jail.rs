//! A jail that accounts can be put into: its place is safe, and it has an /etc and shells of its own.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jail_accounts::convention;
use jail_provision::state::{self, State};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::dir;
use crate::trouble::{Trouble, cannot, quoted};

/// An opened jail.
#[derive(Debug)]
pub struct Jail {
    /// Its canonical path.
    pub path: PathBuf,
    /// Its name, as in `/var/lib/jailwright/NAME`.
    pub name: String,
    /// Its root.
    pub root: OwnedFd,
    /// Its /etc.
    pub etc: OwnedFd,
    /// The base that its own files lie over, if it has one.
    pub base: Option<OwnedFd>,
}

impl Jail {
    /// Opens a jail, and refuses one that someone other than root could exchange or fill.
    pub fn open(path: &Path) -> Result<Self, Trouble> {
        let made = |trouble: Trouble| match trouble.hint.as_str() {
            "" => trouble.hint(format!("make it with jail-init -j {} basicshell", quoted(path.as_os_str()))),
            _ => trouble,
        };
        let clean = dir::clean(path.as_os_str().as_bytes()).ok_or_else(|| {
            Trouble::usage(format!(
                "the jail {} is not an absolute path without `..`",
                quoted(path.as_os_str())
            ))
        })?;
        if clean == Path::new("/") {
            return Err(Trouble::unsafe_to("the jail cannot be '/'"));
        }
        if clean.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b':' | b'\n')) {
            return Err(Trouble::usage(format!(
                "the jail {} has a colon or newline in it, which passwd cannot hold",
                quoted(clean.as_os_str())
            )));
        }
        let root = dir::open_trusted(&clean).map_err(made)?;
        let etc =
            dir::open_trusted_below(root.as_fd(), &clean, Path::new("etc"), false)?.ok_or_else(|| {
                made(Trouble::failed(format!("{} is no jail: it has no etc", quoted(clean.as_os_str()))))
            })?;
        let name = convention::jail_name(clean.as_os_str().as_bytes());
        let base = open_base(&clean)?;
        Ok(Self { path: clean, name, root, etc, base })
    }

    /// A file of the jail, if it is there: none outside, whatever links the jail holds, and no wait at a pipe.
    pub fn read(&self, inner: &str) -> Option<Vec<u8>> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(&self.root, inner, flags, Mode::empty(), resolve).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut bytes = Vec::new();
        std::fs::File::from(file).read_to_end(&mut bytes).ok().map(|_| bytes)
    }

    /// Whether a program can be started in the jail by anyone.
    pub fn check_shell(&self, shell: &Path) -> Result<(), Trouble> {
        let lacks = |why: &str| {
            Trouble::failed(format!(
                "the jail {} lacks the shell {}: {why}",
                quoted(self.path.as_os_str()),
                quoted(shell.as_os_str())
            ))
            .hint("put it in with jail-init or jail-cp, or name another with -s")
        };
        if dir::clean(shell.as_os_str().as_bytes()).is_none() {
            return Err(Trouble::usage(format!(
                "the shell {} is not an absolute path",
                quoted(shell.as_os_str())
            )));
        }
        if shell.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b':' | b'\n')) {
            return Err(Trouble::usage(format!(
                "the shell {} has a colon or newline in it",
                quoted(shell.as_os_str())
            )));
        }
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let open = |layer: &OwnedFd| rustix::fs::openat2(layer, shell, flags, Mode::empty(), resolve);
        let found = open(&self.root)
            .or_else(|errno| self.base.as_ref().map_or(Err(errno), open))
            .map_err(|errno| lacks(&errno.to_string()))?;
        let stat = rustix::fs::fstat(&found).map_err(cannot("look at", shell))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(lacks("it is not a file"));
        }
        if stat.st_mode & 0o001 == 0 {
            return Err(lacks("it is not executable for everyone"));
        }
        if stat.st_uid != 0 || stat.st_mode & 0o022 != 0 {
            return Err(Trouble::unsafe_to(format!(
                "the shell {} in {} can be changed by others than root",
                quoted(shell.as_os_str()),
                quoted(self.path.as_os_str())
            ))
            .hint("chown root and chmod go-w it"));
        }
        Ok(())
    }

    /// The shell an account gets in the jail if none is named: its own if the jail has it, else bash, else sh.
    pub fn default_shell(&self, own: &[u8]) -> Result<PathBuf, Trouble> {
        let own = Path::new(OsStr::from_bytes(own));
        let is_ours = |name: &OsStr| matches!(name.as_bytes(), b"jail-sh" | b"jk_chrootsh" | b"jk_lsh");
        if let Some(name) = own.file_name() {
            if matches!(name.as_bytes(), b"nologin" | b"false") {
                return Err(Trouble::failed(format!(
                    "the account's shell is {}, so it may not log in",
                    quoted(own.as_os_str())
                ))
                .hint("if it is to log in to the jail, name a shell with -s"));
            }
            if !is_ours(name) && self.check_shell(own).is_ok() {
                return Ok(own.to_owned());
            }
        }
        let mut last = None;
        for shell in ["/bin/bash", "/bin/sh"] {
            match self.check_shell(Path::new(shell)) {
                Ok(()) => return Ok(shell.into()),
                Err(trouble) => last = Some(trouble),
            }
        }
        Err(last.unwrap_or_else(|| Trouble::failed("the jail has no shell")))
    }
}

/// The current generation of the base that jail-init gave the jail.
fn open_base(jail: &Path) -> Result<Option<OwnedFd>, Trouble> {
    let state = State::of_jail(Path::new(state::ROOT_BASE), jail);
    let read = |state: &State| {
        state
            .manifest()
            .map_err(|error| Trouble::failed(format!("cannot tell what the jail lies on: {error}")))
    };
    let Some(base) = read(&state)?.and_then(|manifest| manifest.base) else { return Ok(None) };
    match read(&state.of_other(&base.0))? {
        Some(manifest) if manifest.generation.is_some() => dir::open_trusted(&manifest.root()).map(Some),
        _ => Err(Trouble::failed(format!("there is no base {}", quoted(base.0.as_os_str())))
            .hint(format!("make it with jail-init --as-base -j {} basicshell", quoted(base.0.as_os_str())))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_jail_neither_misleads_a_reader_nor_keeps_him_waiting() {
        let dir = tempfile::tempdir().expect("a directory");
        let etc = dir.path().join("etc");
        std::fs::create_dir(&etc).expect("etc");
        std::fs::write(etc.join("plain"), "inside").expect("a file");
        std::os::unix::fs::symlink("/etc/passwd", etc.join("out")).expect("a link");
        std::os::unix::fs::symlink("../../../../../../etc/passwd", etc.join("up")).expect("a link");
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, etc.join("pipe"), FileType::Fifo, mode, 0).expect("a pipe");
        let open = |path: &Path| OwnedFd::from(std::fs::File::open(path).expect("opens"));
        let jail = Jail {
            path: dir.path().to_path_buf(),
            name: "test".to_owned(),
            root: open(dir.path()),
            etc: open(&etc),
            base: None,
        };
        assert_eq!(jail.read("etc/plain").as_deref(), Some(&b"inside"[..]));
        for none in ["etc/out", "etc/up", "etc/pipe", "etc/missing", "etc"] {
            assert_eq!(jail.read(none), None, "{none}");
        }
    }
}
