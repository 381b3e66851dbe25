//! The machine before and around the session: mounts, drivers, the port, the clock, the end.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_move};

use crate::Result;

/// Where the jail's tree is mounted.
pub(crate) const JAIL: &str = "/jail";
/// The jail with what earlier runs changed.
pub(crate) const CHANGED: &str = "/changed";
/// Where the home of a machine that is kept lies on its disk.
pub(crate) const KEPT_HOME: &str = "/kept/home";
/// The drivers, in the order in which they are to be loaded, one file name a line.
const MODULES: &str = "/modules/order";
/// How long a device may take to appear: an emulated machine on a busy host is slow.
const PATIENCE_MILLISECONDS: u64 = 20_000;

/// Makes a root that a cell can be made in, and loads the drivers.
///
/// The initramfs is no such root: pivot_root(2) refuses to leave it. So a tmpfs is moved over it, as switch_root does.
pub(crate) fn start() -> Result<()> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        directory(target)?;
        put(kind, target, MountFlags::NOSUID)?;
    }
    load_drivers()?;
    directory("/new")?;
    put("tmpfs", "/new", MountFlags::NOSUID | MountFlags::NODEV)?;
    for name in ["proc", "sys", "dev", "run", "jail", "home", "kept"] {
        directory(&format!("/new/{name}"))?;
    }
    for name in ["proc", "sys", "dev"] {
        mount_move(format!("/{name}"), format!("/new/{name}"))
            .map_err(|errno| format!("cannot move /{name}: {errno}"))?;
    }
    let doing = |errno| format!("cannot change into the new root: {errno}");
    rustix::process::chdir("/new").map_err(doing)?;
    mount_move(".", "/").map_err(doing)?;
    rustix::process::chroot(".").map_err(doing)?;
    directory("/dev/pts")?;
    put("devpts", "/dev/pts", MountFlags::NOSUID | MountFlags::NOEXEC)?;
    jail_sys::process::block_all_signals(true).map_err(|errno| format!("cannot block signals: {errno}"))
}

/// Makes a directory, if it is not there.
pub(crate) fn directory(path: &str) -> Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(format!("cannot make {path}: {errno}")),
    }
}

fn put(kind: &str, target: &str, flags: MountFlags) -> Result<()> {
    mount(kind, target, kind, flags, None)
        .map_err(|errno| format!("cannot mount {kind} on {target}: {errno}"))
}

fn load_drivers() -> Result<()> {
    let order =
        std::fs::read_to_string(MODULES).map_err(|error| format!("cannot read {MODULES}: {error}"))?;
    for name in order.lines() {
        let path = Path::new("/modules").join(name);
        let doing = |errno| format!("cannot load the driver {name}: {errno}");
        let file = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(doing)?;
        // The kernel unpacks a packed one itself (Linux 5.17).
        let flags = if name.ends_with(".ko") { 0 } else { 4 };
        match rustix::system::finit_module(&file, c"", flags) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(doing(errno)),
        }
    }
    Ok(())
}

/// Waits for the port of a name and opens it.
pub(crate) fn open_port(wanted: &str) -> Result<OwnedFd> {
    let name = patiently(|| {
        let ports = std::fs::read_dir("/sys/class/virtio-ports").ok()?;
        ports.flatten().find_map(|port| {
            let name = std::fs::read_to_string(port.path().join("name")).ok()?;
            (name.trim_end() == wanted).then(|| port.file_name())
        })
    })
    .ok_or_else(|| format!("there is no virtio port named {wanted}"))?;
    let path = Path::new("/dev").join(name);
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::empty())
        .map_err(|errno| format!("cannot open {}: {errno}", path.display()))
}

/// Tries until it is there: devices appear when they do.
pub(crate) fn patiently<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..PATIENCE_MILLISECONDS {
        if let Some(found) = attempt() {
            return Some(found);
        }
        jail_sys::process::sleep_milliseconds(1);
    }
    None
}

/// The jail's tree, read-only: the image is shared by every machine of this jail.
pub(crate) fn mount_jail() -> Result<()> {
    mount(disk("root")?, JAIL, "erofs", MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, None)
        .map_err(|errno| format!("cannot mount the jail's image: {errno}"))
}

/// The disk with this serial number: names are given in the order of finding.
fn disk(serial: &str) -> Result<PathBuf> {
    let name = patiently(|| {
        let disks = std::fs::read_dir("/sys/block").ok()?;
        disks.flatten().map(|disk| disk.file_name()).find(|name| {
            let path = Path::new("/sys/block").join(name).join("serial");
            std::fs::read_to_string(path).is_ok_and(|text| text.trim_end() == serial)
        })
    });
    name.map(|name| Path::new("/dev").join(name)).ok_or_else(|| format!("there is no disk '{serial}'"))
}

/// The machine's own disk, and the jail below what was changed in earlier runs. The home is on it as well.
pub(crate) fn mount_kept(uid: u32, gid: u32) -> Result<()> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    mount(disk("disk")?, "/kept", "ext4", plain, None)
        .map_err(|errno| format!("cannot mount the machine's own disk: {errno}"))?;
    for name in ["/kept/changes", "/kept/work", KEPT_HOME] {
        directory(name)?;
    }
    let doing = |errno| format!("cannot make changes to the jail possible: {errno}");
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    rustix::fs::chown(KEPT_HOME, Some(uid), Some(gid)).map_err(doing)?;
    let options = c"lowerdir=/jail,upperdir=/kept/changes,workdir=/kept/work";
    directory(CHANGED)?;
    mount("changes", CHANGED, "overlay", plain, Some(options)).map_err(doing)?;
    directory(&format!("{CHANGED}{}", jail_wire::KEPT_HOME))
}

/// A directory of the machine's, such as the jail.
pub(crate) fn open(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|errno| format!("cannot open {path}: {errno}"))
}

/// A machine of this kind has no clock; the host's is right enough.
pub(crate) fn set_clock(nanoseconds: u64) {
    let seconds = nanoseconds / 1_000_000_000;
    let time = rustix::time::Timespec {
        tv_sec: i64::try_from(seconds).unwrap_or(0),
        tv_nsec: i64::try_from(nanoseconds % 1_000_000_000).unwrap_or(0),
    };
    if rustix::time::clock_settime(rustix::time::ClockId::Realtime, time).is_err() {
        // Files then have odd dates; nothing depends on them.
    }
}

/// What was written reaches the disks.
pub(crate) fn settle() {
    rustix::fs::sync();
}

/// The end of the machine.
pub(crate) fn power_off() -> ! {
    loop {
        // QEMU is told not to start again.
        if rustix::system::reboot(rustix::system::RebootCommand::Restart).is_err() {
            // Ending the first process makes the kernel panic, which ends the machine as well.
            std::process::exit(1);
        }
    }
}
