//! A run that dies leaves the old file or the new one, never half, and the next run finishes the work.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Run, Scratch, text};

/// Whether the jail's directory is there before the run: a new one is made aside and moved into place as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Directory,
}

impl Before {
    fn made(self) -> Scratch {
        let scratch = Scratch::new();
        if self == Self::Directory {
            std::fs::create_dir(scratch.jail()).expect("made");
            scratch.mode(&scratch.jail(), 0o755);
            scratch.own(&scratch.jail());
        }
        scratch
    }
}

/// What a run is doing when the signal comes: the system call that marks it, and how many of it a run makes at least.
const STAGES: &[(&str, &str, u64, Before)] = &[
    ("planning", "statx", 20, Before::Nothing),
    ("copying aside", "pwrite64", 5, Before::Nothing),
    ("moving into place", "renameat2", 3, Before::Nothing),
    ("copying", "pwrite64", 5, Before::Directory),
    ("renaming", "renameat", 5, Before::Directory),
    ("manifest", "rename", 3, Before::Nothing),
];

/// One by which the names begin that only a killed run leaves.
fn is_leftover(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".jailwright-"))
}

fn strace() -> bool {
    Command::new("strace").arg("-V").output().is_ok_and(|o| o.status.success())
}

/// A small generator, so that a failure can be repeated with the printed seed.
struct Seed(u64);

impl Seed {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Every regular file of the jail that also lies on the host is equal to it.
fn no_half_file(jail: &Path) {
    let mut todo = vec![jail.to_path_buf()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.map(|e| e.expect("entry")) {
            let (path, kind) = (entry.path(), entry.file_type().expect("kind"));
            if is_leftover(&path) {
                continue;
            }
            if kind.is_dir() {
                todo.push(path);
                continue;
            }
            let host: PathBuf = Path::new("/").join(path.strip_prefix(jail).expect("below"));
            let ours = host.starts_with("/etc");
            if kind.is_file() && !ours {
                assert!(
                    std::fs::read(&path).expect("read") == std::fs::read(&host).expect("host"),
                    "{path:?} is half"
                );
            }
        }
    }
}

#[test]
fn killed_at_thirty_moments() {
    if !strace() {
        eprintln!("skipped: strace is not installed");
        return;
    }
    let seed = std::env::var("JAILWRIGHT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
    });
    println!("JAILWRIGHT_SEED={seed}");
    let mut random = Seed(seed);
    let mut killed = 0;
    for (stage, call, most, before) in STAGES {
        for _ in 0..5 {
            let when = 1 + random.next(*most);
            let scratch = before.made();
            let (jail, profiles) = (scratch.jail(), scratch.path("profiles"));
            let inject = format!("inject={call}:signal=KILL:when={when}");
            let output = scratch
                .command("strace")
                .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject])
                .arg(scratch.tool("jail-init"))
                .args(["-j", text(&jail), "-c", text(&profiles), "shell"])
                .output()
                .expect("strace");
            assert!(!output.status.success(), "{stage} {call} {when}: not killed: {output:?}");
            killed += 1;
            no_half_file(&jail);
            scratch.init(&["shell"]).ok();
            no_half_file(&jail);
            let left = std::fs::read_dir(&jail).expect("listed").flatten().any(|e| is_leftover(&e.path()));
            assert!(!left, "{stage} {call} {when}: the next run leaves it");
            let check = scratch.on_jail("jail-check", &[]);
            assert_eq!(check.status, Some(0), "{stage} {call} {when}: {check:#?}");
        }
    }
    assert_eq!(killed, 30);
}

/// Every write, rename and directory of a provisioning fails once with EIO, ENOSPC or EINTR.
#[test]
fn each_fault_is_said_and_mended() {
    if !strace() {
        eprintln!("skipped: strace is not installed");
        return;
    }
    for (call, error, before) in [
        ("pwrite64", "EIO", Before::Nothing),
        ("pwrite64", "ENOSPC", Before::Directory),
        ("renameat2", "EIO", Before::Nothing),
        ("renameat", "EIO", Before::Directory),
        ("mkdirat", "ENOSPC", Before::Directory),
        ("fchmod", "EIO", Before::Directory),
        ("symlinkat", "EIO", Before::Nothing),
        ("rename", "EIO", Before::Nothing),
        ("syncfs", "EIO", Before::Nothing),
        ("pwrite64", "EINTR", Before::Nothing),
        ("renameat2", "EINTR", Before::Nothing),
        ("renameat", "EINTR", Before::Directory),
    ] {
        let scratch = before.made();
        let (jail, profiles) = (scratch.jail(), scratch.path("profiles"));
        let output = scratch
            .command("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:error={error}:when=1")])
            .arg(scratch.tool("jail-init"))
            .args(["-j", text(&jail), "-c", text(&profiles), "shell"])
            .output()
            .expect("strace");
        let run = Run::of(&output);
        if error == "EINTR" {
            run.ok();
        } else {
            run.fails(1, "jail-init: cannot ");
        }
        no_half_file(&jail);
        scratch.init(&["shell"]).ok();
        scratch.on_jail("jail-check", &[]).ok();
    }
}

#[test]
fn a_full_disk() {
    let scratch = Scratch::new();
    if !scratch.is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let script = r#"
set -u
bin=$1 small=/srv
# Over /var/lib, not below it: a directory made to mount on would stay on the host.
mount -t tmpfs -o mode=755 tmpfs /mnt && mkdir /mnt/upper /mnt/work &&
    mount -t overlay -o lowerdir=/var/lib,upperdir=/mnt/upper,workdir=/mnt/work overlay /var/lib || exit 90
mount -t tmpfs -o size=4m,mode=755 tmpfs "$small" || exit 91
"$bin/jail-init" -j "$small/jail" basicshell; echo "first $?"
cd "$small/jail" && ls -A | sed 's/^/left /'
find . -type f -size +0 | while read -r f; do cmp -s "$f" "/$f" || echo "half $f"; done
mount -o remount,size=64m "$small" || exit 92
"$bin/jail-init" -j "$small/jail" basicshell >/dev/null; echo "second $?"
"$bin/jail-check" -j "$small/jail"; echo "check $?"
"#;
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(scratch.path("bin"))
        .output()
        .expect("unshare");
    let run = Run::of(&output);
    if run.err.contains("which the host does not have") {
        eprintln!("skipped: the host lacks what basicshell needs: {}", run.err);
        return;
    }
    assert!(run.err.contains("no space left on device"), "{run:#?}");
    assert!(
        run.out.contains("first 1\n") && run.out.contains("second 0\n") && run.out.contains("check 0\n"),
        "{run:#?}"
    );
    assert!(!run.out.contains("half ") && !run.out.contains("left "), "{run:#?}");
}
