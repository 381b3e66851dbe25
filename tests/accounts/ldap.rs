//! Accounts of a real directory: slapd on the loopback, nslcd as its client, logins through sshd, and what becomes of them
//! when the directory is down.
//!
//! Debian's packages are unpacked into the scratch host (tests/deps fetches them), never installed.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jailwright_tests::command::{Background, wait_until};
use jailwright_tests::{Done, Output, Run, Scratch, Test, product, skip, test};

use crate::directory::ask;
use crate::setting::line_of;

pub(crate) const TESTS: &[Test] = &[test!(scratch logins_of_a_real_directory)];

const ROOT: &str = "/usr/local/ldap";
const PORT: u16 = 10_389;
const BASE: &str = "dc=example,dc=org";

/// The directory and its client; both end with this.
struct Directory {
    _server: Background,
    client: Option<Background>,
}

fn unpack() -> bool {
    let debs = product::target_dir().join("debs/ldap");
    let line = format!(
        "set -e; ls {0}/slapd_*.deb >/dev/null; mkdir -p {ROOT} /run/ldap /run/nslcd; for d in {0}/*.deb; do dpkg -x $d {ROOT}; done
        ls -d {ROOT}/usr/lib/*-linux-gnu {ROOT}/lib/*-linux-gnu 2>/dev/null >/etc/ld.so.conf.d/0-ldap.conf || :; ldconfig",
        debs.display()
    );
    Run::sh(&line).run().status == 0
}

impl Directory {
    fn start(entries: &str) -> Directory {
        let conf = format!(
            "include {ROOT}/etc/ldap/schema/core.schema\ninclude {ROOT}/etc/ldap/schema/cosine.schema\n\
             include {ROOT}/etc/ldap/schema/nis.schema\nmodulepath {ROOT}/usr/lib/ldap\nmoduleload back_mdb\n\
             database mdb\nsuffix {BASE}\nrootdn cn=admin,{BASE}\nrootpw secret\ndirectory /run/ldap\nloglevel 0\n"
        );
        std::fs::write("/run/slapd.conf", conf).expect("write");
        std::fs::write("/run/entries.ldif", entries).expect("write");
        let slapd = format!("{ROOT}/usr/sbin/slapd");
        Run::new(&slapd).args(["-T", "add", "-f", "/run/slapd.conf", "-l", "/run/entries.ldif"]).run().ok();
        let url = format!("ldap://127.0.0.1:{PORT}/");
        // -d keeps it in the foreground.
        let server = Run::new(&slapd).args(["-d", "0", "-f", "/run/slapd.conf", "-h", &url]).background();
        wait_until("slapd listens", Duration::from_secs(20), || {
            std::net::TcpStream::connect(("127.0.0.1", PORT)).is_ok()
        });
        std::fs::write("/etc/nslcd.conf", format!("uri {url}\nbase {BASE}\ntimelimit 5\nbind_timelimit 5\n"))
            .expect("write");
        ask("ldap");
        let mut directory = Directory { _server: server, client: None };
        directory.up();
        directory
    }

    fn up(&mut self) {
        self.client = Some(Run::new(format!("{ROOT}/usr/sbin/nslcd")).arg("--nofork").background());
        wait_until("nslcd answers", Duration::from_secs(20), || {
            Run::new("getent").args(["passwd", "ldapuser"]).run().status == 0
        });
    }

    /// As on a host whose directory cannot be reached.
    fn down(&mut self) {
        drop(self.client.take());
        wait_until("nslcd is gone", Duration::from_secs(20), || {
            Run::new("getent").args(["passwd", "ldapuser"]).run().status == 2
        });
    }
}

fn account(name: &str, uid: u32, gid: u32) -> String {
    format!(
        "dn: uid={name},{BASE}\nobjectClass: account\nobjectClass: posixAccount\nobjectClass: shadowAccount\nuid: {name}\n\
         cn: Of The Directory\nuidNumber: {uid}\ngidNumber: {gid}\nhomeDirectory: /home/{name}\n\
         loginShell: /usr/local/sbin/jail-sh\nuserPassword: *\nshadowLastChange: 19000\n\n"
    )
}

fn group(name: &str, gid: u32, member: &str) -> String {
    format!(
        "dn: cn={name},{BASE}\nobjectClass: posixGroup\ncn: {name}\ngidNumber: {gid}\nmemberUid: {member}\n\n"
    )
}

fn home(scratch: &Scratch, name: &str, uid: u32) -> PathBuf {
    let home = PathBuf::from("/home").join(name);
    std::fs::create_dir_all(home.join(".ssh")).expect("mkdir");
    std::fs::write(home.join(".ssh/authorized_keys"), scratch.sshd().public_key()).expect("write");
    for path in [home.clone(), home.join(".ssh"), home.join(".ssh/authorized_keys")] {
        chown(&path, Some(uid), Some(uid)).expect("chown");
    }
    home
}

fn logins_of_a_real_directory(scratch: &Scratch) -> Done {
    if !unpack() {
        return skip("the packages slapd, nslcd and libnss-ldapd were not fetched");
    }
    let (one, two, team) = (2_600_000, 2_600_001, 2_600_002);
    let entries = format!(
        "dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: example\n\n{}{}{}{}{}",
        account("ldapuser", one, one),
        account("ldapmate", two, two),
        group("ldapuser", one, "nobody"),
        group("ldapmate", two, "nobody"),
        group("ldapteam", team, "ldapmate")
    );
    let (user_home, _) = (home(scratch, "ldapuser", one), home(scratch, "ldapmate", two));
    let jail =
        scratch.jail(&format!("/srv/{}", scratch.unique("ldap")), &["basicshell", "extendedshell", "scp"]);
    let before = std::fs::read(jail.join("etc/passwd")).expect("read");
    let mut directory = Directory::start(&entries);
    let ssh = |name: &str, command: &str| -> Output {
        scratch.sshd().client("ssh").arg(format!("{name}@jail")).arg(command).run()
    };
    assert_eq!(line_of("/etc/passwd", "ldapuser"), None);
    assert_eq!(ssh("ldapuser", "true").status, 125, "no jail is named for it yet");

    // By user.
    scratch.add_policy(&format!("[user.ldapuser]\njail = \"{}\"\n", jail.display()));
    let said = ssh("ldapuser", "id -un; pwd; ls /home; grep -c : /etc/passwd; echo in >mark");
    assert_eq!(said.text(), "ldapuser\n/home/ldapuser\nldapuser\n3", "{}", said.errors());
    assert_eq!(std::fs::read_to_string(user_home.join("mark")).expect("in the home outside"), "in\n");
    let file = format!("/tmp/{}", scratch.unique("file"));
    std::fs::write(&file, "content").expect("write");
    scratch.sshd().client("scp").args([&file, "ldapuser@jail:copied"]).run().ok();
    assert_eq!(std::fs::read_to_string(user_home.join("copied")).expect("there"), "content");

    // By group.
    scratch.add_policy(&format!("[group.ldapteam]\njail = \"{}\"\nopen_files = 79\n", jail.display()));
    let said = ssh("ldapmate", "id -Gn; ulimit -n");
    assert_eq!(said.text(), "ldapmate ldapteam\n79", "{}", said.errors());
    assert_eq!(std::fs::read(jail.join("etc/passwd")).ok(), Some(before), "no jail was edited");

    // Down: nobody gets in by it, and an account whose groups cannot be told any more gets in no wider.
    let by_hand = |name: &str, uid: u32| {
        let line = format!(
            "exec setpriv --reuid {uid} --regid {uid} --groups {uid},{team} env -i LOGNAME={name} PATH=/bin \
             /usr/local/sbin/jail-sh -c 'ulimit -n'"
        );
        Run::sh(&line).run()
    };
    assert_eq!(by_hand("ldapmate", two).text(), "79");
    let local = scratch.plain_user();
    let local = local.moved_into(&jail);
    assert_eq!(
        by_hand(&local.name, local.uid).text(),
        "79",
        "an account of the host in a group of the directory"
    );
    directory.down();
    assert_eq!(ssh("ldapuser", "true").status, 255, "sshd knows no such user");
    for (name, uid) in [("ldapmate", two), (local.name.as_str(), local.uid)] {
        let refused = by_hand(name, uid);
        assert_eq!((refused.status, refused.text().as_str()), (125, ""), "{name}: {}", refused.errors());
    }
    scratch.syslog().expect(&["refused", &local.uid.to_string(), "has no name"]);

    // Up again, without a restart of anything of ours.
    directory.up();
    assert_eq!(ssh("ldapuser", "id -un").text(), "ldapuser");
    assert_eq!(by_hand(&local.name, local.uid).text(), "79");
    assert!(Path::new("/home/ldapuser/mark").exists());
    Ok(())
}
