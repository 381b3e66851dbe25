//! Bad input: one sentence with file and line where there is one, the status of the design, and nothing changed on disk.

mod common;

use common::{Scratch, text};

/// Runs with these sections and asserts the outcome, and that nothing was made.
#[track_caller]
fn refused(scratch: &Scratch, sections: &[&str], status: i32, sentence: &str) {
    let before = scratch.everything();
    let run = scratch.init(sections).fails(status, sentence);
    assert_eq!(
        run.err.lines().filter(|line| !line.starts_with("  hint: ")).count(),
        1,
        "one sentence: {run:#?}"
    );
    assert_eq!(run.out, "");
    assert_eq!(scratch.everything(), before, "nothing changed on disk");
}

#[test]
fn unknown_sections() {
    let scratch = Scratch::new();
    refused(&scratch, &["shel"], 3, "there is no section 'shel'\n  hint: did you mean 'shell'?");
    refused(&scratch, &["shell", "nothing-like-it"], 3, "there is no section 'nothing-like-it'");
    let file = scratch.section("a", "description = \"x\"\n\ninclude = [\"shel\"]\n");
    refused(&scratch, &["a"], 3, &format!("{}:3: there is no section 'shel'", text(&file)));
}

#[test]
fn what_the_host_lacks() {
    let scratch = Scratch::new();
    let file = scratch.section("a", "paths = [\n  \"/etc/passwd\",\n  \"/no/such/file\",\n]\n");
    refused(
        &scratch,
        &["a"],
        3,
        &format!("{}:3: section a needs '/no/such/file', which the host does not have", text(&file)),
    );
    scratch.section("b", "commands = [\"no-such-program\"]\npackage = \"some-package\"\n");
    refused(
        &scratch,
        &["b"],
        3,
        "the program 'no-such-program', which the host does not have\n  hint: apt install some-package",
    );
    scratch.section("c", "users = [\"no-such-user\"]\n");
    refused(&scratch, &["c"], 3, "'no-such-user' in /etc/passwd");
    scratch.section("d", "optional = [\"/no/such/file\", \"no-such-program\"]\ninclude = [\"shell\"]\n");
    scratch.init(&["d"]).ok();
}

#[test]
fn sections_that_cannot_be_read() {
    let scratch = Scratch::new();
    let a = scratch.section("a", "include = [\"b\"]\n");
    let b = scratch.section("b", "\ninclude = [\"a\"]\n");
    refused(
        &scratch,
        &["a"],
        3,
        &format!("{}:2: sections include each other in a loop: a → b → a", text(&b)),
    );
    std::fs::write(&a, "description = \"x\"\ncomands = [\"sh\"]\n").expect("written");
    refused(
        &scratch,
        &["a"],
        3,
        &format!("{}:2: unknown key 'comands'\n  hint: did you mean 'commands'?", text(&a)),
    );
    std::fs::write(&a, b"description = \"caf\xe9\"\n").expect("written");
    refused(&scratch, &["a"], 3, &format!("{}:1: the file is not UTF-8 text", text(&a)));
    std::fs::write(&a, "description = \"x\ncommands = []\n").expect("written");
    refused(&scratch, &["a"], 3, &format!("{}:1:", text(&a)));
    std::fs::write(&a, "commands = [\"sh\",, ]\n").expect("written");
    refused(&scratch, &["a"], 3, &format!("{}:1:", text(&a)));
}

#[test]
fn jails_that_are_none() {
    let scratch = Scratch::new();
    let jail = scratch.jail();
    std::fs::create_dir(scratch.path("real")).expect("made");
    scratch.own(&scratch.path("real"));
    std::os::unix::fs::symlink("real", &jail).expect("linked");
    refused(&scratch, &["shell"], 4, "is a symbolic link");
    assert_eq!(std::fs::read_dir(scratch.path("real")).expect("listed").count(), 0);
    std::fs::remove_file(&jail).expect("removed");

    std::fs::create_dir(&jail).expect("made");
    scratch.own(&jail);
    scratch.mode(&jail, 0o777);
    refused(&scratch, &["shell"], 4, "others may write to the jail");
    scratch.mode(&jail, 0o755);
    scratch.mode(&scratch.path(""), 0o777);
    refused(&scratch, &["shell"], 4, "so they could swap the jail below it");
    scratch.mode(&scratch.path(""), 0o755);
    if scratch.is_root() {
        std::os::unix::fs::chown(&jail, Some(60_001), Some(60_001)).expect("chown");
        refused(&scratch, &["shell"], 4, "does belong neither to root nor to you");
    } else {
        eprintln!("skipped: a jail of somebody else's needs root to make");
    }
    for host in ["/", "/usr", "//", "/home/"] {
        scratch
            .run("jail-init", &["-j", host, "basicshell"])
            .fails(4, "is a directory of the host and can be no jail");
    }
    scratch.run("jail-init", &["-j", "/tmp/../etc", "basicshell"]).fails(2, "holds '..'");
    scratch.run("jail-init", &["-j", "", "basicshell"]).fails(2, "");
    scratch.run("jail-init", &["basicshell"]).fails(2, "which jail?");
    scratch.run("jail-init", &["-j", text(&scratch.path("new"))]).fails(2, "which sections");
    scratch.run("jail-init", &["--no-such-flag"]).fails(2, "");
}

#[test]
fn a_jail_on_noexec() {
    let scratch = Scratch::new();
    if !scratch.is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let script = r#"mount -t tmpfs -o noexec,mode=755 tmpfs /srv && "$1" -j /srv/jail basicshell; status=$?; ls /srv; exit $status"#;
    let output = std::process::Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(scratch.tool("jail-init"))
        .output()
        .expect("unshare");
    let run = common::Run::of(&output).fails(4, "is mounted noexec");
    assert_eq!(run.out, "", "nothing was made");
}
