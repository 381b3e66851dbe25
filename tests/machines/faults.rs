//! Machines that die, and hosts that are short of something.

use std::os::unix::fs::PermissionsExt;

use jailwright_tests::{Done, Run, Scratch, Test, User, test};

use crate::{PATIENCE, in_machines};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch a_killed_qemu_ends_the_login_with_a_sentence),
    test!(scratch a_kvm_under_which_no_guest_starts),
    test!(scratch twenty_at_once),
];

/// A device that is there and can be opened, and is none: a host whose hypervisor gives it away half.
fn a_kvm_under_which_no_guest_starts(host: &Scratch) -> Done {
    let user = in_machines(host)?;
    Run::new("mknod").args(["/dev/kvm", "c", "1", "3"]).run().ok();
    std::fs::set_permissions("/dev/kvm", PermissionsExt::from_mode(0o600)).expect("chmod");
    let out = user.ssh("echo inside").within(PATIENCE).run();
    let again = user.ssh("echo again").within(PATIENCE).run();
    std::fs::remove_file("/dev/kvm").expect("remove");
    assert_eq!((out.status, out.text().as_str()), (0, "inside"), "{}", out.errors());
    assert_eq!((again.status, out.errors().as_str()), (0, ""), "no word of it to the client");
    let line = host.syslog().expect(&["is emulated", "a guest does not start under '/dev/kvm'"]);
    assert!(line.to_lowercase().contains("kvm") && line.lines().count() == 1, "{line}");
    // The verdict is kept: the second login did not try again.
    let kept = std::fs::read_dir("/var/cache/jailwright/machines").expect("there").flatten();
    let verdicts = kept.filter(|entry| entry.file_name().to_string_lossy().starts_with("kvm-")).count();
    assert_eq!(verdicts, 1);
    user.wait_for_the_end();
    Ok(())
}

/// Each has its machine, all of them the home; more than the host has processors for only takes longer.
fn twenty_at_once(host: &Scratch) -> Done {
    let user = in_machines(host)?;
    let logins: Vec<_> =
        (0..20).map(|n| user.ssh(&format!("echo {n} >number-{n}; echo {n}; exit {n}"))).collect();
    let mut most = 0;
    let outs: Vec<_> = std::thread::scope(|scope| {
        let started: Vec<_> =
            logins.into_iter().map(|login| scope.spawn(move || login.within(PATIENCE * 4).run())).collect();
        while !started.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            most = most.max(resident(&user));
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        started.into_iter().map(|thread| thread.join().expect("ran")).collect()
    });
    // Each has at most what its guest was given, what QEMU has translated, and QEMU itself.
    assert!(most > 0 && most < 20 * (256 + 128 + 64) * 1024, "{most} KiB at most");
    for (n, out) in outs.iter().enumerate() {
        assert_eq!(
            (out.status, out.text()),
            (i32::try_from(n).expect("small"), n.to_string()),
            "{}",
            out.errors()
        );
        let written = std::fs::read_to_string(user.home.join(format!("number-{n}"))).expect("written");
        assert_eq!(written, format!("{n}\n"));
    }
    user.wait_for_the_end();
    Ok(())
}

/// What the user's processes have in memory, in KiB.
fn resident(user: &User<'_>) -> u64 {
    let of = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    user.processes().iter().filter_map(|(pid, _)| of(*pid)).sum()
}

fn a_killed_qemu_ends_the_login_with_a_sentence(host: &Scratch) -> Done {
    let user = in_machines(host)?;
    let mut session =
        user.sshd().client("ssh").arg(user.at_host()).arg("echo ready; exec sleep 600").background();
    assert_eq!(session.first_line().trim(), "ready");
    let processes = user.processes();
    let (qemu, _) = processes.iter().find(|(_, command)| command.contains("qemu-system")).expect("QEMU");
    let pid = rustix::process::Pid::from_raw(i32::try_from(*qemu).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    assert_eq!(session.wait(PATIENCE), Some(137));
    host.syslog().expect(&[&format!("uid {}", user.uid), "is gone"]);
    user.wait_for_the_end();
    Ok(())
}
