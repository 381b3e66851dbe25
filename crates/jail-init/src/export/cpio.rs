//! The list of a jail as a cpio archive in the form the kernel reads as initramfs (`newc`).
//!
//! The kernel gives the first program its terminal by `/dev/console` of this very archive, and the jail has no device
//! nodes; so the archive gets that one node. Boot it with `rdinit=/bin/sh`, or any program of the jail.

use std::io::{self, BufWriter, Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use jail_provision::apply::Progress;
use jail_provision::error::{Error, Result};
use jail_provision::newc::{CHARACTER, DIRECTORY, FILE, Head, LINK, Newc};

use super::contents::{Content, Contents, Entry, Reader};

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
    let mut cpio = Cpio { out: Newc::new(BufWriter::with_capacity(256 << 10, out)) };
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
    let out = cpio.out.finish().map_err(failed)?;
    out.into_inner().map_err(|e| failed(e.into_error()))
}

struct Cpio<W: Write> {
    out: Newc<BufWriter<W>>,
}

impl<W: Write> Cpio<W> {
    fn entry(&mut self, entry: &Entry, reader: &Reader<'_>, name: &Path) -> Result<u64> {
        let failed = |e: io::Error| Error::io("write", name, e);
        let mtime = u32::try_from(entry.mtime).unwrap_or(0);
        let head = Head { uid: entry.uid, gid: entry.gid, mtime, ..Head::default() };
        let path = entry.path.as_os_str().as_bytes();
        match &entry.what {
            Content::Directory => {
                let head = Head { mode: DIRECTORY | entry.mode, links: 2, ..head };
                self.out.head(path, head).map_err(failed)?;
            }
            Content::Symlink(target) => {
                let target = target.as_os_str().as_bytes();
                self.out.record(path, Head { mode: LINK | 0o777, ..head }, target).map_err(failed)?;
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
        self.out
            .head(entry.path.as_os_str().as_bytes(), Head { mode: FILE | entry.mode, size, ..head })
            .map_err(failed)?;
        let mut buffer = vec![0; 256 << 10];
        let mut left = file.take(size.into());
        loop {
            match left.read(&mut buffer).map_err(|e| Error::io("read", &entry.path, e))? {
                0 if left.limit() > 0 => return Err(reader.changed(entry)),
                0 => break,
                got => self.out.content(&buffer[..got]).map_err(failed)?,
            }
        }
        self.out.pad().map_err(failed)?;
        Ok(size.into())
    }

    fn console(&mut self, with_directory: bool) -> io::Result<()> {
        if with_directory {
            self.out.head(b"dev", Head { mode: DIRECTORY | 0o755, links: 2, ..Head::default() })?;
        }
        let head = Head { mode: CHARACTER | 0o600, device: (5, 1), ..Head::default() };
        self.out.head(b"dev/console", head)
    }
}
