//! The form of cpio that the kernel unpacks as initramfs (`newc`), record by record: for a jail that is exported as one, and
//! for the one that a virtual machine starts from.

use std::io::{self, Write};

/// A directory's kind, in [`Head::mode`].
pub const DIRECTORY: u32 = 0o040_000;
/// A regular file's.
pub const FILE: u32 = 0o100_000;
/// A symbolic link's.
pub const LINK: u32 = 0o120_000;
/// A character device's.
pub const CHARACTER: u32 = 0o020_000;

/// What stands before a record's content.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// Kind and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub links: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Bytes of content.
    pub size: u32,
    /// Major and minor number of a device node.
    pub device: (u32, u32),
}

impl Default for Head {
    fn default() -> Self {
        Self { mode: 0, uid: 0, gid: 0, links: 1, mtime: 0, size: 0, device: (0, 0) }
    }
}

/// An archive being written.
#[derive(Debug)]
pub struct Newc<W> {
    out: W,
    at: u64,
    inode: u32,
}

impl<W: Write> Newc<W> {
    /// Begins an archive.
    pub const fn new(out: W) -> Self {
        Self { out, at: 0, inode: 0 }
    }

    /// A record with its content.
    ///
    /// # Errors
    /// It cannot be written, or the content is longer than the format can count.
    pub fn record(&mut self, path: &[u8], head: Head, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.head(path, Head { size, ..head })?;
        self.content(content)?;
        self.pad()
    }

    /// Only a record's head; its content and [`Newc::pad`] must follow.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn head(&mut self, path: &[u8], head: Head) -> io::Result<()> {
        self.inode += 1;
        let name_length = u32::try_from(path.len() + 1).map_err(|_| io::ErrorKind::InvalidInput)?;
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

    /// A piece of content.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Everything begins at a multiple of four.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn pad(&mut self) -> io::Result<()> {
        let missing = usize::try_from(self.at.wrapping_neg() % 4).unwrap_or(0);
        self.content(&[0; 3][..missing])
    }

    /// The end of the archive; the writer below is given back.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.head(b"TRAILER!!!", Head::default())?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpio_itself_reads_it() {
        let dir = tempfile::tempdir().expect("scratch");
        let mut archive = Newc::new(Vec::new());
        let directory = Head { mode: DIRECTORY | 0o755, ..Head::default() };
        let file = Head { mode: FILE | 0o755, ..Head::default() };
        archive.record(b"d", directory, b"").expect("written");
        archive.record(b"d/f", file, b"hello").expect("written");
        archive.record(b"init", file, &[7; 4097]).expect("written");
        let bytes = archive.finish().expect("written");
        assert_eq!(bytes.len() % 4, 0);
        let Ok(mut child) = std::process::Command::new("cpio")
            .args(["-i", "--quiet"])
            .current_dir(dir.path())
            .stdin(std::process::Stdio::piped())
            .spawn()
        else {
            eprintln!("skipped: cpio is not installed");
            return;
        };
        child.stdin.take().expect("piped").write_all(&bytes).expect("read by cpio");
        assert!(child.wait().expect("ended").success());
        assert_eq!(std::fs::read(dir.path().join("d/f")).expect("there"), b"hello");
        assert_eq!(std::fs::read(dir.path().join("init")).expect("there"), [7; 4097]);
    }
}
