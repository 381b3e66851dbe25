//! What is said of each account: lines for people, JSON for scripts.

use std::ffi::OsStr;
use std::path::Path;

use jail_accounts::table;
use serde::Serialize;

use crate::plan::Planned;
use crate::record::{Home, JailGroup, Phase, Record};
use crate::text::Text;
use crate::trouble::{Trouble, quoted, quoted_bytes};

/// What became of one account.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The account.
    pub user: Text,
    /// The jail.
    pub jail: Text,
    /// Whether anything was changed (or, in a dry run, would be).
    pub changed: bool,
    /// What was done, in order.
    pub actions: Vec<String>,
    /// What to look at.
    pub warnings: Vec<String>,
    /// Why it was not done.
    pub error: Option<Trouble>,
}

#[derive(Serialize)]
struct Json<'a> {
    user: &'a Text,
    jail: &'a Text,
    changed: bool,
    actions: &'a [String],
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u8>,
}

impl Outcome {
    fn new(user: &OsStr, jail: &Path) -> Self {
        Self {
            user: user.to_owned().into(),
            jail: jail.to_owned().into(),
            changed: false,
            actions: Vec::new(),
            warnings: Vec::new(),
            error: None,
        }
    }

    /// It could not be done, and nothing was changed.
    #[must_use]
    pub fn failed(user: &OsStr, jail: &Path, trouble: Trouble) -> Self {
        Self { error: Some(trouble), ..Self::new(user, jail) }
    }

    /// It could not be done, since there is no such account.
    #[must_use]
    pub fn no_such_user(user: &OsStr, jail: &Path) -> Self {
        Self::failed(user, jail, Trouble::failed(format!("there is no user {}", quoted(user))))
    }

    /// All is as it should be already.
    #[must_use]
    pub fn unchanged(user: &OsStr, jail: &Path, warnings: &[String]) -> Self {
        let actions =
            vec![format!("{} is in {} already: nothing changed", quoted(user), quoted(jail.as_os_str()))];
        Self { actions, warnings: warnings.to_vec(), ..Self::new(user, jail) }
    }

    /// There is nothing to do for another reason.
    #[must_use]
    pub fn unchanged_because(user: &OsStr, jail: &Path, why: &str) -> Self {
        Self { actions: vec![format!("{} {why}: nothing changed", quoted(user))], ..Self::new(user, jail) }
    }

    /// What an earlier run had begun with it is done now.
    #[must_use]
    pub fn finished(user: &OsStr, jail: &Path) -> Self {
        let what = format!("{}: what an earlier run had begun is done now", quoted(user));
        Self { changed: true, actions: vec![what], ..Self::new(user, jail) }
    }

    /// It is jailed now.
    #[must_use]
    pub fn jailed(record: &Record, before: Option<&Record>, jail: &Path, warnings: &[String]) -> Self {
        let mut outcome = Self::new(record.user.as_os_str(), jail);
        outcome.changed = true;
        outcome.warnings = warnings.to_vec();
        outcome.actions = if before.is_some() { repaired(record, jail) } else { steps(record, jail) };
        outcome
    }

    /// What a dry run says: it would be jailed so.
    #[must_use]
    pub fn planned(user: &OsStr, jail: &Path, plan: Result<Planned, Trouble>) -> Self {
        match plan {
            Err(trouble) => Self::failed(user, jail, trouble),
            Ok(plan) if !plan.changes => Self::unchanged(user, jail, &plan.warnings),
            Ok(plan) => Self::jailed(&plan.record, None, jail, &plan.warnings),
        }
    }

    /// It is out of the jail.
    #[must_use]
    pub fn released(record: &Record, jail: &Path) -> Self {
        let mut outcome = Self::new(record.user.as_os_str(), jail);
        outcome.changed = true;
        outcome.actions.push(format!("passwd: put back {}", shown_line(&record.line_before)));
        let inner = inside(jail, &record.inner_home);
        outcome.actions.push(match &record.home {
            Home::Moved { from } => format!("home: moved {inner} back to {}", quoted(from.as_os_str())),
            Home::Made => format!("home: {inner} stays in the jail; remove it when nothing in it is wanted"),
            Home::Kept => format!("home: {inner} stays where it is"),
            Home::Bound => "home: was never moved".to_owned(),
        });
        if record.joined_jailed {
            outcome.actions.push("group: out of 'jailed'".to_owned());
        }
        if record.user_manager.is_some_and(|was| was.masked) {
            outcome.actions.push(format!("systemd: unmasked user@{}.service", record.uid));
        }
        outcome
    }

    /// It is deleted.
    #[must_use]
    pub fn removed(record: &Record, jail: &Path) -> Self {
        let mut outcome = Self::new(record.user.as_os_str(), jail);
        outcome.changed = true;
        outcome.actions = removal(record, jail, record.phase == Phase::Purging);
        outcome
    }

    /// Prints it for people: what was done on stdout, the rest on stderr.
    pub fn print(&self, verbose: bool) {
        let user = quoted(self.user.as_os_str());
        if let Some(trouble) = &self.error {
            complain!("jail-user: {user}: {}", trouble.sentence);
            if !trouble.hint.is_empty() {
                complain!("  hint: {}", trouble.hint);
            }
        } else if verbose {
            for action in &self.actions {
                say!("{user}: {action}");
            }
        }
        for warning in &self.warnings {
            complain!("jail-user: warning: {warning}");
        }
    }

    /// Its JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let json = Json {
            user: &self.user,
            jail: &self.jail,
            changed: self.changed,
            actions: &self.actions,
            warnings: &self.warnings,
            error: self.error.as_ref().map(|trouble| trouble.sentence.as_str()),
            hint: self.error.as_ref().map(|trouble| trouble.hint.as_str()).filter(|hint| !hint.is_empty()),
            status: self.error.as_ref().map(|trouble| trouble.kind.exit_status()),
        };
        serde_json::to_value(json).unwrap_or_default()
    }
}

/// The steps of jailing an account; also what a dry run shows, as a diff where a file changes.
#[must_use]
pub fn steps(record: &Record, jail: &Path) -> Vec<String> {
    let inner = inside(jail, &record.inner_home);
    let mut steps = vec![match &record.home {
        Home::Moved { from } => format!("home: move {} to {inner}", quoted(from.as_os_str())),
        Home::Made => format!("home: make {inner} from the skeleton"),
        Home::Kept => format!("home: keep {inner}"),
        Home::Bound => format!(
            "home: stays where it is, the cell mounts it at {}",
            quoted(record.inner_home.as_os_str())
        ),
    }];
    if record.home == Home::Bound {
        let placed = shown_line(&Text(record.placement(jail)));
        steps.push(format!("/etc/jailwright/accounts: +{placed}"));
    }
    if let Some(origin) = &record.origin {
        let passwd = quoted(origin.jail.as_path().join("etc/passwd").as_os_str());
        steps.push(format!("{passwd}: -{}", shown_line(&origin.record.jail_line.after)));
    }
    steps.extend(jail_steps(record, jail));
    if let Some(was) = record.user_manager {
        if was.masked {
            steps.push(format!("systemd: mask user@{}.service", record.uid));
        }
        if was.lingered {
            steps.push("systemd: end lingering".to_owned());
        }
    }
    if record.joined_jailed {
        steps.push("/etc/group: into 'jailed'".to_owned());
    }
    steps.push(format!("/etc/passwd: -{}", shown_line(&record.line_before)));
    steps.push(format!("/etc/passwd: +{}", shown_line(&record.line_after)));
    steps
}

/// The steps of deleting an account.
#[must_use]
pub fn removal(record: &Record, jail: &Path, with_home: bool) -> Vec<String> {
    let inner = inside(jail, &record.inner_home);
    let outside = record.entry_before().map(|entry| quoted_bytes(entry.home));
    let home = if record.home == Home::Bound { outside.unwrap_or_default() } else { inner };
    vec![
        format!("account: userdel {}", quoted(record.user.as_os_str())),
        format!("{}: -{}", quoted(jail.join("etc/passwd").as_os_str()), shown_line(&record.jail_line.after)),
        if with_home { format!("home: delete {home}") } else { format!("home: {home} stays") },
    ]
}

/// What a second run puts right.
fn repaired(record: &Record, jail: &Path) -> Vec<String> {
    let mut steps = jail_steps(record, jail);
    steps.push(format!("/etc/passwd: {}", shown_line(&record.line_after)));
    steps
}

fn jail_steps(record: &Record, jail: &Path) -> Vec<String> {
    let passwd = quoted(jail.join("etc/passwd").as_os_str());
    let group = quoted(jail.join("etc/group").as_os_str());
    let mut steps = Vec::new();
    if let Some(before) = &record.jail_line.before {
        if *before != record.jail_line.after {
            steps.push(format!("{passwd}: -{}", shown_line(before)));
        }
    }
    if record.jail_line.before.as_ref() != Some(&record.jail_line.after) {
        steps.push(format!("{passwd}: +{}", shown_line(&record.jail_line.after)));
    }
    for JailGroup { name, gid, made, joined } in &record.jail_groups {
        let name = quoted(name.as_os_str());
        match (made, joined) {
            (true, _) => steps.push(format!("{group}: + {name} ({gid})")),
            (false, true) => steps.push(format!("{group}: into {name} ({gid})")),
            (false, false) => {}
        }
    }
    steps
}

fn inside(jail: &Path, inner: &Text) -> String {
    let below = inner.as_path().strip_prefix("/").unwrap_or(inner.as_path());
    quoted(jail.join(below).as_os_str())
}

/// A line of an account file, without its ending and safe to print.
fn shown_line(line: &Text) -> String {
    quoted_bytes(table::strip_newline(&line.0))
}
