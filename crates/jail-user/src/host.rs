//! Where things are on this host, in one value, so that tests can have a host of their own.

use std::path::{Path, PathBuf};

/// The host's directories and programs.
#[derive(Debug, Clone)]
pub struct Host {
    /// Account files: `/etc`.
    pub etc: PathBuf,
    /// Our settings: `/etc/jailwright`.
    pub config: PathBuf,
    /// Our state: `/var/lib/jailwright`.
    pub state: PathBuf,
    /// The skeleton of new homes: `/etc/skel`.
    pub skeleton: PathBuf,
    /// The login shell of jailed accounts.
    pub login_shell: PathBuf,
    /// systemd's units of the administrator: `/etc/systemd/system`.
    pub units: PathBuf,
    /// systemd's list of users who linger.
    pub linger: PathBuf,
    /// `systemctl`, if the host has one.
    pub systemctl: Option<PathBuf>,
    /// Whether systemd runs now (else there is nothing to reload or stop).
    pub systemd_runs: bool,
    /// `sshd`, if the host has one.
    pub sshd: Option<PathBuf>,
    /// The host's own program that makes accounts, as the administrator has set it up.
    pub useradd: Option<PathBuf>,
    /// The host's own program that deletes them.
    pub userdel: Option<PathBuf>,
    /// Programs that drop cached accounts, with their arguments, as usermod runs them.
    pub flush: Vec<(PathBuf, Vec<&'static str>)>,
}

impl Host {
    /// This machine. The login shell is the one that lies beside our own program, unless another is named.
    #[must_use]
    pub fn this(login_shell: Option<PathBuf>) -> Self {
        let first = |paths: &[&str]| paths.iter().map(PathBuf::from).find(|path| path.exists());
        Self {
            etc: "/etc".into(),
            config: "/etc/jailwright".into(),
            state: "/var/lib/jailwright".into(),
            skeleton: "/etc/skel".into(),
            login_shell: login_shell.unwrap_or_else(beside_ourselves),
            units: "/etc/systemd/system".into(),
            linger: "/var/lib/systemd/linger".into(),
            systemctl: first(&["/usr/bin/systemctl", "/bin/systemctl"]),
            systemd_runs: Path::new("/run/systemd/system").is_dir(),
            sshd: jail_provision::sshd::program(),
            useradd: first(&["/usr/sbin/useradd", "/sbin/useradd"]),
            userdel: first(&["/usr/sbin/userdel", "/sbin/userdel"]),
            flush: flushers(),
        }
    }
}

/// `/usr/local/sbin/jail-user` → `/usr/local/sbin/jail-sh`.
fn beside_ourselves() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|own| own.parent().map(|dir| dir.join("jail-sh")))
        .unwrap_or_else(|| "/usr/local/sbin/jail-sh".into())
}

fn flushers() -> Vec<(PathBuf, Vec<&'static str>)> {
    let mut found = Vec::new();
    let nscd = PathBuf::from("/usr/sbin/nscd");
    if Path::new("/run/nscd/socket").exists() && nscd.exists() {
        found.push((nscd.clone(), vec!["-i", "passwd"]));
        found.push((nscd, vec!["-i", "group"]));
    }
    let sss = PathBuf::from("/usr/sbin/sss_cache");
    if sss.exists() {
        found.push((sss, vec!["-U", "-G"]));
    }
    found
}

/// The settings of login.defs that we go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginDefs {
    /// The first uid of ordinary users.
    pub uid_min: u32,
    /// The gids of system groups.
    pub system_gids: (u32, u32),
    /// The mode of new homes.
    pub home_mode: u32,
}

impl LoginDefs {
    /// Reads login.defs; what it does not say is as in shadow's own defaults.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let value = |key: &str| {
            text.lines()
                .map(str::split_whitespace)
                .filter_map(|mut words| (words.next() == Some(key)).then(|| words.next()).flatten())
                .next_back()
        };
        let number = |key: &str| value(key).and_then(|word| word.parse::<u32>().ok());
        let octal = |key: &str| value(key).and_then(|word| u32::from_str_radix(word, 8).ok());
        Self {
            uid_min: number("UID_MIN").unwrap_or(1000),
            system_gids: (number("SYS_GID_MIN").unwrap_or(101), number("SYS_GID_MAX").unwrap_or(999)),
            home_mode: octal("HOME_MODE").unwrap_or(0o777 & !octal("UMASK").unwrap_or(0o022)) & 0o7777,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_defs_as_shadow_reads_them() {
        let read = LoginDefs::parse(b"# UID_MIN 5\nUID_MIN\t\t 2000\nUMASK 027\n#HOME_MODE 0700\n");
        assert_eq!(read, LoginDefs { uid_min: 2000, system_gids: (101, 999), home_mode: 0o750 });
        assert_eq!(LoginDefs::parse(b"HOME_MODE 0700\nUMASK 022").home_mode, 0o700);
        assert_eq!(LoginDefs::parse(b"\xff").uid_min, 1000);
    }
}
