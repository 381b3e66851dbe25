//! The loader that a program asks the kernel for. A program of the jail is root's, but nothing here trusts it: every
//! offset is a bounded read.

use std::os::fd::BorrowedFd;

use rustix::io::{Errno, pread};

/// What starts a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A program that needs no loader.
    Static,
    /// A program with a loader, by its path.
    Dynamic(Vec<u8>),
    /// `#!` and a path.
    Script,
    /// Nothing that the kernel starts.
    Other,
}

const PT_INTERP: u64 = 3;

/// Where the fields are: 32 or 64 bits, in bytes from the start of their structure.
struct Shape {
    wide: usize,
    phoff: usize,
    phentsize: usize,
    phnum: usize,
    offset: usize,
    filesz: usize,
}

const NARROW: Shape = Shape { wide: 4, phoff: 0x1c, phentsize: 0x2a, phnum: 0x2c, offset: 4, filesz: 0x10 };
const WIDE: Shape = Shape { wide: 8, phoff: 0x20, phentsize: 0x36, phnum: 0x38, offset: 8, filesz: 0x20 };

/// Reads what kind of program a file is.
pub(super) fn kind(file: BorrowedFd<'_>) -> Result<Kind, Errno> {
    let mut head = [0_u8; 64];
    let length = pread(file, &mut head, 0)?;
    let head = head.get(..length).unwrap_or_default();
    if head.starts_with(b"#!") {
        return Ok(Kind::Script);
    }
    let shape = match head.get(4) {
        Some(1) if head.starts_with(b"\x7fELF") => NARROW,
        Some(2) if head.starts_with(b"\x7fELF") => WIDE,
        _ => return Ok(Kind::Other),
    };
    let big_endian = head.get(5) == Some(&2);
    let field = |bytes: &[u8], at: usize, size: usize| -> Option<u64> {
        let bytes = bytes.get(at..at.checked_add(size)?)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if big_endian { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) })
    };
    let table = (|| {
        let (start, count) = (field(head, shape.phoff, shape.wide)?, field(head, shape.phnum, 2)?);
        Some((start, field(head, shape.phentsize, 2)?, count))
    })();
    let Some((start, size, count)) = table else { return Ok(Kind::Other) };
    for number in 0..count {
        let mut entry = [0_u8; 56];
        let at = start.saturating_add(number.saturating_mul(size));
        let length = pread(file, &mut entry, at)?;
        let entry = entry.get(..length).unwrap_or_default();
        if field(entry, 0, 4) != Some(PT_INTERP) {
            continue;
        }
        let place = (field(entry, shape.offset, shape.wide), field(entry, shape.filesz, shape.wide));
        let (Some(at), Some(size)) = place else { return Ok(Kind::Other) };
        let mut path = vec![0_u8; usize::try_from(size).unwrap_or(usize::MAX).min(4096)];
        let length = pread(file, &mut path, at)?;
        path.truncate(length);
        path.truncate(path.iter().position(|b| *b == 0).unwrap_or(path.len()));
        return Ok(Kind::Dynamic(path));
    }
    Ok(Kind::Static)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn this_program_and_a_script() {
        let own = std::fs::File::open("/proc/self/exe").expect("own program");
        assert!(matches!(kind(own.as_fd()), Ok(Kind::Dynamic(path)) if path.starts_with(b"/")));
        let mut script = tempfile::tempfile().expect("scratch");
        std::io::Write::write_all(&mut script, b"#!/bin/sh\n").expect("write");
        assert_eq!(kind(script.as_fd()), Ok(Kind::Script));
        for bad in [&b""[..], b"\x7fELF", b"\x7fELF\x02\x01"] {
            let mut file = tempfile::tempfile().expect("scratch");
            std::io::Write::write_all(&mut file, bad).expect("write");
            assert_eq!(kind(file.as_fd()), Ok(Kind::Other), "{bad:?}");
        }
        let mut liar = tempfile::tempfile().expect("scratch");
        let mut head = vec![0xff_u8; 64];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        std::io::Write::write_all(&mut liar, &head).expect("write");
        assert!(kind(liar.as_fd()).is_ok() || kind(liar.as_fd()) == Err(Errno::INVAL));
    }
}
