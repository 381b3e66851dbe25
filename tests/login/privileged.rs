//! Privilege that a section asks to keep for a file of its own.

use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, skip, test};

pub(crate) const TESTS: &[Test] = &[test!(scratch file_capabilities_arrive_with_another_group)];

/// As Debian has dumpcap: root's, a group's, and with capabilities. A change of owner after they were given takes them away.
fn file_capabilities_arrive_with_another_group(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the section is ours");
    }
    let name = host.unique("capable");
    let tool = format!("/srv/{name}");
    let made = format!(
        "cp /bin/true {tool} && chgrp nogroup {tool} && chmod 750 {tool} && setcap cap_net_raw+ep {tool}"
    );
    if Run::sh(&made).run().status != 0 {
        return skip("no setcap, or no capabilities on this file system");
    }
    std::fs::create_dir_all("/etc/jailwright/profiles").expect("mkdir");
    let text = format!("description = \"capable\"\npaths = [\"{tool}\"]\nsetuid = [\"{tool}\"]\n");
    host.product();
    std::fs::write(format!("/etc/jailwright/profiles/{name}.toml"), text).expect("write");
    let jail = host.jail(&format!("/srv/{}", host.unique("jail")), &["basicshell", &name]);
    let inside = jail.join(&tool[1..]);
    let said = Run::new("getcap").arg(&inside).run().ok();
    assert!(said.text().contains("cap_net_raw"), "{} {}", said.text(), said.errors());
    let stat = Run::new("stat").args(["-c", "%U:%G %a"]).arg(&inside).run().ok();
    assert_eq!(stat.text(), "root:nogroup 750");
    Ok(())
}
