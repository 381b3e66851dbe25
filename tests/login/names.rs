//! What the cell knows of the network: name servers and hosts as the host has them now, and whom it asks.

use std::path::Path;

use jailwright_tests::user::Under;
use jailwright_tests::{Done, Scratch, Test, skip, test};

pub(crate) const TESTS: &[Test] =
    &[test!(scratch name_servers_are_the_hosts_of_now), test!(scratch names_of_hosts)];

/// One test, since there is one host: NetworkManager and dhclient write a new file and rename it.
fn name_servers_are_the_hosts_of_now(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the file is ours");
    }
    let set = |server: &str| {
        std::fs::write("/etc/resolv.conf.new", format!("nameserver {server}\n")).expect("write");
        std::fs::rename("/etc/resolv.conf.new", "/etc/resolv.conf").expect("rename");
    };
    let old = std::fs::read("/etc/resolv.conf").unwrap_or_default();
    if Path::new("/etc/resolv.conf").is_symlink() {
        std::fs::remove_file("/etc/resolv.conf").expect("rm");
    }
    set("192.0.2.1");
    let jail = host.jail(&format!("/srv/{}", host.unique("names")), &["basicshell", "netbasics"]);
    let with = |network: &str| {
        let user = host.plain_user().moved_into(&jail);
        host.add_policy(&format!("[user.{}]\nnetwork = {network}\n", user.name));
        user
    };
    let (shared, none, ports) = (with("\"host\""), with("\"none\""), with("{ connect = [53], bind = [] }"));
    let mut first = shared
        .sshd()
        .client("ssh")
        .arg(shared.at_host())
        .arg("cat /etc/resolv.conf; exec sleep 60")
        .background();
    assert_eq!(first.first_line().trim(), "nameserver 192.0.2.1");
    set("192.0.2.22");
    assert_eq!(
        shared.ssh("cat /etc/resolv.conf").run().ok().text(),
        "nameserver 192.0.2.22",
        "in the same cell"
    );
    assert_eq!(shared.ssh("echo evil >/etc/resolv.conf").run().status, 1);
    assert_eq!(
        ports.ssh("cat /etc/resolv.conf").run().ok().text(),
        "nameserver 192.0.2.22\n\noptions use-vc"
    );
    assert_eq!(none.ssh("cat /etc/resolv.conf").run().ok().text(), "nameserver 192.0.2.1", "the jail's own");
    drop(first);
    shared.wait_for_the_end();
    std::fs::write("/etc/resolv.conf", old).expect("write");
    Ok(())
}

/// The host's names where its network is to be had and this machine's alone elsewhere, also when the jail's file is replaced
/// under a running cell, as an update does.
fn names_of_hosts(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the file is ours");
    }
    let add = |line: &str| {
        let old = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        std::fs::write("/etc/hosts.new", format!("{old}{line}\n")).expect("write");
        std::fs::rename("/etc/hosts.new", "/etc/hosts").expect("rename");
    };
    let name = host.unique("printer");
    add(&format!("192.0.2.7 {name}"));
    let jail = host.jail(&format!("/srv/{}", host.unique("hosts")), &["basicshell", "netbasics"]);
    let with = |network: &str| {
        let user = host.plain_user().moved_into(&jail);
        host.add_policy(&format!("[user.{}]\nnetwork = {network}\nhostname = \"cell\"\n", user.name));
        user
    };
    // Of files alone: a name without an IPv6 address would be asked for again of a name server that may not answer.
    let ask = |names: &str| format!("for n in {names}; do getent -s files hosts $n | cut -d' ' -f1; done");
    let (shared, none) = (with("\"host\""), with("\"none\""));
    assert_eq!(none.ssh(&ask(&format!("localhost cell {name}"))).run().text(), "::1\n127.0.1.1");
    assert_eq!(none.ssh("grep ^hosts: /etc/nsswitch.conf").run().ok().text(), "hosts:     files");
    let mut first =
        shared.sshd().client("ssh").arg(shared.at_host()).arg("echo in; exec sleep 60").background();
    assert_eq!(first.first_line(), "in");
    assert_eq!(shared.ssh(&ask(&format!("cell {name}"))).run().ok().text(), "127.0.1.1\n192.0.2.7");
    // What jail-update does: the kernel takes a mount away from a name that another file gets.
    std::fs::write(jail.join("etc/.hosts"), "192.0.2.9 elsewhere\n").expect("write");
    std::fs::rename(jail.join("etc/.hosts"), jail.join("etc/hosts")).expect("rename");
    add(&format!("192.0.2.8 {name}-2"));
    assert_eq!(
        shared.ssh(&ask(&format!("cell {name} {name}-2"))).run().ok().text(),
        "127.0.1.1\n192.0.2.7\n192.0.2.8",
        "in the same cell"
    );
    let left = shared.ssh("grep -c elsewhere /etc/hosts; ls -A /run | grep hosts").run();
    assert_eq!(left.text(), "0", "the jail's own is seen, or the name of ours");
    assert_ne!(shared.ssh("echo 192.0.2.1 bank >>/etc/hosts").run().status, 0);
    drop(first);
    shared.wait_for_the_end();
    Ok(())
}
