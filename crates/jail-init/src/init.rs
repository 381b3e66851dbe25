//! jail-init: makes a jail from sections, or brings one up to date with them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use jail_provision::entry::{EntryNeeds, Network};
use jail_provision::error::{Error, Result};
use jail_provision::host::{Host, RealHost};
use jail_provision::jailroot::{Found, JailRoot};
use jail_provision::manifest::{Manifest, Options};
use jail_provision::plan::{Action, Cause, Kept, Step};
use jail_provision::profiles::Profiles;
use jail_provision::provision::{self, Outlook, Request, Watcher};
use jail_provision::state::{self, State};
use jail_provision::text;
use serde_json::{Value, json};

use crate::progress::Line;
use crate::{remove, say};

const EXAMPLE: &str = "\
Example:
  jail-init -v -j /home/jail basicshell scp    make a jail
  jail-user -m -j /home/jail dave              put dave into it

Exit status: 0 done, 1 the work failed, 2 usage, 3 bad section, 4 refused as unsafe.";

/// Make a jail from sections, or bring an existing one up to date with them.
///
/// Sections that the jail already has stay; those named here are added. Nothing that was changed in the jail, or that was
/// never ours, is touched without -f. Without root the jail belongs to the caller and serves jail-run.
#[derive(Debug, Parser)]
#[command(name = "jail-init", version, after_help = EXAMPLE, max_term_width = 100)]
pub struct Cli {
    /// The jail's directory
    #[arg(short, long, value_name = "DIR")]
    jail: Option<PathBuf>,
    /// Sections to put into the jail (without -j, the first one is the jail's directory)
    #[arg(value_name = "SECTION")]
    sections: Vec<String>,
    /// List the sections there are
    #[arg(short, long)]
    list: bool,
    /// Name every entry that is made
    #[arg(short, long)]
    verbose: bool,
    /// Overwrite what was changed in the jail or was never ours
    #[arg(short, long)]
    force: bool,
    /// Hard-link the host's files instead of copying them; a chmod or an edit in the jail then changes the host's own file.
    /// Never done for set-uid files
    #[arg(short = 'k', long)]
    hardlink: bool,
    /// Look for sections in this directory first
    #[arg(short, long, value_name = "DIR")]
    configfile: Option<PathBuf>,
    /// Make the device nodes that sections name; only a plain chroot needs them
    #[arg(long)]
    devices: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Remove the jail and what is known of it; refused while accounts or processes use it
    #[arg(long, conflicts_with_all = ["sections", "explain"])]
    remove: bool,
    /// The jail was moved here from this directory: take over its manifest
    #[arg(long, value_name = "DIR", conflicts_with = "remove")]
    moved_from: Option<PathBuf>,
    /// Say why a path is in the jail
    #[arg(long, value_name = "PATH")]
    explain: Option<PathBuf>,
}

/// The command line, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// The whole tool.
#[must_use]
pub fn main() -> ExitCode {
    say::start();
    say::finish("jail-init", run(Cli::parse()))
}

fn run(mut cli: Cli) -> Result<ExitCode> {
    let profiles = profiles(&cli);
    if cli.list {
        return list(&profiles?, cli.json);
    }
    let jail = jail(&mut cli)?;
    if let Some(path) = &cli.explain {
        return explain(&jail, path);
    }
    if cli.remove {
        return remove::remove(&jail, cli.dry_run);
    }
    if let Some(old) = &cli.moved_from {
        remove::take_over(&jail, old)?;
    }
    let request = Request {
        sections: std::mem::take(&mut cli.sections),
        options: Options { hard_links: cli.hardlink, devices: cli.devices },
        force: cli.force,
        profiles: profiles?,
        ..Request::new(&jail)
    };
    let base = state::base()?;
    let state = |path: &Path| State::of_jail(&base, path);
    let host = RealHost::system();
    if request.sections.is_empty() {
        require_sections(&jail, &state)?;
    }
    let mut line = Line::new(cli.verbose && !cli.json);
    let outlook = if cli.dry_run {
        provision::look(&request, &state, &host)?
    } else {
        let mut waiting = |holder: &str| say::waiting("jail-init", holder);
        let mut watcher = Watcher { progress: &mut line, waiting: &mut waiting };
        provision::run(&request, &state, &host, &mut watcher)?
    };
    line.clear();
    if cli.json {
        say::out(&format!("{:#}\n", as_json(&outlook, cli.dry_run)));
    } else {
        say::out(&report(&outlook, &line, cli.dry_run));
    }
    Ok(ExitCode::SUCCESS)
}

/// `-j DIR`, or jailkit's older form: the first word.
fn jail(cli: &mut Cli) -> Result<PathBuf> {
    if let Some(jail) = cli.jail.take() {
        return Ok(jail);
    }
    if cli.sections.first().is_some_and(|first| first.contains('/')) {
        return Ok(PathBuf::from(cli.sections.remove(0)));
    }
    Err(Error::usage("which jail? -j DIR is missing").hint("jail-init -j /home/jail basicshell"))
}

fn profiles(cli: &Cli) -> Result<Profiles> {
    let Some(dir) = &cli.configfile else { return Ok(Profiles::standard()) };
    if dir.is_dir() {
        return Ok(Profiles::standard().with_first(dir));
    }
    let error = Error::usage(format!("{} is no directory of sections", text::quote(dir)));
    Err(match dir.extension() {
        Some(ini) if ini == "ini" => error
            .hint("jailkit's ini format is not read: write each section as NAME.toml (docs/sections.md) and give their directory"),
        _ => error.hint("-c takes a directory with one NAME.toml a section"),
    })
}

/// A run without sections brings an existing jail up to date; a new jail needs some.
fn require_sections(jail: &Path, state: &dyn Fn(&Path) -> State) -> Result<()> {
    if let Found::Jail(root) = JailRoot::find(jail)? {
        if state(root.path()).manifest()?.is_some() {
            return Ok(());
        }
    }
    Err(Error::usage(format!("which sections shall {} have?", text::quote(jail)))
        .hint("'jail-init -l' lists them; basicshell is a good start"))
}

/// For tools that work only on a jail that is there already.
pub(crate) fn require_manifest(jail: &Path, state: &dyn Fn(&Path) -> State) -> Result<()> {
    let Found::Jail(root) = JailRoot::find(jail)? else {
        return Err(Error::failed(format!("there is no jail {}", text::quote(jail)))
            .hint("'jail-init -j JAIL SECTION…' makes one"));
    };
    if state(root.path()).manifest()?.is_none() {
        return Err(Error::failed(format!(
            "{} has no manifest, so it is no jail of ours",
            text::quote(jail)
        ))
        .hint("'jail-init -j JAIL SECTION…' makes one of it, and leaves alone what is in it"));
    }
    Ok(())
}

fn list(profiles: &Profiles, json: bool) -> Result<ExitCode> {
    let sections = profiles.list()?;
    if json {
        let list: Vec<Value> = sections
            .iter()
            .map(|s| json!({ "name": s.name, "description": s.description, "file": s.file }))
            .collect();
        say::out(&format!("{:#}\n", Value::from(list)));
        return Ok(ExitCode::SUCCESS);
    }
    let width = sections.iter().map(|s| s.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for section in &sections {
        let description = wrap(&section.description, 78usize.saturating_sub(width + 2), width + 2);
        writeln!(out, "{:width$}  {description}", section.name).unwrap_or_default();
    }
    say::out(&out);
    Ok(ExitCode::SUCCESS)
}

/// Wraps a text at a width; the lines after the first are indented.
fn wrap(text: &str, width: usize, indent: usize) -> String {
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

fn explain(jail: &Path, path: &Path) -> Result<ExitCode> {
    let Found::Jail(root) = JailRoot::find(jail)? else {
        return Err(Error::failed(format!("there is no jail {}", text::quote(jail))));
    };
    let manifest = State::of_jail(&state::base()?, root.path()).manifest()?;
    let Some(manifest) = manifest else {
        return Err(Error::failed(format!(
            "{} has no manifest, so nothing is known of it",
            text::quote(jail)
        ))
        .hint("'jail-init -j JAIL SECTION...' makes one; files that are there already and differ are kept"));
    };
    // A path may be given as it looks on the host, too.
    let inner =
        path.strip_prefix(root.path()).map_or_else(|_| path.to_path_buf(), |rest| Path::new("/").join(rest));
    let chain = manifest.explain(&inner).or_else(|| explain_where_it_leads(&root, &manifest, &inner));
    match chain {
        Some(chain) => say::out(&format!("{chain}\n")),
        None => {
            return Err(Error::failed(format!("{} was not put into the jail by us", text::quote(&inner)))
                .hint("it is the administrator's own, or not there at all"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `/lib/…/libc.so.6` of a merged jail lies below `/usr/lib`.
fn explain_where_it_leads(root: &JailRoot, manifest: &Manifest, path: &Path) -> Option<String> {
    let real = root.canonical(path).ok().filter(|real| real != path)?;
    Some(format!("{} = {}", text::encode(path), manifest.explain(&real)?))
}

fn report(outlook: &Outlook, line: &Line, dry_run: bool) -> String {
    let mut out = changes(outlook, line, dry_run);
    if !outlook.unchanged {
        out.push_str(&entry_words(&outlook.entry, outlook));
        out.push_str(&next_words(&outlook.jail));
    }
    out
}

/// What a run did or would do to a jail.
pub(crate) fn changes(outlook: &Outlook, line: &Line, dry_run: bool) -> String {
    let mut out = String::new();
    if dry_run {
        for step in &outlook.plan.steps {
            writeln!(out, "{}", describe(step)).unwrap_or_default();
        }
    }
    for (path, kept) in &outlook.plan.kept {
        writeln!(out, "kept {}: {}", text::quote(path), why_kept(*kept)).unwrap_or_default();
    }
    for note in &outlook.notes {
        writeln!(out, "note: {note}").unwrap_or_default();
    }
    out.push_str(&summary(outlook, line, dry_run));
    out
}

fn summary(outlook: &Outlook, line: &Line, dry_run: bool) -> String {
    let jail = text::encode(&outlook.jail);
    let sections = outlook.sections.join(", ");
    let steps = outlook.plan.steps.len();
    if steps == 0 {
        return format!("{jail} is up to date (sections: {sections}).\n");
    }
    if dry_run {
        return format!("{jail}: {steps} steps would be done (sections: {sections}).\n");
    }
    let removed = removed_steps(outlook);
    let removed = if removed > 0 { format!(", {removed} removed") } else { String::new() };
    let made = say::count(line.files - removed_steps(outlook), "path");
    format!("{jail}: {made} made or renewed{removed}, {} (sections: {sections}).\n", say::size(line.bytes))
}

fn removed_steps(outlook: &Outlook) -> usize {
    outlook.plan.steps.iter().filter(|step| step.cause == Cause::Unwanted).count()
}

/// One step, for a person.
pub(crate) fn describe(step: &Step) -> String {
    let what = match &step.action {
        Action::Directory => "directory",
        Action::Copy { .. } => "copy     ",
        Action::Link { .. } => "hard link",
        Action::Write { .. } => "write    ",
        Action::Accounts { .. } => "accounts ",
        Action::Symlink { .. } => "link     ",
        Action::Device { .. } => "device   ",
        Action::Remove => "remove   ",
    };
    let cause = cause_words(step.cause);
    format!("{what} {} ← {} ({cause})", text::encode(&step.path), step.why)
}

fn cause_words(cause: Cause) -> &'static str {
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

fn next_words(jail: &Path) -> String {
    let jail = text::encode(jail);
    if rustix::process::geteuid().is_root() {
        format!("\nNext:\n  jail-user -m -j {jail} USER       put an account into it\n")
    } else {
        format!("\nNext:\n  jail-run -j {jail} -- /bin/bash    look around in it\n")
    }
}

pub(crate) fn as_json(outlook: &Outlook, dry_run: bool) -> Value {
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
        "dry_run": dry_run,
        "steps": steps,
        "kept": kept,
        "notes": outlook.notes,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
        assert!(EXAMPLE.lines().all(|line| line.chars().count() <= 90));
    }

    #[test]
    fn text_wraps() {
        assert_eq!(wrap("one two three", 7, 2), "one two\n  three");
    }
}
