//! The life of a jail: made, left alone, kept in step, checked, removed, and never an administrator's file harmed.

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::{Scratch, text};

fn inside(scratch: &Scratch, host: &Path) -> PathBuf {
    scratch.jail().join(host.strip_prefix("/").expect("absolute"))
}

/// A jail of a shell and one file of the scratch host.
fn made() -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    let file = scratch.host_file("file", "one\n");
    scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&file)));
    scratch.init(&["own"]).ok();
    (scratch, file)
}

#[test]
fn a_second_run_writes_nothing() {
    let (scratch, file) = made();
    assert_eq!(std::fs::read(inside(&scratch, &file)).expect("copied"), b"one\n");
    let before = scratch.everything();
    let run = scratch.init(&["own"]).ok();
    assert!(run.out.contains("is up to date"), "{run:#?}");
    scratch.init(&[]).ok();
    scratch.on_jail("jail-check", &[]).ok();
    scratch.run("jail-list", &[]).ok();
    assert_eq!(scratch.everything(), before);
}

#[test]
fn a_dry_run_writes_nothing_and_says_why() {
    let scratch = Scratch::new();
    let before = scratch.everything();
    let run = scratch.init(&["--dry-run", "shell"]).ok();
    assert!(run.out.contains("/usr/bin/cat ← section shell (new, "), "{run:#?}");
    assert_eq!(scratch.everything(), before);
    let json = scratch.init(&["--dry-run", "--json", "shell"]).ok();
    let value: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(value["dry_run"], true);
    assert!(value["steps"].as_array().expect("steps").len() > 10);
}

#[test]
fn a_changed_host_file_is_renewed_and_nothing_else() {
    let (scratch, file) = made();
    let before = scratch.everything();
    scratch.host_file("file", "two\n");
    let run = scratch.init(&["--dry-run"]).ok();
    assert!(run.out.contains("changed on the host"), "{run:#?}");
    scratch.init(&[]).ok();
    assert_eq!(std::fs::read(inside(&scratch, &file)).expect("copied"), b"two\n");
    let jail = scratch.jail();
    let changed: Vec<PathBuf> = scratch
        .everything()
        .into_iter()
        .filter(|(path, state)| path.starts_with(&jail) && before.get(path) != Some(state))
        .map(|(path, _)| path)
        .collect();
    // The file, and the directory that a rename touches.
    let target = inside(&scratch, &file);
    assert_eq!(changed, [target.parent().expect("parent").to_path_buf(), target]);
}

#[test]
fn what_was_deleted_comes_back_and_what_was_changed_stays() {
    let (scratch, file) = made();
    let (copy, cat) = (inside(&scratch, &file), scratch.jail().join("usr/bin/cat"));
    std::fs::remove_file(&cat).expect("removed");
    std::fs::write(&copy, "the administrator's\n").expect("written");
    let foreign = scratch.jail().join("usr/bin/mine");
    std::fs::write(&foreign, "mine\n").expect("written");
    let run = scratch.init(&[]).ok();
    assert!(run.out.contains("changed in the jail"), "{run:#?}");
    assert!(cat.exists());
    assert_eq!(std::fs::read(&copy).expect("kept"), b"the administrator's\n");
    assert_eq!(std::fs::read(&foreign).expect("kept"), b"mine\n");
    scratch.init(&["-f"]).ok();
    assert_eq!(std::fs::read(&copy).expect("overwritten"), b"one\n");
    assert_eq!(std::fs::read(&foreign).expect("never ours"), b"mine\n");
}

#[test]
fn a_file_that_is_wanted_no_more_goes_unless_it_was_changed() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.host_file("a", "a"), scratch.host_file("b", "b"));
    scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}, {:?}]\n", text(&a), text(&b)));
    scratch.init(&["own"]).ok();
    std::fs::write(inside(&scratch, &b), "changed").expect("written");
    scratch.section("own", "include = [\"shell\"]\n");
    scratch.init(&[]).ok();
    assert!(!inside(&scratch, &a).exists());
    assert_eq!(std::fs::read(inside(&scratch, &b)).expect("kept"), b"changed");
}

#[test]
fn every_path_has_a_reason() {
    let (scratch, _) = made();
    let run = scratch.on_jail("jail-init", &["--explain", "/usr/bin/cat"]).ok();
    assert_eq!(run.out, "/usr/bin/cat ← section shell\n");
    let manifest = std::fs::read_dir(scratch.path("state/jailwright"))
        .expect("state")
        .next()
        .expect("one")
        .expect("entry");
    let manifest = std::fs::read(manifest.path().join("manifest.json")).expect("manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    let libc = manifest["files"]
        .as_object()
        .expect("files")
        .keys()
        .find(|p| p.ends_with("/libc.so.6"))
        .expect("a libc");
    let run = scratch.on_jail("jail-init", &["--explain", libc]).ok();
    assert!(
        run.out.starts_with(libc.as_str()) && run.out.trim_end().ends_with(" ← section shell"),
        "{run:#?}"
    );
    scratch.on_jail("jail-init", &["--explain", "/nowhere"]).fails(1, "was not put into the jail by us");
}

#[test]
fn set_uid_files_lose_their_bits_even_when_linked() {
    let scratch = Scratch::new();
    for more in [&[][..], &["-k"][..]] {
        let file = scratch.host_file("suid", "#!/bin/sh\n");
        scratch.mode(&file, 0o6755);
        scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&file)));
        let mut arguments = vec!["own", "-f"];
        arguments.extend(more);
        scratch.init(&arguments).ok();
        let copy = std::fs::symlink_metadata(inside(&scratch, &file)).expect("there");
        assert_eq!(copy.permissions().mode() & 0o7777, 0o755);
        assert_ne!(
            copy.ino(),
            std::fs::symlink_metadata(&file).expect("there").ino(),
            "a set-uid file is never linked"
        );
    }
    // An ordinary file is linked.
    let plain = scratch.host_file("plain", "x");
    scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&plain)));
    scratch.init(&["-k"]).ok();
    let inode = |path: &Path| std::fs::symlink_metadata(path).expect("there").ino();
    assert_eq!(inode(&inside(&scratch, &plain)), inode(&plain));
}

#[test]
fn a_link_planted_in_the_jail_leads_nowhere_outside() {
    let scratch = Scratch::new();
    let outside = scratch.path("outside");
    std::fs::create_dir(&outside).expect("made");
    scratch.own(&outside);
    let jail = scratch.jail();
    std::fs::create_dir(&jail).expect("made");
    scratch.own(&jail);
    std::os::unix::fs::symlink(&outside, jail.join("usr")).expect("planted");
    std::os::unix::fs::symlink("../../../../../../tmp", jail.join("etc")).expect("planted");
    // Inside the jail those links lead to places that are not there: the run fails or goes on, but never outside.
    scratch.init(&["shell"]);
    assert_eq!(std::fs::read_dir(&outside).expect("listed").count(), 0);
    assert!(!Path::new("/tmp/passwd").exists() && !Path::new("/tmp/ld.so.cache").exists());
}

#[test]
fn secrets_in_a_tree_stay_outside_unless_named() {
    let scratch = Scratch::new();
    if !scratch.is_root() {
        eprintln!("skipped: a file that is somebody else's needs root to make");
        return;
    }
    let (tree, elsewhere) = (scratch.path("host/tree"), scratch.path("host/private"));
    std::fs::create_dir_all(&tree).expect("made");
    std::fs::create_dir(&elsewhere).expect("made");
    std::fs::write(tree.join("open"), "x").expect("written");
    std::fs::write(tree.join("key"), "secret").expect("written");
    std::fs::write(elsewhere.join("key"), "secret").expect("written");
    scratch.mode(&tree.join("key"), 0o600);
    scratch.mode(&elsewhere, 0o700);
    std::os::unix::fs::symlink(&elsewhere, tree.join("private")).expect("linked");
    scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&tree)));
    let run = scratch.init(&["own"]).ok();
    assert!(run.out.contains("left out") && run.out.contains("/tree/key"), "{run:#?}");
    let copy = inside(&scratch, &tree);
    assert!(copy.join("open").exists() && !copy.join("key").exists());
    assert!(std::fs::symlink_metadata(copy.join("private")).expect("the link").is_symlink());
    assert!(!inside(&scratch, &elsewhere).exists());
}

#[test]
fn names_that_a_shell_would_trip_over() {
    let scratch = Scratch::new();
    let tree = scratch.path("host/tree");
    std::fs::create_dir(&tree).expect("made");
    let names = ["a;touch X", "$(id>X)", "with space", "new\nline", "-rf", "*", "\u{1b}[2J"];
    for name in names {
        std::fs::write(tree.join(name), name).expect("written");
    }
    let odd = std::os::unix::ffi::OsStrExt::as_bytes(std::ffi::OsStr::new("x")).to_vec();
    let odd = std::os::unix::ffi::OsStringExt::from_vec([odd, vec![0xff]].concat());
    std::fs::write(tree.join::<std::ffi::OsString>(odd), "odd").expect("written");
    scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&tree)));
    scratch.init(&["own"]).ok();
    let copy = inside(&scratch, &tree);
    assert_eq!(std::fs::read_dir(&copy).expect("listed").count(), names.len() + 1);
    for name in names {
        assert_eq!(std::fs::read(copy.join(name)).expect("copied"), name.as_bytes());
    }
    let run = scratch.on_jail("jail-check", &[]).ok();
    assert!(!run.out.contains('\u{1b}'));
    let run = scratch.init(&[]).ok();
    assert!(run.out.contains("up to date"));
}

#[test]
fn jail_cp_brings_a_program_and_its_interpreter() {
    let (scratch, _) = made();
    let script = scratch.host_file("script", "#!/usr/bin/env -S head\n");
    scratch.mode(&script, 0o755);
    scratch.section("own", "include = [\"shell\"]\n");
    let jail = scratch.jail();
    // jail-cp reads the jail's sections too, and looks for them where they are installed.
    let admin = scratch.path("jail2");
    let run = scratch.run("jail-init", &["-j", text(&admin), "scp"]);
    if run.status == Some(3) {
        eprintln!("skipped: the host lacks what section scp needs: {}", run.err);
        return;
    }
    run.ok();
    scratch.run("jail-cp", &["-j", text(&admin), text(&script)]).ok();
    let copy = admin.join(script.strip_prefix("/").expect("absolute"));
    assert!(copy.exists() && admin.join("usr/bin/head").exists() && admin.join("usr/bin/env").exists());
    scratch.run("jail-check", &["-j", text(&admin)]).ok();
    // It is a wish from now on: an update keeps it in step.
    scratch.host_file("script", "#!/usr/bin/env -S head\n# two\n");
    let run = scratch.run("jail-update", &["-j", text(&admin)]).ok();
    assert!(run.out.contains("1 path made or renewed"), "{run:#?}");
    assert!(std::fs::read_to_string(&copy).expect("there").contains("# two"));
    scratch.run("jail-cp", &["-j", text(&admin), "/no/such"]).fails(3, "'/no/such' is not there");
    scratch.run("jail-cp", &["-j", text(&scratch.path("none")), "/bin/ls"]).fails(1, "there is no jail");
    assert!(jail.exists());
}

#[test]
fn jail_check_finds_each_kind_of_fault() {
    let (scratch, file) = made();
    let jail = scratch.jail();
    let bin = jail.join("usr/bin");
    std::fs::write(inside(&scratch, &file), "One\n").expect("tampered");
    std::fs::remove_file(bin.join("cat")).expect("removed");
    std::fs::write(bin.join("evil"), "x").expect("planted");
    scratch.mode(&bin.join("evil"), 0o6777);
    let libc = find(&jail.join("usr/lib"), "libc.so.6");
    std::fs::remove_file(libc).expect("removed");
    let run = scratch.on_jail("jail-check", &["--json"]);
    assert_eq!(run.status, Some(1), "{run:#?}");
    let value: serde_json::Value = serde_json::from_str(&run.out).expect("JSON");
    let findings = value[0]["findings"].as_array().expect("findings");
    let has = |path: &str, fault: &str| {
        findings.iter().any(|f| f["fault"] == fault && f["path"].as_str().is_some_and(|p| p.ends_with(path)))
    };
    for (path, fault) in [
        ("/host/file", "tampered"),
        ("/usr/bin/cat", "missing"),
        ("/libc.so.6", "missing"),
        ("/usr/bin/evil", "foreign"),
        ("/usr/bin/evil", "privileged"),
        ("/usr/bin/evil", "writable"),
        ("sh", "cannot-start"),
    ] {
        assert!(has(path, fault), "{fault} {path} in {run:#?}");
    }
    scratch.mode(&jail, 0o777);
    let run = scratch.on_jail("jail-check", &[]).fails(1, "");
    assert!(run.out.contains("others may write to the jail"), "{run:#?}");
    scratch.run("jail-check", &["-j", text(&scratch.path("none"))]).fails(5, "has no manifest");
}

#[test]
fn a_bill_of_material_names_the_packages() {
    if !Path::new("/var/lib/dpkg/status").exists() {
        eprintln!("skipped: this host is not Debian's");
        return;
    }
    let (scratch, file) = made();
    let run = scratch.on_jail("jail-check", &["--sbom"]).ok();
    let bill: serde_json::Value = serde_json::from_str(&run.out).expect("JSON");
    assert_eq!((bill["bomFormat"].as_str(), bill["specVersion"].as_str()), (Some("CycloneDX"), Some("1.5")));
    let components = bill["components"].as_array().expect("components");
    let coreutils = components.iter().find(|c| c["name"] == "coreutils").expect("cat is of coreutils");
    let version = coreutils["version"].as_str().expect("a version");
    let purl = coreutils["purl"].as_str().expect("a purl");
    assert!(purl.starts_with("pkg:deb/debian/coreutils@") && purl.contains("arch="), "{purl}");
    assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{version}");
    assert!(
        components
            .iter()
            .any(|c| c["type"] == "file" && c["name"].as_str().is_some_and(|n| n.ends_with(text(&file))))
    );
    // The same for a jail that has its files from a base.
    let (base, jail) = (scratch.path("base"), scratch.path("site"));
    let profiles = scratch.path("profiles");
    scratch.run("jail-init", &["--as-base", "-j", text(&base), "-c", text(&profiles), "shell"]).ok();
    scratch.run("jail-init", &["-j", text(&jail), "--base", text(&base)]).ok();
    let run = scratch.run("jail-check", &["-j", text(&jail), "--sbom"]).ok();
    assert!(run.out.contains("pkg:deb/debian/coreutils@"), "{run:#?}");
    let list = scratch.run("jail-list", &[]).ok();
    assert!(list.out.contains("base of    1 jail, generation g1"), "{list:#?}");
    assert!(list.out.contains("shared with its base"), "{list:#?}");
    scratch.run("jail-list", &["--sweep"]).fails(4, "root's to clear away");
}

fn find(dir: &Path, name: &str) -> PathBuf {
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).expect("listed") {
            let entry = entry.expect("entry");
            if entry.file_name() == name {
                return entry.path();
            }
            if entry.file_type().expect("kind").is_dir() {
                todo.push(entry.path());
            }
        }
    }
    panic!("no {name}")
}

#[test]
fn a_jail_is_moved_and_removed() {
    let (scratch, _) = made();
    let (old, new) = (scratch.jail(), scratch.path("moved"));
    std::fs::rename(&old, &new).expect("moved");
    let profiles = scratch.path("profiles");
    let at = ["-j", text(&new), "-c", text(&profiles)];
    let run = scratch.run("jail-init", &[&at[..], &["--moved-from", text(&old)]].concat()).ok();
    assert!(run.out.contains("is up to date"), "{run:#?}");
    let entries: Vec<_> = std::fs::read_dir(scratch.path("state/jailwright")).expect("state").collect();
    assert_eq!(entries.len(), 1);
    scratch.run("jail-init", &[&at[..], &["--remove"]].concat()).ok();
    assert!(!new.exists());
    assert_eq!(std::fs::read_dir(scratch.path("state/jailwright")).expect("state").count(), 0);
    scratch.run("jail-init", &[&at[..], &["--remove"]].concat()).fails(1, "there is no jail");
    std::fs::create_dir(scratch.path("other")).expect("made");
    scratch.own(&scratch.path("other"));
    scratch
        .run("jail-init", &["-j", text(&scratch.path("other")), "--remove"])
        .fails(4, "is not ours to remove");
}

#[test]
fn two_runs_at_once_both_succeed() {
    let scratch = Scratch::new();
    let (jail, profiles) = (scratch.jail(), scratch.path("profiles"));
    let start = || {
        let mut command = scratch.command(scratch.tool("jail-init"));
        command.args(["-j", text(&jail), "-c", text(&profiles), "shell"]);
        command
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("runs")
    };
    let runs: Vec<_> = (0..4).map(|_| start()).collect();
    for run in runs {
        common::Run::of(&run.wait_with_output().expect("ends")).ok();
    }
    scratch.on_jail("jail-check", &[]).ok();
}

#[test]
fn attributes_of_the_content_come_along() {
    let scratch = Scratch::new();
    let file = scratch.host_file("noted", "content");
    let set =
        std::process::Command::new("setfattr").args(["-n", "user.note", "-v", "kept"]).arg(&file).status();
    if !set.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no setfattr, or no attributes on this file system");
        return;
    }
    scratch.section("own", format!("description = \"own\"\npaths = [\"{}\"]\n", file.display()));
    scratch.init(&["own"]).ok();
    let inside = scratch.jail().join(file.strip_prefix("/").expect("absolute"));
    let out = std::process::Command::new("getfattr")
        .args(["-n", "user.note", "--only-values"])
        .arg(&inside)
        .output();
    assert_eq!(out.expect("getfattr").stdout, b"kept");
}
