//! What a run did or would do to a jail, for people and for programs.

use std::fmt::Write as _;
use std::path::Path;

use jail_provision::entry::{EntryNeeds, Network};
use jail_provision::plan::{Action, Cause, Kept};
use jail_provision::provision::Outlook;
use jail_provision::text;
use serde_json::{Value, json};

use crate::run::Done;
use crate::{diff, say};

/// What jail-init says at the end: the changes, what an entry will get, and what to do next.
pub(crate) fn whole(done: &Done) -> String {
    let outlook = &done.outlook;
    let mut out = changes(done);
    if !outlook.unchanged {
        if outlook.manifest.generation.is_some() {
            out.push_str(&base_words(&outlook.jail));
            return out;
        }
        out.push_str(&entry_words(&outlook.entry, outlook));
        out.push_str(&next_words(&outlook.jail));
    }
    out
}

/// What a run did or would do to a jail.
pub(crate) fn changes(done: &Done) -> String {
    let outlook = &done.outlook;
    let mut out = String::new();
    if done.dry_run {
        for step in &outlook.plan.steps {
            out.push_str(&diff::of(step, outlook));
        }
    }
    for (path, kept) in &outlook.plan.kept {
        writeln!(out, "kept {}: {}", text::quote(path), why_kept(*kept)).unwrap_or_default();
    }
    for note in &outlook.notes {
        writeln!(out, "note: {note}").unwrap_or_default();
    }
    out.push_str(&summary(done));
    out
}

fn summary(done: &Done) -> String {
    let outlook = &done.outlook;
    let jail = text::encode(&outlook.jail);
    let mut sections = outlook.sections.join(", ");
    if let Some(base) = &outlook.manifest.base {
        let own = if sections.is_empty() { String::new() } else { format!(" and {sections}") };
        sections = format!("those of {}{own}", text::encode(&base.0));
    }
    let steps = outlook.plan.steps.len();
    if steps == 0 {
        return format!("{jail} is up to date (sections: {sections}).\n");
    }
    if done.dry_run {
        return format!("{jail}: {steps} steps would be done (sections: {sections}).\n");
    }
    let removed = removed_steps(outlook);
    let removed = if removed > 0 { format!(", {removed} removed") } else { String::new() };
    let made = say::count(done.steps - removed_steps(outlook), "path");
    format!("{jail}: {made} made or renewed{removed}, {} (sections: {sections}).\n", say::size(done.bytes))
}

fn removed_steps(outlook: &Outlook) -> usize {
    outlook.plan.steps.iter().filter(|step| step.cause == Cause::Unwanted).count()
}

pub(crate) fn cause_words(cause: Cause) -> &'static str {
    match cause {
        Cause::New => "new",
        Cause::Missing => "was missing from the jail",
        Cause::HostChanged => "changed on the host",
        Cause::Asked => "the sections ask for it now",
        Cause::Unfinished => "a run was cut short",
        Cause::Forced => "forced",
        Cause::Unwanted => "nothing needs it any more",
    }
}

pub(crate) fn why_kept(kept: Kept) -> &'static str {
    match kept {
        Kept::Changed => "changed in the jail since it was put there (-f overwrites it)",
        Kept::Foreign => "not put there by us (-f overwrites it)",
        Kept::OtherKind => "a directory stands where a file is due, or the other way round",
    }
}

/// What an entry to the jail will allow, and which section asked for it.
fn entry_words(entry: &EntryNeeds, outlook: &Outlook) -> String {
    let asking = |asks: &dyn Fn(&EntryNeeds) -> bool| {
        let names: Vec<&str> = outlook
            .entry_reasons
            .iter()
            .filter(|(_, needs)| asks(needs))
            .map(|(name, _)| name.as_str())
            .collect();
        names.join(", ")
    };
    let network = match &entry.network {
        None | Some(Network::None) => {
            "none: no section asks for it (ssh, git and netutils do, or the policy file)".to_owned()
        }
        Some(network) => format!("{network}: asked for by {}", asking(&|needs| needs.network.is_some())),
    };
    let mut out = format!("\nAn entry to this jail gets\n  network    {network}\n");
    if let Some(tmp) = &entry.tmp {
        writeln!(out, "  /tmp       {tmp}: asked for by {}", asking(&|needs| needs.tmp.is_some()))
            .unwrap_or_default();
    }
    if !entry.env.is_empty() {
        let names = wrap(&entry.env.join(" "), 65, 13);
        writeln!(out, "  variables  {names}").unwrap_or_default();
    }
    out.push_str("  the rest   /etc/jailwright/jail-sh.toml, or what is built in\n");
    out
}

fn base_words(base: &Path) -> String {
    let base = text::encode(base);
    format!("\nNext:\n  jail-init -j JAIL --base {base}    a jail that shows these files\n")
}

fn next_words(jail: &Path) -> String {
    let jail = text::encode(jail);
    if rustix::process::geteuid().is_root() {
        format!("\nNext:\n  jail-user -m -j {jail} USER       put an account into it\n")
    } else {
        format!("\nNext:\n  jail-run -j {jail} -- /bin/bash    look around in it\n")
    }
}

/// The same, for programs.
pub(crate) fn as_json(done: &Done) -> Value {
    let outlook = &done.outlook;
    let steps: Vec<Value> = outlook
        .plan
        .steps
        .iter()
        .map(|step| {
            let mut value = json!({
                "path": text::encode(&step.path),
                "action": action_word(&step.action),
                "mode": format!("{:04o}", step.meta.mode),
                "why": step.why,
                "cause": cause_words(step.cause),
            });
            if let Action::Copy { source, .. } | Action::Link { source, .. } = &step.action {
                value["source"] = text::encode(source).into();
            }
            value
        })
        .collect();
    let kept: Vec<Value> = outlook
        .plan
        .kept
        .iter()
        .map(|(path, kept)| json!({ "path": text::encode(path), "why": why_kept(*kept) }))
        .collect();
    json!({
        "jail": text::encode(&outlook.jail),
        "name": outlook.name,
        "sections": outlook.sections,
        "base": outlook.manifest.base.as_ref().map(|base| text::encode(&base.0)),
        "generation": outlook.manifest.generation,
        "dry_run": done.dry_run,
        "steps": steps,
        "kept": kept,
        "notes": outlook.notes,
        "broken": outlook.broken.iter().map(|error| error.message.clone()).collect::<Vec<_>>(),
        "entry": outlook.entry,
    })
}

fn action_word(action: &Action) -> &'static str {
    match action {
        Action::Directory => "directory",
        Action::Copy { .. } => "copy",
        Action::Link { .. } => "hard link",
        Action::Write { .. } => "write",
        Action::Accounts { .. } => "accounts",
        Action::Symlink { .. } => "symlink",
        Action::Device { .. } => "device",
        Action::Remove => "remove",
    }
}

/// Wraps a text at a width; the lines after the first are indented.
pub(crate) fn wrap(text: &str, width: usize, indent: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_wraps() {
        assert_eq!(wrap("one two three", 7, 2), "one two\n  three");
    }
}
