//! Mail servers: a pipe in `~/.forward` runs as the account on the host whenever somebody sends it mail.

use super::Finding;
use super::accounts::Account;
use super::view::{View, Whose, lines};

pub(super) fn look(view: &View, account: &Account) -> Vec<Finding> {
    if has_alias(view, account) {
        return Vec::new();
    }
    let runs = [postfix(view), exim(view, account), sendmail(view, account)];
    let mut findings: Vec<Finding> = runs
        .into_iter()
        .flatten()
        .map(|(what, close)| {
            Finding::of(
                account,
                "mail",
                what,
                "anybody who sends the account mail starts a program of the account's choice on the host",
                close,
            )
        })
        .collect();
    if findings.is_empty() {
        findings.extend(a_file(view, account));
    }
    findings
}

/// An alias is looked at before the home, so that mail never gets there.
fn has_alias(view: &View, account: &Account) -> bool {
    let Some(bytes) = view.read("/etc/aliases", Whose::Roots) else { return false };
    lines(&bytes).any(|line| {
        let name = line.split(|b| *b == b':').next().map(<[u8]>::trim_ascii);
        name.is_some_and(|name| name.eq_ignore_ascii_case(&account.name)) && line.contains(&b':')
    })
}

fn alias(account: &Account) -> String {
    format!("echo '{}: root' >>/etc/aliases && newaliases", account.shown())
}

type Run = Option<(String, String)>;

fn postfix(view: &View) -> Run {
    if !view.has("/usr/sbin/postfix") {
        return None;
    }
    let config = view.read("/etc/postfix/main.cf", Whose::Roots)?;
    let value = |key: &str| {
        lines(&config)
            .filter_map(|line| {
                let rest = line.strip_prefix(key.as_bytes())?.trim_ascii_start();
                rest.strip_prefix(b"=").map(|value| String::from_utf8_lossy(value).trim().to_owned())
            })
            // postconf(5): the last one counts.
            .last()
    };
    if let Some(command) = value("mailbox_command").filter(|command| command.contains("procmail")) {
        return Some((
            format!("postfix delivers by '{}', which runs what ~/.procmailrc says", command.escape_debug()),
            "postconf -e 'mailbox_command =' && postfix reload".to_owned(),
        ));
    }
    let allowed = value("allow_mail_to_commands").unwrap_or_else(|| "alias, forward".to_owned());
    let nowhere = value("forward_path").is_some_and(|path| path.is_empty());
    (allowed.contains("forward") && !nowhere).then(|| {
        (
            format!("postfix runs commands that ~/.forward names (allow_mail_to_commands = {allowed})"),
            "postconf -e 'allow_mail_to_commands = alias' && postfix reload".to_owned(),
        )
    })
}

fn exim(view: &View, account: &Account) -> Run {
    let there = view.has("/usr/sbin/exim4") || view.has("/usr/sbin/exim");
    there.then(|| ("exim runs commands that ~/.forward names".to_owned(), alias(account)))
}

fn sendmail(view: &View, account: &Account) -> Run {
    view.has("/etc/mail/sendmail.cf")
        .then(|| ("sendmail runs commands that ~/.forward names".to_owned(), alias(account)))
}

/// No mail server that we know, and yet a file that is meant for one.
fn a_file(view: &View, account: &Account) -> Option<Finding> {
    let pipes = |bytes: Vec<u8>| lines(&bytes).any(|line| line.contains(&b'|') && !line.starts_with(b"#"));
    let found = [".forward", ".procmailrc", ".qmail", ".mailfilter"]
        .into_iter()
        .find(|name| view.read(account.below_home(name), Whose::Users).is_some_and(pipes))?;
    Some(Finding::of(
        account,
        "mail-file",
        format!("the home has a '{found}' that starts a program"),
        "a mail server that delivers to the home would run it as the account on the host",
        alias(account),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<&'static str> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let account = Account::dave();
        look(&View::below(dir.path()).unwrap(), &account).into_iter().map(|finding| finding.id).collect()
    }

    #[test]
    fn who_would_run_a_pipe() {
        let postfix = |config| found(&[("usr/sbin/postfix", ""), ("etc/postfix/main.cf", config)]);
        assert_eq!(found(&[]), [""; 0]);
        assert_eq!(postfix("myhostname = x\n"), ["mail"], "postfix allows it unless told otherwise");
        assert_eq!(postfix("allow_mail_to_commands = alias\n"), [""; 0]);
        assert_eq!(postfix("allow_mail_to_commands = alias,forward\nforward_path =\n"), [""; 0]);
        assert_eq!(
            postfix("allow_mail_to_commands = alias\nmailbox_command = /usr/bin/procmail\n"),
            ["mail"]
        );
        assert_eq!(found(&[("usr/sbin/exim4", "")]), ["mail"]);
        assert_eq!(found(&[("usr/sbin/exim4", ""), ("etc/aliases", "Dave: root\n")]), [""; 0]);
        assert_eq!(found(&[("j/home/dave/.forward", "# |x\nfriend@example.org\n")]), [""; 0]);
        assert_eq!(found(&[("j/home/dave/.forward", "\"|/bin/sh x\"\n")]), ["mail-file"]);
    }
}
