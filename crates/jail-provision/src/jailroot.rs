//! The only way anything is written into a jail.
//!
//! Root copies files into a tree that others may be writing to, which is how most of this field's holes came about. Each
//! rule here stops one attack:
//!
//! - **The jail is a directory descriptor, opened component by component without following a link.** A user who owns a
//!   directory above the jail cannot swap it for a link between our look and our write.
//! - **Every path inside is resolved by openat2 with `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`.** A link planted in the jail
//!   (`usr -> /usr`, `etc -> ../../etc`) leads to a place in the jail, never to the host.
//! - **The source is opened `O_NOFOLLOW | O_NONBLOCK` and must be a regular file.** A FIFO cannot make us wait, a link cannot
//!   make us read something else than was planned.
//! - **A file is made under a temporary name, `O_EXCL`, mode 0600, and gets its content, owner, mode, attributes and times
//!   through the descriptor, in that order; then it is renamed.** Nobody can open it half done, a planted link under the
//!   temporary name is an error and not a target, and a run that dies leaves the old file or the new one. Owner before mode:
//!   chown clears set-uid bits, and a set-uid bit must never exist under a wrong owner. In a new jail, which nobody else can
//!   enter yet (see `fresh`), a file without such bits has its own name and mode at once.
//! - **set-uid, set-gid and file capabilities are dropped unless the section asks for them**, and a hard link is never made
//!   to a file that has them: it would be the host's own set-uid file in the jail.
//! - **A file is read again if it changed while it was copied**, told by its whole state before and after.

mod fresh;

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{
    self, AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, StatxFlags, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;

use crate::digest::{Digest, Fingerprint, Taking};
use crate::error::{Error, Result};
use crate::host::{Host, HostFile, RealHost, Stat, Time};
use crate::recording::Opened;
use crate::text;

/// Owner and mode that an entry of the jail is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// What became of a written file.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// Of the content.
    pub digest: Fingerprint,
    /// The new file in the jail.
    pub stat: Stat,
    /// What was copied, as it was at the end of copying.
    pub source: Option<Stat>,
}

/// Whether a copy keeps set-uid bits and file capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Cleared: the rule.
    Drop,
    /// Kept: the section named the file in `setuid`.
    Keep,
}

/// Directories of the host that can never be a jail themselves.
const NEVER_A_JAIL: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/local",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/lib",
    "/var/tmp",
];

/// Temporary names begin with this; what follows is a digest of the final name, so that a killed run's can be found.
const TEMPORARY: &str = ".jailwright-";

/// As many directory descriptors as are kept; far below the usual limit of 1,024.
const KEPT_DIRECTORIES: usize = 128;

const CHUNK: usize = 1 << 20;

/// The disk is told at once of a file as large as this, so that it writes while we copy on and not only when we wait.
const WORTH_AN_EARLY_START: u64 = 1 << 17;

/// A jail's directory, open. Several threads may write different paths through it at once.
#[derive(Debug)]
pub struct JailRoot {
    fd: OwnedFd,
    path: PathBuf,
    /// Whether this process made it, so that it is empty.
    new: bool,
    /// Whether nobody else can enter it (yet), so that a file may have its name before it is whole.
    private: bool,
    dirs: Mutex<HashMap<PathBuf, Arc<Directory>>>,
    /// Buffers that no thread is using.
    buffers: Mutex<Vec<Vec<u8>>>,
    /// File systems of the host whose files cannot share their blocks with ours.
    no_clones_of: Mutex<HashSet<u64>>,
}

/// A directory of the jail, open.
#[derive(Debug)]
struct Directory {
    fd: OwnedFd,
    /// Owner and group that a file made in it was seen to be born with: a set-gid bit or a mount option may decide that.
    born: OnceLock<(u32, u32)>,
}

impl Directory {
    fn new(fd: OwnedFd) -> Self {
        Self { fd, born: OnceLock::new() }
    }
}

/// The jail as it was found before anything was done.
#[derive(Debug)]
pub enum Found {
    /// It is there, and safe.
    Jail(JailRoot),
    /// It is not there, and its parents are safe.
    Nothing,
}

impl JailRoot {
    /// Looks at a jail's path, changing nothing.
    ///
    /// # Errors
    /// The path cannot be a jail, or is unsafe: a link on the way, a directory above that others may write, a wrong owner.
    pub fn find(path: &Path) -> Result<Found> {
        let mut at = Walk::new(path)?;
        while let Some(name) = at.rest.pop() {
            match at.step(&name)? {
                Some((next, stat)) => (at.fd, at.stat) = (next, stat),
                None => return at.check_file_system().map(|()| Found::Nothing),
            }
        }
        at.check_file_system()?;
        at.check_jail_itself()?;
        Ok(Found::Jail(Self::at(at.fd, at.path)))
    }

    /// Opens a jail, making its directory (and missing ones above it) first if need be.
    ///
    /// # Errors
    /// As [`JailRoot::find`], or a directory cannot be made.
    pub fn find_or_make(path: &Path) -> Result<Self> {
        let mut at = Walk::new(path)?;
        let mut new = false;
        while let Some(name) = at.rest.pop() {
            (at.fd, at.stat, new) = match at.step(&name)? {
                Some((fd, stat)) => (fd, stat, false),
                None => at.make(&name)?,
            };
        }
        at.check_file_system()?;
        at.check_jail_itself()?;
        Ok(Self { new, ..Self::at(at.fd, at.path) })
    }

    fn at(fd: OwnedFd, path: PathBuf) -> Self {
        Self {
            fd,
            path,
            new: false,
            private: false,
            dirs: Mutex::default(),
            buffers: Mutex::default(),
            no_clones_of: Mutex::default(),
        }
    }

    /// The jail's path, absolute and free of links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode of the jail's directory.
    ///
    /// # Errors
    /// fstat failed.
    pub fn identity(&self) -> Result<(u64, u64)> {
        let stat = fs::fstat(&self.fd).map_err(|e| Error::io("stat", &self.path, e))?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// Where an inner path lies on the host, for messages.
    #[must_use]
    pub fn outside(&self, inner: &Path) -> PathBuf {
        self.path.join(inner.strip_prefix("/").unwrap_or(inner))
    }

    /// Makes a directory; an existing one gets owner and mode.
    ///
    /// # Errors
    /// A system call failed, or something else is there.
    pub fn make_directory(&self, inner: &Path, meta: Meta) -> Result<()> {
        self.doing("make the directory", inner, || {
            let (dir, name) = self.parent(inner)?;
            let mode = if self.private { meta.mode & 0o777 } else { 0o700 };
            match retry(|| fs::mkdirat(&dir.fd, name, Mode::from_raw_mode(mode))) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = retry(|| fs::openat(&dir.fd, name, flags, Mode::empty()))?;
            set_owner_and_mode(&made, meta)?;
            self.keep(inner, Directory::new(made));
            Ok(())
        })
    }

    /// Copies a regular file of the host, from where planning left it open if it did.
    ///
    /// # Errors
    /// A system call failed, the source is no regular file, or it kept changing.
    pub fn copy_file(
        &self,
        inner: &Path,
        source: &Path,
        opened: &Opened,
        meta: Meta,
        privilege: Privilege,
    ) -> Result<Written> {
        for _ in 0..5 {
            // Only the first time: after that it is another file by now.
            let from = opened.take(source).map(OpenFile::of_plan);
            let done = self.doing("write", inner, || self.copy_once(inner, source, from, meta, privilege))?;
            if let Some(written) = done? {
                return Ok(written);
            }
        }
        Err(Error::failed(format!("{} keeps changing while it is copied", text::quote(source)))
            .hint("run the command again once it has come to rest"))
    }

    /// One attempt; `None` if the source changed meanwhile. The outer error is the jail's, the inner one the source's.
    fn copy_once(
        &self,
        inner: &Path,
        source: &Path,
        from: Option<OpenFile>,
        meta: Meta,
        privilege: Privilege,
    ) -> io::Result<Result<Option<Written>>> {
        let from = match from.map_or_else(|| open_source(source), Ok) {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(Error::io("read", source, error))),
        };
        let before = from.stat;
        let temporary = self.temporary(inner, meta)?;
        let digest = match self.copy_content(&from, &temporary.fd) {
            Ok(digest) => digest,
            Err(Side::Source(error)) => return Ok(Err(Error::io("read", source, error))),
            Err(Side::Jail(error)) => return Err(error.into()),
        };
        let after = stat_of(from.fd.as_fd())?;
        if after != before {
            return Ok(Ok(None));
        }
        match privilege {
            // A change of owner takes capabilities away, so it cannot wait until the file is in place.
            Privilege::Keep => drop(set_owner_and_mode(&temporary.fd, meta)?),
            Privilege::Drop => temporary.set_owner_and_mode(meta)?,
        }
        copy_attributes(&from.fd, &temporary.fd, privilege)?;
        set_mtime(&temporary.fd, after.mtime)?;
        temporary.begin_writing(after.size);
        let stat = temporary.put_in_place(meta)?;
        Ok(Ok(Some(Written { digest, stat, source: Some(after) })))
    }

    /// Has the new file share the old one's blocks until one of them is written to, where the file system can (btrfs, xfs).
    /// The page cache is not shared, so a write through a hole in the kernel ends in the jail all the same.
    fn clone_content(&self, from: &OpenFile, to: &OwnedFd) -> bool {
        if from.stat.size == 0 || unpoisoned(&self.no_clones_of).contains(&from.stat.dev) {
            return false;
        }
        let cloned = retry(|| fs::ioctl_ficlone(to, &from.fd)).is_ok();
        if !cloned {
            // Another file system, or one that cannot: asked once. A full disk says so again when the copy is written.
            unpoisoned(&self.no_clones_of).insert(from.stat.dev);
        }
        cloned
    }

    /// Copies and digests in one reading; runs of zeros stay holes.
    fn copy_content(&self, from: &OpenFile, to: &OwnedFd) -> std::result::Result<Fingerprint, Side> {
        let cloned = self.clone_content(from, to);
        let OpenFile { fd: from, stat: Stat { size, .. }, sparse } = from;
        let size = *size;
        let mut buffer = self.buffer();
        let wanted = usize::try_from(size).unwrap_or(CHUNK).clamp(1, CHUNK);
        if buffer.len() < wanted {
            buffer.resize(wanted, 0);
        }
        let mut hash = Taking::new();
        let mut done: u64 = 0;
        while done < size {
            let take = usize::try_from(size - done).unwrap_or(CHUNK).min(CHUNK);
            let got = retry(|| rustix::io::pread(from, &mut buffer[..take], done)).map_err(Side::Source)?;
            if got == 0 {
                break;
            }
            let piece = &buffer[..got];
            hash.update(piece);
            if cloned {
                // What was read is digested only.
            } else if *sparse && piece.iter().all(|b| *b == 0) {
                retry(|| fs::ftruncate(to, done + got as u64)).map_err(Side::Jail)?;
            } else {
                write_all_at(to, piece, done).map_err(Side::Jail)?;
            }
            done += got as u64;
        }
        self.give_back(buffer);
        Ok(hash.finish())
    }

    /// A buffer that no other thread uses.
    fn buffer(&self) -> Vec<u8> {
        unpoisoned(&self.buffers).pop().unwrap_or_default()
    }

    fn give_back(&self, buffer: Vec<u8>) {
        unpoisoned(&self.buffers).push(buffer);
    }

    /// Takes the fingerprint of an open file.
    pub(crate) fn digest_of(&self, file: &OpenFile, taking: Taking) -> io::Result<Fingerprint> {
        let mut buffer = self.buffer();
        let digest = digest_file(file, taking, &mut buffer);
        self.give_back(buffer);
        digest
    }

    /// Writes a file with this content.
    ///
    /// # Errors
    /// A system call failed.
    pub fn write_file(&self, inner: &Path, content: &[u8], meta: Meta) -> Result<Written> {
        self.doing("write", inner, || {
            let temporary = self.temporary(inner, meta)?;
            write_all_at(&temporary.fd, content, 0)?;
            temporary.set_owner_and_mode(meta)?;
            let stat = temporary.put_in_place(meta)?;
            Ok(Written { digest: Fingerprint::of(content), stat, source: None })
        })
    }

    /// Writes a file whose content comes from elsewhere than the host's files, an archive for one; `None` if it ended early.
    ///
    /// # Errors
    /// A system call failed, or the content cannot be read.
    pub fn write_from(
        &self,
        inner: &Path,
        content: &mut dyn io::Read,
        size: u64,
        meta: Meta,
        mtime: i64,
    ) -> Result<Option<Written>> {
        self.doing("write", inner, || {
            let temporary = self.temporary(inner, meta)?;
            let mut buffer = self.buffer();
            if buffer.len() < CHUNK {
                buffer.resize(CHUNK, 0);
            }
            let mut hash = Taking::new();
            let mut done: u64 = 0;
            while done < size {
                let take = usize::try_from(size - done).unwrap_or(CHUNK).min(CHUNK);
                let got = match content.read(&mut buffer[..take]) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    other => other?,
                };
                if got == 0 {
                    return Ok(None);
                }
                hash.update(&buffer[..got]);
                write_all_at(&temporary.fd, &buffer[..got], done)?;
                done += got as u64;
            }
            self.give_back(buffer);
            temporary.set_owner_and_mode(meta)?;
            set_mtime(&temporary.fd, Time { sec: mtime, nsec: 0 })?;
            temporary.begin_writing(size);
            let stat = temporary.put_in_place(meta)?;
            Ok(Some(Written { digest: hash.finish(), stat, source: None }))
        })
    }

    /// Makes a second name of a regular file of the jail.
    ///
    /// # Errors
    /// A system call failed, or the first name is no regular file.
    pub fn link_inside(&self, inner: &Path, first: &Path) -> Result<()> {
        self.doing("link", inner, || {
            let (from, old) = self.parent(first)?;
            if !stat_at(&from.fd, old)?.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
            }
            let (dir, name) = self.parent(inner)?;
            if self.private {
                return Ok(retry(|| fs::linkat(&from.fd, old, &dir.fd, name, AtFlags::empty()))?);
            }
            let temporary = temporary_name(name);
            unlink_if_there(&dir.fd, &temporary)?;
            retry(|| fs::linkat(&from.fd, old, &dir.fd, &temporary, AtFlags::empty()))?;
            put_link_in_place(&dir.fd, &temporary, name)
        })
    }

    /// Makes a hard link to a file of the host; `None` if that cannot or must not be done and a copy is due: another file
    /// system, a set-uid file or one with capabilities, or a file that the caller may not link.
    ///
    /// # Errors
    /// A system call failed for another reason.
    pub fn hard_link(&self, inner: &Path, source: &Path) -> Result<Option<Written>> {
        self.doing("link", inner, || {
            // Opened anew: what planning knew of its size would be digested under the state that it has by now.
            let file = open_source(source)?;
            let before = file.stat;
            if before.mode & 0o6000 != 0 || file.has_capabilities()? {
                return Ok(None);
            }
            let (dir, name) = self.parent(inner)?;
            let temporary = if self.private { name.to_owned() } else { temporary_name(name) };
            if !self.private {
                unlink_if_there(&dir.fd, &temporary)?;
            }
            match retry(|| fs::linkat(CWD, source, &dir.fd, &temporary, AtFlags::empty())) {
                Ok(()) => {}
                Err(Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::ACCESS) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            let linked = stat_at(&dir.fd, &temporary)?;
            // The name may lead to another file by now, or to the same one with a set-uid bit.
            if (linked.dev, linked.ino) != (before.dev, before.ino) || linked.mode & 0o6000 != 0 {
                unlink_if_there(&dir.fd, &temporary)?;
                return Ok(None);
            }
            if !self.private {
                put_link_in_place(&dir.fd, &temporary, name)?;
            }
            let digest = self.digest_of(&file, Taking::new())?;
            let stat = stat_of(file.fd.as_fd())?;
            Ok(Some(Written { digest, stat, source: Some(stat) }))
        })
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// A system call failed.
    pub fn symlink(&self, inner: &Path, target: &Path, meta: Meta) -> Result<()> {
        self.doing("make the link", inner, || {
            let (dir, name) = self.parent(inner)?;
            let temporary = temporary_name(name);
            match retry(|| fs::symlinkat(target, &dir.fd, name)) {
                // What a file in here is born with, a link is too.
                Ok(()) if self.private && dir.born.get() == Some(&(meta.uid, meta.gid)) => {}
                Ok(()) => set_link_owner(&dir.fd, name, meta)?,
                Err(Errno::EXIST) => {
                    unlink_if_there(&dir.fd, &temporary)?;
                    retry(|| fs::symlinkat(target, &dir.fd, &temporary))?;
                    set_link_owner(&dir.fd, &temporary, meta)?;
                    retry(|| fs::renameat(&dir.fd, &temporary, &dir.fd, name))?;
                }
                Err(error) => return Err(error.into()),
            }
            Ok(())
        })
    }

    /// Makes a device node.
    ///
    /// # Errors
    /// A system call failed.
    pub fn device(&self, inner: &Path, kind: FileType, device: u64, meta: Meta) -> Result<Stat> {
        self.doing("make the device", inner, || {
            let (dir, name) = self.parent(inner)?;
            let temporary = temporary_name(name);
            unlink_if_there(&dir.fd, &temporary)?;
            retry(|| fs::mknodat(&dir.fd, &temporary, kind, Mode::from_raw_mode(0o600), device))?;
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            retry(|| {
                fs::chownat(
                    &dir.fd,
                    &temporary,
                    Some(Uid::from_raw(meta.uid)),
                    Some(Gid::from_raw(meta.gid)),
                    flags,
                )
            })?;
            // A device node cannot be opened without waking its driver, so this one mode is set by name, of a node that
            // was just made in a directory held open.
            retry(|| fs::chmodat(&dir.fd, &temporary, Mode::from_raw_mode(meta.mode), AtFlags::empty()))?;
            retry(|| fs::renameat(&dir.fd, &temporary, &dir.fd, name))?;
            stat_at(&dir.fd, name)
        })
    }

    /// Removes a file or link, or a directory if it is empty. What is gone already is fine.
    ///
    /// # Errors
    /// A system call failed.
    pub fn remove(&self, inner: &Path) -> Result<Removed> {
        self.doing("remove", inner, || {
            let (dir, name) = match self.parent(inner) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Removed::Gone),
                other => other?,
            };
            match retry(|| fs::unlinkat(&dir.fd, name, AtFlags::empty())) {
                Ok(()) | Err(Errno::NOENT) => return Ok(Removed::Gone),
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
            unpoisoned(&self.dirs).clear();
            match retry(|| fs::unlinkat(&dir.fd, name, AtFlags::REMOVEDIR)) {
                Ok(()) | Err(Errno::NOENT) => Ok(Removed::Gone),
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => Ok(Removed::InUse),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Removes what a killed run may have left on its way to these paths.
    ///
    /// # Errors
    /// A system call failed.
    pub fn remove_leftovers<'p>(&self, paths: impl IntoIterator<Item = &'p Path>) -> Result<()> {
        fresh::remove(self)?;
        paths.into_iter().try_for_each(|path| self.remove_leftover(path))
    }

    /// Removes the temporary file that a killed run may have left for this path.
    ///
    /// # Errors
    /// A system call failed.
    pub fn remove_leftover(&self, inner: &Path) -> Result<()> {
        self.doing("remove what a killed run left of", inner, || match self.parent(inner) {
            Ok((dir, name)) => unlink_if_there(&dir.fd, &temporary_name(name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        })
    }

    /// The fingerprint of a regular file in the jail.
    ///
    /// # Errors
    /// It cannot be read or is no regular file.
    pub fn digest(&self, inner: &Path) -> Result<Fingerprint> {
        self.doing("read", inner, || self.digest_of(&self.open_file(inner)?, Taking::new()))
    }

    /// Opens a regular file of the jail, following no link at its end.
    pub(crate) fn open_file(&self, inner: &Path) -> io::Result<OpenFile> {
        let (dir, name) = self.parent(inner)?;
        open_regular(dir.fd.as_fd(), Path::new(name))
    }

    /// Whether a regular file of the jail has file capabilities.
    pub(crate) fn has_capabilities(&self, inner: &Path) -> io::Result<bool> {
        self.open_file(inner)?.has_capabilities()
    }

    /// Whether a path leads to anything inside the jail, links followed.
    pub(crate) fn leads_somewhere(&self, inner: &Path) -> bool {
        self.open_inside(inner, OFlags::PATH).is_ok()
    }

    /// What lies in a directory, and of what kind it is, in no order.
    pub(crate) fn entries(&self, inner: &Path) -> io::Result<Vec<(OsString, FileType)>> {
        use std::os::unix::ffi::OsStringExt;
        let fd = self.open_inside(inner, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in fs::Dir::new(fd)? {
            let entry = entry?;
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                // Not every file system says.
                FileType::Unknown if self.lstat(&inner.join(&name)).is_ok_and(|stat| stat.is_dir()) => {
                    FileType::Directory
                }
                kind => kind,
            };
            entries.push((name, kind));
        }
        Ok(entries)
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// The file system could not write it.
    pub fn sync(&self) -> Result<()> {
        // The jail's own descriptor is O_PATH, which syncfs refuses.
        let io = |e: io::Error| Error::io("write to disk", &self.path, e);
        let fd = self.open_inside(Path::new("/"), OFlags::RDONLY | OFlags::DIRECTORY).map_err(io)?;
        retry(|| fs::syncfs(&fd)).map_err(|e| io(e.into()))
    }

    /// The directory that holds a path, and the path's last name.
    fn parent<'p>(&self, inner: &'p Path) -> io::Result<(Arc<Directory>, &'p OsStr)> {
        let name = inner.file_name().ok_or(Errno::INVAL)?;
        let parent = inner.parent().ok_or(Errno::INVAL)?;
        Ok((self.directory(parent)?, name))
    }

    fn directory(&self, inner: &Path) -> io::Result<Arc<Directory>> {
        if let Some(known) = unpoisoned(&self.dirs).get(inner) {
            return Ok(Arc::clone(known));
        }
        let fd = self.open_inside(inner, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(self.keep(inner, Directory::new(fd)))
    }

    /// Remembers an open directory.
    fn keep(&self, inner: &Path, directory: Directory) -> Arc<Directory> {
        let directory = Arc::new(directory);
        let mut dirs = unpoisoned(&self.dirs);
        if dirs.len() >= KEPT_DIRECTORIES {
            dirs.clear();
        }
        dirs.insert(inner.to_path_buf(), Arc::clone(&directory));
        directory
    }

    fn open_inside(&self, inner: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let confined = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // EAGAIN: something was renamed while the kernel looked; a hostile jail may do that, but not for ever.
        for _ in 0..64 {
            match fs::openat2(&self.fd, inner, flags | OFlags::CLOEXEC, Mode::empty(), confined) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// A new file for a path, under a temporary name unless nobody can see it.
    fn temporary<'p>(&self, inner: &'p Path, meta: Meta) -> io::Result<Temporary<'p>> {
        let (dir, name) = self.parent(inner)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A set-uid bit waits for the owner in any case.
        if self.private && meta.mode & 0o7000 == 0 {
            let fd = retry(|| fs::openat(&dir.fd, name, flags, Mode::from_raw_mode(meta.mode)))?;
            return Ok(Temporary { dir, name, temporary: None, fd, placed: false });
        }
        let temporary = temporary_name(name);
        let open = || retry(|| fs::openat(&dir.fd, &temporary, flags, Mode::from_raw_mode(0o600)));
        let fd = match open() {
            // A killed run's: we hold the jail's lock, so nobody is writing it now.
            Err(Errno::EXIST) => {
                unlink_if_there(&dir.fd, &temporary)?;
                open()?
            }
            other => other?,
        };
        Ok(Temporary { dir, name, temporary: Some(temporary), fd, placed: false })
    }

    fn doing<T>(&self, what: &str, inner: &Path, work: impl FnOnce() -> io::Result<T>) -> Result<T> {
        work().map_err(|error| Error::io(what, &self.outside(inner), error))
    }
}

/// For those who only read: what they open below it is resolved from here.
impl AsFd for JailRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What [`JailRoot::remove`] left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// Nothing is there any more.
    Gone,
    /// A directory that holds something else, or is mounted on.
    InUse,
}

/// Reading the jail goes by the same descriptors as writing it.
impl Host for JailRoot {
    fn lstat(&self, path: &Path) -> io::Result<Stat> {
        if path == Path::new("/") {
            return stat_of(self.fd.as_fd());
        }
        let (dir, name) = self.parent(path)?;
        stat_at(&dir.fd, name)
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        use std::os::unix::ffi::OsStringExt;
        let (dir, name) = self.parent(path)?;
        let target = retry(|| fs::readlinkat(&dir.fd, name, Vec::new()))?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        RealHost::from_fd(rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?, &self.path).read_dir(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn HostFile + '_>> {
        let fd = self.open_inside(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        match FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) {
            FileType::RegularFile => Ok(Box::new(InJail(fd))),
            FileType::Directory => Err(Errno::ISDIR.into()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }
}

struct InJail(OwnedFd);

impl HostFile for InJail {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match retry(|| rustix::io::pread(&self.0, &mut buf[done..], offset + done as u64))? {
                0 => break,
                got => done += got,
            }
        }
        Ok(done)
    }
}

/// The way down to the jail, one component at a time.
struct Walk {
    fd: OwnedFd,
    path: PathBuf,
    /// Components still to take, last first.
    rest: Vec<OsString>,
    me: u32,
    /// Of the directory that `fd` is, as it was when it was opened.
    stat: fs::Stat,
}

impl Walk {
    fn new(path: &Path) -> Result<Self> {
        if path.as_os_str().is_empty() {
            return Err(Error::usage("the jail's path is empty"));
        }
        let absolute = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
        let mut rest = Vec::new();
        for component in absolute.components() {
            match component {
                Component::Normal(name) => rest.push(name.to_os_string()),
                Component::ParentDir => {
                    return Err(Error::usage(format!("the jail's path {} holds '..'", text::quote(path)))
                        .hint("give the path without it"));
                }
                _ => {}
            }
        }
        let plain: PathBuf = Path::new("/").join(rest.iter().collect::<PathBuf>());
        if NEVER_A_JAIL.iter().any(|never| plain == Path::new(never)) {
            return Err(Error::refused(format!(
                "{} is a directory of the host and can be no jail",
                text::quote(&plain)
            ))
            .hint("use a directory of its own, such as /home/jail"));
        }
        rest.reverse();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open("/", flags, Mode::empty()).map_err(|e| Error::io("open", Path::new("/"), e))?;
        let stat = fs::fstat(&fd).map_err(|e| Error::io("stat", Path::new("/"), e))?;
        Ok(Self { fd, path: PathBuf::from("/"), rest, me: rustix::process::geteuid().as_raw(), stat })
    }

    /// Opens the next component; `None` if it is not there. The directory we stand in must be safe to look names up in.
    fn step(&mut self, name: &OsStr) -> Result<Option<(OwnedFd, fs::Stat)>> {
        self.check_parent()?;
        let next = self.path.join(name);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match retry(|| fs::openat(&self.fd, name, flags, Mode::empty())) {
            Err(Errno::NOENT) => {
                self.path = next;
                return Ok(None);
            }
            other => other.map_err(|e| Error::io("open", &next, e))?,
        };
        let stat = fs::fstat(&fd).map_err(|e| Error::io("stat", &next, e))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {}
            FileType::Symlink => return Err(self.is_a_link(&next)),
            _ => return Err(Error::refused(format!("{} is no directory", text::quote(&next)))),
        }
        self.path = next;
        Ok(Some((fd, stat)))
    }

    fn is_a_link(&self, link: &Path) -> Error {
        let error = Error::refused(format!(
            "{} is a symbolic link, and a jail's path may hold none",
            text::quote(link)
        ));
        let whole = self.rest.iter().rev().fold(link.to_path_buf(), |path, name| path.join(name));
        // Only a hint for a person to read: nothing is opened by this answer.
        match RealHost::system().canonical(&whole).or_else(|_| RealHost::system().canonical(link)) {
            Ok(real) => error.hint(format!("if that is what you want, use {} instead", text::quote(&real))),
            Err(_) => error,
        }
    }

    /// A directory above the jail: whoever may rename in it may swap the jail.
    fn check_parent(&self) -> Result<()> {
        self.check_owner(&self.stat)?;
        let sticky = self.stat.st_mode & 0o1000 != 0;
        if self.others_may_write(&self.stat) && !sticky {
            return Err(Error::refused(format!(
                "others may write to {}, so they could swap the jail below it",
                text::quote(&self.path)
            ))
            .hint(format!("chmod go-w {}, or put the jail elsewhere", text::quote(&self.path))));
        }
        Ok(())
    }

    fn check_jail_itself(&self) -> Result<()> {
        self.check_owner(&self.stat)?;
        if self.others_may_write(&self.stat) {
            return Err(Error::refused(format!("others may write to the jail {}", text::quote(&self.path)))
                .hint(format!("chmod go-w {}", text::quote(&self.path))));
        }
        Ok(())
    }

    fn check_owner(&self, stat: &fs::Stat) -> Result<()> {
        if stat.st_uid == 0 || stat.st_uid == self.me {
            return Ok(());
        }
        let who = if self.me == 0 { "root" } else { "root nor to you" };
        let neither = if self.me == 0 { "not belong to" } else { "belong neither to" };
        Err(Error::refused(format!("{} does {neither} {who}", text::quote(&self.path)))
            .hint("whoever owns it could swap the jail or what is in it"))
    }

    /// For an ordinary user, a group of his own is nobody else (Debian gives each user one).
    fn others_may_write(&self, stat: &fs::Stat) -> bool {
        let own_group = self.me != 0 && stat.st_gid == rustix::process::getegid().as_raw();
        let writable = if own_group { 0o002 } else { 0o022 };
        stat.st_mode & writable != 0
    }

    fn check_file_system(&self) -> Result<()> {
        let stat =
            fs::fstatvfs(&self.fd).map_err(|e| Error::io("look at the file system of", &self.path, e))?;
        if stat.f_flag.contains(fs::StatVfsMountFlags::NOEXEC) {
            return Err(Error::refused(format!(
                "the file system of {} is mounted noexec, so no program could run in the jail",
                text::quote(&self.path)
            ))
            .hint("put the jail on another file system, or mount it without noexec"));
        }
        Ok(())
    }

    /// Makes the next component; answers too whether it was not there until now.
    fn make(&self, name: &OsStr) -> Result<(OwnedFd, fs::Stat, bool)> {
        let failed = |e: Errno| Error::io("make the directory", &self.path, e);
        let new = match retry(|| fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755))) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(failed(error)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = retry(|| fs::openat(&self.fd, name, flags, Mode::empty())).map_err(failed)?;
        // The umask of whoever calls us must not decide whether users can enter (a jail made under 077 is a dead one).
        let stat = fs::fstat(&fd).map_err(failed)?;
        if stat.st_uid == self.me {
            retry(|| fs::fchmod(&fd, Mode::from_raw_mode(0o755))).map_err(failed)?;
        }
        let stat = fs::fstat(&fd).map_err(failed)?;
        Ok((fd, stat, new))
    }
}

/// A file being made; dropped before it is put in place, it is gone again.
struct Temporary<'p> {
    dir: Arc<Directory>,
    name: &'p OsStr,
    /// The name it has until it is put in place; `None` if it has its own already, where nobody can see it.
    temporary: Option<OsString>,
    fd: OwnedFd,
    placed: bool,
}

impl Temporary<'_> {
    /// Owner, then mode. What a file of this directory is born with is asked once; [`Temporary::put_in_place`] looks again.
    fn set_owner_and_mode(&self, meta: Meta) -> io::Result<()> {
        if self.temporary.is_none() {
            // It was made with its mode, and is its maker's; if that is not so, it shows at the end.
            return Ok(());
        }
        let owner = (meta.uid, meta.gid);
        if meta.mode & 0o7000 == 0 && self.dir.born.get() == Some(&owner) {
            return Ok(retry(|| fs::fchmod(&self.fd, Mode::from_raw_mode(meta.mode)))?);
        }
        let born = set_owner_and_mode(&self.fd, meta)?;
        self.dir.born.get_or_init(|| born);
        Ok(())
    }

    /// Only a hint: whether it is on the disk is what [`JailRoot::sync`] asks.
    fn begin_writing(&self, size: u64) {
        if size >= WORTH_AN_EARLY_START {
            jail_sys::disk::begin_writing(self.fd.as_fd()).unwrap_or_default();
        }
    }

    /// The last step; answers what is there then, with the owner and mode it was to have.
    fn put_in_place(mut self, meta: Meta) -> io::Result<Stat> {
        if let Some(temporary) = &self.temporary {
            retry(|| fs::renameat(&self.dir.fd, temporary, &self.dir.fd, self.name))?;
        }
        self.placed = true;
        let stat = stat_of(self.fd.as_fd())?;
        if self.temporary.is_none() {
            self.dir.born.get_or_init(|| (stat.uid, stat.gid));
        }
        if (stat.uid, stat.gid, stat.mode) == (meta.uid, meta.gid, meta.mode) {
            return Ok(stat);
        }
        // Somebody gave the directory a set-gid bit between two files, or the file system has its own mind about modes.
        set_owner_and_mode(&self.fd, meta)?;
        stat_of(self.fd.as_fd())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.placed {
            // Best effort: the next run removes it as well.
            let name = self.temporary.as_deref().unwrap_or(self.name);
            unlink_if_there(&self.dir.fd, name).unwrap_or_default();
        }
    }
}

/// Which side of a copy failed.
enum Side {
    Source(Errno),
    Jail(Errno),
}

fn temporary_name(name: &OsStr) -> OsString {
    let digest = Digest::of(name.as_bytes());
    OsString::from(format!("{TEMPORARY}{}", &digest.to_string()[..16]))
}

/// Whether a path is where a run makes a new jail, which is nobody's to look into before it is whole.
pub(crate) fn is_aside(path: &Path) -> bool {
    path.strip_prefix("/").is_ok_and(|name| name == Path::new(&fresh::name()))
}

/// Whether a name is one of ours that a killed run left.
#[must_use]
pub fn is_leftover(name: &OsStr) -> bool {
    name.as_bytes().starts_with(TEMPORARY.as_bytes())
}

/// An open regular file, of the host or of the jail, and its state when it was opened.
#[derive(Debug)]
pub(crate) struct OpenFile {
    fd: OwnedFd,
    pub(crate) stat: Stat,
    /// Whether it has holes.
    sparse: bool,
}

impl OpenFile {
    /// A file that planning left open, with the state that it had then: if it is another by the end, it is copied again.
    fn of_plan((fd, stat): (OwnedFd, Stat)) -> Self {
        // Whether it has holes was not asked; zeros are looked for then.
        Self { fd, stat, sparse: true }
    }

    /// Whether a program in it would get capabilities.
    pub(crate) fn has_capabilities(&self) -> io::Result<bool> {
        match retry(|| fs::fgetxattr(&self.fd, CAPABILITY, &mut [0u8; 64][..])) {
            Ok(_) | Err(Errno::RANGE) => Ok(true),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Opens a file of the host that is to be read whole.
pub(crate) fn open_source(source: &Path) -> io::Result<OpenFile> {
    open_regular(CWD, source)
}

fn open_regular(dir: BorrowedFd<'_>, name: &Path) -> io::Result<OpenFile> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = retry(|| fs::openat(dir, name, flags, Mode::empty()))?;
    let statx = retry(|| fs::statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS))?;
    let stat = Stat::from_statx(&statx);
    if !stat.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let sparse = statx.stx_blocks.saturating_mul(512) < stat.size;
    Ok(OpenFile { fd, stat, sparse })
}

/// Owner, then mode: a set-uid bit must never exist under a wrong owner, and chown would clear it. Answers the owner it
/// found.
fn set_owner_and_mode(fd: &OwnedFd, meta: Meta) -> io::Result<(u32, u32)> {
    let stat = retry(|| fs::fstat(fd))?;
    let found = (stat.st_uid, stat.st_gid);
    if found != (meta.uid, meta.gid) {
        retry(|| fs::fchown(fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid))))?;
    } else if stat.st_mode & 0o7777 == meta.mode {
        return Ok(found);
    }
    retry(|| fs::fchmod(fd, Mode::from_raw_mode(meta.mode)))?;
    Ok(found)
}

fn put_link_in_place(dir: &OwnedFd, temporary: &OsStr, name: &OsStr) -> io::Result<()> {
    retry(|| fs::renameat(dir, temporary, dir, name))?;
    // Renaming a link onto another name of the same file does nothing and leaves both.
    unlink_if_there(dir, temporary)
}

fn set_link_owner(dir: &OwnedFd, name: &OsStr, meta: Meta) -> io::Result<()> {
    let stat = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if (stat.st_uid, stat.st_gid) != (meta.uid, meta.gid) {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        retry(|| fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))?;
    }
    Ok(())
}

fn stat_of(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    let statx = retry(|| fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS))?;
    Ok(Stat::from_statx(&statx))
}

fn stat_at(dir: &OwnedFd, name: &OsStr) -> io::Result<Stat> {
    let statx = retry(|| fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS))?;
    Ok(Stat::from_statx(&statx))
}

fn unlink_if_there(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match retry(|| fs::unlinkat(dir, name, AtFlags::empty())) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn write_all_at(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let done = retry(|| rustix::io::pwrite(fd, bytes, offset))?;
        if done == 0 {
            return Err(Errno::IO);
        }
        bytes = &bytes[done..];
        offset += done as u64;
    }
    Ok(())
}

/// As much as stays in the processor's own cache between reading and digesting.
const DIGESTED: usize = 1 << 18;

/// The fingerprint of a file as long as it was when it was opened.
fn digest_file(file: &OpenFile, mut taking: Taking, buffer: &mut Vec<u8>) -> io::Result<Fingerprint> {
    let size = file.stat.size;
    let wanted = usize::try_from(size).unwrap_or(DIGESTED).min(DIGESTED);
    if buffer.len() < wanted {
        buffer.resize(wanted, 0);
    }
    let mut done = 0;
    while done < size {
        let take = usize::try_from(size - done).unwrap_or(DIGESTED).min(DIGESTED);
        match retry(|| rustix::io::pread(&file.fd, &mut buffer[..take], done))? {
            0 => break,
            got => {
                taking.update(&buffer[..got]);
                done += got as u64;
            }
        }
    }
    Ok(taking.finish())
}

const CAPABILITY: &str = "security.capability";
/// `XATTR_LIST_MAX` (xattr(7)).
const LONGEST_LIST: usize = 64 << 10;

/// Carries over the attributes that belong to the content (`user.*`, the SELinux label), and file capabilities only if asked.
/// Access lists name the host's users and stay behind.
fn copy_attributes(from: &OwnedFd, to: &OwnedFd, privilege: Privilege) -> io::Result<()> {
    // Of few bytes for nearly every file; asking for the length first would tell nothing of a buffer that holds nothing.
    let mut names = vec![0u8; 256];
    let length = loop {
        match retry(|| fs::flistxattr(from, &mut names[..])) {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
            Err(Errno::RANGE) if names.len() < LONGEST_LIST => names.resize(LONGEST_LIST, 0),
            other => break other?,
        }
    };
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let wanted = name.starts_with(b"user.")
            || name == b"security.selinux"
            || (privilege == Privilege::Keep && name == CAPABILITY.as_bytes());
        if !wanted {
            continue;
        }
        let name = OsStr::from_bytes(name);
        let mut value = vec![0u8; 64 * 1024];
        let length = retry(|| fs::fgetxattr(from, name, &mut value[..]))?;
        match retry(|| fs::fsetxattr(to, name, &value[..length], fs::XattrFlags::empty())) {
            Ok(()) => {}
            // A file system without attributes, or a label that only root may set: the file works without.
            Err(Errno::OPNOTSUPP | Errno::PERM) if name.as_bytes() != CAPABILITY.as_bytes() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn set_mtime(fd: &OwnedFd, mtime: Time) -> io::Result<()> {
    let time = Timespec { tv_sec: mtime.sec, tv_nsec: mtime.nsec.into() };
    Ok(retry(|| fs::futimens(fd, &Timestamps { last_access: time, last_modification: time }))?)
}

/// The kernel may be interrupted before it began; then it is simply asked again.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// A lock's content; a thread that panicked left it whole, since nothing is changed by halves under these locks.
fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
