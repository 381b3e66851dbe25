//! The host's IPC objects, sockets and shared memory.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use jailwright_tests::command::have;
use jailwright_tests::{Done, Run, Scratch, Test, skip, test};

use crate::attacker;

pub(crate) const TESTS: &[Test] = &[
    test!(scratch system_v_objects),
    test!(scratch posix_message_queues),
    test!(scratch shared_memory_files),
    test!(scratch abstract_sockets),
    test!(scratch sockets_with_a_path),
    test!(scratch another_cells_objects),
];

/// Open to everybody on the host (firejail and jailkit leave them so).
fn system_v_objects(host: &Scratch) -> Done {
    if !have("ipcmk") {
        return skip("no ipcmk on this machine");
    }
    let user = attacker(host);
    let made =
        Run::sh("ipcmk -M 4096 -p 0666; ipcmk -S 1 -p 0666; ipcmk -Q -p 0666; ipcs -m -s -q | grep 0x")
            .run()
            .ok();
    let keys: Vec<String> = made
        .text()
        .lines()
        .filter(|l| l.starts_with("0x"))
        .filter_map(|l| l.split(' ').next())
        .map(str::to_owned)
        .collect();
    assert!(keys.len() >= 3, "{}", made.text());
    let attempts: Vec<String> = keys
        .iter()
        .flat_map(|key| ["shmget", "semget", "msgget"].map(|name| format!("{name}:{key}")))
        .collect();
    user.cannot(&attempts.iter().map(String::as_str).collect::<Vec<_>>());
    Ok(())
}

/// The same with names.
fn posix_message_queues(host: &Scratch) -> Done {
    let user = attacker(host);
    let name = host.unique("queue");
    let path = format!("/dev/mqueue/{name}");
    std::fs::write(&path, "").expect("make a queue");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).expect("chmod");
    user.cannot(&[&format!("mq_open:{name}")]);
    Ok(())
}

/// /dev/shm is the cell's own.
fn shared_memory_files(host: &Scratch) -> Done {
    let user = attacker(host);
    let path = format!("/dev/shm/{}", host.unique("shm"));
    std::fs::write(&path, "host").expect("write");
    user.cannot(&[&format!("read:{path}")]);
    let inside = format!("/dev/shm/{}", host.unique("shm"));
    user.ssh(&format!("echo x >{inside}")).run();
    assert!(!std::path::Path::new(&inside).exists(), "the cell wrote to the host's /dev/shm");
    Ok(())
}

/// CVE-2020-15257: containerd's abstract socket.
fn abstract_sockets(host: &Scratch) -> Done {
    let user = attacker(host);
    let name = host.unique("abstract");
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = UnixListener::bind_addr(&address).expect("bind");
    user.cannot(&[&format!("connect_abstract:{name}")]);
    Ok(())
}

/// docker.sock, mysqld.sock, the bus: none of the host's is in the tree.
fn sockets_with_a_path(host: &Scratch) -> Done {
    let user = attacker(host);
    std::fs::create_dir_all("/run/service").expect("mkdir");
    let path = format!("/run/service/{}", host.unique("socket"));
    let _listener = UnixListener::bind(&path).expect("bind");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).expect("chmod");
    user.cannot(&[&format!("connect_unix:{path}")]);
    let found = user
        .ssh("find / -xdev -type s 2>/dev/null; find /run /tmp /var /dev -type s 2>/dev/null")
        .run()
        .text();
    let odd: Vec<&str> = found.lines().filter(|line| *line != "/dev/log").collect();
    assert!(odd.is_empty(), "sockets inside: {odd:?}");
    Ok(())
}

/// Two users' cells share nothing either.
fn another_cells_objects(host: &Scratch) -> Done {
    if !have("ipcmk") {
        return skip("no ipcmk on this machine");
    }
    let (user, other) = (attacker(host), attacker(host));
    let mut theirs = other.terminal();
    theirs.expect("$ ");
    theirs.ask("umask 0; echo secret >/tmp/theirs; echo secret >/dev/shm/theirs");
    user.cannot(&["read:/tmp/theirs", "read:/dev/shm/theirs"]);
    Ok(())
}
