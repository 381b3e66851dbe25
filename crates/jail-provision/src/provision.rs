//! One run, from the names of sections to a finished jail.
//!
//! Everything that can be wrong with the request is found before anything is written. Then the lock, a manifest that says
//! what is about to be made, the steps, one syncfs, and the manifest that says what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::apply::{self, Progress};
use crate::entry::{EntryNeeds, JailIdentity};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::jailroot::{Found, JailRoot};
use crate::manifest::{Manifest, Options, PathText, Record, What};
use crate::plan::{self, Choices, Plan};
use crate::profiles::Profiles;
use crate::recording::{Recording, Seen};
use crate::state::{Lock, State};
use crate::tree::{self, Owner};
use crate::wanted::Wanted;

/// What is asked of a run.
#[derive(Debug, Clone)]
pub struct Request {
    /// The jail's directory.
    pub jail: PathBuf,
    /// Sections to add to those that the jail has.
    pub sections: Vec<String>,
    /// Paths of the host to add, as `jail-cp` does.
    pub wishes: Vec<PathBuf>,
    /// Empty directories to add.
    pub directories: Vec<PathBuf>,
    /// Options to add to those that the jail has.
    pub options: Options,
    /// Overwrite what was changed in the jail or was never ours.
    pub force: bool,
    /// Where sections are looked for.
    pub profiles: Profiles,
    /// Whether a power cut right after the run must not lose it; a cache does without.
    pub durable: bool,
}

impl Request {
    /// A run with the standard profiles and nothing special.
    #[must_use]
    pub fn new(jail: &Path) -> Self {
        Self {
            jail: jail.to_path_buf(),
            sections: Vec::new(),
            wishes: Vec::new(),
            directories: Vec::new(),
            options: Options::default(),
            force: false,
            profiles: Profiles::standard(),
            durable: true,
        }
    }
}

/// What a run found and would do.
#[derive(Debug, Clone)]
pub struct Outlook {
    /// The jail's path, absolute and free of links.
    pub jail: PathBuf,
    /// The jail's name.
    pub name: String,
    /// All its sections, as they were asked for.
    pub sections: Vec<String>,
    /// The steps, and what is kept.
    pub plan: Plan,
    /// What an administrator should know.
    pub notes: Vec<String>,
    /// What the entry will be asked for.
    pub entry: EntryNeeds,
    /// Which section asks the entry for what.
    pub entry_reasons: BTreeMap<String, EntryNeeds>,
    /// The manifest as it is after the run (its files are those of the plan until then).
    pub manifest: Manifest,
    /// Whether even looking was not needed: nothing changed since the last run.
    pub unchanged: bool,
}

/// What people see of a long run.
pub struct Watcher<'a> {
    /// Told about each step.
    pub progress: &'a mut dyn Progress,
    /// Told that another run holds the lock, and which.
    pub waiting: &'a mut dyn FnMut(&str),
}

/// Looks, and writes nothing.
///
/// # Errors
/// The request is wrong, unsafe, or asks for what the host does not have.
pub fn look(request: &Request, state: &dyn Fn(&Path) -> State, host: &dyn Host) -> Result<Outlook> {
    let (jail, path) = find(&request.jail)?;
    let state = state(&path);
    let manifest = state.manifest()?.unwrap_or_else(|| Manifest::new(&path));
    prepare(request, &path, &state, &manifest, jail.as_ref(), host)
}

/// Brings the jail to what its sections, old and new, ask for.
///
/// # Errors
/// As [`look`], or a step failed; then the same run again finishes the work.
pub fn run(
    request: &Request,
    state: &dyn Fn(&Path) -> State,
    host: &dyn Host,
    watcher: &mut Watcher<'_>,
) -> Result<Outlook> {
    let (jail, path) = find(&request.jail)?;
    let state = state(&path);
    let old = state.manifest()?.unwrap_or_else(|| Manifest::new(&path));
    let outlook = prepare(request, &path, &state, &old, jail.as_ref(), host)?;
    if outlook.unchanged {
        return Ok(outlook);
    }
    // From here on we write. The directory first: the lock and the manifest are about a jail that exists.
    let jail = JailRoot::find_or_make(&path)?;
    state.make()?;
    let lock = state.lock(watcher.waiting)?;
    let now = state.manifest()?.unwrap_or_else(|| Manifest::new(&path));
    let outlook =
        if now == old { outlook } else { prepare(request, &path, &state, &now, Some(&jail), host)? };
    if outlook.unchanged {
        // While we waited, the other run did what we came for.
        return Ok(outlook);
    }
    carry_out(outlook, &now, &jail, &state, request.durable, watcher, &lock)
}

fn find(path: &Path) -> Result<(Option<JailRoot>, PathBuf)> {
    match JailRoot::find(path)? {
        Found::Jail(jail) => {
            let path = jail.path().to_path_buf();
            Ok((Some(jail), path))
        }
        Found::Nothing => {
            let absolute = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
            Ok((None, tree::plain(&absolute).unwrap_or(absolute)))
        }
    }
}

/// Everything up to the plan.
fn prepare(
    request: &Request,
    path: &Path,
    state: &State,
    old: &Manifest,
    jail: Option<&JailRoot>,
    host: &dyn Host,
) -> Result<Outlook> {
    let mut sections = old.sections.clone();
    sections.extend(request.sections.iter().filter(|s| !old.sections.contains(s)).cloned());
    let mut seen_names = BTreeSet::new();
    sections.retain(|name| seen_names.insert(name.clone()));
    let mut wishes = old.wishes.clone();
    wishes.extend(request.wishes.iter().cloned().map(PathText));
    let options = Options {
        hard_links: request.options.hard_links || old.options.hard_links,
        devices: request.options.devices || old.options.devices,
    };
    let wanted = Wanted::new(&request.profiles.resolve(&sections)?, &wishes, options)
        .with_directories(&request.directories);
    let identity = jail.map(JailRoot::identity).transpose()?;
    let mut manifest = Manifest {
        jail: PathText(path.to_path_buf()),
        sections,
        wishes,
        options,
        entry: wanted.entry.clone(),
        asked: wanted.asked,
        ..old.clone()
    };
    let mut outlook = Outlook {
        jail: path.to_path_buf(),
        name: state.name().to_owned(),
        sections: manifest.sections.clone(),
        plan: Plan::default(),
        notes: Vec::new(),
        entry: wanted.entry.clone(),
        entry_reasons: wanted.entry_reasons.clone(),
        manifest: old.clone(),
        unchanged: false,
    };
    if let Some(jail) = jail {
        let same = old.asked == wanted.asked && identity == Some((old.device, old.inode)) && !request.force;
        if same && nothing_changed(old, jail, host) {
            outlook.unchanged = true;
            return Ok(outlook);
        }
    }
    let (tree, seen) = grow(host, &wanted)?;
    manifest.seen = seen;
    let choices = Choices { force: request.force, hard_links: options.hard_links };
    outlook.plan = plan::plan(&tree, old, jail.map(|jail| jail as &dyn Host), choices)?;
    outlook.notes = tree.notes;
    outlook.manifest = manifest;
    Ok(outlook)
}

fn grow(host: &dyn Host, wanted: &Wanted) -> Result<(tree::Tree, Seen)> {
    let recording = Recording::new(host);
    let tree = tree::grow(&recording, wanted, Owner::of_this_process())?;
    Ok((tree, recording.into_seen()))
}

/// Whether every question planning would ask has the answer it had, and every file of ours is as we left it: by lstat alone.
fn nothing_changed(old: &Manifest, jail: &JailRoot, host: &dyn Host) -> bool {
    old.pending.is_empty()
        && !old.seen.is_empty()
        && old.seen.still_true(host)
        && old.files.iter().all(|(path, record)| as_left(jail, &path.0, record))
}

pub(crate) fn as_left(jail: &dyn Host, path: &Path, record: &Record) -> bool {
    let Ok(stat) = jail.lstat(path) else { return false };
    let meta = (stat.uid, stat.gid, stat.mode) == (record.uid, record.gid, record.mode);
    match &record.what {
        What::Directory => stat.is_dir() && meta,
        What::File { linked, .. } => {
            stat.is_file()
                && (meta || *linked)
                && record.stamp.is_some_and(|old| plan::same_state(old, (&stat).into(), *linked))
        }
        What::Symlink { target } => stat.is_symlink() && jail.read_link(path).is_ok_and(|t| t == target.0),
        What::Device { device, .. } => stat.rdev == *device && meta,
        What::Accounts { lines } => {
            stat.is_file()
                && jail.read(path, 16 << 20).is_ok_and(|content| {
                    let text = String::from_utf8_lossy(&content);
                    let names: BTreeSet<&str> =
                        text.lines().filter_map(|line| line.split(':').next()).collect();
                    lines.keys().all(|name| names.contains(name.as_str()))
                })
        }
    }
}

/// The part that writes.
fn carry_out(
    mut outlook: Outlook,
    old: &Manifest,
    jail: &JailRoot,
    state: &State,
    durable: bool,
    watcher: &mut Watcher<'_>,
    _lock: &Lock,
) -> Result<Outlook> {
    for path in &old.pending {
        jail.remove_leftover(&path.0)?;
    }
    let (device, inode) = jail.identity()?;
    let mut manifest = Manifest { device, inode, ..outlook.manifest.clone() };
    if !outlook.plan.steps.is_empty() {
        let mut pending = old.pending.clone();
        pending.extend(outlook.plan.steps.iter().map(|step| PathText(step.path.clone())));
        // `asked` stays empty until the end: a killed run must not pass for a finished one.
        let intent = Manifest { asked: None, pending, seen: Seen::default(), device, inode, ..old.clone() };
        state.stage(&intent)?.commit()?;
    }
    manifest.files = apply::apply(&outlook.plan, jail, watcher.progress)?;
    manifest.pending.clear();
    if manifest != *old {
        let staged = state.stage(&manifest)?;
        if durable && !outlook.plan.steps.is_empty() {
            // What the manifest says is there must be on the disk before the manifest is.
            jail.sync()?;
            staged.sync_unless_on(device)?;
        }
        staged.commit()?;
    }
    write_entry(&manifest, state)?;
    outlook.manifest = manifest;
    Ok(outlook)
}

/// entry.toml, for jail-sh; written only if it differs.
pub(crate) fn write_entry(manifest: &Manifest, state: &State) -> Result<()> {
    let identity = JailIdentity {
        name: state.name(),
        device: manifest.device,
        inode: manifest.inode,
        sections: &manifest.sections,
    };
    let text = manifest.entry.to_toml(&identity);
    let path = state.entry_path();
    if std::fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    state.stage_bytes(path, text.as_bytes(), 0o644)?.commit()
}
