//! Every system call of a provisioning fails once, with EIO, ENOSPC (the full disk) and EINTR: never a half file, never a
//! lost one, and the next run repairs.
//!
//! `make test` takes a seeded sample (a failure prints `JAILWRIGHT_SEED=…`); `make test-faults` takes all of them.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Run, Scratch, text};

/// Cases of the sample: about ten seconds' worth.
const SAMPLE: usize = 90;

const ERRORS: &[&str] = &["EIO", "ENOSPC", "EINTR"];

/// Left out: without the first three nothing starts, or nothing ends; no kernel has ever failed the others.
const LEFT_OUT: &[&str] = &[
    "execve",
    "exit",
    "exit_group",
    "geteuid",
    "getuid",
    "getegid",
    "getgid",
    "getpid",
    "gettid",
    "umask",
    "set_tid_address",
    // Cannot fail once the machine has started; the standard library says so with a panic.
    "getrandom",
    // A process always may read its own limits (prlimit(2)), and rustix says so with a panic.
    "prlimit64",
];

#[test]
fn every_system_call_fails_once() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: strace is not installed");
        return;
    }
    let mut cases: Vec<Case> = Vec::new();
    let mut wanted = BTreeMap::new();
    for there in [false, true] {
        let whole = scratch(there);
        let calls = calls_of_a_run(&whole);
        wanted = tree(&whole.jail());
        assert!(calls.values().sum::<usize>() > 150 && calls["pwrite64"] > 3, "{calls:?}");
        for (call, count) in &calls {
            let each = (1..=*count).flat_map(|when| ERRORS.iter().map(move |error| (when, *error)));
            cases.extend(each.map(|(when, error)| Case { call: call.clone(), when, error, there }));
        }
    }
    let all = cases.len();
    if std::env::var_os("JAILWRIGHT_FAULTS").is_none_or(|which| which != "all") {
        sample(&mut cases);
    }
    let mut broke = 0;
    for case in &cases {
        let failed = fails_once(case, &wanted);
        broke += usize::from(failed);
    }
    println!(
        "{} of {all} faults; {broke} of them ended the run, the others were borne or tried again",
        cases.len()
    );
    assert!(broke > cases.len() / 10, "the faults did not arrive: {broke} of {}", cases.len());
}

/// One fault.
struct Case {
    call: String,
    when: usize,
    error: &'static str,
    /// Whether the jail's directory is there before; a new jail is made aside and moved into place as a whole.
    there: bool,
}

fn scratch(there: bool) -> Scratch {
    let scratch = Scratch::new();
    if there {
        std::fs::create_dir(scratch.jail()).expect("made");
        scratch.mode(&scratch.jail(), 0o755);
        scratch.own(&scratch.jail());
    }
    scratch
}

/// Keeps a seeded sample, in order.
fn sample(cases: &mut Vec<Case>) {
    let mut seed = std::env::var("JAILWRIGHT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
    });
    println!("JAILWRIGHT_SEED={seed}");
    while cases.len() > SAMPLE {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        cases.remove((seed >> 33) as usize % cases.len());
    }
}

/// How often a run of ours makes each system call.
fn calls_of_a_run(scratch: &Scratch) -> BTreeMap<String, usize> {
    let log = scratch.path("state/calls");
    let run = strace(scratch, &["-o", text(&log)]).ok();
    assert!(run.out.contains("made or renewed"), "{run:#?}");
    let log = std::fs::read(log).expect("the log");
    let mut calls = BTreeMap::new();
    for line in String::from_utf8_lossy(&log).lines() {
        // `PID call(arguments) = result`
        let name = line
            .split_once(' ')
            .and_then(|(_, rest)| rest.trim_start().split_once('('))
            .map(|(name, _)| name);
        if let Some(name) = name.filter(|name| !LEFT_OUT.contains(name)) {
            *calls.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    calls
}

fn strace(scratch: &Scratch, options: &[&str]) -> Run {
    let (jail, profiles) = (scratch.jail(), scratch.path("profiles"));
    let output = scratch
        .command("strace")
        .args(["-f", "-qq"])
        .args(options)
        .arg(scratch.tool("jail-init"))
        .args(["-j", text(&jail), "-c", text(&profiles), "shell"])
        .output()
        .expect("strace");
    Run::of(&output)
}

/// One fault; answers whether it ended the run.
fn fails_once(case: &Case, wanted: &BTreeMap<PathBuf, Entry>) -> bool {
    let Case { call, when, error, there } = case;
    let scratch = scratch(*there);
    let case = format!("{call} fails with {error} at its call {when} (directory there before: {there})");
    let inject = format!("inject={call}:error={error}:when={when}");
    let run = strace(&scratch, &["-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
    // Never half: what is in the jail is what belongs there.
    for (path, entry) in tree(&scratch.jail()) {
        let Entry::File { content, .. } = &entry else { continue };
        // Below such a name, or under one, is what was not put in place.
        let aside =
            path.components().any(|part| part.as_os_str().to_string_lossy().starts_with(".jailwright-"));
        assert!(
            aside || matches!(wanted.get(&path), Some(Entry::File { content: c, .. }) if c == content),
            "{case}: {path:?} is half"
        );
    }
    let failed = run.status != Some(0);
    // A failing brk may kill the loader before a word can be said; whatever ends by itself says why.
    if failed && run.status.is_some() {
        assert!(
            !run.err.is_empty() && !run.err.contains("panicked"),
            "{case}: not said in a sentence: {run:#?}"
        );
    }
    let again = scratch.init(&["shell"]);
    assert_eq!(again.status, Some(0), "{case}: the next run does not repair: {run:#?} {again:#?}");
    let repaired = tree(&scratch.jail());
    for (path, entry) in wanted {
        assert_eq!(repaired.get(path), Some(entry), "{case}: {path:?} is not repaired; first {run:#?}");
    }
    let more: Vec<_> = repaired.keys().filter(|path| !wanted.contains_key(*path)).collect();
    assert!(more.is_empty(), "{case}: {more:?} is left over");
    let check = scratch.on_jail("jail-check", &[]);
    assert_eq!(check.status, Some(0), "{case}: {check:#?}");
    failed
}

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Directory { mode: u32 },
    Link { target: PathBuf },
    File { mode: u32, mtime: i64, content: Content },
}

/// A content that a failing assertion does not print.
#[derive(PartialEq, Eq)]
struct Content(Vec<u8>);

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Everything in a jail, by path inside.
fn tree(jail: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut all = BTreeMap::new();
    let mut todo = vec![jail.to_path_buf()];
    while let Some(path) = todo.pop() {
        let Ok(stat) = std::fs::symlink_metadata(&path) else { continue };
        let mode = stat.permissions().mode() & 0o7777;
        let entry = if stat.is_dir() {
            todo.extend(std::fs::read_dir(&path).expect("listed").map(|e| e.expect("entry").path()));
            Entry::Directory { mode }
        } else if stat.is_symlink() {
            Entry::Link { target: std::fs::read_link(&path).expect("link") }
        } else {
            let content = Content(std::fs::read(&path).expect("read"));
            // What we write ourselves has the time of its writing.
            let mtime = if path.starts_with(jail.join("etc")) { 0 } else { stat.mtime() };
            Entry::File { mode, mtime, content }
        };
        all.insert(path.strip_prefix(jail).expect("below").to_path_buf(), entry);
    }
    all
}

/// A path's directory, below whatever root it is laid in.
fn directory_of(path: &Path) -> &Path {
    path.parent().and_then(|dir| dir.strip_prefix("/").ok()).expect("absolute")
}

/// A host's file that changes between the first and the last look is copied again.
#[test]
fn a_file_that_changes_while_it_is_copied_is_copied_again() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: strace is not installed");
        return;
    }
    let scratch = Scratch::new();
    let file = scratch.host_file("file", "old\n");
    scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&file)));
    let copy = scratch.jail().join(file.strip_prefix("/").expect("absolute"));
    let (jail, profiles) = (scratch.jail(), scratch.path("profiles"));
    // Every look at a finished content waits a little, long enough for the change below.
    let mut run = scratch
        .command("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64"])
        .args(["-e", "inject=pwrite64:delay_exit=300000"])
        .arg(scratch.tool("jail-init"))
        .args(["-j", text(&jail), "-c", text(&profiles), "own"])
        .spawn()
        .expect("strace");
    // A new jail is made aside.
    let directory = jail.join(".jailwright-new").join(directory_of(&file));
    let begun = || {
        let Ok(entries) = std::fs::read_dir(&directory) else { return false };
        entries.flatten().any(|e| e.metadata().is_ok_and(|stat| stat.len() == 4))
    };
    let start = std::time::Instant::now();
    while !begun() {
        assert!(start.elapsed().as_secs() < 60, "the copy never began");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::fs::write(&file, "new\n").expect("written");
    assert!(run.wait().expect("ends").success());
    assert_eq!(std::fs::read(&copy).expect("copied"), b"new\n");
    scratch.on_jail("jail-check", &[]).ok();
}

/// One that never comes to rest is said, and nothing of it is put in place.
#[test]
fn a_file_that_never_comes_to_rest_is_not_copied() {
    let scratch = Scratch::new();
    let file = scratch.host_file("log", "");
    std::fs::write(&file, vec![7u8; 64 << 20]).expect("written");
    scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&file)));
    let copy = scratch.jail().join(file.strip_prefix("/").expect("absolute"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let run = std::thread::scope(|scope| {
        scope.spawn(|| {
            let log = std::fs::OpenOptions::new().append(true).open(&file).expect("opened");
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::io::Write::write_all(&mut &log, b"x").expect("appended");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let run = scratch.init(&["own"]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        run
    });
    run.fails(1, "keeps changing while it is copied");
    assert!(!copy.exists());
    let left = std::fs::read_dir(copy.parent().expect("a directory")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "no temporary file stays");
    scratch.init(&["own"]).ok();
    assert_eq!(
        std::fs::metadata(&copy).expect("copied").len(),
        std::fs::metadata(&file).expect("there").len()
    );
}

/// The second of two runs says who holds the jail, and waits.
#[test]
fn the_second_run_names_the_first_and_waits() {
    let scratch = Scratch::new();
    scratch.init(&["shell"]).ok();
    let state = std::fs::read_dir(scratch.path("state/jailwright")).expect("state").next().expect("one");
    let lock = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(state.expect("entry").path().join("lock"))
        .expect("the lock");
    std::fs::write(scratch.path("profiles/own.toml"), "include = [\"shell\"]\ncommands = [\"ls\"]\n")
        .expect("written");
    std::io::Write::write_all(&mut &lock, b"jail-update (pid 12)\n").expect("named");
    lock.set_len(21).expect("cut");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("held");
    let (jail, profiles) = (scratch.jail(), scratch.path("profiles"));
    let mut second = scratch
        .command(scratch.tool("jail-init"))
        .args(["-j", text(&jail), "-c", text(&profiles), "own"])
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("runs");
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert!(second.try_wait().expect("asked").is_none(), "it did not wait");
    assert!(!jail.join("usr/bin/ls").exists(), "it wrote without the lock");
    drop(lock);
    let run = Run::of(&second.wait_with_output().expect("ends")).ok();
    assert!(run.err.contains("jail-update (pid 12)"), "{run:#?}");
    assert!(jail.join("usr/bin/ls").exists());
}

/// Deeper than anything of a package: said, and nothing is made.
#[test]
fn a_tree_ten_thousand_directories_deep() {
    let scratch = Scratch::new();
    let top = scratch.path("host/deep");
    std::fs::create_dir(&top).expect("made");
    let mut at = std::fs::File::open(&top).map(std::os::fd::OwnedFd::from).expect("opened");
    for _ in 0..10_000 {
        use rustix::fs::{Mode, OFlags, mkdirat, openat};
        mkdirat(&at, "d", Mode::from_raw_mode(0o755)).expect("made");
        at = openat(&at, "d", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("opened");
    }
    scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&top)));
    scratch.init(&["own"]).fails(1, "is more than 64 directories deep");
    assert!(!scratch.jail().exists());
    let removed = Command::new("rm").arg("-rf").arg(&top).status().expect("rm");
    assert!(removed.success());
}

/// Links in circles are kept as they lie in a tree, and are an error only where one is asked for itself.
#[test]
fn links_in_circles() {
    let scratch = Scratch::new();
    let top = scratch.path("host/circles");
    std::fs::create_dir_all(top.join("below")).expect("made");
    for (link, target) in [("a", "b"), ("b", "a"), ("self", "self"), ("below/up", "..")] {
        std::os::unix::fs::symlink(target, top.join(link)).expect("linked");
    }
    scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&top)));
    scratch.init(&["own"]).ok();
    let copy = scratch.jail().join(top.strip_prefix("/").expect("absolute"));
    for link in ["a", "b", "self", "below/up"] {
        assert!(std::fs::symlink_metadata(copy.join(link)).expect("kept").is_symlink());
    }
    scratch.section("one", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&top.join("a"))));
    scratch.init(&["one"]).fails(1, "cannot read");
}
