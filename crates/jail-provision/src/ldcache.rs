//! Reading `/etc/ld.so.cache`, the table in which glibc's loader looks a soname up.
//!
//! Both layouts are known: the one of glibc 2.2 to today, alone, and the same behind a table of the old libc5 kind.
//! The file of a jail may be hostile: every offset is checked, and what lies outside the file is not there.

use std::collections::HashMap;
use std::rc::Rc;

/// One line of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the library lies.
    pub path: Vec<u8>,
    /// Which kind of library: class, ABI (`FLAG_ELF_LIBC6` and friends).
    pub flags: i32,
    /// Some if only a processor with this feature set takes the line (`x86-64-v3`); empty for the legacy bits.
    pub hwcap: Option<Vec<u8>>,
}

/// The cache, by soname.
#[derive(Clone, Debug, Default)]
pub struct LdCache {
    entries: HashMap<Vec<u8>, Rc<[Entry]>>,
}

const NEW_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const OLD_MAGIC: &[u8] = b"ld.so-1.7.0\0";
const HEADER: usize = 48;
const ENTRY: usize = 24;
const OLD_ENTRY: usize = 12;
const HWCAP_EXTENSION: u64 = 1 << 62;
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
const EXTENSION_HWCAPS: u32 = 1;

impl LdCache {
    /// Read a cache; None if the bytes are no cache of a kind that today's loader reads.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let table = find_table(bytes)?;
        // Strings are counted from the head of the table; 3 in the flags says big-endian, the rest is the host's own.
        let view = View { bytes: table, big: table.get(28)? & 3 == 3 };
        let count = view.word(20)? as usize;
        let hwcaps = view.hwcap_names();
        let mut entries: HashMap<Vec<u8>, Vec<Entry>> = HashMap::new();
        for index in 0..count.min(table.len() / ENTRY) {
            let at = HEADER + index * ENTRY;
            let Some((name, entry)) = view.entry(at, &hwcaps) else { continue };
            entries.entry(name.to_vec()).or_default().push(entry);
        }
        Some(Self { entries: entries.into_iter().map(|(name, list)| (name, list.into())).collect() })
    }

    /// All lines for a soname, in the cache's own order: the best for the newest processor first.
    pub fn get(&self, soname: &[u8]) -> Rc<[Entry]> {
        self.entries.get(soname).cloned().unwrap_or_else(|| Rc::from([]))
    }

    /// How many sonames there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn find_table(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.starts_with(NEW_MAGIC) {
        return Some(bytes);
    }
    if !bytes.starts_with(OLD_MAGIC) {
        return None;
    }
    // The old table: magic and padding (12), number of lines (4), lines of three words; then ours, aligned to 8.
    let count = u32::from_ne_bytes(bytes.get(12..16)?.try_into().ok()?) as usize;
    let end = count.checked_mul(OLD_ENTRY)?.checked_add(16)?.checked_next_multiple_of(8)?;
    bytes.get(end..).filter(|table| table.starts_with(NEW_MAGIC))
}

struct View<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl<'a> View<'a> {
    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn double(&self, at: usize) -> Option<u64> {
        let bytes = self.bytes.get(at..at.checked_add(8)?)?.try_into().ok()?;
        Some(if self.big { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    fn text(&self, at: u32) -> Option<&'a [u8]> {
        let rest = self.bytes.get(at as usize..)?;
        let end = rest.iter().take(4096).position(|b| *b == 0)?;
        rest.get(..end)
    }

    fn entry(&self, at: usize, hwcaps: &[&'a [u8]]) -> Option<(&'a [u8], Entry)> {
        let flags = self.word(at)? as i32;
        let name = self.text(self.word(at + 4)?)?;
        let path = self.text(self.word(at + 8)?)?.to_vec();
        let hwcap = match self.double(at + 16)? {
            0 => None,
            bits if bits & HWCAP_EXTENSION != 0 => Some(hwcaps.get(bits as u32 as usize)?.to_vec()),
            _ => Some(Vec::new()),
        };
        Some((name, Entry { path, flags, hwcap }))
    }

    /// Names of the glibc-hwcaps directories, which lines refer to by number.
    fn hwcap_names(&self) -> Vec<&'a [u8]> {
        self.find_hwcap_names().unwrap_or_default()
    }

    fn find_hwcap_names(&self) -> Option<Vec<&'a [u8]>> {
        let at = self.word(32)? as usize;
        if at == 0 || self.word(at)? != EXTENSION_MAGIC {
            return None;
        }
        let sections = self.word(at.checked_add(4)?)?.min(64) as usize;
        for section in (0..sections).map(|n| at + 8 + n * 16) {
            if self.word(section)? == EXTENSION_HWCAPS {
                let (from, size) = (self.word(section + 8)? as usize, self.word(section + 12)? as usize);
                let names = (0..size.min(4096) / 4).map(|n| self.word(from.checked_add(n * 4)?));
                return names.map(|at| self.text(at?)).collect();
            }
        }
        None
    }
}
