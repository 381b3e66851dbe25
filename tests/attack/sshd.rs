//! What sshd does for an account without asking its shell. `share/ssh/` has the lines that close these doors; each
//! test shows the door open without them and closed with them.

use std::time::Duration;

use jailwright_tests::command::have;
use jailwright_tests::product::checkout;
use jailwright_tests::sshd::Sshd;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Skip, Test, User, skip, test};

use crate::attacker;

pub(crate) const TESTS: &[Test] = &[
    test!(scratch forward_a_port),
    test!(scratch forward_a_socket_of_the_host),
    test!(scratch run_the_rc_file),
    test!(scratch internal_sftp_sees_the_host),
];

/// An account in our group, and an sshd that has our drop-in.
fn closed(host: &Scratch) -> Result<(User<'_>, Sshd), Skip> {
    if Under::test() != Under::Ours {
        return Err(Skip("the drop-in is ours".to_owned()));
    }
    if !have("gcc") {
        return Err(Skip("no C compiler on this machine".to_owned()));
    }
    let user = attacker(host);
    let drop_in = std::fs::read_dir(checkout().join("share/ssh"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "conf"));
    let Some(drop_in) = drop_in else { return Err(Skip("share/ssh has no drop-in".to_owned())) };
    // Appended, as a Match block has to be; the port and keys come first.
    let text = std::fs::read_to_string(drop_in).expect("read");
    let sshd = Sshd::start_with(&without_subsystem(&text));
    user.accept_key(&sshd);
    Ok((user, sshd))
}

/// The scratch server has its own sftp line; a second one is an error to sshd.
fn without_subsystem(text: &str) -> String {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("Subsystem"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// Asks for `-L` and uses it; true if it led anywhere.
fn forwards(sshd: &Sshd, user: &User<'_>, to: &str) -> bool {
    let local =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let _tunnel =
        sshd.client("ssh").args(["-N", "-L", &format!("{local}:{to}"), &user.at_host()]).background();
    for _ in 0..50 {
        if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", local)) {
            use std::io::Read;
            stream.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
            let mut greeting = [0; 4];
            return stream.read_exact(&mut greeting).is_ok();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

/// CVE-2004-1653: TCP forwarding reaches the host's loopback without any shell.
fn forward_a_port(host: &Scratch) -> Done {
    let (user, sshd) = closed(host)?;
    let open = user.sshd();
    let to = format!("127.0.0.1:{}", open.port());
    assert!(
        forwards(open, &user, &to),
        "the door is not even open without the drop-in: the test shows nothing"
    );
    assert!(!forwards(&sshd, &user, &to), "forwarding works in spite of the drop-in");
    Ok(())
}

/// The same for sockets with a path: docker.sock.
fn forward_a_socket_of_the_host(host: &Scratch) -> Done {
    let (user, sshd) = closed(host)?;
    let path = format!("/run/{}", host.unique("service.sock"));
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    Run::new("chmod").args(["666", &path]).run().ok();
    std::thread::spawn(move || {
        use std::io::Write;
        for stream in listener.incoming().take(2) {
            drop(stream.and_then(|mut s| s.write_all(b"hello")));
        }
    });
    assert!(forwards(user.sshd(), &user, &path), "the door is not even open without the drop-in");
    assert!(!forwards(&sshd, &user, &path), "forwarding works in spite of the drop-in");
    Ok(())
}

/// ~/.ssh/rc is started by a shell of the host's, which has the user's variables: with PermitUserEnvironment his library
/// runs in it.
fn run_the_rc_file(host: &Scratch) -> Done {
    let (user, sshd) = closed(host)?;
    user.writes(".ssh/rc", "true\n");
    let mark = user.home.join("host-shell");
    let source = user.writes(
        "rc.c",
        format!(
            "#include <fcntl.h>\n#include <unistd.h>\n__attribute__((constructor)) static void run(void) {{\n\
             close(open(\"{}\", O_CREAT | O_WRONLY, 0600)); }}\n",
            mark.display()
        ),
    );
    let library = user.home.join("rc.so");
    Run::new("gcc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).run().ok();
    user.writes(".ssh/environment", format!("LD_PRELOAD={}\n", library.display()));
    let open = Sshd::start("PermitUserEnvironment yes");
    user.accept_key(&open);
    open.client("ssh").args([&user.at_host(), "true"]).run();
    assert!(mark.exists(), "the door is not even open without the drop-in");
    std::fs::remove_file(&mark).expect("rm");
    sshd.client("ssh").args([&user.at_host(), "true"]).run().ok();
    assert!(!mark.exists(), "the library ran in spite of the drop-in");
    Ok(())
}

/// internal-sftp runs in sshd itself, never the shell: jail-user warns, and the external server is confined.
fn internal_sftp_sees_the_host(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("jail-sh is meant");
    }
    let user = attacker_with_sftp(host);
    let secret = format!("/srv/{}", host.unique("for-all"));
    std::fs::write(&secret, "host").expect("write");
    let reads = |sshd: &Sshd| {
        let to = format!("/tmp/{}", host.unique("got"));
        sshd.client("sftp")
            .args(["-q", "-b", "-", &user.at_host()])
            .input(format!("get {secret} {to}\n"))
            .run();
        std::path::Path::new(&to).exists()
    };
    let internal = Sshd::start("Subsystem sftp internal-sftp");
    user.accept_key(&internal);
    assert!(reads(&internal), "the door is not even open with internal-sftp");
    assert!(!reads(user.sshd()), "the external sftp-server reads the host's files");
    Ok(())
}

fn attacker_with_sftp(host: &Scratch) -> User<'_> {
    host.jailed_user(&["basicshell", "sftp"])
}
