//! Builds the inside of a cell: root, /dev, /proc, scratch space, home.
//!
//! Runs as the first process of the cell's namespaces, with nothing but the blueprint's descriptors. Every target is
//! opened below the new root without following a link, so a jail or home that holds links where directories should be
//! (CVE-2021-30465, CVE-2025-31133, CVE-2025-52881) makes the entry fail instead of mounting elsewhere.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use jail_sys::mount::{Reach, attributes, make_all_private, set_attributes};
use jail_sys::process::leak;
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, chownat, mkdirat, mknodat, openat2, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::process::{Resource, getrlimit};

use super::blueprint::{Attachment, Blueprint, DEVICES, Execution, Kind, Privilege};
use super::layers::Layers;
use crate::admission::BELOW;
use crate::own_etc::OwnFile;
use crate::refusal::printable;
use crate::rlimit::raise;

/// What could not be built.
#[derive(Debug)]
pub(crate) struct Unbuilt {
    doing: String,
    errno: Errno,
}

impl fmt::Display for Unbuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.doing, self.errno)
    }
}

type Result<T> = std::result::Result<T, Unbuilt>;

trait While<T> {
    fn while_(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> While<T> for std::result::Result<T, Errno> {
    fn while_(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Unbuilt { doing: doing(), errno })
    }
}

/// Files of /proc that tell of the whole machine. They are covered by an empty one.
const MASKED: [&str; 8] = [
    "kallsyms",
    "keys",
    "key-users",
    "interrupts",
    "timer_list",
    "config.gz",
    "sched_debug",
    "latency_stats",
];

/// Builds the root and moves this mount namespace into it. Afterwards nothing of the host can be reached by name.
pub(crate) fn build(blueprint: &Blueprint) -> Result<()> {
    // The directory modes below are meant as they are written.
    rustix::process::umask(Mode::empty());
    room_for_descriptors(blueprint.privilege).while_(|| "make room for descriptors".into())?;
    rustix::system::sethostname(blueprint.hostname.as_bytes()).while_(|| "set the host name".into())?;
    if blueprint.way_out.is_some() {
        jail_sys::net::bring_loopback_up().while_(|| "bring up the loopback interface".into())?;
    }
    // Before anything is mounted: nothing may propagate to the host, nor arrive from it.
    make_all_private().while_(|| "cut the mounts off from the host's".into())?;
    let scratch = Scratch::mount(blueprint)?;
    let root = blueprint.root.mount(scratch.tmpfs).while_(|| blueprint.root.doing())?;
    let cell = Interior { root };
    if let Some(parts) = &blueprint.host_parts {
        cell.host_parts(parts, blueprint, &scratch)?;
    }
    cell.scratch(&scratch)?;
    let dev = cell.devices(blueprint, &scratch)?;
    cell.processes(dev)?;
    cell.homes(blueprint, &scratch)?;
    for bind in &blueprint.binds {
        cell.attach(bind)?;
    }
    cell.own_files(&blueprint.files, &scratch)?;
    cell.mount_on(scratch.part("tmp").while_(|| "mount /tmp".into())?, b"/tmp", Kind::Directory)?;
    for attachment in &blueprint.brought {
        cell.bring(attachment, blueprint)?;
    }
    if let Some(start) = &blueprint.start {
        cell.directories(start, blueprint)?;
    }
    enter(cell.root)
}

/// pivot_root(2), not chroot(2): the old root is not just out of sight but gone from the namespace, so that neither
/// a second chroot nor a kept directory descriptor leads back to it.
fn enter(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root).while_(|| "change into the new root".into())?;
    rustix::process::pivot_root(".", ".").while_(|| "swap the roots".into())?;
    // The old root lies on top of the new one now, at the same place; the scratch space goes with it. One call, since
    // each makes the kernel wait for all its processors.
    unmount(".", UnmountFlags::DETACH).while_(|| "let go of the old root".into())?;
    rustix::process::chdir("/").while_(|| "change to the new root".into())
}

struct Interior<'a> {
    root: BorrowedFd<'a>,
}

impl Interior<'_> {
    /// The mount points for what every cell has; jail-init makes them.
    fn target(&self, path: &[u8], kind: Kind) -> Result<BorrowedFd<'static>> {
        let relative = path.strip_prefix(b"/").unwrap_or(path);
        let mut flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if kind == Kind::Directory {
            flags |= OFlags::DIRECTORY;
        }
        openat2(self.root, relative, flags, Mode::empty(), BELOW).map(leak).while_(|| {
            format!("open '/{}' of the jail to mount on it (jail-init -j JAIL makes it)", printable(relative))
        })
    }

    fn mount_on(&self, what: BorrowedFd<'_>, path: &[u8], kind: Kind) -> Result<()> {
        match path.strip_prefix(b"/") {
            // One name, whose link would not be followed (move_mount(2) without MOVE_MOUNT_T_SYMLINKS).
            Some(name) if !name.contains(&b'/') && kind == Kind::Directory => {
                attach_named(what, self.root, name).while_(|| {
                    format!(
                        "mount '/{0}' on '/{0}' of the jail (jail-init -j JAIL makes it)",
                        printable(name)
                    )
                })
            }
            _ => {
                let target = self.target(path, kind)?;
                attach_to(what, target).while_(|| format!("mount '{}'", printable(path)))
            }
        }
    }

    fn attach(&self, attachment: &Attachment) -> Result<()> {
        self.mount_on(attachment.tree.as_fd(), &attachment.target, attachment.kind)
    }

    /// Over a root that is the host's own: a layer for changes over each part that takes one, and nothing of the kernel's.
    fn host_parts(&self, parts: &[Attachment], blueprint: &Blueprint, scratch: &Scratch) -> Result<()> {
        for (number, part) in parts.iter().enumerate() {
            let doing = || format!("lay a layer for changes over '{}'", printable(&part.target));
            let stat = rustix::fs::fstat(&part.tree).while_(doing)?;
            // In the layer all is the user's; the directory itself must be no more his to change than it is.
            let mode = stat.st_mode & if stat.st_uid == blueprint.uid { 0o7777 } else { 0o7577 };
            let lower = part.tree.try_clone().map_err(|_| Errno::MFILE).while_(doing)?;
            let changes = super::layers::Changes::OnScratch;
            let layers = Layers { lowers: vec![lower], changes, privilege: blueprint.privilege };
            match layers.overlay(scratch.tmpfs, &format!("host{number}"), mode) {
                Ok(overlay) => self.mount_on(leak(overlay), &part.target, Kind::Directory)?,
                // Some file systems are no lower layer; there it stays read-only.
                Err(Errno::INVAL) => {}
                Err(errno) => return Err(errno).while_(doing),
            }
        }
        let sys = self.target(b"/sys", Kind::Directory)?;
        cover(sys).while_(|| "hide /sys".into())
    }

    /// The directories that everybody may write to.
    fn scratch(&self, scratch: &Scratch) -> Result<()> {
        let doing = || "show the scratch space".to_owned();
        self.mount_on(scratch.part("vartmp").while_(doing)?, b"/var/tmp", Kind::Directory)?;
        self.mount_on(scratch.part("run").while_(doing)?, b"/run", Kind::Directory)
    }

    /// A /dev with what every program expects, and terminals of its own.
    fn devices(&self, blueprint: &Blueprint, scratch: &Scratch) -> Result<BorrowedFd<'static>> {
        let doing = || "make /dev".to_owned();
        let dev = tmpfs("64K", "256", MountAttrFlags::MOUNT_ATTR_NOEXEC).while_(doing)?;
        self.mount_on(dev, b"/dev", Kind::Directory)?;
        if blueprint.privilege == Privilege::Root {
            for (name, major, minor) in DEVICES {
                let device = rustix::fs::makedev(major, minor);
                mknodat(dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)
                    .while_(doing)?;
            }
        }
        for (name, host) in &blueprint.devices {
            empty_file(dev, name).while_(doing)?;
            attach_named(host.as_fd(), dev, name.as_bytes()).while_(doing)?;
        }
        let links = [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ];
        for (name, to) in links {
            symlinkat(to, dev, name).while_(doing)?;
        }
        for name in ["pts", "shm"] {
            mkdirat(dev, name, Mode::from_raw_mode(0o755)).while_(doing)?;
        }
        let pts = devpts(blueprint.tty_group).while_(|| "mount /dev/pts".into())?;
        attach_named(pts, dev, b"pts").while_(|| "mount /dev/pts".into())?;
        let shm = scratch.part("shm").while_(doing)?;
        set_attributes(shm, attributes::NO_EXEC, 0, Reach::Single).while_(doing)?;
        attach_named(shm, dev, b"shm").while_(doing)?;
        Ok(dev)
    }

    /// /proc of the cell's own processes, read-only as a whole: sysctls, core_pattern, sysrq and the rest are out of
    /// reach even for a process that should become root by some hole.
    fn processes(&self, dev: BorrowedFd<'_>) -> Result<()> {
        let doing = || "mount /proc".to_owned();
        let context = leak(fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).while_(doing)?);
        fsconfig_create(context).while_(doing)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_RDONLY;
        let proc = leak(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).while_(doing)?);
        self.mount_on(proc, b"/proc", Kind::Directory)?;
        let mut empty = None;
        for name in MASKED {
            let doing = || format!("cover '/proc/{name}'");
            let null = match empty {
                Some(null) => null,
                None => clone_of(dev, "null").while_(doing)?,
            };
            // A copy that found no place is kept for the next.
            empty = match attach_named(null, proc, name.as_bytes()) {
                Ok(()) => None,
                Err(Errno::NOENT) => Some(null),
                Err(errno) => return Err(errno).while_(doing),
            };
        }
        Ok(())
    }

    /// The user's home, alone in an otherwise empty parent.
    fn homes(&self, blueprint: &Blueprint, scratch: &Scratch) -> Result<()> {
        let doing = || format!("mount the home '{}'", printable(&blueprint.home_path));
        if let Some(parent) = &blueprint.covered {
            let leaf = blueprint.home_path.get(parent.len().saturating_add(1)..).unwrap_or_default();
            mkdirat(scratch.tmpfs, [b"home/", leaf].concat(), Mode::from_raw_mode(0o755)).while_(doing)?;
            let cover = scratch.part("home").while_(doing)?;
            set_attributes(cover, attributes::READ_ONLY | attributes::NO_DEV, 0, Reach::Single)
                .while_(doing)?;
            self.mount_on(cover, parent, Kind::Directory)?;
            if let Some(home) = &blueprint.home {
                return attach_named(home.as_fd(), cover, leaf).while_(doing);
            }
        }
        match &blueprint.home {
            Some(home) => self.mount_on(home.as_fd(), &blueprint.home_path, Kind::Directory)?,
            None => {
                mkdirat(scratch.tmpfs, "run/home", Mode::from_raw_mode(0o700)).while_(doing)?;
                give(scratch.tmpfs, "run/home", blueprint).while_(doing)?;
            }
        }
        Ok(())
    }

    /// Makes the place on the scratch space that a part of the jail is shown at, and shows it.
    fn bring(&self, attachment: &Attachment, blueprint: &Blueprint) -> Result<()> {
        let path = &attachment.target;
        let doing = || format!("show '{}'", printable(path));
        match attachment.kind {
            Kind::Directory => self.directories(path, blueprint)?,
            Kind::File => {
                let parent =
                    path.iter().rposition(|b| *b == b'/').and_then(|at| path.get(..at)).unwrap_or_default();
                self.directories(parent, blueprint)?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = path.strip_prefix(b"/").unwrap_or(path);
                openat2(self.root, below, flags, Mode::from_raw_mode(0o600), BELOW)
                    .map(leak)
                    .while_(doing)?;
            }
        }
        self.attach(attachment)
    }

    /// Makes a directory of the scratch space and those above it, the user's own.
    fn directories(&self, path: &[u8], blueprint: &Blueprint) -> Result<()> {
        let below = path.strip_prefix(b"/").unwrap_or(path);
        let ends = below.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        for end in ends.chain([below.len()]) {
            let part = below.get(..end).unwrap_or_default();
            match mkdirat(self.root, part, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    give(self.root, part, blueprint).while_(|| format!("give '/{}'", printable(part)))?
                }
                Err(Errno::EXIST | Errno::ROFS) => {}
                Err(errno) => return Err(errno).while_(|| format!("make '/{}'", printable(part))),
            }
        }
        Ok(())
    }

    /// Files of the cell's own over those of the jail.
    fn own_files(&self, files: &[OwnFile], scratch: &Scratch) -> Result<()> {
        let doing = || "show the cell's own files of /etc".to_owned();
        let etc = match self.target(b"/etc", Kind::Directory) {
            Ok(etc) => etc,
            // A jail without one has nothing to cover.
            Err(Unbuilt { errno: Errno::NOENT, .. }) => return Ok(()),
            Err(why) => return Err(why),
        };
        for file in files {
            own_file(scratch.tmpfs, file.name, etc, file).while_(doing)?;
        }
        Ok(())
    }
}

/// Makes a file of the cell's own on the scratch space, and mounts it over the one of that name in /etc. Where the jail has
/// none, or what it has is no plain file, there is nothing to cover.
pub(crate) fn own_file(
    scratch: BorrowedFd<'_>,
    name: &str,
    etc: BorrowedFd<'_>,
    file: &OwnFile,
) -> std::result::Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = leak(openat2(scratch, name, flags, Mode::from_raw_mode(0o644), BELOW)?);
    write_all(made, &file.content)?;
    let tree = clone_of(scratch, name)?;
    // Its mode keeps nobody out where all files are the caller's.
    set_attributes(tree, attributes::READ_ONLY, 0, Reach::Single)?;
    match attach_named(tree, etc, file.name.as_bytes()) {
        Err(Errno::INVAL | Errno::LOOP) if !is_plain_file(etc, file.name)? => Ok(()),
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn is_plain_file(directory: BorrowedFd<'_>, name: &str) -> std::result::Result<bool, Errno> {
    let stat = rustix::fs::statat(directory, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

/// The tmpfs whose directories appear at several places.
struct Scratch {
    tmpfs: BorrowedFd<'static>,
}

impl Scratch {
    /// One tmpfs of the policy's size for /tmp, /var/tmp, /run, /dev/shm and a root's changes together.
    ///
    /// It is mounted below the root that will be left, since only a mount that is attached can be copied; it goes out of
    /// sight with that. On /proc, which every host has.
    fn mount(blueprint: &Blueprint) -> Result<Self> {
        let doing = || "make the scratch space".to_owned();
        // Four inodes a KiB: tiny files fill it no sooner than big ones.
        let inodes = (blueprint.tmp.0 / 4096).max(1024);
        let tmpfs =
            tmpfs(&blueprint.tmp.0.to_string(), &inodes.to_string(), MountAttrFlags::MOUNT_ATTR_NODEV)
                .while_(doing)?;
        move_mount(tmpfs, "", rustix::fs::CWD, "/proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .while_(doing)?;
        if blueprint.execution == Execution::RootOnly {
            // Its parts are copies of this mount, attributes and all.
            set_attributes(tmpfs, attributes::NO_EXEC, 0, Reach::Single).while_(doing)?;
        }
        for (name, mode) in
            [("tmp", 0o1777), ("vartmp", 0o1777), ("shm", 0o1777), ("run", 0o755), ("home", 0o755)]
        {
            mkdirat(tmpfs, name, Mode::from_raw_mode(mode)).while_(doing)?;
        }
        for (name, mode) in [("run/screen", 0o1777), ("run/lock", 0o1777), ("run/user", 0o755)] {
            mkdirat(tmpfs, name, Mode::from_raw_mode(mode)).while_(doing)?;
        }
        let runtime = format!("run/user/{}", blueprint.uid);
        mkdirat(tmpfs, &runtime, Mode::from_raw_mode(0o700)).while_(doing)?;
        give(tmpfs, &runtime, blueprint).while_(doing)?;
        Ok(Self { tmpfs })
    }

    /// Names of our own on a file system of our own: nothing here can be a link.
    fn part(&self, name: &str) -> std::result::Result<BorrowedFd<'static>, Errno> {
        clone_of(self.tmpfs, name)
    }
}

fn write_all(file: BorrowedFd<'_>, mut content: &[u8]) -> std::result::Result<(), Errno> {
    while !content.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(file, content))?;
        content = content.get(written..).ok_or(Errno::IO)?;
    }
    Ok(())
}

/// Every mount keeps its descriptor until all are closed at once: more than a caller's limit may allow, which comes along.
/// The user's program has the caller's limit still: it does not come from this process.
fn room_for_descriptors(privilege: Privilege) -> std::result::Result<(), Errno> {
    const ENOUGH: u64 = 1024;
    let least = match privilege {
        Privilege::Root => ENOUGH,
        Privilege::UserNamespace => {
            getrlimit(Resource::Nofile).maximum.map_or(ENOUGH, |most| most.min(ENOUGH))
        }
    };
    raise(Resource::Nofile, least)
}

/// A detached copy of what is at `name` of a file system of our own.
fn clone_of(directory: BorrowedFd<'_>, name: &str) -> std::result::Result<BorrowedFd<'static>, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(directory, name, flags | OpenTreeFlags::AT_SYMLINK_NOFOLLOW).map(leak)
}

/// Mounts `what` on one name of a directory. A link there is not followed, and is no directory to mount one on.
fn attach_named(
    what: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    name: &[u8],
) -> std::result::Result<(), Errno> {
    move_mount(what, "", directory, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Mounts `what` over everything that this namespace has at its root so far.
pub(super) fn attach_to_root(what: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    move_mount(what, "", rustix::fs::CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

pub(super) fn attach_to(what: BorrowedFd<'_>, target: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(what, "", target, "", flags)
}

fn give(
    tmpfs: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
    blueprint: &Blueprint,
) -> std::result::Result<(), Errno> {
    if blueprint.privilege == Privilege::UserNamespace {
        // All files are the caller's already.
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(blueprint.uid), Gid::from_raw(blueprint.gid));
    chownat(tmpfs, name, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
}

fn tmpfs(size: &str, inodes: &str, extra: MountAttrFlags) -> std::result::Result<BorrowedFd<'static>, Errno> {
    let context = leak(fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?);
    fsconfig_set_string(context, "size", size)?;
    fsconfig_set_string(context, "nr_inodes", inodes)?;
    fsconfig_set_string(context, "mode", "0755")?;
    fsconfig_create(context)?;
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID | extra).map(leak)
}

fn devpts(tty_group: Option<u32>) -> std::result::Result<BorrowedFd<'static>, Errno> {
    let context = leak(fsopen("devpts", FsOpenFlags::FSOPEN_CLOEXEC)?);
    fsconfig_set_string(context, "ptmxmode", "0666")?;
    fsconfig_set_string(context, "mode", "0620")?;
    // The kernel's own bound is one for all instances together.
    fsconfig_set_string(context, "max", "256")?;
    if let Some(group) = tty_group {
        fsconfig_set_string(context, "gid", group.to_string())?;
    }
    fsconfig_create(context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map(leak)
}

/// A file to mount a device or a terminal on.
pub(crate) fn empty_file(directory: BorrowedFd<'_>, name: &str) -> std::result::Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(directory, name, flags, Mode::from_raw_mode(0o600), BELOW).map(drop)
}

/// Mounts `what` on the file `name` of `directory`.
pub(crate) fn attach_below(
    what: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    name: &str,
) -> std::result::Result<(), Errno> {
    let target =
        openat2(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), BELOW)?;
    attach_to(what, target.as_fd())
}

/// Removes the name of a terminal whose other end is gone (opening it says EIO). Says whether it was so.
pub(crate) fn remove_dead_terminal(dev: BorrowedFd<'_>, name: &str) -> bool {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if !matches!(openat2(dev, name, flags, Mode::empty(), BELOW), Err(Errno::IO)) {
        return false;
    }
    remove_mounted(dev, name)
}

/// Removes the name of a socket that was deleted outside. Says whether it was so.
pub(crate) fn remove_dead_socket(dev: BorrowedFd<'_>, name: &str) -> bool {
    let gone = rustix::fs::statat(dev, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| stat.st_nlink == 0);
    gone && remove_mounted(dev, name)
}

/// Only root writes to this /dev, so the name is the very thing that was looked at.
fn remove_mounted(dev: BorrowedFd<'_>, name: &str) -> bool {
    let path = format!("/dev/{name}");
    unmount(path.as_str(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok()
        && rustix::fs::unlinkat(dev, name, rustix::fs::AtFlags::empty()).is_ok()
}

/// Mounts an empty directory, which nobody can write to, over `place`.
pub(crate) fn cover(place: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    let empty = tmpfs("4K", "2", MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    attach_to(empty, place)
}
