//! Every program of this machine against its own loader: `ld.so --list` from the real path gives the same libraries.
//!
//! What differs must stand in `EXPLAINED` with the reason; a difference that does not, and an explanation that nothing
//! needs any more, both fail. The loader lists what it would load and does not start the program. Libraries are held
//! against the loader in the same way, and a script's interpreter has to be where the kernel and `env` look.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use jail_provision::elf::Head;
use jail_provision::host::{Host, HostFile, RealHost, Stat};
use jail_provision::resolve::{NeedKind, ProgramKind, Resolver};
use jail_provision::script::STANDARD_DIRS;

/// Directories of programs.
const PROGRAMS: [&str; 4] = ["/usr/bin", "/usr/sbin", "/usr/lib/git-core", "/usr/lib/systemd"];
/// Trees of libraries and plug-ins.
const LIBRARIES: [&str; 2] = ["/usr/lib", "/usr/lib64"];

/// Real path of a program, and why its two lists differ. Only differences that are no fault of the resolver.
const EXPLAINED: [(&str, &str); 0] = [];

/// Name asked for → real files it may stand for.
type Libraries = BTreeMap<Vec<u8>, BTreeSet<PathBuf>>;

#[test]
fn same_libraries_as_the_loader_for_every_program_of_the_machine() {
    let host = RealHost::system();
    let files = executables(&host);
    let programs: Vec<_> = files.iter().filter_map(|f| Some((f.clone(), loader_of(&host, f)?))).collect();
    println!("{} executables, {} of them with a glibc loader", files.len(), programs.len());
    agree(&programs, 100);
}

#[test]
fn same_libraries_as_the_loader_for_every_library_of_the_machine() {
    let host = RealHost::system();
    let Some(loader) = loader_of(&host, Path::new("/usr/bin/env")) else {
        eprintln!("skipped: /usr/bin/env has no glibc loader");
        return;
    };
    let libraries: Vec<_> = libraries(&host).into_iter().map(|l| (l, loader.clone())).collect();
    agree(&libraries, 50);
}

/// A host that counts what is asked of it.
struct Counted {
    host: RealHost,
    asked: Cell<usize>,
}

impl Counted {
    fn count(&self) -> &RealHost {
        self.asked.set(self.asked.get() + 1);
        &self.host
    }
}

impl Host for Counted {
    fn lstat(&self, path: &Path) -> io::Result<Stat> {
        self.count().lstat(path)
    }
    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        self.count().read_link(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.count().read_dir(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn HostFile + '_>> {
        self.count().open(path)
    }
}

/// What makes it fast: a file is looked at and opened once, a directory found once, whoever asks and how often.
#[test]
fn each_file_is_read_once_for_all_programs() {
    let host = Counted { host: RealHost::system(), asked: Cell::new(0) };
    let mut resolver = Resolver::new(&host);
    let programs = executables(&host.host);
    let mut files: BTreeSet<PathBuf> = programs.clone();
    for program in &programs {
        let Ok(needs) = resolver.survey(program) else { continue };
        files.extend(needs.needs.iter().map(|n| n.real.to_path_buf()));
    }
    // One lstat and one open a file; some links, directories, and places looked into in vain.
    let asked = host.asked.get();
    assert!(asked <= files.len() * 4, "{asked} questions for {} files", files.len());
    for program in &programs {
        drop(resolver.survey(program));
    }
    assert!(host.asked.get() - asked <= files.len() / 10, "asked again: {}", host.asked.get() - asked);
}

#[test]
fn every_script_of_the_machine_has_its_interpreter_where_we_say() {
    let host = RealHost::system();
    let mut resolver = Resolver::new(&host);
    let mut scripts = 0;
    for file in executables(&host) {
        let Ok(needs) = resolver.survey(&file) else { continue };
        if needs.kind != ProgramKind::Script {
            continue;
        }
        scripts += 1;
        for need in needs.needs.iter().filter(|n| n.kind == NeedKind::ScriptInterpreter) {
            assert!(need.real.exists(), "{file:?}: {need:?}");
        }
        for unmet in &needs.unmet {
            let name = OsStr::from_bytes(&unmet.name);
            let there = STANDARD_DIRS.iter().any(|dir| Path::new(dir).join(name).exists());
            assert!(!there, "{file:?}: {unmet} (but it is)");
        }
    }
    assert!(scripts >= 20, "only {scripts} scripts: is this the right machine?");
}

/// Hold each file against its loader, on two threads.
fn agree(files: &[(PathBuf, PathBuf)], at_least: usize) {
    assert!(files.len() >= at_least, "only {} files: is this the right machine?", files.len());
    let (first, second) = files.split_at(files.len() / 2);
    let mut differing = std::thread::scope(|scope| {
        let other = scope.spawn(|| compare(second));
        let mut all = compare(first);
        all.append(&mut other.join().expect("no panic"));
        all
    });
    let mut stale = Vec::new();
    for (program, why) in EXPLAINED {
        let here = files.iter().any(|(p, _)| p == Path::new(program));
        if differing.remove(Path::new(program)).is_none() && here {
            stale.push(format!("{program}: explained ({why}), but it does not differ"));
        }
    }
    let report: Vec<String> =
        differing.iter().map(|(p, d)| format!("{}: {d}", p.display())).chain(stale).collect();
    assert!(report.is_empty(), "of {} files:\n{}", files.len(), report.join("\n"));
    println!("{} files agree with their loader", files.len());
}

/// Real paths of everything executable in the directories of programs.
fn executables(host: &RealHost) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for dir in PROGRAMS.map(Path::new) {
        for name in host.read_dir(dir).unwrap_or_default() {
            let Ok(walk) = host.walk(&dir.join(name)) else { continue };
            if walk.stat.is_file() && walk.stat.mode & 0o111 != 0 {
                files.insert(walk.real);
            }
        }
    }
    files
}

/// Real paths of everything called `*.so*` below the trees of libraries.
fn libraries(host: &RealHost) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let mut todo: Vec<PathBuf> = LIBRARIES.map(PathBuf::from).to_vec();
    while let Some(dir) = todo.pop() {
        for name in host.read_dir(&dir).unwrap_or_default() {
            let path = dir.join(&name);
            let Ok(stat) = host.lstat(&path) else { continue };
            if stat.is_dir() {
                todo.push(path);
            } else if stat.is_file() && name.as_bytes().windows(3).any(|w| w == b".so") && is_elf(host, &path)
            {
                files.insert(path);
            }
        }
    }
    files
}

fn is_elf(host: &RealHost, path: &Path) -> bool {
    let Ok(file) = host.open(path) else { return false };
    Head::read(&*file).is_ok_and(|head| head.is_some_and(|h| h.loadable))
}

fn loader_of(host: &RealHost, program: &Path) -> Option<PathBuf> {
    let file = host.open(program).ok()?;
    let name = Head::read(&*file).ok()??.body(&*file).ok()?.interpreter?;
    // musl's loader lists too, but under names of its own; its programs are among the fixtures.
    (!name.windows(8).any(|w| w == b"ld-musl-")).then(|| PathBuf::from(OsStr::from_bytes(&name)))
}

/// Programs whose two lists differ, and how.
fn compare(programs: &[(PathBuf, PathBuf)]) -> BTreeMap<PathBuf, String> {
    let host = RealHost::system();
    let mut resolver = Resolver::new(&host);
    let mut differing = BTreeMap::new();
    for (program, loader) in programs {
        let theirs = listed_by_loader(loader, program);
        let ours = listed_by_resolver(&mut resolver, program);
        if let Some(difference) = difference(theirs, ours) {
            differing.insert(program.clone(), difference);
        }
    }
    differing
}

fn difference(theirs: Result<Libraries, String>, ours: Result<Libraries, String>) -> Option<String> {
    let (theirs, ours) = match (theirs, ours) {
        (Err(_), Err(_)) => return None,
        (Err(error), Ok(_)) => return Some(format!("the loader fails, the resolver does not: {error}")),
        (Ok(_), Err(error)) => return Some(format!("the resolver fails, the loader does not: {error}")),
        (Ok(theirs), Ok(ours)) => (theirs, ours),
    };
    let mut differences = Vec::new();
    for (name, files) in &theirs {
        let name_text = String::from_utf8_lossy(name);
        match ours.get(name) {
            None => differences.push(format!("{name_text} is loaded, but not named")),
            Some(our_files) if files.is_subset(our_files) => {}
            Some(our_files) => differences.push(format!("{name_text} is {files:?}, named {our_files:?}")),
        }
    }
    let extra = ours.keys().filter(|name| !theirs.contains_key(*name));
    differences
        .extend(extra.map(|name| format!("{} is named, but not loaded", String::from_utf8_lossy(name))));
    (!differences.is_empty()).then(|| differences.join(", "))
}

fn listed_by_loader(loader: &Path, program: &Path) -> Result<Libraries, String> {
    let output = Command::new(loader).arg("--list").arg(program).env_clear().output();
    let output = output.map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned());
    }
    let mut found = Libraries::new();
    for line in output.stdout.split(|b| *b == b'\n') {
        // "	libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f…)"; a path alone if asked for as a path.
        let line = String::from_utf8_lossy(line);
        let line = line.trim();
        let line = line.rsplit_once(" (0x").map_or(line, |(line, _)| line);
        let (name, path) = line.split_once(" => ").unwrap_or((line, line));
        if path == "not found" {
            return Err(line.to_string());
        }
        if path.starts_with('/') && Path::new(name) != loader {
            let real = std::fs::canonicalize(path).map_err(|e| e.to_string())?;
            found.entry(name.as_bytes().to_vec()).or_default().insert(real);
        }
    }
    Ok(found)
}

fn listed_by_resolver(resolver: &mut Resolver<'_>, program: &Path) -> Result<Libraries, String> {
    let needs = resolver.needs(program).map_err(|e| e.to_string())?;
    if let Some(unmet) = needs.absent.iter().find(|u| u.kind == NeedKind::Library) {
        return Err(unmet.to_string());
    }
    let mut found = Libraries::new();
    let required = needs.needs.iter().filter(|n| n.kind == NeedKind::Library);
    for need in required {
        // The loader shows a name that is a path with its tokens filled in.
        let is_path = need.soname.contains(&b'/');
        let name = if is_path { need.path.as_os_str().as_bytes() } else { &need.soname };
        found.entry(name.to_vec()).or_default().insert(need.real.to_path_buf());
    }
    // Which of a library's variants the loader takes depends on the processor.
    for variant in needs.needs.iter().filter(|n| n.kind == NeedKind::HwcapsVariant) {
        if let Some(files) = found.get_mut(&*variant.soname) {
            files.insert(variant.real.to_path_buf());
        }
    }
    Ok(found)
}
