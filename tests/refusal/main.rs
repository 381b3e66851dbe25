//! What jail-sh refuses: status 125, one sentence for the client, the whole reason in the log, nothing started.
//!
//! One test after the other: they change the policy file and the jail that all accounts share.

mod call;
mod place;

use std::process::ExitCode;

use jailwright_tests::{Output, Run, User};

fn main() -> ExitCode {
    jailwright_tests::suite_in_order(&[call::TESTS, place::TESTS])
}

/// jail-sh as this account would start it by hand, in a clean environment.
fn jail_sh(user: &User<'_>, args: &[&str]) -> Run {
    let id = user.uid.to_string();
    Run::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
        .arg(user.scratch().product().jail_sh())
        .args(args)
        .env_clear()
        .env("USER", &user.name)
        .env("LOGNAME", &user.name)
        .dir("/")
}

/// A refusal as everybody meets it; `word` has to be in the log's reason.
#[track_caller]
fn assert_refused(user: &User<'_>, out: &Output, word: &str) {
    let said = out.errors();
    assert_eq!((out.status, out.text().as_str()), (125, ""), "{said}");
    assert_eq!(said.lines().count(), 1, "the client sees one sentence:\n{said}");
    assert!(!said.contains("/srv") && !said.contains("/etc"), "the client is told the host's paths: {said}");
    let reference = said.rsplit_once("(reference ").and_then(|(_, rest)| rest.strip_suffix(')'));
    let reference = reference.unwrap_or_else(|| panic!("the client is told no reference: {said}"));
    let line = user.scratch().syslog().expect(&["jail-sh", reference]);
    assert!(line.contains(word), "the log does not speak of {word}: {line}");
    assert!(user.processes().is_empty(), "{:?}", user.processes());
}
