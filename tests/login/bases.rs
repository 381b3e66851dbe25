//! Jails on one base: they cost next to nothing, an update of the base is one of all, and nobody in a cell notices.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jailwright_tests::command::wait_until;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, User, skip, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch a_jail_on_a_base_is_a_jail_like_any_other),
    test!(scratch a_running_cell_keeps_the_generation_it_was_made_from),
    test!(scratch a_base_and_a_discarded_root_are_one_overlay),
    test!(scratch a_base_that_is_not_the_one_that_was_made_is_refused),
    test!(scratch a_jail_on_a_base_without_root),
];

fn tool(host: &Scratch, name: &str) -> Run {
    host.product().command(name)
}

/// A base of a shell and one file of the host that a test may change; the file's path.
fn base(host: &Scratch) -> (PathBuf, PathBuf) {
    let base = PathBuf::from(format!("/srv/{}", host.unique("base")));
    let file = PathBuf::from(format!("/usr/local/share/{}", host.unique("shared")));
    tool(host, "jail-init")
        .args(["--as-base", "-j"])
        .arg(&base)
        .args(["basicshell", "extendedshell"])
        .run()
        .ok();
    std::fs::create_dir_all("/usr/local/share").expect("made");
    std::fs::write(&file, "one\n").expect("written");
    tool(host, "jail-cp").arg("-j").arg(&base).arg(&file).run().ok();
    (base, file)
}

fn jail_on<'s>(host: &'s Scratch, base: &Path) -> (User<'s>, PathBuf) {
    let jail = PathBuf::from(format!("/srv/{}", host.unique("site")));
    tool(host, "jail-init").arg("-j").arg(&jail).arg("--base").arg(base).run().ok();
    (host.plain_user().moved_into(&jail), jail)
}

/// Bytes on disk and inodes of a tree.
fn cost(tree: &Path) -> (u64, u64) {
    let stat = tree.symlink_metadata().expect("there");
    let mut cost = (stat.blocks() * 512, 1);
    if stat.is_dir() {
        for entry in std::fs::read_dir(tree).expect("listed") {
            let below = self::cost(&entry.expect("entry").path());
            cost = (cost.0 + below.0, cost.1 + below.1);
        }
    }
    cost
}

fn a_jail_on_a_base_is_a_jail_like_any_other(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("bases are ours");
    }
    let (base, file) = base(host);
    let jail = PathBuf::from(format!("/srv/{}", host.unique("site")));
    tool(host, "jail-init").arg("-j").arg(&jail).arg("--base").arg(&base).run().ok();
    let (bytes, inodes) = cost(&jail);
    assert!(bytes < 200 << 10 && inodes < 40, "{bytes} bytes, {inodes} inodes");
    let user = host.plain_user().moved_into(&jail);
    let out = user.ssh(&format!(
        "id -un; cat {}; sort </etc/passwd | grep -c .; touch /usr/x /etc/x; ls ~ -d",
        file.display()
    ));
    let out = out.run();
    let lines: Vec<String> = out.text().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], user.name);
    assert_eq!(lines[1], "one");
    assert!(out.errors().matches("Read-only file system").count() == 2, "{}", out.errors());
    tool(host, "jail-check").arg("-j").arg(&base).run().ok();
    tool(host, "jail-check").arg("-j").arg(&jail).run().ok();
    // Its own sections lie over the base's.
    let out = tool(host, "jail-init").arg("-j").arg(&jail).arg("rsync").run().ok();
    assert!(jail.join("usr/bin/rsync").exists() && !jail.join("usr/bin/ls").exists(), "{}", out.text());
    assert!(user.ssh("rsync --version && ls /usr/bin/ls").run().ok().text().ends_with("/usr/bin/ls"));
    tool(host, "jail-check").arg("-j").arg(&jail).run().ok();
    // Neither goes while it is needed.
    let out = tool(host, "jail-init").arg("--remove").arg("-j").arg(&base).run();
    assert_eq!(out.status, 4, "{}", out.errors());
    assert!(out.errors().contains(&jail.display().to_string()), "{}", out.errors());
    Ok(())
}

fn a_running_cell_keeps_the_generation_it_was_made_from(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("bases are ours");
    }
    let (base, file) = base(host);
    let (user, _) = jail_on(host, &base);
    let (other, _) = jail_on(host, &base);
    let there = |generation: &str| base.join(generation).exists();
    let first = current(&base);
    let wait = format!("cat {}; sleep 60", file.display());
    let mut session = user.sshd().client("ssh").arg(user.at_host()).arg(wait).background();
    assert_eq!(session.first_line(), "one");
    std::fs::write(&file, "two\n").expect("changed");
    let out = tool(host, "jail-update").arg("--all").run().ok();
    let second = current(&base);
    assert_ne!(first, second, "{}", out.text());
    assert!(there(&first) && there(&second), "the old generation is in use");
    assert_eq!(other.ssh(&format!("cat {}", file.display())).run().ok().text(), "two", "all jails are new");
    // The cell is as it was, also for a login that joins it.
    assert_eq!(user.ssh(&format!("cat {}", file.display())).run().ok().text(), "one");
    let removed =
        tool(host, "jail-init").arg("--remove").arg("-j").arg(user.jail.clone().expect("jailed")).run();
    assert_ne!(removed.status, 0);
    drop(session);
    user.wait_for_the_end();
    wait_until("the old generation goes with the next update", Duration::from_secs(10), || {
        std::fs::write(&file, "three\n").expect("changed");
        tool(host, "jail-update").arg("-j").arg(&base).run().ok();
        !there(&first) && !there(&second)
    });
    assert_eq!(user.ssh(&format!("cat {}", file.display())).run().ok().text(), "three");
    Ok(())
}

/// The generation that entries are told of.
fn current(base: &Path) -> String {
    let name = base.display().to_string().trim_start_matches('/').replace('-', "\\x2d").replace('/', "-");
    let text = std::fs::read_to_string(format!("/var/lib/jailwright/{name}/base.toml")).expect("base.toml");
    let line = text.lines().find_map(|line| line.strip_prefix("generation = ")).expect("a generation");
    line.trim_matches('"').to_owned()
}

fn a_base_and_a_discarded_root_are_one_overlay(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("bases are ours");
    }
    let (base, file) = base(host);
    let (user, jail) = jail_on(host, &base);
    host.add_policy(&format!("[user.{}]\nroot = \"discard\"\n", user.name));
    let generation = base.join(current(&base));
    Run::new("chown").arg("-R").arg(user.uid.to_string()).arg(generation.join("usr/local/share")).run().ok();
    let line =
        format!("echo mine >{0}; cat {0}; grep -c ' / / .* - overlay ' /proc/self/mountinfo", file.display());
    assert_eq!(user.ssh(&line).run().ok().text(), "mine\n1");
    user.wait_for_the_end();
    assert_eq!(user.ssh(&format!("cat {}", file.display())).run().ok().text(), "one");
    // Changes that would last have no place.
    host.add_policy(&format!("[jail.\"{}\"]\nroot = \"discard\"\n", jail.display()));
    let (writer, _) = jail_on(host, &base);
    host.add_policy(&format!("[user.{}]\nroot = \"writable\"\n", writer.name));
    assert_eq!(writer.ssh("true").run().status, 125);
    host.syslog().expect(&["root = \"writable\"", "base"]);
    Ok(())
}

fn a_base_that_is_not_the_one_that_was_made_is_refused(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("bases are ours");
    }
    let (base, _) = base(host);
    let (user, _) = jail_on(host, &base);
    assert_eq!(user.ssh("echo in").run().ok().text(), "in");
    user.wait_for_the_end();
    let generation = base.join(current(&base));
    let (aside, mode) = (base.join("aside"), |mode: &str, path: &Path| {
        Run::new("chmod").arg(mode).arg(path).run().ok();
    });
    // Another directory of that name.
    std::fs::rename(&generation, &aside).expect("moved");
    Run::new("cp").arg("-a").arg(&aside).arg(&generation).run().ok();
    assert_eq!(user.ssh("echo in").run().status, 125);
    host.syslog().expect(&["is not the directory that jail-init made"]);
    std::fs::remove_dir_all(&generation).expect("removed");
    std::fs::rename(&aside, &generation).expect("moved back");
    // One that others may write to, or swap.
    for place in [&base, &generation] {
        mode("o+w", place);
        assert_eq!(user.ssh("echo in").run().status, 125, "{}", place.display());
        mode("o-w", place);
    }
    assert_eq!(user.ssh("echo in").run().ok().text(), "in");
    // Nobody enters the base itself.
    let lost = host.plain_user();
    let out = tool(host, "jail-user").args(["-n", "-m", "-j"]).arg(&base).arg(&lost.name).run();
    assert_ne!(out.status, 0, "{}", out.text());
    Ok(())
}

fn a_jail_on_a_base_without_root(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("bases are ours");
    }
    let user = host.plain_user();
    host.product();
    let (base, jail) = (user.home.join("base"), user.home.join("site"));
    let (base, jail) = (base.display().to_string(), jail.display().to_string());
    let run = |tool: &str, args: &[&str]| {
        user.outside(tool).args(args.iter().copied()).env("HOME", &user.home).dir(&user.home).run()
    };
    run("/usr/local/sbin/jail-init", &["--as-base", "-j", &base, "basicshell"]).ok();
    run("/usr/local/sbin/jail-init", &["-j", &jail, "--base", &base]).ok();
    let out = run(
        "/usr/local/bin/jail-run",
        &["-j", &jail, "--", "/bin/bash", "-c", "ls /usr/bin/bash; echo $0 in"],
    );
    assert_eq!(out.clone().ok().text(), "/usr/bin/bash\n/bin/bash in", "{}", out.errors());
    let out = run("/usr/local/bin/jail-run", &["-j", &jail, "--", "ls", "/usr/bin/ls"]);
    assert_eq!(out.clone().ok().text(), "/usr/bin/ls", "{}", out.errors());
    Ok(())
}
