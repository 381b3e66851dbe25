//! cron and at: they run as the account, by a shell of their own choice, and never ask its login shell.

use std::path::{Path, PathBuf};

use super::Finding;
use super::accounts::{Account, is_jail_shell};
use super::shown;
use super::view::{View, Whose, lines, words};

/// Where the tables of single users lie, one file a user: cron of Debian and of Red Hat, incron.
const TABLES: [&str; 3] = ["/var/spool/cron/crontabs", "/var/spool/cron", "/var/spool/incron"];
/// Where the jobs of at lie.
const AT: [&str; 3] = ["/var/spool/cron/atjobs", "/var/spool/at", "/var/spool/atjobs"];

pub(super) fn look(view: &View, account: &Account) -> Vec<Finding> {
    let mut findings = own_tables(view, account);
    findings.extend(host_tables(view, account));
    findings.extend(at_jobs(view, account));
    findings
}

fn own_tables(view: &View, account: &Account) -> Vec<Finding> {
    const WHY: &str = "cron runs its lines as the account by /bin/sh on the host, without the login shell";
    let name = account.shown();
    let tables = TABLES.iter().map(|dir| Path::new(dir).join(super::view::path(&account.name)));
    tables
        .filter_map(|table| {
            let job = view.read(&table, Whose::Users).and_then(|bytes| first_job(&bytes).map(shown))?;
            let close = if table.starts_with("/var/spool/incron") {
                format!("incrontab -u {name} -r")
            } else {
                format!("crontab -u {name} -r   # or let its first line be SHELL={}", shown(&account.shell))
            };
            let what = format!("'{}' has jobs ('{job}')", table.display());
            Some(Finding::of(account, "cron", what, WHY, close))
        })
        .collect()
}

/// The first line that runs something outside; lines after `SHELL=…/jail-sh` run inside.
fn first_job(table: &[u8]) -> Option<&[u8]> {
    let mut jailed = false;
    for line in lines(table) {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        match setting(line) {
            Some((b"SHELL", value)) => jailed = is_jail_shell(value),
            Some(_) => {}
            None if jailed => {}
            None => return Some(line),
        }
    }
    None
}

/// `NAME = value`, as cron reads its table: a name has no blanks, and a job's first field is no name.
fn setting(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = line.iter().position(|b| *b == b'=')?;
    let name = line[..at].trim_ascii();
    let plain = name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
    (plain && !name.is_empty()).then(|| (name, unquoted(line[at + 1..].trim_ascii())))
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => inner,
        plain => plain,
    }
}

/// The host's own tables have the user as a field of each line.
fn host_tables(view: &View, account: &Account) -> Vec<Finding> {
    const WHY: &str =
        "cron runs it as the account on the host; if the account can write the program, it chooses what runs";
    let mut tables = vec![PathBuf::from("/etc/crontab")];
    tables.extend(
        view.names("/etc/cron.d", Whose::Roots).into_iter().map(|name| Path::new("/etc/cron.d").join(name)),
    );
    let mut findings = Vec::new();
    for table in tables {
        let Some(bytes) = view.read(&table, Whose::Roots) else { continue };
        for (number, line) in lines(&bytes).enumerate() {
            if user_of(line) == Some(&account.name) {
                findings.push(Finding::of(
                    account,
                    "cron-host",
                    format!("line {} of '{}' runs as the account", number + 1, table.display()),
                    WHY,
                    format!("sed -i '{}d' {}", number + 1, table.display()),
                ));
            }
        }
    }
    findings
}

fn user_of(line: &[u8]) -> Option<&[u8]> {
    if line.starts_with(b"#") || setting(line).is_some() {
        return None;
    }
    let mut fields = words(line);
    let first = fields.next()?;
    if first.starts_with(b"@") { fields.next() } else { fields.nth(4) }
}

fn at_jobs(view: &View, account: &Account) -> Vec<Finding> {
    const WHY: &str = "atd runs it as the account by /bin/sh on the host, without the login shell";
    let mut findings = Vec::new();
    for dir in AT {
        for name in view.names(dir, Whose::Roots) {
            let path = Path::new(dir).join(&name);
            let starts = name.as_encoded_bytes().first();
            if !matches!(starts, Some(b'a'..=b'z' | b'A'..=b'Z' | b'=')) {
                continue;
            }
            if view
                .lstat(&path)
                .is_some_and(|s| s.st_uid == account.uid && s.st_mode & 0o170_000 == 0o100_000)
            {
                let shown = shown(name.as_encoded_bytes());
                let close = format!("rm '{dir}/{shown}'");
                let what = format!("a job of at is waiting ('{dir}/{shown}')");
                findings.push(Finding::of(account, "at", what, WHY, close));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_told_from_settings() {
        assert_eq!(first_job(b"# nothing\n\nMAILTO=dave\nPATH = /bin\n"), None);
        assert_eq!(first_job(b"MAILTO=x\n5 * * * * env A=b c\n"), Some(&b"5 * * * * env A=b c"[..]));
        assert_eq!(first_job(b"@reboot /x\n"), Some(&b"@reboot /x"[..]));
        assert_eq!(first_job(b"SHELL=/usr/local/sbin/jail-sh\n* * * * * x\n"), None, "these run inside");
        assert_eq!(
            first_job(b"SHELL=\"/usr/local/sbin/jail-sh\"\n* * * * * x\nSHELL=/bin/sh\n* * * * * y\n"),
            Some(&b"* * * * * y"[..])
        );
    }

    #[test]
    fn the_user_field_of_the_hosts_tables() {
        assert_eq!(user_of(b"17 * * * * root cd /"), Some(&b"root"[..]));
        assert_eq!(user_of(b"@daily\tdave x"), Some(&b"dave"[..]));
        assert_eq!(user_of(b"SHELL=/bin/sh"), None);
        assert_eq!(user_of(b"# 17 * * * * dave x"), None);
    }
}
