//! jail-check: each kind of thing that can be wrong with a jail, made and found; and nothing else found.

mod common;

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Scratch, text};

fn inside(scratch: &Scratch, host: &Path) -> PathBuf {
    scratch.jail().join(host.strip_prefix("/").expect("absolute"))
}

/// What is found, as `fault path`, sorted.
#[track_caller]
fn findings(scratch: &Scratch) -> Vec<String> {
    let run = scratch.on_jail("jail-check", &["--json"]);
    let value: serde_json::Value = serde_json::from_str(&run.out).unwrap_or_else(|e| panic!("{e}: {run:#?}"));
    let findings = value[0]["findings"].as_array().expect("findings");
    let word = |finding: &serde_json::Value, key: &str| finding[key].as_str().expect("text").to_owned();
    let mut found: Vec<String> =
        findings.iter().map(|f| format!("{} {}", word(f, "fault"), word(f, "path"))).collect();
    assert_eq!(run.status, Some(i32::from(!found.is_empty())), "{run:#?}");
    found.sort();
    found
}

/// A jail with a shell and a file of 300,000 bytes.
fn with_a_large_file(options: &[&str]) -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    let file = scratch.host_file("large", &"0123456789".repeat(30_000));
    scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&file)));
    scratch.init(&[&["own"], options].concat()).ok();
    assert_eq!(findings(&scratch), [""; 0]);
    (scratch, file)
}

/// Changes one byte and sets the times back.
fn change_a_byte(path: &Path, at: u64) {
    let file = File::options().write(true).open(path).expect("opened");
    let before = file.metadata().expect("stat");
    file.write_all_at(b"x", at).expect("written");
    let (accessed, modified) = (before.accessed().expect("time"), before.modified().expect("time"));
    file.set_times(FileTimes::new().set_accessed(accessed).set_modified(modified)).expect("set back");
}

#[test]
fn one_byte_anywhere_is_found_whatever_the_times_say() {
    let (scratch, file) = with_a_large_file(&[]);
    let copy = inside(&scratch, &file);
    let tampered = [format!("tampered {}", text(&file))];
    for at in [0, 131_071, 131_072, 299_999] {
        let whole = fs::read(&copy).expect("read");
        change_a_byte(&copy, at);
        assert_eq!(findings(&scratch), tampered, "at {at}");
        fs::write(&copy, whole).expect("put back");
        assert_eq!(findings(&scratch), [""; 0]);
    }
    // Shorter and longer.
    let long = File::options().write(true).open(&copy).expect("opened");
    for size in [0, 299_999, 300_001] {
        let whole = fs::read(&copy).expect("read");
        long.set_len(size).expect("set");
        assert_eq!(findings(&scratch), tampered, "{size} bytes");
        fs::write(&copy, whole).expect("put back");
    }
    // The host's file is another by now: the manifest's digest decides, and says that the copy is what it was.
    fs::write(&file, "new").expect("written");
    assert_eq!(findings(&scratch), [format!("outdated {}", text(&file))]);
    change_a_byte(&copy, 150_000);
    assert_eq!(findings(&scratch), [format!("outdated {}", text(&file)), tampered[0].clone()]);
    // Both changed in the same way: the copy is still not what was put there.
    fs::copy(&file, &copy).expect("copied");
    assert_eq!(findings(&scratch), [format!("outdated {}", text(&file)), tampered[0].clone()]);
    fs::remove_file(&file).expect("removed");
    let run = scratch.on_jail("jail-check", &[]);
    assert!(run.out.contains("the host's file is gone"), "{run:#?}");
}

/// Compared with the host's file it would be compared with itself.
#[test]
fn a_hard_link_is_held_against_the_manifest() {
    let (scratch, file) = with_a_large_file(&["-k"]);
    assert_eq!(fs::metadata(inside(&scratch, &file)).expect("stat").nlink(), 2, "linked");
    change_a_byte(&file, 7);
    assert_eq!(findings(&scratch), [format!("tampered {}", text(&file))]);
}

#[test]
fn other_kinds_links_and_directories() {
    let scratch = Scratch::new();
    let file = scratch.host_file("target", "x");
    let link = scratch.path("host/link");
    std::os::unix::fs::symlink("target", &link).expect("linked");
    let dir = scratch.path("host/dir");
    fs::create_dir(&dir).expect("made");
    scratch.own(&dir);
    let dangling = scratch.path("host/dir/dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).expect("linked");
    let paths = format!("[{:?}, {:?}]", text(&link), text(&dir));
    scratch.section("own", format!("include = [\"shell\"]\npaths = {paths}\n"));
    scratch.init(&["own"]).ok();
    assert_eq!(findings(&scratch), [""; 0], "a link that leads nowhere on the host either is no finding");

    fs::remove_file(inside(&scratch, &file)).expect("removed");
    let lost = [format!("broken-link {}", text(&link)), format!("missing {}", text(&file))];
    assert_eq!(findings(&scratch), lost);
    // A directory in its place.
    fs::create_dir(inside(&scratch, &file)).expect("made");
    assert_eq!(findings(&scratch), [format!("tampered {}", text(&file))]);
    fs::remove_dir(inside(&scratch, &file)).expect("removed");
    // A link in its place, to what it was.
    fs::write(scratch.jail().join("tmp/copy"), "x").expect("written");
    std::os::unix::fs::symlink("/tmp/copy", inside(&scratch, &file)).expect("linked");
    assert_eq!(findings(&scratch), [format!("tampered {}", text(&file))]);
    fs::remove_file(inside(&scratch, &file)).expect("removed");
    scratch.on_jail("jail-update", &[]).ok();
    assert_eq!(findings(&scratch), [""; 0]);

    fs::remove_file(inside(&scratch, &link)).expect("removed");
    std::os::unix::fs::symlink("/bin/sh", inside(&scratch, &link)).expect("linked");
    assert_eq!(findings(&scratch), [format!("tampered {}", text(&link))]);
    scratch.on_jail("jail-update", &["--force"]).ok();
    assert_eq!(findings(&scratch), [""; 0]);
    // Writable by others: a directory of ours, and one that is not. Sticky ones, and what lies in those of users, may be.
    scratch.mode(&scratch.jail().join("usr/bin"), 0o777);
    for (name, mode) in [("var/open", 0o757), ("var/sticky", 0o1777), ("tmp/of-a-user", 0o777)] {
        let dir = scratch.jail().join(name);
        fs::create_dir(&dir).expect("made");
        scratch.mode(&dir, mode);
    }
    assert_eq!(
        findings(&scratch),
        [
            "foreign /var/open",
            "foreign /var/sticky",
            "permissions /usr/bin",
            "writable /usr/bin",
            "writable /var/open"
        ]
    );
}

#[test]
fn file_capabilities_that_nobody_asked_for() {
    let scratch = Scratch::new();
    let there = Command::new("setcap").arg("-h").output().is_ok();
    if !scratch.is_root() || !there {
        eprintln!("skipped: giving capabilities needs root and setcap (apt install libcap2-bin)");
        return;
    }
    scratch.init(&["shell"]).ok();
    let ours = scratch.jail().join("usr/bin/cat");
    let planted = scratch.jail().join("usr/bin/planted");
    fs::copy(&ours, &planted).expect("copied");
    fs::set_permissions(&planted, fs::Permissions::from_mode(0o755)).expect("chmod");
    for file in [&ours, &planted] {
        let out = Command::new("setcap").arg("cap_net_raw+ep").arg(file).output().expect("setcap");
        if !out.status.success() {
            eprintln!("skipped: no file capabilities on this file system");
            return;
        }
    }
    assert_eq!(
        findings(&scratch),
        ["foreign /usr/bin/planted", "privileged /usr/bin/cat", "privileged /usr/bin/planted"]
    );
}

/// Only the one directory that a run makes a new jail in is not looked into.
#[test]
fn a_name_like_ours_hides_nothing() {
    let scratch = Scratch::new();
    scratch.init(&["shell"]).ok();
    let hidden = scratch.jail().join("usr/.jailwright-x");
    fs::create_dir(&hidden).expect("made");
    fs::write(hidden.join("planted"), "").expect("written");
    fs::set_permissions(hidden.join("planted"), fs::Permissions::from_mode(0o4755)).expect("chmod");
    assert!(findings(&scratch).contains(&"privileged /usr/.jailwright-x/planted".to_owned()));
}

#[test]
fn account_lines_that_disagree() {
    let scratch = Scratch::new();
    scratch.section(
        "own",
        "include = [\"shell\"]\nusers = [\"root\", \"nobody\", \"daemon\"]\ngroups = [\"tty\"]\n",
    );
    scratch.init(&["own"]).ok();
    assert_eq!(findings(&scratch), [""; 0]);
    let said = |passwd: &str| {
        fs::write(scratch.jail().join("etc/passwd"), passwd).expect("written");
        let run = scratch.on_jail("jail-check", &[]);
        run.out.lines().skip(1).map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    let good = fs::read_to_string(scratch.jail().join("etc/passwd")).expect("read");
    // Home and shell are the jail's own matter, and so are accounts that only it has.
    let root = good.lines().find(|line| line.starts_with("root:")).expect("a line");
    let elsewhere = good.replace(root, "root:x:0:0:another:/elsewhere:/bin/false");
    assert_eq!(said(&format!("{elsewhere}own-to-the-jail:x:70123:70123::/:/bin/sh\n")), [""; 0]);
    let gone: String =
        good.lines().filter(|line| !line.starts_with("daemon:")).map(|l| format!("{l}\n")).collect();
    assert_eq!(said(&gone), ["/etc/passwd: the line of 'daemon' is gone"]);
    assert_eq!(
        said(&good.replace("daemon:x:1:", "daemon:x:0:")),
        [
            "/etc/passwd: 'daemon' has another number than it was given",
            "/etc/passwd: 'daemon' has another number than on the host"
        ]
    );
    assert_eq!(
        said(&format!("{good}toor:x:0:0::/root:/bin/sh\n")),
        ["/etc/passwd: 'toor' has number 0, and is no account of the host"]
    );
    assert_eq!(
        said(&format!("{good}bin:x:4242:4242::/:/bin/sh\n")),
        ["/etc/passwd: 'bin' has another number than on the host"]
    );
    fs::remove_file(scratch.jail().join("etc/group")).expect("removed");
    assert!(said(&good).iter().any(|line| line.starts_with("/etc/group: missing")));
}
