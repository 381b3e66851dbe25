//! `--move-to`: from one jail into another, in one step, killed or not.

use std::path::Path;

use jailwright_tests::{Done, Scratch, Test, test};

use crate::edits::json;
use crate::faults::{counts, traced};
use crate::homes::fill;
use crate::setting::{Account, Dice, LOGIN_SHELL, account, jail, jail_user, jail_user_in, picture};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch moved_from_jail_to_jail),
    test!(scratch what_cannot_go_stays_where_it_is),
    test!(scratch killed_between_two_jails),
];

fn inner(jail: &Path, user: &Account) -> std::path::PathBuf {
    jail.join(user.home.strip_prefix("/").expect("absolute"))
}

fn moved_from_jail_to_jail(scratch: &Scratch) -> Done {
    let (user, made) = (account(), account());
    std::fs::write(user.home.join("mine"), "mine").expect("write");
    let before = user.line_in("/etc/passwd");
    let made_before = made.line_in("/etc/passwd");
    let (one, two) = (jail(scratch, "/srv"), jail(scratch, "/home"));
    jail_user_in(&one, &["-m", &user.name]).ok();
    jail_user_in(&one, &[&made.name]).ok();
    let jailed = user.line_in("/etc/passwd");
    let shown = jail_user().args(["--dry-run", "--move-to"]).arg(&two).arg(&user.name).run().ok();
    for word in
        ["home: move", &format!("-'{}'", jailed.as_deref().expect("there")), &format!("+'{}:", user.name)]
    {
        assert!(shown.text().contains(word), "{word}: {}", shown.text());
    }
    assert_eq!(user.line_in("/etc/passwd"), jailed);

    let said = jail_user().args(["--json", "--move-to"]).arg(&two).args([&user.name, &made.name]).run().ok();
    assert_eq!(json(&said)["changed"], true);
    for account in [&user, &made] {
        assert!(inner(&two, account).exists() && !inner(&one, account).exists());
        assert_eq!(account.line_in(one.join("etc/passwd").to_str().expect("text")), None);
        let home = format!("{}/.{}", two.display(), account.home.display());
        assert!(account.line_in("/etc/passwd").expect("there").contains(&home));
    }
    assert!(inner(&two, &user).join("mine").exists());
    let again = jail_user().args(["--json", "--move-to"]).arg(&two).args([&user.name]).run().ok();
    assert_eq!(json(&again)["changed"], false);
    jail_user().args(["--release", &user.name, &made.name]).run().ok();
    assert_eq!((user.line_in("/etc/passwd"), made.line_in("/etc/passwd")), (before, made_before));
    assert!(user.home.join("mine").exists(), "the moved home is back where it was before any jail");
    assert!(inner(&two, &made).exists(), "the one that was made in a jail stays in one");
    Ok(())
}

fn what_cannot_go_stays_where_it_is(scratch: &Scratch) -> Done {
    let (goes, stays) = (account(), account());
    let (one, two) = (jail(scratch, "/srv"), jail(scratch, "/srv"));
    jail_user_in(&one, &["-m", &goes.name, &stays.name]).ok();
    let line = stays.line_in("/etc/passwd");
    let refused = jail_user().args(["--move-to", "/srv/no/such", &stays.name]).run();
    assert_eq!((refused.status, stays.line_in("/etc/passwd") == line), (1, true));
    // Another's home is in the way over there.
    std::fs::create_dir_all(inner(&two, &stays)).expect("mkdir");
    let said = jail_user().arg("--move-to").arg(&two).args([&stays.name, &goes.name]).run();
    assert_eq!(said.status, 1);
    assert!(said.errors().contains("is there already"), "{}", said.errors());
    assert_eq!(stays.line_in("/etc/passwd"), line);
    assert!(inner(&one, &stays).join(".profile").exists());
    assert!(inner(&two, &goes).join(".profile").exists(), "one that cannot go keeps nobody else");
    // A full disk under the new one: nothing is lost either.
    let user = account();
    jail_user_in(&one, &["-m", &user.name]).ok();
    let line = user.line_in("/etc/passwd");
    let to = two.to_str().expect("text");
    for call in ["renameat", "fsync", "renameat2"] {
        let said = traced(call, "error=ENOSPC:when=1", &["--move-to", to, &user.name]).run();
        assert_ne!(said.status, 0, "{call}");
        assert_eq!(user.line_in("/etc/passwd"), line, "{call}");
        assert!(inner(&one, &user).join(".profile").exists(), "{call}");
    }
    Ok(())
}

fn killed_between_two_jails(scratch: &Scratch) -> Done {
    let mut dice = Dice::new("moving between jails");
    // /srv and /home are different file systems: the home is copied.
    let (one, two) = (jail(scratch, "/srv"), jail(scratch, "/home"));
    let to = two.to_str().expect("text").to_owned();
    let sample = account();
    fill(&sample);
    jail_user_in(&one, &["-m", &sample.name]).ok();
    let known = counts(&["--move-to", &to, &sample.name], scratch);
    let (rounds, mut died) = (20, 0);
    for round in 0..rounds {
        let user = account();
        fill(&user);
        let (before, line) = (picture(&user.home), user.line_in("/etc/passwd"));
        jail_user_in(&one, &["-m", &user.name]).ok();
        let (call, count) = known[round % known.len()];
        let moment = 1 + dice.below(count);
        let said = traced(call, &format!("signal=KILL:when={moment}"), &["--move-to", &to, &user.name]).run();
        died += usize::from(said.status == 137);
        let context = format!("{call} number {moment} of {count}");
        let now = user.line_in("/etc/passwd").expect("the account is lost");
        assert!(now.ends_with(LOGIN_SHELL), "{context}: {now}");
        let said = jail_user().args(["--move-to", &to, &user.name]).run();
        assert_eq!(said.status, 0, "{context}: {}", said.errors());
        assert_eq!(picture(&inner(&two, &user)), before, "{context}");
        assert!(!inner(&one, &user).exists(), "{context}");
        assert_eq!(user.line_in(one.join("etc/passwd").to_str().expect("text")), None, "{context}");
        jail_user().args(["--release", &user.name]).run().ok();
        assert_eq!(user.line_in("/etc/passwd"), line, "{context}");
        assert_eq!(picture(&user.home), before, "{context}");
    }
    assert!(died * 10 >= rounds * 8, "only {died} of {rounds} runs died");
    Ok(())
}
