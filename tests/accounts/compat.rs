//! jailkit's names for our tools: the calls that hosting panels make, unchanged, and logins through what they made.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jailwright_tests::command::wait_until;
use jailwright_tests::user::shadow;
use jailwright_tests::{Done, Output, Run, Scratch, Test, User, product, test};

use crate::setting::line_of;

pub(crate) const TESTS: &[Test] = &[
    test!(scratch another_jailkit_is_not_overwritten),
    test!(scratch a_panel_that_makes_jails_and_shell_users),
    test!(scratch a_panel_that_writes_the_accounts_itself),
    test!(scratch one_command_and_no_other),
    test!(scratch daemons_are_launched),
    test!(scratch names_go_with_uninstall),
];

const NAMES: [&str; 9] = [
    "jk_init",
    "jk_cp",
    "jk_jailuser",
    "jk_chrootsh",
    "jk_lsh",
    "jk_update",
    "jk_check",
    "jk_list",
    "jk_chrootlaunch",
];

/// `make install-compat` to a directory of the test's own: /usr/sbin may hold the machine's jailkit.
fn names(scratch: &Scratch) -> PathBuf {
    scratch.product();
    static ONCE: std::sync::Once = std::sync::Once::new();
    let dir = PathBuf::from("/usr/local/compat");
    ONCE.call_once(|| {
        make(&dir, "install-compat").ok();
    });
    dir
}

fn make(dir: &Path, target: &str) -> Output {
    product::make().arg(format!("COMPAT={}", dir.display())).arg(target).run()
}

/// A script as a panel has it: the names come from $PATH.
fn script(scratch: &Scratch, lines: &str, args: &[&str]) -> Output {
    let path =
        format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", names(scratch).display());
    Run::new("/bin/sh").args(["-c", lines, "script"]).args(args).env("PATH", path).run()
}

fn another_jailkit_is_not_overwritten(scratch: &Scratch) -> Done {
    scratch.product();
    let dir = PathBuf::from(format!("/usr/local/{}", scratch.unique("theirs")));
    std::fs::create_dir(&dir).expect("mkdir");
    std::fs::write(dir.join("jk_list"), "theirs").expect("write");
    let said = make(&dir, "install-compat");
    assert_eq!(said.status, 2, "make's own status for a failed line");
    assert!(said.errors().contains("refused") && said.errors().contains("is not ours"), "{}", said.errors());
    assert_eq!(std::fs::read_dir(&dir).expect("read").count(), 1, "nothing was made");
    Ok(())
}

/// What ISPConfig's scripts do for a site: `create_jailkit_chroot`, `_programs`, `_user`, then updates and checks.
fn a_panel_that_makes_jails_and_shell_users(scratch: &Scratch) -> Done {
    let ini = format!("/etc/{}.ini", scratch.unique("jk_init"));
    std::fs::write(
        &ini,
        "[basicshell]\ncomment = the panel's\npaths = /bin/sh, bash, ls\nincludesections = uidbasics\n\n\
         [uidbasics]\npaths = /etc/nsswitch.conf\n\n\
         [panelown]\ncomment = a section of the panel's own\npaths = factor, /usr/share/none-such\nincludesections = basicshell\nemptydirs = /panel\n",
    )
    .expect("write");
    let site = format!("/srv/{}", scratch.unique("site"));
    let web = scratch.plain_user();
    let made = script(
        scratch,
        "set -e; mkdir -p \"$1\"; chown root:root \"$1\"; chmod 755 \"$1\"
        jk_init -f -k -c \"$2\" -j \"$1\" basicshell panelown nosuchsection
        for d in tmp var/tmp; do mkdir -p \"$1/$d\"; chmod a+rwxt \"$1/$d\"; done
        for program in /usr/bin/groups id; do jk_cp -k \"$1\" $program; done",
        &[&site, &ini],
    )
    .ok();
    assert!(made.errors().contains("there is no section 'nosuchsection': left out"), "{}", made.errors());
    for path in ["bin/bash", "usr/bin/factor", "usr/bin/groups", "usr/bin/id", "panel", "etc/passwd"] {
        assert!(Path::new(&site).join(path).exists(), "{path}");
    }
    let dir = names(scratch);
    script(
        scratch,
        "set -e; usermod --home=\"$1/./home/$2\" \"$2\"; jk_jailuser -n -s /bin/bash -j \"$1\" \"$2\"",
        &[&site, &web.name],
    )
    .ok();
    let line = line_of("/etc/passwd", &web.name).expect("there");
    assert!(line.ends_with(&format!(":{site}/./home/{}:{}/jk_chrootsh", web.name, dir.display())), "{line}");
    let user = at_home(web, Path::new(&site));
    let inside = user
        .ssh("pwd; factor 6; grep NoNewPrivs /proc/self/status; ls -d /srv 2>&1 | grep -c 'No such'")
        .run();
    assert_eq!(
        inside.text(),
        format!("/home/{}\n6: 2 3\nNoNewPrivs:\t1\n1", user.name),
        "{}",
        inside.errors()
    );
    // A shell user of the same uid beside it, as that panel makes them.
    let shell_user = format!("{}s", user.name);
    script(
        scratch,
        "set -e; useradd -o -u \"$3\" -g \"$3\" -M -d \"$1/./home/$2\" -s /bin/bash \"$2\"; usermod -p '*' \"$2\"
        jk_jailuser -n -s /bin/bash -j \"$1\" \"$2\"; cp -a \"$1/home/$4/.ssh\" \"$1/home/$2/\"",
        &[&site, &shell_user, &user.uid.to_string(), &user.name],
    )
    .ok();
    // A cell shows one home, so each has a cell of its own, whose home is its own, at the same time too.
    let ssh = |name: &str| scratch.sshd().client("ssh").arg(format!("{name}@jail"));
    let lasting = ssh(&user.name).arg("exec sleep 60").background();
    let seen = |name: &str| ssh(name).arg("cat /proc/[0-9]*/comm").run().text().contains("sleep");
    wait_until("the first login is there", Duration::from_secs(20), || seen(&user.name));
    assert!(!seen(&shell_user), "the other home's cell is another one");
    for name in [&user.name, &shell_user] {
        let out = ssh(name).arg("pwd; ls /home; echo of $USER >mine; cat mine").run();
        assert_eq!(out.text(), format!("/home/{name}\n{name}\nof {name}"), "{}", out.errors());
    }
    drop(lasting);
    // Twice is once; then what runs nightly.
    script(scratch, "jk_jailuser -n -s /bin/bash -j \"$1\" \"$2\"", &[&site, &user.name]).ok();
    script(scratch, "jk_init -f -k -c \"$2\" -j \"$1\" basicshell panelown", &[&site, &ini]).ok();
    std::fs::write(format!("{site}/web-of-the-site"), "theirs").expect("write");
    let updated = script(
        scratch,
        "jk_update -d --jail=\"$1\" --skip=/web && jk_update -j \"$1\" -s /web -s /tmp",
        &[&site],
    )
    .ok();
    assert_eq!(updated.errors(), "");
    assert!(Path::new(&format!("{site}/web-of-the-site")).exists(), "no update removes what is not ours");
    let listed = script(scratch, "jk_list -w", &[]).ok();
    assert!(listed.text().contains(&site), "{}", listed.text());
    let checked = script(scratch, "jk_check -v", &[]);
    assert!(matches!(checked.status, 0 | 1), "{}", checked.errors());
    // A section that the ini has no longer is none.
    std::fs::write(&ini, "[other]\npaths = /bin/sh\n").expect("write");
    let gone = script(scratch, "jk_init -c \"$2\" -j \"$1\" panelown", &[&site, &ini]);
    assert_eq!(gone.status, 3, "{}", gone.errors());
    assert!(gone.errors().contains("there is no section 'panelown'"), "{}", gone.errors());
    let listed = script(scratch, "jk_init -l -c \"$1\"", &[&ini]).ok();
    assert!(listed.text().contains("other") && listed.text().contains("basicshell"), "{}", listed.text());
    Ok(())
}

/// The account's key where sshd looks for it now.
fn at_home<'s>(mut user: User<'s>, jail: &Path) -> User<'s> {
    let old = user.home.clone();
    user.home = jail.join("home").join(&user.name);
    Run::sh(&format!("[ -e {1}/.ssh ] || cp -a {0}/.ssh {1}/", old.display(), user.home.display()))
        .run()
        .ok();
    user
}

/// What Virtualmin does: a section a call, files with `jk_cp -f`, and the account files by its own hand.
fn a_panel_that_writes_the_accounts_itself(scratch: &Scratch) -> Done {
    let jail = format!("/srv/{}", scratch.unique("domain"));
    let user = scratch.plain_user();
    let dir = names(scratch);
    script(
        scratch,
        "set -e; mkdir -p \"$1\"; chmod 755 \"$1\"
        for s in perl basicshell extendedshell ssh scp sftp; do jk_init -f -j \"$1\" $s; done
        jk_cp -f -j \"$1\" /usr/bin/factor
        mkdir -p \"$1/home\" \"$1/tmp\"; chmod 1777 \"$1/tmp\"; mv \"/home/$2\" \"$1/home/$2\"
        grep \"^$2:\" /etc/passwd >>\"$1/etc/passwd\"; grep \"^$2:\" /etc/group >>\"$1/etc/group\"
        n=0; until usermod -d \"$1/./home/$2\" -s \"$3/jk_chrootsh\" \"$2\"; do n=$((n + 1)); [ $n -lt 50 ]; sleep 0.2; done",
        &[&jail, &user.name, dir.to_str().expect("text")],
    )
    .ok();
    let user = at_home(user, Path::new(&jail));
    let inside = user.ssh("pwd; id -un; factor 6; perl -e 'print 7'").run();
    assert_eq!(inside.text(), format!("/home/{0}\n{0}\n6: 2 3\n7", user.name), "{}", inside.errors());
    let file = format!("/tmp/{}", scratch.unique("file"));
    std::fs::write(&file, "content").expect("write");
    scratch.sshd().client("scp").args([&file, &format!("{}:copied", user.at_host())]).run().ok();
    assert_eq!(std::fs::read_to_string(user.home.join("copied")).expect("there"), "content");

    // The name alone lets nobody in: where it is another program's, the account is not ours.
    let other = format!("/usr/local/{}/jk_chrootsh", scratch.unique("other"));
    Run::sh(&format!("mkdir -p ${{0%/*}}; printf '#!/bin/sh\\nexec {}/jk_chrootsh \"$@\"\\n' >$0; chmod 755 $0; usermod -s $0 {}", dir.display(), user.name).replace("$0", &other).replace("${0%/*}", other.trim_end_matches("/jk_chrootsh"))).run().ok();
    let refused = user.ssh("true").run();
    assert_eq!(refused.status, 125, "{}", refused.errors());
    Ok(())
}

fn one_command_and_no_other(scratch: &Scratch) -> Done {
    let jail = scratch.jail(&format!("/srv/{}", scratch.unique("lsh")), &["basicshell", "scp", "sftp"]);
    // As the section jk_lsh brings it where the name is in /usr/sbin; no test writes to the machine's.
    script(scratch, "jk_cp -j \"$1\" /usr/local/sbin/jk-compat", &[jail.to_str().expect("text")]).ok();
    std::os::unix::fs::symlink("/usr/local/sbin/jk-compat", jail.join("usr/sbin/jk_lsh")).expect("symlink");
    let user = scratch.plain_user();
    let ini = format!("[{}]\nexecutables = /usr/bin/ls\npaths = /usr/bin\numask = 077\n", user.name);
    std::fs::create_dir_all(jail.join("etc/jailkit")).expect("mkdir");
    std::fs::write(jail.join("etc/jailkit/jk_lsh.ini"), ini).expect("write");
    script(scratch, "jk_jailuser -m -n -j \"$1\" \"$2\"", &[jail.to_str().expect("text"), &user.name]).ok();
    let user = at_home(user, &jail);
    assert_eq!(user.ssh("ls -d /home").run().ok().text(), "/home");
    for (line, status) in [("id", 4), ("ls;id", 4), ("/bin/bash", 4), ("ls 'x", 6)] {
        let said = user.ssh(line).run();
        assert_eq!((said.status, said.text().as_str()), (status, ""), "{line}: {}", said.errors());
        assert!(said.errors().contains("jk_lsh: refused: "), "{line}: {}", said.errors());
    }
    Ok(())
}

fn daemons_are_launched(scratch: &Scratch) -> Done {
    let jail = scratch.jail(&format!("/srv/{}", scratch.unique("daemon")), &["basicshell"]);
    let user = scratch.plain_user();
    let pidfile = format!("/run/{}.pid", scratch.unique("job"));
    let said = script(
        scratch,
        "jk_chrootlaunch -p \"$3\" -u \"$2\" -j \"$1\" -x \"$1/bin/sh\" -- -c 'id -u; cat /proc/self/status | grep NoNewPrivs'",
        &[jail.to_str().expect("text"), &user.name, &pidfile],
    );
    assert_eq!(said.text(), format!("{}\nNoNewPrivs:\t1", user.uid), "{}", said.errors());
    let refused = script(scratch, "jk_chrootlaunch -j \"$1\" -x /bin/sh", &[jail.to_str().expect("text")]);
    assert_eq!(refused.status, 4);
    assert!(refused.errors().contains("nothing runs as root in a jail"), "{}", refused.errors());
    Ok(())
}

fn names_go_with_uninstall(scratch: &Scratch) -> Done {
    scratch.product();
    let (root, dir) = (format!("/tmp/{}", scratch.unique("root")), PathBuf::from("/usr/sbin"));
    let run = |target: &str| product::make().arg(format!("DESTDIR={root}")).arg(target).run();
    let early = run("install-compat");
    assert!(early.errors().contains("run 'make install' first"), "{}", early.errors());
    run("install").ok();
    let at = |name: &str| PathBuf::from(format!("{root}{}/{name}", dir.display()));
    assert!(NAMES.iter().all(|name| std::fs::symlink_metadata(at(name)).is_err()), "off unless asked for");
    for _ in 0..2 {
        run("install-compat").ok();
        for name in NAMES {
            let to = if name == "jk_chrootsh" { "jail-sh" } else { "jk-compat" };
            let link = std::fs::read_link(at(name)).expect("a link");
            assert_eq!(link, Path::new("/usr/local/sbin").join(to), "{name}");
        }
    }
    std::fs::remove_file(at("jk_list")).expect("remove");
    std::fs::write(at("jk_list"), "an administrator's own").expect("write");
    run("uninstall").ok();
    let left: Vec<_> =
        std::fs::read_dir(at("")).expect("read").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["jk_list"], "what is not ours stays");
    assert!(!Path::new(&format!("{root}/usr/local/sbin/jk-compat")).exists());

    // An account with the name as its shell keeps us from going.
    let dir = names(scratch);
    let user = scratch.plain_user();
    shadow("usermod", &["-s", &format!("{}/jk_chrootsh", dir.display()), &user.name]);
    let refused = make(&dir, "uninstall");
    assert_eq!(refused.status, 2);
    assert!(refused.errors().contains(&format!("jail-user --release {}", user.name)), "{}", refused.errors());
    assert!(dir.join("jk_init").exists());
    Ok(())
}
