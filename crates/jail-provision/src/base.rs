//! A base: one set of files that many jails show, kept in generations that never change once they are made.
//!
//! `/home/jails/base/g3` is what cells see; an update that has something to do lays `g4` beside it and then says by one
//! rename that `g4` is current (`base.toml` in the base's state, which jail-sh reads). A cell holds the generation that
//! it was made from; the next update removes what nobody holds. A jail on a base has only its own few files: its passwd
//! and group, and what its own sections bring that the base has not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::host::{Host as _, RealHost};
use crate::jailroot::Meta;
use crate::manifest::{Manifest, PathText, Stamp, What, Why};
use crate::plan;
use crate::state::State;
use crate::takedown;
use crate::text;
use crate::toml_text;
use crate::tree::{Content, Node, Owner, Tree};

/// The base of a jail, as its state says it is now.
///
/// A run over a thousand jails on one base reads it once: it is read again only when its file is another.
pub(crate) fn of_jail(path: &Path, state: &State) -> Result<Arc<Manifest>> {
    static READ: Mutex<BTreeMap<PathBuf, (Stamp, Arc<Manifest>)>> = Mutex::new(BTreeMap::new());
    let file = state.of_other(path).manifest_path();
    let Ok(stat) = RealHost::system().lstat(&file) else { return read(path, state).map(Arc::new) };
    let stamp = Stamp::from(&stat);
    let mut read_before = READ.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((old, manifest)) = read_before.get(&file) {
        if *old == stamp {
            return Ok(Arc::clone(manifest));
        }
    }
    let manifest = Arc::new(read(path, state)?);
    read_before.insert(file, (stamp, Arc::clone(&manifest)));
    Ok(manifest)
}

fn read(path: &Path, state: &State) -> Result<Manifest> {
    if path.to_str().is_none() {
        return Err(Error::usage(format!("the base's path {} is not UTF-8 text", text::quote(path))));
    }
    match state.of_other(path).manifest()? {
        Some(manifest) if manifest.generation.is_some() => Ok(manifest),
        Some(_) => {
            Err(Error::usage(format!("{} is a jail, but not one that others can lie on", text::quote(path)))
                .hint("make a base with 'jail-init --as-base -j DIR SECTION…'"))
        }
        None => Err(Error::failed(format!("there is no base {}", text::quote(path)))
            .hint(format!("jail-init --as-base -j {} basicshell makes one", text::encode(path)))),
    }
}

/// What a jail's own answer rests on besides its own sections: another state of the base gives another plan.
pub(crate) fn asked(own: Option<Digest>, base: &Manifest) -> Option<Digest> {
    own.map(|own| {
        Digest::of(format!("{own} {:?} {:?} {:?}", base.jail, base.generation, base.asked).as_bytes())
    })
}

/// The part of a tree that lies in the jail itself: what the base has not, and the account files, which are the jail's own
/// because jail-user writes them.
pub(crate) fn own_part(tree: Tree, base: &Manifest, hard_links: bool, owner: Owner) -> Tree {
    let in_base = |path: &Path, node: &Node| {
        base.get(path).is_some_and(|record| plan::difference(node, record, hard_links).is_none())
    };
    let mut kept: BTreeMap<PathBuf, Node> = BTreeMap::new();
    for (path, node) in &tree.nodes {
        if !in_base(path, node) && node.content != Content::Directory {
            kept.insert(path.clone(), node.clone());
        }
    }
    for file in ["/etc/passwd", "/etc/group"] {
        let path = PathBuf::from(file);
        let mut lines = match base.get(&path).map(|record| &record.what) {
            Some(What::Accounts { lines }) => lines.clone(),
            _ => BTreeMap::new(),
        };
        if let Some(Content::Accounts(own)) = tree.nodes.get(&path).map(|node| &node.content) {
            lines.extend(own.clone());
        }
        let meta = Meta { uid: owner.uid, gid: owner.gid, mode: 0o644 };
        kept.insert(path, Node { content: Content::Accounts(lines), meta, why: Why::EveryJail });
    }
    // Homes lie below it.
    kept.insert(PathBuf::from("/home"), directory(owner, Why::EveryJail));
    let own_directories: Vec<PathBuf> = tree
        .nodes
        .iter()
        .filter(|(path, node)| node.content == Content::Directory && !in_base(path, node))
        .map(|(path, _)| path.clone())
        .collect();
    let needed: BTreeSet<PathBuf> = kept
        .keys()
        .chain(&own_directories)
        .flat_map(|path| path.ancestors().skip(1))
        .filter(|dir| dir.parent().is_some())
        .map(Path::to_path_buf)
        .chain(own_directories.iter().cloned())
        .collect();
    for path in needed {
        let node = tree.nodes.get(&path).cloned().unwrap_or_else(|| directory(owner, Why::EveryJail));
        kept.entry(path).or_insert(node);
    }
    Tree { nodes: kept, notes: tree.notes, broken: tree.broken }
}

fn directory(owner: Owner, why: Why) -> Node {
    let meta = Meta { uid: owner.uid, gid: owner.gid, mode: 0o755 };
    Node { content: Content::Directory, meta, why }
}

/// A name that no generation of this base has or had since the last tidying.
pub(crate) fn next_generation(path: &Path, current: Option<&str>) -> String {
    let number = |name: &str| name.strip_prefix('g').and_then(|digits| digits.parse::<u64>().ok());
    let there = generations(path).into_iter();
    let last = there.filter_map(|name| number(&name)).chain(current.and_then(number)).max().unwrap_or(0);
    format!("g{}", last + 1)
}

fn generations(path: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let is_one = |name: &String| {
        name.strip_prefix('g').is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
    };
    names.filter(is_one).collect()
}

/// Says that a generation is current, by rename: an entry sees the old one or the new one, and both are whole.
pub(crate) fn switch(manifest: &Manifest, state: &State) -> Result<()> {
    let Some(generation) = &manifest.generation else { return Ok(()) };
    let lock = state.generation_lock(generation);
    std::fs::File::options()
        .create(true)
        .append(true)
        .open(&lock)
        .map_err(|e| Error::io("make the lock", &lock, e))?;
    let Manifest { device, inode, .. } = manifest;
    let text = format!(
        "# Written by jail-init; which generation of the base is current.\nversion = 1\ngeneration = {}\n\
         device = {device}\ninode = {inode}\n",
        toml_text::string(generation)
    );
    let path = state.base_path();
    if std::fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    state.stage_bytes(path, text.as_bytes(), 0o644)?.commit()
}

/// Removes generations that are not current and that nobody holds. Answers what could not be removed, and why.
pub(crate) fn tidy(manifest: &Manifest, state: &State) -> Vec<String> {
    let mut notes = Vec::new();
    for name in generations(&manifest.jail.0) {
        if manifest.generation.as_ref() == Some(&name) {
            continue;
        }
        let lock = state.generation_lock(&name);
        // Held until the directory is gone: an entry that comes now waits, and then finds another one current.
        let held = match File::open(&lock) {
            Ok(file) if flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_err() => continue,
            Ok(file) => Some(file),
            Err(_) => None,
        };
        if let Err(error) = takedown::remove_tree(&manifest.jail.0.join(&name)) {
            notes.push(format!("the old generation {name} stays: {}", error.message));
            continue;
        }
        if held.is_some() {
            std::fs::remove_file(&lock).unwrap_or_default();
        }
    }
    notes
}

/// The jails that lie on a base.
///
/// # Errors
/// The directory of states cannot be read.
pub fn jails_on(base: &Path, states: &Path) -> Result<Vec<PathBuf>> {
    let known = crate::inventory::jails(states)?;
    let manifests = known.into_iter().filter_map(|known| known.manifest.ok());
    let on = |manifest: &Manifest| manifest.base.as_ref() == Some(&PathText(base.to_path_buf()));
    Ok(manifests.filter(on).map(|manifest| manifest.jail.0).collect())
}
