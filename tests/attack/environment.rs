//! Variables, libraries and configuration that a user plants for the privileged program to load.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use jailwright_tests::command::have;
use jailwright_tests::sshd::Sshd;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Skip, Test, User, skip, test};

use crate::attacker;

pub(crate) const TESTS: &[Test] = &[
    test!(scratch preloaded_library_by_ssh_environment),
    test!(scratch shell_start_files_by_ssh_environment),
    test!(scratch loader_variables_by_hand),
    test!(scratch name_service_library_in_the_jail),
    test!(scratch name_service_module_for_programs_inside),
    test!(scratch loader_cache_in_the_jail),
    test!(scratch preload_file_in_the_jail),
    test!(scratch lines_forged_in_the_log),
    test!(scratch a_name_that_is_a_path),
];

/// A library that leaves a mark when it is loaded by a process with privilege or outside the cell.
fn evil_library(user: &User<'_>) -> Result<PathBuf, Skip> {
    if !have("gcc") {
        return Err(Skip("no C compiler on this machine".to_owned()));
    }
    let mark = format!("/tmp/mark-{}", user.name);
    let source = format!(
        "#include <fcntl.h>\n#include <unistd.h>\n__attribute__((constructor)) static void run(void) {{\n\
         if (geteuid() == 0) close(open(\"{mark}\", O_CREAT | O_WRONLY, 0600)); }}\n"
    );
    let at = user.writes("evil.c", source);
    let library = user.home.join("evil.so");
    Run::new("gcc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&at).run().ok();
    user.owns(&library);
    Ok(library)
}

#[track_caller]
fn assert_no_mark(user: &User<'_>) {
    let mark = format!("/tmp/mark-{}", user.name);
    assert!(!std::path::Path::new(&mark).exists(), "the library was loaded by a process of root's");
}

/// An sshd that takes the user's ~/.ssh/environment, which its manual calls dangerous.
fn environment_server(user: &User<'_>) -> Sshd {
    let sshd = Sshd::start("PermitUserEnvironment yes");
    user.accept_key(&sshd);
    sshd
}

/// CVE-2010-3847, CVE-2015-8325, CVE-2023-4911: the loader of a set-uid program.
fn preloaded_library_by_ssh_environment(host: &Scratch) -> Done {
    let user = attacker(host);
    let library = evil_library(&user)?;
    let sshd = environment_server(&user);
    let lines = format!(
        "LD_PRELOAD={0}\nLD_AUDIT={0}\nGLIBC_TUNABLES=glibc.malloc.mxfast=glibc.malloc.mxfast=A\n",
        library.display()
    );
    user.writes(".ssh/environment", lines);
    sshd.client("ssh").args([&user.at_host(), "true"]).run();
    assert_no_mark(&user);
    Ok(())
}

/// Login shells that are scripts run $BASH_ENV before they build the jail.
fn shell_start_files_by_ssh_environment(host: &Scratch) -> Done {
    let user = attacker(host);
    let sshd = environment_server(&user);
    let mark = user.home.join("outside");
    let script = user.writes("start", "grep -q 'NoNewPrivs:.1' /proc/self/status || echo >\"$MARK\"\n");
    user.writes(
        ".ssh/environment",
        format!(
            "BASH_ENV={0}\nENV={0}\nMARK={1}\nSHELLOPTS=xtrace\nPS4=x\n",
            script.display(),
            mark.display()
        ),
    );
    sshd.client("ssh").args([&user.at_host(), "true"]).run();
    assert!(!mark.exists(), "a start file ran outside the jail");
    Ok(())
}

/// The same without sshd.
fn loader_variables_by_hand(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("jail-sh is meant");
    }
    let user = attacker(host);
    let library = evil_library(&user)?;
    let dir = user.home.display();
    // Set by env(1), which the account runs: setpriv before it is root's process.
    let so = library.display();
    let variables = [
        format!("LD_PRELOAD={so}"),
        format!("LD_AUDIT={so}"),
        format!("LD_LIBRARY_PATH={dir}"),
        format!("GCONV_PATH={dir}"),
        format!("LOCPATH={dir}"),
        format!("MALLOC_TRACE={dir}/trace"),
        "RUST_BACKTRACE=full".to_owned(),
        "RUST_LOG=trace".to_owned(),
        format!("TZ=:{dir}/zone"),
        format!("USER={}", user.name),
    ];
    let inside = "cat /proc/self/environ";
    let out =
        user.outside("env").args(&variables).arg(host.product().jail_sh()).args(["-c", inside]).run().ok();
    assert_no_mark(&user);
    // Nor do they get through to where they would work as they are meant.
    let seen = out.text();
    for name in variables.iter().filter_map(|variable| variable.split_once('=')).map(|(name, _)| name) {
        let passes = ["USER", "TZ"].contains(&name);
        assert_eq!(
            seen.split('\0').any(|line| line.starts_with(&format!("{name}="))),
            passes,
            "{name}: {seen}"
        );
    }
    assert!(!user.home.join("trace").exists());
    Ok(())
}

/// A jail of one's own whose files the attacker chose, as if root had been careless.
fn spoiled_jail(host: &Scratch) -> Result<(PathBuf, User<'_>), Skip> {
    if Under::test() == Under::Bubblewrap {
        return Err(Skip("it has no tree of its own".to_owned()));
    }
    let jail = host.jail(&format!("/srv/{}", host.unique("spoiled")), &["basicshell"]);
    let user = host.plain_user().moved_into(&jail);
    Ok((jail, user))
}

/// CVE-2019-14271 (docker cp), CVE-2025-32463 (sudo -R): nsswitch.conf of the jail names a library of the jail.
fn name_service_library_in_the_jail(host: &Scratch) -> Done {
    let (jail, user) = spoiled_jail(host)?;
    let library = evil_library(&user)?;
    std::fs::write(jail.join("etc/nsswitch.conf"), "passwd: evil\ngroup: evil\nhosts: evil\n")
        .expect("write");
    for dir in ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"] {
        if jail.join(dir).is_dir() {
            std::fs::copy(&library, jail.join(dir).join("libnss_evil.so.2")).expect("copy");
        }
    }
    user.ssh("id; getent passwd root").run();
    assert_no_mark(&user);
    Ok(())
}

/// The same file makes every program inside load the module that it names: the cell has an nsswitch.conf of its own, also
/// after the jail's was replaced under a running cell, which takes the mount away.
fn name_service_module_for_programs_inside(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the file is the cell's own");
    }
    if !have("gcc") {
        return skip("no C compiler on this machine");
    }
    let (jail, user) = spoiled_jail(host)?;
    let source = "#include <unistd.h>\n__attribute__((constructor)) static void run(void) { write(2, \"loaded\", 6); }\n";
    let at = user.writes("module.c", source);
    for dir in ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|dir| jail.join(dir)) {
        if dir.is_dir() {
            Run::new("gcc")
                .args(["-shared", "-fPIC", "-o"])
                .arg(dir.join("libnss_evil.so.2"))
                .arg(&at)
                .run()
                .ok();
        }
    }
    let spoil = || {
        let new = jail.join("etc/.new");
        std::fs::write(&new, "passwd: evil files\ngroup: evil files\n").expect("write");
        std::fs::rename(&new, jail.join("etc/nsswitch.conf")).expect("rename");
    };
    spoil();
    let in_a_chroot =
        Run::new("chroot").arg(format!("--userspec={0}:{0}", user.uid)).arg(&jail).arg("id").run();
    assert!(in_a_chroot.errors().contains("loaded"), "the control: {}", in_a_chroot.errors());
    let mut first = user.sshd().client("ssh").arg(user.at_host()).arg("id; exec sleep 60").background();
    assert!(first.first_line().contains(&user.name));
    for _ in 0..2 {
        let inside = user.ssh("id; cat /etc/nsswitch.conf").run().ok();
        assert!(!inside.errors().contains("loaded") && !inside.text().contains("evil"), "{}", inside.text());
        spoil();
    }
    drop(first);
    user.wait_for_the_end();
    Ok(())
}

/// A poisoned ld.so.cache in the jail is read by what runs inside, never by what has privilege.
fn loader_cache_in_the_jail(host: &Scratch) -> Done {
    let (jail, user) = spoiled_jail(host)?;
    let library = evil_library(&user)?;
    std::fs::copy(&library, jail.join("etc/ld.so.cache")).expect("copy");
    user.ssh("true").run();
    assert_no_mark(&user);
    Ok(())
}

/// /etc/ld.so.preload of the jail, likewise.
fn preload_file_in_the_jail(host: &Scratch) -> Done {
    let (jail, user) = spoiled_jail(host)?;
    let library = evil_library(&user)?;
    std::fs::copy(&library, jail.join("usr/lib/evil.so")).expect("copy");
    std::fs::set_permissions(jail.join("usr/lib/evil.so"), PermissionsExt::from_mode(0o755)).expect("chmod");
    std::fs::write(jail.join("etc/ld.so.preload"), "/usr/lib/evil.so\n").expect("write");
    user.ssh("true").run();
    assert_no_mark(&user);
    Ok(())
}

/// CVE-2023-28486: a command that holds a newline writes the next line of the log.
fn lines_forged_in_the_log(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("only our log is read here");
    }
    let user = attacker(host);
    let mark = host.unique("forged");
    user.ssh(&format!("echo a\njail-sh[1]: root {mark} logged in\u{1b}[2K")).run();
    user.outside(host.product().jail_sh().to_str().expect("UTF-8"))
        .args(["-c", "true"])
        .env("USER", format!("x\n<86>sshd[1]: Accepted {mark}"))
        .env("SSH_CONNECTION", format!("1\n<86>sshd[1]: Accepted {mark}"))
        .run();
    for line in host.syslog().with(&mark) {
        assert!(!line.trim_end().contains('\n') && !line.contains('\u{1b}'), "{line:?}");
    }
    Ok(())
}

/// CVE-2023-42456: what belongs to root was named after the user, and a user's name may hold anything.
fn a_name_that_is_a_path(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("jail-sh is meant");
    }
    let (jail, user) = spoiled_jail(host)?;
    let mark = host.unique("named");
    let (name, uid) = (format!("../../../../etc/{mark}"), (user.uid + 500_000).to_string());
    let home = jail.join("home").join(&mark);
    std::fs::create_dir_all(&home).expect("mkdir");
    let shell = host.product().jail_sh().display().to_string();
    let at = format!("{}/./home/{mark}", jail.display());
    let made = Run::new("/usr/sbin/useradd")
        .args([
            "--badname",
            "-M",
            "-o",
            "-u",
            &uid,
            "-g",
            &user.uid.to_string(),
            "-d",
            &at,
            "-s",
            &shell,
            &name,
        ])
        .run();
    if made.status != 0 {
        return skip("this useradd makes no such name");
    }
    Run::new("chown").args([&uid]).arg(&home).run().ok();
    let mut out = Run::new("setpriv")
        .args([
            "--reuid",
            &uid,
            "--regid",
            &user.uid.to_string(),
            "--clear-groups",
            &shell,
            "-c",
            "id -u; exec sleep 2",
        ])
        .env("LOGNAME", &name)
        .env("USER", &name)
        .dir("/")
        .background();
    let said = out.first_line();
    let found =
        Run::sh(&format!("find /etc /run /var /srv /home /sys/fs/cgroup -name '{mark}*' 2>/dev/null"))
            .run()
            .text();
    out.kill();
    Run::new("/usr/sbin/userdel").arg("--force").arg(&name).run();
    Run::new("setpriv")
        .args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "kill", "-KILL", "-1"])
        .run();
    assert_eq!(said, uid, "it is a user like any other");
    assert_eq!(found.trim(), home.display().to_string(), "made by the user's name");
    Ok(())
}
