//! What keeps jails in step without anybody: the hook of apt, run by a real apt, and the units of systemd.

#![allow(missing_docs, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn share(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../share").join(file)
}

fn have(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    if !there {
        eprintln!("skipped: no {program}");
    }
    there
}

fn run(command: &mut Command) -> Output {
    let out = command.output().expect("runs");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {}{said}", String::from_utf8_lossy(&out.stdout));
    out
}

/// Installs a package of its own into a root of its own, with the hook in force.
#[test]
fn apt_runs_the_hook_and_does_not_fail_with_it() {
    if !have("apt-get") || !have("dpkg-deb") {
        return;
    }
    if !Path::new("/proc/self").metadata().is_ok_and(|stat| std::os::unix::fs::MetadataExt::uid(&stat) == 0) {
        eprintln!("skipped: dpkg installs for root only");
        return;
    }
    let scratch = tempfile::tempdir().expect("scratch");
    let dir = scratch.path();
    for below in [
        "package/DEBIAN",
        "root/var/lib/dpkg/info",
        "root/var/lib/dpkg/updates",
        "root/var/lib/dpkg/triggers",
        "state/lists/partial",
        "cache/archives/partial",
        "etc/preferences.d",
    ] {
        fs::create_dir_all(dir.join(below)).expect("made");
    }
    let status = dir.join("root/var/lib/dpkg/status");
    fs::write(&status, "").expect("written");
    let control = "Package: tiny\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: x\n";
    fs::write(dir.join("package/DEBIAN/control"), control).expect("written");
    let (package, called) = (dir.join("tiny.deb"), dir.join("called"));
    run(Command::new("dpkg-deb").arg("--build").arg(dir.join("package")).arg(&package));
    // A jail-update that writes down how it was called, and fails.
    let update = dir.join("jail-update");
    fs::write(&update, format!("#!/bin/sh\necho \"$@\" >>{}\nexit 1\n", called.display())).expect("written");
    fs::set_permissions(&update, fs::Permissions::from_mode(0o755)).expect("chmod");
    let hook = fs::read_to_string(share("apt/80-jailwright")).expect("the hook");
    assert!(hook.contains("/usr/local/sbin/jail-update"), "{hook}");
    let ours = hook.replace("/usr/local/sbin/jail-update", &update.display().to_string());
    fs::write(dir.join("80-jailwright"), ours).expect("written");
    let option = |key: &str, value: &Path| format!("{key}={}", value.display());
    run(Command::new("apt-get")
        .args(["-y", "-q", "-c"])
        .arg(dir.join("80-jailwright"))
        .args(["-o", &option("Dir::State", &dir.join("state"))])
        .args(["-o", &option("Dir::State::status", &status)])
        .args(["-o", &option("Dir::Cache", &dir.join("cache"))])
        .args(["-o", &option("Dir::Etc", &dir.join("etc"))])
        .args(["-o", "Dir::Etc::sourcelist=/dev/null", "-o", "Dir::Etc::sourceparts=/dev/null"])
        .args(["-o", &option("Dir::Log", dir), "-o", "APT::Sandbox::User=root"])
        .args(["-o", &option("DPkg::Options::=--root", &dir.join("root"))])
        .arg("install")
        .arg(&package));
    assert!(fs::read_to_string(&status).expect("there").contains("Package: tiny"), "it was installed");
    assert_eq!(fs::read_to_string(&called).expect("called"), "--all --quiet\n");
}

#[test]
fn systemd_accepts_the_units() {
    if !have("systemd-analyze") {
        return;
    }
    let scratch = tempfile::tempdir().expect("scratch");
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]);
    for unit in ["jail-update.service", "jail-update.timer", "jail-sweep.service", "jail-sweep.timer"] {
        let text = fs::read_to_string(share("systemd").join(unit)).expect("the unit");
        // The tools may not be installed where this is tested, and systemd asks for the programs.
        let text = text.replace("/usr/local/sbin/jail-update", "/bin/true");
        let text = text.replace("/usr/local/sbin/jail-list", "/bin/true");
        let file = scratch.path().join(unit);
        fs::write(&file, text).expect("written");
        command.arg(&file);
    }
    let out = run(&mut command);
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
}
