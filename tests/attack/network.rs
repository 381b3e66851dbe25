//! The network: none unless a section or the administrator asked for it.

use std::net::TcpListener;

use jailwright_tests::user::{Under, bring_probe};
use jailwright_tests::{Done, Scratch, Test, skip, test};

use crate::{attacker, of_a_login};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch reach_a_service_of_the_host),
    test!(scratch only_loopback_is_there),
    test!(scratch a_section_that_asks_gets_it),
    test!(scratch abstract_sockets_where_the_network_is_shared),
];

/// A database on 127.0.0.1 trusts whoever is on the host.
fn reach_a_service_of_the_host(host: &Scratch) -> Done {
    let user = attacker(host);
    let service = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = service.local_addr().expect("address").port();
    user.cannot(&[
        &format!("connect_tcp:127.0.0.1:{port}"),
        &format!("connect_tcp_fastopen:{port}"),
        "send_udp:192.0.2.1:53",
    ]);
    Ok(())
}

/// Interfaces, addresses and routes of the host are not told, either.
fn only_loopback_is_there(host: &Scratch) -> Done {
    let user = attacker(host);
    let devices = user.ssh("cat /proc/net/dev").run().text();
    let names: Vec<&str> =
        devices.lines().skip(2).filter_map(|l| l.split(':').next()).map(str::trim).collect();
    assert!(names.is_empty() || names == ["lo"], "{devices}");
    if Under::test() == Under::Ours {
        let answers = user.probe(&["bind_tcp:127.0.0.1:2222"]);
        assert!(answers[0].1.starts_with("OK"), "its own loopback is not up: {answers:?}");
        assert!(TcpListener::bind("127.0.0.1:2222").is_ok(), "it is the host's");
        // Who comes later finds the network by the cell's first process.
        let mut first = user.ssh("readlink /proc/self/ns/net; exec sleep 4321").background();
        let network = first.first_line();
        let later = user.ssh("readlink /proc/self/ns/net; cat /proc/net/dev").run().text();
        let host = std::fs::read_link("/proc/self/ns/net").expect("a network");
        first.kill();
        let variant = std::env::var("JAIL_VARIANT").unwrap_or_default();
        let shared = !["private", "rootless"].contains(&variant.as_str());
        assert!(network.starts_with("net:") && network != host.to_string_lossy(), "{network}");
        assert!(!shared || later.starts_with(&network), "a second login is in another network: {later}");
        assert!(!later.contains("eth0"), "{later}");
    }
    Ok(())
}

/// Ruling 20: `ssh` asks for the network, `scp` does not.
fn a_section_that_asks_gets_it(host: &Scratch) -> Done {
    of_a_login()?;
    if Under::test() != Under::Ours {
        return skip("sections that ask are ours");
    }
    let user = host.jailed_user(&["basicshell", "ssh"]);
    bring_probe(&user.jail.clone().expect("jailed"));
    let service = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = service.local_addr().expect("address").port();
    let answers = user.probe(&[&format!("connect_tcp:127.0.0.1:{port}")]);
    assert!(answers[0].1.starts_with("OK"), "{answers:?}");
    Ok(())
}

/// Landlock's scope stands in for the network namespace (ABI 6); an older kernel gets a line in the log.
fn abstract_sockets_where_the_network_is_shared(host: &Scratch) -> Done {
    of_a_login()?;
    use std::os::linux::net::SocketAddrExt;
    if Under::test() != Under::Ours {
        return skip("sections that ask are ours");
    }
    let user = host.jailed_user(&["basicshell", "ssh"]);
    bring_probe(&user.jail.clone().expect("jailed"));
    let name = host.unique("abstract-shared");
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).expect("bind");
    user.cannot(&[&format!("connect_abstract:{name}")]);
    Ok(())
}
