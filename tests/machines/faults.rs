//! Machines that die, and hosts that are short of something.

use jailwright_tests::{Done, Scratch, Test, test};

use crate::{PATIENCE, in_machines};

pub(crate) const TESTS: &[Test] = &[test!(scratch a_killed_qemu_ends_the_login_with_a_sentence)];

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
