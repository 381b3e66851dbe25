//! Other ways in than OpenSSH's command line: dropbear, cron's `SHELL=`, and what ansible and editors send over ssh.

use std::path::PathBuf;
use std::time::Duration;

use jailwright_tests::command::{have, wait_until};
use jailwright_tests::sshd::free_port;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, skip, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch dropbear_lets_into_the_jail),
    test!(scratch a_crontab_with_our_shell_runs_inside),
    test!(scratch what_ansible_sends),
    test!(scratch what_an_editor_sends),
    test!(scratch a_connection_is_known_inside),
];

/// Its password check needs a listed shell (/etc/shells), its key check too.
fn dropbear_lets_into_the_jail(host: &Scratch) -> Done {
    if !have("dropbear") || !have("dropbearkey") {
        return skip("no dropbear on this machine");
    }
    let user = host.jailed_user(&["basicshell"]);
    let listed = std::fs::read_to_string("/etc/shells").unwrap_or_default();
    let ours = host.product().jail_sh().display().to_string();
    if Under::test() == Under::Ours {
        std::fs::write("/etc/shells", format!("{listed}{ours}\n")).expect("write");
    }
    let key = PathBuf::from(format!("/run/{}", host.unique("dropbear")));
    Run::new("dropbearkey").args(["-t", "ed25519", "-f"]).arg(&key).run().ok();
    let port = free_port();
    let server = Run::new("dropbear")
        .args(["-F", "-E", "-s", "-p", &format!("127.0.0.1:{port}"), "-P", "", "-r"])
        .arg(&key)
        .background();
    wait_until("dropbear listens", Duration::from_secs(10), || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    let ssh = |command: &str| {
        user.sshd()
            .client("ssh")
            .args([
                "-p",
                &port.to_string(),
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
            ])
            .args([user.at_host().as_str(), command])
            .run()
    };
    let out = ssh("id -un; pwd; exit 7");
    let expected = format!("{}\n{}", user.name, user.inner_home.display());
    let inside = ssh("test -e /etc/shadow; echo $?").text();
    drop(server);
    std::fs::write("/etc/shells", listed).expect("write");
    assert_eq!((out.status, out.text()), (7, expected), "{}", out.errors());
    assert_eq!(inside == "1", Under::test() == Under::Ours, "{inside}");
    Ok(())
}

/// cron runs `$SHELL -c LINE` as the user, without a terminal, with these four variables and the home as directory.
fn a_crontab_with_our_shell_runs_inside(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the recipe is for our shell");
    }
    let user = host.jailed_user(&["basicshell"]);
    let shell = host.product().jail_sh().display().to_string();
    let out = user
        .outside(&shell)
        .args(["-c", "id -un; pwd; test -e /etc/shadow; echo $? $SHELL; echo problem >&2"])
        .env_clear()
        .env("SHELL", &shell)
        .env("HOME", &user.home)
        .env("LOGNAME", &user.name)
        .env("PATH", "/usr/bin:/bin")
        .dir(&user.home)
        .run()
        .ok();
    let expected = format!("{}\n{}\n1 /bin/bash", user.name, user.inner_home.display());
    assert_eq!((out.text(), out.errors().as_str()), (expected, "problem"));
    Ok(())
}

/// The ssh transport of ansible 2.14: a temporary directory by /bin/sh, a module by sftp, started and removed.
fn what_ansible_sends(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell", "scp", "sftp"]);
    let home = user.inner_home.display().to_string();
    let out = user.ssh("/bin/sh -c 'echo ~ && sleep 0'").run().ok();
    assert_eq!(out.text(), home);
    let make = "/bin/sh -c '( umask 77 && mkdir -p \"` echo ~/.ansible/tmp `\"&& mkdir \"` echo ~/.ansible/tmp/a-1 `\" && \
                echo ansible-tmp-a-1=\"` echo ~/.ansible/tmp/a-1 `\" ) && sleep 0'";
    assert_eq!(user.ssh(make).run().ok().text(), format!("ansible-tmp-a-1={home}/.ansible/tmp/a-1"));
    let module = PathBuf::from(format!("/tmp/{}", host.unique("module")));
    std::fs::write(&module, "#!/bin/sh\necho '{\"ping\": \"pong\"}'\n").expect("write");
    let put = format!("put {} {home}/.ansible/tmp/a-1/AnsiballZ_ping\n", module.display());
    user.sshd().client("sftp").args(["-b", "-", &user.at_host()]).input(put).run().ok();
    let run = format!(
        "/bin/sh -c 'chmod u+x {home}/.ansible/tmp/a-1/ {home}/.ansible/tmp/a-1/AnsiballZ_ping && sleep 0' && \
         /bin/sh -c '{home}/.ansible/tmp/a-1/AnsiballZ_ping && sleep 0'"
    );
    assert_eq!(user.ssh(&run).run().ok().text(), "{\"ping\": \"pong\"}");
    user.ssh(&format!("/bin/sh -c 'rm -f -r {home}/.ansible/tmp/a-1/ > /dev/null 2>&1 && sleep 0'"))
        .run()
        .ok();
    assert!(!user.home.join(".ansible/tmp/a-1").exists());
    Ok(())
}

/// A bootstrap on the standard input of `bash -s`, which leaves a server running that the next connection finds.
fn what_an_editor_sends(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell", "extendedshell"]);
    let script = "set -e\nmkdir -p ~/.editor-server\nnohup sh -c 'echo $$ >~/.editor-server/pid; exec sleep 30' \
                  </dev/null >/dev/null 2>&1 &\nwhile [ ! -s ~/.editor-server/pid ]; do sleep 0.1; done\n\
                  echo \"ready $1 $(uname -m)\"\n";
    let ssh = user.sshd().client("ssh").args(["-T", &user.at_host(), "bash", "-s", "--", "token"]);
    let out = ssh.input(script).run().ok();
    assert_eq!(out.text(), format!("ready token {}", std::env::consts::ARCH));
    let found = user
        .ssh("kill -0 $(cat ~/.editor-server/pid) && echo running; kill $(cat ~/.editor-server/pid)")
        .run()
        .ok();
    assert_eq!(found.text(), "running");
    user.wait_for_the_end();
    Ok(())
}

fn a_connection_is_known_inside(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let out = user
        .ssh("set -- $SSH_CONNECTION; echo $1 $3 $#; set -- $SSH_CLIENT; echo $1 $#; echo ${SSH_TTY-none}")
        .run()
        .ok();
    assert_eq!(out.text(), "127.0.0.1 127.0.0.1 4\n127.0.0.1 3\nnone");
    Ok(())
}
