//! One run, from the names of sections to a finished jail.
//!
//! Everything that can be wrong with the request is found before anything is written. Then the lock, a manifest that says
//! what is about to be made, the steps, one syncfs, and the manifest that says what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::apply::{self, Progress};
use crate::base;
use crate::crew::side_by_side;
use crate::entry::{EntryNeeds, JailIdentity};
use crate::error::{Error, Result};
use crate::host::{Host, RealHost};
use crate::jailroot::{Found, JailRoot};
use crate::keep;
use crate::manifest::{Manifest, Options, PathText, Record, What};
use crate::plan::{self, Choices, Plan};
use crate::profiles::Profiles;
use crate::recording::{Opened, Recording, Seen};
use crate::state::{Lock, State};
use crate::takedown;
use crate::text;
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
    /// A base for the jail's own files to lie over; a jail that has one keeps it.
    pub base: Option<PathBuf>,
    /// Make a base rather than a jail.
    pub as_base: bool,
    /// Options to add to those that the jail has.
    pub options: Options,
    /// Overwrite what was changed in the jail or was never ours.
    pub force: bool,
    /// Where a program cannot be made to work any more, leave its old files and go on with the rest.
    pub keep_broken: bool,
    /// A directory of sections that wins over all others; remembered.
    pub section_dir: Option<PathBuf>,
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
            base: None,
            as_base: false,
            options: Options::default(),
            force: false,
            keep_broken: false,
            section_dir: None,
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
    /// Programs that keep their old files since the host cannot give new ones, and why.
    pub broken: Vec<Error>,
    /// Whether even looking was not needed: nothing changed since the last run.
    pub unchanged: bool,
    /// Files of the host that planning read and that are still open.
    pub opened: Arc<Opened>,
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
    if is_base(request, &manifest, jail.as_ref())? {
        return look_at_base(request, &state, &manifest, host);
    }
    prepare(request, &path, &state, &manifest, jail.as_ref(), host)
}

/// Looks at many jails side by side. Of those that have nothing to do the answer is here; any other (`None`) is for [`run`].
pub fn up_to_date(requests: &[Request], state: &(dyn Fn(&Path) -> State + Sync)) -> Vec<Option<Outlook>> {
    let mut found: Vec<Option<Outlook>> = requests.iter().map(|_| None).collect();
    let numbered: Vec<(usize, &Request)> = requests.iter().enumerate().collect();
    let work = |(_, request): &(usize, &Request)| {
        // An error is met again, and told, by the run.
        let outlook = look(request, &|path: &Path| state(path), &RealHost::system()).ok()?;
        // A base has more to it than its files.
        (outlook.unchanged && outlook.manifest.generation.is_none()).then_some(outlook)
    };
    side_by_side(&numbered, work, |(number, _), outlook| {
        found[*number] = outlook;
        ControlFlow::Continue(())
    });
    found
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
    if is_base(request, &old, jail.as_ref())? {
        return run_base(request, &state, &old, host, watcher);
    }
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

/// A jail that may not be there yet, and its path made plain.
///
/// # Errors
/// As [`JailRoot::find`].
pub fn find(path: &Path) -> Result<(Option<JailRoot>, PathBuf)> {
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

/// Whether the run is about a base. What is one stays one, and a jail does not become one: those in it would fall out.
fn is_base(request: &Request, old: &Manifest, jail: Option<&JailRoot>) -> Result<bool> {
    if old.generation.is_some() {
        return match &request.base {
            Some(_) => Err(Error::usage(format!("{} is a base itself", text::quote(&old.jail.0)))
                .hint("a base lies on no other one")),
            None => Ok(true),
        };
    }
    let has_files = !old.files.is_empty() || jail.is_some_and(holds_something);
    if request.as_base && has_files {
        return Err(Error::refused(format!(
            "{} is no empty directory, so it can become no base",
            text::quote(&old.jail.0)
        ))
        .hint("make the base elsewhere, and then jails on it with 'jail-init -j JAIL --base BASE'"));
    }
    Ok(request.as_base)
}

fn holds_something(jail: &JailRoot) -> bool {
    jail.read_dir(Path::new("/")).is_ok_and(|names| !names.is_empty())
}

/// What would change in the current generation; all of it, if there is none yet.
fn look_at_base(request: &Request, state: &State, old: &Manifest, host: &dyn Host) -> Result<Outlook> {
    let jail = match &old.generation {
        Some(_) => find(&old.root())?.0,
        None => None,
    };
    let mut outlook = prepare(request, &old.jail.0, state, old, jail.as_ref(), host)?;
    if jail.is_none() {
        outlook.manifest.files.clear();
    }
    Ok(outlook)
}

/// Lays a new generation if the current one is not what it should be, and makes it current.
fn run_base(
    request: &Request,
    state: &State,
    old: &Manifest,
    host: &dyn Host,
    watcher: &mut Watcher<'_>,
) -> Result<Outlook> {
    let outlook = look_at_base(request, state, old, host)?;
    if outlook.unchanged && state.base_path().exists() {
        return Ok(outlook);
    }
    let path = outlook.jail.clone();
    JailRoot::find_or_make(&path)?;
    state.make()?;
    let lock = state.lock(watcher.waiting)?;
    let now = state.manifest()?.unwrap_or_else(|| Manifest::new(&path));
    let outlook = look_at_base(request, state, &now, host)?;
    if let Some(error) = outlook.broken.first() {
        // A generation is made whole or not at all.
        let hint =
            format!("the base keeps its generation {}", now.generation.as_deref().unwrap_or("of before"));
        return Err(error.clone().hint(hint));
    }
    if outlook.plan.steps.is_empty() && now.generation.is_some() && state.base_path().exists() {
        // Only what was looked at is other than it was: nothing in the generation changes.
        let manifest = Manifest { files: outlook.plan.unchanged.clone(), ..outlook.manifest.clone() };
        if !outlook.unchanged && manifest != now {
            state.stage(&manifest)?.commit()?;
        }
        return Ok(outlook);
    }
    let generation = base::next_generation(&path, now.generation.as_deref());
    let root = JailRoot::find_or_make(&path.join(&generation))?;
    let fresh = Manifest {
        generation: Some(generation.clone()),
        files: BTreeMap::new(),
        pending: BTreeSet::new(),
        asked: None,
        seen: Seen::default(),
        ..outlook.manifest.clone()
    };
    let making = State::at(&state.dir().join("making"), state.name());
    takedown::remove_tree(making.dir())?;
    making.make()?;
    let work = prepare(request, &path, state, &fresh, Some(&root), host)?;
    let made = carry_out(work, &fresh, &root, &making, request.durable, watcher, &lock)?;
    // First what entries read, then what we remember: cut short in between, the next run lays one more generation.
    base::switch(&made.manifest, state)?;
    state.stage(&made.manifest)?.commit()?;
    takedown::remove_tree(making.dir())?;
    let mut notes = made.notes.clone();
    notes.extend(base::tidy(&made.manifest, state));
    // What is told is the change, not that the whole of it was laid anew.
    let plan = if now.generation.is_some() { outlook.plan } else { made.plan };
    Ok(Outlook { plan, notes, ..made })
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
    if old.image.is_some() {
        return Err(Error::refused(format!("{} was made from an image", text::quote(path))).hint(
            "mixed with the host's files its programs would break: 'jail-init --from-oci' brings it up to date, and a \
             section belongs into a jail of its own",
        ));
    }
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
    let base_path = request.base.clone().map(PathText).or_else(|| old.base.clone());
    let base = base_path.as_ref().map(|path| base::of_jail(&path.0, state)).transpose()?;
    let own = Own { sections: &sections, wishes: &wishes, base: base.as_deref() };
    let mut wanted = own.wanted(request, &profiles_of(request, old), options)?;
    wanted.keep_broken = request.keep_broken;
    let identity = jail.map(JailRoot::identity).transpose()?;
    let mut manifest = Manifest {
        jail: PathText(path.to_path_buf()),
        sections: sections.clone(),
        wishes: wishes.clone(),
        options,
        base: base_path.clone(),
        section_dir: section_dir(request, old),
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
        broken: Vec::new(),
        unchanged: false,
        opened: Arc::default(),
    };
    if let Some(jail) = jail {
        let same = old.asked == wanted.asked && identity == Some((old.device, old.inode)) && !request.force;
        if same && nothing_changed(old, jail, host, own.asks_nothing()) {
            outlook.unchanged = true;
            return Ok(outlook);
        }
    }
    let (mut tree, seen, opened) = match own.asks_nothing() {
        true => Default::default(),
        false => grow(host, &wanted)?,
    };
    if let Some(base) = &base {
        tree = base::own_part(tree, base, options.hard_links, Owner::of_this_process());
    }
    manifest.seen = seen;
    manifest.privileged = tree.privileged();
    let choices = Choices { force: request.force, hard_links: options.hard_links };
    let held = match jail {
        Some(jail) if !tree.broken.is_empty() => keep::hold(&mut tree, old, jail),
        _ => BTreeSet::new(),
    };
    outlook.plan = plan::plan(&tree, old, jail.map(|jail| jail as &dyn Host), choices)?;
    keep::protect(&mut outlook.plan, &held, old);
    if !tree.broken.is_empty() {
        // The next run must look again, and say so again.
        manifest.asked = None;
        outlook.broken = tree.broken.into_iter().map(|broken| broken.error).collect();
    }
    outlook.notes = tree.notes;
    outlook.opened = Arc::new(opened);
    outlook.manifest = manifest;
    Ok(outlook)
}

/// Where the administrator keeps the sections of this jail, if not where everybody looks.
fn section_dir(request: &Request, old: &Manifest) -> Option<PathText> {
    request.section_dir.clone().map(PathText).or_else(|| old.section_dir.clone())
}

fn profiles_of(request: &Request, old: &Manifest) -> Profiles {
    match section_dir(request, old) {
        Some(dir) => request.profiles.clone().with_first(&dir.0),
        None => request.profiles.clone(),
    }
}

/// What is asked of one jail itself.
struct Own<'a> {
    sections: &'a [String],
    wishes: &'a BTreeSet<PathText>,
    base: Option<&'a Manifest>,
}

impl Own<'_> {
    /// A jail that just shows its base: nothing of the host has to be looked at.
    fn asks_nothing(&self) -> bool {
        self.base.is_some() && self.sections.is_empty() && self.wishes.is_empty()
    }

    /// With the base's sections, if there are any of the jail's own: only together do they give the one cache of the
    /// loader, and the one reason for each path.
    fn wanted(&self, request: &Request, profiles: &Profiles, options: Options) -> Result<Wanted> {
        let mut sections = Vec::new();
        if let Some(base) = self.base.filter(|_| !self.asks_nothing()) {
            sections.extend(base.sections.iter().filter(|s| !self.sections.contains(s)).cloned());
        }
        sections.extend(self.sections.iter().cloned());
        let wishes: BTreeSet<PathText> = match self.base.filter(|_| !self.asks_nothing()) {
            Some(base) => base.wishes.union(self.wishes).cloned().collect(),
            None => self.wishes.clone(),
        };
        let mut wanted = Wanted::new(&profiles.resolve(&sections)?, &wishes, options)
            .with_directories(&request.directories);
        if let Some(base) = self.base {
            wanted.entry.join(&base.entry);
            wanted.asked = base::asked(wanted.asked, base);
        }
        Ok(wanted)
    }
}

fn grow(host: &dyn Host, wanted: &Wanted) -> Result<(tree::Tree, Seen, Opened)> {
    let recording = Recording::new(host);
    let tree = tree::grow(&recording, wanted, Owner::of_this_process())?;
    let (seen, opened) = recording.into_parts();
    Ok((tree, seen, opened))
}

/// Whether every question planning would ask has the answer it had, and every file of ours is as we left it: by lstat alone.
fn nothing_changed(old: &Manifest, jail: &JailRoot, host: &dyn Host, asks_nothing: bool) -> bool {
    old.pending.is_empty()
        && (asks_nothing || !old.seen.is_empty())
        && old.seen.still_true(host)
        && old.files.iter().all(|(path, record)| as_left(jail, &path.0, record))
}

/// Whether a path is as its record says: by lstat, reading no content but accounts'.
#[must_use]
pub fn as_left(jail: &dyn Host, path: &Path, record: &Record) -> bool {
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
    if !old.pending.is_empty() {
        jail.remove_leftovers(old.pending.iter().map(|path| &*path.0))?;
    }
    let (device, inode) = jail.identity()?;
    let mut manifest = Manifest { device, inode, ..outlook.manifest.clone() };
    let fresh = jail.is_new() && old.files.is_empty() && old.pending.is_empty();
    if !outlook.plan.steps.is_empty() {
        let mut pending = old.pending.clone();
        pending.extend(outlook.plan.steps.iter().map(|step| PathText(step.path.clone())));
        // `asked` stays empty until the end: a killed run must not pass for a finished one.
        let intent = Manifest { asked: None, pending, seen: Seen::default(), device, inode, ..old.clone() };
        state.stage(&intent)?.commit()?;
    }
    manifest.files = if fresh {
        let fresh = jail.begin_fresh()?;
        let records = apply::apply(&outlook.plan, fresh.inside(), &outlook.opened, watcher.progress)?;
        fresh.settle(records)?
    } else {
        apply::apply(&outlook.plan, jail, &outlook.opened, watcher.progress)?
    };
    outlook.opened = Arc::default();
    manifest.pending.clear();
    // What was announced must be taken back even where the jail is now just what it was (a forced repair of a link).
    if manifest != *old || !outlook.plan.steps.is_empty() {
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
///
/// # Errors
/// It cannot be written.
pub fn write_entry(manifest: &Manifest, state: &State) -> Result<()> {
    if manifest.generation.is_some() {
        // Nobody enters a base itself.
        return Ok(());
    }
    let identity = JailIdentity {
        name: state.name(),
        device: manifest.device,
        inode: manifest.inode,
        sections: &manifest.sections,
        base: manifest.base.as_ref().and_then(|base| base.0.to_str()),
    };
    let text = manifest.entry.to_toml(&identity);
    let path = state.entry_path();
    if std::fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    state.stage_bytes(path, text.as_bytes(), 0o644)?.commit()
}
