//! One layer, entry by entry: unpacked in memory, counted, digested, and every entry held against what a layer may hold.
//!
//! The `tar` crate reads headers; names too long for one come in entries of their own, which are read here, because there
//! they have a bound. Refused are names with `..`, devices, sparse files and whatever else a jail has no use for.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use jail_provision::text;
use tar::{Archive, Entry, EntryType, PaxExtensions};

use super::source::reason;

/// What one entry takes on a disk at least, and so what it is counted as: a million empty files are four gigabytes.
const BLOCK: u64 = 4096;

/// Longer names no kernel takes.
const LONGEST_NAME: usize = 4000;

/// Longer headers no honest archive has.
const LONGEST_HEADER: u64 = 1 << 20;

/// Deeper trees nobody packs; every directory on the way to one entry is one more thing to remember.
const DEEPEST: usize = 200;

/// What one entry takes of our memory, besides its names.
const REMEMBERED: u64 = 256;

/// How much an image may still unpack to: on the disk, in the streams that its layers are, and in our memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    disk: u64,
    /// Padding cannot be endless either, nor the same few layers come again and again.
    streams: u64,
    /// A name may be four thousand bytes long, and a thousand directories may lie on its way.
    memory: u64,
    max: u64,
}

impl Budget {
    pub(super) fn new(max: u64) -> Self {
        let streams = max.saturating_mul(2).saturating_add(LONGEST_HEADER);
        Self { disk: max, streams, memory: (max / 8).max(64 << 20), max }
    }

    /// An entry of these bytes, with names of that length.
    pub(super) fn entry(&mut self, bytes: u64, names: usize) -> Result<(), String> {
        let blocks = bytes.div_ceil(BLOCK).max(1).saturating_mul(BLOCK);
        let remembered = REMEMBERED + names as u64;
        match (self.disk.checked_sub(blocks), self.memory.checked_sub(remembered)) {
            (Some(disk), Some(memory)) => {
                (self.disk, self.memory) = (disk, memory);
                Ok(())
            }
            (None, _) => Err(self.exceeded()),
            (Some(_), None) => Err(format!(
                "its names take more than {} bytes, an eighth of what it may unpack to",
                (self.max / 8).max(64 << 20)
            )),
        }
    }

    pub(super) fn exceeded(&self) -> String {
        format!("it unpacks to more than {} bytes (each entry counts as {BLOCK} at least)", self.max)
    }
}

/// One entry that a layer may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Below the root, plain: no `.`, no `..`, never empty.
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    /// Whether it came with file capabilities. They are not kept.
    pub(super) capabilities: bool,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File {
        size: u64,
    },
    Symlink(PathBuf),
    /// Another name of this file.
    HardLink(PathBuf),
    /// Takes a path of the layers below away.
    Whiteout,
    /// Takes everything that the layers below have in this directory away.
    Opaque,
    /// A device node below /dev: left out, since every cell brings its own.
    Device,
}

/// What is done with each item; why it refuses ends the reading.
pub(super) type Visit<'a> = dyn FnMut(usize, Item, &mut dyn Read) -> Result<(), String> + 'a;

/// Reads a layer. `visit` gets each item's number, the item, and its content; why it refuses ends the reading.
///
/// # Errors
/// A sentence about what the layer holds and may not.
pub(super) fn read(layer: &mut dyn Read, budget: &mut Budget, visit: &mut Visit<'_>) -> Result<(), String> {
    let most = budget.streams;
    let mut stream = layer.take(most);
    // What follows the end of the archive belongs to the blob, and to its digest.
    let read = entries(&mut stream, budget, visit)
        .and_then(|()| io::copy(&mut stream, &mut io::sink()).map(drop).map_err(broken));
    budget.streams = stream.limit();
    // Cut off by us, an archive ends early; that is not its fault.
    if stream.limit() == 0 { Err(budget.exceeded()) } else { read }
}

#[allow(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn broken(error: io::Error) -> String {
    format!("a layer is no tar archive: {}", reason(&error))
}

fn entries(stream: &mut dyn Read, budget: &mut Budget, visit: &mut Visit<'_>) -> Result<(), String> {
    let mut long = Long::default();
    let mut number = 0;
    let mut archive = Archive::new(stream);
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        if long.take(&mut entry)? {
            continue;
        }
        let own = std::mem::take(&mut long);
        let Some(item) = item(&entry, own)? else { continue };
        let (bytes, target) = match &item.kind {
            Kind::File { size } => (*size, 0),
            Kind::Symlink(target) | Kind::HardLink(target) => (0, target.as_os_str().len()),
            _ => (0, 0),
        };
        budget.entry(bytes, item.path.as_os_str().len() + target)?;
        visit(number, item, &mut entry)?;
        number += 1;
    }
    Ok(())
}

/// What came in entries of their own before the one it is about.
#[derive(Default)]
struct Long {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    /// Too big for a header, which then holds another number.
    uid: Option<u32>,
    gid: Option<u32>,
    capabilities: bool,
}

impl Long {
    /// Takes an entry in that speaks about the next one; answers whether it was one.
    fn take(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<bool, String> {
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => self.path = Some(text_of(entry)?),
            EntryType::GNULongLink => self.target = Some(text_of(entry)?),
            EntryType::XHeader => {
                let bytes = content(entry)?;
                self.pax(&bytes)?;
            }
            // About the archive as a whole; git writes the commit there.
            EntryType::XGlobalHeader => drop(content(entry)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn pax(&mut self, bytes: &[u8]) -> Result<(), String> {
        for extension in PaxExtensions::new(bytes) {
            let extension = extension.map_err(|e| format!("a pax record is malformed: {}", reason(&e)))?;
            match extension.key_bytes() {
                b"path" => self.path = Some(extension.value_bytes().to_vec()),
                b"linkpath" => self.target = Some(extension.value_bytes().to_vec()),
                b"uid" => self.uid = Some(pax_number(extension.value_bytes(), "owner")?),
                b"gid" => self.gid = Some(pax_number(extension.value_bytes(), "group")?),
                b"SCHILY.xattr.security.capability" => self.capabilities = true,
                b"size" => {
                    return Err("a file's size stands in a pax record, so it has more than 8 GiB".to_owned());
                }
                key if key.starts_with(b"GNU.sparse.") => return Err("it holds a sparse file".to_owned()),
                // Times, comments, attributes: nothing that a jail takes over.
                _ => {}
            }
        }
        Ok(())
    }
}

/// A number in a pax record.
fn pax_number(value: &[u8], what: &str) -> Result<u32, String> {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.filter(|n| *n != u32::MAX).ok_or_else(|| format!("a pax record has no {what} that there could be"))
}

fn content(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, String> {
    let size = entry.size();
    if size > LONGEST_HEADER {
        return Err(format!("it has a header of {size} bytes"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|e| format!("a layer is no tar archive: {}", reason(&e)))?;
    Ok(bytes)
}

fn text_of(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, String> {
    let mut bytes = content(entry)?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

/// The item that an entry is; `None` for the root itself.
fn item(entry: &Entry<'_, impl Read>, long: Long) -> Result<Option<Item>, String> {
    let header = entry.header();
    let name = long.path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
    let target = || {
        long.target.clone().or_else(|| header.link_name_bytes().map(|l| l.into_owned())).unwrap_or_default()
    };
    let shown = text::encode(Path::new(&OsString::from_vec(name.clone())));
    let directory_name = name.last() == Some(&b'/');
    let path = plain(&name).map_err(|why| format!("the entry '{shown}' {why}"))?;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let number = |value: io::Result<u64>, what: &str| {
        value
            .ok()
            .and_then(|v| u32::try_from(v).ok())
            .filter(|v| *v != u32::MAX)
            .ok_or_else(|| format!("the entry '{shown}' has no {what} that there could be"))
    };
    let kind = match header.entry_type() {
        // The oldest archives have no type for directories.
        EntryType::Regular if directory_name => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => Kind::File { size: entry.size() },
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink(link_target(target(), &path)?),
        EntryType::Link => {
            let target = target();
            Kind::HardLink(
                plain(&target)
                    .map_err(|why| format!("the hard link '{shown}' leads to a name that {why}"))?,
            )
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo if path.starts_with("dev") => Kind::Device,
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            return Err(format!("'{shown}' is a device node or a pipe outside /dev"));
        }
        other => {
            return Err(format!(
                "'{shown}' is of a kind ({:?}) that no layer may hold",
                char::from(other.as_byte())
            ));
        }
    };
    let mode = number(header.mode().map(u64::from), "mode")? & 0o7777;
    let uid = long.uid.map_or_else(|| number(header.uid(), "owner"), Ok)?;
    let gid = long.gid.map_or_else(|| number(header.gid(), "group"), Ok)?;
    let mtime = header.mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0);
    let item = Item { path, kind, mode, uid, gid, mtime, capabilities: long.capabilities };
    whiteout(item).map(Some)
}

/// `.wh.NAME` and `.wh..wh..opq` are no files but orders.
fn whiteout(item: Item) -> Result<Item, String> {
    let name = item.path.file_name().unwrap_or_default().to_os_string().into_vec();
    let Some(hidden) = name.strip_prefix(b".wh.") else { return Ok(item) };
    let parent = item.path.parent().unwrap_or(Path::new("")).to_path_buf();
    if hidden == b".wh..opq" {
        return Ok(Item { path: parent, kind: Kind::Opaque, ..item });
    }
    let shown = text::encode(&item.path);
    if hidden.is_empty() || hidden == b"." || hidden == b".." || hidden.starts_with(b".wh.") {
        return Err(format!("'{shown}' is no whiteout that is known here"));
    }
    let path = parent.join(OsString::from_vec(hidden.to_vec()));
    Ok(Item { path, kind: Kind::Whiteout, ..item })
}

/// A name below the root, without `.` and slashes that say nothing.
fn plain(name: &[u8]) -> Result<PathBuf, &'static str> {
    if name.len() > LONGEST_NAME {
        return Err("is longer than a path may be");
    }
    if name.contains(&0) {
        return Err("holds a NUL");
    }
    let (mut plain, mut depth) = (PathBuf::new(), 0);
    for component in Path::new(&OsString::from_vec(name.to_vec())).components() {
        match component {
            Component::Normal(part) if part.len() > 255 => return Err("has a part longer than 255 bytes"),
            Component::Normal(_) if depth == DEEPEST => return Err("lies deeper than 200 directories"),
            Component::Normal(part) => {
                depth += 1;
                plain.push(part);
            }
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err("holds '..'"),
        }
    }
    Ok(plain)
}

/// A link's text. It may be absolute (that is below the jail's own root), but may not climb out of it.
fn link_target(target: Vec<u8>, link: &Path) -> Result<PathBuf, String> {
    let shown = text::quote(link);
    if target.is_empty() || target.len() > LONGEST_NAME || target.contains(&0) {
        return Err(format!("the link {shown} leads nowhere"));
    }
    let target = PathBuf::from(OsString::from_vec(target));
    match resolve(link, &target) {
        Some(_) => Ok(target),
        None => Err(format!("the link {shown} leads out of the image: {}", text::quote(&target))),
    }
}

/// Where a link leads, by its text alone; `None` if it climbs above the root.
pub(super) fn resolve(link: &Path, target: &Path) -> Option<PathBuf> {
    let mut at = if target.is_absolute() { PathBuf::new() } else { link.parent()?.to_path_buf() };
    for component in target.components() {
        match component {
            Component::Normal(part) => at.push(part),
            Component::ParentDir if !at.pop() => return None,
            _ => {}
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_plain_or_are_refused() {
        assert_eq!(plain(b"./usr//bin/./ls").expect("plain"), Path::new("usr/bin/ls"));
        assert_eq!(plain(b"/etc/passwd").expect("below the root"), Path::new("etc/passwd"));
        for bad in
            [&b"../x"[..], b"a/../../x", b"a/..", &[b'a'; 5000], &[b'a'; 256], b"a\0b", &b"d/".repeat(201)]
        {
            assert!(plain(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn links_stay_below_the_root() {
        let target = |target: &str| link_target(target.into(), Path::new("a/b/link"));
        for fine in ["/etc/passwd", "../../x", "../..", "x", "../../../a/x"] {
            assert_eq!(target(fine).is_ok(), fine != "../../../a/x", "{fine}");
        }
        assert!(target("").is_err());
        assert!(target("/../etc").is_err());
    }
}
