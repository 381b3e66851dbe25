//! `/dev/log` inside: lines arrive, marked; they can fake no other program's; a flood is cut; a new logger is found.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use jailwright_tests::{Done, Run, Scratch, Test, skip, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch lines_arrive_marked),
    test!(scratch a_flood_is_cut),
    test!(scratch a_restarted_logger_is_found),
];

/// An account whose jail has `logger`.
fn with_logger(scratch: &Scratch) -> Option<jailwright_tests::User<'_>> {
    let user = scratch.attacker();
    let jail = user.jail.clone()?;
    let made = scratch.product().command("jail-cp").arg("-j").arg(&jail).arg("/usr/bin/logger").run();
    (made.status == 0 && jail.join("usr/bin/logger").exists()).then_some(user)
}

const NO_LOGGER: &str = "the host has no logger to copy into a jail";

fn lines_arrive_marked(scratch: &Scratch) -> Done {
    let Some(user) = with_logger(scratch) else { return skip(NO_LOGGER) };
    user.ssh("logger plain-line; logger -t sshd -p auth.info 'Accepted password for root'; logger -p local3.err third").run().ok();
    let log = scratch.syslog();
    let mark = format!("{}@", user.name);
    for (words, start) in [
        (["plain-line", &mark], "<13>"),
        // auth is not a user's to write to, and the tag is text like any other.
        (["Accepted password for root", &mark], "<14>"),
        (["third", &mark], "<155>"),
    ] {
        let line = log.expect(&words);
        assert!(line.starts_with(&format!("{start}{mark}")), "{line}");
    }
    // The way out that the first process keeps is nobody else's.
    let said = user.ssh("ls /proc/1/cwd/ /proc/1/fd 2>&1; ls -l /dev/log").run();
    assert_eq!(said.text().matches("denied").count(), 2, "{}", said.text());
    Ok(())
}

fn a_flood_is_cut(scratch: &Scratch) -> Done {
    let Some(user) = with_logger(scratch) else { return skip(NO_LOGGER) };
    let word = scratch.unique("flood");
    let line = format!("for i in {{1..3000}}; do echo {word}; done | logger; sleep 2; logger {word}-after");
    user.ssh(&line).within(Duration::from_secs(60)).run().ok();
    scratch.syslog().expect(&[&format!("{word}-after")]);
    let passed = scratch.syslog().with(&word).len();
    assert!((10..1000).contains(&passed), "{passed} of 3000 lines passed");
    let told = scratch.syslog().expect(&[&format!("{}@", user.name), "lines were dropped"]);
    assert!(told.starts_with("<12>"), "{told}");
    Ok(())
}

fn a_restarted_logger_is_found(scratch: &Scratch) -> Done {
    let Some(user) = with_logger(scratch) else { return skip(NO_LOGGER) };
    // In a mount namespace of its own, a logger that stops and starts under a living cell.
    let dir = format!("/run/{}", scratch.unique("logger"));
    std::fs::create_dir(&dir).expect("mkdir");
    let socket = format!("{dir}/log");
    let open = |path: &str| {
        let bound = UnixDatagram::bind(path).expect("bind");
        bound.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        Run::new("chmod").args(["666", path]).run().ok();
        bound
    };
    let first = open(&socket);
    let (id, complaints) = (user.uid.to_string(), format!("{dir}/complaints"));
    let script = format!(
        "set -e; mount -t tmpfs none /mnt; cp -a /dev/null /dev/zero /dev/random /dev/urandom /dev/tty /mnt/; \
         mkdir /mnt/pts /mnt/shm; ln -s {socket} /mnt/log; mount --bind /mnt /dev; \
         exec setpriv --reuid {id} --regid {id} --clear-groups env -i USER={0} LOGNAME={0} \
         /usr/local/sbin/jail-sh -c 'logger one; read x; logger two; echo sent; read x; logger three; logger four; read x'",
        user.name
    );
    let mut child = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::fs::File::create(&complaints).expect("create"))
        .spawn()
        .expect("spawn");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut go_on = || std::io::Write::write_all(&mut stdin, b"\n").expect("write");
    // jail-sh's own line about the entry comes to the same socket.
    let mark = format!("<13>{}@", user.name);
    let hear = |from: &UnixDatagram| loop {
        let mut line = [0; 2048];
        let length = from.recv(&mut line).unwrap_or_default();
        let line = String::from_utf8_lossy(&line[..length]).into_owned();
        if line.is_empty() || line.starts_with(&mark) {
            return line;
        }
    };
    let heard = hear(&first);
    assert!(heard.contains("one"), "{heard}; {}", std::fs::read_to_string(&complaints).unwrap_or_default());
    // Gone: a line is lost, and nothing waits for it.
    drop(first);
    std::fs::remove_file(&socket).expect("remove");
    go_on();
    let mut sent = String::new();
    stdout.read_line(&mut sent).expect("read");
    assert_eq!(sent, "sent\n");
    let second = open(&socket);
    go_on();
    // The lost one may have been on its way until now.
    let heard = [hear(&second), hear(&second)];
    assert!(heard.iter().any(|line| line.contains("three")), "the new logger is found: {heard:?}");
    go_on();
    assert_eq!(child.wait().expect("ends").code(), Some(0));
    Ok(())
}
