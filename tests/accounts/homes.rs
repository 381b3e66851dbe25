//! Homes with hostile content: they arrive as they were, and nothing outside of them is read or deleted.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jailwright_tests::{Done, Run, Scratch, Test, product, test};

use crate::setting::{Account, account, jail, jail_user, jail_user_in, picture};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch a_hostile_home_arrives_as_it_was),
    test!(scratch a_rename_reads_and_deletes_nothing),
    test!(scratch deep_trees_and_many_links),
    test!(scratch a_user_who_flips_links_gets_nothing),
    test!(scratch what_is_written_meanwhile_is_not_lost),
    test!(scratch what_cannot_be_read_stops_the_move),
];

/// One of everything that breaks copiers.
#[track_caller]
pub(crate) fn fill(user: &Account) {
    user.sh(
        "set -e
        ln -s /etc x; ln -s nowhere dangling; ln -s . self; mkdir -p sub/dir 'with space'; mkfifo fifo
        echo text >file; ln file sub/hard; ln file 'with space/hard too'; ln -s file soft; ln soft sub/hard-soft
        printf 'new\\nline' >\"$(printf 'a\\nb')\"; printf bytes >\"$(printf '\\377\\376raw')\"; echo é >é
        dd if=/dev/zero of=sparse bs=1 count=1 seek=50000000 status=none
        head -c 300000 /dev/urandom >random; : >empty
        chmod 4711 file; chmod 2775 sub; chmod 1777 sub/dir; chmod 000 random
        setfacl -m u:1:rwx,g:2:r file; setfacl -d -m u:1:r-x sub; mkdir sub/inherits; echo x >sub/inherits/f
        setfattr -n user.note -v text file; setfattr -n user.dir -v $(printf 'v%.0s' $(seq 200)) sub
        touch -d '2001-02-03 04:05:06.123456789' empty; touch -h -d 1999-01-01 soft; touch -d 1990-01-01 sub/dir",
    )
    .run()
    .ok();
    // What only root could have put there.
    let home = user.home.display();
    Run::sh(&format!(
        "set -e; cd {home}; mknod dev c 1 3; mknod blk b 7 77; chmod 660 blk; echo root >of-root; chmod 600 of-root
        setfattr -n trusted.t -v secret sub/dir; setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 random
        perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => \"sock\", Listen => 1)'"
    ))
    .run()
    .ok();
}

fn inside(jail: &Path, user: &Account) -> PathBuf {
    jail.join(user.home.strip_prefix("/").expect("absolute"))
}

fn a_hostile_home_arrives_as_it_was(scratch: &Scratch) -> Done {
    let user = account();
    fill(&user);
    let before = picture(&user.home);
    assert!(before.lines().any(|line| line.starts_with("file\0f 4771")), "set-uid, and the mask of an ACL");
    let etc = std::fs::read_dir("/etc").expect("list").count();
    let jail = jail(scratch, "/srv");
    let said = jail_user_in(&jail, &["-m", "-v", &user.name]).ok().text();
    assert!(said.contains("copied and compared"), "another file system: {said}");
    let there = inside(&jail, &user);
    assert_eq!(picture(&there), before);
    let sparse = std::fs::metadata(there.join("sparse")).expect("there");
    assert!(sparse.blocks() * 512 < 1 << 20, "holes stay holes: {} blocks", sparse.blocks());
    assert!(std::fs::symlink_metadata(&user.home).is_err());
    assert!(leftovers("/home", user.uid).is_empty() && leftovers(jail.join("home"), user.uid).is_empty());
    assert_eq!(std::fs::read_dir("/etc").expect("list").count(), etc);

    jail_user().args(["--release", &user.name]).run().ok();
    assert_eq!(picture(&user.home), before, "and back");
    assert!(std::fs::symlink_metadata(&there).is_err());
    assert!(leftovers("/home", user.uid).is_empty() && leftovers(jail.join("home"), user.uid).is_empty());
    Ok(())
}

/// Stages that should be gone.
fn leftovers(dir: impl AsRef<Path>, uid: u32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("list").flatten().map(|entry| entry.path());
    entries.filter(|path| path.to_string_lossy().contains(&format!(".jailwright-{uid}"))).collect()
}

fn a_rename_reads_and_deletes_nothing(scratch: &Scratch) -> Done {
    let user = account();
    fill(&user);
    let before = picture(&user.home);
    let inode = std::fs::metadata(&user.home).expect("there").ino();
    let jail = jail(scratch, "/home");
    let trace = format!("/tmp/{}", scratch.unique("trace"));
    Run::new("strace")
        .args(["-f", "-o", &trace, "-e", "trace=openat,openat2,unlinkat,renameat2"])
        .arg(product::built("jail-user"))
        .args(["--login-shell", crate::setting::LOGIN_SHELL, "-m", "-j"])
        .arg(&jail)
        .arg(&user.name)
        .run()
        .ok();
    assert_eq!(
        std::fs::metadata(inside(&jail, &user)).expect("there").ino(),
        inode,
        "the very same directory"
    );
    assert_eq!(picture(&inside(&jail, &user)), before);
    let trace = std::fs::read_to_string(trace).expect("read");
    for name in ["\"file\"", "\"fifo\"", "\"sub\"", "\"x\""] {
        assert!(!trace.contains(name), "{name} was touched: {trace}");
    }
    jail_user().args(["--release", &user.name]).run().ok();
    assert_eq!(std::fs::metadata(&user.home).expect("there").ino(), inode);
    Ok(())
}

fn deep_trees_and_many_links(scratch: &Scratch) -> Done {
    let user = account();
    // Deeper than any path may be long, and than descriptors last; wide enough for more links than those.
    user.sh("perl -e 'for (1..3000) { mkdir \"d\" x 20; chdir \"d\" x 20 or die } open F, \">bottom\"; print F \"x\"'").run().ok();
    user.sh("mkdir many; echo x >many/0; for i in $(seq 1500); do ln many/0 many/$i; done").run().ok();
    let jail = jail(scratch, "/srv");
    jail_user_in(&jail, &["-m", &user.name]).ok();
    let there = inside(&jail, &user);
    let depth =
        Run::sh("find . -type d -name 'dddd*' | wc -l; find . -name bottom | wc -l; stat -c %h many/7")
            .dir(&there)
            .run()
            .ok();
    assert_eq!(depth.text(), "3000\n1\n1501", "{}", depth.errors());
    assert!(!user.home.exists());
    Ok(())
}

/// Swaps a directory of the home with a link to somewhere else, as fast as it can.
const FLIPPER: &str = r#"
use strict; my $rename = 316; my $cwd = -100; my $exchange = 2;
$| = 1; print "up\n";
while (1) { syscall($rename, $cwd, my $a = "trap", $cwd, my $b = "link", $exchange); }
"#;

fn a_user_who_flips_links_gets_nothing(scratch: &Scratch) -> Done {
    let secret = "the secret that only root may read";
    let victim = format!("/srv/{}", scratch.unique("victim"));
    let setup = format!(
        "set -e; umask 077; mkdir -p {victim}/trap/inner; for i in $(seq 40); do echo '{secret}' >{victim}/trap/$i; done; echo '{secret}' >{victim}/inner"
    );
    Run::sh(&setup).run().ok();
    let before = picture(Path::new(&victim));
    let mut refused = 0;
    for round in 0..12 {
        let user = account();
        user.sh(&format!(
            "mkdir -p trap/inner; for i in $(seq 40); do echo mine >trap/$i; done; ln -s {victim}/trap link; ln -s {victim} trap/up"
        ))
        .run()
        .ok();
        let jail = jail(scratch, "/srv");
        let id = user.uid.to_string();
        let mut flipper = Run::new("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--clear-groups", "perl", "-e", FLIPPER])
            .dir(&user.home)
            .background();
        assert_eq!(flipper.first_line(), "up");
        let said = jail_user_in(&jail, &["-m", "--force", &user.name]);
        flipper.kill();
        assert!(matches!(said.status, 0 | 1), "round {round}: {} {}", said.status, said.errors());
        refused += u32::from(said.status == 1);
        if said.status == 1 {
            assert!(said.errors().contains("is being written to"), "{}", said.errors());
            assert!(user.home.join("trap").symlink_metadata().is_ok(), "the home is where it was");
        }
        // Every scratch account's home; the checkout, which may lie in a home too, has the secret in this file.
        let leak = Run::sh("grep -r -l \"$0\" \"$1\" /home/jw* /home/acc*").arg(secret).arg(&jail).run();
        assert_eq!(leak.text(), "", "round {round}: the secret got out");
        assert_eq!(picture(Path::new(&victim)), before, "round {round}: the victim was touched");
    }
    println!("flipped in 12 moves, {refused} given up");
    Ok(())
}

fn what_is_written_meanwhile_is_not_lost(scratch: &Scratch) -> Done {
    let user = account();
    user.sh("mkdir d; for i in $(seq 300); do echo $i >d/$i; done").run().ok();
    let mut writer =
        user.sh("echo up; i=0; while :; do i=$((i+1)); echo $i >>log; echo $i >d/new-$i; done").background();
    assert_eq!(writer.first_line(), "up");
    let jail = jail(scratch, "/srv");
    let said = jail_user_in(&jail, &["-m", "--force", &user.name]);
    writer.kill();
    if said.status == 0 {
        // It was switched over between two writes: then nothing is missing, or the old home is kept and said so.
        let kept = said.errors().contains("is kept at");
        let copy = std::fs::read_to_string(inside(&jail, &user).join("log")).expect("read");
        assert!(kept || copy.ends_with('\n'), "{}", said.errors());
    } else {
        assert!(said.errors().contains("is being written to"), "{}", said.errors());
        let log = std::fs::read_to_string(user.home.join("log")).expect("read");
        let last: u32 = log.lines().last().and_then(|line| line.parse().ok()).expect("a number");
        assert!(user.home.join(format!("d/new-{}", last - 1)).exists());
        assert!(
            user.line_in("/etc/passwd").expect("there").ends_with(":/bin/bash"),
            "the account is as it was"
        );
        assert!(leftovers("/home", user.uid).is_empty());
    }
    Ok(())
}

fn what_cannot_be_read_stops_the_move(scratch: &Scratch) -> Done {
    // As on a file system where root is nobody: a file that root cannot read.
    let user = account();
    fill(&user);
    let (before, line) = (picture(&user.home), user.line_in("/etc/passwd"));
    let jail = jail(scratch, "/srv");
    for (call, errno) in [
        ("pread64", "EACCES"),
        ("pread64", "EIO"),
        ("fchown", "EPERM"),
        ("linkat", "EMLINK"),
        ("fsetxattr", "ENOSPC"),
    ] {
        // The calls before the copy's own are left alone.
        let when = if call == "linkat" { 8 } else { 3 };
        let said = Run::new("strace")
            .args([
                "-f",
                "-o",
                "/dev/null",
                "-e",
                &format!("trace={call}"),
                "-e",
                &format!("inject={call}:error={errno}:when={when}+"),
            ])
            .arg(product::built("jail-user"))
            .args(["--login-shell", crate::setting::LOGIN_SHELL, "-m", "-j"])
            .arg(&jail)
            .arg(&user.name)
            .run();
        assert_eq!(said.status, 1, "{call}: {}", said.errors());
        assert_eq!(picture(&user.home), before, "{call}");
        assert_eq!(user.line_in("/etc/passwd"), line, "{call}: {}", said.errors());
        assert!(std::fs::symlink_metadata(inside(&jail, &user)).is_err(), "{call}");
    }
    jail_user_in(&jail, &["-m", &user.name]).ok();
    assert_eq!(picture(&inside(&jail, &user)), before);
    Ok(())
}
