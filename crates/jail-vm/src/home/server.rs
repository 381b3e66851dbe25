//! The operations of the home.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use jail_wire::LONGEST_HOME_DATA;
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, Uid, openat2, statat,
};
use rustix::io::Errno;

use super::files::Files;
use super::message::{Answer, Body, MAJOR, MINOR, Request};
use super::tree::{BENEATH, Place, Tree};

type Result<T> = std::result::Result<T, Errno>;

/// A home and what one guest knows of it. Runs as the home's user, who has no rights beyond his own.
#[derive(Debug)]
pub struct Server {
    root: OwnedFd,
    tree: Tree,
    files: Files,
}

/// What is spoken of beyond the least (linux/fuse.h, `FUSE_*`): reads ahead, large writes, content that is read anew when a
/// file's time or size has changed outside.
const ASYNC_READ: u32 = 1 << 0;
const BIG_WRITES: u32 = 1 << 5;
const AUTO_INVAL_DATA: u32 = 1 << 12;
const PARALLEL_DIROPS: u32 = 1 << 18;
const MAX_PAGES: u32 = 1 << 22;

impl Server {
    /// For one guest.
    #[must_use]
    pub fn new(root: OwnedFd) -> Self {
        // The guest's kernel has applied the umask of whoever makes a file.
        rustix::process::umask(Mode::empty());
        Self { root, tree: Tree::default(), files: Files::default() }
    }

    /// Does what a request says. `None`: it is none that is answered.
    pub fn answer(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        let request = Request::read(request)?;
        let (node, body) = (request.node, request.body);
        let result = match request.operation {
            1 => self.lookup(node, body),
            2 => {
                self.forget(node, body).unwrap_or_default();
                return None;
            }
            3 => self.get_attributes(node),
            4 => self.set_attributes(node, body),
            5 => self.read_link(node),
            6 => self.make_link(node, body),
            8 => self.make_node(node, body),
            9 => self.make_directory(node, body),
            10 => self.remove(node, body, AtFlags::empty()),
            11 => self.remove(node, body, AtFlags::REMOVEDIR),
            12 => self.rename(node, body, Flags::None),
            13 => self.hard_link(node, body),
            14 => self.open(node, body),
            15 => self.read(body),
            16 => self.write(body),
            17 => self.size_of_disk(),
            18 | 29 => self.close(body),
            20 | 30 => self.sync(body),
            26 => start(body),
            27 => self.open_directory(node),
            28 => self.list(body),
            35 => self.create(node, body),
            36 => return None,
            38 => Ok(Answer::default()),
            42 => {
                self.forget_many(body).unwrap_or_default();
                return None;
            }
            43 => self.allocate(body),
            45 => self.rename(node, body, Flags::Told),
            // The guest's kernel has an answer of its own to what is not here, and does not ask again.
            _ => Err(Errno::NOSYS),
        };
        Some(Answer::finish(request.unique, result))
    }

    /// How many files the guest knows of.
    #[must_use]
    pub fn known(&self) -> usize {
        self.tree.len()
    }

    /// Tells the guest of a name that is there.
    fn entry(&mut self, parent: u64, directory: &OwnedFd, name: &[u8]) -> Result<Answer> {
        self.numbered_entry(parent, directory, name).map(|(_, answer)| answer)
    }

    fn numbered_entry(&mut self, parent: u64, directory: &OwnedFd, name: &[u8]) -> Result<(u64, Answer)> {
        let stat = look(directory, name)?;
        let node = self.tree.tell(parent, name)?;
        let mut answer = Answer::default();
        answer.entry(node, &stat);
        Ok((node, answer))
    }

    fn lookup(&mut self, parent: u64, mut body: Body<'_>) -> Result<Answer> {
        let name = body.name()?;
        let directory = self.tree.directory(&self.root, parent)?;
        self.entry(parent, &directory, name)
    }

    fn forget(&mut self, node: u64, mut body: Body<'_>) -> Result<()> {
        self.tree.forget(node, body.u64()?);
        Ok(())
    }

    fn forget_many(&mut self, mut body: Body<'_>) -> Result<()> {
        let count = body.u32()?;
        body.skip(4)?;
        for _ in 0..count {
            let (node, times) = (body.u64()?, body.u64()?);
            self.tree.forget(node, times);
        }
        Ok(())
    }

    /// By what is open, if it is: it may have no name any more.
    fn stat(&self, node: u64) -> Result<Stat> {
        match self.files.of_node(node) {
            Some(open) => rustix::fs::fstat(&open.fd),
            None => {
                let Place { directory, name } = self.tree.place_of(&self.root, node)?;
                look(&directory, &name)
            }
        }
    }

    fn get_attributes(&self, node: u64) -> Result<Answer> {
        let mut answer = Answer::default();
        answer.attributes(&self.stat(node)?);
        Ok(answer)
    }

    fn set_attributes(&mut self, node: u64, mut body: Body<'_>) -> Result<Answer> {
        let wanted = Wanted::read(&mut body)?;
        match wanted.file.and_then(|file| self.files.get(file).ok()) {
            Some(open) if open.node == node => wanted.apply_to_file(&open.fd)?,
            _ => match self.tree.place_of(&self.root, node) {
                Ok(place) => wanted.apply_at(&place)?,
                Err(errno) => match self.files.of_node(node) {
                    Some(open) => wanted.apply_to_file(&open.fd)?,
                    None => return Err(errno),
                },
            },
        }
        self.get_attributes(node)
    }

    fn read_link(&self, node: u64) -> Result<Answer> {
        let Place { directory, name } = self.tree.place_of(&self.root, node)?;
        let target = rustix::fs::readlinkat(&directory, OsStr::from_bytes(&name), Vec::new())?;
        Ok(Answer(target.into_bytes()))
    }

    fn make_link(&mut self, parent: u64, mut body: Body<'_>) -> Result<Answer> {
        let (name, target) = (body.name()?, body.text()?);
        let directory = self.tree.directory(&self.root, parent)?;
        rustix::fs::symlinkat(OsStr::from_bytes(target), &directory, OsStr::from_bytes(name))?;
        self.entry(parent, &directory, name)
    }

    /// A file, a pipe or a socket. A device would be nobody's to use.
    fn make_node(&mut self, parent: u64, mut body: Body<'_>) -> Result<Answer> {
        let mode = body.u32()?;
        body.skip(12)?;
        let name = body.name()?;
        let directory = self.tree.directory(&self.root, parent)?;
        let kind = FileType::from_raw_mode(mode);
        match kind {
            FileType::RegularFile => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat2(&directory, OsStr::from_bytes(name), flags, permissions(mode), BENEATH)?;
            }
            FileType::Fifo | FileType::Socket => {
                rustix::fs::mknodat(&directory, OsStr::from_bytes(name), kind, permissions(mode), 0)?;
            }
            _ => return Err(Errno::PERM),
        }
        self.entry(parent, &directory, name)
    }

    fn make_directory(&mut self, parent: u64, mut body: Body<'_>) -> Result<Answer> {
        let mode = body.u32()?;
        body.skip(4)?;
        let name = body.name()?;
        let directory = self.tree.directory(&self.root, parent)?;
        rustix::fs::mkdirat(&directory, OsStr::from_bytes(name), permissions(mode))?;
        self.entry(parent, &directory, name)
    }

    fn remove(&mut self, parent: u64, mut body: Body<'_>, flags: AtFlags) -> Result<Answer> {
        let name = body.name()?;
        let directory = self.tree.directory(&self.root, parent)?;
        rustix::fs::unlinkat(&directory, OsStr::from_bytes(name), flags)?;
        self.tree.removed(parent, name);
        Ok(Answer::default())
    }

    fn rename(&mut self, from: u64, mut body: Body<'_>, flags: Flags) -> Result<Answer> {
        let to = body.u64()?;
        let flags = match flags {
            Flags::None => RenameFlags::empty(),
            Flags::Told => {
                let bits = body.u32()?;
                body.skip(4)?;
                let known = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
                RenameFlags::from_bits(bits).filter(|flags| known.contains(*flags)).ok_or(Errno::INVAL)?
            }
        };
        let (old, new) = (body.name()?, body.name()?);
        let source = self.tree.directory(&self.root, from)?;
        let target = self.tree.directory(&self.root, to)?;
        rustix::fs::renameat_with(&source, OsStr::from_bytes(old), &target, OsStr::from_bytes(new), flags)?;
        if flags.contains(RenameFlags::EXCHANGE) {
            self.tree.exchanged((from, old), (to, new));
        } else {
            self.tree.moved((from, old), (to, new));
        }
        Ok(Answer::default())
    }

    fn hard_link(&mut self, parent: u64, mut body: Body<'_>) -> Result<Answer> {
        let (old, name) = (body.u64()?, body.name()?);
        let from = self.tree.place_of(&self.root, old)?;
        let directory = self.tree.directory(&self.root, parent)?;
        let (old_name, new_name) = (OsStr::from_bytes(&from.name), OsStr::from_bytes(name));
        // Without AT_SYMLINK_FOLLOW: a link is linked itself.
        rustix::fs::linkat(&from.directory, old_name, &directory, new_name, AtFlags::empty())?;
        let stat = look(&directory, name)?;
        let mut answer = Answer::default();
        answer.entry(self.tree.linked(old, parent, name)?, &stat);
        Ok(answer)
    }

    fn open(&mut self, node: u64, mut body: Body<'_>) -> Result<Answer> {
        let flags = opening(body.u32()?);
        let Place { directory, name } = self.tree.place_of(&self.root, node)?;
        let fd = open_regular(&directory, &name, flags, Mode::empty())?;
        opened(self.files.add(fd, node)?)
    }

    fn create(&mut self, parent: u64, mut body: Body<'_>) -> Result<Answer> {
        let (bits, mode) = (body.u32()?, body.u32()?);
        body.skip(8)?;
        let name = body.name()?;
        let flags = opening(bits) | OFlags::CREATE | (OFlags::from_bits_truncate(bits) & OFlags::EXCL);
        let directory = self.tree.directory(&self.root, parent)?;
        let fd = open_regular(&directory, name, flags, permissions(mode))?;
        let (node, mut answer) = self.numbered_entry(parent, &directory, name)?;
        answer.0.extend_from_slice(&opened(self.files.add(fd, node)?)?.0);
        Ok(answer)
    }

    fn open_directory(&mut self, node: u64) -> Result<Answer> {
        let Place { directory, name } = self.tree.place_of(&self.root, node)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat2(&directory, OsStr::from_bytes(&name), flags, Mode::empty(), BENEATH)?;
        opened(self.files.add(fd, node)?)
    }

    fn read(&self, mut body: Body<'_>) -> Result<Answer> {
        let (file, at, size) = (body.u64()?, body.u64()?, body.u32()?);
        let size = usize::try_from(size).unwrap_or(LONGEST_HOME_DATA).min(LONGEST_HOME_DATA);
        let fd = &self.files.get(file)?.fd;
        let mut data = vec![0; size];
        let mut length = 0;
        // A short read would be taken for the end of the file.
        while let Some(space @ [_, ..]) = data.get_mut(length..) {
            let position = at.checked_add(length as u64).ok_or(Errno::OVERFLOW)?;
            match rustix::io::pread(fd, space, position) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        data.truncate(length);
        Ok(Answer(data))
    }

    fn write(&self, mut body: Body<'_>) -> Result<Answer> {
        let (file, at, size) = (body.u64()?, body.u64()?, body.u32()?);
        body.skip(20)?;
        let data = body.data(size)?;
        let fd = &self.files.get(file)?.fd;
        let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(fd, data, at))?;
        let mut answer = Answer::default();
        answer.u32(u32::try_from(written).map_err(|_| Errno::OVERFLOW)?).u32(0);
        Ok(answer)
    }

    fn size_of_disk(&self) -> Result<Answer> {
        let disk = rustix::fs::fstatvfs(&self.root)?;
        let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let mut answer = Answer::default();
        answer.u64(disk.f_blocks).u64(disk.f_bfree).u64(disk.f_bavail).u64(disk.f_files).u64(disk.f_ffree);
        answer.u32(short(disk.f_bsize)).u32(short(disk.f_namemax)).u32(short(disk.f_frsize)).zeros(28);
        Ok(answer)
    }

    fn close(&mut self, mut body: Body<'_>) -> Result<Answer> {
        self.files.close(body.u64()?);
        Ok(Answer::default())
    }

    fn sync(&self, mut body: Body<'_>) -> Result<Answer> {
        let (file, flags) = (body.u64()?, body.u32()?);
        let fd = &self.files.get(file)?.fd;
        if flags & 1 != 0 {
            rustix::fs::fdatasync(fd)?
        } else {
            rustix::fs::fsync(fd)?
        }
        Ok(Answer::default())
    }

    fn list(&mut self, mut body: Body<'_>) -> Result<Answer> {
        let (file, from, size) = (body.u64()?, body.u64()?, body.u32()?);
        let room = usize::try_from(size).unwrap_or(LONGEST_HOME_DATA).min(LONGEST_HOME_DATA);
        let mut answer = Answer::default();
        let mut next = from;
        for one in self.files.list(file, from)? {
            let whole = (24 + one.name.len()).next_multiple_of(8);
            if answer.0.len() + whole > room {
                break;
            }
            next = next.saturating_add(1);
            let length = u32::try_from(one.name.len()).map_err(|_| Errno::OVERFLOW)?;
            answer.u64(one.inode).u64(next).u32(length).u32(one.kind);
            answer.0.extend_from_slice(&one.name);
            let end = answer.0.len().next_multiple_of(8);
            answer.0.resize(end, 0);
        }
        Ok(answer)
    }

    fn allocate(&self, mut body: Body<'_>) -> Result<Answer> {
        let (file, at, length, mode) = (body.u64()?, body.u64()?, body.u64()?, body.u32()?);
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        rustix::fs::fallocate(&self.files.get(file)?.fd, mode, at, length)?;
        Ok(Answer::default())
    }
}

/// Whether a request to rename brings flags.
#[derive(Clone, Copy)]
enum Flags {
    None,
    Told,
}

fn start(mut body: Body<'_>) -> Result<Answer> {
    let (major, _minor, ahead, offered) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
    if major != MAJOR {
        return Err(Errno::PROTO);
    }
    let wanted = ASYNC_READ | BIG_WRITES | AUTO_INVAL_DATA | PARALLEL_DIROPS | MAX_PAGES;
    let longest = u32::try_from(LONGEST_HOME_DATA).map_err(|_| Errno::OVERFLOW)?;
    let mut answer = Answer::default();
    answer.u32(MAJOR).u32(MINOR).u32(ahead.min(longest)).u32(offered & wanted);
    // What waits in the background, the longest write, a nanosecond as the least difference of times, pages a request.
    answer
        .u16(16)
        .u16(12)
        .u32(longest)
        .u32(1)
        .u16(u16::try_from(longest >> 12).unwrap_or(1))
        .u16(0)
        .zeros(32);
    Ok(answer)
}

const fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

/// What of the flags of an open is passed on: how it is read and written, and nothing that would wait or follow.
fn opening(bits: u32) -> OFlags {
    let kept = OFlags::ACCMODE | OFlags::APPEND | OFlags::TRUNC | OFlags::SYNC | OFlags::DSYNC;
    (OFlags::from_bits_truncate(bits) & kept) | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC
}

/// A pipe or a device of the host's would be opened on the host.
fn open_regular(directory: &OwnedFd, name: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let fd = openat2(directory, OsStr::from_bytes(name), flags, mode, BENEATH)?;
    match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
        FileType::RegularFile => Ok(fd),
        _ => Err(Errno::ACCESS),
    }
}

fn opened(number: u64) -> Result<Answer> {
    let mut answer = Answer::default();
    answer.u64(number).u32(0).u32(0);
    Ok(answer)
}

fn look(directory: &OwnedFd, name: &[u8]) -> Result<Stat> {
    statat(directory, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
}

/// What a file shall have.
struct Wanted {
    file: Option<u64>,
    mode: Option<Mode>,
    owner: (Option<Uid>, Option<Gid>),
    size: Option<u64>,
    times: Option<Timestamps>,
}

impl Wanted {
    fn read(body: &mut Body<'_>) -> Result<Self> {
        let valid = body.u32()?;
        body.skip(4)?;
        let has = |bit: u32| valid & (1 << bit) != 0;
        let (file, size) = (body.u64()?, body.u64()?);
        body.skip(8)?;
        let seconds = (body.u64()?, body.u64()?);
        body.skip(8)?;
        let nanoseconds = (body.u32()?, body.u32()?);
        body.skip(4)?;
        let mode = body.u32()?;
        body.skip(4)?;
        let (uid, gid) = (body.u32()?, body.u32()?);
        let time = |set: bool, now: bool, seconds: u64, nanoseconds: u32| Timespec {
            tv_sec: seconds as i64,
            tv_nsec: match (set, now) {
                (_, true) => UTIME_NOW,
                (true, false) => i64::from(nanoseconds % 1_000_000_000),
                (false, false) => UTIME_OMIT,
            },
        };
        let timed = [4, 5, 7, 8].into_iter().any(has);
        // A number that means "unchanged" to the system call is no id.
        let id = |bit: u32, id: u32| (has(bit) && id != u32::MAX).then_some(id);
        Ok(Self {
            file: has(6).then_some(file),
            mode: has(0).then(|| permissions(mode)),
            owner: (id(1, uid).map(Uid::from_raw), id(2, gid).map(Gid::from_raw)),
            size: has(3).then_some(size),
            times: timed.then(|| Timestamps {
                last_access: time(has(4), has(7), seconds.0, nanoseconds.0),
                last_modification: time(has(5), has(8), seconds.1, nanoseconds.1),
            }),
        })
    }

    fn apply_to_file(&self, fd: &OwnedFd) -> Result<()> {
        if self.owner != (None, None) {
            rustix::fs::fchown(fd, self.owner.0, self.owner.1)?;
        }
        if let Some(mode) = self.mode {
            rustix::fs::fchmod(fd, mode)?;
        }
        if let Some(size) = self.size {
            rustix::fs::ftruncate(fd, size)?;
        }
        self.times.as_ref().map_or(Ok(()), |times| rustix::fs::futimens(fd, times))
    }

    fn apply_at(&self, place: &Place) -> Result<()> {
        let Place { directory, name } = place;
        let path = OsStr::from_bytes(name);
        if self.owner != (None, None) {
            rustix::fs::chownat(directory, path, self.owner.0, self.owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(mode) = self.mode {
            // A link has no mode of its own; followed by whoever swaps one in meanwhile, it stays below this root.
            if FileType::from_raw_mode(look(directory, name)?.st_mode) == FileType::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            rustix::fs::chmodat(directory, path, mode, AtFlags::empty())?;
        }
        if let Some(size) = self.size {
            let fd = open_regular(directory, name, opening(OFlags::WRONLY.bits()), Mode::empty())?;
            rustix::fs::ftruncate(&fd, size)?;
        }
        self.times
            .as_ref()
            .map_or(Ok(()), |times| rustix::fs::utimensat(directory, path, times, AtFlags::SYMLINK_NOFOLLOW))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::ROOT;
    use super::*;
    use std::path::Path;

    struct Guest {
        server: Server,
        dir: tempfile::TempDir,
        unique: u64,
    }

    impl Guest {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("scratch");
            std::fs::create_dir(dir.path().join("home")).expect("made");
            std::fs::write(dir.path().join("secret"), "s").expect("written");
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let root = rustix::fs::open(dir.path().join("home"), flags, Mode::empty()).expect("opened");
            Self { server: Server::new(root), dir, unique: 0 }
        }

        fn home(&self) -> std::path::PathBuf {
            self.dir.path().join("home")
        }

        /// The error as a positive number, or the body.
        fn ask(&mut self, operation: u32, node: u64, body: &[u8]) -> std::result::Result<Vec<u8>, i32> {
            self.unique += 1;
            let mut bytes = Vec::new();
            bytes.extend_from_slice(&u32::try_from(40 + body.len()).expect("short").to_le_bytes());
            bytes.extend_from_slice(&operation.to_le_bytes());
            bytes.extend_from_slice(&self.unique.to_le_bytes());
            bytes.extend_from_slice(&node.to_le_bytes());
            bytes.extend_from_slice(&[0; 16]);
            bytes.extend_from_slice(body);
            let answer = self.server.answer(&bytes).expect("an answer");
            assert_eq!(answer.len(), usize::try_from(u32_at(&answer, 0)).expect("a length"));
            assert_eq!(u64_at(&answer, 8), self.unique);
            match i32::from_le_bytes(answer[4..8].try_into().expect("four")) {
                0 => Ok(answer[16..].to_vec()),
                error => Err(-error),
            }
        }

        fn lookup(&mut self, parent: u64, name: &[u8]) -> std::result::Result<u64, i32> {
            self.ask(1, parent, &[name, b"\0"].concat()).map(|body| u64_at(&body, 0))
        }

        fn open(&mut self, node: u64, flags: OFlags) -> std::result::Result<u64, i32> {
            self.ask(14, node, &numbers32(&[flags.bits(), 0])).map(|body| u64_at(&body, 0))
        }

        fn read(&mut self, file: u64) -> std::result::Result<Vec<u8>, i32> {
            self.ask(15, 0, &[numbers64(&[file, 0]), numbers32(&[4096, 0, 0, 0, 0, 0])].concat())
        }
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"))
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"))
    }

    fn numbers32(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    fn numbers64(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    fn create(name: &[u8]) -> Vec<u8> {
        let flags = OFlags::RDWR.bits();
        [numbers32(&[flags, 0o644, 0, 0]), name.to_vec(), vec![0]].concat()
    }

    fn write(file: u64, data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).expect("short");
        [numbers64(&[file, 0]), numbers32(&[length, 0, 0, 0, 0, 0]), data.to_vec()].concat()
    }

    #[test]
    fn what_a_guest_writes_is_there() {
        let mut guest = Guest::new();
        let name = b"odd \xff\n name";
        let made = guest.ask(35, ROOT, &create(name)).expect("made");
        let (node, file) = (u64_at(&made, 0), u64_at(&made, 128));
        guest.ask(16, node, &write(file, b"hello")).expect("written");
        assert_eq!(guest.read(file), Ok(b"hello".to_vec()));
        assert_eq!(std::fs::read(guest.home().join(OsStr::from_bytes(name))).expect("there"), b"hello");
        assert_eq!(guest.lookup(ROOT, name), Ok(node));
        let open = u64_at(&guest.ask(27, ROOT, &numbers32(&[0, 0])).expect("opened"), 0);
        let list = guest.ask(28, ROOT, &[numbers64(&[open, 0]), numbers32(&[4096, 0, 0, 0, 0, 0])].concat());
        assert!(list.expect("listed").windows(name.len()).any(|part| part == name));
    }

    #[test]
    fn a_file_that_is_removed_while_open_lives_on() {
        let mut guest = Guest::new();
        let made = guest.ask(35, ROOT, &create(b"f")).expect("made");
        let (node, file) = (u64_at(&made, 0), u64_at(&made, 128));
        guest.ask(16, node, &write(file, b"hello")).expect("written");
        guest.ask(10, ROOT, b"f\0").expect("removed");
        assert!(guest.ask(3, node, &[0; 16]).is_ok(), "its attributes");
        assert_eq!(guest.read(file), Ok(b"hello".to_vec()));
        guest.ask(18, node, &numbers64(&[file, 0, 0])).expect("closed");
        assert!(guest.ask(3, node, &[0; 16]).is_err());
    }

    #[test]
    fn nothing_outside_the_home_is_reached() {
        let mut guest = Guest::new();
        let invalid = Errno::INVAL.raw_os_error();
        for name in [&b".."[..], b".", b"", b"../secret", b"/etc/passwd", b"a/b"] {
            assert_eq!(guest.lookup(ROOT, name), Err(invalid), "{name:?}");
            assert_eq!(guest.ask(35, ROOT, &create(name)), Err(invalid), "{name:?}");
            assert_eq!(guest.ask(10, ROOT, &[name, b"\0"].concat()), Err(invalid), "{name:?}");
            let renamed = [numbers64(&[ROOT]), b"x\0".to_vec(), name.to_vec(), vec![0]].concat();
            assert_eq!(guest.ask(12, ROOT, &renamed), Err(invalid), "{name:?}");
        }
        // Links are made and shown as they are, and lead nowhere.
        for (name, to) in [(&b"up"[..], &b"../secret"[..]), (b"root", b"/"), (b"here", b"..")] {
            let body = [name, b"\0", to, b"\0"].concat();
            let link = u64_at(&guest.ask(6, ROOT, &body).expect("made"), 0);
            assert_eq!(guest.ask(5, link, b"").expect("read"), to);
            assert_eq!(guest.open(link, OFlags::RDONLY), Err(Errno::LOOP.raw_os_error()));
            assert!(guest.lookup(link, b"secret").is_err(), "it is no directory");
            assert!(guest.ask(35, link, &create(b"new")).is_err());
            assert!(guest.ask(27, link, &numbers32(&[0, 0])).is_err());
            let to_size = [numbers32(&[8, 0]), numbers64(&[0, 0]), vec![0; 64]].concat();
            assert!(guest.ask(4, link, &to_size).is_err(), "nor cut to size");
        }
        assert_eq!(std::fs::read(guest.dir.path().join("secret")).expect("there"), b"s");
        assert!(!Path::new("/new").exists() && !guest.dir.path().join("new").exists());
    }

    /// A directory that the guest knows becomes a link behind its back.
    #[test]
    fn a_directory_that_became_a_link_is_not_followed() {
        let mut guest = Guest::new();
        std::fs::create_dir(guest.home().join("d")).expect("made");
        let directory = guest.lookup(ROOT, b"d").expect("there");
        std::fs::remove_dir(guest.home().join("d")).expect("removed");
        std::os::unix::fs::symlink("..", guest.home().join("d")).expect("linked");
        assert!(guest.lookup(directory, b"secret").is_err());
        assert!(guest.ask(35, directory, &create(b"new")).is_err());
        assert!(!guest.dir.path().join("new").exists());
    }

    #[test]
    fn what_is_no_file_is_not_opened_and_no_device_is_made() {
        let mut guest = Guest::new();
        let node = |mode: u32, name: &[u8]| [numbers32(&[mode, 0, 0, 0]), name.to_vec(), vec![0]].concat();
        let pipe = u64_at(&guest.ask(8, ROOT, &node(0o010_600, b"pipe")).expect("made"), 0);
        // It does not wait for a writer either.
        assert_eq!(guest.open(pipe, OFlags::RDONLY), Err(Errno::ACCESS.raw_os_error()));
        for kind in [0o020_600, 0o060_600, 0o040_700] {
            assert_eq!(guest.ask(8, ROOT, &node(kind, b"dev")), Err(Errno::PERM.raw_os_error()));
        }
    }

    #[test]
    fn nonsense_is_an_error_and_nothing_more() {
        let mut guest = Guest::new();
        for operation in 0..60 {
            if [2, 36, 42].contains(&operation) {
                continue;
            }
            for body in [&[][..], &[0xff; 7], &[0xff; 40], &[0; 200]] {
                let answer = guest.ask(operation, 77, body);
                assert!(
                    answer.is_err() || [17, 18, 26, 29, 38].contains(&operation),
                    "{operation}: {answer:?}"
                );
            }
        }
        assert!(guest.server.answer(&[0; 10]).is_none());
        let mut short = 99_u32.to_le_bytes().to_vec();
        short.resize(60, 0);
        assert!(guest.server.answer(&short).is_none(), "a length that lies");
    }
}
