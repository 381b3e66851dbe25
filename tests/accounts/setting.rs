//! What the tests of accounts share: thin jails, accounts, the command, and a picture of a tree to compare.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use jailwright_tests::user::shadow;
use jailwright_tests::{Output, Run, Scratch, product};

/// A login shell that only has to be there.
pub(crate) const LOGIN_SHELL: &str = "/srv/accounts-jail-sh";

static NEXT: AtomicU32 = AtomicU32::new(2_000_000);

/// An account of the scratch host.
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) home: PathBuf,
}

/// Makes an account by useradd, with a home at `/home/NAME`.
#[track_caller]
pub(crate) fn account() -> Account {
    let uid = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("acc{uid}");
    let id = uid.to_string();
    shadow("useradd", &["--create-home", "--shell", "/bin/bash", "--user-group", "--uid", &id, &name]);
    Account { home: PathBuf::from(format!("/home/{name}")), name, uid }
}

impl Account {
    /// Its line in a passwd file.
    pub(crate) fn line_in(&self, file: &str) -> Option<String> {
        line_of(file, &self.name)
    }

    /// Runs a line of shell as the account.
    pub(crate) fn sh(&self, line: &str) -> Run {
        let id = self.uid.to_string();
        Run::new("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--clear-groups", "/bin/sh", "-c", line])
            .dir(&self.home)
    }
}

/// The first line of a name.
pub(crate) fn line_of(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().find(|line| line.split(':').next() == Some(name)).map(ToOwned::to_owned)
}

/// A jail of the thinnest kind. Below /srv it is on another file system than /home, below /home/jails on the same.
#[track_caller]
pub(crate) fn jail(scratch: &Scratch, below: &str) -> PathBuf {
    let jail = PathBuf::from(format!("{below}/{}", scratch.unique("jail")));
    for dir in ["etc", "bin", "usr/bin"] {
        std::fs::create_dir_all(jail.join(dir)).expect("mkdir");
    }
    for shell in ["bin/bash", "bin/sh"] {
        std::fs::copy("/bin/true", jail.join(shell)).expect("copy");
    }
    std::fs::write(jail.join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n").expect("write");
    std::fs::write(jail.join("etc/group"), "root:x:0:\n").expect("write");
    if !Path::new(LOGIN_SHELL).exists() {
        std::fs::copy("/bin/true", LOGIN_SHELL).expect("copy");
    }
    jail
}

/// `jail-user` with a login shell that is there.
pub(crate) fn jail_user() -> Run {
    Run::new(product::built("jail-user")).args(["--login-shell", LOGIN_SHELL])
}

/// `jail-user -j JAIL …`, run.
#[track_caller]
pub(crate) fn jail_user_in(jail: &Path, args: &[&str]) -> Output {
    jail_user().arg("-j").arg(jail).args(args).run()
}

/// Everything of a tree that must survive a move, as one text: kinds, modes, owners, sizes, times, targets, link
/// counts, content, ACLs and other attributes.
#[track_caller]
pub(crate) fn picture(tree: &Path) -> String {
    let line = "LC_ALL=C; export LC_ALL
        find . -printf '%P\\0%y %m %U %G %l %n %T@' \\( -type d -printf '\\n' -o -printf ' %s\\n' \\) | sort
        find . -type f -print0 | sort -z | xargs -0r sha256sum --zero | tr '\\0' '\\n'
        find . ! -type l -print0 | sort -z | xargs -0r getfacl -n -p 2>/dev/null
        find . -print0 | sort -z | xargs -0r getfattr -h -d -m - -e hex 2>/dev/null
        find . -type f -links +1 -printf '%i %P\\n' | sort -k2 | awk '{ if (!($1 in n)) n[$1] = ++c; print n[$1], $2 }'";
    let output = Run::sh(line).dir(tree).run().ok();
    assert!(!output.stdout.is_empty());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Small random numbers from a printed seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(what: &str) -> Self {
        let seed = match std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
            Some(seed) => seed,
            None => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |now| now.as_secs()),
        };
        println!("{what}: SEED={seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}
