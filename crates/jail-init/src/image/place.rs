//! From the merged tree of an image to a jail: what differs is decided first, then written, all of it through `JailRoot`.
//!
//! As with sections, nothing is touched that is not ours: what was changed in the jail since the last import, or was never
//! put there by us, stays unless the administrator says `-f`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::Scope;

use jail_provision::apply::Progress;
use jail_provision::error::{Error, Result};
use jail_provision::host::{Host as _, Stat};
use jail_provision::jailroot::{JailRoot, Meta, Removed};
use jail_provision::manifest::{Manifest, PathText, Record, Stamp, What as Is, Why};
use jail_provision::plan::Kept;
use jail_provision::{Processors, provision, text};

use super::layer::{Budget, Item, Kind};
use super::merge::{Tree, What};
use super::source::reason;
use super::{Image, unpacked};

/// What has to be done to the jail.
#[derive(Debug, Default)]
pub(super) struct Differences {
    /// Paths to be written, parents first.
    pub(super) write: BTreeSet<PathBuf>,
    /// Paths of an older image that this one lacks.
    pub(super) remove: BTreeSet<PathBuf>,
    /// What is left as it is, and why.
    pub(super) kept: BTreeMap<PathBuf, Kept>,
    /// Records of what needs nothing.
    pub(super) unchanged: BTreeMap<PathText, Record>,
    /// Whether there is nothing in the jail that could be in the way.
    empty: bool,
}

/// Holds the tree against the jail; `empty` if nothing is in that yet.
pub(super) fn compare(
    tree: &Tree,
    old: &Manifest,
    jail: Option<&JailRoot>,
    empty: bool,
    force: bool,
) -> Differences {
    let mut differences = Differences { empty, ..Differences::default() };
    if empty {
        differences.write = tree.nodes.keys().cloned().collect();
        return differences;
    }
    for path in tree.nodes.keys() {
        one(tree, path, old, jail, force, &mut differences);
    }
    let Some(jail) = jail else { return differences };
    for (path, record) in &old.files {
        if tree.nodes.contains_key(below_root(&path.0)) {
            continue;
        }
        match jail.lstat(&path.0) {
            Err(_) => {}
            Ok(_) if force || provision::as_left(jail, &path.0, record) => {
                differences.remove.insert(path.0.clone());
            }
            Ok(_) => drop(differences.kept.insert(path.0.clone(), Kept::Changed)),
        }
    }
    differences
}

fn below_root(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn inner(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}

fn one(
    tree: &Tree,
    path: &Path,
    old: &Manifest,
    jail: Option<&JailRoot>,
    force: bool,
    differences: &mut Differences,
) {
    let at = inner(path);
    let key = PathText(at.clone());
    let there = jail.and_then(|jail| Some((jail, jail.lstat(&at).ok()?)));
    let Some((jail, there)) = there else {
        differences.write.insert(path.to_path_buf());
        return;
    };
    let is_directory = tree.nodes.get(path).is_some_and(|node| node.what == What::Directory);
    match old.files.get(&key) {
        _ if force || old.pending.contains(&key) => drop(differences.write.insert(path.to_path_buf())),
        // A directory of the administrator's serves as it is.
        None if is_directory && there.is_dir() => {}
        None => drop(differences.kept.insert(at, Kept::Foreign)),
        Some(record) if !provision::as_left(jail, &at, record) => {
            differences.kept.insert(at, Kept::Changed);
            differences.unchanged.insert(key, record.clone());
        }
        Some(record) if wants_the_same(tree, path, record) => {
            differences.unchanged.insert(key, record.clone());
        }
        Some(_) => drop(differences.write.insert(path.to_path_buf())),
    }
}

fn wants_the_same(tree: &Tree, path: &Path, record: &Record) -> bool {
    let Some(node) = tree.nodes.get(path) else { return false };
    let meta = owned(node.meta);
    let same_meta = (meta.uid, meta.gid, meta.mode) == (record.uid, record.gid, record.mode);
    match (&node.what, &record.what) {
        (What::Directory, Is::Directory) => same_meta,
        (What::Symlink(target), Is::Symlink { target: old }) => *target == old.0,
        (What::File(n), Is::File { digest, .. }) => {
            same_meta && tree.files.get(*n).and_then(|file| file.digest) == Some(*digest)
        }
        _ => false,
    }
}

/// Whether the owner of a directory of this mode can make things in it.
fn writable(meta: Meta) -> bool {
    meta.mode & 0o700 == 0o700
}

/// Without root everything belongs to the caller.
fn owned(meta: Meta) -> Meta {
    static CALLER: OnceLock<(u32, u32)> = OnceLock::new();
    let (uid, gid) =
        *CALLER.get_or_init(|| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    if uid == 0 { meta } else { Meta { uid, gid, ..meta } }
}

/// Writes what differs; answers the records of what is there then.
///
/// # Errors
/// A step failed; the next run finishes the work.
pub(super) fn place(
    image: &Image<'_>,
    tree: &Tree,
    differences: &Differences,
    jail: &JailRoot,
    progress: &mut dyn Progress,
) -> Result<BTreeMap<PathText, Record>> {
    let records = differences.unchanged.clone();
    let mut placing = Placing { tree, jail, empty: differences.empty, records };
    // Children first; a directory in which something else lies stays.
    for path in differences.remove.iter().rev() {
        let (Removed::Gone | Removed::InUse) = jail.remove(path)?;
    }
    for path in &differences.write {
        placing.way(path)?;
        progress.step(path, 0);
    }
    placing.files(image, &differences.write, progress)?;
    // Last: nothing could be written into a directory that its owner may not write.
    for path in differences.write.iter().rev() {
        placing.finish_directory(path)?;
    }
    Ok(placing.records)
}

struct Placing<'a> {
    tree: &'a Tree,
    jail: &'a JailRoot,
    empty: bool,
    records: BTreeMap<PathText, Record>,
}

impl Placing<'_> {
    /// Directories, so that there is a place for the rest, and links.
    fn way(&mut self, path: &Path) -> Result<()> {
        let Some(node) = self.tree.nodes.get(path) else { return Ok(()) };
        let (at, meta) = (inner(path), owned(node.meta));
        let directory = node.what == What::Directory;
        if !self.empty && self.jail.lstat(&at).is_ok_and(|there| there.is_dir() != directory) {
            if let Removed::InUse = self.jail.remove(&at)? {
                return Err(Error::failed(format!(
                    "a directory with things that are not the image's stands at {}",
                    text::quote(&self.jail.outside(&at))
                ))
                .hint("move it away and run the command again"));
            }
        }
        match &node.what {
            What::Directory if writable(meta) => {
                self.jail.make_directory(&at, meta)?;
                self.record(&at, Is::Directory, meta);
            }
            What::Directory => {
                self.jail.make_directory(&at, Meta { mode: 0o755, ..meta })?;
            }
            What::Symlink(target) => {
                self.jail.symlink(&at, target, meta)?;
                self.record(&at, Is::Symlink { target: PathText(target.clone()) }, meta);
            }
            What::File(_) => {}
        }
        Ok(())
    }

    /// A directory that had to stay open until everything was in it.
    fn finish_directory(&mut self, path: &Path) -> Result<()> {
        let Some(node) = self.tree.nodes.get(path).filter(|node| node.what == What::Directory) else {
            return Ok(());
        };
        let (at, meta) = (inner(path), owned(node.meta));
        if writable(meta) {
            return Ok(());
        }
        self.jail.make_directory(&at, meta)?;
        self.record(&at, Is::Directory, meta);
        Ok(())
    }

    /// Every layer is read once more; what is wanted of it is written under all its names. A second thread writes the small
    /// files, while this one reads on and unpacks.
    fn files(
        &mut self,
        image: &Image<'_>,
        write: &BTreeSet<PathBuf>,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let mut names: HashMap<(usize, usize), Vec<&PathBuf>> = HashMap::new();
        for path in write {
            if let Some(What::File(n)) = self.tree.nodes.get(path).map(|node| &node.what) {
                let content = &self.tree.files[*n];
                names.entry((content.layer, content.number)).or_default().push(path);
            }
        }
        let files = Files { tree: self.tree, jail: self.jail };
        std::thread::scope(|scope| {
            let mut writing = Writing::begin(scope, &files);
            for (layer, descriptor) in image.manifest.layers.iter().enumerate() {
                if !names.keys().any(|(of, _)| *of == layer) {
                    continue;
                }
                let mut stream = unpacked(image.layout, descriptor)?;
                // Counted when the tree was made.
                let mut budget = Budget::new(u64::MAX / 4);
                let mut trouble = None;
                let read =
                    super::layer::read(&mut stream, &mut budget, &mut |number, item: Item, content| {
                        let Some(paths) = names.get(&(layer, number)) else { return Ok(()) };
                        let done = writing.file(paths, &item, content).and_then(|records| {
                            self.take(records, progress);
                            writing
                                .done()
                                .try_for_each(|records| records.map(|records| self.take(records, progress)))
                        });
                        done.map_err(|error| {
                            let sentence = error.message.clone();
                            trouble = Some(error);
                            sentence
                        })
                    });
                match (trouble, read) {
                    (Some(error), _) => return Err(error),
                    (None, Err(why)) => return Err(image.layout.bad(why)),
                    (None, Ok(())) => {}
                }
            }
            writing
                .end()?
                .into_iter()
                .try_for_each(|records| records.map(|records| self.take(records, progress)))
        })
    }

    fn take(&mut self, records: Records, progress: &mut dyn Progress) {
        for (path, record, size) in records {
            progress.step(&path.0, size);
            self.records.insert(path, record);
        }
    }

    fn record(&mut self, at: &Path, what: Is, meta: Meta) {
        self.records.insert(PathText(at.to_path_buf()), record(what, meta, None));
    }
}

fn record(what: Is, meta: Meta, stat: Option<&Stat>) -> Record {
    let Meta { uid, gid, mode } = meta;
    Record { what, uid, gid, mode, source: None, stamp: stat.map(Stamp::from), why: Why::Image }
}

/// What was written: paths, their records, and the bytes of each content, once.
type Records = Vec<(PathText, Record, u64)>;

/// Writes files of the image; from any thread.
struct Files<'a> {
    tree: &'a Tree,
    jail: &'a JailRoot,
}

impl Files<'_> {
    fn write(&self, paths: &[&PathBuf], content: &mut dyn Read) -> Result<Records> {
        let Some((first, others)) = paths.split_first() else { return Ok(Vec::new()) };
        let Some(node) = self.tree.nodes.get(*first) else { return Ok(Vec::new()) };
        let What::File(n) = node.what else { return Ok(Vec::new()) };
        let (file, meta, at) = (&self.tree.files[n], owned(node.meta), inner(first));
        let written = self.jail.write_from(&at, content, file.size, meta, file.mtime)?.ok_or_else(|| {
            Error::failed(format!("the image ends in the middle of {}", text::quote(first)))
        })?;
        for other in others {
            self.jail.link_inside(&inner(other), &at)?;
        }
        let what = Is::File { digest: written.digest, linked: false };
        // A new name changes the ctime of all.
        let stat = if others.is_empty() { written.stat } else { self.look(&at)? };
        let sizes = std::iter::once(file.size).chain(std::iter::repeat(0));
        let records = paths.iter().zip(sizes);
        Ok(records
            .map(|(path, size)| (PathText(inner(path)), record(what.clone(), meta, Some(&stat)), size))
            .collect())
    }

    fn look(&self, at: &Path) -> Result<Stat> {
        self.jail.lstat(at).map_err(|e| Error::io("stat", &self.jail.outside(at), e))
    }
}

/// Files up to this size go to the second thread, whole.
const SMALL: u64 = 1 << 20;
/// They go together once they are as many bytes, or as many: to wake a thread for each costs more than to write it.
const BATCH: usize = 256 << 10;
const MOST_IN_A_BATCH: usize = 128;
/// As many batches may wait for it, so that memory stays bounded.
const WAITING: usize = 4;

/// The second thread, and what it gave back.
struct Writing<'a> {
    files: &'a Files<'a>,
    batch: Batch<'a>,
    /// `None` where no thread is to be had: then everything is written at once.
    worker: Option<(SyncSender<Batch<'a>>, Receiver<Result<Records>>)>,
}

/// Small files for the second thread: the names of each and where its content ends, and all contents.
#[derive(Default)]
struct Batch<'a> {
    files: Vec<(Vec<&'a PathBuf>, usize)>,
    content: Vec<u8>,
}

impl Batch<'_> {
    fn write(self, to: &Files<'_>) -> Result<Records> {
        let mut records = Records::new();
        let mut begin = 0;
        for (paths, end) in &self.files {
            records.extend(to.write(paths, &mut self.content.get(begin..*end).unwrap_or_default())?);
            begin = *end;
        }
        Ok(records)
    }
}

impl<'a> Writing<'a> {
    fn begin<'scope>(scope: &'scope Scope<'scope, '_>, files: &'a Files<'a>) -> Self
    where
        'a: 'scope,
    {
        let (batches, todo) = sync_channel::<Batch<'a>>(WAITING);
        let (done, results) = channel();
        let processors = Processors::of_this_process();
        let work = move || {
            processors.leave_the_first();
            // Whoever gave the batches may have left, after an error of its own.
            for batch in todo {
                if done.send(batch.write(files)).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("write".to_owned()).spawn_scoped(scope, work);
        Self { files, batch: Batch::default(), worker: thread.is_ok().then_some((batches, results)) }
    }

    /// Writes a file, or has it written: then its records come later.
    fn file(&mut self, paths: &[&'a PathBuf], item: &Item, content: &mut dyn Read) -> Result<Records> {
        match item.kind {
            Kind::File { size } if size <= SMALL && self.worker.is_some() => {
                content
                    .read_to_end(&mut self.batch.content)
                    .map_err(|e| Error::failed(format!("the image cannot be read: {}", reason(&e))))?;
                self.batch.files.push((paths.to_vec(), self.batch.content.len()));
                if self.batch.content.len() >= BATCH || self.batch.files.len() >= MOST_IN_A_BATCH {
                    self.send()?;
                }
                Ok(Records::new())
            }
            _ => self.files.write(paths, content),
        }
    }

    fn send(&mut self) -> Result<()> {
        let Some((batches, _)) = &self.worker else { return Ok(()) };
        let next = Batch { files: Vec::new(), content: Vec::with_capacity(BATCH) };
        let full = std::mem::replace(&mut self.batch, next);
        batches.send(full).map_err(|_| Error::failed("the thread that writes files has ended"))
    }

    /// What has been written by now.
    fn done(&self) -> impl Iterator<Item = Result<Records>> {
        self.worker.iter().flat_map(|(_, results)| results.try_iter())
    }

    /// Waits for the rest.
    fn end(&mut self) -> Result<Vec<Result<Records>>> {
        self.send()?;
        Ok(match self.worker.take() {
            Some((batches, results)) => {
                drop(batches);
                results.iter().collect()
            }
            None => Vec::new(),
        })
    }
}
