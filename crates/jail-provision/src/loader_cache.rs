//! Writes the ld.so.cache of a jail: those lines of the host's cache whose library is in the jail.
//!
//! A jail gets a cache because libraries outside the loader's default directories are found by nothing else, and it gets it
//! from here rather than from `ldconfig -r JAIL`, which costs a process and has root parse whatever lies in the jail. The layout
//! is glibc's (elf/cache.c, sysdeps/generic/dl-cache.h); the order matters, since ld.so searches it by halves.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::host::Host;
use crate::ldcache::LdCache;
use crate::tree::{Content, Tree};

/// Where it lies.
pub(crate) const PATH: &str = "/etc/ld.so.cache";

const MAGIC: &[u8; 20] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const LINE: usize = 24;
/// What `header.flags` says of the byte order.
const ENDIAN: u8 = if cfg!(target_endian = "big") { 3 } else { 2 };

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    name: Vec<u8>,
    path: Vec<u8>,
    flags: i32,
}

/// The cache for a tree; `None` if the host has none (musl, or a cache of an unknown kind).
pub(crate) fn of_tree(host: &dyn Host, tree: &Tree) -> Option<Vec<u8>> {
    let cache = LdCache::parse(&host.read(Path::new(PATH), 32 << 20).ok()?)?;
    let mut real_dirs: HashMap<PathBuf, Option<PathBuf>> = HashMap::new();
    let names: BTreeSet<&OsStr> = tree
        .nodes
        .iter()
        .filter(|(_, node)| matches!(node.content, Content::Copy { .. } | Content::Symlink { .. }))
        .filter_map(|(path, _)| path.file_name())
        .collect();
    let mut lines = Vec::new();
    for name in names {
        for entry in cache.get(name.as_bytes()).iter().filter(|entry| entry.hwcap.is_none()) {
            let path = Path::new(OsStr::from_bytes(&entry.path));
            let (Some(dir), Some(file)) = (path.parent(), path.file_name()) else { continue };
            let real = real_dirs.entry(dir.to_path_buf()).or_insert_with(|| host.canonical(dir).ok());
            if real.as_ref().is_some_and(|dir| tree.nodes.contains_key(&dir.join(file))) {
                let (name, path) = (name.as_bytes().to_vec(), entry.path.clone());
                lines.push(Line { name, path, flags: entry.flags });
            }
        }
    }
    Some(write(lines))
}

fn write(mut lines: Vec<Line>) -> Vec<u8> {
    // Downwards, as ld.so expects it; among equal names the higher flags first.
    lines.sort_by(|a, b| compare(&b.name, &a.name).then(b.flags.cmp(&a.flags)).then(a.path.cmp(&b.path)));
    let mut strings = Vec::new();
    let start = HEADER + LINE * lines.len();
    let mut table = Vec::with_capacity(LINE * lines.len());
    let mut add = |text: &[u8]| {
        let at = u32::try_from(start + strings.len()).unwrap_or(u32::MAX);
        strings.extend_from_slice(text);
        strings.push(0);
        at
    };
    for line in &lines {
        let (name, path) = (add(&line.name), add(&line.path));
        table.extend_from_slice(&line.flags.to_ne_bytes());
        table.extend_from_slice(&name.to_ne_bytes());
        table.extend_from_slice(&path.to_ne_bytes());
        // osversion and hwcap: any.
        table.extend_from_slice(&[0; 12]);
    }
    let count = u32::try_from(lines.len()).unwrap_or(u32::MAX);
    let length = u32::try_from(strings.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(start + strings.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&count.to_ne_bytes());
    out.extend_from_slice(&length.to_ne_bytes());
    out.push(ENDIAN);
    out.resize(HEADER, 0);
    out.extend_from_slice(&table);
    out.extend_from_slice(&strings);
    out
}

/// ld.so's order of names: digits as numbers, and a digit after anything else.
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        match (a.first(), b.first()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) => match (x.is_ascii_digit(), y.is_ascii_digit()) {
                (true, true) => {
                    let order = number(&mut a).cmp(&number(&mut b));
                    if order != Ordering::Equal {
                        return order;
                    }
                }
                (true, false) => return Ordering::Greater,
                (false, true) => return Ordering::Less,
                (false, false) if x == y => (a, b) = (&a[1..], &b[1..]),
                (false, false) => return x.cmp(y),
            },
        }
    }
}

fn number(text: &mut &[u8]) -> u64 {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let value = text[..digits]
        .iter()
        .fold(0u64, |value, digit| value.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    *text = &text[digits..];
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, path: &str) -> Line {
        Line { name: name.into(), path: path.into(), flags: 0x303 }
    }

    #[test]
    fn names_sort_as_the_loader_searches() {
        assert_eq!(compare(b"libx.so.10", b"libx.so.9"), Ordering::Greater);
        assert_eq!(compare(b"libx.so.1", b"libx.so.1.0"), Ordering::Less);
        assert_eq!(compare(b"lib1.so", b"liba.so"), Ordering::Greater);
        assert_eq!(compare(b"libc.so.6", b"libc.so.6"), Ordering::Equal);
    }

    #[test]
    fn what_is_written_reads_back() {
        let bytes = write(vec![line("libb.so.2", "/opt/x/libb.so.2"), line("liba.so.1", "/lib/liba.so.1")]);
        let cache = LdCache::parse(&bytes).expect("a cache");
        assert_eq!(cache.len(), 2);
        assert_eq!(cache.get(b"libb.so.2")[0].path, b"/opt/x/libb.so.2");
        assert_eq!(cache.get(b"libb.so.2")[0].flags, 0x303);
    }

    /// ldconfig itself reads ours, and finds the names in its own order.
    #[test]
    fn ldconfig_lists_it() {
        let dir = tempfile::tempdir().expect("scratch");
        let file = dir.path().join("cache");
        let names = ["libz.so.1", "libc.so.6", "libx10.so.1", "libx9.so.1", "liba.so.10", "liba.so.9"];
        std::fs::write(&file, write(names.iter().map(|n| line(n, &format!("/lib/{n}"))).collect()))
            .expect("written");
        let Ok(output) = std::process::Command::new("/sbin/ldconfig").arg("-C").arg(&file).arg("-p").output()
        else {
            eprintln!("skipped: no ldconfig here");
            return;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        let order: Vec<&str> = listed.lines().skip(1).filter_map(|l| l.split_whitespace().next()).collect();
        assert_eq!(order, ["libz.so.1", "libx10.so.1", "libx9.so.1", "libc.so.6", "liba.so.10", "liba.so.9"]);
    }
}
