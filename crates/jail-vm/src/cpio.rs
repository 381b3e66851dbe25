//! Writing the form of cpio that the kernel unpacks as initramfs (`newc`).

use std::io::{self, Write};

/// What a name is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Directory,
    Program,
    File,
}

/// Appends entries to `out`.
pub(crate) struct Cpio<W> {
    out: W,
    inode: u32,
}

impl<W: Write> Cpio<W> {
    pub(crate) const fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    pub(crate) fn entry(&mut self, name: &str, kind: Kind, content: &[u8]) -> io::Result<()> {
        let mode: u32 = match kind {
            Kind::Directory => 0o040_755,
            Kind::Program => 0o100_755,
            Kind::File => 0o100_644,
        };
        self.record(name, mode, content)
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.record("TRAILER!!!", 0, b"")?;
        Ok(self.out)
    }

    fn record(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let length = u32::try_from(name.len() + 1).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut head = b"070701".to_vec();
        for number in [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0] {
            write!(head, "{number:08X}")?;
        }
        head.extend_from_slice(name.as_bytes());
        head.push(0);
        pad(&mut head);
        self.out.write_all(&head)?;
        self.out.write_all(content)?;
        self.out.write_all(&[0; 3][..content.len().wrapping_neg() % 4])
    }
}

/// Everything begins at a multiple of four.
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpio_itself_reads_it() {
        let dir = tempfile::tempdir().expect("scratch");
        let mut cpio = Cpio::new(Vec::new());
        cpio.entry("d", Kind::Directory, b"").expect("written");
        cpio.entry("d/f", Kind::File, b"hello").expect("written");
        cpio.entry("init", Kind::Program, &[7; 4097]).expect("written");
        let bytes = cpio.finish().expect("written");
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
