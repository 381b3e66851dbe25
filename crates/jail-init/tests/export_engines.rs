//! Debian's podman, with runc and with crun, loads an exported jail and runs it confined by our seccomp profile, and by
//! its own. Needs root; everything is in a mount namespace and a storage directory of the test's own.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Run, Scratch, text};

/// What a container is asked: who am I, can I write, which network is there, is a filter on; and its status must come out.
const QUESTIONS: &str = "id -u; id -g; pwd; cat /proc/net/dev | tail -n +3 | cut -d: -f1; touch /x; \
    while read -r key value; do case $key in Seccomp:|CapEff:) echo $key $value;; esac; done </proc/self/status; exit 7";

const ANSWERS: &str = "65534\n65534\n/\n    lo\nCapEff: 0000000000000000\nSeccomp: 2\n";

/// One image in a storage of its own.
struct Podman {
    scratch: Scratch,
    group: String,
}

impl Podman {
    /// `None` if this machine cannot: the reason is said.
    fn with_image() -> Option<Self> {
        let scratch = Scratch::new();
        if !scratch.is_root() {
            eprintln!("skipped: podman is tried as root only");
            return None;
        }
        for program in ["podman", "crun", "runc"] {
            let found = Command::new("sh")
                .args(["-c", &format!("PATH=$PATH:/usr/sbin command -v {program}")])
                .output();
            if !found.is_ok_and(|output| output.status.success()) {
                eprintln!("skipped: {program} is not installed");
                return None;
            }
        }
        scratch
            .section("image", "include = [\"shell\"]\ncommands = [\"id\", \"tail\", \"cut\", \"touch\"]\n");
        scratch.init(&["image"]).ok();
        let out = scratch.path("out");
        std::fs::create_dir(&out).expect("made");
        scratch.own(&out);
        let image = out.join("jail.tar");
        scratch.on_jail("jail-export", &["--oci", text(&image), "--image", "localhost/jail:1"]).ok();
        let podman = Self { scratch, group: format!("/jailwright-test-{}", std::process::id()) };
        podman.run(&["load", "-q", "-i", text(&image)]).ok();
        Some(podman)
    }

    fn run(&self, arguments: &[&str]) -> Run {
        self.with_runtime("/usr/sbin/runc", arguments)
    }

    /// cgroup v2 is laid over a hybrid host's, which neither runtime takes; what podman keeps elsewhere is memory.
    fn with_runtime(&self, runtime: &str, arguments: &[&str]) -> Run {
        let prepare = "for d in /run /var/lib/containers; do mkdir -p $d && mount -t tmpfs none $d || exit 99; done; \
            mount -t cgroup2 none /sys/fs/cgroup || exit 99; \"$@\"; status=$?; \
            [ ! -d /sys/fs/cgroup$GROUP ] || find /sys/fs/cgroup$GROUP -depth -type d -exec rmdir {} \\;; exit $status";
        let output = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                prepare,
                "sh",
                "timeout",
                "120",
                "podman",
            ])
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", runtime])
            .args(["--root", text(&self.scratch.path("storage"))])
            .args(["--runroot", text(&self.scratch.path("storage-run"))])
            .args(arguments)
            .env("GROUP", &self.group)
            .output();
        Run::of(&output.expect("unshare"))
    }

    fn container(&self, runtime: &str, more: &[&str], command: &str) -> Run {
        let mut arguments = vec!["run", "--rm", "--read-only", "--network", "none", "--cap-drop", "all"];
        // Containers must not ask for more than the test itself may have.
        arguments.extend(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]);
        match runtime {
            "/usr/bin/crun" => arguments.push("--cgroups=disabled"),
            _ => arguments.extend(["--pids-limit=-1", "--cgroup-parent", &self.group]),
        }
        arguments.extend(more);
        arguments.extend(["localhost/jail:1", "/bin/sh", "-c", command]);
        self.with_runtime(runtime, &arguments)
    }
}

fn seccomp(profile: &Path) -> String {
    format!("seccomp={}", text(profile))
}

#[test]
fn podman_and_crun_run_it_under_our_profile_and_theirs() {
    let Some(podman) = Podman::with_image() else { return };
    let ours = seccomp(&podman.scratch.path("out/jail.seccomp.json"));
    let theirs = seccomp(Path::new("/usr/share/containers/seccomp.json"));
    for runtime in ["/usr/sbin/runc", "/usr/bin/crun"] {
        for profile in [&ours, &theirs] {
            let run = podman
                .container(runtime, &["--security-opt", profile], QUESTIONS)
                .fails(7, "Read-only file system");
            assert_eq!(run.out, ANSWERS, "{runtime} {profile}: {run:#?}");
        }
        // Narrower than an engine itself can live with, so it has to be loaded last.
        let share = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../share/seccomp/transfer.json");
        let narrow = ["--security-opt", "no-new-privileges", "--security-opt", &seccomp(&share)];
        assert_eq!(podman.container(runtime, &narrow, "echo fine").ok().out, "fine\n");
        // A profile that is not loaded would let this through.
        let none = podman.scratch.path("none.json");
        let deny = std::fs::read_to_string(podman.scratch.path("out/jail.seccomp.json")).expect("read");
        std::fs::write(&none, deny.replace("\"umask\",", "").replace("\"umask\"", "\"read\""))
            .expect("written");
        let run = podman.container(runtime, &["--security-opt", &seccomp(&none)], "umask 077; umask");
        assert!(!run.out.contains("0077"), "{runtime}: {run:#?}");
    }
    let labels = podman.run(&["image", "inspect", "localhost/jail:1"]).ok();
    assert!(labels.out.contains("\"org.jailwright.sections\": \"image\""), "{labels:#?}");
}

/// The other way round: what Debian's containers package ships is read and compiled by us.
#[test]
fn their_profile_is_one_of_ours() {
    let path = "/usr/share/containers/seccomp.json";
    let Ok(json) = std::fs::read(path) else {
        eprintln!("skipped: {path} is not there");
        return;
    };
    let profile = jail_confine::seccomp::parse(&json, path).expect("accepted as it is");
    let settings = jail_confine::seccomp::Settings::plain(&profile, (6, 1));
    let (program, _) = jail_confine::seccomp::compile(&settings).expect("compiles");
    program.verify().expect("sound");
    assert!(program.len() > 100);
}
