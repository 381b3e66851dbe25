//! scp, sftp, rsync and git over ssh, both ways, with names that real people use.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jailwright_tests::command::have;
use jailwright_tests::{Done, Run, Scratch, Test, User, skip, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch scp_both_ways),
    test!(scratch scp_old_protocol_both_ways),
    test!(scratch scp_between_two_jails),
    test!(scratch scp_200_megabytes),
    test!(scratch sftp_batch),
    test!(scratch rsync_both_ways),
    test!(scratch git_clone_and_push),
];

/// Spaces, quotes, non-ASCII: what a shell on the way would break.
const NAMES: &[&str] =
    &["plain", "two words", "naïve café €", "it's \"quoted\"", "-dash", "semi;colon $HOME"];

/// A directory of the client's with these files; removed with the guard.
pub(crate) struct ClientDir(pub(crate) PathBuf);

impl ClientDir {
    pub(crate) fn new(user: &User<'_>) -> ClientDir {
        let dir = PathBuf::from(format!("/tmp/client-{}", user.name));
        std::fs::create_dir(&dir).expect("mkdir");
        ClientDir(dir)
    }

    /// The client's git, with no settings but these and the user's key.
    pub(crate) fn git(&self, user: &User<'_>, args: &[&str]) -> Run {
        Run::new("git")
            .dir(&self.0)
            .env("GIT_SSH_COMMAND", user.sshd().remote_shell())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("HOME", &self.0)
            .args([
                "-c",
                "user.name=Tester",
                "-c",
                "user.email=tester@example.org",
                "-c",
                "init.defaultBranch=main",
            ])
            .args(args)
    }

    fn with_files(user: &User<'_>) -> ClientDir {
        let dir = ClientDir::new(user);
        std::fs::create_dir(dir.0.join("sent")).expect("mkdir");
        for name in NAMES {
            std::fs::write(dir.0.join("sent").join(name), format!("content of {name}\n")).expect("write");
        }
        dir
    }
}

impl Drop for ClientDir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

#[track_caller]
fn assert_same_files(sent: &Path, arrived: &Path) {
    for name in NAMES {
        let (a, b) = (std::fs::read(sent.join(name)), std::fs::read(arrived.join(name)));
        assert_eq!(
            a.expect("sent"),
            b.unwrap_or_else(|e| panic!("{name} did not arrive in {}: {e}", arrived.display()))
        );
    }
}

fn scp_both_ways(host: &Scratch) -> Done {
    scp(host, &[])
}

fn scp_old_protocol_both_ways(host: &Scratch) -> Done {
    scp(host, &["-O"])
}

fn scp(host: &Scratch, options: &[&str]) -> Done {
    let user = host.jailed_user(&["basicshell", "scp", "sftp"]);
    let dir = ClientDir::with_files(&user);
    let scp = || user.sshd().client("scp").args(["-q", "-r", "-p"]).args(options);
    std::fs::set_permissions(dir.0.join("sent/plain"), PermissionsExt::from_mode(0o640)).expect("chmod");

    scp().arg(dir.0.join("sent")).arg(format!("{}:there", user.at_host())).run().ok();
    let there = user.home.join("there");
    assert_same_files(&dir.0.join("sent"), &there);
    let mode = std::fs::metadata(there.join("plain")).expect("stat").permissions().mode() & 0o7777;
    assert_eq!(mode, 0o640, "-p keeps the mode");

    scp().arg(format!("{}:there", user.at_host())).arg(dir.0.join("back")).run().ok();
    assert_same_files(&dir.0.join("sent"), &dir.0.join("back"));

    let missing = scp().arg(format!("{}:nothing-there", user.at_host())).arg(dir.0.join("x")).run();
    assert_ne!(missing.status, 0);
    assert!(missing.errors().contains("No such file"), "{}", missing.errors());
    Ok(())
}

/// `scp -3`: two jails, the client between them.
fn scp_between_two_jails(host: &Scratch) -> Done {
    let (a, b) =
        (host.jailed_user(&["basicshell", "scp", "sftp"]), host.jailed_user(&["basicshell", "scp", "sftp"]));
    a.writes("file", "across\n");
    let ends = [format!("{}:file", a.at_host()), format!("{}:", b.at_host())];
    a.sshd().client("scp").args(["-q", "-3"]).args(ends).run().ok();
    assert_eq!(std::fs::read_to_string(b.home.join("file")).expect("arrived"), "across\n");
    Ok(())
}

fn scp_200_megabytes(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell", "scp", "sftp"]);
    let dir = ClientDir::new(&user);
    let big = dir.0.join("big");
    Run::new("dd")
        .args(["if=/dev/urandom", "bs=1M", "count=200", "status=none"])
        .arg(format!("of={}", big.display()))
        .run()
        .ok();
    let limit = Duration::from_secs(120);
    user.sshd()
        .client("scp")
        .arg("-q")
        .arg(&big)
        .arg(format!("{}:big", user.at_host()))
        .within(limit)
        .run()
        .ok();
    Run::new("cmp").arg(&big).arg(user.home.join("big")).run().ok();
    std::fs::remove_file(&big).expect("rm");
    user.sshd()
        .client("scp")
        .arg("-q")
        .arg(format!("{}:big", user.at_host()))
        .arg(&big)
        .within(limit)
        .run()
        .ok();
    Run::new("cmp").arg(&big).arg(user.home.join("big")).run().ok();
    std::fs::remove_file(user.home.join("big")).expect("rm");
    Ok(())
}

fn sftp_batch(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell", "sftp"]);
    let dir = ClientDir::with_files(&user);
    let sent = dir.0.join("sent");
    let batch = format!(
        "mkdir up\nput \"{0}/two words\" \"up/two words\"\nput \"{0}/naïve café €\" up/\nrename \"up/two words\" up/renamed\n\
         ls -1 up\nget up/renamed {1}/back\nsymlink up/renamed link\nchmod 600 up/renamed\nrm link\npwd\n",
        sent.display(),
        dir.0.display()
    );
    let out = user.sshd().client("sftp").args(["-q", "-b", "-", &user.at_host()]).input(batch).run().ok();
    assert_eq!(std::fs::read(dir.0.join("back")).expect("got"), b"content of two words\n");
    assert_eq!(
        std::fs::read(user.home.join("up/naïve café €")).expect("put"),
        "content of naïve café €\n".as_bytes()
    );
    let home = user.inner_home.display().to_string();
    assert!(out.text().contains(&format!("Remote working directory: {home}")), "{}", out.text());
    Ok(())
}

fn rsync_both_ways(host: &Scratch) -> Done {
    if !have("rsync") {
        return skip("no rsync on this machine");
    }
    let user = host.jailed_user(&["basicshell", "rsync"]);
    let dir = ClientDir::with_files(&user);
    let rsync = || Run::new("rsync").args(["-a", "-e", &user.sshd().remote_shell()]);
    rsync().arg(format!("{}/sent/", dir.0.display())).arg(format!("{}:there", user.at_host())).run().ok();
    assert_same_files(&dir.0.join("sent"), &user.home.join("there"));
    std::fs::write(dir.0.join("sent/plain"), "changed\n").expect("write");
    rsync()
        .args(["--checksum", "--delete"])
        .arg(format!("{}/sent/", dir.0.display()))
        .arg(format!("{}:there", user.at_host()))
        .run()
        .ok();
    rsync().arg(format!("{}:there/", user.at_host())).arg(dir.0.join("back")).run().ok();
    assert_same_files(&dir.0.join("sent"), &dir.0.join("back"));
    Ok(())
}

fn git_clone_and_push(host: &Scratch) -> Done {
    if !have("git") {
        return skip("no git on this machine");
    }
    let user = host.jailed_user(&["git"]);
    let dir = ClientDir::new(&user);
    let git = |args: &[&str]| dir.git(&user, args);
    user.ssh("git init -q --bare project.git && git -C project.git symbolic-ref HEAD refs/heads/main")
        .run()
        .ok();
    let remote = format!("{}:project.git", user.at_host());
    git(&["clone", "-q", &remote, "work"]).run().ok();
    std::fs::write(dir.0.join("work/file"), "first\n").expect("write");
    git(&["-C", "work", "add", "file"]).run().ok();
    git(&["-C", "work", "commit", "-q", "-m", "first"]).run().ok();
    git(&["-C", "work", "push", "-q", "origin", "HEAD:main"]).run().ok();
    git(&["clone", "-q", &remote, "again"]).run().ok();
    assert_eq!(std::fs::read_to_string(dir.0.join("again/file")).expect("cloned"), "first\n");

    // And inside: an ordinary day's work of the jailed user himself.
    let day = "git clone -q project.git mine && cd mine && echo more >>file && git -c user.name=T -c user.email=t@example.org \
               commit -q -a -m second && git push -q && git log --oneline | wc -l";
    let out = user.ssh(day).run();
    assert_eq!((out.status, out.text().trim()), (0, "2"), "{}", out.errors());
    Ok(())
}
