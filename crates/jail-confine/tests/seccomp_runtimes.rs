//! Other runtimes take our profiles: runc runs a container under them, and gives the answers we give.
//!
//! runc reads the OCI form, which podman and docker make of a profile by choosing the machine's architectures and the rules
//! whose `includes` fit; the test does the same and changes nothing else. Needs root, runc and gcc; skips without.

use std::fs;
use std::process::Command;

use jail_confine::seccomp::Builtin;
use serde_json::{Value, json};

const PROGRAM: &str = r#"
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
static int seen(long result) { return result == -1 ? errno : 0; }
int main(void) {
    printf("unshare %d keyctl %d clone3 %d alg %d\n", seen(syscall(SYS_unshare, 0x10000000)),
           seen(syscall(SYS_keyctl, 0xffff)), seen(syscall(SYS_clone3, 0, 0)), seen(syscall(SYS_socket, 38, 5, 0)));
    return 0;
}
"#;

fn works(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success())
}

/// What podman hands to runc.
fn oci(profile: &[u8]) -> Value {
    let mut value: Value = serde_json::from_slice(profile).expect("JSON");
    let machine = if cfg!(target_arch = "x86_64") {
        ("amd64", "SCMP_ARCH_X86_64")
    } else {
        ("arm64", "SCMP_ARCH_AARCH64")
    };
    let whole = value.as_object_mut().expect("an object");
    whole.remove("archMap");
    whole.insert("architectures".to_owned(), json!([machine.1]));
    let rules = whole["syscalls"].as_array_mut().expect("a list");
    rules.retain(|rule| {
        let arches = rule["includes"]["arches"].as_array();
        arches.is_none_or(|arches| arches.iter().any(|arch| arch == machine.0))
    });
    for rule in rules {
        let rule = rule.as_object_mut().expect("an object");
        rule.remove("includes");
        rule.remove("comment");
    }
    value
}

#[test]
fn runc_runs_under_our_profiles() {
    if !rustix::process::geteuid().is_root() || !works("runc") || !works("gcc") {
        eprintln!("skipped: needs root, runc and gcc");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    for place in ["rootfs/bin", "rootfs/proc", "rootfs/dev"] {
        fs::create_dir_all(dir.path().join(place)).expect("made");
    }
    fs::write(dir.path().join("m.c"), PROGRAM).expect("written");
    let compile =
        Command::new("gcc").args(["-static", "-o", "rootfs/bin/m", "m.c"]).current_dir(&dir).status();
    assert!(compile.expect("gcc").success());
    for which in [Builtin::Default, Builtin::Transfer] {
        let config = json!({
            "ociVersion": "1.0.2",
            "process": { "user": { "uid": 0, "gid": 0 }, "args": ["/bin/m"], "cwd": "/", "env": [], "noNewPrivileges": true,
                "capabilities": {} },
            "root": { "path": "rootfs", "readonly": true },
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" }],
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }],
                "seccomp": oci(which.json().expect("has one")) }
        });
        fs::write(dir.path().join("config.json"), config.to_string()).expect("written");
        let name = format!("jailwright-{}-{}", which.as_str(), std::process::id());
        let run = Command::new("runc")
            .arg("--root")
            .arg(dir.path().join("state"))
            .args(["run", &name])
            .current_dir(&dir)
            .output();
        let run = run.expect("runc");
        let seen = String::from_utf8_lossy(&run.stdout);
        let said = String::from_utf8_lossy(&run.stderr);
        if said.contains("cgroup") && !said.contains("seccomp") {
            eprintln!("skipped: runc cannot run here at all: {said}");
            return;
        }
        assert_eq!(seen, "unshare 1 keyctl 1 clone3 38 alg 1\n", "{}: {said}", which.as_str());
    }
}
