//! What planning may ask of a host: names, kinds, contents. It writes nothing, so a plan can be made of any root.
//!
//! One trait, three roots: the machine itself (`RealHost::system`), a jail (`RealHost::jail`, every look-up confined
//! to it by the kernel), and a tree in memory for tests (`MemHost`). Paths are absolute and mean "below that root";
//! a link's absolute target means "below that root" too.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

/// A moment as the file system keeps it: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub sec: i64,
    /// Nanoseconds within the second.
    pub nsec: u32,
}

/// What `lstat` says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky (`mode & 07777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of content or inode; nobody can set it back.
    pub ctime: Time,
    /// Device holding the inode (as `st_dev`).
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Hard links.
    pub nlink: u32,
    /// Device that a device node stands for (as `st_rdev`), else 0.
    pub rdev: u64,
}

impl Stat {
    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == Kind::File
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.kind == Kind::Symlink
    }

    /// What statx said.
    #[must_use]
    pub fn from_statx(x: &Statx) -> Self {
        let kind = match FileType::from_raw_mode(u32::from(x.stx_mode)) {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            _ => Kind::File,
        };
        Self {
            kind,
            mode: u32::from(x.stx_mode) & 0o7777,
            uid: x.stx_uid,
            gid: x.stx_gid,
            size: x.stx_size,
            mtime: Time { sec: x.stx_mtime.tv_sec, nsec: x.stx_mtime.tv_nsec },
            ctime: Time { sec: x.stx_ctime.tv_sec, nsec: x.stx_ctime.tv_nsec },
            dev: fs::makedev(x.stx_dev_major, x.stx_dev_minor),
            ino: x.stx_ino,
            nlink: x.stx_nlink,
            rdev: fs::makedev(x.stx_rdev_major, x.stx_rdev_minor),
        }
    }
}

/// An open regular file of a host, read by position.
pub trait HostFile {
    /// Read at `offset` until `buf` is full or the file ends; returns how many bytes there were.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// The descriptor behind it, if there is one, for whoever wants to read the rest.
    fn into_fd(self: Box<Self>) -> Option<OwnedFd> {
        None
    }
}

/// One symbolic link met on the way to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where the link lies; its own directory is free of links.
    pub path: PathBuf,
    /// What it says, byte for byte.
    pub target: PathBuf,
}

/// The way from a path to what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Every link followed, in order, those of directories (`/bin`) included.
    pub links: Vec<Link>,
    /// Where it ended: free of links, `.` and `..`.
    pub real: PathBuf,
    /// What is there.
    pub stat: Stat,
}

/// The kernel's own limit on links in one look-up.
const MAX_LINKS: usize = 40;

/// What planning may ask of a host. Every path is absolute and lies below the host's root.
pub trait Host {
    /// Stat without following a last link; links in the directories above it are followed, inside the root.
    fn lstat(&self, path: &Path) -> io::Result<Stat>;
    /// What a symbolic link says.
    fn read_link(&self, path: &Path) -> io::Result<PathBuf>;
    /// Names in a directory, sorted by bytes, without `.` and `..`.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>>;
    /// Open a regular file, following links inside the root. Anything else is an error, and nothing is waited for.
    fn open(&self, path: &Path) -> io::Result<Box<dyn HostFile + '_>>;

    /// Open what `lstat` said this of a moment ago.
    fn open_known(&self, path: &Path, _known: &Stat) -> io::Result<Box<dyn HostFile + '_>> {
        self.open(path)
    }

    /// Stat of what a path names in the end.
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.walk(path).map(|walk| walk.stat)
    }

    /// The path free of links, `.` and `..`, resolved inside the root.
    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        self.walk(path).map(|walk| walk.real)
    }

    /// Follow a path link by link inside the root.
    fn walk(&self, path: &Path) -> io::Result<Walk> {
        let mut links = Vec::new();
        let (real, stat) = walk_links(path, &mut links, &|p| self.lstat(p), &|p| self.read_link(p))?;
        Ok(Walk { links, real, stat })
    }

    /// At most `len` bytes from `offset`; fewer if the file ends before.
    fn read_range(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let got = self.open(path)?.read_at(&mut bytes, offset)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    /// The whole file; one longer than `max` bytes is an error, so that no file can eat the memory.
    fn read(&self, path: &Path, max: usize) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let mut bytes = Vec::new();
        // Most files that are read so have a page at most, and there are many of them.
        let mut chunk = 4 * 1024;
        loop {
            let (done, room) = (bytes.len(), chunk.min(max.saturating_add(1).saturating_sub(bytes.len())));
            bytes.resize(done + room, 0);
            let got = file.read_at(&mut bytes[done..], done as u64)?;
            bytes.truncate(done + got);
            if bytes.len() > max {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {max} bytes")));
            }
            if got < room {
                return Ok(bytes);
            }
            chunk = 256 * 1024;
        }
    }
}

type Lstat<'a> = &'a dyn Fn(&Path) -> io::Result<Stat>;
type ReadLink<'a> = &'a dyn Fn(&Path) -> io::Result<PathBuf>;

/// The one path walker: pops components off a stack, so a link's target simply goes back onto it.
fn walk_links(
    path: &Path,
    links: &mut Vec<Link>,
    lstat: Lstat<'_>,
    read_link: ReadLink<'_>,
) -> io::Result<(PathBuf, Stat)> {
    require_absolute(path)?;
    let mut todo = steps(path);
    let mut real = PathBuf::from("/");
    let mut stat = None;
    while let Some(step) = todo.pop() {
        if stat.is_some_and(|s: Stat| !s.is_dir()) {
            return Err(Errno::NOTDIR.into());
        }
        if step == ".." {
            real.pop();
            stat = None;
            continue;
        }
        let here = real.join(&step);
        let found = lstat(&here)?;
        if found.is_symlink() {
            if links.len() >= MAX_LINKS {
                return Err(Errno::LOOP.into());
            }
            let target = read_link(&here)?;
            if target.is_absolute() {
                real = PathBuf::from("/");
            }
            todo.extend(steps(&target));
            links.push(Link { path: here, target });
            stat = None;
        } else {
            real = here;
            stat = Some(found);
        }
    }
    let stat = match stat {
        Some(stat) => stat,
        None => lstat(&real)?,
    };
    if !stat.is_dir() && path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(Errno::NOTDIR.into());
    }
    Ok((real, stat))
}

/// Components still to take, last first; `/` and `.` say nothing.
fn steps(path: &Path) -> Vec<OsString> {
    let mut steps: Vec<OsString> = path
        .components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect();
    steps.reverse();
    steps
}

fn require_absolute(path: &Path) -> io::Result<()> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} is not absolute")))
}

/// A host that is a directory tree of this machine: `/`, or a jail.
#[derive(Debug)]
pub struct RealHost {
    path: PathBuf,
    /// None: the machine's own root, where the kernel's plain look-up is right and quickest.
    root: Option<OwnedFd>,
}

impl RealHost {
    /// The machine itself.
    pub fn system() -> Self {
        Self { path: PathBuf::from("/"), root: None }
    }

    /// The tree below `root`, as a process chrooted there would see it: no link and no `..` leads out.
    /// `root` itself is opened once; `/` gives the machine itself.
    pub fn jail(root: &Path) -> io::Result<Self> {
        if root == Path::new("/") {
            return Ok(Self::system());
        }
        let fd = fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { path: root.to_path_buf(), root: Some(fd) })
    }

    /// The tree below an already opened directory; `path` only serves messages.
    pub fn from_fd(root: OwnedFd, path: &Path) -> Self {
        Self { path: path.to_path_buf(), root: Some(root) }
    }

    /// Where the root lies, as the caller named it.
    pub fn root(&self) -> &Path {
        &self.path
    }

    fn open_at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        require_absolute(path)?;
        let flags = flags | OFlags::CLOEXEC;
        let Some(root) = &self.root else {
            return Ok(retry(|| fs::openat(CWD, path, flags, Mode::empty()))?);
        };
        let confined = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // EAGAIN: something was renamed while the kernel looked; a hostile jail may do that, but not for ever.
        for _ in 0..64 {
            match fs::openat2(root, path, flags, Mode::empty(), confined) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }
}

impl Host for RealHost {
    fn lstat(&self, path: &Path) -> io::Result<Stat> {
        require_absolute(path)?;
        let want = StatxFlags::BASIC_STATS;
        let statx = match &self.root {
            None => fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, want)?,
            Some(_) => {
                let fd = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)?;
                fs::statx(&fd, "", AtFlags::EMPTY_PATH, want)?
            }
        };
        Ok(Stat::from_statx(&statx))
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        require_absolute(path)?;
        let target = match &self.root {
            None => fs::readlinkat(CWD, path, Vec::new())?,
            Some(_) => {
                let fd = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)?;
                // An empty name reads the link that the descriptor holds; on anything else it is ENOENT.
                fs::readlinkat(&fd, "", Vec::new())
                    .map_err(|e| if e == Errno::NOENT { Errno::INVAL } else { e })?
            }
        };
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::new(fd)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn HostFile + '_>> {
        // NONBLOCK: a FIFO planted under the name must not make us wait; NOCTTY: nor a terminal become ours.
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        match FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) {
            FileType::RegularFile => Ok(Box::new(OpenFile(fd))),
            FileType::Directory => Err(Errno::ISDIR.into()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }

    fn open_known(&self, path: &Path, known: &Stat) -> io::Result<Box<dyn HostFile + '_>> {
        if !known.is_file() || self.root.is_some() {
            return self.open(path);
        }
        // It was a regular file just now, and no link: asking again would tell little more. What is not seekable any more
        // refuses to be read by position, and whoever copies it asks at the end whether it is still the file that was looked at.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        match self.open_at(path, flags) {
            Ok(fd) => Ok(Box::new(OpenFile(fd))),
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => self.open(path),
            Err(error) => Err(error),
        }
    }
}

struct OpenFile(OwnedFd);

impl HostFile for OpenFile {
    fn into_fd(self: Box<Self>) -> Option<OwnedFd> {
        Some(self.0)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset.saturating_add(done as u64);
            match retry(|| rustix::io::pread(self.0.as_fd(), &mut buf[done..], at)) {
                Ok(0) => break,
                Ok(n) => done += n,
                // Offsets no file can have (a hostile header names them) are simply past the end.
                Err(Errno::INVAL | Errno::OVERFLOW) if at > i64::MAX as u64 / 2 => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Remembers where directories really lie, so that the thousandth file of `/usr/bin` costs one `lstat`, not five.
/// For one short run over a tree that stays as it is.
pub struct Directories<'h> {
    host: &'h dyn Host,
    known: RefCell<HashMap<PathBuf, Option<PathBuf>>>,
}

impl<'h> Directories<'h> {
    /// An empty memory of `host`'s directories.
    pub fn new(host: &'h dyn Host) -> Self {
        Self { host, known: RefCell::default() }
    }

    /// Where `path` really lies, and what is there.
    pub fn locate(&self, path: &Path) -> io::Result<(PathBuf, Stat)> {
        require_absolute(path)?;
        let mut path = path.to_path_buf();
        for _ in 0..MAX_LINKS {
            let (Some(parent), Some(name)) = (path.parent(), plain_name(&path)) else {
                let walk = self.host.walk(&path)?;
                return Ok((walk.real, walk.stat));
            };
            let here = self.directory(parent)?.join(name);
            let stat = self.host.lstat(&here)?;
            if !stat.is_symlink() {
                return Ok((here, stat));
            }
            let target = self.host.read_link(&here)?;
            path = here.parent().unwrap_or(Path::new("/")).join(target);
        }
        Err(Errno::LOOP.into())
    }

    /// Where `path` itself really lies: its directory's links are followed, a last link is not.
    pub fn locate_itself(&self, path: &Path) -> io::Result<(PathBuf, Stat)> {
        require_absolute(path)?;
        let (Some(parent), Some(name)) = (path.parent(), plain_name(path)) else {
            return self.locate(path);
        };
        let here = self.directory(parent)?.join(name);
        let stat = self.host.lstat(&here)?;
        Ok((here, stat))
    }

    /// Where a directory really lies; the answer is remembered, a missing one too.
    fn directory(&self, path: &Path) -> io::Result<PathBuf> {
        if let Some(known) = self.known.borrow().get(path) {
            return known.clone().ok_or_else(|| Errno::NOENT.into());
        }
        let found = match self.host.walk(path) {
            Ok(walk) => Some(walk.real),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        self.known.borrow_mut().insert(path.to_path_buf(), found.clone());
        found.ok_or_else(|| Errno::NOENT.into())
    }
}

/// The last component if the path ends in a plain name: not `/`, `..`, `x/.` or `x/`.
fn plain_name(path: &Path) -> Option<&OsStr> {
    let bytes = path.as_os_str().as_bytes();
    let name = path.file_name()?;
    bytes.ends_with(name.as_bytes()).then_some(name)
}

/// A tree in memory, for tests of planning.
#[derive(Clone, Debug)]
pub struct MemHost {
    nodes: BTreeMap<PathBuf, (Stat, MemNode)>,
    clock: i64,
}

#[derive(Clone, Debug)]
enum MemNode {
    Bytes(Vec<u8>),
    Target(PathBuf),
    Other,
}

impl Default for MemHost {
    fn default() -> Self {
        let mut host = Self { nodes: BTreeMap::new(), clock: 1_000_000_000 };
        host.put(Path::new("/"), Kind::Directory, 0o755, MemNode::Other);
        host
    }
}

impl MemHost {
    /// A host with nothing but `/`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Put a file, with the directories above it; root's, mode `mode`.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> &mut Self {
        self.parents(Path::new(path));
        self.put(Path::new(path), Kind::File, mode, MemNode::Bytes(bytes.to_vec()))
    }

    /// Put a directory.
    pub fn dir(&mut self, path: &str, mode: u32) -> &mut Self {
        self.parents(Path::new(path));
        self.put(Path::new(path), Kind::Directory, mode, MemNode::Other)
    }

    /// Put a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.parents(Path::new(path));
        self.put(Path::new(path), Kind::Symlink, 0o777, MemNode::Target(PathBuf::from(target)))
    }

    /// Put a device, FIFO or socket.
    pub fn special(&mut self, path: &str, kind: Kind, mode: u32, rdev: u64) -> &mut Self {
        self.parents(Path::new(path));
        self.put(Path::new(path), kind, mode, MemNode::Other);
        self.adjust(path, |stat| stat.rdev = rdev)
    }

    /// Change what `lstat` says of an entry: its owner, say.
    pub fn adjust(&mut self, path: &str, change: impl FnOnce(&mut Stat)) -> &mut Self {
        if let Some((stat, _)) = self.nodes.get_mut(Path::new(path)) {
            change(stat);
        }
        self
    }

    /// Take an entry away, and what lies below it.
    pub fn remove(&mut self, path: &str) -> &mut Self {
        self.nodes.retain(|p, _| !p.starts_with(path));
        self
    }

    fn parents(&mut self, path: &Path) {
        let missing: Vec<PathBuf> = path
            .ancestors()
            .skip(1)
            .filter(|p| p.is_absolute() && !self.nodes.contains_key(*p))
            .map(Path::to_path_buf)
            .collect();
        for dir in missing.iter().rev() {
            self.put(dir, Kind::Directory, 0o755, MemNode::Other);
        }
    }

    fn put(&mut self, path: &Path, kind: Kind, mode: u32, node: MemNode) -> &mut Self {
        self.clock += 1;
        let now = Time { sec: self.clock, nsec: 0 };
        let size = match &node {
            MemNode::Bytes(bytes) => bytes.len(),
            MemNode::Target(target) => target.as_os_str().len(),
            MemNode::Other => 0,
        };
        let stat = Stat {
            kind,
            mode,
            uid: 0,
            gid: 0,
            size: size as u64,
            mtime: now,
            ctime: now,
            dev: 1,
            ino: self.clock.unsigned_abs(),
            nlink: 1,
            rdev: 0,
        };
        self.nodes.insert(path.to_path_buf(), (stat, node));
        self
    }

    fn node(&self, path: &Path) -> io::Result<&(Stat, MemNode)> {
        self.nodes.get(path).ok_or_else(|| Errno::NOENT.into())
    }

    /// The entry a path names once the links of its directories are followed.
    fn entry(&self, path: &Path) -> io::Result<&(Stat, MemNode)> {
        match (path.parent(), plain_name(path)) {
            (Some(parent), Some(name)) => {
                let dir = self.real(parent)?;
                if !self.node(&dir)?.0.is_dir() {
                    return Err(Errno::NOTDIR.into());
                }
                self.node(&dir.join(name))
            }
            _ => self.node(&self.real(path)?),
        }
    }

    fn real(&self, path: &Path) -> io::Result<PathBuf> {
        let lstat = |p: &Path| self.node(p).map(|(stat, _)| *stat);
        let read_link = |p: &Path| match self.node(p)? {
            (_, MemNode::Target(target)) => Ok(target.clone()),
            _ => Err(Errno::INVAL.into()),
        };
        walk_links(path, &mut Vec::new(), &lstat, &read_link).map(|(real, _)| real)
    }
}

impl Host for MemHost {
    fn lstat(&self, path: &Path) -> io::Result<Stat> {
        require_absolute(path)?;
        self.entry(path).map(|(stat, _)| *stat)
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        match self.entry(path)? {
            (_, MemNode::Target(target)) => Ok(target.clone()),
            _ => Err(Errno::INVAL.into()),
        }
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let dir = self.real(path)?;
        if !self.node(&dir)?.0.is_dir() {
            return Err(Errno::NOTDIR.into());
        }
        let below = self.nodes.keys().filter(|p| p.parent() == Some(&*dir));
        Ok(below.filter_map(|p| p.file_name()).map(OsStr::to_os_string).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn HostFile + '_>> {
        match self.node(&self.real(path)?)? {
            (_, MemNode::Bytes(bytes)) => Ok(Box::new(bytes.as_slice())),
            (stat, _) if stat.is_dir() => Err(Errno::ISDIR.into()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }
}

impl HostFile for &[u8] {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}
