//! The accounts that the report is about: those whose login shell is ours, or jailkit's.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use jail_accounts::convention::split_home;
use jail_accounts::{group, passwd};
use jail_confine::admission::POLICY_FILE;
use jail_confine::policy::file::PolicyFile;
use jail_provision::error::{Error, Result};
use users::os::unix::UserExt;

use super::view::{View, Whose};

/// A jailed account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The login name.
    pub name: Vec<u8>,
    /// Its uid.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
    /// The home on the host.
    pub home: Vec<u8>,
    /// The login shell.
    pub shell: Vec<u8>,
}

impl From<&passwd::Entry<'_>> for Account {
    fn from(entry: &passwd::Entry<'_>) -> Self {
        Self {
            name: entry.name.to_vec(),
            uid: entry.uid,
            gid: entry.gid,
            home: entry.home.to_vec(),
            shell: entry.shell.to_vec(),
        }
    }
}

#[cfg(test)]
impl Account {
    /// The one that the tests of this report speak of.
    pub(super) fn dave() -> Self {
        Self {
            name: b"dave".to_vec(),
            uid: 1001,
            gid: 1001,
            home: b"/j/./home/dave".to_vec(),
            shell: b"/usr/local/sbin/jail-sh".to_vec(),
        }
    }
}

impl Account {
    /// The name, safe to print.
    #[must_use]
    pub fn shown(&self) -> String {
        super::shown(&self.name)
    }

    /// A path below the home.
    #[must_use]
    pub fn below_home(&self, name: &str) -> std::path::PathBuf {
        Path::new(OsStr::from_bytes(&self.home)).join(name)
    }

    /// The jail that passwd names.
    #[must_use]
    pub fn jail(&self) -> Option<&Path> {
        split_home(&self.home).map(|home| Path::new(OsStr::from_bytes(home.jail)))
    }
}

/// The accounts, and the files that they come from.
#[derive(Debug)]
pub(super) struct Jailed {
    /// Who is looked at.
    pub(super) accounts: Vec<Account>,
    /// `/etc/passwd`.
    pub(super) passwd: Vec<u8>,
    /// `/etc/group`.
    pub(super) group: Vec<u8>,
}

impl Jailed {
    /// The names of an account's groups, the primary one first.
    #[must_use]
    pub(super) fn groups_of(&self, account: &Account) -> Vec<(u32, Vec<u8>)> {
        let mut gids = vec![account.gid];
        gids.extend(group::groups_of(&self.group, &account.name));
        gids.into_iter()
            .map(|gid| (gid, group::by_gid(&self.group, gid).map(|g| g.name.to_vec()).unwrap_or_default()))
            .collect()
    }
}

/// Whether a login shell puts its user into a jail.
pub(super) fn is_jail_shell(shell: &[u8]) -> bool {
    matches!(shell.rsplit(|b| *b == b'/').next(), Some(b"jail-sh" | b"jk_chrootsh"))
}

/// Everybody in a jail, or those of them who are named.
///
/// # Errors
/// No passwd file, or a name that is no jailed account.
pub(super) fn jailed(view: &View, named: &[String]) -> Result<Jailed> {
    let read = |path: &str| {
        view.read(path, Whose::Roots).ok_or_else(|| Error::failed(format!("cannot read '{path}'")))
    };
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    let mut accounts: Vec<Account> = passwd::entries(&passwd)
        .filter(|entry| is_jail_shell(entry.shell))
        .map(|entry| Account::from(&entry))
        .collect();
    if view.is_this_host() {
        accounts.extend(of_a_directory(view, &passwd));
    }
    if !named.is_empty() {
        for name in named {
            if !accounts.iter().any(|account| account.name == name.as_bytes()) {
                return Err(Error::failed(format!(
                    "'{}' is no jailed account",
                    super::shown(name.as_bytes())
                ))
                .hint("an account is jailed if its login shell is jail-sh; 'jail-list' names them"));
            }
        }
        accounts.retain(|account| named.iter().any(|name| name.as_bytes() == account.name));
    }
    Ok(Jailed { accounts, passwd, group })
}

/// Accounts of LDAP or SSSD that the policy puts into a jail: the name service is asked, as an ordinary tool does.
fn of_a_directory(view: &View, passwd: &[u8]) -> Vec<Account> {
    let Some(bytes) = view.read(POLICY_FILE, Whose::Roots) else { return Vec::new() };
    // A policy that cannot be read is a finding of its own.
    let Ok(policy) = PolicyFile::parse(&bytes, POLICY_FILE) else { return Vec::new() };
    policy
        .user
        .iter()
        .filter(|(name, layer)| layer.jail.is_some() && passwd::by_name(passwd, name.as_bytes()).is_none())
        .filter_map(|(name, _)| users::get_user_by_name(name))
        .filter(|user| is_jail_shell(user.shell().as_os_str().as_bytes()))
        .map(|user| Account {
            name: user.name().as_bytes().to_vec(),
            uid: user.uid(),
            gid: user.primary_group_id(),
            home: user.home_dir().as_os_str().to_owned().into_vec(),
            shell: user.shell().as_os_str().to_owned().into_vec(),
        })
        .collect()
}
