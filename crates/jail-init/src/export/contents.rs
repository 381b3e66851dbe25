//! What of a jail goes into an archive: found by descriptor, in an order and with owners and times that depend on the jail
//! alone.
//!
//! A user of a writable jail may be renaming things in it while root reads. So every look-up starts at the jail's descriptor
//! and is refused by the kernel if any component is a symbolic link or another file system: a link `etc -> /etc` is archived
//! as a link and never followed. Left out is what belongs to the users or to the running machine: homes, `/tmp`, `/run`,
//! device nodes, sockets; what the manifest names in those places is the jail's own and stays.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use jail_provision::check::NOT_OURS;
use jail_provision::error::{Error, Result};
use jail_provision::host::{Kind, Stat};
use jail_provision::jailroot::{self, JailRoot};
use jail_provision::manifest::{Manifest, Stamp};
use jail_provision::text;
use rustix::fs::{self, AtFlags, Dir, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

/// One entry of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Below the jail, without a leading slash.
    pub(crate) path: PathBuf,
    pub(crate) what: Content,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
    /// Whether its file capabilities go along: a section asked for them.
    pub(crate) capabilities: bool,
    /// Its state when it was looked at.
    pub(crate) stamp: Stamp,
    /// Whether it lies in the base below the jail.
    pub(crate) in_base: bool,
}

/// A tree, and what is known of it.
pub(crate) struct Layer<'a> {
    pub(crate) root: &'a JailRoot,
    pub(crate) manifest: &'a Manifest,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Directory,
    File {
        size: u64,
    },
    Symlink(PathBuf),
    /// Another name of an entry that comes before.
    HardLink(PathBuf),
}

/// The whole list.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Parents before what is in them, else by name.
    pub(crate) entries: Vec<Entry>,
    /// What was left out, and why.
    pub(crate) notes: Vec<String>,
}

impl Contents {
    /// Looks at everything in the jail.
    ///
    /// # Errors
    /// Something in it cannot be read.
    pub(crate) fn of(jail: &Layer<'_>, base: Option<&Layer<'_>>) -> Result<Self> {
        let (mut found, mut notes) = Finder::find(jail, false)?;
        if let Some(base) = base {
            let (below, more) = Finder::find(base, true)?;
            found = lay_over(found, below);
            notes.extend(more);
        }
        Ok(Self { entries: join_hard_links(found), notes })
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| if let Content::File { size } = entry.what { size } else { 0 }).sum()
    }

    /// The latest time of any entry: when the newest thing in the jail was made, wherever and whenever it is exported.
    pub(crate) fn newest(&self) -> i64 {
        self.entries.iter().map(|entry| entry.mtime).max().unwrap_or(0)
    }

    /// Whether an entry is only for some to read; then so is the archive.
    pub(crate) fn is_private(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.what, Content::File { .. }) && entry.mode & 0o004 == 0)
    }
}

/// Device and inode of a file that has more than one name.
type Identity = Option<(u64, u64)>;

/// What was found, by path.
type Found = Vec<(Entry, Identity)>;

/// The jail's own files over those of its base, as a cell shows them.
fn lay_over(own: Found, below: Found) -> Found {
    let kinds: HashMap<&Path, bool> =
        own.iter().map(|(entry, _)| (entry.path.as_path(), entry.what == Content::Directory)).collect();
    let hidden = |path: &Path| {
        kinds.contains_key(path)
            || path
                .ancestors()
                .skip(1)
                .any(|above| kinds.get(above).is_some_and(|is_directory| !is_directory))
    };
    let shown: Found = below.into_iter().filter(|(entry, _)| !hidden(&entry.path)).collect();
    let mut both: Found = own.into_iter().chain(shown).collect();
    both.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    both
}

/// The first name of a file holds its content, the others are links to it.
fn join_hard_links(found: Found) -> Vec<Entry> {
    let mut first: HashMap<(u64, u64), PathBuf> = HashMap::new();
    found
        .into_iter()
        .map(|(mut entry, identity)| {
            let Some(identity) = identity else { return entry };
            match first.get(&identity) {
                Some(path) => entry.what = Content::HardLink(path.clone()),
                None => drop(first.insert(identity, entry.path.clone())),
            }
            entry
        })
        .collect()
}

/// A jail made without root belongs to its maker; in an archive it is root's, as a jail made by root is.
#[derive(Clone, Copy)]
struct Owners {
    uid: u32,
    gid: u32,
}

impl Owners {
    fn of_this_process() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    fn outside(self, stat: &Stat) -> (u32, u32) {
        let root = |id: u32, own: u32| if id == own { 0 } else { id };
        (root(stat.uid, self.uid), root(stat.gid, self.gid))
    }
}

struct Finder<'a> {
    jail: &'a JailRoot,
    manifest: &'a Manifest,
    owners: Owners,
    in_base: bool,
    found: Found,
    notes: Vec<String>,
}

impl Finder<'_> {
    /// Everything in a tree, by path, and what was left out of it.
    fn find(layer: &Layer<'_>, in_base: bool) -> Result<(Found, Vec<String>)> {
        let mut finder = Finder {
            jail: layer.root,
            manifest: layer.manifest,
            owners: Owners::of_this_process(),
            in_base,
            found: Vec::new(),
            notes: Vec::new(),
        };
        finder.walk()?;
        finder.found.sort_by(|a, b| a.0.path.cmp(&b.0.path));
        Ok((finder.found, finder.notes))
    }

    fn walk(&mut self) -> Result<()> {
        let mut todo = vec![PathBuf::new()];
        while let Some(path) = todo.pop() {
            let failed = |e: Errno| Error::io("read", &self.jail.outside(&path), e);
            let directory = match open_below(self.jail, &path, OFlags::DIRECTORY) {
                Err(Errno::XDEV) => {
                    self.notes.push(format!("left out what is mounted on {}", inner(&path)));
                    continue;
                }
                other => other.map_err(failed)?,
            };
            for entry in Dir::read_from(&directory).map_err(failed)? {
                let name = entry.map_err(failed)?;
                let name = OsStr::from_bytes(name.file_name().to_bytes());
                if name != "." && name != ".." && self.entry(&directory, &path.join(name), name)? {
                    todo.push(path.join(name));
                }
            }
        }
        Ok(())
    }

    /// Takes one entry in; answers whether to go into it.
    fn entry(&mut self, directory: &OwnedFd, path: &Path, name: &OsStr) -> Result<bool> {
        let failed = |e: Errno| Error::io("read", &self.jail.outside(path), e);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let statx = match fs::statx(directory, name, flags, StatxFlags::BASIC_STATS) {
            // Gone since the directory was read: it is not in the jail any more.
            Err(Errno::NOENT) => return Ok(false),
            other => other.map_err(failed)?,
        };
        let stat = Stat::from_statx(&statx);
        let record = self.manifest.get(&Path::new("/").join(path));
        let place = users_place(path);
        if record.is_none() && (place == Place::Within || jailroot::is_leftover(name)) {
            return Ok(false);
        }
        let what = match stat.kind {
            Kind::Directory => Content::Directory,
            Kind::File => Content::File { size: stat.size },
            Kind::Symlink => Content::Symlink(link_target(directory, name).map_err(failed)?),
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo | Kind::Socket => {
                self.notes.push(format!(
                    "left out {}: an archive holds no devices, pipes and sockets",
                    inner(path)
                ));
                return Ok(false);
            }
        };
        let mut mode = stat.mode;
        let asked = record.map_or(0, |record| record.mode);
        if stat.is_file() && mode & 0o6000 & !asked != 0 {
            mode &= 0o1777 | asked;
            self.notes
                .push(format!("{} loses its set-uid or set-gid bit: no section asked for it", inner(path)));
        }
        // What we wrote ourselves has the time of the run; a copy has the time of what it was copied from.
        let ours_alone = record.is_some_and(|record| record.source.is_none());
        let mtime = if stat.is_file() && !ours_alone { stat.mtime.sec } else { 0 };
        let (uid, gid) = self.owners.outside(&stat);
        let descend = stat.is_dir();
        let identity = (stat.is_file() && stat.nlink > 1).then_some((stat.dev, stat.ino));
        let (capabilities, stamp, in_base) = (record.is_some(), Stamp::from(&stat), self.in_base);
        let path = path.to_path_buf();
        let entry = Entry { path, what, mode, uid, gid, mtime, capabilities, stamp, in_base };
        self.found.push((entry, identity));
        Ok(descend)
    }
}

/// How a path stands to the places that belong to the users or to the running machine.
#[derive(PartialEq, Eq)]
enum Place {
    Elsewhere,
    Within,
}

fn users_place(path: &Path) -> Place {
    let below = |place: &str| {
        let place = Path::new(place.trim_start_matches('/'));
        path.starts_with(place) && path != place
    };
    if NOT_OURS.iter().any(|place| below(place)) { Place::Within } else { Place::Elsewhere }
}

fn inner(path: &Path) -> String {
    text::quote(&Path::new("/").join(path))
}

fn link_target(directory: &OwnedFd, name: &OsStr) -> std::result::Result<PathBuf, Errno> {
    let target = fs::readlinkat(directory, name, Vec::new())?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes())))
}

/// Opens something of the jail to read it: nothing on the way may be a link or another file system.
fn open_below(
    jail: impl std::os::fd::AsFd,
    path: &Path,
    flags: OFlags,
) -> std::result::Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags =
        flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let confined = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    // EAGAIN: something was renamed while the kernel looked; a hostile jail may do that, but not for ever.
    for _ in 0..64 {
        match fs::openat2(&jail, path, flags, Mode::empty(), confined) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens the files of a list, one after the other.
pub(crate) struct Reader<'a> {
    jail: &'a JailRoot,
    base: Option<&'a JailRoot>,
    /// The directory of the last one: files of one directory come together.
    last: RefCell<Option<Directory>>,
}

/// A directory that files were opened in.
struct Directory {
    path: PathBuf,
    in_base: bool,
    fd: OwnedFd,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(jail: &'a JailRoot, base: Option<&'a JailRoot>) -> Self {
        Self { jail, base, last: RefCell::new(None) }
    }

    fn root(&self, entry: &Entry) -> &JailRoot {
        self.base.filter(|_| entry.in_base).unwrap_or(self.jail)
    }

    /// Opens a file of the list.
    ///
    /// # Errors
    /// It is not the file any more that was looked at.
    pub(crate) fn open(&self, entry: &Entry) -> Result<File> {
        let file = self.open_below_parent(entry).map_err(|e| self.failed(entry, e.into()))?;
        let statx = fs::statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
            .map_err(|e| self.failed(entry, e.into()))?;
        if Stamp::from(&Stat::from_statx(&statx)) != entry.stamp {
            return Err(self.changed(entry));
        }
        Ok(File::from(file))
    }

    fn open_below_parent(&self, entry: &Entry) -> std::result::Result<OwnedFd, Errno> {
        let Entry { path, in_base, .. } = entry;
        let parent = path.parent().unwrap_or(Path::new(""));
        let name = Path::new(path.file_name().unwrap_or_default());
        let mut last = self.last.borrow_mut();
        if let Some(known) = last.as_ref() {
            if known.in_base == *in_base && known.path == parent {
                return open_below(&known.fd, name, OFlags::empty());
            }
        }
        let fd = open_below(self.root(entry), parent, OFlags::DIRECTORY)?;
        let file = open_below(&fd, name, OFlags::empty());
        *last = Some(Directory { path: parent.to_path_buf(), in_base: *in_base, fd });
        file
    }

    fn failed(&self, entry: &Entry, error: io::Error) -> Error {
        Error::io("read", &self.root(entry).outside(&entry.path), error)
    }

    /// For content that turned out shorter or longer than the list says.
    pub(crate) fn changed(&self, entry: &Entry) -> Error {
        let path = text::quote(&self.root(entry).outside(&entry.path));
        Error::failed(format!("{path} was changed while the jail was exported"))
            .hint("run the command again once nobody writes to the jail")
    }
}

/// The file's capabilities, if it has any.
pub(crate) fn capabilities(file: BorrowedFd<'_>) -> std::result::Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0u8; 64];
    match fs::fgetxattr(file.as_fd(), "security.capability", &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_and_scratch_places_are_the_users() {
        for theirs in ["home/dave", "home/dave/.ssh", "tmp/x", "var/tmp/x", "root/.bashrc", "dev/null"] {
            assert!(users_place(Path::new(theirs)) == Place::Within, "{theirs}");
        }
        for ours in ["home", "tmp", "var", "var/tmp", "homes/x", "usr/home/x"] {
            assert!(users_place(Path::new(ours)) == Place::Elsewhere, "{ours}");
        }
    }
}
