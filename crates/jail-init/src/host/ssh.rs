//! sshd: what is in force for each account, asked of sshd itself, and where it looks for the account's keys.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jail_provision::sshd::{self, DROP_IN, Door, FROM_HERE, Settings};

use super::accounts::{Account, Jailed};
use super::view::View;
use super::{Finding, Question, shown};

/// The group that the drop-in speaks of.
const GROUP: &str = "jailed";
/// A connection from elsewhere (an address for documentation): `Match Address` may open what is shut for this host.
const FROM_ELSEWHERE: &str = "host=client.example.org,addr=192.0.2.1";

pub(super) fn look(view: &View, jailed: &Jailed, question: &Question) -> Vec<Finding> {
    let Some(program) = sshd::program().filter(|_| view.is_this_host()) else { return Vec::new() };
    let mut from: Vec<&str> = question.from.iter().map(String::as_str).collect();
    if from.is_empty() {
        from = vec![FROM_HERE, FROM_ELSEWHERE];
    }
    let mut findings = Vec::new();
    for account in &jailed.accounts {
        for from in &from {
            let name = OsStr::from_bytes(&account.name);
            match sshd::settings(&program, question.sshd_config.as_deref(), name, from) {
                Ok(settings) => findings.extend(of_settings(view, jailed, account, &settings)),
                Err(error) => {
                    view.trouble(error.message);
                    // The next account would get the same answer.
                    return findings;
                }
            }
        }
    }
    findings
}

fn of_settings(view: &View, jailed: &Jailed, account: &Account, settings: &Settings) -> Vec<Finding> {
    let doors = sshd::open_doors(settings);
    let mut findings: Vec<Finding> = doors.iter().map(|door| of_door(view, account, door)).collect();
    let is_member = jailed.groups_of(account).iter().any(|(_, name)| name == GROUP.as_bytes());
    if !is_member && doors.iter().any(|door| door.in_match) && view.has(DROP_IN) {
        findings.push(Finding::of(
            account,
            "ssh-group",
            format!("not in the group '{GROUP}', of which '{DROP_IN}' speaks"),
            "sshd confines the members of that group only",
            format!("gpasswd -a {} {GROUP}", account.shown()),
        ));
    }
    findings.extend(elsewhere(view, account, settings));
    findings.extend(keys(view, account, settings));
    findings
}

fn of_door(view: &View, account: &Account, door: &Door) -> Finding {
    let close = if !door.in_match {
        format!(
            "{}   # in /etc/ssh/sshd_config, before any Match and any other such line; then: sshd -t && systemctl reload ssh",
            door.close
        )
    } else if view.has(DROP_IN) {
        format!(
            "{}   # below 'Match Group {GROUP}', before any line that says otherwise; then: sshd -t && systemctl reload ssh",
            door.close
        )
    } else {
        format!(
            "{}   # below 'Match Group {GROUP}', as share/jailwright/ssh/60-jailwright.conf has it: install it as \
             {DROP_IN}; then: sshd -t && systemctl reload ssh",
            door.close
        )
    };
    Finding::of(account, door.id, format!("sshd has '{}' in force", door.setting), door.why, close)
}

/// A root or a command that sshd puts before the login shell.
fn elsewhere(view: &View, account: &Account, settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let root = settings.value("chrootdirectory");
    if !matches!(root, "none" | "") {
        let root = expanded(root, account);
        if account.jail() != Some(root.as_path()) {
            findings.push(Finding::of(
                account,
                "ssh-chroot",
                format!("sshd changes the root to '{}', which is not the account's jail", root.display()),
                "the login shell of that tree is started, not the host's, and internal-sftp serves that tree",
                "ChrootDirectory none   # below 'Match Group jailed'; then: sshd -t && systemctl reload ssh"
                    .to_owned(),
            ));
        }
    }
    let forced = settings.value("forcecommand");
    let program = forced.split_whitespace().next().unwrap_or_default();
    if let (true, Some(jail)) = (program.starts_with('/'), account.jail()) {
        if !view.has(jail.join(program.trim_start_matches('/'))) {
            findings.push(Finding::of(
                account,
                "ssh-force-command",
                format!("sshd forces '{}', which is not in the jail", shown(forced.as_bytes())),
                "the login shell runs it inside the jail, where every login then fails",
                format!("jail-cp -j {} {program}", jail.display()),
            ));
        }
    }
    findings
}

/// Where keys lie decides who comes in as the account: its own home, or a place that is root's alone.
fn keys(view: &View, account: &Account, settings: &Settings) -> Vec<Finding> {
    let home = plain(super::view::path(&account.home));
    let files = settings.all("authorizedkeysfile").iter().flat_map(|line| line.split_whitespace());
    files
        .filter(|file| *file != "none")
        .map(|file| plain(&expanded(file, account)))
        .filter(|file| !file.starts_with(&home))
        .filter_map(|file| {
            let writable = written_by_others(view, &file)?;
            Some(Finding::of(
                account,
                "ssh-keys",
                format!(
                    "sshd takes the account's keys from '{}', and others can write '{}'",
                    file.display(),
                    writable.display()
                ),
                "whoever writes there logs in as the account, with options of his choice",
                format!("chown root:root {0} && chmod go-w {0}", writable.display()),
            ))
        })
        .collect()
}

/// The first part of a path that somebody but root can write. What is not there yet is made by who can write above.
fn written_by_others(view: &View, path: &Path) -> Option<PathBuf> {
    let mut parts: Vec<&Path> = path.ancestors().collect();
    parts.reverse();
    parts
        .into_iter()
        .find(|part| view.stat(part).is_some_and(|s| s.st_uid != 0 || s.st_mode & 0o022 != 0))
        .map(Path::to_path_buf)
}

/// sshd's tokens; a relative path is below the home.
fn expanded(value: &str, account: &Account) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'h') => bytes.extend_from_slice(&account.home),
            Some(b'u') => bytes.extend_from_slice(&account.name),
            Some(b'U') => bytes.extend_from_slice(account.uid.to_string().as_bytes()),
            Some(b'%') => bytes.push(b'%'),
            _ => {}
        }
    }
    super::view::path(&account.home).join(super::view::path(&bytes))
}

/// Without `/./`.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dave() -> Account {
        Account {
            name: b"dave".to_vec(),
            uid: 1001,
            gid: 1001,
            home: b"/srv/jail/./home/dave".to_vec(),
            shell: b"/usr/local/sbin/jail-sh".to_vec(),
        }
    }

    fn ids(dir: &Path, text: &str) -> Vec<&'static str> {
        let view = View::below(dir).unwrap();
        let mut findings = elsewhere(&view, &dave(), &Settings::parse(text));
        findings.extend(keys(&view, &dave(), &Settings::parse(text)));
        findings.into_iter().map(|finding| finding.id).collect()
    }

    #[test]
    fn roots_commands_and_keys_elsewhere() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("srv/jail/bin")).unwrap();
        std::fs::create_dir_all(dir.path().join("etc/keys")).unwrap();
        std::fs::write(dir.path().join("srv/jail/bin/git"), "").unwrap();
        assert_eq!(
            ids(dir.path(), "authorizedkeysfile .ssh/authorized_keys %h/.ssh/more\nchrootdirectory none"),
            [""; 0]
        );
        assert_eq!(ids(dir.path(), "chrootdirectory /srv/jail\nforcecommand /bin/git x"), [""; 0]);
        assert_eq!(ids(dir.path(), "chrootdirectory /srv/%u"), ["ssh-chroot"]);
        assert_eq!(ids(dir.path(), "forcecommand /bin/hg"), ["ssh-force-command"]);
        let set = |mode| {
            std::fs::set_permissions(dir.path().join("etc/keys"), PermissionsExt::from_mode(mode)).unwrap();
        };
        set(0o777);
        let found = ids(dir.path(), "authorizedkeysfile /etc/keys/%u");
        assert!(found.contains(&"ssh-keys"), "{found:?}");
        if rustix::process::geteuid().is_root() {
            set(0o755);
            assert_eq!(ids(dir.path(), "authorizedkeysfile /etc/keys/%u"), [""; 0]);
        }
    }
}
