//! Writing a read-only file system that the guest's kernel mounts (EROFS, uncompressed).
//!
//! Own code and not mkfs.erofs or mke2fs: an image holds a *choice* of a tree (see `image.rs`), which neither program can
//! take without a copy of the whole; and nothing has to be installed. The format is Documentation/filesystems/erofs.rst
//! and fs/erofs/erofs_fs.h: a superblock at 1024, then inodes, each a number of 32-byte slots, then blocks of data.

use std::io::{self, Read, Write};

/// Bytes in a block.
const BLOCK: u64 = 4096;
const MAGIC: u32 = 0xE0F5_E1E2;
/// Inodes begin here; number 0 and 1 are left free, since a file of inode 0 is no file to readdir.
const META_BLOCK: u64 = 1;
const FIRST: u64 = 2;
/// An inode in its long form takes two slots.
const SLOTS: u64 = 2;

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// Names, each with the index of its inode in the list.
    Directory(Vec<(Vec<u8>, usize)>),
    /// A file of this many bytes, which [`write`] asks for.
    File(u64),
    /// A link and where it leads.
    Link(Vec<u8>),
}

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inode {
    /// Without the type.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: u64,
    pub(crate) body: Body,
    /// The index of its directory, for `..`.
    pub(crate) parent: usize,
}

const fn number(index: usize) -> u64 {
    FIRST + index as u64 * SLOTS
}

const fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK)
}

/// Writes the image; the first inode is the root. `open` gives the content of the file at an index.
pub(crate) fn write<R: Read>(
    out: &mut impl Write,
    inodes: &[Inode],
    mut open: impl FnMut(usize) -> io::Result<R>,
) -> io::Result<()> {
    let contents: Vec<Option<Vec<u8>>> = (0..inodes.len()).map(|index| own_content(inodes, index)).collect();
    let sizes: Vec<u64> = inodes
        .iter()
        .zip(&contents)
        .map(|(inode, content)| match (&inode.body, content) {
            (Body::File(size), _) => *size,
            (_, content) => content.as_ref().map_or(0, |bytes| bytes.len() as u64),
        })
        .collect();
    let data_block = META_BLOCK + blocks(number(inodes.len()) * 32);
    let mut starts = Vec::with_capacity(inodes.len());
    let mut next = data_block;
    for size in &sizes {
        starts.push(next);
        next += blocks(*size);
    }
    let all_blocks = u32::try_from(next).map_err(|_| io::ErrorKind::FileTooLarge)?;

    let mut head = vec![0; BLOCK as usize];
    head[1024..1024 + 128].copy_from_slice(&superblock(inodes.len() as u64, all_blocks));
    out.write_all(&head)?;
    let mut meta = vec![0; ((data_block - META_BLOCK) * BLOCK) as usize];
    for (index, inode) in inodes.iter().enumerate() {
        let at = number(index) as usize * 32;
        // Below the number of all blocks, which fits.
        meta[at..at + 64].copy_from_slice(&long_inode(
            inode,
            index,
            sizes[index],
            starts[index] as u32,
            inodes,
        ));
    }
    out.write_all(&meta)?;
    for (index, content) in contents.iter().enumerate() {
        match content {
            Some(bytes) => out.write_all(bytes)?,
            None => copy_exactly(&mut open(index)?, out, sizes[index])?,
        }
        let rest = (blocks(sizes[index]) * BLOCK - sizes[index]) as usize;
        out.write_all(&[0; BLOCK as usize][..rest])?;
    }
    Ok(())
}

/// What the image itself knows of an inode's content; `None` for files.
fn own_content(inodes: &[Inode], index: usize) -> Option<Vec<u8>> {
    match &inodes[index].body {
        Body::File(_) => None,
        Body::Link(to) => Some(to.clone()),
        Body::Directory(names) => Some(directory(inodes, index, names)),
    }
}

/// A file that shrank meanwhile would move everything behind it.
fn copy_exactly(from: &mut impl Read, out: &mut impl Write, size: u64) -> io::Result<()> {
    let copied = io::copy(&mut from.take(size), out)?;
    if copied == size {
        Ok(())
    } else {
        Err(io::Error::other("a file of the jail changed while it was read"))
    }
}

fn superblock(inodes: u64, blocks: u32) -> [u8; 128] {
    let mut block = [0; 128];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        block[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&MAGIC.to_le_bytes());
    put(&[0; 8]); // checksum and compatible features: none
    put(&[12, 0]); // 4,096 bytes a block, no extensions
    put(&(FIRST as u16).to_le_bytes()); // the root
    put(&inodes.to_le_bytes());
    put(&[0; 12]); // the time of making: the same tree gives the same image
    put(&blocks.to_le_bytes());
    put(&(META_BLOCK as u32).to_le_bytes());
    block
}

const fn mode_of(inode: &Inode) -> u16 {
    let kind = match inode.body {
        Body::Directory(_) => 0o040_000,
        Body::File(_) => 0o100_000,
        Body::Link(_) => 0o120_000,
    };
    kind | inode.mode & 0o7777
}

fn long_inode(inode: &Inode, index: usize, size: u64, start: u32, inodes: &[Inode]) -> [u8; 64] {
    let links: u32 = match &inode.body {
        Body::Directory(names) => {
            let below = names.iter().filter(|(_, index)| matches!(inodes[*index].body, Body::Directory(_)));
            u32::try_from(below.count()).unwrap_or(u32::MAX).saturating_add(2)
        }
        Body::File(_) | Body::Link(_) => 1,
    };
    let mut bytes = [0; 64];
    let mut at = 0;
    let mut put = |part: &[u8]| {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    };
    put(&1_u16.to_le_bytes()); // the long form, data in plain blocks
    put(&0_u16.to_le_bytes()); // no xattrs
    put(&mode_of(inode).to_le_bytes());
    put(&0_u16.to_le_bytes());
    put(&size.to_le_bytes());
    put(&start.to_le_bytes());
    put(&u32::try_from(index + 1).unwrap_or(u32::MAX).to_le_bytes());
    put(&inode.uid.to_le_bytes());
    put(&inode.gid.to_le_bytes());
    put(&inode.mtime.to_le_bytes());
    put(&0_u32.to_le_bytes());
    put(&links.to_le_bytes());
    bytes
}

/// Blocks of names in order: a row of (inode, where the name is, type), then the names.
fn directory(inodes: &[Inode], index: usize, names: &[(Vec<u8>, usize)]) -> Vec<u8> {
    let mut all: Vec<(&[u8], usize)> = names.iter().map(|(name, index)| (name.as_slice(), *index)).collect();
    all.push((b".", index));
    all.push((b"..", inodes[index].parent));
    all.sort_unstable();
    let mut out = Vec::new();
    let mut rest = all.as_slice();
    while !rest.is_empty() {
        let mut used = 0;
        let fitting = rest
            .iter()
            .take_while(|(name, _)| {
                used += 12 + name.len();
                used <= BLOCK as usize
            })
            .count();
        let (block, after) = rest.split_at(fitting);
        // Only the last block may end early.
        out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
        let mut name_at = 12 * block.len();
        for (name, index) in block {
            out.extend_from_slice(&number(*index).to_le_bytes());
            out.extend_from_slice(&(name_at as u16).to_le_bytes());
            out.push(match inodes[*index].body {
                Body::File(_) => 1,
                Body::Directory(_) => 2,
                Body::Link(_) => 7,
            });
            out.push(0);
            name_at += name.len();
        }
        block.iter().for_each(|(name, _)| out.extend_from_slice(name));
        rest = after;
    }
    out
}
