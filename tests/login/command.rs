//! `ssh host COMMAND`: statuses, streams, environment.

use jailwright_tests::{Done, Scratch, Test, test};

pub(crate) const TESTS: &[Test] =
    &[test!(scratch exit_statuses_pass_through), test!(scratch streams_stay_apart)];

fn exit_statuses_pass_through(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    for (command, status) in [
        ("true", 0),
        ("exit 1", 1),
        ("no-such-command", 127),
        ("exit 130", 130),
        ("sh -c 'kill -INT $$'; exit $?", 130),
        ("sh -c 'kill -TERM $$'; exit $?", 143),
        ("/etc/passwd", 126),
    ] {
        assert_eq!(user.ssh(command).run().status, status, "{command}");
    }
    Ok(())
}

fn streams_stay_apart(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let out = user.ssh("echo out; echo err >&2").run().ok();
    assert_eq!((out.text().as_str(), out.errors().as_str()), ("out", "err"));
    Ok(())
}
