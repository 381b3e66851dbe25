//! The list of a jail as a tar archive: the same list, byte for byte the same archive.
//!
//! Headers hold numbers and no names of users; what does not fit into one goes into a pax record, which every reader of
//! image layers knows.

use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use jail_provision::apply::Progress;
use jail_provision::error::{Error, Result};
use tar::{Builder, EntryType, Header};

use super::contents::{self, Content, Contents, Entry, Reader};

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
    let mut tar = Builder::new(out);
    for entry in &contents.entries {
        let size = one(entry, reader, &mut tar, name)?;
        progress.step(&entry.path, size);
    }
    tar.into_inner().map_err(|e| Error::io("write", name, e))
}

fn one<W: Write>(entry: &Entry, reader: &Reader<'_>, tar: &mut Builder<W>, name: &Path) -> Result<u64> {
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
        long.write(tar).map_err(failed)?;
        header.set_cksum();
        tar.append(&header, io::empty()).map_err(failed)?;
        return Ok(0);
    };
    let file = reader.open(entry)?;
    if entry.capabilities {
        let value = contents::capabilities(file.as_fd()).map_err(|e| Error::io("read", &entry.path, e))?;
        long.0.extend(value.map(|value| ("SCHILY.xattr.security.capability", value)));
    }
    long.write(tar).map_err(failed)?;
    header.set_size(size);
    header.set_cksum();
    let mut content = Exactly { file, left: size, fault: None };
    let written = tar.append(&header, &mut content);
    match content.fault {
        Some(Fault::Read(error)) => return Err(Error::io("read", &entry.path, error)),
        Some(Fault::Short) => return Err(reader.changed(entry)),
        None => written.map_err(failed)?,
    }
    Ok(size)
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

/// A file as long as its header says. What the file has beyond that is not read: it was written since.
struct Exactly {
    file: std::fs::File,
    left: u64,
    fault: Option<Fault>,
}

/// Why a file could not be read to the end; `tar` would take it for a fault of the archive.
enum Fault {
    Read(io::Error),
    Short,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        match self.file.read(&mut buffer[..most]) {
            Ok(0) => {
                self.fault = Some(Fault::Short);
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(got) => {
                self.left -= got as u64;
                Ok(got)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.fault = Some(Fault::Read(io::Error::from(error.kind())));
                Err(error)
            }
        }
    }
}
