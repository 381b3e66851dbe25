//! `ssh host COMMAND`: statuses, streams, environment.

use std::time::Duration;

use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, skip, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch exit_statuses_pass_through),
    test!(scratch a_shell_killed_by_a_signal_is_128_and_more),
    test!(scratch streams_stay_apart),
    test!(scratch bytes_go_through_unchanged),
    test!(scratch a_pipe_whose_reader_leaves),
    test!(scratch a_script_on_standard_input),
    test!(scratch languages),
    test!(scratch only_harmless_variables_come_in),
    test!(scratch profile_runs_without_an_error),
    test!(scratch ssh_rc_runs_inside),
    test!(scratch forced_command),
    test!(scratch many_commands_over_one_connection),
    test!(scratch a_shell_asks_no_questions_of_its_arguments),
];

fn exit_statuses_pass_through(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    for (command, status) in [
        ("true", 0),
        ("exit 1", 1),
        ("no-such-command", 127),
        ("/etc/passwd", 126),
        ("exit 130", 130),
        ("exit 255", 255),
        ("sh -c 'kill -INT $$'; exit $?", 130),
        ("sh -c 'kill -TERM $$'; exit $?", 143),
    ] {
        assert_eq!(user.ssh(command).run().status, status, "{command}");
    }
    Ok(())
}

/// Without a jail sshd reports the signal itself and ssh ends with 255; a waiter can only say 128+n.
fn a_shell_killed_by_a_signal_is_128_and_more(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let status = user.ssh("kill -TERM $$").run().status;
    let expected = if Under::test() == Under::Ours { 143 } else { 255 };
    assert_eq!(status, expected);
    Ok(())
}

fn streams_stay_apart(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let out = user.ssh("echo out; echo err >&2").run().ok();
    assert_eq!((out.text().as_str(), out.errors().as_str()), ("out", "err"));
    Ok(())
}

fn bytes_go_through_unchanged(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    // Every byte value, no pattern that a line-wise or UTF-8 reader would keep whole.
    let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    let out = user.ssh("cat").input(sent.clone()).run().ok();
    assert!(out.stdout == sent, "{} bytes came back of {}", out.stdout.len(), sent.len());
    Ok(())
}

/// SIGPIPE has to be what it is by default: ignored, `yes` would complain and end with 1.
fn a_pipe_whose_reader_leaves(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let out = user.ssh("while echo y; do :; done | read line; echo ${PIPESTATUS[0]} $?").run().ok();
    assert_eq!((out.text().as_str(), out.errors().as_str()), ("141 0", ""));
    Ok(())
}

fn a_script_on_standard_input(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let out =
        user.sshd().client("ssh").args(["-T", &user.at_host()]).input("echo from stdin\nexit 5\n").run();
    assert_eq!((out.status, out.text().contains("from stdin")), (5, true), "{out:?}");
    Ok(())
}

fn languages(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell", "locale"]);
    let has = Run::new("locale").arg("-a").run().ok().text();
    let mut tried = 0;
    for (language, listed_as) in [("C.UTF-8", "C.utf8"), ("en_US.UTF-8", "en_US.utf8")] {
        if !has.lines().any(|line| line == listed_as) {
            continue;
        }
        tried += 1;
        let ssh = user.sshd().client("ssh").args(["-o", "SendEnv=LANG", &user.at_host()]);
        let out = ssh
            .arg("word=$'\\xc3\\xa9\\xe2\\x82\\xac'; echo $LANG ${#word}")
            .env("LANG", language)
            .run()
            .ok();
        assert_eq!((out.text(), out.errors().as_str()), (format!("{language} 2"), ""));
    }
    if tried == 0 {
        return skip("the host has no UTF-8 locale");
    }
    Ok(())
}

fn only_harmless_variables_come_in(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("a plain account takes every variable");
    }
    let user = host.jailed_user(&["basicshell"]);
    let out = Run::new("setpriv")
        .args(["--reuid", &user.uid.to_string(), "--regid", &user.uid.to_string(), "--clear-groups"])
        .arg(host.product().jail_sh())
        .args(["-c", "export -p"])
        .env_clear()
        .env("PATH", "/tmp/evil:/usr/bin")
        .env("USER", &user.name)
        .env("LD_PRELOAD", "/tmp/e.so")
        .env("BASH_ENV", "/tmp/e.sh")
        .env("TZ", "Europe/Paris")
        .env("LC_TIME", "de_DE\u{1b}]0;x\u{7}")
        .env("IFS", "x")
        .env("GCONV_PATH", "/tmp")
        .run()
        .ok()
        .text();
    for line in [
        format!("HOME=\"{}\"", user.inner_home.display()),
        format!("USER=\"{}\"", user.name),
        format!("LOGNAME=\"{}\"", user.name),
        "TZ=\"Europe/Paris\"".to_owned(),
    ] {
        assert!(out.contains(&line), "{line} is not in:\n{out}");
    }
    for word in ["LD_PRELOAD", "BASH_ENV", "GCONV_PATH", "/tmp/evil", "LC_TIME", "jail-sh", "/srv/"] {
        assert!(!out.contains(word), "{word} is in:\n{out}");
    }
    Ok(())
}

fn profile_runs_without_an_error(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let out = user.ssh("bash --login -c 'echo $PATH'").run().ok();
    assert_eq!(out.errors(), "");
    assert!(out.text().contains("/usr/bin"), "{}", out.text());
    Ok(())
}

/// sshd runs ~/.ssh/rc through the login shell, by its path on the host: inside, or not at all (CVE-2008-1657's kin).
fn ssh_rc_runs_inside(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    user.writes(".ssh/rc", "ls / >~/rc-ran; grep NoNewPrivs /proc/self/status >>~/rc-ran\n");
    assert_eq!(user.ssh("echo still").run().ok().text(), "still");
    let trace = std::fs::read_to_string(user.home.join("rc-ran"));
    if Under::test() == Under::Nothing {
        assert!(trace.is_ok(), "without a jail it runs: the test shows nothing");
    } else if let Ok(trace) = trace {
        assert!(!trace.contains("boot") && trace.contains("NoNewPrivs:\t1"), "it ran outside:\n{trace}");
    }
    Ok(())
}

fn forced_command(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let key = user.sshd().public_key();
    user.writes(".ssh/authorized_keys", format!("command=\"echo forced: $SSH_ORIGINAL_COMMAND\" {key}"));
    let out = user.ssh("rm -rf /").run().ok();
    assert_eq!(out.text(), "forced: rm -rf /");
    Ok(())
}

fn many_commands_over_one_connection(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let socket = format!("ControlPath={}/mux-{}", user.sshd().dir().display(), user.name);
    let ssh = |command: &[&str]| {
        user.sshd()
            .client("ssh")
            .args(["-o", &socket, "-o", "ControlPersist=30"])
            .args(command)
            .arg(user.at_host())
    };
    let _master = ssh(&["-M", "-N"]).background();
    jailwright_tests::command::wait_until("the master answers", Duration::from_secs(10), || {
        ssh(&["-O", "check"]).run().status == 0
    });
    for n in 0..5 {
        assert_eq!(ssh(&[]).arg(format!("exit {n}")).run().status, n);
    }
    // With ControlPersist it has become a daemon of its own.
    ssh(&["-O", "exit"]).run().ok();
    Ok(())
}

/// The command is the inner shell's alone to read.
fn a_shell_asks_no_questions_of_its_arguments(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let out = user.ssh("echo 'a  b' \"$((1+1))\" `echo c` ; echo \\$HOME | cat").run().ok();
    assert_eq!(out.text(), "a  b 2 c\n$HOME");
    let long = format!("echo {} | cat >/dev/null; echo done", "x".repeat(100_000));
    assert_eq!(user.ssh(&long).run().ok().text(), "done");
    Ok(())
}
