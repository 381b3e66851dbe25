//! jail-update: what moved, came or went on the host, and a program that the host cannot start any more.

mod common;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Scratch, text};

fn inside(scratch: &Scratch, host: &Path) -> PathBuf {
    scratch.jail().join(host.strip_prefix("/").expect("absolute"))
}

/// Whether there is a C compiler to make programs and libraries with.
fn compiles() -> bool {
    let there = Command::new("cc").arg("--version").output().is_ok_and(|out| out.status.success());
    if !there {
        eprintln!("skipped: no C compiler (apt install gcc)");
    }
    there
}

/// A library `libNAME.so.1 -> libNAME.so.1.0.0` in the scratch host whose function answers `value`.
fn library(scratch: &Scratch, name: &str, version: &str, value: u32) -> PathBuf {
    let dir = scratch.path("host");
    let source = dir.join(format!("{name}.c"));
    std::fs::write(&source, format!("int {name}(void) {{ return {value}; }}\n")).expect("written");
    let (file, soname) = (dir.join(format!("lib{name}.so.{version}")), format!("lib{name}.so.1"));
    cc(&["-shared", "-fPIC", "-o", text(&file), text(&source), &format!("-Wl,-soname,{soname}")]);
    let link = dir.join(&soname);
    std::fs::remove_file(&link).unwrap_or_default();
    symlink(file.file_name().expect("a name"), &link).expect("linked");
    std::fs::remove_file(&source).expect("removed");
    scratch.own(&file);
    file
}

/// A program that ends with what the library's function answers; it finds the library beside itself.
fn program(scratch: &Scratch, name: &str, of: &str) -> PathBuf {
    let dir = scratch.path("host");
    let (source, file) = (dir.join(format!("{name}.c")), dir.join(name));
    std::fs::write(&source, format!("int {of}(void);\nint main(void) {{ return {of}(); }}\n"))
        .expect("written");
    let library = dir.join(format!("lib{of}.so.1"));
    cc(&["-o", text(&file), text(&source), text(&library), "-Wl,-rpath,$ORIGIN"]);
    std::fs::remove_file(&source).expect("removed");
    scratch.own(&file);
    file
}

#[track_caller]
fn cc(arguments: &[&str]) {
    let out = Command::new("cc").args(arguments).output().expect("cc runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// What the copy in the jail ends with, by the copies of loader and libraries there.
fn runs(scratch: &Scratch, program: &Path) -> Option<i32> {
    let jail = scratch.jail();
    let loader = ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"].map(|path| jail.join(path));
    let loader = loader.into_iter().find(|path| path.exists()).expect("a loader");
    let libraries =
        format!("{}:{}", text(&jail.join("usr/lib/x86_64-linux-gnu")), text(&jail.join("usr/lib")));
    let mut command = scratch.command(loader);
    command.args(["--inhibit-cache", "--library-path", &libraries]).arg(inside(scratch, program));
    command.output().expect("runs").status.code()
}

fn update(scratch: &Scratch, more: &[&str]) -> common::Run {
    scratch.on_jail("jail-update", more)
}

#[test]
fn a_soname_that_moved_leaves_a_working_program() {
    if !compiles() {
        return;
    }
    let scratch = Scratch::new();
    let old = library(&scratch, "moved", "1.0.0", 10);
    let program = program(&scratch, "program", "moved");
    scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&program)));
    scratch.init(&["own"]).ok();
    assert_eq!(runs(&scratch, &program), Some(10));
    std::fs::remove_file(&old).expect("the upgrade removes it");
    let new = library(&scratch, "moved", "1.0.1", 11);
    let run = update(&scratch, &["--dry-run"]).ok();
    assert!(run.out.contains("libmoved.so.1.0.1") && run.out.contains("libmoved.so.1.0.0"), "{run:#?}");
    update(&scratch, &[]).ok();
    assert_eq!(runs(&scratch, &program), Some(11));
    assert!(!inside(&scratch, &old).exists() && inside(&scratch, &new).exists());
    assert!(update(&scratch, &[]).ok().out.contains("up to date"));
}

#[test]
fn a_program_that_cannot_work_any_more_keeps_its_old_files_and_only_it() {
    if !compiles() {
        return;
    }
    let scratch = Scratch::new();
    let lost = library(&scratch, "lost", "1.0.0", 20);
    let lost_program = program(&scratch, "needs_lost", "lost");
    library(&scratch, "kept", "1.0.0", 30);
    let kept_program = program(&scratch, "needs_kept", "kept");
    let file = scratch.host_file("file", "one\n");
    let paths = format!("[{:?}, {:?}, {:?}]", text(&lost_program), text(&kept_program), text(&file));
    scratch.section("own", format!("include = [\"shell\"]\npaths = {paths}\n"));
    scratch.init(&["own"]).ok();
    // The host loses one library, changes the other, and changes the program that lost its library.
    std::fs::remove_file(&lost).expect("removed");
    std::fs::remove_file(scratch.path("host/liblost.so.1")).expect("removed");
    let before = std::fs::read(inside(&scratch, &lost_program)).expect("there");
    std::fs::OpenOptions::new()
        .append(true)
        .open(&lost_program)
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"changed"))
        .expect("changed");
    library(&scratch, "kept", "1.0.0", 31);
    scratch.host_file("file", "two\n");
    for _ in 0..2 {
        let run = update(&scratch, &[]).fails(1, "liblost.so.1");
        assert!(run.err.contains("needs_lost") && run.err.contains("kept as it is"), "{run:#?}");
        assert_eq!(runs(&scratch, &lost_program), Some(20), "the old set works");
        assert_eq!(std::fs::read(inside(&scratch, &lost_program)).expect("there"), before);
        assert_eq!(runs(&scratch, &kept_program), Some(31), "the others are new");
        assert_eq!(std::fs::read(inside(&scratch, &file)).expect("there"), b"two\n");
    }
    // Gone altogether: the same.
    std::fs::remove_file(&lost_program).expect("removed");
    update(&scratch, &[]).fails(1, "needs_lost");
    assert_eq!(runs(&scratch, &lost_program), Some(20));
    // Asked for no more, it goes.
    scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&kept_program)));
    update(&scratch, &[]).ok();
    assert!(!inside(&scratch, &lost_program).exists() && !inside(&scratch, &lost).exists());
    assert_eq!(runs(&scratch, &kept_program), Some(31));
}

#[test]
fn new_files_of_a_copied_tree_come_and_removed_ones_go() {
    let scratch = Scratch::new();
    let tree = scratch.path("host/tree");
    std::fs::create_dir_all(tree.join("sub")).expect("made");
    std::fs::write(tree.join("sub/old"), "old").expect("written");
    scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&tree)));
    scratch.init(&["own"]).ok();
    let mine = inside(&scratch, &tree).join("mine");
    std::fs::write(&mine, "the administrator's").expect("written");
    std::fs::write(tree.join("sub/new"), "new").expect("written");
    std::fs::remove_file(tree.join("sub/old")).expect("removed");
    let run = update(&scratch, &["--json"]).ok();
    let value: serde_json::Value = serde_json::from_str(&run.out).expect("JSON");
    let causes: Vec<&str> =
        value[0]["steps"].as_array().expect("steps").iter().filter_map(|s| s["cause"].as_str()).collect();
    assert!(causes.contains(&"new") && causes.contains(&"nothing needs it any more"), "{causes:?}");
    let copy = inside(&scratch, &tree).join("sub");
    assert!(copy.join("new").exists() && !copy.join("old").exists() && mine.exists());
}

#[test]
fn sections_of_a_directory_of_ones_own_are_found_again() {
    let scratch = Scratch::new();
    let file = scratch.host_file("file", "one\n");
    scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&file)));
    scratch.init(&["own"]).ok();
    scratch.host_file("file", "two\n");
    scratch.run("jail-update", &["--all"]).ok();
    assert_eq!(std::fs::read(inside(&scratch, &file)).expect("there"), b"two\n");
    let more = scratch.host_file("more", "more\n");
    scratch.on_jail("jail-cp", &[text(&more)]).ok();
    assert!(inside(&scratch, &more).exists());
    // Moved: named once more, and remembered.
    let (old, new) = (scratch.path("profiles"), scratch.path("elsewhere"));
    std::fs::rename(&old, &new).expect("moved");
    update(&scratch, &[]).fails(3, "there is no section 'own'");
    update(&scratch, &["-c", text(&new)]).ok();
    update(&scratch, &[]).ok();
}

#[test]
fn a_running_program_is_not_harmed() {
    let scratch = Scratch::new();
    let script = scratch.host_file("script", "#!/bin/sh\nread line\necho old\n");
    scratch.mode(&script, 0o755);
    scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&script)));
    scratch.init(&["own"]).ok();
    let copy = inside(&scratch, &script);
    let mut command = scratch.command("/bin/sh");
    command.arg(&copy).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut running = command.spawn().expect("runs");
    std::thread::sleep(std::time::Duration::from_millis(300));
    scratch.host_file("script", "#!/bin/sh\nread line\necho new\n");
    update(&scratch, &[]).ok();
    drop(running.stdin.take());
    let out = running.wait_with_output().expect("ends");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "old\n");
    assert!(std::fs::read_to_string(&copy).expect("there").contains("echo new"));
}
