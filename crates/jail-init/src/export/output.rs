//! A file that appears under its name only when it is whole.
//!
//! It is written without a name where the file system can do that (`O_TMPFILE`), so that not even `kill -9` leaves anything,
//! else under a temporary one. A full disk, an error or a kill leaves what was there before.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use jail_provision::error::{Error, Result};
use rustix::fs::{self, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// The disk is told to begin whenever as much was written, so that it works while we do and not only when we wait for it.
const WORTH_AN_EARLY_START: usize = 8 << 20;

/// A file being written.
#[derive(Debug)]
pub(crate) struct Output {
    file: File,
    path: PathBuf,
    place: Place,
    /// Bytes that the disk was not told of.
    untold: usize,
}

#[derive(Debug)]
enum Place {
    /// Standard output: nothing to put in place.
    Stream,
    Named {
        directory: OwnedFd,
        name: OsString,
        temporary: Option<OsString>,
    },
}

/// `-` stands for standard output.
pub(crate) fn is_stream(path: &Path) -> bool {
    path == Path::new("-")
}

impl Output {
    /// Begins a file; `-` is standard output.
    ///
    /// # Errors
    /// Nothing can be made in its directory.
    pub(crate) fn create(path: &Path, mode: u32) -> Result<Self> {
        if is_stream(path) {
            let copy = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3);
            let file = copy.map_err(|e| Error::io("write to", Path::new("standard output"), e))?;
            return Ok(Self { file: file.into(), path: path.to_path_buf(), place: Place::Stream, untold: 0 });
        }
        let failed = |e: Errno| Error::io("write", path, e);
        let Some(name) = path.file_name() else { return Err(failed(Errno::ISDIR)) };
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = fs::open(parent, flags, Mode::empty()).map_err(|e| Error::io("open", parent, e))?;
        if fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::Directory)
        {
            return Err(failed(Errno::ISDIR));
        }
        let (file, temporary) = open_nameless(&directory, name, mode).map_err(failed)?;
        let place = Place::Named { directory, name: name.to_os_string(), temporary };
        Ok(Self { file: file.into(), path: path.to_path_buf(), place, untold: 0 })
    }

    /// Has the disk begin with what was written until now: for whoever has something else to wait for.
    pub(crate) fn begin_writing(&mut self) {
        self.untold = 0;
        if matches!(self.place, Place::Named { .. }) {
            // Only a hint; whether all of it is on the disk is asked at the end.
            jail_sys::disk::begin_writing(self.file.as_fd()).unwrap_or_default();
        }
    }

    /// Puts it in place; what had the name before is gone.
    ///
    /// # Errors
    /// It cannot be written to disk, or not be renamed.
    pub(crate) fn commit(mut self) -> Result<()> {
        let path = std::mem::take(&mut self.path);
        self.put(None).map_err(|e| Error::io("write", &path, e))
    }

    /// Puts it in place under another name of the same directory.
    ///
    /// # Errors
    /// As [`Output::commit`].
    pub(crate) fn commit_as(mut self, name: &OsStr) -> Result<()> {
        let path = self.path.with_file_name(name);
        self.put(Some(name)).map_err(|e| Error::io("write", &path, e))
    }

    fn put(&mut self, other: Option<&OsStr>) -> std::result::Result<(), Errno> {
        let Place::Named { directory, name, temporary } = &mut self.place else { return Ok(()) };
        // What the name stands for must be on the disk before the name is, or a power cut leaves half an archive.
        fs::fdatasync(&self.file)?;
        let hidden = match temporary {
            Some(hidden) => hidden.clone(),
            None => {
                let hidden = hidden_name(name);
                unlink_if_there(directory, &hidden)?;
                let by_descriptor = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                fs::linkat(CWD, by_descriptor, &*directory, &hidden, AtFlags::SYMLINK_FOLLOW)?;
                *temporary = Some(hidden.clone());
                hidden
            }
        };
        fs::renameat(&*directory, &hidden, &*directory, other.unwrap_or(name))?;
        *temporary = None;
        Ok(())
    }
}

fn open_nameless(
    directory: &OwnedFd,
    name: &OsStr,
    mode: u32,
) -> std::result::Result<(OwnedFd, Option<OsString>), Errno> {
    let mode = Mode::from_raw_mode(mode);
    match fs::openat(directory, ".", OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC, mode) {
        Ok(file) => return Ok((file, None)),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    let hidden = hidden_name(name);
    unlink_if_there(directory, &hidden)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok((fs::openat(directory, &hidden, flags, mode)?, Some(hidden)))
}

/// Of this process's own, so that two exports to one name do not meet.
fn hidden_name(name: &OsStr) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".jailwright-{}", std::process::id()));
    hidden
}

fn unlink_if_there(directory: &OwnedFd, name: &OsStr) -> std::result::Result<(), Errno> {
    match fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Place::Named { directory, temporary: Some(hidden), .. } = &self.place {
            // Best effort: the error that brought us here is what gets told.
            unlink_if_there(directory, hidden).unwrap_or_default();
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.untold += written;
        if self.untold >= WORTH_AN_EARLY_START {
            self.begin_writing();
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Output {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<OsString> {
        std::fs::read_dir(dir).expect("listed").map(|entry| entry.expect("entry").file_name()).collect()
    }

    #[test]
    fn only_a_whole_file_gets_the_name() {
        let dir = tempfile::tempdir().expect("scratch");
        let path = dir.path().join("x.tar");
        std::fs::write(&path, "old").expect("written");
        let mut half = Output::create(&path, 0o644).expect("begun");
        half.write_all(b"ne").expect("written");
        drop(half);
        assert_eq!(std::fs::read(&path).expect("read"), b"old");
        let mut whole = Output::create(&path, 0o644).expect("begun");
        whole.write_all(b"new").expect("written");
        whole.commit().expect("put in place");
        assert_eq!(std::fs::read(&path).expect("read"), b"new");
        assert_eq!(names(dir.path()), ["x.tar"], "nothing else is left");
    }

    #[test]
    fn a_directory_is_no_file() {
        let dir = tempfile::tempdir().expect("scratch");
        std::fs::create_dir(dir.path().join("d")).expect("made");
        let error = Output::create(&dir.path().join("d"), 0o644).expect_err("refused");
        assert!(error.message.contains("is a directory"), "{error}");
    }
}
