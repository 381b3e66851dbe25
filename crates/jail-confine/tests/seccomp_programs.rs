//! Real programs under the shipped profiles: what an interactive account does under `default`, real transfers under
//! `transfer`. Run with violation = kill, so that a call the profile lacks ends the program instead of being papered over.
//!
//! Programs that the machine lacks are named and left out. Needs nothing but loopback and a scratch directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The example that loads a profile and runs a command. `cargo test --test …` alone does not build examples, so ask.
fn runner() -> &'static Path {
    static RUNNER: OnceLock<PathBuf> = OnceLock::new();
    RUNNER.get_or_init(|| {
        let test = std::env::current_exe().expect("a path");
        let profile = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/test");
        // As the caller of sudo, if there is one: what is built is his (see tests/cargo).
        let mut build = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/cargo"));
        build.env_remove("AS_ROOT");
        build.args(["build", "--quiet", "--offline", "-p", "jail-confine", "--example", "seccomp-exec"]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        if let Some(target) = profile.parent() {
            build.arg("--target-dir").arg(target);
        }
        let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        profile.join("examples/seccomp-exec")
    })
}

fn found(program: &str) -> Option<PathBuf> {
    let dirs = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin"];
    dirs.iter().map(|dir| Path::new(dir).join(program)).find(|path| path.exists())
}

fn under(profile: &str, violation: &str, home: &Path, script: &str) -> Output {
    Command::new(runner())
        .args(["--violation", violation, profile, "/bin/sh", "-c", script])
        .current_dir(home)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin")
        .env("HOME", home)
        .env("TERM", "xterm")
        .env("LC_ALL", "C.UTF-8")
        .env("TMPDIR", home)
        .output()
        .expect("runs")
}

/// A program, a task for it and what the task prints.
const TASKS: &[(&str, &str, &str)] = &[
    ("bash", r#"bash -c 'x=(1 2 3); sleep 0.01 & wait; echo $(( ${#x[@]} + $(echo 4 | cat) ))'"#, "7\n"),
    ("bash", "bash -ic 'echo interactive' 2>/dev/null", "interactive\n"),
    (
        "tmux",
        "tmux -L t -f /dev/null new-session -d -x 80 -y 24 'sleep 5'; tmux -L t list-sessions -F '#{session_windows}'; tmux -L t kill-server",
        "1\n",
    ),
    ("vim", "printf 'a\\nb\\n' >f; vim -es -u NONE -c '%s/a/X/' -c wq f; cat f", "X\nb\n"),
    (
        "git",
        "git init -q r && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m m && git clone -q . ../c && git -C ../c log --format=%s",
        "m\n",
    ),
    (
        "python3",
        r#"python3 -c 'import subprocess, threading, socket, asyncio, multiprocessing as m, tempfile
async def f(): return (await (await asyncio.create_subprocess_exec("echo", "sub", stdout=-1)).communicate())[0]
t = threading.Thread(target=lambda: print("thread", flush=True)); t.start(); t.join()
a, b = socket.socketpair(); a.send(b"x"); print(b.recv(1).decode(), asyncio.run(f()).decode().strip(), subprocess.check_output(["echo", "e"]).decode().strip())
with m.Pool(2) as p: print(p.map(abs, [-1, 2]))'"#,
        "thread\nx sub e\n[1, 2]\n",
    ),
    (
        "node",
        r#"node -e 'require("fs").promises.readFile("/etc/hostname").then(() => console.log(require("child_process").execSync("echo sub").toString() + eval("6*7")))'"#,
        "sub\n42\n",
    ),
    (
        "node",
        r#"node -e 'const {Worker} = require("worker_threads"); new Worker("require(\"worker_threads\").parentPort.postMessage(1)", {eval: true}).on("message", m => console.log(m))'"#,
        "1\n",
    ),
    (
        "gcc",
        r#"echo 'int puts(const char*); int main(void) { return puts("made") < 0; }' >m.c && gcc -O1 -o m m.c && ./m"#,
        "made\n",
    ),
    (
        "perl",
        r#"perl -MIO::Socket -e '$s = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or die; if (!fork) { print {IO::Socket::INET->new(PeerPort => $s->sockport, PeerAddr => "127.0.0.1")} "net\n"; exit } print readline $s->accept'"#,
        "net\n",
    ),
    ("php", "php -r 'echo array_sum([1, 2]), PHP_EOL;'", "3\n"),
    ("nano", "echo hi >n; timeout 5 nano -R n </dev/null >/dev/null 2>&1; echo done", "done\n"),
    ("rsync", "mkdir a && echo x >a/f && ln a/f a/g && rsync -aHAX a/ b && cat b/g", "x\n"),
    ("tar", "mkdir -p a && echo x >a/f && tar czf a.tgz a && tar tzf a.tgz | sort", "a/\na/f\n"),
    ("sqlite3", "sqlite3 d.db 'create table t(x); insert into t values(5); select x from t'", "5\n"),
    (
        "java",
        "echo 'class M { public static void main(String[] a) throws Exception { Thread t = new Thread(() -> System.out.println(7)); t.start(); t.join(); } }' >M.java && java M.java 2>&1 | tail -1",
        "7\n",
    ),
    (
        "curl",
        "curl -sS --max-time 5 file:///etc/hostname >/dev/null && curl -s --max-time 2 http://127.0.0.1:1/ ; echo $?",
        "7\n",
    ),
    ("make", "printf 'all: a b\\na b:\\n\\t@echo $@\\n' >Makefile && make -s -j2 | sort", "a\nb\n"),
    ("xz", "printf 12345 | xz -T2 -c | xz -dc", "12345"),
    ("sort", "seq 1 100000 | sort -rn --parallel=2 -S 1M | head -1", "100000\n"),
    ("mkfifo", "mkfifo p && (echo through >p &) && cat p", "through\n"),
    ("script", "script -qc 'tty >/dev/null && echo pty' /dev/null | tr -d '\\r'", "pty\n"),
    ("mc", "mc --version >/dev/null && echo ok", "ok\n"),
];

#[test]
fn an_interactive_accounts_programs_under_default() {
    let mut missing = Vec::new();
    let mut ran = 0;
    for (program, script, expected) in TASKS {
        if found(program).is_none() {
            missing.push(*program);
            continue;
        }
        let home = tempfile::tempdir().expect("a directory");
        let output = under("default", "kill", home.path(), script);
        let seen = String::from_utf8_lossy(&output.stdout);
        assert!(
            seen == *expected,
            "{program}: {script}\n{seen:?} instead of {expected:?}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        ran += 1;
    }
    if !missing.is_empty() {
        eprintln!("skipped, not installed: {}", missing.join(" "));
    }
    assert!(ran > 5, "only {ran} programs are here");
}

/// A directory with a stand-in for ssh, which runs the server side under `transfer` as jail-sh would.
struct Remote {
    dir: tempfile::TempDir,
}

impl Remote {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let ssh = dir.path().join("ssh");
        let server = found("sftp-server").unwrap_or_else(|| PathBuf::from("/usr/lib/openssh/sftp-server"));
        let script = format!(
            "#!/bin/sh\n# The command is what follows the host's name.\n\
             while [ $# -gt 0 ] && [ \"$1\" != host ]; do shift; done; shift\n\
             [ \"$*\" = sftp ] && set -- {server}\n\
             echo \"$*\" >>{log}\nexec {runner} --violation kill transfer /bin/bash -c \"$*\"\n",
            server = server.display(),
            log = dir.path().join("log").display(),
            runner = runner().display(),
        );
        fs::write(&ssh, script).expect("written");
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("executable");
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Runs a client outside the filter; its server side is inside.
    fn client(&self, script: &str) {
        let output = Command::new("/bin/bash")
            .args(["-euc", script])
            .current_dir(&self.dir)
            .env("SSH", self.path("ssh"))
            .env("GIT_SSH", self.path("ssh"))
            .env("GIT_SSH_VARIANT", "ssh")
            .env("GIT_CONFIG_COUNT", "0")
            .env("HOME", self.dir.path())
            .env("D", self.dir.path())
            .output()
            .expect("bash");
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        assert!(
            output.status.success(),
            "{script}\n{}\nserver: {log}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!log.is_empty(), "the stand-in for ssh was not used: {script}");
    }
}

/// Names with spaces and more, some size, a tree, links and times.
const TREE: &str = "mkdir -p src/sub 'src/a b'; head -c 3000000 /dev/urandom >src/big; echo x >'src/a b/é'; \
    ln -s big src/link; ln src/big src/sub/hard; touch -d '2001-02-03 04:05:06' src/sub; chmod 640 src/big; ";

#[test]
fn scp_both_ways_and_both_protocols_under_transfer() {
    if found("scp").is_none() {
        eprintln!("skipped: scp is not installed");
        return;
    }
    for mode in ["-O", "-s"] {
        Remote::new().client(&format!(
            "{TREE} scp {mode} -qpr -S $SSH src host:$D/up; diff -r src up; scp {mode} -qpr -S $SSH host:$D/up down; diff -r src down; \
             scp {mode} -q -S $SSH host:$D/none . && exit 1; true"
        ));
    }
}

#[test]
fn sftp_under_transfer() {
    if found("sftp").is_none() {
        eprintln!("skipped: sftp is not installed");
        return;
    }
    Remote::new().client(&format!(
        "{TREE} cat >batch <<'E'\nmkdir up\nput -pr src up/\nls -l up/src\nrename up/src/big up/src/large\nchmod 600 up/src/large\n\
         symlink large up/src/new\nln up/src/large up/src/two\nget -pr up/src down\nrm up/src/two\ndf\nE\n\
         sftp -q -S $SSH -b batch host >out; cmp src/big down/large; test -L up/src/new; test ! -e up/src/two"
    ));
}

#[test]
fn rsync_both_ways_under_transfer() {
    if found("rsync").is_none() {
        eprintln!("skipped: rsync is not installed");
        return;
    }
    Remote::new().client(&format!(
        "{TREE} rsync -aHAXq -e $SSH src/ host:$D/up/; diff -r src up; echo more >>src/big; rm src/link; mkfifo src/fifo; \
         rsync -aHAXzcq --delete --partial --inplace -e $SSH src/ host:$D/up/; cmp src/big up/big; test ! -e up/link; test -p up/fifo; \
         rsync -aHAXzq -e $SSH host:$D/up/ down/; cmp src/big down/big; test $(stat -c %Y down/sub) = $(stat -c %Y src/sub)"
    ));
}

/// rsync with its security updates of 2025 opens what it receives by openat2 and falls back only on ENOSYS.
#[test]
fn opening_beneath_a_directory_under_transfer() {
    if found("python3").is_none() {
        eprintln!("skipped: python3 is not installed");
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let code = "import ctypes, struct; how = struct.pack(\"QQQ\", 0, 0, 0); \
                print(ctypes.CDLL(None).syscall(437, -100, b\"/\", how, len(how)) > 2)";
    let output = under("transfer", "kill", home.path(), &format!("/usr/bin/python3 -c '{code}'"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "True\n", "{output:?}");
}

#[test]
fn git_over_ssh_under_transfer() {
    if found("git").is_none() {
        eprintln!("skipped: git is not installed");
        return;
    }
    Remote::new().client(
        "git init -q --bare repo.git; git clone -q host:$D/repo.git one 2>/dev/null; cd one; git config user.name a; git config user.email a@b; \
         for i in 1 2 3; do echo $i >f$i; git add .; git commit -qm $i; done; git push -q origin HEAD:refs/heads/main; \
         git -C ../repo.git symbolic-ref HEAD refs/heads/main; cd ..; git clone -q host:$D/repo.git two; test $(git -C two rev-list --count HEAD) = 3; \
         cd one; git tag t; git push -q origin t; cd ../two; git fetch -q --tags; git rev-parse -q --verify t >/dev/null; git -C ../repo.git gc -q",
    );
}

#[test]
fn transfer_is_tight() {
    let home = tempfile::tempdir().expect("a directory");
    if found("python3").is_none() {
        eprintln!("skipped: python3 is not installed");
        return;
    }
    let python = |code: &str| {
        let output = under("transfer", "errno", home.path(), &format!("/usr/bin/python3 -c '{code}'"));
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    assert_eq!(python("print(1)"), "1\n");
    for code in [
        "import socket; socket.socket()",
        "import socket; socket.socket(socket.AF_INET6)",
        "import socket; socket.socket(socket.AF_NETLINK, 3, 0)",
        "import os; os.setpriority(0, 0, 5)",
        "import os; os.memfd_create(chr(120))",
        "import os; os.eventfd(0)",
        "import os; os.pidfd_open(os.getpid())",
    ] {
        let seen = python(code);
        assert!(seen.contains("Operation not permitted"), "{code}: {seen}");
        let outside = Command::new("/usr/bin/python3").args(["-c", code]).output().expect("python");
        assert!(outside.status.success(), "{code} works outside");
    }
}
