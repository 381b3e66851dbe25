//! Our own pieces: the login shell, its policy, the jails. What they rest on must be root's alone.

use std::collections::BTreeSet;
use std::path::Path;

use jail_accounts::convention::jail_name;
use jail_confine::admission::{POLICY_FILE, STATE_DIRECTORY, open_jail};
use jail_confine::policy::file::PolicyFile;
use jail_confine::trusted::{self, Trust, Untrusted};

use super::Finding;
use super::accounts::{Account, Jailed};
use super::shown;
use super::view::{View, Whose, lines};

/// Sections of the administrator's own.
const PROFILES: &str = "/etc/jailwright/profiles";

pub(super) fn look(view: &View, jailed: &Jailed) -> Vec<Finding> {
    let mut findings = shells(view, jailed);
    findings.extend(policy(view));
    findings.extend(jails(jailed));
    findings
}

fn shells(view: &View, jailed: &Jailed) -> Vec<Finding> {
    let listed = view.read("/etc/shells", Whose::Roots).unwrap_or_default();
    let shells: BTreeSet<&[u8]> = jailed.accounts.iter().map(|account| account.shell.as_slice()).collect();
    let mut findings = Vec::new();
    for shell in shells {
        let path = super::view::path(shell);
        findings.extend(shell_file(path));
        if lines(&listed).any(|line| line == shell) {
            let name = shown(shell);
            findings.push(Finding::host(
                "shell-listed",
                format!("'/etc/shells' lists '{name}'"),
                "whoever knows the account's password runs another shell by 'su -s /bin/sh NAME', chsh lets the \
                 account choose another, and FTP servers let it in",
                format!("sed -i '\\#^{name}$#d' /etc/shells"),
            ));
        }
    }
    findings
}

/// The set-uid program itself: whoever can write it, or the way to it, is root at the next login.
fn shell_file(path: &Path) -> Vec<Finding> {
    const WHY: &str = "every login of a jailed account runs this file with root's rights";
    const ORDINARY: u32 = 0o7777;
    let stat = match trusted::open_file(path, Trust::Root) {
        Ok((_, stat)) => stat,
        Err(why) if why.is_missing() => {
            return vec![Finding::host(
                "shell-missing",
                format!("the login shell '{}' is not there", path.display()),
                "sshd refuses the accounts, and other services may fall back to /bin/sh",
                format!("install -o root -g root -m 4755 jail-sh {}", path.display()),
            )];
        }
        Err(why) => {
            // A change of owner takes the set-uid bit off.
            let close = format!("{} && chmod 4755 {}", close_of(&why, path), path.display());
            return vec![Finding::host("shell-unsafe", why.to_string(), WHY, close)];
        }
    };
    if stat.st_mode & ORDINARY == 0o4755 {
        return Vec::new();
    }
    vec![Finding::host(
        "shell-mode",
        format!("the login shell '{}' has mode {:04o}, not 4755", path.display(), stat.st_mode & ORDINARY),
        if stat.st_mode & 0o4000 == 0 { "without set-uid it refuses every login" } else { WHY },
        format!("chmod 4755 {}", path.display()),
    )]
}

fn close_of(why: &Untrusted, whole: &Path) -> String {
    match why {
        Untrusted::Owner(path, _) => format!("chown root:root {path}"),
        Untrusted::Writable(path, _) => format!("chmod go-w {path}"),
        Untrusted::Kind(path) => {
            format!("ls -ld {path}   # name its real path where '{}' is named", whole.display())
        }
        Untrusted::Open(path, _) | Untrusted::Path(path) => format!("ls -ld {path}"),
    }
}

fn policy(view: &View) -> Vec<Finding> {
    const WHY: &str = "whoever can write it decides what a jailed account may do";
    let mut findings = Vec::new();
    let mut unsafe_file = |path: &Path| match trusted::open_file(path, Trust::Root) {
        Ok(_) => {}
        Err(why) if why.is_missing() => {}
        Err(why) => findings.push(Finding::host("policy-unsafe", why.to_string(), WHY, close_of(&why, path))),
    };
    unsafe_file(Path::new(POLICY_FILE));
    for name in view.names(PROFILES, Whose::Roots) {
        unsafe_file(&Path::new(PROFILES).join(name));
    }
    let text = view.read(POLICY_FILE, Whose::Roots).unwrap_or_default();
    if let Err(why) = PolicyFile::parse(&text, POLICY_FILE) {
        let why = why.to_string();
        findings.push(Finding::host(
            "policy-wrong",
            format!("the policy cannot be read: {why}"),
            "every login is refused until it can be",
            format!("editor {POLICY_FILE}"),
        ));
    }
    findings
}

/// The jails, everything above them, and what jail-init wrote of what they need.
fn jails(jailed: &Jailed) -> Vec<Finding> {
    const WHY: &str = "whoever can write there changes what is in the jail, and logins are refused meanwhile";
    let paths: BTreeSet<&Path> = jailed.accounts.iter().filter_map(Account::jail).collect();
    let mut findings = Vec::new();
    for path in paths {
        match trusted::open_directory(path, Trust::Root) {
            Err(why) => {
                findings.push(Finding::host("jail-unsafe", why.to_string(), WHY, close_of(&why, path)))
            }
            Ok(_) => {
                let Ok(jail) = open_jail(path, Trust::Root) else { continue };
                let name = jail_name(jail.path.as_os_str().as_encoded_bytes());
                let entry = Path::new(STATE_DIRECTORY).join(name).join("entry.toml");
                match trusted::open_file(&entry, Trust::Root) {
                    Ok(_) => {}
                    Err(why) if why.is_missing() => {}
                    Err(why) => {
                        findings.push(Finding::host(
                            "jail-unsafe",
                            why.to_string(),
                            WHY,
                            close_of(&why, &entry),
                        ));
                    }
                }
            }
        }
    }
    findings
}
