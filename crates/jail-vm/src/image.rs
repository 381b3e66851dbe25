//! The jail's tree as an image: made once a state of the tree, shared by every machine and every user of the jail.
//!
//! Being shared, it holds only what every one of them may read anyway: a directory that belongs to somebody else than the
//! jail (a home) is there but empty, as is one that everybody may write (/tmp): who writes there would say what root reads
//! here, and how much of it. A file that not everybody may read is left out. set-uid and set-gid are taken off,
//! devices, sockets and pipes are left out: the cell inside brings its own /dev and honours no such bits.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, readlinkat, statat,
};
use rustix::io::Errno;

use crate::Result;
use crate::erofs::{Body, Inode, write as write_image};
use crate::files::{Shelf, write};

/// The name of the image in its directory.
pub const IMAGE: &str = "root.img";

/// How often a tree that changes while it is looked at or read is begun anew (jail-update may be at work).
const ATTEMPTS: usize = 4;

/// A chosen part of a jail, as it was looked at.
struct Tree {
    inodes: Vec<Inode>,
    /// Of each inode: where it is, below the jail.
    paths: Vec<PathBuf>,
    /// Of each inode: which file that was.
    identities: Vec<Identity>,
    /// What the state was, for the name of the image.
    state: Vec<u8>,
    owner: u32,
}

/// What a name must still lead to when it is opened after it was looked at: the same file, as open to others as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    mode: u32,
    owner: u32,
}

impl Identity {
    const fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino, mode: stat.st_mode, owner: stat.st_uid }
    }
}

/// The directory that holds the image of a jail.
///
/// # Errors
/// A tree that cannot be read or does not come to rest, or an image that cannot be written.
pub fn directory(cache: &Path, jail: &OwnedFd, path: &Path) -> Result<PathBuf> {
    let mut tree = Tree::at_rest(jail, path)?;
    for _ in 1..ATTEMPTS {
        let made = tree.image(cache, jail);
        if made.is_ok() {
            return made;
        }
        let now = Tree::at_rest(jail, path)?;
        if now.state == tree.state {
            return made;
        }
        tree = now;
    }
    tree.image(cache, jail)
}

/// Where, and why.
type Failed = (PathBuf, Errno);

impl Tree {
    /// The tree of a jail; one that changes under the look is looked at again.
    fn at_rest(jail: &OwnedFd, path: &Path) -> Result<Self> {
        let mut looked = Self::of(jail, path);
        for _ in 1..ATTEMPTS {
            match looked {
                Err((_, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE)) => {}
                _ => break,
            }
            looked = Self::of(jail, path);
        }
        looked.map_err(|(at, errno)| {
            let why = if errno == Errno::STALE {
                "it was replaced meanwhile".to_owned()
            } else {
                errno.to_string()
            };
            format!("cannot read '{}': {why}", path.join(at).display())
        })
    }

    fn of(jail: &OwnedFd, path: &Path) -> std::result::Result<Self, Failed> {
        let stat = fstat(jail).map_err(|errno| (PathBuf::new(), errno))?;
        let mut tree = Self {
            inodes: Vec::new(),
            paths: Vec::new(),
            identities: Vec::new(),
            state: path.as_os_str().as_bytes().to_vec(),
            owner: stat.st_uid,
        };
        tree.add(&stat, Path::new(""), 0, Body::Directory(Vec::new()));
        tree.walk(jail, 0)?;
        Ok(tree)
    }

    /// The directory of the image, which is made if it is not there.
    fn image(&self, cache: &Path, jail: &OwnedFd) -> Result<PathBuf> {
        Shelf { cache, kind: "tree" }.get(&self.state, |dir| {
            write(&dir.join(IMAGE), |out| write_image(out, &self.inodes, |index| self.open(jail, index)))
        })
    }

    /// The content of a file that was looked at. Whoever may rename in a directory of the jail (a group may) could have put
    /// another in its place, or have a directory on the way changed for one that only root looks into.
    fn open(&self, jail: &OwnedFd, index: usize) -> std::io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let fd = openat2(jail, &self.paths[index], flags, Mode::empty(), resolve)?;
        if Identity::of(&fstat(&fd)?) != self.identities[index] {
            return Err(std::io::Error::other(format!(
                "'{}' in the jail was replaced meanwhile",
                self.paths[index].display()
            )));
        }
        Ok(File::from(fd))
    }

    fn walk(&mut self, dir: impl AsFd, index: usize) -> std::result::Result<(), Failed> {
        let at = self.paths[index].clone();
        let mut names = Vec::new();
        for entry in Dir::read_from(&dir).map_err(|errno| (at.clone(), errno))? {
            let entry = entry.map_err(|errno| (at.clone(), errno))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        let mut children = Vec::new();
        for name in names {
            let path = at.join(OsStr::from_bytes(&name));
            let failed = |errno| (path.clone(), errno);
            let stat = statat(&dir, OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            let body = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Body::Directory(Vec::new()),
                FileType::Symlink => {
                    let to = readlinkat(&dir, OsStr::from_bytes(&name), Vec::new()).map_err(failed)?;
                    Body::Link(to.into_bytes())
                }
                FileType::RegularFile if stat.st_mode & 0o004 != 0 => {
                    Body::File(u64::try_from(stat.st_size).unwrap_or(0))
                }
                _ => continue,
            };
            let descends = matches!(body, Body::Directory(_))
                && stat.st_uid == self.owner
                && stat.st_mode & 0o007 == 0o005;
            let child = self.add(&stat, &path, index, body);
            children.push((name.clone(), child));
            if descends {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = openat(&dir, OsStr::from_bytes(&name), flags, Mode::empty()).map_err(failed)?;
                if Identity::of(&fstat(&below).map_err(failed)?) != Identity::of(&stat) {
                    return Err(failed(Errno::STALE));
                }
                self.walk(&below, child)?;
            }
        }
        self.inodes[index].body = Body::Directory(children);
        Ok(())
    }

    fn add(&mut self, stat: &Stat, path: &Path, parent: usize, body: Body) -> usize {
        let numbers = [
            stat.st_dev,
            stat.st_ino,
            u64::from(stat.st_mode),
            u64::from(stat.st_uid),
            u64::from(stat.st_gid),
            stat.st_size as u64,
            stat.st_mtime as u64,
            stat.st_mtime_nsec,
        ];
        self.state.push(0);
        self.state.extend_from_slice(path.as_os_str().as_bytes());
        // A directory's own size and times say nothing about what is chosen from it, and change when a home is written.
        let counted = if matches!(body, Body::Directory(_)) { 5 } else { numbers.len() };
        numbers[..counted].iter().for_each(|number| self.state.extend_from_slice(&number.to_le_bytes()));
        if let (Body::File(_), ctime) = (&body, [stat.st_ctime as u64, stat.st_ctime_nsec]) {
            // Nobody can set this one back.
            ctime.iter().for_each(|number| self.state.extend_from_slice(&number.to_le_bytes()));
        }
        self.inodes.push(Inode {
            mode: (stat.st_mode & 0o1777) as u16,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stat.st_mtime as u64,
            body,
            parent,
        });
        self.paths.push(path.to_owned());
        self.identities.push(Identity::of(stat));
        self.inodes.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn jail() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("scratch");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("bin")).expect("made");
        std::fs::set_permissions(at("bin"), std::fs::Permissions::from_mode(0o755)).expect("chmod");
        std::fs::write(at("bin/tool"), vec![7; 10_000]).expect("written");
        std::fs::write(at("secret"), "s").expect("written");
        std::fs::set_permissions(at("secret"), std::fs::Permissions::from_mode(0o600)).expect("chmod");
        symlink("bin/tool", at("link")).expect("linked");
        for number in 0..300 {
            std::fs::write(at(&format!("bin/a-rather-long-name-of-a-file-{number:04}")), "")
                .expect("written");
        }
        dir
    }

    fn open(dir: &Path) -> OwnedFd {
        rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("opened")
    }

    #[test]
    fn the_image_is_kept_until_the_tree_changes() {
        let (jail, cache) = (jail(), tempfile::tempdir().expect("scratch"));
        let make = || directory(cache.path(), &open(jail.path()), jail.path()).expect("made");
        let first = make();
        assert_eq!(make(), first);
        std::fs::write(jail.path().join("bin/tool"), vec![8; 10_000]).expect("written");
        let second = make();
        assert_ne!(second, first);
        let bytes = std::fs::read(second.join(IMAGE)).expect("there");
        assert_eq!(&bytes[1024..1028], &0xE0F5_E1E2_u32.to_le_bytes());
        assert_eq!(bytes.len() % 4096, 0);
        assert!(!bytes.windows(6).any(|part| part == b"secret"), "what not everybody may read is not in it");
    }

    #[test]
    fn what_everybody_may_write_is_empty_and_changes_no_image() {
        let (jail, cache) = (jail(), tempfile::tempdir().expect("scratch"));
        let tmp = jail.path().join("tmp");
        std::fs::create_dir(&tmp).expect("made");
        std::fs::set_permissions(&tmp, std::fs::Permissions::from_mode(0o1777)).expect("chmod");
        let make = || directory(cache.path(), &open(jail.path()), jail.path()).expect("made");
        let first = make();
        std::fs::write(tmp.join("planted"), "PLANTED").expect("written");
        assert_eq!(make(), first);
        let bytes = std::fs::read(first.join(IMAGE)).expect("there");
        assert!(
            bytes.windows(3).any(|part| part == b"tmp") && !bytes.windows(7).any(|part| part == b"PLANTED")
        );
    }

    /// Exchanges two names, as whoever may write in their directory can.
    fn exchange(one: &Path, other: &Path) {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(rustix::fs::CWD, one, rustix::fs::CWD, other, flags).expect("exchanged");
    }

    /// Modelled on CVE-2018-15664: between the look and the copying another file takes the place, one that only root may read or
    /// one that only a directory keeps from others.
    #[test]
    fn what_took_a_files_place_is_not_in_the_image() {
        let (jail, cache) = (jail(), tempfile::tempdir().expect("scratch"));
        let at = |name: &str| jail.path().join(name);
        std::fs::create_dir(at("shut")).expect("made");
        std::fs::set_permissions(at("shut"), std::fs::Permissions::from_mode(0o700)).expect("chmod");
        std::fs::write(at("shut/tool"), vec![9; 10_000]).expect("written");
        std::fs::write(at("open"), "o").expect("written");
        let fd = open(jail.path());
        for (one, other) in [("bin", "shut"), ("open", "secret"), ("bin/tool", "shut/tool"), ("open", "link")]
        {
            let tree = Tree::of(&fd, jail.path())
                .map_err(|(at, errno)| format!("{at:?} {errno}"))
                .expect("looked at");
            exchange(&at(one), &at(other));
            let made = tree.image(cache.path(), &fd);
            exchange(&at(one), &at(other));
            let why = made.expect_err(one);
            let said = ["replaced", "symbolic links", "No such file"].iter().any(|word| why.contains(word));
            assert!(said, "{why}");
        }
        // With that over, an image is made as ever.
        directory(cache.path(), &fd, jail.path()).expect("made");
    }

    /// The same without a rest, as an attacker does it: no image that comes about has what was shut away.
    #[test]
    fn directories_that_change_places_without_end() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let (jail, cache) = (jail(), tempfile::tempdir().expect("scratch"));
        let at = |name: &str| jail.path().join(name);
        std::fs::create_dir(at("shut")).expect("made");
        std::fs::write(at("shut/tool"), vec![9; 10_000]).expect("written");
        std::fs::set_permissions(at("shut"), std::fs::Permissions::from_mode(0o700)).expect("chmod");
        let (fd, done) = (open(jail.path()), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    exchange(&at("bin"), &at("shut"));
                }
            });
            for _ in 0..200 {
                let Ok(made) = directory(cache.path(), &fd, jail.path()) else { continue };
                let bytes = std::fs::read(made.join(IMAGE)).expect("there");
                if bytes.windows(64).any(|part| part == [9; 64]) {
                    done.store(true, Ordering::Relaxed);
                    panic!("the image has what only root may read");
                }
                std::fs::remove_dir_all(made).expect("removed");
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    /// The kernel is the judge, where it knows the file system and we may mount.
    #[test]
    fn the_kernel_reads_what_the_jail_has() {
        let (jail, cache) = (jail(), tempfile::tempdir().expect("scratch"));
        let image = directory(cache.path(), &open(jail.path()), jail.path()).expect("made").join(IMAGE);
        let script = "mount -t erofs -o ro,loop \"$1\" /mnt && diff -r --no-dereference \"$2\" /mnt";
        if !rustix::process::geteuid().is_root() || !kernel_knows_erofs() {
            eprintln!("skipped: mounting an erofs image needs root and a kernel that has it");
            return;
        }
        let out = std::process::Command::new("unshare")
            .args(["-m", "sh", "-c", script, "sh"])
            .arg(&image)
            .arg(jail.path())
            .output()
            .expect("run");
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        let differences: Vec<&str> = said.lines().collect();
        assert_eq!(differences.len(), 1, "{said}");
        assert!(differences[0].contains("secret"), "only the secret is missing: {said}");
    }

    fn kernel_knows_erofs() -> bool {
        std::fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("erofs"))
    }
}
