//! The same resolver with a jail as its root: only what is in the jail counts, by the jail's own cache and links.
//!
//! Each answer is held against the program really started in that jail.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use jail_provision::host::{Host, Kind, RealHost};
use jail_provision::ldcache::{self, NewLine};
use jail_provision::resolve::{NeedKind, ResolveError, Resolver};
use support::*;
use tempfile::TempDir;

/// A jail with `/bin/prog`, which needs `libodd.so`, and all else it needs; the library itself lies where told.
fn jail_with_library_in(dir: &str) -> TempDir {
    let b = Bench::new();
    b.lib("lib/libodd.so", &[], &[]);
    let program = b.program("bin/prog", &["lib/libodd.so"], &[]);
    let host = RealHost::system();
    let found = Resolver::new(&host).survey(&program).expect("a readable program");
    let tree = assemble(&found, |_| true);
    for (from, to) in [("bin/prog", "bin/prog".to_string()), ("lib/libodd.so", format!("{dir}/libodd.so"))] {
        let to = tree.path().join(to);
        fs::create_dir_all(to.parent().expect("a parent")).expect("mkdir");
        fs::copy(b.path(from), to).expect("copy");
    }
    tree
}

fn resolves(tree: &Path) -> Result<Vec<PathBuf>, ResolveError> {
    let host = RealHost::jail(tree).expect("the jail opens");
    let needs = Resolver::new(&host).needs(Path::new("/bin/prog"))?;
    Ok(needs.needs.iter().map(|n| n.path.to_path_buf()).collect())
}

/// The resolver's answer for the jail, once it is clear that the loader's is the same.
fn starts(tree: &Path) -> bool {
    let answer = resolves(tree);
    if can_start() {
        let really = start_in(tree, Path::new("/bin/prog"));
        assert_eq!(answer.is_ok(), says_ok(&really), "{answer:?} {really:?}");
    }
    answer.is_ok()
}

fn write_cache(tree: &Path, lines: &[(&str, &str)]) {
    let lines = lines.iter().map(|(soname, path)| NewLine {
        soname: soname.as_bytes().to_vec(),
        path: path.as_bytes().to_vec(),
        flags: flags(),
    });
    fs::create_dir_all(tree.join("etc")).expect("mkdir");
    fs::write(tree.join("etc/ld.so.cache"), ldcache::write(&lines.collect::<Vec<_>>())).expect("write");
}

fn flags() -> i32 {
    if cfg!(target_arch = "aarch64") { 0xa03 } else { 0x303 }
}

#[test]
fn a_library_in_a_directory_of_the_loader_needs_no_cache() {
    let tree = jail_with_library_in("usr/lib");
    assert!(starts(tree.path()));
}

#[test]
fn a_library_elsewhere_is_found_by_the_jails_own_cache_alone() {
    let tree = jail_with_library_in("opt/odd");
    assert!(!starts(tree.path()), "nothing names /opt/odd");
    let error = resolves(tree.path()).expect_err("not found").to_string();
    assert!(error.contains("libodd.so") && error.contains("/bin/prog"), "{error}");

    write_cache(tree.path(), &[("libodd.so", "/opt/odd/libodd.so"), ("libc.so.6", "/nowhere/libc.so.6")]);
    assert!(starts(tree.path()));

    // A cache that has gone stale: the line is there, the file is not.
    fs::rename(tree.path().join("opt/odd"), tree.path().join("opt/even")).expect("rename");
    assert!(!starts(tree.path()));

    // One that is no cache at all says nothing.
    fs::write(tree.path().join("etc/ld.so.cache"), b"glibc-ld.so.cache1.1 but no more").expect("write");
    assert!(!starts(tree.path()));
}

#[test]
fn the_real_loader_finds_every_line_of_a_cache_we_wrote() {
    let tree = jail_with_library_in("opt/odd");
    // Names around it in the loader's order, so that halving the table goes astray if the order is wrong.
    let mut lines = vec![("libodd.so".to_string(), "/opt/odd/libodd.so".to_string())];
    for n in 0..200 {
        lines.push((
            format!("lib{}.so.{n}", ["a", "odc", "ode", "z", "1", "odd10", "odd9"][n % 7]),
            "/nowhere".into(),
        ));
    }
    let lines: Vec<_> = lines.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    write_cache(tree.path(), &lines);
    assert!(starts(tree.path()));
}

#[test]
fn what_a_host_finds_by_its_cache_is_reported_with_the_flags_for_a_cache_of_the_jails() {
    // "The host" is a tree too, so that its ld.so.cache can be ours.
    let host_tree = jail_with_library_in("opt/odd");
    write_cache(host_tree.path(), &[("libodd.so", "/opt/odd/libodd.so")]);
    let host = RealHost::jail(host_tree.path()).expect("opens");
    let needs = Resolver::new(&host).needs(Path::new("/bin/prog")).expect("found by the cache");
    let by_cache: Vec<_> = needs.needs.iter().filter(|n| n.cache_flags.is_some()).collect();
    assert_eq!(by_cache.len(), 1, "{needs:#?}");
    assert_eq!(by_cache[0].cache_flags, Some(flags()));
    assert!(
        needs
            .needs
            .iter()
            .any(|n| n.kind == NeedKind::CacheOrConfig && *n.path == *Path::new("/etc/ld.so.cache"))
    );

    // All of it copied but the cache: the jail's own look finds what is wrong.
    let jail = jail_with_library_in("opt/odd");
    assert!(!starts(jail.path()));
    let line = NewLine {
        soname: by_cache[0].soname.to_vec(),
        path: by_cache[0].path.to_str().expect("plain").as_bytes().to_vec(),
        flags: by_cache[0].cache_flags.expect("flags"),
    };
    fs::create_dir_all(jail.path().join("etc")).expect("mkdir");
    fs::write(jail.path().join("etc/ld.so.cache"), ldcache::write(&[line])).expect("write");
    assert!(starts(jail.path()));
}

#[test]
fn a_library_of_the_host_is_not_a_library_of_the_jail() {
    let tree = jail_with_library_in("usr/lib");
    fs::remove_file(tree.path().join("usr/lib/libodd.so")).expect("rm");
    // A link that leads to a good library on the host leads nowhere in the jail.
    let outside = Bench::new();
    let good = outside.lib("lib/libodd.so", &[], &[]);
    symlink(&good, tree.path().join("usr/lib/libodd.so")).expect("symlink");
    assert!(!starts(tree.path()));
    fs::remove_file(tree.path().join("usr/lib/libodd.so")).expect("rm");
    let climbing = Path::new("../../../../../../../../../..").join(good.strip_prefix("/").expect("absolute"));
    symlink(climbing, tree.path().join("usr/lib/libodd.so")).expect("symlink");
    assert!(!starts(tree.path()));
}

#[test]
fn links_are_followed_inside_the_jail() {
    let tree = jail_with_library_in("store");
    symlink("/store/../store/./libodd.so", tree.path().join("usr/lib/libodd.so")).expect("symlink");
    assert!(starts(tree.path()));
    let host = RealHost::jail(tree.path()).expect("opens");
    let walk = host.walk(Path::new("/usr/lib/libodd.so")).expect("resolves");
    assert_eq!(walk.real, Path::new("/store/libodd.so"));
    assert_eq!(walk.links.len(), 1);
    assert_eq!(host.canonical(Path::new("/../../usr/lib/libodd.so")).expect("resolves"), walk.real);
}

#[test]
fn links_that_go_in_circles_are_not_there() {
    let tree = jail_with_library_in("usr/lib");
    let path = tree.path().join("usr/lib/libodd.so");
    fs::remove_file(&path).expect("rm");
    symlink("libodd.so", &path).expect("symlink");
    assert!(!starts(tree.path()));
}

#[test]
fn what_is_planted_under_a_librarys_name_is_not_waited_for() {
    let tree = jail_with_library_in("usr/lib");
    let path = tree.path().join("usr/lib/libodd.so");
    fs::remove_file(&path).expect("rm");
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).expect("mkfifo");
    // (The loader itself would wait for ever here, so it is not asked.)
    let error = resolves(tree.path()).expect_err("a FIFO is no library").to_string();
    assert!(error.contains("not a regular file"), "{error}");
    let host = RealHost::jail(tree.path()).expect("opens");
    assert_eq!(host.lstat(Path::new("/usr/lib/libodd.so")).expect("lstat").kind, Kind::Fifo);
    assert!(host.open(Path::new("/usr/lib/libodd.so")).is_err());
}

#[test]
fn the_jail_and_the_memory_host_answer_alike() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let mut memory = jail_provision::host::MemHost::new();
    memory.dir("/usr/bin", 0o755).file("/usr/bin/x", 0o755, b"12345").symlink("/bin", "usr/bin");
    memory.symlink("/usr/bin/abs", "/bin/x").symlink("/usr/bin/lost", "nowhere").symlink("/loop", "loop");
    fs::create_dir_all(dir.path().join("usr/bin")).expect("mkdir");
    fs::write(dir.path().join("usr/bin/x"), b"12345").expect("write");
    for (path, target) in
        [("bin", "usr/bin"), ("usr/bin/abs", "/bin/x"), ("usr/bin/lost", "nowhere"), ("loop", "loop")]
    {
        symlink(target, dir.path().join(path)).expect("symlink");
    }
    let jail = RealHost::jail(dir.path()).expect("opens");
    let paths = [
        "/",
        "/bin",
        "/bin/",
        "/bin/x",
        "/bin/x/",
        "/bin/x/y",
        "/usr/bin/abs",
        "/bin/abs",
        "/bin/lost",
        "/loop",
        "/loop/x",
        "/nowhere",
        "/bin/../bin/x",
        "/../bin/./x",
        "/usr",
    ];
    for path in paths.map(Path::new) {
        let kind = |host: &dyn Host| host.lstat(path).map(|s| s.kind).map_err(|e| e.raw_os_error());
        assert_eq!(kind(&memory), kind(&jail), "lstat {path:?}");
        let real = |host: &dyn Host| host.canonical(path).map_err(|e| e.raw_os_error());
        assert_eq!(real(&memory), real(&jail), "canonical {path:?}");
        let link = |host: &dyn Host| host.read_link(path).map_err(|e| e.raw_os_error());
        assert_eq!(link(&memory), link(&jail), "read_link {path:?}");
        let names = |host: &dyn Host| host.read_dir(path).map_err(|e| e.raw_os_error());
        assert_eq!(names(&memory), names(&jail), "read_dir {path:?}");
        let read = |host: &dyn Host| host.read(path, 100).map_err(|e| e.raw_os_error());
        assert_eq!(read(&memory), read(&jail), "read {path:?}");
    }
    assert!(jail.read(Path::new("/bin/x"), 4).is_err());
    assert_eq!(jail.read_range(Path::new("/bin/x"), 3, 10).expect("read"), b"45");
    assert!(jail.lstat(Path::new("bin/x")).is_err(), "a relative path has no meaning here");
}

#[test]
fn magic_links_lead_nowhere() {
    let proc = RealHost::jail(Path::new("/proc")).expect("opens");
    assert!(proc.lstat(Path::new("/self/exe")).expect("lstat").is_symlink());
    assert!(proc.open(Path::new("/self/exe")).is_err(), "a file outside the root was opened");
    assert!(proc.read_dir(Path::new("/self/root")).is_err(), "a directory outside the root was read");
}
