//! The ld.so.cache of a jail: those lines of the host's cache whose library is in the jail.
//!
//! A jail gets a cache because libraries outside the loader's default directories are found by nothing else, and it gets it
//! from here rather than from `ldconfig -r JAIL`, which costs a process and has root parse whatever lies in the jail.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::host::Host;
use crate::ldcache::{self, LdCache, NewLine};
use crate::tree::{Content, Tree};

/// Where it lies.
pub(crate) const PATH: &str = "/etc/ld.so.cache";

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
        // Variants for newer processors stay behind: the loader finds the base library by the other lines.
        for line in cache.lines(name.as_bytes()).filter(|line| line.hwcap.is_none()) {
            let path = Path::new(OsStr::from_bytes(line.path));
            let (Some(dir), Some(file)) = (path.parent(), path.file_name()) else { continue };
            let real = real_dirs.entry(dir.to_path_buf()).or_insert_with(|| host.canonical(dir).ok());
            if real.as_ref().is_some_and(|dir| tree.nodes.contains_key(&dir.join(file))) {
                let (soname, path) = (name.as_bytes().to_vec(), line.path.to_vec());
                lines.push(NewLine { soname, path, flags: line.flags });
            }
        }
    }
    Some(ldcache::write(&lines))
}
