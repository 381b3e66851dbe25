//! The list of a jail as a cpio archive in the form the kernel reads as initramfs (`newc`).
//!
//! The kernel gives the first program its terminal by `/dev/console` of this very archive, and the jail has no device
//! nodes; so the archive gets that one node. Boot it with `rdinit=/bin/sh`, or any program of the jail.

use std::io::{self, BufWriter, Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use jail_provision::apply::Progress;
use jail_provision::error::{Error, Result};

use super::contents::{Content, Contents, Entry, Reader};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// The format counts in 32 bits.
const MOST: u64 = u32::MAX as u64;

/// Writes the archive; `name` is what errors call it.
///
/// # Errors
/// A file of the jail cannot be read or is too big for the format, or the archive cannot be written.
pub(crate) fn write<W: Write>(
    contents: &Contents,
    reader: &Reader<'_>,
    out: W,
    name: &Path,
    progress: &mut dyn Progress,
) -> Result<W> {
    let failed = |e: io::Error| Error::io("write", name, e);
    let mut cpio = Cpio { out: BufWriter::with_capacity(256 << 10, out), at: 0, inode: 0 };
    let mut console = Some(());
    for entry in &contents.entries {
        // Sorted: what lies in /dev comes right after it.
        if console.is_some() && entry.path > Path::new("dev/console") {
            console = None;
            cpio.console(!contents.entries.iter().any(|e| e.path == Path::new("dev"))).map_err(failed)?;
        }
        let size = cpio.entry(entry, reader, name)?;
        progress.step(&entry.path, size);
    }
    if console.is_some() {
        cpio.console(true).map_err(failed)?;
    }
    cpio.head(b"TRAILER!!!", Head { links: 1, ..Head::default() }).map_err(failed)?;
    cpio.out.into_inner().map_err(|e| failed(e.into_error()))
}

struct Cpio<W: Write> {
    out: BufWriter<W>,
    at: u64,
    inode: u32,
}

#[derive(Default)]
struct Head {
    mode: u32,
    uid: u32,
    gid: u32,
    links: u32,
    mtime: u32,
    size: u32,
    device: (u32, u32),
}

impl<W: Write> Cpio<W> {
    fn entry(&mut self, entry: &Entry, reader: &Reader<'_>, name: &Path) -> Result<u64> {
        let failed = |e: io::Error| Error::io("write", name, e);
        let mtime = u32::try_from(entry.mtime).unwrap_or(0);
        let head = Head { uid: entry.uid, gid: entry.gid, links: 1, mtime, ..Head::default() };
        let path = entry.path.as_os_str().as_bytes();
        match &entry.what {
            Content::Directory => {
                let head = Head { mode: DIRECTORY | entry.mode, links: 2, ..head };
                self.head(path, head).map_err(failed)?;
            }
            Content::Symlink(target) => {
                let target = target.as_os_str().as_bytes();
                let size = u32::try_from(target.len()).unwrap_or(u32::MAX);
                self.head(path, Head { mode: LINK | 0o777, size, ..head }).map_err(failed)?;
                self.content(target).and_then(|()| self.pad()).map_err(failed)?;
            }
            // A link's content would have to come with its last name; a second copy is read by every unpacker.
            Content::File { .. } | Content::HardLink(_) => return self.file(entry, head, reader, name),
        }
        Ok(0)
    }

    fn file(&mut self, entry: &Entry, head: Head, reader: &Reader<'_>, name: &Path) -> Result<u64> {
        let failed = |e: io::Error| Error::io("write", name, e);
        let size = entry.stamp.1;
        if size > MOST {
            let path = jail_provision::text::quote(&entry.path);
            return Err(Error::failed(format!("{path} has {size} bytes, more than cpio's format can count"))
                .hint("use --tar"));
        }
        let file = reader.open(entry)?;
        let size = size as u32;
        self.head(entry.path.as_os_str().as_bytes(), Head { mode: FILE | entry.mode, size, ..head })
            .map_err(failed)?;
        let mut buffer = vec![0; 256 << 10];
        let mut left = file.take(size.into());
        loop {
            match left.read(&mut buffer).map_err(|e| Error::io("read", &entry.path, e))? {
                0 if left.limit() > 0 => return Err(reader.changed(entry)),
                0 => break,
                got => self.content(&buffer[..got]).map_err(failed)?,
            }
        }
        self.pad().map_err(failed)?;
        Ok(size.into())
    }

    fn console(&mut self, with_directory: bool) -> io::Result<()> {
        if with_directory {
            self.head(b"dev", Head { mode: DIRECTORY | 0o755, links: 2, ..Head::default() })?;
        }
        let head = Head { mode: CHARACTER | 0o600, links: 1, device: (5, 1), ..Head::default() };
        self.head(b"dev/console", head)
    }

    fn head(&mut self, path: &[u8], head: Head) -> io::Result<()> {
        self.inode += 1;
        let name_length = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        let Head { mode, uid, gid, links, mtime, size, device } = head;
        let numbers =
            [self.inode, mode, uid, gid, links, mtime, size, 0, 0, device.0, device.1, name_length, 0];
        let mut bytes = b"070701".to_vec();
        for number in numbers {
            write!(bytes, "{number:08X}")?;
        }
        bytes.extend_from_slice(path);
        bytes.push(0);
        self.content(&bytes)?;
        self.pad()
    }

    fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Everything begins at a multiple of four.
    fn pad(&mut self) -> io::Result<()> {
        let missing = usize::try_from(self.at.wrapping_neg() % 4).unwrap_or(0);
        self.content(&[0; 3][..missing])
    }
}
