//! Commands, terminals and transfers through a machine, over a real sshd.

use jailwright_tests::command::wait_until;
use jailwright_tests::{Done, Run, Scratch, Test, test};

use crate::{PATIENCE, in_machines, with_policy};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch a_command_with_its_streams_and_status),
    test!(scratch a_terminal_with_its_size_and_keys),
    test!(scratch files_by_scp_sftp_and_rsync),
    test!(scratch nothing_of_a_machine_is_roots),
    test!(scratch a_cut_line_ends_the_machine),
    test!(scratch what_a_machine_cannot_give_is_refused),
    test!(scratch the_helper_is_of_no_use_to_anyone_else),
];

fn a_command_with_its_streams_and_status(host: &Scratch) -> Done {
    let user = in_machines(host)?;
    let script = "uname -r; id -un; id -u; pwd; echo \"$HOME $SHELL\"; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; \
                  tail -n +3 /proc/net/dev | cut -d: -f1; echo apart >&2; md5sum; exit 7";
    let input: Vec<u8> = (0..200_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    let expected = Run::new("md5sum").input(input.clone()).run().ok().text();
    let out = user.ssh(script).input(input).within(PATIENCE).run();
    assert_eq!(out.status, 7, "{}\n{}", out.errors(), host.syslog().with("jail-sh").join("\n"));
    assert_eq!(out.errors(), "apart");
    let text = out.text();
    let kernel = std::env::var("JAIL_VM_KERNEL").expect("set");
    let home = user.inner_home.display().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert!(kernel.ends_with(lines[0]), "the guest's own kernel: {text}");
    assert_eq!(&lines[1..4], [&user.name, &user.uid.to_string(), &home], "{text}");
    assert_eq!(lines[4], format!("{home} /bin/bash"));
    for words in ["NoNewPrivs:\t1", "CapEff:\t0000000000000000", "Seccomp:\t2", "    lo", expected.trim()] {
        assert!(text.contains(words), "{words} in {text}");
    }
    host.syslog().expect(&[&user.name, "in a virtual machine"]);
    host.syslog().expect(&["the virtual machine is emulated"]);
    user.wait_for_the_end();
    Ok(())
}

fn a_terminal_with_its_size_and_keys(host: &Scratch) -> Done {
    let user = in_machines(host)?;
    let mut terminal = user.terminal();
    terminal.resize(33, 77);
    terminal.line("PS1=; stty size; echo $((6 * 7)) $SSH_TTY; tty");
    terminal.expect_within("33 77", PATIENCE);
    terminal.expect_within("42 /dev/ttyj0", PATIENCE);
    terminal.resize(40, 100);
    terminal.line("until [ \"$(stty size)\" = '40 100' ]; do :; done; echo new size");
    terminal.expect_within("new size\r", PATIENCE);
    terminal
        .line("bash -c 'trap \"echo caught; exit 4\" INT; echo wait\"\"ing; while :; do sleep 0.1; done'");
    terminal.expect_within("waiting", PATIENCE);
    terminal.send("\u{3}");
    terminal.expect_within("caught", PATIENCE);
    terminal.line("echo status $?");
    terminal.expect_within("status 4", PATIENCE);
    terminal.line("sleep 700 & jobs");
    terminal.expect_within("Running", PATIENCE);
    terminal.line("exit 9");
    assert_eq!(terminal.wait(), 9);
    user.wait_for_the_end();
    Ok(())
}

fn files_by_scp_sftp_and_rsync(host: &Scratch) -> Done {
    let user = in_machines(host)?;
    let here = format!("/tmp/{}", host.unique("sent"));
    std::fs::create_dir(&here).expect("mkdir");
    let bytes: Vec<u8> =
        (0..300_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    std::fs::write(format!("{here}/file"), &bytes).expect("write");
    std::fs::write(format!("{here}/small name"), "small\n").expect("write");
    for (flag, to) in [("-O", "by-scp"), ("-s", "by-sftp")] {
        let target = format!("{}:{to}", user.at_host());
        let scp = user.sshd().client("scp").arg(flag).arg(format!("{here}/file")).arg(&target);
        scp.within(PATIENCE).run().ok();
        assert!(std::fs::read(user.home.join(to)).expect("sent") == bytes, "{to}");
        let back = format!("{here}/back");
        user.sshd().client("scp").arg(flag).arg(&target).arg(&back).within(PATIENCE).run().ok();
        assert!(std::fs::read(&back).expect("fetched") == bytes, "{to}");
        std::fs::remove_file(&back).expect("remove");
    }
    let rsync = Run::new("rsync").args(["-a", "-e", &user.sshd().remote_shell()]);
    let rsync = rsync.arg(format!("{here}/")).arg(format!("{}:tree", user.at_host()));
    rsync.within(PATIENCE).run().ok();
    assert!(std::fs::read(user.home.join("tree/file")).expect("sent") == bytes);
    assert_eq!(std::fs::read(user.home.join("tree/small name")).expect("sent"), b"small\n");
    user.wait_for_the_end();
    Ok(())
}

/// Who could do what, if it were taken over: QEMU, what hears it, and what serves the home are the user's and have no right.
fn nothing_of_a_machine_is_roots(host: &Scratch) -> Done {
    let user = in_machines(host)?;
    let mut session =
        user.sshd().client("ssh").arg(user.at_host()).arg("echo ready; exec sleep 600").background();
    assert_eq!(session.first_line().trim(), "ready");
    let processes = user.processes();
    let pid_of = |words: &str| {
        processes
            .iter()
            .find(|(_, command)| command.contains(words))
            .unwrap_or_else(|| panic!("{words}: {processes:?}"))
            .0
    };
    let mut looked_at = Vec::new();
    for (pid, command) in &processes {
        if !command.contains("qemu-system") && !command.contains("jail-machine") {
            continue;
        }
        looked_at.push(command.clone());
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)).expect("a field").trim().to_owned()
        };
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{set} of {command}");
        }
        assert_eq!(field("NoNewPrivs:"), "1", "{command}");
        let uid = user.uid.to_string();
        assert!(field("Uid:").split_whitespace().all(|id| id == uid), "{command}: {status}");
    }
    assert!(looked_at.len() >= 3, "QEMU, and two beside it: {processes:?}");
    // QEMU sees a root of its own, and no network.
    let qemu = pid_of("qemu-system");
    assert!(!std::path::Path::new(&format!("/proc/{qemu}/root/etc/shadow")).exists());
    let net = std::fs::read_to_string(format!("/proc/{qemu}/net/dev")).expect("alive");
    assert_eq!(net.lines().skip(2).count(), 1, "{net}");
    // What serves the home sees the home alone.
    let serves = processes
        .iter()
        .filter(|(_, command)| command.contains("jail-machine"))
        .find(|(pid, _)| std::fs::read_link(format!("/proc/{pid}/root")).is_ok_and(|root| root == user.home));
    let (pid, _) = serves.unwrap_or_else(|| panic!("none has the home as root: {processes:?}"));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
    assert!(status.contains("Seccomp:\t2"), "{status}");
    session.kill();
    user.wait_for_the_end();
    Ok(())
}

fn a_cut_line_ends_the_machine(host: &Scratch) -> Done {
    let user = in_machines(host)?;
    let mut session = user
        .sshd()
        .client("ssh")
        .arg(user.at_host())
        .arg("trap '' TERM HUP; echo ready; while :; do :; done")
        .background();
    assert_eq!(session.first_line().trim(), "ready");
    session.kill();
    wait_until("the machine ends", PATIENCE, || user.processes().is_empty());
    Ok(())
}

fn what_a_machine_cannot_give_is_refused(host: &Scratch) -> Done {
    for (lines, words) in [
        ("root = \"writable\"\n", "use \"discard\""),
        ("memory = \"9000G\"\n", "this host has"),
        ("memory = \"32M\"\n", "96M at least"),
        ("session = \"shared\"\n", "a machine of its own"),
        ("agent = true\n", "agent"),
        ("bind = [{ from = \"/srv\", to = \"/srv\" }]\n", "bind"),
        ("vm.accel = \"kvm\"\n", "/dev/kvm"),
    ] {
        let user = with_policy(host, lines)?;
        let out = user.ssh("echo inside").within(PATIENCE).run();
        assert_eq!((out.status, out.text().as_str()), (125, ""), "{lines}");
        let line = host.syslog().expect(&[&format!("uid {}", user.uid), words]);
        assert!(line.contains("refused"), "{line}");
        // The client hears one sentence, and none of that.
        assert!(out.errors().contains("(reference ") && !out.errors().contains(words), "{}", out.errors());
    }
    Ok(())
}

/// It is root's when jail-sh starts it, and nobody's else.
fn the_helper_is_of_no_use_to_anyone_else(host: &Scratch) -> Done {
    let user = in_machines(host)?;
    let helper = "/usr/local/libexec/jailwright/jail-machine";
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(helper).expect("installed").permissions());
    assert_eq!(mode & 0o7777, 0o755, "no set-uid");
    let out = user.outside(helper).args(["3", "4", "5", "/srv"]).dir("/").run();
    assert_eq!(out.status, 125);
    // One that others could have changed is not executed.
    let away = format!("{helper}.away");
    let user = in_machines(host)?;
    let moved = format!("/usr/local/{}", host.unique("elsewhere"));
    std::fs::create_dir_all(format!("{moved}/sbin")).expect("mkdir");
    std::fs::create_dir_all(format!("{moved}/libexec/jailwright")).expect("mkdir");
    Run::new("cp").args(["-p", "/usr/local/sbin/jail-sh", &format!("{moved}/sbin/jail-sh")]).run().ok();
    let planted = format!("{moved}/libexec/jailwright/jail-machine");
    std::fs::write(&planted, "#!/bin/sh\nid >&2\n").expect("write");
    std::fs::set_permissions(&planted, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    user.owns(std::path::Path::new(&planted));
    let shell = format!("{moved}/sbin/jail-sh");
    let out = user.outside(&shell).args(["-c", "true"]).env("LOGNAME", &user.name).dir("/").run();
    assert_eq!(out.status, 125, "{}", out.errors());
    assert!(!out.errors().contains("uid=0"), "{}", out.errors());
    host.syslog().expect(&[&format!("uid {}", user.uid), "jail-machine"]);
    assert!(!std::path::Path::new(&away).exists());
    Ok(())
}
