//! What the cell knows of the network: name servers as the host has them now.

use std::path::Path;

use jailwright_tests::user::Under;
use jailwright_tests::{Done, Scratch, Test, skip, test};

pub(crate) const TESTS: &[Test] = &[test!(scratch name_servers_are_the_hosts_of_now)];

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
