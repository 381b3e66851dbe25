//! `jail-check --host`: every way by which a jailed account could get round its login shell.
//!
//! The shell confines a login and nothing else: sshd's own services, cron, systemd, sudo, mail and web servers run as the
//! account on the host without ever starting it. Each room here looks at one kind of them, read-only, and says what is
//! open, why that matters, and the line that closes it. Nothing is run but sshd, which is asked what it makes of its files.

mod accounts;
mod identity;
mod jobs;
mod mail;
mod own;
mod services;
mod ssh;
mod sudo;
mod systemd;
mod view;

use std::path::{Path, PathBuf};

use jail_provision::error::Result;
use serde_json::{Value, json};

pub use accounts::Account;
pub use view::View;

/// One way round the shell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// A stable name, for scripts.
    pub id: &'static str,
    /// The accounts that it is open to; none if it concerns the host as a whole.
    pub accounts: Vec<String>,
    /// What is open.
    pub what: String,
    /// What somebody could do with it.
    pub why: String,
    /// The line that closes it.
    pub close: String,
}

impl Finding {
    fn of(account: &Account, id: &'static str, what: impl Into<String>, why: &str, close: String) -> Self {
        Self { accounts: vec![account.shown()], ..Self::host(id, what, why, close) }
    }

    fn host(id: &'static str, what: impl Into<String>, why: &str, close: String) -> Self {
        Self { id, accounts: Vec::new(), what: what.into(), why: why.to_owned(), close }
    }
}

/// What was found, and what could not be looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The accounts that were looked at.
    pub accounts: Vec<String>,
    /// What is open.
    pub findings: Vec<Finding>,
    /// What could not be read or asked, so that its answer is missing.
    pub unfinished: Vec<String>,
}

/// What is asked.
#[derive(Debug, Default)]
pub struct Question {
    /// Only these accounts; all jailed ones if empty.
    pub users: Vec<String>,
    /// The sshd configuration, if it is not the usual one.
    pub sshd_config: Option<PathBuf>,
    /// Where connections come from (`host=…,addr=…`).
    pub from: Vec<String>,
}

/// Looks at the whole host. Writes nothing.
///
/// # Errors
/// The account files cannot be read, so there is nothing to start from.
pub fn audit(view: &View, question: &Question) -> Result<Report> {
    let jailed = accounts::jailed(view, &question.users)?;
    let mut findings = Vec::new();
    findings.extend(own::look(view, &jailed));
    findings.extend(ssh::look(view, &jailed, question));
    for account in &jailed.accounts {
        findings.extend(identity::look(&jailed, account));
        findings.extend(jobs::look(view, account));
        findings.extend(systemd::look(view, account));
        findings.extend(sudo::look(view, &jailed, account));
        findings.extend(mail::look(view, account));
        findings.extend(services::look(view, account));
    }
    let accounts = jailed.accounts.iter().map(Account::shown).collect();
    Ok(Report { accounts, findings: merged(findings), unfinished: view.troubles() })
}

/// The same thing open to many accounts is one finding, so that a thousand users do not make a thousand lines.
fn merged(findings: Vec<Finding>) -> Vec<Finding> {
    let mut merged: Vec<Finding> = Vec::new();
    for finding in findings {
        let same = |known: &&mut Finding| {
            known.id == finding.id && known.what == finding.what && known.close == finding.close
        };
        match merged.iter_mut().find(same) {
            Some(known) => {
                for account in finding.accounts {
                    if !known.accounts.contains(&account) {
                        known.accounts.push(account);
                    }
                }
            }
            None => merged.push(finding),
        }
    }
    merged
}

/// How many names one line of the report has.
const NAMES_SHOWN: usize = 8;

impl Report {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!(
            "{}, {}\n",
            crate::say::count(self.accounts.len(), "jailed account"),
            match self.findings.len() {
                0 => "no way round the login shell found".to_owned(),
                n => crate::say::count(n, "way") + " round the login shell",
            }
        );
        for finding in &self.findings {
            out.push_str(&format!("\n{}: {}\n", finding.id, finding.what));
            if !finding.accounts.is_empty() {
                out.push_str(&format!("  accounts: {}\n", names(&finding.accounts)));
            }
            out.push_str(&format!("  why:      {}\n  close:    {}\n", finding.why, finding.close));
        }
        for trouble in &self.unfinished {
            out.push_str(&format!("\nnot looked at: {trouble}\n"));
        }
        out
    }

    /// For scripts.
    #[must_use]
    pub fn json(&self) -> Value {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|f| {
                json!({ "id": f.id, "accounts": f.accounts, "what": f.what, "why": f.why, "close": f.close })
            })
            .collect();
        json!({ "accounts": self.accounts, "findings": findings, "unfinished": self.unfinished })
    }
}

fn names(accounts: &[String]) -> String {
    let mut out = accounts.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if let Some(more) = accounts.len().checked_sub(NAMES_SHOWN).filter(|more| *more > 0) {
        out.push_str(&format!(" and {more} more"));
    }
    out
}

/// Bytes of a name or a line, for a message: nothing that a terminal would act on.
fn shown(bytes: &[u8]) -> String {
    use std::os::unix::ffi::OsStrExt;
    jail_provision::text::encode(Path::new(std::ffi::OsStr::from_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_finding_for_many() {
        let one = |user: &str| Finding {
            id: "x",
            accounts: vec![user.to_owned()],
            what: "w".into(),
            why: "y".into(),
            close: "c".into(),
        };
        let merged = merged((0..20).map(|i| one(&format!("u{i}"))).collect());
        assert_eq!(merged.len(), 1);
        let report = Report { accounts: Vec::new(), findings: merged, unfinished: Vec::new() };
        assert!(report.text().contains("u7 and 12 more"), "{}", report.text());
        assert_eq!(report.json()["findings"][0]["accounts"].as_array().map(Vec::len), Some(20));
    }
}
