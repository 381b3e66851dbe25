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

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};

use crate::Result;
use crate::erofs::{Body, Inode, write as write_image};
use crate::files::{Shelf, write};

/// The name of the image in its directory.
pub const IMAGE: &str = "root.img";

/// A chosen part of a jail, as it was looked at.
struct Tree {
    inodes: Vec<Inode>,
    /// Of each inode: where it is, below the jail.
    paths: Vec<PathBuf>,
    /// What the state was, for the name of the image.
    state: Vec<u8>,
    owner: u32,
}

/// The directory that holds the image of a jail.
///
/// # Errors
/// A tree that cannot be read, or an image that cannot be written.
pub fn directory(cache: &Path, jail: &OwnedFd, path: &Path) -> Result<PathBuf> {
    let fail =
        |at: &Path, errno: rustix::io::Errno| format!("cannot read '{}': {errno}", path.join(at).display());
    let stat = rustix::fs::fstat(jail).map_err(|errno| fail(Path::new(""), errno))?;
    let mut tree = Tree { inodes: Vec::new(), paths: Vec::new(), state: Vec::new(), owner: stat.st_uid };
    tree.state.extend_from_slice(path.as_os_str().as_bytes());
    tree.add(&stat, Path::new(""), 0, Body::Directory(Vec::new()));
    tree.walk(jail, 0).map_err(|(at, errno)| fail(&at, errno))?;
    Shelf { cache, kind: "tree" }.get(&tree.state, |dir| {
        write(&dir.join(IMAGE), |out| {
            write_image(out, &tree.inodes, |index| {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
                let fd = rustix::fs::openat2(jail, &tree.paths[index], flags, Mode::empty(), resolve)?;
                let mode = rustix::fs::fstat(&fd)?.st_mode;
                if FileType::from_raw_mode(mode) != FileType::RegularFile || mode & 0o004 == 0 {
                    return Err(std::io::Error::other("a file of the jail was replaced meanwhile"));
                }
                Ok(File::from(fd))
            })
        })
    })
}

type Failed = (PathBuf, rustix::io::Errno);

impl Tree {
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
