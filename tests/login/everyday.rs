//! What people expect of an account beside commands and copies: a mounted home (sshfs), mosh, greetings that can be switched
//! off, and no trace of the login shell in the host's own records.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jailwright_tests::command::{have, wait_until};
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Pty, Run, Scratch, Test, skip, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch sshfs_mounts_the_home),
    test!(scratch mosh_outlives_its_connection),
    test!(scratch a_message_of_the_day_and_a_hushed_login),
    test!(scratch the_hosts_records_of_logins_are_left_alone),
];

/// Files made, read, renamed, linked and removed through a mount on the client.
fn sshfs_mounts_the_home(host: &Scratch) -> Done {
    if !have("sshfs") {
        return skip("no sshfs on this machine");
    }
    if !Path::new("/dev/fuse").exists() {
        Run::new("mknod").args(["-m", "666", "/dev/fuse", "c", "10", "229"]).run().ok();
    }
    let user = host.jailed_user(&["basicshell", "sftp"]);
    let at = PathBuf::from(format!("/run/{}", host.unique("sshfs")));
    std::fs::create_dir(&at).expect("mkdir");
    let remote = format!("{}:{}", user.at_host(), user.inner_home.display());
    let mut mount =
        user.sshd().client("sshfs").args(["-f", "-o", "idmap=user", &remote]).arg(&at).background();
    let mounted = || std::fs::read_to_string("/proc/self/mounts").unwrap_or_default().contains("fuse.sshfs");
    wait_until("it is mounted", Duration::from_secs(20), || {
        mounted() || mount.wait(Duration::ZERO).is_some()
    });
    if !mounted() {
        return skip("this kernel mounts no FUSE file system here");
    }
    let big = vec![7_u8; 3 << 20];
    std::fs::write(at.join("big"), &big).expect("write");
    std::fs::create_dir(at.join("dir")).expect("mkdir");
    std::fs::rename(at.join("big"), at.join("dir/moved")).expect("rename");
    std::os::unix::fs::symlink("dir/moved", at.join("link")).expect("symlink");
    assert_eq!(std::fs::read(at.join("link")).expect("read"), big);
    assert_eq!(std::fs::metadata(user.home.join("dir/moved")).expect("inside").uid(), user.uid);
    std::fs::remove_file(at.join("link")).expect("rm");
    assert!(!user.home.join("link").is_symlink());
    assert!(std::fs::read_dir(at.join("../..")).is_ok(), "the client's own tree");
    Run::new("umount").arg(&at).run().ok();
    assert_eq!(mount.wait(Duration::from_secs(10)), Some(0));
    user.wait_for_the_end();
    Ok(())
}

/// mosh starts its server by ssh, hangs up, and goes on over UDP: the cell must not end with the connection that made it.
fn mosh_outlives_its_connection(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the jail is ours");
    }
    if !have("mosh") || !have("mosh-server") {
        return skip("no mosh on this machine");
    }
    let jail = host.jail(&format!("/srv/{}", host.unique("mosh")), &["basicshell", "locale"]);
    host.product().command("jail-cp").arg("-j").arg(&jail).arg("/usr/bin/mosh-server").run().ok();
    let user = host.plain_user().moved_into(&jail);
    host.add_policy(&format!("[user.{}]\nnetwork = \"host\"\n", user.name));
    let mosh = Run::new("mosh")
        .arg(format!("--ssh={}", user.sshd().remote_shell()))
        .arg(user.at_host())
        .env("LANG", "C.UTF-8")
        .env("LC_ALL", "C.UTF-8")
        .env("TERM", "xterm");
    let mut terminal = Pty::spawn(&mosh.into_command());
    terminal.expect_within("$ ", Duration::from_secs(30));
    let connections = || user.sshd().log().matches("session closed").count();
    wait_until("the ssh connection is gone", Duration::from_secs(20), || {
        connections() > 0 || !user.processes().iter().any(|(_, line)| line.starts_with("sshd:"))
    });
    terminal.line("echo rea''dy in $(cat /proc/sys/kernel/hostname)");
    terminal.expect_within("ready in jail", Duration::from_secs(20));
    terminal.line("exit");
    assert_eq!(terminal.wait(), 0);
    user.wait_for_the_end();
    Ok(())
}

/// PAM prints it, as the host's administrator has it, and so it does with news of mail; `~/.hushlogin` in the jailed home
/// switches both off. Inside nobody looks for mail.
fn a_message_of_the_day_and_a_hushed_login(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let words = host.unique("welcome");
    let old = std::fs::read("/etc/motd").unwrap_or_default();
    std::fs::write("/etc/motd", format!("{words}\n")).expect("write");
    std::fs::create_dir_all("/var/mail").expect("mkdir");
    std::fs::write(format!("/var/mail/{}", user.name), "From a\n\nb\n").expect("write");
    let greeting = || {
        let mut terminal = user.terminal();
        let shown = terminal.expect("$ ");
        terminal.line("exit");
        terminal.wait();
        shown
    };
    let (loud, command) = (greeting(), user.ssh("true").run().ok());
    user.writes(".hushlogin", "");
    let hushed = greeting();
    std::fs::write("/etc/motd", old).expect("write");
    assert!(loud.contains(&words), "{loud}");
    assert!(!hushed.contains(&words), "{hushed}");
    assert_eq!(command.text() + &command.errors(), "", "a command is greeted by nobody");
    assert!(!hushed.to_lowercase().contains("mail"), "{hushed}");
    if Under::test() == Under::Ours {
        assert_eq!(user.ssh("echo ${MAIL-none}").run().ok().text(), "none");
    }
    Ok(())
}

/// sshd and login write them; the login shell adds nothing, and inside they are not there.
fn the_hosts_records_of_logins_are_left_alone(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("jail-sh is meant");
    }
    let user = host.jailed_user(&["basicshell"]);
    let records = ["/var/log/lastlog", "/var/log/wtmp", "/var/run/utmp", "/var/log/btmp"];
    for record in records.iter().filter(|record| !Path::new(record).exists()) {
        std::fs::write(record, "").expect("write");
    }
    let stamp = |path: &str| {
        let stat = std::fs::metadata(path).expect("there");
        (stat.len(), stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec())
    };
    // Another test's login may write them meanwhile: then it is tried again.
    let untouched = (0..20).any(|_| {
        let before = records.map(stamp);
        user.jail_sh("true").run().ok();
        before == records.map(stamp)
    });
    assert!(untouched, "each of twenty logins changed one of {records:?}");
    let inside = user.ssh("ls /var/log/lastlog /var/log/wtmp /run/utmp 2>/dev/null; echo none").run().ok();
    assert_eq!(inside.text(), "none");
    Ok(())
}
