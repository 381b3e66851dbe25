//! `/etc/ld.so.cache`, the table in which glibc's loader looks a soname up: read it, and write one for a jail.
//!
//! Read are both layouts: the one of glibc 2.2 to today, alone, and the same behind a table of the old libc5 kind. The
//! file of a jail may be hostile: every offset is checked, what lies outside the file is not there, and nothing is
//! copied that could be copied a million times over. Written is the layout of today, so that a jail's table can be
//! made without starting ldconfig (which needs root, and a jail that has it).

use std::cmp::Ordering;
use std::collections::HashMap;

/// One line of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Where the library lies.
    pub path: &'a [u8],
    /// Which kind of library: class and ABI.
    pub flags: i32,
    /// Some if only processors with this feature set take the line (`x86-64-v3`); empty for the legacy bits.
    pub hwcap: Option<&'a [u8]>,
}

/// The cache, by soname.
#[derive(Clone, Debug, Default)]
pub struct LdCache {
    /// The table; the lines below point into it.
    table: Vec<u8>,
    hwcaps: Vec<Span>,
    lines: HashMap<Vec<u8>, Vec<Entry>>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    end: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    path: Span,
    flags: i32,
    hwcap: Hwcap,
}

#[derive(Clone, Copy, Debug)]
enum Hwcap {
    None,
    Legacy,
    Named(usize),
}

const NEW_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const OLD_MAGIC: &[u8] = b"ld.so-1.7.0\0";
const HEADER: usize = 48;
const ENTRY: usize = 24;
const OLD_ENTRY: usize = 12;
const HWCAP_EXTENSION: u64 = 1 << 62;
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
const EXTENSION_HWCAPS: u32 = 1;
const LITTLE: u8 = 2;
const BIG: u8 = 3;
/// NAME_MAX and PATH_MAX: what is longer names no file.
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4096;
/// A large desktop has 5,000 lines.
const MAX_LINES: usize = 200_000;

impl LdCache {
    /// Read a cache; None if the bytes are no cache of a kind that today's loader reads.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let table = find_table(bytes)?;
        let view = View { bytes: table, big: table.get(28)? & 3 == BIG };
        let count = view.word(20)? as usize;
        let hwcaps = view.hwcap_names().unwrap_or_default();
        let mut lines: HashMap<Vec<u8>, Vec<Entry>> = HashMap::new();
        for index in 0..count.min(table.len() / ENTRY).min(MAX_LINES) {
            if let Some((name, entry)) = view.entry(HEADER + index * ENTRY, hwcaps.len()) {
                lines.entry(table[name.start..name.end].to_vec()).or_default().push(entry);
            }
        }
        Some(Self { table: table.to_vec(), hwcaps, lines })
    }

    /// All lines for a soname, in the cache's own order: the best for the newest processor first.
    pub fn lines(&self, soname: &[u8]) -> impl Iterator<Item = Line<'_>> {
        let entries = self.lines.get(soname).map(Vec::as_slice).unwrap_or_default();
        entries.iter().map(|entry| Line {
            path: self.text(entry.path),
            flags: entry.flags,
            hwcap: match entry.hwcap {
                Hwcap::None => None,
                Hwcap::Legacy => Some(&[][..]),
                Hwcap::Named(index) => Some(self.hwcaps.get(index).map_or(&[][..], |span| self.text(*span))),
            },
        })
    }

    /// The sonames, in no order.
    pub fn sonames(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.keys().map(Vec::as_slice)
    }

    fn text(&self, span: Span) -> &[u8] {
        self.table.get(span.start..span.end).unwrap_or(&[])
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

/// The table as numbers; strings are counted from its head.
struct View<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl View<'_> {
    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn double(&self, at: usize) -> Option<u64> {
        let bytes = self.bytes.get(at..at.checked_add(8)?)?.try_into().ok()?;
        Some(if self.big { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    fn text(&self, at: u32, max: usize) -> Option<Span> {
        let start = at as usize;
        let length = self.bytes.get(start..)?.iter().take(max + 1).position(|b| *b == 0)?;
        Some(Span { start, end: start + length })
    }

    fn entry(&self, at: usize, hwcaps: usize) -> Option<(Span, Entry)> {
        let flags = self.word(at)? as i32;
        let name = self.text(self.word(at + 4)?, MAX_NAME)?;
        let path = self.text(self.word(at + 8)?, MAX_PATH)?;
        let hwcap = match self.double(at + 16)? {
            0 => Hwcap::None,
            bits if bits & HWCAP_EXTENSION != 0 => {
                let index = bits as u32 as usize;
                (index < hwcaps).then_some(Hwcap::Named(index))?
            }
            _ => Hwcap::Legacy,
        };
        Some((name, Entry { path, flags, hwcap }))
    }

    /// Names of the glibc-hwcaps directories, which lines refer to by number.
    fn hwcap_names(&self) -> Option<Vec<Span>> {
        let at = self.word(32)? as usize;
        if at == 0 || self.word(at)? != EXTENSION_MAGIC {
            return None;
        }
        let sections = self.word(at.checked_add(4)?)?.min(64) as usize;
        for section in (0..sections).map(|n| at + 8 + n * 16) {
            if self.word(section)? == EXTENSION_HWCAPS {
                let (from, size) = (self.word(section + 8)? as usize, self.word(section + 12)? as usize);
                let names = (0..size.min(4096) / 4).map(|n| self.word(from.checked_add(n * 4)?));
                return names.map(|at| self.text(at?, MAX_NAME)).collect();
            }
        }
        None
    }
}

/// A line to be written: soname, path, and the flags of its kind of library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLine {
    /// The name that programs ask for.
    pub soname: Vec<u8>,
    /// Where the loader will find it, in the jail.
    pub path: Vec<u8>,
    /// As ldconfig would write: `crate::resolve::Need::cache_flags`.
    pub flags: i32,
}

/// Write a cache for this machine's byte order. The same lines give the same bytes, whatever their order.
///
/// Lines for `glibc-hwcaps` are never written: a jail finds those variants through its directories, or not at all.
pub fn write(lines: &[NewLine]) -> Vec<u8> {
    let mut lines: Vec<&NewLine> =
        lines.iter().filter(|l| !l.soname.contains(&0) && !l.path.contains(&0)).collect();
    // The loader searches by halving, so the order is its own: descending, numbers within a name by value.
    lines.sort_by(|a, b| {
        compare(&b.soname, &a.soname).then_with(|| b.flags.cmp(&a.flags)).then_with(|| a.path.cmp(&b.path))
    });
    lines.dedup_by(|b, a| compare(&a.soname, &b.soname).is_eq() && a.flags == b.flags);

    let strings_start = HEADER + lines.len() * ENTRY;
    let mut table = Vec::with_capacity(strings_start);
    let mut strings: Vec<u8> = Vec::new();
    table.extend_from_slice(NEW_MAGIC);
    table.extend_from_slice(&(lines.len() as u32).to_ne_bytes());
    table.extend_from_slice(&[0; 4]); // length of the strings: filled in below
    table.push(if cfg!(target_endian = "big") { BIG } else { LITTLE });
    table.resize(HEADER, 0);
    for line in lines {
        let mut put = |text: &[u8]| {
            let at = (strings_start + strings.len()) as u32;
            strings.extend_from_slice(text);
            strings.push(0);
            at
        };
        let (name, path) = (put(&line.soname), put(&line.path));
        table.extend_from_slice(&line.flags.to_ne_bytes());
        table.extend_from_slice(&name.to_ne_bytes());
        table.extend_from_slice(&path.to_ne_bytes());
        table.extend_from_slice(&[0; 12]); // osversion, hwcap
    }
    table[24..28].copy_from_slice(&(strings.len() as u32).to_ne_bytes());
    table.extend_from_slice(&strings);
    table
}

/// glibc's order of sonames: bytes, but digits that meet digits are compared as one number.
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let digits = |s: &[u8]| s.iter().take_while(|c| c.is_ascii_digit()).count();
        let (in_a, in_b) = (digits(a), digits(b));
        if in_a > 0 && in_b > 0 {
            let ordering = number(&a[..in_a]).cmp(&number(&b[..in_b]));
            if ordering.is_ne() {
                return ordering;
            }
            (a, b) = (&a[in_a..], &b[in_b..]);
            continue;
        }
        match (a.split_first(), b.split_first()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            // A digit comes after anything that is none.
            (Some(_), Some(_)) if in_a > 0 => return Ordering::Greater,
            (Some(_), Some(_)) if in_b > 0 => return Ordering::Less,
            (Some((x, rest_a)), Some((y, rest_b))) => {
                if x != y {
                    // As C's `char`, which is signed on some machines; sonames are ASCII.
                    return x.cmp(y);
                }
                (a, b) = (rest_a, rest_b);
            }
        }
    }
}

/// Digits as a number, compared by length first once leading zeros are gone: no overflow.
fn number(digits: &[u8]) -> (usize, &[u8]) {
    let zeros = digits.iter().take_while(|d| **d == b'0').count();
    (digits.len() - zeros, &digits[zeros..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(soname: &str, path: &str) -> NewLine {
        NewLine { soname: soname.into(), path: path.into(), flags: 0x303 }
    }

    #[test]
    fn what_was_written_is_read() {
        let lines = [line("liba.so.1", "/opt/a/liba.so.1"), line("libb.so", "/usr/lib/libb.so")];
        let cache = LdCache::parse(&write(&lines)).expect("a cache");
        let found: Vec<_> = cache.lines(b"liba.so.1").collect();
        assert_eq!(found, [Line { path: b"/opt/a/liba.so.1", flags: 0x303, hwcap: None }]);
        assert_eq!(cache.lines(b"libc.so").count(), 0);
        assert_eq!(cache.sonames().count(), 2);
    }

    #[test]
    fn order_of_the_lines_makes_no_difference() {
        let (a, b, c) = (line("liba.so.1", "/a"), line("libb.so.2", "/b"), line("libb.so.10", "/c"));
        let one = write(&[a.clone(), b.clone(), c.clone()]);
        assert_eq!(one, write(&[c, b, a]));
    }

    #[test]
    fn sonames_are_ordered_as_glibc_orders_them() {
        let order = |a: &str, b: &str| compare(a.as_bytes(), b.as_bytes());
        assert_eq!(order("libb.so.2", "libb.so.10"), Ordering::Less);
        assert_eq!(order("libb.so.2", "libb.so.2"), Ordering::Equal);
        assert_eq!(order("lib1.so", "liba.so"), Ordering::Greater);
        assert_eq!(order("liba.so", "liba.so.1"), Ordering::Less);
        assert_eq!(order("lib99999999999999999999.so", "lib100000000000000000000.so"), Ordering::Less);
    }

    #[test]
    fn behind_an_old_table() {
        let new = write(&[line("liba.so.1", "/a")]);
        let mut bytes = b"ld.so-1.7.0\0".to_vec();
        bytes.extend_from_slice(&1u32.to_ne_bytes());
        bytes.extend_from_slice(&[0; 12]);
        bytes.resize(32, 0);
        bytes.extend_from_slice(&new);
        let cache = LdCache::parse(&bytes).expect("a cache");
        assert_eq!(cache.lines(b"liba.so.1").count(), 1);
    }

    #[test]
    fn lines_for_newer_processors_are_told_apart() {
        let mut bytes = write(&[line("liba.so.1", "/a")]);
        // An extension with one hwcap name, and the line made to refer to it.
        let name_at = bytes.len() as u32;
        bytes.extend_from_slice(b"x86-64-v3\0\0\0");
        let list_at = bytes.len() as u32;
        bytes.extend_from_slice(&name_at.to_ne_bytes());
        let extension_at = bytes.len() as u32;
        for word in [EXTENSION_MAGIC, 1, EXTENSION_HWCAPS, 0, list_at, 4] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes[32..36].copy_from_slice(&extension_at.to_ne_bytes());
        bytes[HEADER + 16..HEADER + 24].copy_from_slice(&HWCAP_EXTENSION.to_ne_bytes());
        let cache = LdCache::parse(&bytes).expect("a cache");
        let hwcaps: Vec<_> = cache.lines(b"liba.so.1").map(|l| l.hwcap).collect();
        assert_eq!(hwcaps, [Some(&b"x86-64-v3"[..])]);
    }

    #[test]
    fn what_points_outside_is_not_there() {
        let whole = write(&[line("liba.so.1", "/a"), line("libb.so.1", "/b")]);
        for cut in 0..whole.len() {
            if let Some(cache) = LdCache::parse(&whole[..cut]) {
                assert!(cache.sonames().count() < 2, "cut at {cut}");
            }
        }
        let mut huge = whole.clone();
        huge[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(LdCache::parse(&huge).is_some_and(|c| c.lines(b"liba.so.1").count() >= 1));
        assert!(LdCache::parse(b"").is_none());
        assert!(LdCache::parse(b"\x7fELF").is_none());
    }
}
