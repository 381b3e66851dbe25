//! Accounts of the scratch host, and the ways into them.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::{Run, wait_until};
use crate::pty::Pty;
use crate::scratch::Scratch;
use crate::sshd::Sshd;

/// Enters a cell of the caller's own making.
const ROOTLESS: &str = "/usr/local/bin/rootless-shell";

/// What an account's login leads into: the product, or what it is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Under {
    /// No jail: /bin/bash on the host. What works here has to work in a jail.
    Nothing,
    /// Our jail-init, jail-user and jail-sh.
    Ours,
    /// Debian's jailkit.
    Jailkit,
    /// A login shell that is a script around bubblewrap, as hosting panels have.
    Bubblewrap,
}

impl Under {
    /// From `JAIL_UNDER_TEST`: none, ours (default), jailkit, bwrap.
    #[must_use]
    pub fn test() -> Under {
        match std::env::var("JAIL_UNDER_TEST").as_deref() {
            Err(_) | Ok("ours") => Under::Ours,
            Ok("none") => Under::Nothing,
            Ok("jailkit") => Under::Jailkit,
            Ok("bwrap") => Under::Bubblewrap,
            Ok(other) => panic!("JAIL_UNDER_TEST={other}: one of none, ours, jailkit, bwrap"),
        }
    }
}

/// An account with a key for [`Scratch::sshd`].
pub struct User<'s> {
    scratch: &'s Scratch,
    /// Its name.
    pub name: String,
    /// Its uid and gid.
    pub uid: u32,
    /// Its home as the host sees it.
    pub home: PathBuf,
    /// Its home as it sees it itself.
    pub inner_home: PathBuf,
    /// Its jail, if it has one.
    pub jail: Option<PathBuf>,
    /// The program that it enters a cell by, where that is not its login.
    entry: Option<&'static str>,
}

/// A program of the shadow suite. It gives up at once where a run that another test has just killed left its lock and nobody
/// has reaped that yet, so it is tried again.
#[track_caller]
pub fn shadow(program: &str, args: &[&str]) {
    wait_until("the account files are free", Duration::from_secs(30), || {
        let said = Run::new(program).args(args).run();
        let is_free = !said.errors().contains("try again later");
        if is_free {
            said.ok();
        }
        is_free
    });
}

impl Scratch {
    /// An ordinary account with /bin/bash, made by useradd.
    #[track_caller]
    pub fn plain_user(&self) -> User<'_> {
        let uid = self.new_uid();
        let name = format!("jw{uid}");
        let home = PathBuf::from(format!("/home/{name}"));
        let id = uid.to_string();
        shadow("groupadd", &["--gid", &id, &name]);
        shadow("useradd", &["--create-home", "--shell", "/bin/bash", "--uid", &id, "--gid", &id, &name]);
        // '!' is "locked" to an sshd without PAM.
        shadow("usermod", &["-p", "*", &name]);
        let user = User { scratch: self, name, uid, inner_home: home.clone(), home, jail: None, entry: None };
        user.accept_key(self.sshd());
        user
    }

    /// An account inside a jail with these sections (or outside any, if `JAIL_UNDER_TEST=none`).
    #[track_caller]
    pub fn jailed_user(&self, sections: &[&str]) -> User<'_> {
        let user = self.plain_user();
        if Under::test() == Under::Nothing {
            return user;
        }
        let jail = self.shared_jail(sections);
        user.moved_into(&jail)
    }

    /// A jail made from sections.
    #[track_caller]
    pub fn jail(&self, at: &str, sections: &[&str]) -> PathBuf {
        let jail = PathBuf::from(at);
        match Under::test() {
            Under::Nothing => std::fs::create_dir_all(&jail).expect("mkdir"),
            Under::Ours => {
                self.product().command("jail-init").arg("-j").arg(&jail).args(sections).run().ok();
            }
            Under::Jailkit => {
                std::fs::create_dir_all(&jail).expect("mkdir");
                let sections = sections.iter().filter(|s| !matches!(**s, "locale"));
                Run::new("jk_init")
                    .arg("-j")
                    .arg(&jail)
                    .args(sections)
                    .args(["jk_lsh", "extendedshell"])
                    .run()
                    .ok();
            }
            Under::Bubblewrap => std::fs::create_dir_all(jail.join("home")).expect("mkdir"),
        }
        jail
    }

    /// A jailed account with the probe at hand, for attacks: `probe` is in its `$PATH`.
    #[track_caller]
    pub fn attacker(&self) -> User<'_> {
        let user = self.jailed_user(&["basicshell", "extendedshell"]);
        let jail = user.jail.clone().filter(|_| Under::test() != Under::Bubblewrap);
        bring_probe(&jail.unwrap_or_else(|| PathBuf::from("/")));
        user
    }
}

impl<'s> User<'s> {
    /// Lets the key of `sshd` in.
    pub fn accept_key(&self, sshd: &Sshd) {
        let dir = self.home.join(".ssh");
        std::fs::create_dir_all(&dir).expect("mkdir");
        let file = dir.join("authorized_keys");
        let keys = std::fs::read_to_string(&file).unwrap_or_default() + &sshd.public_key();
        std::fs::write(&file, keys).expect("write");
        for path in [&dir, &file] {
            self.owns(path);
        }
    }

    /// Moves the account, home and all, into a jail.
    #[track_caller]
    #[must_use]
    pub fn moved_into(mut self, jail: &Path) -> User<'s> {
        match Under::test() {
            Under::Nothing => return self,
            Under::Ours => {
                let jail_user = self.scratch.product().command("jail-user");
                jail_user.args(["-m", "-j"]).arg(jail).arg(&self.name).run().ok();
            }
            Under::Jailkit => {
                Run::new("jk_jailuser")
                    .args(["-n", "-m", "-s", "/bin/bash", "-j"])
                    .arg(jail)
                    .arg(&self.name)
                    .run()
                    .ok();
                shadow("usermod", &["-s", "/usr/sbin/jk_chrootsh", &self.name]);
            }
            Under::Bubblewrap => self.give_bubblewrap_shell(),
        }
        if Under::test() != Under::Bubblewrap {
            self.home = jail.join(self.inner_home.strip_prefix("/").expect("absolute"));
        }
        self.jail = Some(jail.to_owned());
        self
    }

    /// Has it enter cells that it makes itself: jail-run, without root, in a jail of its own cache. It sees its home as /home.
    #[track_caller]
    #[must_use]
    pub fn rootless(mut self) -> User<'s> {
        self.scratch.product();
        bring_probe(Path::new("/"));
        let cache = PathBuf::from(format!("/srv/cache-{}", self.uid));
        std::fs::create_dir_all(&cache).expect("mkdir");
        std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o700)).expect("chmod");
        self.owns(&cache);
        let script = "#!/bin/bash\n[ $# -gt 0 ] || set -- -i\nexport XDG_CACHE_HOME=/srv/cache-$UID\n\
             exec /usr/local/bin/jail-run basicshell extendedshell --with /usr/bin/probe --bind \"$HOME:/home\" --env HOME=/home \
             -- /bin/bash \"$@\"\n";
        let temporary = format!("/usr/local/bin/.rootless-{}", self.uid);
        std::fs::write(&temporary, script).expect("write");
        std::fs::set_permissions(&temporary, PermissionsExt::from_mode(0o755)).expect("chmod");
        std::fs::rename(&temporary, ROOTLESS).expect("rename");
        self.entry = Some(ROOTLESS);
        self.inner_home = PathBuf::from("/home");
        self
    }

    /// The program that stands between the account and its cell, if it is not the login shell.
    #[must_use]
    pub fn entry(&self) -> Option<&'static str> {
        self.entry
    }

    /// What hosting panels do: a script around bwrap as login shell.
    fn give_bubblewrap_shell(&self) {
        let script = "#!/bin/bash\nargs=(); [ $# -eq 0 ] && args=(-l)\n\
             exec bwrap --unshare-all --die-with-parent --ro-bind /usr /usr --ro-bind /etc /etc --symlink usr/bin /bin \
             --symlink usr/lib /lib --symlink usr/lib64 /lib64 --symlink usr/sbin /sbin --proc /proc --dev /dev --tmpfs /tmp \
             --dir /run --bind \"$HOME\" \"$HOME\" --chdir \"$HOME\" /bin/bash \"${args[@]}\" \"$@\"\n";
        std::fs::write("/usr/local/bin/bwrap-shell", script).expect("write");
        Run::new("chmod").args(["755", "/usr/local/bin/bwrap-shell"]).run().ok();
        shadow("usermod", &["-s", "/usr/local/bin/bwrap-shell", &self.name]);
    }

    /// Gives the account a file or directory.
    pub fn owns(&self, path: &Path) {
        chown(path, Some(self.uid), Some(self.uid)).expect("chown");
    }

    /// Writes a file of the account's below its home.
    #[track_caller]
    pub fn writes(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home.join(name);
        std::fs::write(&path, content).expect("write");
        self.owns(&path);
        path
    }

    /// `user@jail`, the host's name in the client's configuration.
    #[must_use]
    pub fn at_host(&self) -> String {
        format!("{}@jail", self.name)
    }

    /// `ssh user@jail COMMAND`, not yet run.
    #[must_use]
    pub fn ssh(&self, command: &str) -> Run {
        if let Some(entry) = self.entry {
            return self.outside(entry).args(["-c", command]).env("HOME", &self.home).dir("/");
        }
        self.sshd().client("ssh").arg(self.at_host()).arg(command)
    }

    /// Tries attempts of the probe inside: each with the kernel's answer.
    #[track_caller]
    #[must_use]
    pub fn probe(&self, attempts: &[&str]) -> Vec<(String, String)> {
        let quoted = attempts.iter().map(|a| format!("'{a}'")).collect::<Vec<_>>().join(" ");
        let out = self.ssh(&format!("probe {quoted}")).run();
        let answers: Vec<(String, String)> = out
            .text()
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, answer)| (name.to_owned(), answer.to_owned()))
            .collect();
        assert_eq!(answers.len(), attempts.len(), "{} {}", out.text(), out.errors());
        answers
    }

    /// Fails the test if one of these attempts succeeds.
    #[track_caller]
    pub fn cannot(&self, attempts: &[&str]) {
        let mut answers = self.probe(attempts);
        answers.retain(|(_, answer)| answer.starts_with("OK"));
        assert!(answers.is_empty(), "possible inside: {answers:?}");
    }

    /// `ssh -tt` on a terminal, a login. The terminal is dumb unless said otherwise, so that lines stay readable.
    #[track_caller]
    #[must_use]
    pub fn terminal(&self) -> Pty {
        self.terminal_of("dumb")
    }

    /// [`User::terminal`] with another kind of terminal.
    #[track_caller]
    #[must_use]
    pub fn terminal_of(&self, term: &str) -> Pty {
        if let Some(entry) = self.entry {
            let run = self.outside(entry).env("HOME", &self.home).env("TERM", term).dir("/");
            return Pty::spawn(&run.into_command());
        }
        let ssh = self.sshd().client("ssh").arg("-tt").arg(self.at_host()).env("TERM", term).into_command();
        Pty::spawn(&ssh)
    }

    /// The sshd it logs in through.
    #[must_use]
    pub fn sshd(&self) -> &'s Sshd {
        self.scratch.sshd()
    }

    /// The scratch host it lives on.
    #[must_use]
    pub fn scratch(&self) -> &'s Scratch {
        self.scratch
    }

    /// Processes of the account, as the host sees them: pid and command line.
    #[must_use]
    pub fn processes(&self) -> Vec<(u32, String)> {
        processes_of(self.uid)
    }

    /// Waits until no process of the account is left: its cell has ended.
    #[track_caller]
    pub fn wait_for_the_end(&self) {
        wait_until("the cell ends", Duration::from_secs(20), || self.processes().is_empty());
    }

    /// `jail-sh -c COMMAND` as sshd starts it, without the cost of a connection.
    #[must_use]
    pub fn jail_sh(&self, command: &str) -> Run {
        let jail_sh = self.scratch.product().jail_sh().display().to_string();
        self.outside(&jail_sh).args(["-c", command]).env("LOGNAME", &self.name).dir("/")
    }

    /// The directory in which the account's shared cell is written down.
    #[track_caller]
    #[must_use]
    pub fn place_of_the_cell(&self) -> PathBuf {
        let ours = format!("{}-", self.uid);
        std::fs::read_dir("/run/jailwright/cells")
            .expect("cells")
            .flatten()
            .map(|cell| cell.path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&ours)))
            .expect("a cell")
    }

    /// Runs a program as the account, outside any jail: what a neighbour on the host with the same uid could do.
    #[must_use]
    pub fn outside(&self, program: &str) -> Run {
        let id = self.uid.to_string();
        Run::new("setpriv").args(["--reuid", &id, "--regid", &id, "--clear-groups", program])
    }
}

/// Puts the probe where every account below this root finds it. By rename: another test may be running it.
#[track_caller]
pub fn bring_probe(root: &Path) {
    let dir = root.join("usr/bin");
    let to = dir.join("probe");
    if to.exists() {
        return;
    }
    let temporary = dir.join(format!(".probe-{:?}", std::thread::current().id()));
    std::fs::copy(crate::product::built_static("probe"), &temporary).expect("copy the probe");
    std::fs::rename(&temporary, &to).expect("rename");
}

/// Living processes with this real uid: pid and command line.
#[must_use]
pub fn processes_of(uid: u32) -> Vec<(u32, String)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
            let field = |name: &str| {
                status.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned())
            };
            let real: u32 = field("Uid:")?.split_whitespace().next()?.parse().ok()?;
            if real != uid || field("State:")?.starts_with('Z') {
                return None;
            }
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            Some((pid, String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned()))
        })
        .collect()
}
