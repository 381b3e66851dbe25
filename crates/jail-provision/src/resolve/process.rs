//! Plays through what the loader does for one program: glibc's `_dl_map_object_deps` and `_dl_map_object`
//! (elf/dl-deps.c, elf/dl-load.c), musl's `load_deps` and `load_library`, as far as file names go.
//!
//! Left out on purpose: the environment (LD_LIBRARY_PATH, LD_PRELOAD: they are the caller's, not the program's),
//! directories relative to the working directory, and the `tls`/`haswell` subdirectories that glibc dropped in 2.37.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::loader::{self, Family, Loader};
use super::tokens::{SearchDir, Tokens, uses_origin};
use super::{Content, Need, NeedKind, Needs, Object, Resolver, Unmet, Why};
use crate::elf::{Abi, Dependency, DependencyTag, Elf};

/// More libraries than any program loads; a hostile tree may hold a longer chain.
const MAX_OBJECTS: usize = 8192;
/// Directories looked into for one program, all its libraries together; a large one needs some hundreds.
const MAX_SEARCHES: usize = 200_000;

/// Fill in what `program` needs.
pub(super) fn play(resolver: &mut Resolver<'_>, program: &Rc<Object>, needs: &mut Needs) {
    let Content::Elf { abi, elf, .. } = &program.content else { return };
    if elf.interpreter.is_none() && elf.dependencies.is_empty() && elf.dlopen.is_empty() {
        return;
    }
    let interpreter = match &elf.interpreter {
        Some(name) => name.clone(),
        None => likely_interpreter(resolver, *abi, elf),
    };
    let loader = resolver.loader(&interpreter, *abi);
    let mut process = Process {
        resolver,
        loader,
        abi: *abi,
        loaded: Vec::new(),
        names: HashMap::new(),
        inodes: HashMap::new(),
        used_config: false,
        budget: MAX_SEARCHES,
    };
    process.start(program, elf, &interpreter, needs);
    process.load_dependencies(0, needs);
    let required = process.loaded.len();
    process.load_variants(required, needs);
    process.load_optional(required, needs);
    process.note_configuration(needs);
    if elf.interpreter.is_none() {
        // Nobody starts a library. Whoever loads it may have loaded what is missing already (java and its libjvm.so).
        needs.absent.append(&mut needs.unmet);
    }
}

/// A library has no PT_INTERP: whoever loads it has. Take the machine's usual loader, or musl's if it asks for musl.
fn likely_interpreter(resolver: &mut Resolver<'_>, abi: Abi, elf: &Elf) -> Vec<u8> {
    let wants_musl = elf.dependencies.iter().any(|d| {
        d.name == b"libc.so" || d.name.starts_with(b"libc.musl-") || d.name.starts_with(b"ld-musl-")
    });
    let musl = loader::musl_interpreter(abi).filter(|_| wants_musl);
    let glibc = loader::default_interpreter(abi);
    let there = |r: &mut Resolver<'_>, path: &str| r.object(Path::new(path)).is_ok_and(|o| o.is_some());
    match musl {
        Some(path) if there(resolver, path) => path.as_bytes().to_vec(),
        _ => glibc.unwrap_or_default().as_bytes().to_vec(),
    }
}

/// A file mapped into the process.
struct Loaded {
    object: Rc<Object>,
    elf: Rc<Elf>,
    /// Who caused it to be loaded; none for the program and its loader.
    asked_by: Option<usize>,
    /// How it is needed, and so what it needs in turn.
    kind: NeedKind,
    rpath: Rc<[SearchDir]>,
    runpath: Rc<[SearchDir]>,
}

struct Process<'r, 'h> {
    resolver: &'r mut Resolver<'h>,
    loader: Rc<Loader>,
    abi: Abi,
    loaded: Vec<Loaded>,
    /// Names under which something is loaded already: a second search for one never happens.
    names: HashMap<Vec<u8>, usize>,
    inodes: HashMap<(u64, u64), usize>,
    /// Searches left; a hostile tree could ask for millions.
    budget: usize,
    /// A file was found in directories that come from the loader's configuration file.
    used_config: bool,
}

/// What a search gave.
#[derive(Clone, Debug)]
pub(super) struct Hit {
    object: Rc<Object>,
    /// What other processors get instead (`$PLATFORM`); the jail's may be one of them.
    instead: Vec<Rc<Object>>,
    /// The same library for newer processors (`glibc-hwcaps`).
    variants: Vec<Rc<Object>>,
    /// As in `Need`.
    cache_flags: Option<i32>,
    /// Which way it was found.
    way: Way,
}

impl Hit {
    fn new(object: Rc<Object>, way: Way) -> Self {
        Self { object, instead: Vec::new(), variants: Vec::new(), cache_flags: None, way }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `$ORIGIN` of a run path or of the name itself.
    Origin,
    /// The loader's own directories, or those of its configuration.
    Default,
    Other,
}

/// A search's end: found, not found (Ok(None)), or stopped by a file that is no library.
pub(super) type Search = Result<Option<Hit>, Why>;

impl Process<'_, '_> {
    fn start(&mut self, program: &Rc<Object>, elf: &Rc<Elf>, interpreter: &[u8], needs: &mut Needs) {
        // The kernel tells the program its own real place; a library's place is the path it was opened by.
        let origin = program.real.parent().unwrap_or(Path::new("/")).to_path_buf();
        self.push(program.clone(), elf.clone(), None, NeedKind::Library, &origin);
        if self.loader.family == Family::Glibc {
            if let Some(soname) = &elf.soname {
                self.names.insert(soname.clone(), 0);
            }
        }
        if elf.interpreter.is_some() {
            self.load_interpreter(program, interpreter, needs);
        } else if let Ok(Some(object)) = self.accept(Path::new(OsStr::from_bytes(interpreter))) {
            // Whoever loads a library has a loader; asking for it by name finds that one.
            self.push_interpreter(object, interpreter);
        }
    }

    fn load_interpreter(&mut self, program: &Rc<Object>, name: &[u8], needs: &mut Needs) {
        let kind = NeedKind::Interpreter;
        let path = Path::new(OsStr::from_bytes(name));
        let unmet = |why| Unmet { name: name.into(), needed_by: program.path.clone(), kind, why };
        if !path.is_absolute() {
            needs.unmet.push(unmet(Why::Relative));
            return;
        }
        match self.accept(path) {
            Ok(Some(object)) => {
                needs.needs.push(need(&object, name, &program.path, kind, None));
                self.push_interpreter(object, name);
            }
            Ok(None) => needs.unmet.push(unmet(Why::NotFound { searched: Vec::new() })),
            Err(why) => needs.unmet.push(unmet(why)),
        }
    }

    fn push_interpreter(&mut self, object: Rc<Object>, name: &[u8]) {
        let Content::Elf { elf, .. } = object.content.clone() else { return };
        let soname = elf.soname.clone();
        let index = self.push(object, elf, None, NeedKind::Interpreter, Path::new("/"));
        self.names.insert(name.to_vec(), index);
        if let (Some(soname), Family::Glibc) = (soname, self.loader.family) {
            self.names.insert(soname, index);
        }
    }

    fn push(
        &mut self,
        object: Rc<Object>,
        elf: Rc<Elf>,
        asked_by: Option<usize>,
        kind: NeedKind,
        origin: &Path,
    ) -> usize {
        let index = self.loaded.len();
        let musl = self.loader.family == Family::Musl;
        let tokens =
            Tokens { origin, lib: &self.loader.lib, platforms: self.loader.platforms, origin_only: musl };
        let expand = |path: &Option<Vec<u8>>| -> Rc<[SearchDir]> {
            path.as_deref().map(|p| tokens.directories(p)).unwrap_or_default().into()
        };
        let (rpath, runpath) = (expand(&elf.rpath), expand(&elf.runpath));
        self.inodes.entry(object.inode).or_insert(index);
        self.loaded.push(Loaded { object, elf, asked_by, kind, rpath, runpath });
        index
    }

    /// Breadth first from `from` on: what each asks for, and what that asks for.
    fn load_dependencies(&mut self, from: usize, needs: &mut Needs) {
        let mut index = from;
        while index < self.loaded.len() {
            let elf = self.loaded[index].elf.clone();
            for dependency in &elf.dependencies {
                self.load(index, dependency, self.loaded[index].kind, needs);
            }
            index += 1;
        }
    }

    /// One dependency of one file.
    fn load(&mut self, asker: usize, dependency: &Dependency, asker_kind: NeedKind, needs: &mut Needs) {
        let name = &dependency.name;
        if self.is_loaded(name) {
            return;
        }
        let kind = match asker_kind {
            NeedKind::HwcapsVariant | NeedKind::OptionalDlopen => asker_kind,
            _ => NeedKind::Library,
        };
        let needed_by = self.loaded[asker].object.path.clone();
        let search =
            if self.loaded.len() < MAX_OBJECTS { self.search(asker, name) } else { Err(Why::TooMuch) };
        let why = match search {
            Ok(Some(hit)) => return self.take(asker, name, kind, hit, &needed_by, needs),
            Ok(None) => Why::NotFound { searched: self.search_path(asker, name) },
            Err(why) => why,
        };
        let unmet = Unmet { name: name.as_slice().into(), needed_by, kind, why };
        if kind.is_optional() || dependency.tag == DependencyTag::Auxiliary {
            needs.absent.push(unmet);
        } else {
            needs.unmet.push(unmet);
        }
    }

    fn take(
        &mut self,
        asker: usize,
        name: &[u8],
        kind: NeedKind,
        hit: Hit,
        needed_by: &Arc<Path>,
        needs: &mut Needs,
    ) {
        if let Some(index) = self.inodes.get(&hit.object.inode) {
            // The same file by another name: glibc keeps both names, musl too.
            self.names.insert(name.to_vec(), *index);
            return;
        }
        self.used_config |= hit.way == Way::Default;
        needs.uses_proc |= hit.way == Way::Origin && self.origin_is_from_proc(asker);
        let object = hit.object.clone();
        let path = object.path.clone();
        needs.needs.push(need(&object, name, needed_by, kind, hit.cache_flags));
        let Some((index, soname)) = self.push_library(object, asker, kind) else { return };
        self.names.insert(name.to_vec(), index);
        if self.loader.family == Family::Glibc {
            self.names.entry(path.as_os_str().as_bytes().to_vec()).or_insert(index);
            if let Some(soname) = soname {
                self.names.entry(soname).or_insert(index);
            }
        }
        for object in hit.instead {
            needs.needs.push(need(&object, name, needed_by, kind, None));
            self.push_library(object, asker, kind);
        }
        for variant in hit.variants {
            if !needs.needs.iter().any(|n| n.path == variant.path) {
                needs.needs.push(need(&variant, name, needed_by, NeedKind::HwcapsVariant, hit.cache_flags));
            }
        }
    }

    fn push_library(
        &mut self,
        object: Rc<Object>,
        asker: usize,
        kind: NeedKind,
    ) -> Option<(usize, Option<Vec<u8>>)> {
        let Content::Elf { elf, .. } = object.content.clone() else { return None };
        let origin = object.path.parent().unwrap_or(Path::new("/")).to_path_buf();
        let soname = elf.soname.clone();
        Some((self.push(object, elf, Some(asker), kind, &origin), soname))
    }

    /// The program's own `$ORIGIN` comes from /proc/self/exe, a library's from the path it was opened by. A run path
    /// may be inherited from the program, so any asker that has none of its own counts as the program.
    fn origin_is_from_proc(&self, asker: usize) -> bool {
        let own = &self.loaded[asker].elf;
        let has_own = own.rpath.as_deref().or(own.runpath.as_deref()).is_some_and(uses_origin);
        asker == 0 || (!has_own && self.loaded[0].elf.rpath.as_deref().is_some_and(uses_origin))
    }

    fn is_loaded(&self, name: &[u8]) -> bool {
        self.names.contains_key(name) || (self.loader.family == Family::Musl && musl_is(name))
    }

    /// What variants for newer processors need beyond what the base library needs.
    fn load_variants(&mut self, required: usize, needs: &mut Needs) {
        let variants: Vec<Need> =
            needs.needs.iter().filter(|n| n.kind == NeedKind::HwcapsVariant).cloned().collect();
        for variant in variants {
            let Ok(Some(object)) = self.accept(&variant.path) else { continue };
            let Content::Elf { elf, .. } = object.content.clone() else { continue };
            // It stands in the place of the base library: same asker, so same inherited paths.
            let asker = (0..required).find(|i| self.loaded[*i].object.path == variant.needed_by);
            let origin = object.path.parent().unwrap_or(Path::new("/")).to_path_buf();
            self.push(object, elf, asker, NeedKind::HwcapsVariant, &origin);
        }
        self.load_dependencies(required, needs);
    }

    /// What the files say they may dlopen, and what that needs.
    fn load_optional(&mut self, required: usize, needs: &mut Needs) {
        let from = self.loaded.len();
        for asker in 0..required {
            let elf = self.loaded[asker].elf.clone();
            for note in &elf.dlopen {
                for soname in &note.soname {
                    let dependency =
                        Dependency { name: soname.as_bytes().to_vec(), tag: DependencyTag::Auxiliary };
                    self.load(asker, &dependency, NeedKind::OptionalDlopen, needs);
                }
            }
        }
        self.load_dependencies(from, needs);
    }

    fn note_configuration(&mut self, needs: &mut Needs) {
        let by_cache = needs.needs.iter().any(|n| n.cache_flags.is_some());
        let config = match &self.loader.config {
            Some(config) if self.used_config => config.clone(),
            Some(_) => return,
            None if by_cache => PathBuf::from("/etc/ld.so.cache"),
            None => return,
        };
        let Ok(Some(object)) = self.resolver.object(&config) else { return };
        let program = needs.program.clone();
        needs.needs.push(need(&object, b"", &program, NeedKind::CacheOrConfig, None));
    }

    fn search(&mut self, asker: usize, name: &[u8]) -> Search {
        if name.contains(&b'/') {
            return self.search_path_name(asker, name);
        }
        for dirs in self.run_paths(asker) {
            if let Some(hit) = self.search_directories(&dirs, name)? {
                return Ok(Some(hit));
            }
        }
        self.search_defaults(self.loaded[asker].elf.nodeflib, name)
    }

    /// Run paths in the order in which they are searched for what `asker` asks.
    fn run_paths(&self, asker: usize) -> Vec<Rc<[SearchDir]>> {
        let mut paths = Vec::new();
        let mut ancestor = Some(asker);
        let mut did_program = false;
        let own = &self.loaded[asker];
        if self.loader.family == Family::Musl {
            while let Some(index) = ancestor {
                let loaded = &self.loaded[index];
                paths
                    .push(if loaded.elf.runpath.is_some() { &loaded.runpath } else { &loaded.rpath }.clone());
                ancestor = loaded.asked_by;
            }
            return paths;
        }
        if own.elf.runpath.is_none() {
            while let Some(index) = ancestor {
                paths.push(self.loaded[index].rpath.clone());
                did_program |= index == 0;
                ancestor = self.loaded[index].asked_by;
            }
            if !did_program {
                paths.push(self.loaded[0].rpath.clone());
            }
        }
        paths.push(own.runpath.clone());
        paths.retain(|p| !p.is_empty());
        paths
    }

    /// A DT_NEEDED with a slash is the path itself.
    fn search_path_name(&mut self, asker: usize, name: &[u8]) -> Search {
        let musl = self.loader.family == Family::Musl;
        let object = self.loaded[asker].object.clone();
        let place = if asker == 0 { &object.real } else { &object.path };
        let loader = self.loader.clone();
        let tokens = Tokens {
            origin: place.parent().unwrap_or(Path::new("/")),
            lib: &loader.lib,
            platforms: loader.platforms,
            origin_only: musl,
        };
        let paths = if musl { vec![PathBuf::from(OsStr::from_bytes(name))] } else { tokens.expand(name) };
        for path in paths {
            if !path.is_absolute() {
                return Err(Why::Relative);
            }
            if let Some(object) = self.accept(&path)? {
                let way = if uses_origin(name) { Way::Origin } else { Way::Other };
                return Ok(Some(Hit::new(object, way)));
            }
        }
        Ok(None)
    }

    /// Directory by directory; in each, variants for newer processors come before the plain file.
    fn search_directories(&mut self, dirs: &[SearchDir], name: &[u8]) -> Search {
        let name = OsStr::from_bytes(name);
        let mut variants = Vec::new();
        let mut found: Option<Hit> = None;
        for dir in dirs {
            // Once found, only what other processors get instead is of interest.
            if found.is_some() && !dir.instead {
                break;
            }
            self.budget = self.budget.checked_sub(1).ok_or(Why::TooMuch)?;
            if !self.resolver.is_directory(&dir.path) {
                continue;
            }
            if self.loader.family == Family::Glibc {
                for sub in self.resolver.hwcaps_of(&dir.path).iter() {
                    variants.extend(self.accept(&sub.join(name))?);
                }
            }
            let Some(object) = self.accept(&dir.path.join(name))? else { continue };
            match &mut found {
                Some(hit) => hit.instead.push(object),
                None => {
                    let way = if dir.by_origin { Way::Origin } else { Way::Other };
                    found = Some(Hit::new(object, way));
                }
            }
        }
        // Only variants: the one for the oldest processor has to do for the base.
        let found = found.or_else(|| variants.pop().map(|object| Hit::new(object, Way::Other)));
        Ok(found.map(|hit| Hit { variants, ..hit }))
    }

    /// ld.so.cache and the loader's own directories: the same answer for every asker, so it is remembered.
    fn search_defaults(&mut self, nodeflib: bool, name: &[u8]) -> Search {
        let loader = self.loader.clone();
        if let Some(known) = loader.remembered(name, nodeflib) {
            return known;
        }
        let found = self.search_defaults_afresh(&loader, nodeflib, name);
        loader.remember(name, nodeflib, found.clone());
        found
    }

    fn search_defaults_afresh(&mut self, loader: &Loader, nodeflib: bool, name: &[u8]) -> Search {
        if loader.family == Family::Glibc {
            if let Some(hit) = self.search_cache(loader, nodeflib, name)? {
                return Ok(Some(hit));
            }
            if nodeflib {
                return Ok(None);
            }
        }
        let found = self.search_directories(&loader.directories, name)?;
        Ok(found.map(|hit| Hit { way: Way::Default, ..hit }))
    }

    fn search_cache(&mut self, loader: &Loader, nodeflib: bool, name: &[u8]) -> Search {
        let Some(cache) = self.resolver.ld_cache() else { return Ok(None) };
        let mut base = None;
        let mut variants = Vec::new();
        for line in cache.lines(name) {
            let path = Path::new(OsStr::from_bytes(line.path));
            let in_default = || loader.directories.iter().any(|dir| path.starts_with(&dir.path));
            let fits = loader.cache_flags.is_none_or(|flags| flags == line.flags);
            if !fits || !path.is_absolute() || (nodeflib && in_default()) {
                continue;
            }
            match line.hwcap {
                Some(_) => variants.extend(self.accept(path)?),
                None if base.is_none() => base = self.accept(path)?.map(|object| (object, line.flags)),
                None => {}
            }
        }
        let Some((object, flags)) = base.or_else(|| variants.pop().map(|v| (v, 0))) else { return Ok(None) };
        let only_by_cache = !self.is_in_directories(&loader.directories, &object);
        let cache_flags = only_by_cache.then_some(flags);
        Ok(Some(Hit { variants, cache_flags, ..Hit::new(object, Way::Other) }))
    }

    /// Whether the loader would come to the same file by its own directories, were there no cache.
    fn is_in_directories(&mut self, dirs: &[SearchDir], object: &Object) -> bool {
        let Some(name) = object.path.file_name() else { return false };
        if dirs.iter().any(|dir| object.path.parent() == Some(&dir.path)) {
            return true;
        }
        dirs.iter().any(|dir| {
            let other = self.resolver.object(&dir.path.join(name));
            other.is_ok_and(|o| o.is_some_and(|o| o.inode == object.inode))
        })
    }

    /// `open_verify`: take the file, pass over it (None), or stop the search.
    fn accept(&mut self, path: &Path) -> Result<Option<Rc<Object>>, Why> {
        let object = match self.resolver.object(path) {
            Ok(Some(object)) => object,
            Ok(None) => return Ok(None),
            Err(error) => {
                return Err(Why::Broken { path: path.into(), fault: format!("not readable ({error})") });
            }
        };
        // glibc passes over libraries of another class or machine; musl takes what it can open, and fails.
        let passes_over = |abi: Abi| self.loader.family == Family::Glibc && abi != self.abi;
        let fault = match &object.content {
            Content::Elf { abi, .. } | Content::BrokenElf { abi: Some(abi), .. } if passes_over(*abi) => {
                return Ok(None);
            }
            Content::Elf { abi, .. } if *abi != self.abi => "a library for another machine",
            Content::Elf { refused: Some(fault), .. } => fault,
            Content::Elf { loadable: false, .. } => "neither a program nor a shared library",
            Content::Elf { .. } => return Ok(Some(object)),
            Content::BrokenElf { fault, .. } | Content::Unreadable { fault } => fault,
            Content::Script { .. } | Content::Data => "not an ELF file",
        };
        Err(Why::Broken { path: object.path.clone(), fault: fault.to_string() })
    }

    /// For a message: where a missing library was looked for.
    fn search_path(&self, asker: usize, name: &[u8]) -> Vec<PathBuf> {
        if name.contains(&b'/') {
            return Vec::new();
        }
        let mut dirs: Vec<PathBuf> = Vec::new();
        let defaults: &[SearchDir] =
            if self.loaded[asker].elf.nodeflib { &[] } else { &self.loader.directories };
        let run_paths = self.run_paths(asker);
        for dir in run_paths.iter().flat_map(|p| p.iter()).chain(defaults) {
            if !dirs.contains(&dir.path) {
                dirs.push(dir.path.clone());
            }
        }
        dirs
    }
}

fn need(
    object: &Object,
    soname: &[u8],
    needed_by: &Arc<Path>,
    kind: NeedKind,
    cache_flags: Option<i32>,
) -> Need {
    Need {
        path: object.path.clone(),
        real: object.real.clone(),
        soname: soname.into(),
        needed_by: needed_by.clone(),
        kind,
        cache_flags,
    }
}

/// Names that musl's loader answers with itself, whatever files there are: `libc.so`, `libm.so.6`, ….
fn musl_is(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(b"lib") else { return false };
    let reserved: [&[u8]; 7] = [b"c.", b"pthread.", b"rt.", b"m.", b"dl.", b"util.", b"xnet."];
    reserved.iter().any(|part| rest.starts_with(part))
}

impl Resolver<'_> {
    fn loader(&mut self, interpreter: &[u8], abi: Abi) -> Rc<Loader> {
        let key = (interpreter.to_vec(), abi);
        if let Some(known) = self.loaders.get(&key) {
            return known.clone();
        }
        let loader = Rc::new(Loader::read(self, interpreter, abi));
        self.loaders.insert(key, loader.clone());
        loader
    }
}
