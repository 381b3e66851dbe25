//! The list of a jail as a tar archive: the same list, byte for byte the same archive.
//!
//! Headers hold numbers and no names of users; what does not fit into one goes into a pax record, which every reader of
//! image layers knows.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use jail_provision::apply::Progress;
use jail_provision::error::{Error, Result};
use tar::{Builder, EntryType, Header};

use super::contents::{self, Content, Contents, Entry, Reader};

/// Files are read in pieces of this size.
const BUFFER: usize = 256 << 10;

/// Writes the archive; `name` is what errors call it.
///
/// # Errors
/// A file of the jail cannot be read or changes meanwhile, or the archive cannot be written.
pub(crate) fn write<W: Write>(
    contents: &Contents,
    reader: &Reader<'_>,
    out: W,
    name: &Path,
    progress: &mut dyn Progress,
) -> Result<W> {
    let mut archive = Archive { tar: Builder::new(out), reader, buffer: vec![0; BUFFER], name };
    for entry in &contents.entries {
        let size = archive.entry(entry)?;
        progress.step(&entry.path, size);
    }
    archive.tar.into_inner().map_err(|e| Error::io("write", name, e))
}

/// An archive being written.
struct Archive<'a, W: Write> {
    tar: Builder<W>,
    reader: &'a Reader<'a>,
    buffer: Vec<u8>,
    name: &'a Path,
}

impl<W: Write> Archive<'_, W> {
    /// Writes an entry; answers how many bytes of content it has.
    fn entry(&mut self, entry: &Entry) -> Result<u64> {
        let name = self.name;
        let failed = |e: io::Error| Error::io("write", name, e);
        let mut long = Long::default();
        let mut header = header(entry);
        let mut path = entry.path.as_os_str().as_bytes().to_vec();
        match &entry.what {
            Content::Directory => path.push(b'/'),
            Content::Symlink(target) | Content::HardLink(target) => {
                let target = target.as_os_str().as_bytes();
                put(&mut header.as_old_mut().linkname, target, "linkpath", &mut long);
            }
            Content::File { .. } => {}
        }
        put(&mut header.as_old_mut().name, &path, "path", &mut long);
        let Content::File { size } = entry.what else {
            long.write(&mut self.tar).map_err(failed)?;
            header.set_cksum();
            self.tar.get_mut().write_all(header.as_bytes()).map_err(failed)?;
            return Ok(0);
        };
        let file = self.reader.open(entry)?;
        if entry.capabilities {
            let value =
                contents::capabilities(file.as_fd()).map_err(|e| Error::io("read", &entry.path, e))?;
            long.0.extend(value.map(|value| ("SCHILY.xattr.security.capability", value)));
        }
        long.write(&mut self.tar).map_err(failed)?;
        header.set_size(size);
        header.set_cksum();
        self.tar.get_mut().write_all(header.as_bytes()).map_err(failed)?;
        self.content(entry, file, size)?;
        Ok(size)
    }

    /// A file as long as its header says. What the file has beyond that is not read: it was written since.
    fn content(&mut self, entry: &Entry, mut file: File, size: u64) -> Result<()> {
        let failed = |e: io::Error| Error::io("write", self.name, e);
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER);
            let got = match file.read(&mut self.buffer[..most]) {
                Ok(0) => return Err(self.reader.changed(entry)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(|e| Error::io("read", &entry.path, e))?,
            };
            self.tar.get_mut().write_all(&self.buffer[..got]).map_err(failed)?;
            left -= got as u64;
        }
        let padding = usize::try_from(size.wrapping_neg() % 512).unwrap_or(0);
        self.tar.get_mut().write_all(&[0; 512][..padding]).map_err(failed)
    }
}

fn header(entry: &Entry) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(match entry.what {
        Content::Directory => EntryType::Directory,
        Content::File { .. } => EntryType::Regular,
        Content::Symlink(_) => EntryType::Symlink,
        Content::HardLink(_) => EntryType::Link,
    });
    header.set_mode(entry.mode);
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_mtime(u64::try_from(entry.mtime).unwrap_or(0));
    header.set_size(0);
    header
}

/// What does not fit into a header.
#[derive(Default)]
struct Long(Vec<(&'static str, Vec<u8>)>);

impl Long {
    fn write<W: Write>(&self, tar: &mut Builder<W>) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        tar.append_pax_extensions(self.0.iter().map(|(key, value)| (*key, value.as_slice())))
    }
}

/// Puts text into a field, byte for byte; cut short there if it is too long, and whole in a pax record.
fn put(field: &mut [u8; 100], text: &[u8], key: &'static str, long: &mut Long) {
    let fits = text.len().min(field.len());
    field[..fits].copy_from_slice(&text[..fits]);
    if text.len() > field.len() {
        long.0.push((key, text.to_vec()));
    }
}
