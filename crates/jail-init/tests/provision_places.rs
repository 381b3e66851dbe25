//! Places where jails are made: odd paths, odd file systems, odd umasks; devices and account lines; a terminal. What changes
//! the machine runs as root in a mount namespace of its own, with a new /srv and new state.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::{Run, Scratch, text};

/// Runs a shell script as root in a mount namespace of its own: `$bin` has the tools, /srv and /var/lib are empty, and
/// `/srv/own` is for sections. `None` without root.
fn as_root(scratch: &Scratch, script: &str) -> Option<Run> {
    if !scratch.is_root() {
        eprintln!("skipped: mounting needs root");
        return None;
    }
    let prelude = "set -e; PATH=/usr/sbin:/usr/bin:/sbin:/bin; bin=$1\n\
        for dir in /srv /var/lib; do mount -t tmpfs -o mode=755 tmpfs $dir; done; mkdir /srv/own\n";
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", &format!("{prelude}{script}"), "sh"])
        .arg(scratch.path("bin"))
        .output()
        .expect("unshare");
    Some(Run::of(&output))
}

#[test]
fn a_read_only_file_system() {
    let scratch = Scratch::new();
    let script = "mkdir /srv/ro; mount -t tmpfs -o ro,mode=755 tmpfs /srv/ro\n\
        $bin/jail-init -j /srv/ro/jail basicshell || echo \"status $?\"; ls -A /srv/ro; ls -A /var/lib";
    let Some(run) = as_root(&scratch, script) else { return };
    assert_eq!(run.out, "status 1\n", "one sentence, and nothing left: {run:#?}");
    assert!(
        run.err.contains("cannot make the directory '/srv/ro") && run.err.contains("read-only"),
        "{run:#?}"
    );
    // A jail that became read-only: nothing to do is still no error, something to do is one that can be read.
    let script = "mkdir /srv/fs; mount -t tmpfs -o mode=755 tmpfs /srv/fs; echo 1 >/srv/file\n\
        echo 'include = [\"basicshell\"]\npaths = [\"/srv/file\"]' >/srv/own/x.toml\n\
        $bin/jail-init -c /srv/own -j /srv/fs/jail x >/dev/null; mount -o remount,ro /srv/fs\n\
        $bin/jail-update -j /srv/fs/jail; echo 22 >/srv/file; $bin/jail-update -j /srv/fs/jail || echo \"status $?\"\n\
        mount -o remount,rw /srv/fs; $bin/jail-update -j /srv/fs/jail; cat /srv/fs/jail/srv/file; $bin/jail-check -j /srv/fs/jail";
    let run = as_root(&scratch, script).expect("root").ok();
    assert!(run.out.contains("up to date") && run.out.contains("status 1\n"), "{run:#?}");
    assert!(
        run.out.contains("\n22\n") && run.out.contains("nothing found"),
        "the next run repairs: {run:#?}"
    );
    assert!(run.err.contains("read-only file system"), "{run:#?}");
}

#[test]
fn umasks_and_paths_that_a_shell_would_trip_over() {
    let scratch = Scratch::new();
    let profiles = scratch.path("profiles");
    for name in ["a jail", "j\u{e4}il", "$(reboot)", "-j"] {
        let jail = scratch.path(name);
        let run = scratch.run("jail-init", &["-c", text(&profiles), "-j", text(&jail), "shell"]).ok();
        assert!(run.out.contains(name), "{run:#?}");
        assert!(jail.join("etc/ld.so.cache").is_file() || !std::path::Path::new("/etc/ld.so.cache").exists());
        scratch.run("jail-check", &["-j", text(&jail)]).ok();
    }
    // Relative to where the caller stands.
    scratch.run("jail-init", &["-c", "profiles", "-j", "relative/below", "shell"]).ok();
    assert!(scratch.path("relative/below/usr/bin/cat").is_file());
    scratch.run("jail-check", &["-j", "./relative/below"]).ok();
    // A strict umask of the caller's makes no jail that its users cannot enter.
    let script = "umask 077; exec \"$0\" -c profiles -j strict shell";
    let out = scratch.command("sh").args(["-c", script]).arg(scratch.tool("jail-init")).output().expect("sh");
    Run::of(&out).ok();
    for (path, mode) in
        [("", 0o755), ("etc", 0o755), ("usr/bin", 0o755), ("usr/bin/cat", 0o755), ("tmp", 0o1777)]
    {
        let stat = fs::metadata(scratch.path("strict").join(path)).expect("stat");
        assert_eq!(stat.permissions().mode() & 0o7777, mode, "{path}");
    }
    scratch.run("jail-update", &["-j", text(&scratch.path("none"))]).fails(1, "there is no jail");
    scratch.mode(&scratch.path("strict"), 0o777);
    scratch
        .run("jail-update", &["-j", text(&scratch.path("strict"))])
        .fails(4, "others may write to the jail");
}

#[test]
fn devices_and_account_lines_follow_the_host() {
    let scratch = Scratch::new();
    let script = r#"
        echo 'include = ["basicshell"]
devices = ["/dev/null"]
users = ["games"]' >/srv/own/x.toml
        echo 'devices = ["/dev/no-such-device"]' >/srv/own/gone.toml
        echo 'devices = ["/etc/passwd"]' >/srv/own/none.toml
        mkdir /srv/etc; cp -a /etc/. /srv/etc; mount --bind /srv/etc /etc
        $bin/jail-init -c /srv/own --devices -j /srv/none gone || echo "status $?"
        $bin/jail-init -c /srv/own --devices -j /srv/none none || echo "status $?"
        [ ! -e /srv/none ] && echo "nothing made"
        $bin/jail-init -c /srv/own --devices -j /srv/jail x >/dev/null
        stat -c '%F %a %t:%T' /srv/jail/dev/null
        rm /srv/jail/dev/null; echo x >/srv/jail/dev/null; sed -i 's/^games:.*/games:x:5:60:of the host:\/new:\/bin\/sh/' /etc/passwd
        $bin/jail-update --dry-run -j /srv/jail
        $bin/jail-update -j /srv/jail | grep kept; grep ^games /srv/jail/etc/passwd
        $bin/jail-update --force -j /srv/jail; stat -c '%F %a %t:%T' /srv/jail/dev/null
        $bin/jail-check -j /srv/jail"#;
    let Some(run) = as_root(&scratch, script) else { return };
    let run = run.ok();
    assert!(run.err.contains("'/dev/no-such-device', which the host does not have"), "{run:#?}");
    assert!(run.err.contains("'/etc/passwd' is no device"), "{run:#?}");
    assert_eq!(run.out.matches("status 3\n").count(), 2, "{run:#?}");
    assert!(run.out.contains("nothing made"), "{run:#?}");
    assert_eq!(run.out.matches("character special file 666 1:3\n").count(), 2, "{run:#?}");
    assert!(run.out.contains("kept '/dev/null': changed in the jail"), "{run:#?}");
    assert!(run.out.contains("\ngames:x:5:60:of the host:/new:/bin/sh\n"), "{run:#?}");
    let diff = "    + games:x:5:60:of the host:/new:/bin/sh\n";
    assert!(
        run.out.contains("~ accounts  /etc/passwd") && run.out.contains("    - games:x:5:60:games"),
        "{run:#?}"
    );
    assert!(run.out.contains(diff) && run.out.contains("nothing found"), "{run:#?}");
}

#[test]
fn a_dry_run_reads_like_a_diff() {
    let scratch = Scratch::new();
    let (file, link) = (scratch.host_file("file", "one\n"), scratch.path("host/link"));
    std::os::unix::fs::symlink("file", &link).expect("linked");
    let paths = format!("[{:?}, {:?}]", text(&file), text(&link));
    scratch.section("own", format!("include = [\"shell\"]\npaths = {paths}\n"));
    let run = scratch.init(&["own", "--dry-run"]).ok();
    let line = |sign: &str, kind: &str, rest: &str| format!("{sign} {kind:9} {rest}\n");
    assert!(
        run.out.contains(&line("+", "file", &format!("{} ← section own (new, 4 B)", text(&file)))),
        "{run:#?}"
    );
    scratch.init(&["own"]).ok();
    scratch.host_file("file", "two and more\n");
    let other = scratch.host_file("other", "three\n");
    fs::remove_file(&link).expect("removed");
    std::os::unix::fs::symlink("other", &link).expect("linked");
    let run = scratch.on_jail("jail-update", &["--dry-run", "-c", text(&scratch.path("profiles"))]).ok();
    for line in [
        line("~", "file", &format!("{} ← section own (changed on the host, 13 B, was 4 B)", text(&file))),
        line(
            "~",
            "link",
            &format!("{} -> other (was file) ← section own (the sections ask for it now)", text(&link)),
        ),
        line("+", "file", &format!("{} ← {} (new, 6 B)", text(&other), text(&link))),
    ] {
        assert!(run.out.contains(&line), "wanted {line} in {run:#?}");
    }
    scratch.section("own", "include = [\"shell\"]\n");
    let run = scratch.on_jail("jail-update", &["--dry-run"]).ok();
    assert!(
        run.out.contains(&format!("-           {} ← section own (nothing needs it any more)\n", text(&file))),
        "{run:#?}"
    );
}

/// Blocks are shared where the file system can, until one of both is written to.
#[test]
fn copies_share_their_blocks_on_btrfs() {
    let scratch = Scratch::new();
    let made = Command::new("mkfs.btrfs").arg("--version").output().is_ok_and(|out| out.status.success());
    if !made {
        eprintln!("skipped: no mkfs.btrfs (apt install btrfs-progs)");
        return;
    }
    let script = r#"
        truncate -s 200M /srv/image; mkfs.btrfs -q /srv/image; mkdir /srv/fs
        mount -o loop /srv/image /srv/fs || { echo skipped; exit 0; }
        mkdir /srv/fs/host; head -c 1000000 /dev/urandom >/srv/fs/host/file; sync
        echo 'include = ["basicshell"]
paths = ["/srv/fs/host/file"]' >/srv/own/x.toml
        $bin/jail-init -c /srv/own -j /srv/fs/jail x >/dev/null; sync
        filefrag -v /srv/fs/jail/srv/fs/host/file | grep -c shared
        cmp /srv/fs/host/file /srv/fs/jail/srv/fs/host/file; $bin/jail-check -j /srv/fs/jail
        echo changed >>/srv/fs/host/file; $bin/jail-check -j /srv/fs/jail || echo "status $?"
        umount /srv/fs"#;
    let Some(run) = as_root(&scratch, script) else { return };
    let run = run.ok();
    if run.out.contains("skipped") {
        eprintln!("skipped: no loop devices, or no btrfs in this kernel");
        return;
    }
    assert!(!run.out.starts_with("0\n"), "nothing is shared: {run:#?}");
    assert!(run.out.contains("nothing found"), "{run:#?}");
    assert!(
        run.out.contains("the host's file has changed") && !run.out.contains("not what was put there"),
        "{run:#?}"
    );
}

/// Progress: on a terminal, after half a second; and not a byte of it anywhere else.
#[test]
fn progress_on_a_terminal_only() {
    let scratch = Scratch::new();
    let there =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    if !there("script") || !there("strace") {
        eprintln!("skipped: no script or no strace (apt install bsdutils strace)");
        return;
    }
    let many = scratch.path("host/many");
    fs::create_dir(&many).expect("made");
    for number in 0..200 {
        fs::write(many.join(number.to_string()), "x").expect("written");
    }
    scratch.section("own", format!("include = [\"shell\"]\npaths = [{:?}]\n", text(&many)));
    // Each file takes 15 ms: the run is slow, and the machine is not.
    let run = |jail: &str, terminal: bool| {
        let tool = scratch.tool("jail-init");
        let line = format!(
            "strace -f -qq -o /dev/null -e trace=utimensat -e inject=utimensat:delay_exit=15000 {} -c {} -j {jail} own",
            text(&tool),
            text(&scratch.path("profiles")),
        );
        let mut command = scratch.command(if terminal { "script" } else { "sh" });
        match terminal {
            true => command.args(["-qec", &line, "/dev/null"]),
            false => command.args(["-c", &line]),
        };
        Run::of(&command.stdin(std::process::Stdio::null()).output().expect("runs"))
    };
    let shown = run("watched", true).ok();
    assert!(
        shown.out.contains("\r\x1b[K") && shown.out.contains(" steps, ") && shown.out.contains("/s"),
        "{shown:#?}"
    );
    assert!(
        shown.out.rfind("/s").expect("shown") < shown.out.rfind("\r\x1b[K").expect("cleared"),
        "taken away at the end"
    );
    let silent = run("unwatched", false).ok();
    assert_eq!(silent.err, "", "{silent:#?}");
    assert!(!silent.out.contains('\r'), "{silent:#?}");
}
