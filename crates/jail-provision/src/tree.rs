//! The tree that a jail is to be: every directory, file and link, found on the host, with the reason for each.
//!
//! Looking is all that happens here. A path is laid as it lies on the host, link by link: a jail of a merged-/usr host is
//! merged too, and `/usr/bin/awk -> /etc/alternatives/awk -> /usr/bin/mawk` arrives as three entries. Owner and mode are
//! made safe: root's (or the caller's), writable by the owner alone, set-uid only where a section asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};
use crate::glob;
use crate::host::{Host, Kind, Stat};
use crate::jailroot::{Meta, Privilege};
use crate::manifest::{PathText, Why};
use crate::needs::Needs;
use crate::package::{DEFAULT_STOP, PackageError, Packages};
use crate::text;
use crate::wanted::{Ask, Item, Need, Wanted};

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A directory.
    Directory,
    /// A copy of a file of the host.
    Copy {
        /// The host's file, free of links.
        source: PathBuf,
        /// Its state when we looked.
        stat: Stat,
        /// Whether set-uid bits and file capabilities are kept.
        privilege: Privilege,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to.
        target: PathBuf,
    },
    /// A file with content of our own.
    Text(Vec<u8>),
    /// A device node.
    Device {
        /// Block rather than character.
        block: bool,
        /// st_rdev.
        device: u64,
    },
    /// passwd or group: these lines must be in it, by name.
    Accounts(BTreeMap<String, String>),
}

/// One path of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it holds.
    pub content: Content,
    /// Owner and mode.
    pub meta: Meta,
    /// Why it is there.
    pub why: Why,
}

/// The whole tree; a path sorts after its parents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// By path.
    pub nodes: BTreeMap<PathBuf, Node>,
    /// What an administrator should know, in the order it was found.
    pub notes: Vec<String>,
    /// What was asked for and cannot be had, where that is no end of the work.
    pub broken: Vec<Broken>,
}

impl Tree {
    /// The files that keep set-uid bits and file capabilities.
    #[must_use]
    pub fn privileged(&self) -> BTreeSet<PathText> {
        let keeps = |node: &Node| matches!(node.content, Content::Copy { privilege: Privilege::Keep, .. });
        self.nodes.iter().filter(|(_, node)| keeps(node)).map(|(path, _)| PathText(path.clone())).collect()
    }
}

/// Something that was asked for and that the host cannot give any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Where it may lie in the jail, links and patterns not yet followed.
    pub places: Vec<PathBuf>,
    /// Why it cannot be had.
    pub error: Error,
}

/// To whom the jail's files belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// root's jails are root's; anyone else's are his own.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }
}

/// Where commands are looked up. `/usr/local` comes last, so that nothing there shadows the system's own.
const COMMAND_DIRS: &[&str] =
    &["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/games", "/usr/local/bin", "/usr/local/sbin"];

/// Directories that entries need as mount points, and that programs expect of any root.
const SKELETON: &[(&str, u32)] = &[
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/home", 0o755),
    ("/proc", 0o555),
    ("/run", 0o755),
    ("/tmp", 0o1777),
    ("/usr", 0o755),
    ("/var", 0o755),
    ("/var/tmp", 0o1777),
];

/// Links of a merged /usr that programs take for granted.
const MERGED: &[&str] = &["/bin", "/lib", "/lib64", "/sbin"];

/// A link inside a tree is followed to a directory only if that is none of these: a jail must not swallow half the host.
const TOO_MUCH: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/local",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/lib",
];

/// Deeper than any tree of a package; a bound, so that no tree can exhaust us.
const DEEPEST: usize = 64;

/// Finds everything that is wanted.
///
/// # Errors
/// Something that must be there is missing or cannot be read.
pub fn grow(host: &dyn Host, wanted: &Wanted, owner: Owner) -> Result<Tree> {
    let mut grower = Grower {
        host,
        owner,
        wanted,
        needs: Needs::new(host),
        tree: Tree::default(),
        queue: VecDeque::new(),
        walked: BTreeSet::new(),
    };
    grower.skeleton()?;
    for item in &wanted.items {
        if let Err(error) = grower.item(item).and_then(|()| grower.follow_needs()) {
            if !wanted.keep_broken {
                return Err(error);
            }
            grower.queue.clear();
            grower.tree.broken.push(Broken { places: places(&item.ask), error });
        }
    }
    grower.loader_cache();
    Ok(grower.tree)
}

/// Where a thing that was asked for may lie.
fn places(ask: &Ask) -> Vec<PathBuf> {
    match ask {
        Ask::Command(name) => COMMAND_DIRS.iter().map(|dir| Path::new(dir).join(name)).collect(),
        Ask::Path(path) => vec![PathBuf::from(path)],
        Ask::Exactly(path) => vec![path.clone()],
        _ => Vec::new(),
    }
}

struct Grower<'h> {
    host: &'h dyn Host,
    owner: Owner,
    wanted: &'h Wanted,
    needs: Needs<'h>,
    tree: Tree,
    /// Files whose libraries and interpreters are still to be found.
    queue: VecDeque<(PathBuf, Need)>,
    /// Directories whose whole content is in the tree.
    walked: BTreeSet<PathBuf>,
}

/// Where a path led.
struct Placed {
    real: PathBuf,
    stat: Stat,
}

impl Grower<'_> {
    fn skeleton(&mut self) -> Result<()> {
        for (path, mode) in SKELETON {
            self.own_directory(Path::new(path), *mode, Why::EveryJail);
        }
        for link in MERGED {
            let link = Path::new(link);
            if self.host.lstat(link).is_ok_and(|stat| stat.is_symlink()) {
                self.place(link, &Why::EveryJail).map_err(|e| Error::io("find", link, e))?;
            }
        }
        Ok(())
    }

    fn item(&mut self, item: &Item) -> Result<()> {
        match &item.ask {
            Ask::Command(name) => self.command(item, name),
            Ask::Path(pattern) => self.pattern(item, pattern),
            Ask::Exactly(path) => self.path(item, path),
            Ask::Package(name) => self.package(item, name, None),
            Ask::PackageTree { name, stop } => self.package(item, name, Some(stop)),
            Ask::Device(path) => self.device(item, Path::new(path)),
            Ask::User(name) => self.account(item, "/etc/passwd", name),
            Ask::Group(name) => self.account(item, "/etc/group", name),
            Ask::Directory(directory) => {
                self.own_parents(Path::new(&directory.path), &item.why);
                self.own_directory(Path::new(&directory.path), directory.mode, item.why.clone());
                Ok(())
            }
            Ask::File(file) => {
                let content = Content::Text(file.content.clone().into_bytes());
                self.own(Path::new(&file.path), content, file.mode, &item.why);
                Ok(())
            }
            Ask::Link(link) => {
                let content = Content::Symlink { target: PathBuf::from(&link.target) };
                self.own(Path::new(&link.path), content, 0o777, &item.why);
                Ok(())
            }
        }
    }

    fn command(&mut self, item: &Item, name: &str) -> Result<()> {
        for dir in COMMAND_DIRS {
            let path = Path::new(dir).join(name);
            let runs = |stat: Stat| stat.is_file() && stat.mode & 0o111 != 0;
            if self.host.stat(&path).is_ok_and(runs) {
                return self.path(item, &path);
            }
        }
        self.missing(item, &format!("the program '{name}'"))
    }

    fn pattern(&mut self, item: &Item, pattern: &str) -> Result<()> {
        if !glob::is_pattern(pattern) {
            return self.path(item, Path::new(pattern));
        }
        let found = glob::expand(self.host, pattern);
        if found.is_empty() {
            return self.missing(item, &format!("anything that matches '{pattern}'"));
        }
        found.iter().try_for_each(|path| self.path(item, path))
    }

    fn path(&mut self, item: &Item, path: &Path) -> Result<()> {
        let placed = match self.place(path, &item.why) {
            Ok(placed) => placed,
            Err(error) if is_missing(&error) => return self.missing(item, &text::quote(path)),
            Err(error) => return Err(self.at(item, Error::io("read", path, error))),
        };
        match placed.stat.kind {
            Kind::File => {
                self.queue.push_back((placed.real, item.need));
                Ok(())
            }
            Kind::Directory => self.walk_tree(&placed.real),
            _ => Err(self.at(
                item,
                Error::profile(format!("{} is neither a file nor a directory", text::quote(path))),
            )),
        }
    }

    /// A package's files, and with a list of stops those of what it depends on.
    fn package(&mut self, item: &Item, name: &str, stop: Option<&[String]>) -> Result<()> {
        let wrong = |e: PackageError| self.at(item, of_package(&e));
        let packages = Packages::open(self.host).map_err(wrong)?;
        let all = match stop {
            None => vec![packages.find(name).map_err(wrong)?],
            Some(stop) => {
                let stop: Vec<&str> =
                    DEFAULT_STOP.into_iter().chain(stop.iter().map(String::as_str)).collect();
                packages.with_dependencies(name, &stop).map_err(wrong)?
            }
        };
        for package in all {
            let contents = packages.contents(&package).map_err(|e| self.at(item, of_package(&e)))?;
            for path in contents.directories.iter().chain(&contents.files) {
                self.of_package(path, &item.why)?;
            }
        }
        Ok(())
    }

    /// One path of a package. What only root may read on the host is no more named by its package than by its directory.
    fn of_package(&mut self, path: &Path, why: &Why) -> Result<()> {
        let io = |e| Error::io("read", path, e);
        match self.host.walk(path) {
            Ok(walk) if walk.stat.is_file() && !self.anyone_may_read(&walk.stat) => {
                self.tree.notes.push(format!(
                    "left out {}: not everyone may read it on the host, so it comes only if named itself",
                    text::quote(path)
                ))
            }
            // A package may bring a link to what another one has.
            Err(error) if is_missing(&error) => {
                let above =
                    path.parent().map_or(Ok(PathBuf::new()), |dir| self.host.canonical(dir)).map_err(io)?;
                let link = above.join(path.file_name().unwrap_or_default());
                self.way_to(&link).map_err(io)?;
                self.add_link(&link, why)?;
            }
            _ => {
                let placed = self.place(path, why).map_err(io)?;
                if placed.stat.is_file() {
                    self.queue.push_back((placed.real, Need::May));
                }
            }
        }
        Ok(())
    }

    fn device(&mut self, item: &Item, path: &Path) -> Result<()> {
        let stat = match self.host.stat(path) {
            Ok(stat) => stat,
            Err(error) if is_missing(&error) => return self.missing(item, &text::quote(path)),
            Err(error) => return Err(self.at(item, Error::io("read", path, error))),
        };
        let block = match stat.kind {
            Kind::BlockDevice => true,
            Kind::CharDevice => false,
            _ => return Err(self.at(item, Error::profile(format!("{} is no device", text::quote(path))))),
        };
        let meta = Meta { uid: stat.uid, gid: stat.gid, mode: stat.mode & 0o777 };
        self.own_parents(path, &item.why);
        let content = Content::Device { block, device: stat.rdev };
        self.tree.nodes.insert(path.to_path_buf(), Node { content, meta, why: item.why.clone() });
        Ok(())
    }

    /// Adds a user's or group's line, found by name or by number.
    fn account(&mut self, item: &Item, file: &str, name: &str) -> Result<()> {
        let path = Path::new(file);
        let bytes = self.host.read(path, 64 << 20).map_err(|e| Error::io("read", path, e))?;
        let content = String::from_utf8_lossy(&bytes);
        let is_it = |line: &&str| {
            let mut fields = line.split(':');
            fields.next() == Some(name) || fields.nth(1) == Some(name)
        };
        let Some(line) = content.lines().find(is_it) else {
            return self.missing(item, &format!("'{name}' in {file}"));
        };
        let key = line.split(':').next().unwrap_or(name).to_owned();
        let meta = self.meta(0o644);
        let why = item.why.clone();
        let node = self.tree.nodes.entry(path.to_path_buf()).or_insert_with(|| {
            let content = Content::Accounts(BTreeMap::new());
            Node { content, meta, why }
        });
        if let Content::Accounts(lines) = &mut node.content {
            lines.insert(key, line.to_owned());
        }
        Ok(())
    }

    /// Everything below a directory. Links are kept; what they lead to comes along unless it is half the host.
    fn walk_tree(&mut self, top: &Path) -> Result<()> {
        let mut todo = vec![(top.to_path_buf(), 0usize)];
        let inside = Why::InTree(PathText(top.to_path_buf()));
        while let Some((dir, depth)) = todo.pop() {
            if !self.walked.insert(dir.clone()) {
                continue;
            }
            if depth > DEEPEST {
                return Err(Error::failed(format!(
                    "{} is more than {DEEPEST} directories deep",
                    text::quote(top)
                )));
            }
            for name in self.host.read_dir(&dir).map_err(|e| Error::io("read", &dir, e))? {
                let path = dir.join(&name);
                let stat = self.host.lstat(&path).map_err(|e| Error::io("read", &path, e))?;
                match stat.kind {
                    Kind::Directory | Kind::File if !self.anyone_may_read(&stat) => {
                        self.tree.notes.push(format!(
                            "left out {}: not everyone may read it on the host, so it comes only if named itself",
                            text::quote(&path)
                        ));
                    }
                    Kind::Directory => {
                        self.add_directory(&path, &stat, inside.clone());
                        todo.push((path, depth + 1));
                    }
                    Kind::File => {
                        self.add_file(&path, &stat, inside.clone());
                        self.queue.push_back((path, Need::May));
                    }
                    Kind::Symlink => {
                        if let Some(linked) = self.link_in_tree(&path, &inside)? {
                            todo.push((linked, depth + 1));
                        }
                    }
                    _ => self
                        .tree
                        .notes
                        .push(format!("left out {}: no file, directory or link", text::quote(&path))),
                }
            }
        }
        Ok(())
    }

    /// A link met in a tree; answers the directory it leads to, if that is to be walked too.
    fn link_in_tree(&mut self, path: &Path, inside: &Why) -> Result<Option<PathBuf>> {
        match self.host.walk(path) {
            Ok(walk) if !self.anyone_may_read(&walk.stat) => self.add_link(path, inside).map(|()| None),
            Ok(walk) if walk.stat.is_file() => {
                let placed = self.place(path, inside).map_err(|e| Error::io("read", path, e))?;
                self.queue.push_back((placed.real, Need::May));
                Ok(None)
            }
            Ok(walk) if walk.stat.is_dir() => {
                let ancestor = path.starts_with(&walk.real);
                if ancestor || TOO_MUCH.iter().any(|dir| walk.real == Path::new(dir)) {
                    self.add_link(path, inside)?;
                    return Ok(None);
                }
                self.place(path, inside).map_err(|e| Error::io("read", path, e))?;
                Ok(Some(walk.real))
            }
            // Dangling, a loop, or to a device: kept as it is on the host.
            _ => self.add_link(path, inside).map(|()| None),
        }
    }

    /// Host keys and the like lie in trees that sections name; a jail is no place for them unless somebody says so.
    fn anyone_may_read(&self, stat: &Stat) -> bool {
        let bits = if stat.is_dir() { 0o005 } else { 0o004 };
        stat.mode & bits == bits || (self.owner.uid != 0 && stat.uid == self.owner.uid)
    }

    fn add_link(&mut self, path: &Path, why: &Why) -> Result<()> {
        let target = self.host.read_link(path).map_err(|e| Error::io("read", path, e))?;
        self.insert(path, Content::Symlink { target }, 0o777, why.clone());
        Ok(())
    }

    /// Lays a path as it lies on the host: its links, the directories on the way, and what is at its end.
    fn place(&mut self, path: &Path, why: &Why) -> io::Result<Placed> {
        let walk = self.host.walk(path)?;
        let mut reason = why.clone();
        for link in walk.links {
            self.way_to(&link.path)?;
            let content = Content::Symlink { target: link.target };
            // `/lib` is on the way to `/lib/libc.so.6`; `/usr/bin/awk` is what leads to mawk.
            if !walk.stat.is_dir() && self.host.stat(&link.path)?.is_dir() {
                self.insert(&link.path, content, 0o777, Why::WayTo(PathText(walk.real.clone())));
                continue;
            }
            self.insert(&link.path, content, 0o777, reason);
            reason = Why::LinkedFrom(PathText(link.path));
        }
        self.way_to(&walk.real)?;
        match walk.stat.kind {
            Kind::Directory => self.add_directory(&walk.real, &walk.stat, reason),
            Kind::File => self.add_file(&walk.real, &walk.stat, reason),
            _ => {}
        }
        Ok(Placed { real: walk.real, stat: walk.stat })
    }

    /// The directories above a path that is free of links.
    fn way_to(&mut self, real: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = real
            .ancestors()
            .skip(1)
            .take_while(|dir| dir.parent().is_some() && !self.tree.nodes.contains_key(*dir))
            .collect();
        for dir in missing.into_iter().rev() {
            let stat = self.host.lstat(dir)?;
            self.add_directory(dir, &stat, Why::WayTo(PathText(real.to_path_buf())));
        }
        Ok(())
    }

    fn add_directory(&mut self, path: &Path, stat: &Stat, why: Why) {
        // The owner must be able to look into and write it, or nothing below can be made without root.
        self.insert(path, Content::Directory, (stat.mode & 0o755) | 0o700, why);
    }

    fn add_file(&mut self, path: &Path, stat: &Stat, why: Why) {
        let keep = path.to_str().is_some_and(|p| self.wanted.setuid.contains(p));
        let privilege = if keep { Privilege::Keep } else { Privilege::Drop };
        let content = Content::Copy { source: path.to_path_buf(), stat: *stat, privilege };
        self.insert(path, content, stat.mode & 0o755, why);
        if keep && self.owner.uid == 0 {
            if let Some(node) = self.tree.nodes.get_mut(path) {
                node.meta = Meta { uid: stat.uid, gid: stat.gid, mode: stat.mode & 0o6755 };
            }
        }
    }

    /// The first reason stays, and so does a section's own content.
    fn insert(&mut self, path: &Path, content: Content, mode: u32, why: Why) {
        let meta = self.meta(mode);
        self.tree.nodes.entry(path.to_path_buf()).or_insert_with(|| Node { content, meta, why });
    }

    fn own(&mut self, path: &Path, content: Content, mode: u32, why: &Why) {
        self.own_parents(path, why);
        let node = Node { content, meta: self.meta(mode), why: why.clone() };
        self.tree.nodes.insert(path.to_path_buf(), node);
    }

    fn own_directory(&mut self, path: &Path, mode: u32, why: Why) {
        let node = Node { content: Content::Directory, meta: self.meta(mode), why };
        self.tree.nodes.insert(path.to_path_buf(), node);
    }

    fn own_parents(&mut self, path: &Path, why: &Why) {
        let missing: Vec<PathBuf> = path
            .ancestors()
            .skip(1)
            .take_while(|dir| dir.parent().is_some() && !self.tree.nodes.contains_key(*dir))
            .map(Path::to_path_buf)
            .collect();
        for dir in missing.into_iter().rev() {
            self.own_directory(&dir, 0o755, why.clone());
        }
    }

    fn meta(&self, mode: u32) -> Meta {
        Meta { uid: self.owner.uid, gid: self.owner.gid, mode }
    }

    /// Libraries, loaders and interpreters, and theirs, until nothing new turns up.
    fn follow_needs(&mut self) -> Result<()> {
        while let Some((file, need)) = self.queue.pop_front() {
            let executable = match self.tree.nodes.get(&file).map(|node| &node.content) {
                Some(Content::Copy { stat, .. }) => stat.mode & 0o111 != 0,
                _ => continue,
            };
            if !executable && !looks_like_a_library(&file) {
                continue;
            }
            let found = match self.needs.of(&file) {
                Ok(found) => found,
                Err(error) => {
                    self.fault(error, need)?;
                    continue;
                }
            };
            for (path, why) in found.new {
                self.place(&path, &why).map_err(|e| Error::io("read", &path, e))?;
            }
            if let Some(error) = found.unmet {
                self.fault(error, need)?;
            }
        }
        Ok(())
    }

    /// A program that was asked for must be able to start; one that merely lies in a tree may be broken on the host too.
    fn fault(&mut self, error: Error, need: Need) -> Result<()> {
        if need == Need::Must {
            return Err(error);
        }
        self.tree.notes.push(error.message);
        Ok(())
    }

    /// The jail's ld.so.cache: those lines of the host's that are true in the jail. Worked out here rather than by
    /// `ldconfig -r`, which would have root read whatever ELF files lie in the jail.
    fn loader_cache(&mut self) {
        let Some(cache) = self.needs.loader_cache(&self.tree) else { return };
        self.own(Path::new("/etc/ld.so.cache"), Content::Text(cache), 0o644, &Why::EveryJail);
    }

    fn missing(&mut self, item: &Item, what: &str) -> Result<()> {
        if item.need == Need::May {
            return Ok(());
        }
        let section = match &item.why {
            Why::Section(name) => format!("section {name} needs {what}, which the host does not have"),
            _ => format!("{what} is not there"),
        };
        let error = self.at(item, Error::profile(section));
        Err(match (&item.package, &item.ask) {
            (Some(package), _) => error.hint(format!("apt install {package}")),
            (None, Ask::User(_) | Ask::Group(_) | Ask::Exactly(_)) => error,
            (None, _) => error.hint("if the host may lack it, list it under 'optional'"),
        })
    }

    fn at(&self, item: &Item, mut error: Error) -> Error {
        if let Some(place) = &item.place {
            error.message = format!("{place}: {}", error.message);
        }
        error
    }
}

/// The package part's sentence and hint, as ours.
fn of_package(error: &PackageError) -> Error {
    let text = error.to_string();
    match text.split_once("\nhint: ") {
        Some((message, hint)) => Error::profile(message).hint(hint),
        None => Error::profile(text),
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// `libc.so.6`, `pam_unix.so`, `List/Util.so`: libraries need no execute bit.
pub(crate) fn looks_like_a_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or(OsStr::new("")).as_bytes();
    name.ends_with(b".so") || name.windows(4).any(|w| w == b".so.")
}

/// An absolute path without `.`, `..` and doubled slashes, taken literally.
#[must_use]
pub fn plain(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => out.push(name),
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    path.is_absolute().then_some(out)
}
