//! What a dry run shows: one line for each path, as a diff is read (`+` comes, `~` is renewed, `-` goes), with what was there
//! before.

use std::collections::BTreeMap;
use std::path::Path;

use jail_provision::manifest::{Record, What};
use jail_provision::plan::{Action, Cause, Step};
use jail_provision::provision::Outlook;
use jail_provision::text;

use crate::report::cause_words;
use crate::say;

/// The lines of one step.
pub(crate) fn of(step: &Step, outlook: &Outlook) -> String {
    let old = outlook.manifest.get(&step.path).filter(|_| step.cause != Cause::New);
    let sign = match (&step.action, old) {
        (Action::Remove, _) => '-',
        (_, None) => '+',
        (_, Some(_)) => '~',
    };
    let what = match &step.action {
        Action::Directory => "directory",
        Action::Copy { .. } | Action::Write { .. } => "file",
        Action::Link { .. } => "hard link",
        Action::Accounts { .. } => "accounts",
        Action::Symlink { .. } => "link",
        Action::Device { .. } => "device",
        Action::Remove => "",
    };
    let path = text::encode(&step.path);
    let mut line = format!("{sign} {what:9} {path}{} ← {}", target(step, old), step.why);
    let size = sizes(step, old).map(|size| format!(", {size}")).unwrap_or_default();
    line.push_str(&format!(" ({}{size})\n", cause_words(step.cause)));
    if let Action::Accounts { lines, .. } = &step.action {
        line.push_str(&account_lines(lines, old));
    }
    line
}

/// Where a link leads, and where it led.
fn target(step: &Step, old: Option<&Record>) -> String {
    let Action::Symlink { target } = &step.action else { return String::new() };
    let shown = |target: &Path| text::encode(target);
    match old.map(|old| &old.what) {
        Some(What::Symlink { target: was }) if was.0 != *target => {
            format!(" -> {} (was {})", shown(target), shown(&was.0))
        }
        _ => format!(" -> {}", shown(target)),
    }
}

/// How large a file is, and was.
fn sizes(step: &Step, old: Option<&Record>) -> Option<String> {
    if !matches!(step.action, Action::Copy { .. } | Action::Link { .. }) {
        return None;
    }
    let now = step.action.size();
    let was = old.and_then(|old| old.stamp).map(|stamp| stamp.1);
    match was.filter(|was| *was != now) {
        Some(was) => Some(format!("{}, was {}", say::size(now), say::size(was))),
        None => Some(say::size(now)),
    }
}

/// Lines that come, and those that they replace.
fn account_lines(lines: &BTreeMap<String, String>, old: Option<&Record>) -> String {
    let none = BTreeMap::new();
    let before = match old.map(|old| &old.what) {
        Some(What::Accounts { lines }) => lines,
        _ => &none,
    };
    let mut out = String::new();
    for (name, line) in lines.iter().filter(|(name, line)| before.get(*name) != Some(line)) {
        if let Some(was) = before.get(name) {
            out.push_str(&format!("    - {}\n", text::encode(Path::new(was))));
        }
        out.push_str(&format!("    + {}\n", text::encode(Path::new(line))));
    }
    out
}
