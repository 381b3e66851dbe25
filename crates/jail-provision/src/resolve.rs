//! Which files a program needs to start, found as ld.so finds them, without ever running it.
//!
//! One `Resolver` serves many programs over one host: what it read of a file or a directory it remembers. For each
//! program it plays through what the loader would do (`process.rs` of this module): breadth first, one table of names
//! already loaded, RPATH inherited, RUNPATH not. So the answer for a jail, asked with the jail as the host, is the
//! answer a program in the jail will get.

mod loader;
mod process;
mod tokens;

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use crate::elf::{Abi, Elf, ElfError, Head};
use crate::host::{Directories, Host, Stat};
use crate::ldcache::LdCache;
use crate::script::{self, STANDARD_DIRS};

use loader::Loader;

/// Why a file is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NeedKind {
    /// The loader named in PT_INTERP.
    Interpreter,
    /// A shared library the loader will open.
    Library,
    /// The program of a `#!` line, `env`'s program included.
    ScriptInterpreter,
    /// A library's variant in a `glibc-hwcaps` directory, which some processors get instead; not needed to start.
    HwcapsVariant,
    /// A library that may be dlopened, as `.note.dlopen` says, or one that such a library needs; not needed to start.
    OptionalDlopen,
    /// A file the loader reads to find libraries: `/etc/ld.so.cache`, `/etc/ld-musl-ARCH.path`.
    CacheOrConfig,
}

impl NeedKind {
    /// Whether the program starts without it.
    pub fn is_optional(self) -> bool {
        matches!(self, Self::HwcapsVariant | Self::OptionalDlopen)
    }
}

/// One file that a program needs.
#[derive(Clone, PartialEq, Eq)]
pub struct Need {
    /// The path as the loader opens it; may be, or lead through, symbolic links.
    pub path: Arc<Path>,
    /// Where the file really lies.
    pub real: Arc<Path>,
    /// The name it was asked for by.
    pub soname: Arc<[u8]>,
    /// Who asked: the program, or another need's `path`.
    pub needed_by: Arc<Path>,
    /// Why.
    pub kind: NeedKind,
    /// Some: found in `ld.so.cache` and nowhere else, so the jail needs a cache with a line for it, with these flags
    /// (`ldcache::write` makes one).
    pub cache_flags: Option<i32>,
}

impl fmt::Debug for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, soname, needed_by, kind, .. } = self;
        write!(f, "{kind:?} {path:?} ({}) <- {needed_by:?}", String::from_utf8_lossy(soname))
    }
}

/// Something needed that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// The name asked for.
    pub name: Arc<[u8]>,
    /// Who asked.
    pub needed_by: Arc<Path>,
    /// Why it was asked for.
    pub kind: NeedKind,
    /// What is wrong.
    pub why: Why,
}

/// Why a need is not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nowhere on the search path.
    NotFound {
        /// The directories looked into.
        searched: Vec<PathBuf>,
    },
    /// A file of that name comes first in the search and the loader stops at it.
    Broken {
        /// That file.
        path: Arc<Path>,
        /// What is wrong with it.
        fault: String,
    },
    /// A path relative to wherever the program will be started.
    Relative,
    /// The program (with all it needs) looks into more places than any real one does.
    TooMuch,
    /// A `#!` interpreter that is a script, that is a script, … more often than the kernel follows.
    TooDeep,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = String::from_utf8_lossy(&self.name);
        let what = match self.kind {
            NeedKind::Interpreter => "loader",
            NeedKind::ScriptInterpreter => "interpreter",
            _ => "library",
        };
        write!(f, "{what} {name:?}, needed by {:?}, ", self.needed_by)?;
        match &self.why {
            Why::NotFound { searched } if searched.is_empty() => write!(f, "is not there"),
            Why::NotFound { searched } => write!(f, "is in none of {searched:?}"),
            Why::Broken { path, fault } => write!(f, "is found as {path:?}, which is {fault}"),
            Why::Relative => write!(f, "is a path relative to wherever the program gets started"),
            Why::TooMuch => write!(f, "comes after more searches than any real program makes"),
            Why::TooDeep => write!(f, "comes after more scripts in a row than the kernel follows"),
        }
    }
}

/// What a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramKind {
    /// An ELF program or library.
    Elf,
    /// A file with a `#!` line.
    Script,
    /// Anything else: needs nothing.
    Data,
}

/// All a program needs, directly and indirectly.
#[derive(Clone, Debug)]
pub struct Needs {
    /// The program, as asked for.
    pub program: Arc<Path>,
    /// Where it really lies.
    pub real: Arc<Path>,
    /// What it is.
    pub kind: ProgramKind,
    /// What it needs, in the order in which loading finds it; every `path` once.
    pub needs: Vec<Need>,
    /// What it needs and cannot have; the program will not start.
    pub unmet: Vec<Unmet>,
    /// What is not there but need not be: optional needs, and what a library (started by nobody) asks for and does not
    /// find by itself; the process that loads it may have it loaded already.
    pub absent: Vec<Unmet>,
    /// It finds libraries by `$ORIGIN`, which glibc reads from `/proc/self/exe`: without a `/proc` it will not start.
    pub uses_proc: bool,
}

impl Needs {
    /// Who asked for `path`, who asked for the asker, … up to the program itself: what `--explain` prints.
    pub fn chain(&self, path: &Path) -> Vec<Arc<Path>> {
        let mut chain: Vec<Arc<Path>> = Vec::new();
        let mut at = path;
        while let Some(need) = self.needs.iter().find(|n| &*n.path == at) {
            if chain.contains(&need.path) {
                break;
            }
            chain.push(need.path.clone());
            at = &need.needed_by;
        }
        chain.push(self.program.clone());
        chain
    }
}

/// Why no answer can be given, or why the answer is no.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The program could not be read.
    #[error("cannot read {path:?}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program starts like an ELF file but is none.
    #[error("{path:?} is {fault}")]
    Broken {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// Something it needs is not there.
    #[error("{program:?} cannot start: {}", list(.unmet))]
    Unmet {
        /// Which program.
        program: PathBuf,
        /// All that is missing.
        unmet: Vec<Unmet>,
    },
}

fn list(unmet: &[Unmet]) -> String {
    unmet.iter().map(Unmet::to_string).collect::<Vec<_>>().join("; ")
}

/// One file as the loader sees it under one path.
#[derive(Debug)]
struct Object {
    path: Arc<Path>,
    real: Arc<Path>,
    inode: (u64, u64),
    content: Content,
}

/// What is in a file; the same for every path that leads to it.
#[derive(Clone, Debug)]
enum Content {
    Elf {
        abi: Abi,
        loadable: bool,
        refused: Option<&'static str>,
        elf: Rc<Elf>,
    },
    /// Header sound, the rest not; a loader of another ABI passes over it without noticing.
    BrokenElf {
        abi: Option<Abi>,
        fault: Rc<str>,
    },
    Script {
        shebang: Rc<script::Shebang>,
    },
    Data,
    /// A directory, device …; or not readable.
    Unreadable {
        fault: Rc<str>,
    },
}

type Objects = HashMap<Arc<Path>, Option<Rc<Object>>>;

/// Finds what programs need, on one host.
pub struct Resolver<'h> {
    host: &'h dyn Host,
    directories: Directories<'h>,
    cache: OnceCell<Option<Rc<LdCache>>>,
    objects: Objects,
    contents: HashMap<(u64, u64), Content>,
    /// Directories, and whether they are there: most run paths name some that are not.
    present: HashMap<PathBuf, bool>,
    /// `glibc-hwcaps/*` of a search directory.
    hwcaps: HashMap<PathBuf, Rc<[PathBuf]>>,
    loaders: HashMap<(Vec<u8>, Abi), Rc<Loader>>,
    done: HashMap<PathBuf, Rc<Needs>>,
}

/// So many scripts in a row the kernel follows.
const MAX_SCRIPTS: usize = 5;
const MAX_CACHE: usize = 16 << 20;

impl<'h> Resolver<'h> {
    /// A resolver for programs of `host`.
    pub fn new(host: &'h dyn Host) -> Self {
        Self {
            host,
            directories: Directories::new(host),
            cache: OnceCell::new(),
            objects: HashMap::new(),
            contents: HashMap::new(),
            present: HashMap::new(),
            hwcaps: HashMap::new(),
            loaders: HashMap::new(),
            done: HashMap::new(),
        }
    }

    /// All that `program` needs; anything missing that it cannot start without is an error.
    pub fn needs(&mut self, program: &Path) -> Result<Rc<Needs>, ResolveError> {
        let needs = self.survey(program)?;
        if needs.unmet.is_empty() {
            return Ok(needs);
        }
        Err(ResolveError::Unmet { program: program.to_path_buf(), unmet: needs.unmet.clone() })
    }

    /// All that `program` needs, and all that is missing.
    pub fn survey(&mut self, program: &Path) -> Result<Rc<Needs>, ResolveError> {
        self.survey_at_depth(program, 0)
    }

    fn survey_at_depth(&mut self, program: &Path, depth: usize) -> Result<Rc<Needs>, ResolveError> {
        if let Some(done) = self.done.get(program) {
            return Ok(done.clone());
        }
        let object = self
            .object(program)
            .map_err(|source| ResolveError::Read { path: program.to_path_buf(), source })?;
        let Some(object) = object else {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(ResolveError::Read { path: program.to_path_buf(), source });
        };
        let broken =
            |fault: &str| ResolveError::Broken { path: program.to_path_buf(), fault: fault.to_string() };
        let mut needs = Needs {
            program: object.path.clone(),
            real: object.real.clone(),
            kind: ProgramKind::Data,
            needs: Vec::new(),
            unmet: Vec::new(),
            absent: Vec::new(),
            uses_proc: false,
        };
        match &object.content {
            Content::Data | Content::Elf { loadable: false, .. } => {}
            Content::Elf { .. } => {
                needs.kind = ProgramKind::Elf;
                process::play(self, &object, &mut needs);
            }
            Content::Script { shebang } => {
                needs.kind = ProgramKind::Script;
                self.script(&object, shebang, depth, &mut needs);
            }
            Content::BrokenElf { fault, .. } => return Err(broken(fault)),
            Content::Unreadable { fault } => return Err(broken(fault)),
        }
        let needs = Rc::new(needs);
        // An answer that was cut short by the depth reached on the way here is no answer for others.
        if depth == 0 || !needs.unmet.iter().any(|u| u.why == Why::TooDeep) {
            self.done.insert(program.to_path_buf(), needs.clone());
        }
        Ok(needs)
    }

    /// A script needs its interpreter, the program `env` looks for, and all that these need.
    fn script(&mut self, object: &Object, line: &script::Shebang, depth: usize, needs: &mut Needs) {
        let mut seen = HashSet::new();
        let asked: Arc<[u8]> = line.interpreter.as_slice().into();
        self.script_part(object, asked, &line.interpreter, depth, needs, &mut seen);
        let Some(name) = &line.env_program else { return };
        let asked: Arc<[u8]> = name.as_slice().into();
        match self.command(name) {
            Some(found) => {
                self.script_part(object, asked, found.as_os_str().as_bytes(), depth, needs, &mut seen);
            }
            None => {
                let searched = STANDARD_DIRS.iter().map(PathBuf::from).collect();
                needs.unmet.push(unmet_script(object, asked, Why::NotFound { searched }));
            }
        }
    }

    fn script_part(
        &mut self,
        object: &Object,
        asked: Arc<[u8]>,
        path: &[u8],
        depth: usize,
        needs: &mut Needs,
        seen: &mut HashSet<Arc<Path>>,
    ) {
        let path = Path::new(OsStr::from_bytes(path));
        let why = if !path.is_absolute() {
            Some(Why::Relative)
        } else if depth + 1 > MAX_SCRIPTS {
            Some(Why::TooDeep)
        } else {
            None
        };
        if let Some(why) = why {
            needs.unmet.push(unmet_script(object, asked, why));
            return;
        }
        match self.survey_at_depth(path, depth + 1) {
            Ok(inner) => {
                let need = Need {
                    path: inner.program.clone(),
                    real: inner.real.clone(),
                    soname: asked,
                    needed_by: object.path.clone(),
                    kind: NeedKind::ScriptInterpreter,
                    cache_flags: None,
                };
                let all = std::iter::once(need).chain(inner.needs.iter().cloned());
                needs.needs.extend(all.filter(|n| seen.insert(n.path.clone())));
                needs.unmet.extend(inner.unmet.iter().cloned());
                needs.absent.extend(inner.absent.iter().cloned());
                needs.uses_proc |= inner.uses_proc;
            }
            Err(error) => {
                let why = match error {
                    ResolveError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                        Why::NotFound { searched: Vec::new() }
                    }
                    ResolveError::Read { source, path } => {
                        Why::Broken { path: path.into(), fault: format!("not readable ({source})") }
                    }
                    ResolveError::Broken { path, fault } => Why::Broken { path: path.into(), fault },
                    ResolveError::Unmet { .. } => Why::NotFound { searched: Vec::new() },
                };
                needs.unmet.push(unmet_script(object, asked, why));
            }
        }
    }

    /// Where a command lies: in the standard directories, or where its path says.
    pub fn command(&self, name: &[u8]) -> Option<PathBuf> {
        let name = OsStr::from_bytes(name);
        if name.as_bytes().contains(&b'/') {
            return Some(PathBuf::from(name));
        }
        let mut paths = STANDARD_DIRS.iter().map(|dir| Path::new(dir).join(name));
        paths.find(|path| self.directories.locate(path).is_ok_and(|(_, stat)| executable(&stat)))
    }

    /// What is at `path`; None if nothing is.
    fn object(&mut self, path: &Path) -> io::Result<Option<Rc<Object>>> {
        if let Some(known) = self.objects.get(path) {
            return Ok(known.clone());
        }
        let object = match self.directories.locate(path) {
            Ok((real, stat)) => Some(Rc::new(self.read_object(path, real, &stat))),
            Err(error) if absent(&error) => None,
            Err(error) => return Err(error),
        };
        self.objects.insert(path.into(), object.clone());
        Ok(object)
    }

    fn read_object(&mut self, path: &Path, real: PathBuf, stat: &Stat) -> Object {
        let inode = (stat.dev, stat.ino);
        let content = match self.contents.get(&inode) {
            Some(known) => known.clone(),
            None => {
                let read = if stat.is_file() {
                    read_content(self.host, &real)
                } else {
                    Content::Unreadable { fault: "not a regular file".into() }
                };
                self.contents.insert(inode, read.clone());
                read
            }
        };
        let path: Arc<Path> = path.into();
        let real = if *real == *path { path.clone() } else { real.into() };
        Object { path, real, inode, content }
    }

    /// The root's own ld.so.cache, if it has one that can be read.
    fn ld_cache(&self) -> Option<Rc<LdCache>> {
        let read = || self.host.read(Path::new("/etc/ld.so.cache"), MAX_CACHE).ok();
        self.cache.get_or_init(|| read().and_then(|bytes| LdCache::parse(&bytes)).map(Rc::new)).clone()
    }

    fn is_directory(&mut self, dir: &Path) -> bool {
        if let Some(known) = self.present.get(dir) {
            return *known;
        }
        let is = self.directories.locate(dir).is_ok_and(|(_, stat)| stat.is_dir());
        self.present.insert(dir.to_path_buf(), is);
        is
    }

    /// The `glibc-hwcaps` directories below a search directory, those for the newest processors first.
    fn hwcaps_of(&mut self, dir: &Path) -> Rc<[PathBuf]> {
        if let Some(known) = self.hwcaps.get(dir) {
            return known.clone();
        }
        let top = dir.join("glibc-hwcaps");
        let mut found: Vec<PathBuf> = Vec::new();
        if self.is_directory(&top) {
            let names = self.host.read_dir(&top).unwrap_or_default();
            found = names.iter().rev().map(|name| top.join(name)).collect();
        }
        let found: Rc<[PathBuf]> = found.into();
        self.hwcaps.insert(dir.to_path_buf(), found.clone());
        found
    }
}

fn unmet_script(object: &Object, name: Arc<[u8]>, why: Why) -> Unmet {
    Unmet { name, needed_by: object.path.clone(), kind: NeedKind::ScriptInterpreter, why }
}

fn executable(stat: &Stat) -> bool {
    stat.is_file() && stat.mode & 0o111 != 0
}

/// Errors that mean "not there", as for the loader's own look-up.
fn absent(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | InvalidFilename | PermissionDenied)
        || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

fn read_content(host: &dyn Host, real: &Path) -> Content {
    let file = match host.open(real) {
        Ok(file) => file,
        Err(error) => return Content::Unreadable { fault: format!("not readable ({error})").into() },
    };
    let head = match Head::read(&*file) {
        Ok(Some(head)) => head,
        Ok(None) => return read_script(&*file),
        Err(fault) => return broken(None, &fault),
    };
    let abi = head.abi;
    let (loadable, refused) = (head.loadable, head.refused);
    match head.body(&*file) {
        Ok(elf) => Content::Elf { abi, loadable, refused, elf: Rc::new(elf) },
        Err(fault) => broken(Some(abi), &fault),
    }
}

fn broken(abi: Option<Abi>, fault: &ElfError) -> Content {
    Content::BrokenElf { abi, fault: fault.to_string().into() }
}

fn read_script(file: &dyn crate::host::HostFile) -> Content {
    let mut start = [0; script::LINE_MAX];
    let got = file.read_at(&mut start, 0).unwrap_or(0);
    match script::shebang(&start[..got]) {
        Some(shebang) => Content::Script { shebang: Rc::new(shebang) },
        None => Content::Data,
    }
}
