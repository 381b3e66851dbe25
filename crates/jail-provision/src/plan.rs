//! The plan: every step that would bring a jail to what its tree asks, in order, each with its reason. Pure data.
//!
//! Planning looks at the tree, the manifest and the jail, and decides everything; applying decides nothing. What it never
//! does is touch what is not ours: a file that the manifest does not name, or one that was changed in the jail since we
//! wrote it, is kept and reported, unless the administrator says `-f`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::digest::{Fingerprint, Taking};
use crate::error::{Error, Result};
use crate::host::{Host, Stat};
use crate::jailroot::{Meta, Privilege};
use crate::manifest::{Manifest, PathText, Record, Source, Stamp, What, Why};
use crate::tree::{Content, Node, Tree};

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make a directory, or give one its owner and mode.
    Directory,
    /// Copy a file of the host.
    Copy {
        /// The host's file.
        source: PathBuf,
        /// Its size when the plan was made, for the progress line.
        size: u64,
        /// Whether set-uid bits and file capabilities are kept.
        privilege: Privilege,
    },
    /// Hard-link a file of the host; where that cannot be done, copy it.
    Link {
        /// The host's file.
        source: PathBuf,
        /// Its size when the plan was made.
        size: u64,
    },
    /// Write a file of our own.
    Write {
        /// Its content.
        content: Vec<u8>,
    },
    /// Make a symbolic link.
    Symlink {
        /// What it points to.
        target: PathBuf,
    },
    /// Make a device node.
    Device {
        /// Block rather than character.
        block: bool,
        /// st_rdev.
        device: u64,
    },
    /// Write passwd or group with our lines in it.
    Accounts {
        /// The whole file.
        content: Vec<u8>,
        /// Our lines, by name.
        lines: BTreeMap<String, String>,
    },
    /// Remove a file, link, or empty directory.
    Remove,
}

impl Action {
    /// Bytes of a file of the host that the step copies, as far as the plan knows.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Copy { size, .. } | Self::Link { size, .. } => *size,
            _ => 0,
        }
    }
}

/// Why a step is due now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// It was never there.
    New,
    /// It was ours and is gone.
    Missing,
    /// The host's file changed.
    HostChanged,
    /// The sections ask for something else now.
    Asked,
    /// A run was killed before it was done.
    Unfinished,
    /// `-f`.
    Forced,
    /// Nothing needs it any more.
    Unwanted,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The path in the jail.
    pub path: PathBuf,
    /// What is done.
    pub action: Action,
    /// Owner and mode afterwards.
    pub meta: Meta,
    /// Why the path is in the jail.
    pub why: Why,
    /// Why the step is due.
    pub cause: Cause,
}

/// Something in the jail that is not as the sections want it, and that we leave alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// It was ours, and somebody changed it in the jail.
    Changed,
    /// It was never ours.
    Foreign,
    /// It is a directory where a file is due, or the other way round.
    OtherKind,
}

/// The whole plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order: parents before children, removals last and children first.
    pub steps: Vec<Step>,
    /// What is left as it is, and why.
    pub kept: BTreeMap<PathBuf, Kept>,
    /// Records of what needs no step.
    pub unchanged: BTreeMap<PathText, Record>,
}

/// What an administrator may change about planning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choices {
    /// Overwrite what was changed in the jail or was never ours.
    pub force: bool,
    /// Hard links instead of copies.
    pub hard_links: bool,
}

/// How a path of the jail stands to us.
enum Standing<'a> {
    Absent,
    Ours(&'a Record),
    Unfinished,
    Foreign,
}

/// Makes the plan. `jail` is `None` if there is no jail yet.
///
/// # Errors
/// The jail cannot be read.
pub fn plan(tree: &Tree, manifest: &Manifest, jail: Option<&dyn Host>, choices: Choices) -> Result<Plan> {
    let mut planner = Planner { manifest, jail, choices, plan: Plan::default() };
    for (path, node) in &tree.nodes {
        planner.node(path, node)?;
    }
    let gone: BTreeSet<&PathText> =
        manifest.files.keys().chain(&manifest.pending).filter(|p| !tree.nodes.contains_key(&p.0)).collect();
    for path in gone.into_iter().rev() {
        planner.unwanted(&path.0)?;
    }
    Ok(planner.plan)
}

struct Planner<'a> {
    manifest: &'a Manifest,
    jail: Option<&'a dyn Host>,
    choices: Choices,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn node(&mut self, path: &Path, node: &Node) -> Result<()> {
        let there = self.look(path)?;
        if let Content::Accounts(lines) = &node.content {
            return self.accounts(path, node, lines, there.as_ref());
        }
        let Some(there) = there else {
            let cause = match self.standing(path, false) {
                Standing::Ours(_) => Cause::Missing,
                Standing::Unfinished => Cause::Unfinished,
                _ => Cause::New,
            };
            self.step(path, node, cause);
            return Ok(());
        };
        match self.standing(path, true) {
            Standing::Absent => {}
            Standing::Foreign => self.foreign(path, node, &there)?,
            Standing::Unfinished => self.replace(path, node, &there, Cause::Unfinished),
            Standing::Ours(record) => self.ours(path, node, &there, record)?,
        }
        Ok(())
    }

    fn standing(&self, path: &Path, there: bool) -> Standing<'a> {
        let key = PathText(path.to_path_buf());
        if self.manifest.pending.contains(&key) {
            return Standing::Unfinished;
        }
        match self.manifest.files.get(&key) {
            Some(record) => Standing::Ours(record),
            None if there => Standing::Foreign,
            None => Standing::Absent,
        }
    }

    /// Never ours: a directory serves as it is, anything else stays unless forced.
    fn foreign(&mut self, path: &Path, node: &Node, there: &Stat) -> Result<()> {
        let serves = match &node.content {
            Content::Directory => there.is_dir() || self.leads_to_directory(path),
            Content::Symlink { target } => there.is_symlink() && self.target(path)? == *target,
            _ => false,
        };
        if serves {
            return Ok(());
        }
        if self.choices.force {
            self.replace(path, node, there, Cause::Forced);
        } else {
            self.plan.kept.insert(path.to_path_buf(), Kept::Foreign);
        }
        Ok(())
    }

    fn ours(&mut self, path: &Path, node: &Node, there: &Stat, record: &Record) -> Result<()> {
        let Some(fresh) = self.as_we_left_it(path, there, record)? else {
            return self.changed(path, node, there, record);
        };
        match self.difference(node, record) {
            None => {
                let record = Record { why: node.why.clone(), stamp: fresh, ..record.clone() };
                self.plan.unchanged.insert(PathText(path.to_path_buf()), record);
            }
            Some(cause) => self.replace(path, node, there, cause),
        }
        Ok(())
    }

    /// Changed in the jail since we wrote it. What it was changed to may be just what is wanted.
    fn changed(&mut self, path: &Path, node: &Node, there: &Stat, record: &Record) -> Result<()> {
        let key = PathText(path.to_path_buf());
        if self.choices.force {
            self.replace(path, node, there, Cause::Forced);
            return Ok(());
        }
        let as_wanted = match &node.content {
            Content::Directory => there.is_dir() && meta_of(there) == node.meta,
            Content::Symlink { target } => there.is_symlink() && self.target(path)? == *target,
            _ => false,
        };
        if as_wanted {
            let record = Record { why: node.why.clone(), ..record_of(node, record.stamp) };
            self.plan.unchanged.insert(key, record);
            return Ok(());
        }
        self.plan.kept.insert(path.to_path_buf(), Kept::Changed);
        self.plan.unchanged.insert(key, record.clone());
        Ok(())
    }

    /// The stamp to remember if the path is as we left it; `None` if somebody changed it.
    fn as_we_left_it(&self, path: &Path, there: &Stat, record: &Record) -> Result<Option<Option<Stamp>>> {
        let stamp = Stamp::from(there);
        let meta = Meta { uid: record.uid, gid: record.gid, mode: record.mode };
        let same = match &record.what {
            What::Directory => there.is_dir() && meta_of(there) == meta,
            What::Symlink { target } => there.is_symlink() && self.target(path)? == target.0,
            What::Device { block, device } => {
                is_device(there) == Some(*block) && there.rdev == *device && meta_of(there) == meta
            }
            What::Accounts { .. } => there.is_file(),
            What::File { digest, linked } => {
                there.is_file()
                    && (*linked || meta_of(there) == meta)
                    && (record.stamp.is_some_and(|old| same_state(old, stamp, *linked))
                        || self.still_has(path, *digest)?)
            }
        };
        let remember = matches!(record.what, What::File { .. }).then_some(stamp);
        Ok(same.then_some(remember))
    }

    fn difference(&self, node: &Node, record: &Record) -> Option<Cause> {
        difference(node, record, self.choices.hard_links)
    }

    fn replace(&mut self, path: &Path, node: &Node, there: &Stat, cause: Cause) {
        let wants_directory = node.content == Content::Directory;
        if there.is_dir() && !wants_directory {
            self.plan.kept.insert(path.to_path_buf(), Kept::OtherKind);
            return;
        }
        if wants_directory && !there.is_dir() {
            let (path, meta, why) = (path.to_path_buf(), node.meta, node.why.clone());
            self.plan.steps.push(Step { path, action: Action::Remove, meta, why, cause });
        }
        self.step(path, node, cause);
    }

    fn step(&mut self, path: &Path, node: &Node, cause: Cause) {
        let action = match &node.content {
            Content::Directory => Action::Directory,
            Content::Symlink { target } => Action::Symlink { target: target.clone() },
            Content::Text(content) => Action::Write { content: content.clone() },
            Content::Device { block, device } => Action::Device { block: *block, device: *device },
            Content::Copy { source, stat, privilege } => {
                let (source, size) = (source.clone(), stat.size);
                if self.choices.hard_links && *privilege == Privilege::Drop {
                    Action::Link { source, size }
                } else {
                    Action::Copy { source, size, privilege: *privilege }
                }
            }
            Content::Accounts(_) => return,
        };
        let (path, meta, why) = (path.to_path_buf(), node.meta, node.why.clone());
        self.plan.steps.push(Step { path, action, meta, why, cause });
    }

    /// passwd and group are shared with jail-user and the administrator: our lines are added or kept up to date, and every
    /// other byte stays.
    fn accounts(
        &mut self,
        path: &Path,
        node: &Node,
        lines: &BTreeMap<String, String>,
        there: Option<&Stat>,
    ) -> Result<()> {
        let key = PathText(path.to_path_buf());
        let old = match self.manifest.files.get(&key).map(|record| &record.what) {
            Some(What::Accounts { lines }) => lines.clone(),
            _ => BTreeMap::new(),
        };
        let content = match (there, self.jail) {
            (None, _) | (_, None) => Vec::new(),
            (Some(stat), Some(jail)) if stat.is_file() => {
                jail.read(path, 16 << 20).map_err(|e| Error::io("read", path, e))?
            }
            _ => {
                self.plan.kept.insert(path.to_path_buf(), Kept::OtherKind);
                return Ok(());
            }
        };
        let merged = merge_lines(&content, lines, &old);
        let what = What::Accounts { lines: lines.clone() };
        // Owner and mode of a file that is there are the administrator's business.
        let meta = there.map_or(node.meta, meta_of);
        if there.is_some() && merged == content {
            let Meta { uid, gid, mode } = meta;
            let record = Record { what, uid, gid, mode, ..record_of(node, None) };
            self.plan.unchanged.insert(key, record);
            return Ok(());
        }
        let cause = if there.is_none() { Cause::New } else { Cause::Asked };
        let action = Action::Accounts { content: merged, lines: lines.clone() };
        self.plan.steps.push(Step { path: path.to_path_buf(), action, meta, why: node.why.clone(), cause });
        Ok(())
    }

    /// Ours, and nothing asks for it any more.
    fn unwanted(&mut self, path: &Path) -> Result<()> {
        let Some(there) = self.look(path)? else { return Ok(()) };
        let record = match self.standing(path, true) {
            Standing::Ours(record) => record,
            // A killed run was about to make it and may have: only what has no other owner is removed.
            Standing::Unfinished => {
                if there.is_file() || there.is_symlink() {
                    self.remove(path, &there, Why::EveryJail);
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        if matches!(record.what, What::Accounts { .. }) {
            return Ok(());
        }
        if self.as_we_left_it(path, &there, record)?.is_some() || self.choices.force {
            self.remove(path, &there, record.why.clone());
        } else {
            self.plan.kept.insert(path.to_path_buf(), Kept::Changed);
            self.plan.unchanged.insert(PathText(path.to_path_buf()), record.clone());
        }
        Ok(())
    }

    fn remove(&mut self, path: &Path, there: &Stat, why: Why) {
        let step = Step {
            path: path.to_path_buf(),
            action: Action::Remove,
            meta: meta_of(there),
            why,
            cause: Cause::Unwanted,
        };
        self.plan.steps.push(step);
    }

    fn look(&self, path: &Path) -> Result<Option<Stat>> {
        let Some(jail) = self.jail else { return Ok(None) };
        match jail.lstat(path) {
            Ok(stat) => Ok(Some(stat)),
            Err(e)
                if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
            {
                Ok(None)
            }
            Err(error) => Err(Error::io("look at the jail's", path, error)),
        }
    }

    fn target(&self, path: &Path) -> Result<PathBuf> {
        let Some(jail) = self.jail else { return Ok(PathBuf::new()) };
        jail.read_link(path).map_err(|e| Error::io("read the jail's", path, e))
    }

    fn leads_to_directory(&self, path: &Path) -> bool {
        self.jail.is_some_and(|jail| jail.stat(path).is_ok_and(|stat| stat.is_dir()))
    }

    fn still_has(&self, path: &Path, digest: Fingerprint) -> Result<bool> {
        let Some(jail) = self.jail else { return Ok(false) };
        let now = digest_of(jail, path, Taking::like(digest));
        now.map(|now| now == digest).map_err(|e| Error::io("read the jail's", path, e))
    }
}

/// The fingerprint of a file of any host, a chunk at a time.
///
/// # Errors
/// It cannot be read.
pub fn digest_of(host: &dyn Host, path: &Path, mut taking: Taking) -> std::io::Result<Fingerprint> {
    let file = host.open(path)?;
    let mut chunk = vec![0; 1 << 18];
    let mut offset = 0;
    loop {
        let got = file.read_at(&mut chunk, offset)?;
        taking.update(&chunk[..got]);
        offset += got as u64;
        if got < chunk.len() {
            return Ok(taking.finish());
        }
    }
}

/// The whole file with our lines in it: a missing one is appended, one that still stands as we wrote it is brought up to
/// date, and one that somebody changed is left.
fn merge_lines(content: &[u8], lines: &BTreeMap<String, String>, old: &BTreeMap<String, String>) -> Vec<u8> {
    let name_of = |line: &[u8]| line.split(|b| *b == b':').next().unwrap_or_default().to_vec();
    let mut out = Vec::with_capacity(content.len() + 64);
    let mut present = BTreeSet::new();
    for line in content.split_inclusive(|b| *b == b'\n') {
        let bare = line.strip_suffix(b"\n").unwrap_or(line);
        let name = String::from_utf8_lossy(&name_of(bare)).into_owned();
        match (lines.get(&name), old.get(&name)) {
            (Some(new), Some(old)) if old.as_bytes() == bare && new != old => {
                out.extend_from_slice(new.as_bytes());
                out.push(b'\n');
            }
            _ => out.extend_from_slice(line),
        }
        present.insert(name);
    }
    for line in lines.iter().filter(|(name, _)| !present.contains(*name)).map(|(_, line)| line) {
        // A last line without a newline must not swallow ours.
        if out.last().is_some_and(|b| *b != b'\n') {
            out.push(b'\n');
        }
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    out
}

/// What a node asks that the record of its path is not.
pub(crate) fn difference(node: &Node, record: &Record, hard_links: bool) -> Option<Cause> {
    let meta = Meta { uid: record.uid, gid: record.gid, mode: record.mode };
    let asked = match (&node.content, &record.what) {
        (Content::Directory, What::Directory) => meta == node.meta,
        (Content::Symlink { target }, What::Symlink { target: old }) => *target == old.0,
        (Content::Device { block, device }, What::Device { block: b, device: d }) => {
            (block, device) == (b, d) && meta == node.meta
        }
        (Content::Text(content), What::File { digest, .. }) => {
            record.source.is_none() && digest.is_of(content) && meta == node.meta
        }
        (Content::Copy { source, stat, privilege }, What::File { linked, .. }) => {
            let Some(old) = &record.source else { return Some(Cause::Asked) };
            if old.path.0 != *source || (!linked && meta != node.meta) {
                return Some(Cause::Asked);
            }
            if !same_state(old.stamp, Stamp::from(stat), *linked) {
                return Some(Cause::HostChanged);
            }
            // A file that could not be linked was copied, and stays one; the other way round is a wish to part.
            !linked || (hard_links && *privilege == Privilege::Drop)
        }
        _ => false,
    };
    if asked { None } else { Some(Cause::Asked) }
}

/// The record of a node as planned, its state in the jail still unknown.
pub(crate) fn record_of(node: &Node, stamp: Option<Stamp>) -> Record {
    let what = match &node.content {
        Content::Directory => What::Directory,
        Content::Symlink { target } => What::Symlink { target: PathText(target.clone()) },
        Content::Device { block, device } => What::Device { block: *block, device: *device },
        Content::Text(content) => What::File { digest: Fingerprint::of(content), linked: false },
        Content::Copy { .. } => What::File { digest: Fingerprint::Blake3([0; 32]), linked: false },
        Content::Accounts(lines) => What::Accounts { lines: lines.clone() },
    };
    let source = match &node.content {
        Content::Copy { source, stat, .. } => {
            Some(Source { path: PathText(source.clone()), stamp: Stamp::from(stat) })
        }
        _ => None,
    };
    let Meta { uid, gid, mode } = node.meta;
    Record { what, uid, gid, mode, source, stamp, why: node.why.clone() }
}

/// A hard link's ctime moves whenever another jail links the same file.
pub(crate) fn same_state(old: Stamp, new: Stamp, linked: bool) -> bool {
    let Stamp(ino, size, mtime, mtime_nsec, ..) = old;
    if linked { (ino, size, mtime, mtime_nsec) == (new.0, new.1, new.2, new.3) } else { old == new }
}

fn meta_of(stat: &Stat) -> Meta {
    Meta { uid: stat.uid, gid: stat.gid, mode: stat.mode }
}

/// `Some(true)` for a block device, `Some(false)` for a character device.
fn is_device(stat: &Stat) -> Option<bool> {
    match stat.kind {
        crate::host::Kind::BlockDevice => Some(true),
        crate::host::Kind::CharDevice => Some(false),
        _ => None,
    }
}
