//! Takes over a jail that jailkit (or anybody) made: what in it is the host's is found by looking, and remembered as ours.
//!
//! A manifest rests on sections, so the finding becomes one: `adopted.toml` in the jail's state names what the jail holds
//! of the host, for the administrator to read and to shorten. What is no copy of the host's is left alone and told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::check::NOT_OURS;
use crate::digest::Taking;
use crate::error::{Error, Result};
use crate::glob;
use crate::host::{Host, Stat};
use crate::jailroot::JailRoot;
use crate::manifest::{Manifest, PathText, Record, Source, Stamp, What};
use crate::plan::digest_of;
use crate::toml_text;
use crate::tree::{Content, Node, Tree, looks_like_a_library};

/// Files of which a jail has its own: they are no copies even where the names are the same.
const OWN: &[&str] = &["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/ld.so.cache"];

/// What a jail holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Files and links that the host has at the same path, libraries apart.
    pub files: BTreeSet<PathBuf>,
    /// Libraries that the host has at the same path.
    pub libraries: BTreeSet<PathBuf>,
    /// Directories that the host has as well.
    pub directories: BTreeMap<PathBuf, u32>,
    /// Users of the host that the jail's passwd has with the same number, those jailed here left out.
    pub users: BTreeSet<String>,
    /// The same of groups.
    pub groups: BTreeSet<String>,
    /// What the host has not, or has as something else.
    pub foreign: BTreeSet<PathBuf>,
}

/// Looks through a jail.
///
/// # Errors
/// It cannot be read.
pub fn look(jail: &JailRoot, host: &dyn Host) -> Result<Holdings> {
    let mut found = Holdings {
        users: names(jail, host, "/etc/passwd"),
        groups: names(jail, host, "/etc/group"),
        ..Holdings::default()
    };
    let mut todo = vec![PathBuf::from("/")];
    while let Some(dir) = todo.pop() {
        for name in jail.read_dir(&dir).map_err(|e| Error::io("read", &jail.outside(&dir), e))? {
            let path = dir.join(&name);
            let Ok(stat) = jail.lstat(&path) else { continue };
            found.take(&path, &stat, host);
            if stat.is_dir() && !NOT_OURS.iter().any(|skip| path == Path::new(skip)) {
                todo.push(path);
            }
        }
    }
    Ok(found)
}

impl Holdings {
    fn take(&mut self, path: &Path, stat: &Stat, host: &dyn Host) {
        if OWN.iter().any(|own| path == Path::new(own)) {
            return;
        }
        let there = host.lstat(path).ok().filter(|there| there.kind == stat.kind);
        let path = path.to_path_buf();
        match there {
            Some(_) if stat.is_dir() => {
                self.directories.insert(path, stat.mode & 0o1755);
            }
            Some(_) if stat.is_file() || stat.is_symlink() => {
                let kind = if looks_like_a_library(&path) { &mut self.libraries } else { &mut self.files };
                kind.insert(path);
            }
            _ => {
                self.foreign.insert(path);
            }
        }
    }

    /// Paths that no section can name: bytes that are no text, or signs that make a pattern.
    #[must_use]
    pub fn wishes(&self) -> BTreeSet<PathText> {
        self.files.iter().filter(|path| !nameable(path)).cloned().map(PathText).collect()
    }

    /// Libraries that nothing in the tree needs (plug-ins) are named, too.
    pub fn name_the_rest(&mut self, tree: &Tree) {
        let rest: Vec<PathBuf> =
            self.libraries.iter().filter(|p| !tree.nodes.contains_key(*p)).cloned().collect();
        self.files.extend(rest);
    }

    /// The section that asks for what is there. Links to directories come with what lies behind them.
    #[must_use]
    pub fn section(&self, jail: &Path, host: &dyn Host, tree: &Tree) -> String {
        let leads_to_directory = |path: &&PathBuf| !host.stat(path).is_ok_and(|stat| stat.is_dir());
        let mut out = format!(
            "# Written by jail-init --adopt; what the jail held of the host then. Yours to shorten.\ndescription = {}\n",
            toml_text::string(&format!("What {} held when it was adopted", crate::text::encode(jail)))
        );
        let paths: Vec<&str> = self
            .files
            .iter()
            .filter(|path| nameable(path))
            .filter(leads_to_directory)
            .filter_map(|path| path.to_str())
            .collect();
        let users: Vec<&str> = self.users.iter().map(String::as_str).collect();
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        for (key, words) in [("paths", paths), ("users", users), ("groups", groups)] {
            out.push_str(&toml_text::long_list(key, &words));
        }
        for (path, mode) in self.directories.iter().filter(|(path, _)| !tree.nodes.contains_key(*path)) {
            if let Some(path) = path.to_str() {
                out.push_str(&toml_text::directory(path, *mode));
            }
        }
        out
    }
}

fn nameable(path: &Path) -> bool {
    path.to_str().is_some_and(|text| !glob::is_pattern(text) && !text.chars().any(char::is_control))
}

/// Names of an account file that mean the same on both sides; a jailed account's line is jail-user's, not ours.
fn names(jail: &JailRoot, host: &dyn Host, file: &str) -> BTreeSet<String> {
    let read = |from: &dyn Host| {
        let bytes = from.read(Path::new(file), 16 << 20).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let fields = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.to_owned(), line.contains("/./")))
    };
    let hosts: BTreeMap<String, (String, bool)> = read(host)
        .lines()
        .filter_map(fields)
        .map(|(name, number, jailed)| (name, (number, jailed)))
        .collect();
    let inside = read(jail);
    let same = inside.lines().filter_map(fields).filter(|(name, number, _)| {
        hosts.get(name).is_some_and(|(theirs, jailed)| theirs == number && !jailed)
    });
    same.map(|(name, ..)| name).collect()
}

/// The manifest that a run of ours would have left: of each path of the tree that is there, how it is there.
///
/// # Errors
/// The jail cannot be read.
pub fn remember(tree: &Tree, jail: &JailRoot, host: &dyn Host, manifest: &mut Manifest) -> Result<()> {
    (manifest.device, manifest.inode) = jail.identity()?;
    for (path, node) in &tree.nodes {
        let Ok(stat) = jail.lstat(path) else { continue };
        let Some((what, source, stamp)) = as_found(path, node, &stat, jail, host)? else { continue };
        let (uid, gid, mode) = (stat.uid, stat.gid, stat.mode);
        let record = Record { what, uid, gid, mode, source, stamp, why: node.why.clone() };
        manifest.files.insert(PathText(path.clone()), record);
    }
    Ok(())
}

type AsFound = (What, Option<Source>, Option<Stamp>);

fn as_found(
    path: &Path,
    node: &Node,
    stat: &Stat,
    jail: &JailRoot,
    host: &dyn Host,
) -> Result<Option<AsFound>> {
    let io = |e| Error::io("read", path, e);
    Ok(match &node.content {
        Content::Directory if stat.is_dir() => Some((What::Directory, None, None)),
        Content::Symlink { .. } if stat.is_symlink() => {
            let target = PathText(jail.read_link(path).map_err(io)?);
            Some((What::Symlink { target }, None, None))
        }
        Content::Text(_) if stat.is_file() => {
            let digest = jail.digest(path)?;
            Some((What::File { digest, linked: false }, None, Some(Stamp::from(stat))))
        }
        Content::Accounts(lines) if stat.is_file() => {
            Some((What::Accounts { lines: lines.clone() }, None, None))
        }
        Content::Copy { source, stat: theirs, .. } if stat.is_file() => {
            let digest = jail.digest(path)?;
            let same =
                theirs.size == stat.size && digest_of(host, source, Taking::new()).map_err(io)? == digest;
            // An old copy of a program is renewed; a file of /etc that differs is the administrator's.
            if !same && path.starts_with("/etc") {
                return Ok(None);
            }
            let stamp = if same { Stamp::from(theirs) } else { Stamp(0, 0, 0, 0, 0, 0) };
            let source = Source { path: PathText(source.clone()), stamp };
            let linked = (theirs.dev, theirs.ino) == (stat.dev, stat.ino);
            Some((What::File { digest, linked }, Some(source), Some(Stamp::from(stat))))
        }
        _ => None,
    })
}
