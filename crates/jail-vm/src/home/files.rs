//! What the guest has open: files, and directories with what was read of them.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::fs::Dir;
use rustix::io::Errno;

type Result<T> = std::result::Result<T, Errno>;

/// The most that a guest may have open.
pub(super) const MOST: usize = 4096;
/// The most that is held of lists of directories.
const MOST_LISTED: usize = 32 << 20;

/// An open file or directory.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) fd: OwnedFd,
    pub(super) node: u64,
    listed: Vec<Listed>,
}

/// A name in a directory, as it was read.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) name: Vec<u8>,
    pub(super) inode: u64,
    pub(super) kind: u32,
}

/// Everything that is open, by the guest's number for it.
#[derive(Debug, Default)]
pub(super) struct Files {
    open: HashMap<u64, Open>,
    last: u64,
    listed_bytes: usize,
}

impl Files {
    /// A number for what was opened.
    pub(super) fn add(&mut self, fd: OwnedFd, node: u64) -> Result<u64> {
        if self.open.len() >= MOST {
            return Err(Errno::NFILE);
        }
        self.last = self.last.saturating_add(1);
        self.open.insert(self.last, Open { fd, node, listed: Vec::new() });
        Ok(self.last)
    }

    pub(super) fn get(&self, number: u64) -> Result<&Open> {
        self.open.get(&number).ok_or(Errno::BADF)
    }

    /// What is open of a file: also one that has no name any more.
    pub(super) fn of_node(&self, node: u64) -> Option<&Open> {
        self.open.values().find(|open| open.node == node)
    }

    pub(super) fn close(&mut self, number: u64) {
        if let Some(open) = self.open.remove(&number) {
            self.listed_bytes = self.listed_bytes.saturating_sub(size(&open.listed));
        }
    }

    /// The names of a directory from a position on; read anew when it is read from its beginning.
    pub(super) fn list(&mut self, number: u64, from: u64) -> Result<&[Listed]> {
        let open = self.open.get_mut(&number).ok_or(Errno::BADF)?;
        if from == 0 {
            self.listed_bytes = self.listed_bytes.saturating_sub(size(&open.listed));
            open.listed = Vec::new();
            let mut bytes = 0;
            let mut listed = Vec::new();
            for entry in Dir::read_from(&open.fd)? {
                let entry = entry?;
                let one = Listed {
                    name: entry.file_name().to_bytes().to_vec(),
                    inode: entry.ino(),
                    kind: entry.file_type().as_raw_mode() >> 12,
                };
                bytes += size(std::slice::from_ref(&one));
                if self.listed_bytes.saturating_add(bytes) > MOST_LISTED {
                    return Err(Errno::NOMEM);
                }
                listed.push(one);
            }
            self.listed_bytes += bytes;
            open.listed = listed;
        }
        let from = usize::try_from(from).map_err(|_| Errno::INVAL)?;
        Ok(open.listed.get(from..).unwrap_or_default())
    }
}

fn size(listed: &[Listed]) -> usize {
    listed.iter().map(|one| one.name.len() + size_of::<Listed>()).sum()
}
