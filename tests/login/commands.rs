//! `commands = […]`: file transfer works, and nothing else does (rulings 9).

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use jailwright_tests::command::{have, wait_until};
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, User, skip, test};

use crate::transfer::ClientDir;

pub(crate) const TESTS: &[Test] = &[
    test!(scratch listed_transfers_work),
    test!(scratch listed_git_works_and_runs_no_hook),
    test!(scratch nothing_unlisted_is_run),
    test!(scratch no_helper_starts_anything_else),
    test!(scratch other_programs_cannot_be_read),
    test!(scratch what_the_user_can_write_is_noexec),
    test!(scratch an_older_cell_is_not_joined),
    test!(scratch lists_that_would_not_hold_are_refused),
];

const SECTIONS: &[&str] = &["basicshell", "extendedshell", "scp", "sftp", "rsync", "git"];

fn listed<'s>(host: &'s Scratch, commands: &str) -> User<'s> {
    let user = host.jailed_user(SECTIONS);
    host.add_policy(&format!("[user.{}]\ncommands = [{commands}]\n", user.name));
    user
}

const TRANSFER: &str = r#""scp", "sftp-server", "rsync", "git-upload-pack", "git-receive-pack""#;

fn ours() -> bool {
    Under::test() == Under::Ours
}

fn listed_transfers_work(host: &Scratch) -> Done {
    if !ours() {
        return skip("the policy is ours");
    }
    let user = listed(host, TRANSFER);
    let client = ClientDir::new(&user);
    let file = client.0.join("it's a file");
    std::fs::write(&file, "content").expect("write");
    let at = |path: &str| format!("{}:{path}", user.at_host());
    for (option, to) in [("-s", "by-sftp"), ("-O", "by-scp")] {
        user.sshd().client("scp").args(["-q", option]).arg(&file).arg(at(to)).run().ok();
        user.sshd().client("scp").args(["-q", option]).arg(at(to)).arg(client.0.join(to)).run().ok();
        assert_eq!(std::fs::read_to_string(client.0.join(to)).expect("came back"), "content");
    }
    user.sshd().client("sftp").args(["-b", "-", &user.at_host()]).input("mkdir d\nls\n").run().ok();
    if have("rsync") {
        let rsync = || Run::new("rsync").args(["-a", "-e", &user.sshd().remote_shell()]);
        rsync().arg(&file).arg(at("by rsync/")).run().ok();
        rsync().arg(at("by rsync/")).arg(client.0.join("back")).run().ok();
        assert_eq!(std::fs::read_to_string(client.0.join("back/it's a file")).expect("came back"), "content");
    }
    Ok(())
}

/// A hook is a program that the user wrote.
fn listed_git_works_and_runs_no_hook(host: &Scratch) -> Done {
    if !ours() || !have("git") {
        return skip("the policy is ours, and git is needed");
    }
    let user = host.jailed_user(SECTIONS);
    let hook = "#!/bin/sh\n: >~/hook-ran\n";
    let make = format!(
        "git init -q --bare p.git && git -C p.git symbolic-ref HEAD refs/heads/main && \
         for h in pre-receive post-receive update; do printf '{}' >p.git/hooks/$h; chmod 755 p.git/hooks/$h; done",
        hook.replace('\n', "\\n")
    );
    user.ssh(&make).run().ok();
    let client = ClientDir::new(&user);
    let push = |name: &str| {
        let git = |args: &[&str]| client.git(&user, args).run().ok();
        git(&["clone", "-q", &format!("{}:p.git", user.at_host()), name]);
        std::fs::write(client.0.join(name).join(name), "text").expect("write");
        git(&["-C", name, "add", "."]);
        git(&["-C", name, "commit", "-q", "-m", name]);
        git(&["-C", name, "push", "-q", "origin", "HEAD:main"]);
    };
    push("before");
    assert!(user.home.join("hook-ran").exists(), "the control: without a list the hook runs");
    std::fs::remove_file(user.home.join("hook-ran")).expect("rm");
    user.wait_for_the_end();
    host.add_policy(&format!("[user.{}]\ncommands = [{TRANSFER}]\n", user.name));
    push("after");
    assert!(!user.home.join("hook-ran").exists(), "a hook ran");
    Ok(())
}

fn nothing_unlisted_is_run(host: &Scratch) -> Done {
    if !ours() {
        return skip("the policy is ours");
    }
    let user = listed(host, TRANSFER);
    let lines = [
        "id",
        "bash -c id",
        "/bin/bash",
        "scp -t x; id",
        "scp -t x | sh",
        "scp -t $(id)",
        "scp -t `id`",
        "scp -t x && id",
        "scp -t x\nid",
        "git status",
        "git-shell",
        "/usr/bin/git-upload-pack/../bash",
        "./scp -t x",
        "scp>x",
        "PATH=. scp -t x",
        "/lib64/ld-linux-x86-64.so.2 /usr/bin/id",
        "env scp -t x",
        "'scp",
    ];
    for line in lines {
        let out = user.ssh(line).run();
        assert_eq!((out.status, out.text().as_str()), (125, ""), "{line:?}: {}", out.errors());
        assert!(
            out.errors().contains("this command is not allowed for this account"),
            "{line:?}: {}",
            out.errors()
        );
    }
    let login = user.sshd().client("ssh").args(["-T", &user.at_host()]).input("id\n").run();
    // sshd greets by itself.
    assert_eq!((login.status, login.text().contains("uid=")), (125, false), "{}", login.errors());
    host.syslog().expect(&["jail-sh", "no interactive login", &user.uid.to_string()]);
    Ok(())
}

/// `rsync -e` and `scp -S` start whatever they are told to; the loader starts whatever it can read and map.
fn no_helper_starts_anything_else(host: &Scratch) -> Done {
    if !ours() || !have("rsync") {
        return skip("the policy is ours, and rsync is needed");
    }
    let user = host.jailed_user(SECTIONS);
    let bash = std::fs::read("/bin/bash").expect("bash");
    let set_mode =
        |path: PathBuf| std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("chmod");
    set_mode(user.writes("evil", bash));
    set_mode(user.writes("script", "#!/bin/bash\n: >~/started\n"));
    // scp looks for its source at once, and takes its helper with it when it is not there.
    user.writes("x", "to be sent");
    let home = user.inner_home.display().to_string();
    let loader = "/lib64/ld-linux-x86-64.so.2";
    let lines = [
        format!("rsync -e '{home}/evil {home}/script' x h:y"),
        format!("rsync -e '{loader} {home}/evil {home}/script' x h:y"),
        format!("rsync -e '{loader} /bin/bash {home}/script' x h:y"),
        format!("rsync -e '/bin/bash {home}/script' x h:y"),
        format!("scp -S {home}/script x h:y"),
    ];
    let started = user.home.join("started");
    let tried = |line: &String| {
        // How they end is their affair: what they were to talk to never answers.
        drop(user.ssh(line).run());
        let is = started.exists();
        drop(std::fs::remove_file(&started));
        is
    };
    for line in &lines {
        assert!(tried(line), "the control: without a list this starts something: {line}");
    }
    user.wait_for_the_end();
    host.add_policy(&format!("[user.{}]\ncommands = [{TRANSFER}]\n", user.name));
    for line in &lines {
        assert!(!tried(line), "started under a list: {line}");
    }
    Ok(())
}

fn other_programs_cannot_be_read(host: &Scratch) -> Done {
    if !ours() {
        return skip("the policy is ours");
    }
    let user = listed(host, "\"cat\"");
    assert!(user.ssh("cat /etc/passwd /usr/bin/cat").run().status == 0, "data and the listed program itself");
    for path in ["/usr/bin/id", "/bin/bash", "/usr/lib/openssh/sftp-server"] {
        let out = user.ssh(&format!("cat {path}")).run();
        assert!(out.errors().contains("Permission denied"), "{path}: {}", out.errors());
    }
    user.writes("note", "mine");
    assert_eq!(user.ssh("cat note").run().ok().text(), "mine");
    Ok(())
}

fn mounts_that_run(text: &str) -> Vec<String> {
    let is = |line: &&str, option: &str| {
        line.split(' ').nth(3).is_some_and(|options| options.split(',').any(|word| word == option))
    };
    text.lines().filter(|line| is(line, "rw") && !is(line, "noexec")).map(str::to_owned).collect()
}

fn what_the_user_can_write_is_noexec(host: &Scratch) -> Done {
    if !ours() {
        return skip("the policy is ours");
    }
    let user = listed(host, "\"cat\"");
    let out = user.ssh("cat /proc/self/mounts").run().ok().text();
    assert!(out.contains(&user.inner_home.display().to_string()), "{out}");
    let left = mounts_that_run(&out);
    // A device of the session's own: nothing is executed from a terminal.
    let left: Vec<_> = left.iter().filter(|line| !line.starts_with("devpts")).collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

/// `stale = "join"` would put the session on mounts that run what the user wrote.
fn an_older_cell_is_not_joined(host: &Scratch) -> Done {
    if !ours() {
        return skip("the policy is ours");
    }
    let user = host.jailed_user(SECTIONS);
    let old = user.sshd().client("ssh").arg(user.at_host()).arg("sleep 60").background();
    wait_until("the old cell runs", Duration::from_secs(10), || {
        user.processes().iter().any(|(_, line)| line.contains("sleep 60"))
    });
    host.add_policy(&format!("[user.{}]\ncommands = [\"cat\"]\n", user.name));
    let out = user.ssh("cat /proc/self/mounts").run().ok().text();
    let left: Vec<String> =
        mounts_that_run(&out).into_iter().filter(|line| !line.starts_with("devpts")).collect();
    assert!(left.is_empty(), "{left:?}");
    drop(old);
    Ok(())
}

fn lists_that_would_not_hold_are_refused(host: &Scratch) -> Done {
    if !ours() {
        return skip("the policy is ours");
    }
    let jail = host.jail(&format!("/srv/{}", host.unique("lists")), &["basicshell"]);
    symlink("/bin/bash", jail.join("usr/bin/tool")).expect("symlink");
    std::fs::write(jail.join("usr/bin/wrapper"), "#!/bin/sh\nid\n").expect("write");
    std::fs::set_permissions(jail.join("usr/bin/wrapper"), PermissionsExt::from_mode(0o755)).expect("chmod");
    for (keys, command, reason) in [
        ("commands = [\"bash\"]", "bash", "runs whatever it is told to"),
        ("commands = [\"/usr/bin/perl\"]", "perl", "runs whatever it is told to"),
        ("commands = [\"cat\", \"env\"]", "cat x", "runs whatever it is told to"),
        ("commands = [\"tool\"]", "tool", "runs whatever it is told to"),
        ("commands = [\"wrapper\"]", "wrapper", "is a script"),
        ("commands = [\"cat\"]\nroot = \"writable\"", "cat x", "would not hold"),
        ("commands = [\"cat\"]\nroot = \"discard\"", "cat x", "would not hold"),
    ] {
        let user = host.plain_user().moved_into(&jail);
        host.add_policy(&format!("[user.{}]\n{keys}\n", user.name));
        let out = user.ssh(command).run();
        assert_eq!((out.status, out.text().as_str()), (125, ""), "{keys}: {}", out.errors());
        host.syslog().expect(&["jail-sh", &user.uid.to_string(), reason]);
    }
    Ok(())
}
