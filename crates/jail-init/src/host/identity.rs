//! Who an account is besides its name: other names of its uid, and groups whose members own the host by another way.

use jail_accounts::{group, passwd};
use jail_confine::admission::is_root_in_disguise;

use super::Finding;
use super::accounts::{Account, Jailed, is_jail_shell};
use super::shown;

pub(super) fn look(jailed: &Jailed, account: &Account) -> Vec<Finding> {
    let mut findings = twins(jailed, account);
    findings.extend(groups(jailed, account));
    findings
}

/// Two names of one uid are one person to the kernel: the one without a jail may trace the other's processes.
fn twins(jailed: &Jailed, account: &Account) -> Vec<Finding> {
    let name = account.shown();
    if account.uid == 0 {
        let close = format!("userdel {name}");
        return vec![Finding::of(account, "uid-of-root", "the account is root", "no jail holds root", close)];
    }
    passwd::by_uid(&jailed.passwd, account.uid)
        .filter(|other| other.name != account.name && !is_jail_shell(other.shell))
        .map(|other| {
            Finding::of(
                account,
                "uid-shared",
                format!(
                    "uid {} is also '{}', whose shell is '{}'",
                    account.uid,
                    shown(other.name),
                    shown(other.shell)
                ),
                "whoever logs in under the other name owns the same files and processes, outside of any jail",
                format!("usermod -u {} {}", free_uid(&jailed.passwd), shown(other.name)),
            )
        })
        .collect()
}

/// The first uid above all ordinary ones, so that the line can be run as it stands.
fn free_uid(file: &[u8]) -> u32 {
    let ordinary = passwd::entries(file).map(|entry| entry.uid).filter(|uid| (1000..60_000).contains(uid));
    ordinary.max().map_or(1000, |highest| highest + 1)
}

fn groups(jailed: &Jailed, account: &Account) -> Vec<Finding> {
    const WHY: &str = "its members own the host by another way: block devices, password hashes, container engines, \
                       other people's sessions";
    let name = account.shown();
    let mut findings = Vec::new();
    for (gid, group_name) in jailed.groups_of(account) {
        if !is_root_in_disguise(&jailed.group, gid) {
            continue;
        }
        let group_name = shown(&group_name);
        let (what, close) = if gid == account.gid {
            let own = group::by_name(&jailed.group, &account.name).map(|own| own.name);
            let own = own.map_or_else(|| "users".to_owned(), shown);
            (format!("the primary group is '{group_name}'"), format!("usermod -g {own} {name}"))
        } else {
            (format!("member of the group '{group_name}'"), format!("gpasswd -d {name} {group_name}"))
        };
        findings.push(Finding::of(account, "group", what, WHY, close));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_and_groups() {
        let passwd = b"root:x:0:0::/root:/bin/bash\ndave:x:1001:1001::/j/./home/dave:/usr/local/sbin/jail-sh\n\
            davina:x:1001:1001::/home/davina:/bin/bash\nerin:x:1002:6::/j/./home/erin:/usr/local/sbin/jail-sh\n\
            fine:x:1003:1003::/j/./home/fine:/usr/local/sbin/jail-sh\n";
        let group = b"root:x:0:\ndisk:x:6:\ndocker:x:990:dave\ndave:x:1001:\nerin:x:1002:\nfine:x:1003:\n";
        let accounts =
            passwd::entries(passwd).filter(|e| is_jail_shell(e.shell)).map(|e| Account::from(&e)).collect();
        let jailed = Jailed { accounts, passwd: passwd.to_vec(), group: group.to_vec() };
        let found: Vec<(&str, String)> = jailed
            .accounts
            .iter()
            .flat_map(|account| look(&jailed, account))
            .map(|finding| (finding.id, finding.close))
            .collect();
        assert_eq!(
            found,
            [
                ("uid-shared", "usermod -u 1004 davina".to_owned()),
                ("group", "gpasswd -d dave docker".to_owned()),
                ("group", "usermod -g erin erin".to_owned()),
            ]
        );
    }
}
