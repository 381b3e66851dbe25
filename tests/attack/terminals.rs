//! Terminals: what is typed into one by a program is read by the shell that waits for it.

use jailwright_tests::{Done, Pty, Run, Scratch, Test, test};

use crate::{attacker, of_a_login};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch type_into_the_own_terminal),
    test!(scratch type_into_roots_terminal),
    test!(scratch type_with_high_bits_set),
    test!(scratch other_terminals_are_not_there),
];

/// CVE-2016-9016, CVE-2017-5226: TIOCSTI.
fn type_into_the_own_terminal(host: &Scratch) -> Done {
    let user = attacker(host);
    let mut terminal = user.terminal();
    terminal.expect("$ ");
    let answer = terminal.ask("probe tiocsti");
    assert!(answer.contains("tiocsti") && !answer.contains("OK"), "{answer}");
    Ok(())
}

/// root types `su - user`; the jailed program types a command into root's shell.
fn type_into_roots_terminal(host: &Scratch) -> Done {
    of_a_login()?;
    let user = attacker(host);
    let bash = Run::new("bash").args(["--norc", "--noprofile"]).env("TERM", "dumb").env("PS1", "root# ");
    let mut terminal = Pty::spawn(&bash.into_command());
    terminal.expect("root# ");
    terminal.line(&format!("su - {}", user.name));
    terminal.expect("$ ");
    let answer = terminal.ask("probe tiocsti");
    assert!(answer.contains("tiocsti") && !answer.contains("OK"), "{answer}");
    Ok(())
}

/// CVE-2019-10063, CVE-2023-28100, CVE-2023-1523: the kernel reads 32 bits of the request, a filter read 64.
fn type_with_high_bits_set(host: &Scratch) -> Done {
    let answers = attacker(host).probe(&["tiocsti_high_bits", "tioclinux", "tioclinux_high_bits"]);
    for (name, answer) in answers {
        assert_eq!(answer, "EPERM", "{name}: the filter did not see it");
    }
    Ok(())
}

/// Another login's terminal is neither listed nor there to be opened.
fn other_terminals_are_not_there(host: &Scratch) -> Done {
    let (user, other) = (attacker(host), attacker(host));
    let mut theirs = other.terminal();
    theirs.expect("$ ");
    // The host's numbers: the other's terminal is one of these.
    let seen = user.ssh("for n in 0 1 2 3 4 5 6 7 8 9; do test -e /dev/pts/$n && echo $n; done").run().text();
    assert_eq!(seen, "", "terminals of others");
    Ok(())
}
