//! jailkit's own section files, read where they lie: every section becomes one of ours that jail-init accepts.

mod common;

use std::path::Path;

use common::{Scratch, text};

/// Imports a file into the scratch sections; answers what was said.
fn import(scratch: &Scratch, file: &Path) -> common::Run {
    let profiles = scratch.path("profiles");
    scratch.run("jail-init", &["--import", text(file), "-c", text(&profiles)])
}

/// Imports a file of jailkit's, asks jail-init for a jail of each section, and answers the names.
fn every_section_is_accepted(file: &Path) -> Vec<String> {
    let scratch = Scratch::new();
    let copy =
        scratch.host_file("jk_init.ini", &String::from_utf8_lossy(&std::fs::read(file).expect("read")));
    let profiles = scratch.path("profiles");
    let run = scratch.run("jail-init", &["--json", "--import", text(&copy), "-c", text(&profiles)]).ok();
    let value: serde_json::Value = serde_json::from_str(&run.out).expect("JSON");
    let names: Vec<String> = value["sections"]
        .as_array()
        .expect("sections")
        .iter()
        .map(|section| section["name"].as_str().expect("a name").to_owned())
        .collect();
    for name in &names {
        let run = scratch.init(&["--dry-run", "--json", name]);
        // What the file names and this host lacks is passed over, but for lines of accounts: those must be there.
        let lacks_an_account = run.status == Some(3) && run.err.contains("in /etc/");
        if !lacks_an_account {
            run.ok();
        }
    }
    names
}

#[test]
fn debians_file() {
    let file = Path::new("/etc/jailkit/jk_init.ini");
    if !file.exists() {
        eprintln!("skipped: jailkit is not installed");
        return;
    }
    let names = every_section_is_accepted(file);
    for name in ["uidbasics", "basicshell", "git", "ping", "vncserver", "openvpn"] {
        assert!(names.iter().any(|n| n == name), "{name} is missing from {names:?}");
    }
}

#[test]
fn ispconfigs_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let places = ["shared/data", "../shared/data"].map(|dir| root.join(dir).join("ispconfig-jk_init.ini"));
    let Some(file) = places.into_iter().find(|file| file.exists()) else {
        eprintln!("skipped: ISPConfig's jk_init.ini is not here");
        return;
    };
    let sections = std::fs::read_to_string(&file).expect("read");
    let expected = sections.lines().filter(|line| line.starts_with('[')).count();
    assert!(expected >= 40, "this is not ISPConfig's file");
    assert_eq!(every_section_is_accepted(&file).len(), expected);
}

#[test]
fn what_could_not_be_carried_over_is_said_with_file_and_line() {
    let scratch = Scratch::new();
    let ini = "[own]\npaths = cat, ../x\nneed_proc = 1\nincludesections = nosuch\nnonsense\n";
    let file = scratch.host_file("jk_init.ini", ini);
    let run = import(&scratch, &file).ok();
    for line in [
        "jk_init.ini:2: [own] paths: '../x' is left out: the path is relative",
        "jk_init.ini:3: [own] need_proc: not needed",
        "jk_init.ini:4: [own] includesections: there is no section 'nosuch'",
        "jk_init.ini:5: 'nonsense' is neither a section nor a key",
        "1 of 1 section are in",
    ] {
        assert!(run.out.contains(line), "{line:?} is missing: {run:#?}");
    }
    // A jail can be made of it right away.
    scratch.init(&["shell", "own"]).ok();
    assert!(scratch.jail().join("usr/bin/cat").exists());
}

#[test]
fn nothing_is_overwritten_unasked_and_a_dry_run_writes_nothing() {
    let scratch = Scratch::new();
    let file =
        scratch.host_file("jk_init.ini", "[shell]\ncomment = jailkit's\npaths = cat\n[new]\npaths = ls\n");
    let profiles = scratch.path("profiles");
    let before = std::fs::read(profiles.join("shell.toml")).expect("there");
    let run = scratch.run("jail-init", &["--dry-run", "--import", text(&file), "-c", text(&profiles)]).ok();
    assert!(run.out.contains("optional = [\n    \"ls\",\n]"), "{run:#?}");
    assert!(!profiles.join("new.toml").exists());
    let run = import(&scratch, &file).ok();
    assert!(run.out.contains("shell.toml': it is there already"), "{run:#?}");
    assert_eq!(std::fs::read(profiles.join("shell.toml")).expect("there"), before);
    assert!(profiles.join("new.toml").exists());
    scratch.run("jail-init", &["-f", "--import", text(&file), "-c", text(&profiles)]).ok();
    assert_ne!(std::fs::read(profiles.join("shell.toml")).expect("there"), before);
}

#[test]
fn files_that_are_none() {
    let scratch = Scratch::new();
    let empty = scratch.host_file("empty.ini", "# nothing\n");
    import(&scratch, &empty).fails(3, "holds no section");
    import(&scratch, &scratch.path("nosuch")).fails(1, "cannot read");
    import(&scratch, &scratch.path("host")).fails(1, "cannot read");
    scratch.run("jail-init", &["--import", text(&empty), "basicshell"]).fails(2, "cannot be used with");
    // -c with the file itself is what people type first.
    let run = scratch.run("jail-init", &["-c", text(&empty), "-l"]).fails(2, "is no directory of sections");
    assert!(run.err.contains("--import"), "{run:#?}");
}
