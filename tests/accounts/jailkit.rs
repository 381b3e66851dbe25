//! Over from jailkit and back: a jail that jk_init made, users that jk_jailuser put there, logins through sshd at each stage.

use std::path::{Path, PathBuf};

use jailwright_tests::{Done, Output, Run, Scratch, Test, User, skip, test};

use crate::edits::json;
use crate::setting::line_of;

pub(crate) const TESTS: &[Test] = &[
    test!(scratch there_and_back),
    test!(scratch a_list_of_commands_comes_along),
    test!(scratch all_of_a_jail_and_back),
];

const NO_JAILKIT: &str = "Debian's jailkit is not installed";

/// A jail of jailkit's own making, with these sections.
fn their_jail(scratch: &Scratch, sections: &[&str]) -> PathBuf {
    let jail = PathBuf::from(format!("/srv/{}", scratch.unique("jailkit")));
    std::fs::create_dir(&jail).expect("mkdir");
    Run::new("jk_init").arg("-j").arg(&jail).args(sections).run().ok();
    jail
}

fn their_user<'s>(scratch: &'s Scratch, jail: &Path, shell: &str) -> User<'s> {
    let mut user = scratch.plain_user();
    Run::new("jk_jailuser").args(["-n", "-m", "-s", shell, "-j"]).arg(jail).arg(&user.name).run().ok();
    user.home = jail.join("home").join(&user.name);
    user
}

fn say_in_ini(file: &str, text: &str) {
    let path = format!("/etc/jailkit/{file}");
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    std::fs::write(&path, old + text).expect("write");
}

fn jail_user(scratch: &Scratch, args: &[&str]) -> Output {
    scratch.product().command("jail-user").args(args).run()
}

fn there_and_back(scratch: &Scratch) -> Done {
    if !jailwright_tests::command::have("jk_init") {
        return skip(NO_JAILKIT);
    }
    let jail = their_jail(scratch, &["basicshell", "scp", "sftp"]);
    let (user, other) = (their_user(scratch, &jail, "/bin/bash"), their_user(scratch, &jail, "/bin/bash"));
    say_in_ini("jk_chrootsh.ini", &format!("\n[{}]\nenv = TERM, PATH, MY_OWN\n", user.name));
    say_in_ini("jk_update.ini", &format!("\n[{}]\nskips = /usr/bin/mine\n", jail.display()));
    let theirs = line_of("/etc/passwd", &user.name).expect("there");
    assert!(theirs.ends_with(":/usr/sbin/jk_chrootsh"), "{theirs}");
    let asked = "pwd; echo ${0##*/}; cat mine 2>/dev/null || echo mine >mine";
    let before = user.ssh(asked).run().ok().text();
    assert_eq!(before, format!("/home/{}\nbash", user.name));

    // Shown first; nothing is changed by that.
    let shown = jail_user(scratch, &["--from-jailkit", "--dry-run", &user.name]).ok();
    for word in ["+\"+env\" = [\"TERM\", \"MY_OWN\"]", "jail-sh'"] {
        assert!(shown.text().contains(word), "{word}: {}", shown.text());
    }
    assert!(shown.errors().contains("jk_update.ini: nothing to carry over"), "{}", shown.errors());
    assert_eq!(line_of("/etc/passwd", &user.name), Some(theirs.clone()));

    // One user.
    jail_user(scratch, &["--from-jailkit", &user.name]).ok();
    let ours = theirs.replace("/usr/sbin/jk_chrootsh", "/usr/local/sbin/jail-sh");
    assert_eq!(line_of("/etc/passwd", &user.name), Some(ours), "the same home, another shell");
    let inside = user.ssh(&format!("{asked}; grep NoNewPrivs /proc/self/status")).run();
    let expected = format!("/home/{}\nbash\nmine\nNoNewPrivs:\t1", user.name);
    assert_eq!(inside.text(), expected, "{}", inside.errors());
    let told = Run::new(scratch.product().jail_sh()).args(["--explain", &user.name]).run().ok();
    assert!(told.text().contains("MY_OWN") && told.text().contains("from-jailkit.toml"), "{}", told.text());
    // The others stay where they are, and get in.
    assert!(line_of("/etc/passwd", &other.name).expect("there").ends_with(":/usr/sbin/jk_chrootsh"));
    other.ssh("true").run().ok();
    let again = jail_user(scratch, &["--from-jailkit", "--json", &user.name]).ok();
    assert_eq!(json(&again)["changed"], false);

    // All of them; those of other tests are theirs too.
    jail_user(scratch, &["--from-jailkit", &other.name]).ok();
    other.ssh("true").run().ok();

    // And back, line for line.
    jail_user(scratch, &["--back", &user.name, &other.name]).ok();
    assert_eq!(line_of("/etc/passwd", &user.name), Some(theirs));
    let carried = std::fs::read_to_string("/etc/jailwright/from-jailkit.toml").expect("there");
    assert!(!carried.contains(&user.name), "{carried}");
    let back = user.ssh(asked).run().ok().text();
    assert_eq!(back, format!("{before}\nmine"));
    let again = jail_user(scratch, &["--back", "--json", &user.name]).ok();
    assert_eq!(json(&again)["changed"], false);
    Ok(())
}

fn a_list_of_commands_comes_along(scratch: &Scratch) -> Done {
    if !jailwright_tests::command::have("jk_init") {
        return skip(NO_JAILKIT);
    }
    let jail = their_jail(scratch, &["jk_lsh", "scp", "sftp"]);
    let user = their_user(scratch, &jail, "/usr/sbin/jk_lsh");
    let ini =
        format!("[{}]\nexecutables = /usr/bin/scp, /usr/lib/openssh/sftp-server\numask = 027\n", user.name);
    std::fs::write(jail.join("etc/jailkit/jk_lsh.ini"), ini).expect("write");
    let file = format!("/tmp/{}", scratch.unique("file"));
    std::fs::write(&file, "content").expect("write");
    let copy = |name: &str| {
        scratch.sshd().client("scp").args([&file, &format!("{}:{name}", user.at_host())]).run().ok();
        assert!(user.home.join(name).exists(), "{name}");
    };
    copy("as-theirs");
    jail_user(scratch, &["--from-jailkit", &user.name]).ok();
    let carried = std::fs::read_to_string("/etc/jailwright/from-jailkit.toml").expect("there");
    assert!(carried.contains("commands = [\"/usr/bin/scp\", \"/usr/lib/openssh/sftp-server\"]"), "{carried}");
    copy("as-ours");
    assert_ne!(user.ssh("id").run().status, 0, "nothing else can be run");
    jail_user(scratch, &["--back", &user.name]).ok();
    copy("back-again");
    Ok(())
}

/// Every account of a jail at once; one that cannot come keeps nobody else, and other jails are left alone.
fn all_of_a_jail_and_back(scratch: &Scratch) -> Done {
    if !jailwright_tests::command::have("jk_init") {
        return skip(NO_JAILKIT);
    }
    let (jail, elsewhere) = (their_jail(scratch, &["basicshell"]), their_jail(scratch, &["basicshell"]));
    let users = [their_user(scratch, &jail, "/bin/bash"), their_user(scratch, &jail, "/bin/bash")];
    let (stays, foul) =
        (their_user(scratch, &elsewhere, "/bin/bash"), their_user(scratch, &jail, "/bin/bash"));
    // A home that is another's.
    Run::new("chown").args(["-h", "65534"]).arg(&foul.home).run().ok();
    say_in_ini("jk_chrootsh.ini", &format!("\n[{}]\nenv = TERM, MY_OWN\n", users[0].name));
    let lines: Vec<_> = users.iter().map(|user| line_of("/etc/passwd", &user.name)).collect();
    let (foul_line, stays_line) = (line_of("/etc/passwd", &foul.name), line_of("/etc/passwd", &stays.name));
    let in_jail = ["--all", "-j", jail.to_str().expect("text")];

    let shown = jail_user(scratch, &[&["--from-jailkit", "--dry-run"], &in_jail[..]].concat());
    for user in &users {
        assert!(shown.text().contains(&user.name), "{}", shown.text());
    }
    assert!(!shown.text().contains(&stays.name), "another jail's: {}", shown.text());
    let named = jail_user(scratch, &["--from-jailkit", "-j", jail.to_str().expect("text"), &stays.name]);
    assert_eq!(named.status, 1);
    assert!(named.errors().contains("is in the jail"), "{}", named.errors());

    let said = jail_user(scratch, &[&["--from-jailkit", "--json"], &in_jail[..]].concat());
    assert_eq!((said.status, json(&said)["changed"] == true), (4, true), "{}", said.errors());
    assert_eq!(line_of("/etc/passwd", &foul.name), foul_line, "what cannot come stays jailkit's");
    assert_eq!(line_of("/etc/passwd", &stays.name), stays_line);
    for user in &users {
        let line = line_of("/etc/passwd", &user.name).expect("there");
        assert!(line.ends_with(":/usr/local/sbin/jail-sh"), "{line}");
        assert_eq!(user.ssh("pwd").run().ok().text(), format!("/home/{}", user.name));
    }
    let carried = std::fs::read_to_string("/etc/jailwright/from-jailkit.toml").expect("there");
    assert!(carried.contains(&users[0].name) && !carried.contains(&foul.name), "{carried}");
    let again = jail_user(scratch, &[&["--from-jailkit", "--json"], &in_jail[..]].concat());
    assert_eq!(json(&again)["changed"], false, "{}", again.errors());

    let back = jail_user(scratch, &[&["--back", "--json"], &in_jail[..]].concat()).ok();
    assert_eq!(json(&back)["changed"], true);
    for (user, line) in users.iter().zip(lines) {
        assert_eq!(line_of("/etc/passwd", &user.name), line, "line for line");
        user.ssh("true").run().ok();
    }
    let carried = std::fs::read_to_string("/etc/jailwright/from-jailkit.toml").expect("there");
    assert!(!carried.contains(&users[0].name), "{carried}");
    let again = jail_user(scratch, &[&["--back", "--json"], &in_jail[..]].concat()).ok();
    assert_eq!(json(&again)["changed"], false);
    Ok(())
}
