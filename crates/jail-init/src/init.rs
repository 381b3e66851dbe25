//! jail-init: makes a jail from sections, or brings one up to date with them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use jail_confine::policy::values::Size;
use jail_provision::error::{Error, Result};
use jail_provision::host::Host as _;
use jail_provision::jailroot::{Found, JailRoot};
use jail_provision::manifest::{Manifest, Options};
use jail_provision::profiles::Profiles;
use jail_provision::provision::Request;
use jail_provision::state::{self, State};
use jail_provision::text;
use serde_json::{Value, json};

use crate::report::wrap;
use crate::run::{self, Tool};
use crate::{adopt, image, import, remove, report, say};

const EXAMPLE: &str = "\
Example:
  jail-init -v -j /home/jail basicshell scp    make a jail
  jail-user -m -j /home/jail dave              put dave into it
  jail-init --as-base -j /srv/base basicshell  one set of files …
  jail-init -j /srv/site42 --base /srv/base    … for a thousand jails
  jail-init -j /srv/app --from-oci app.tar     make a jail of an OCI image

Exit status: 0 done, 1 the work failed, 2 usage, 3 bad section,
4 refused as unsafe.";

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
    /// Show the files of this base instead of copies; the jail has only what differs, and an update of the base is one of
    /// all jails on it. For jail-sh and jail-run, not for a plain chroot
    #[arg(long, value_name = "DIR", conflicts_with_all = ["as_base", "remove", "explain", "list"])]
    base: Option<PathBuf>,
    /// Make a base for other jails to show, rather than a jail
    #[arg(long, conflicts_with_all = ["remove", "explain", "list", "hardlink", "devices"])]
    as_base: bool,
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
    /// Turn jailkit's jk_init.ini into sections, in the directory of -c or else in /etc/jailwright/profiles
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sections", "jail", "remove", "moved_from", "explain", "list"])]
    import: Option<PathBuf>,
    /// Make the jail of an OCI image (a file or a layout directory), or bring one made so up to date with it
    #[arg(long, value_name = "FILE.tar", conflicts_with_all = ["sections", "remove", "moved_from", "explain", "list", "import", "base", "as_base"])]
    from_oci: Option<PathBuf>,
    /// Refuse an image that unpacks to more than this (each entry counts as 4K at least)
    #[arg(long, value_name = "SIZE", requires = "from_oci", default_value = "4G")]
    max_size: Size,
    /// Take over a jail that jailkit made: what in it is the host's is kept in step from then on, the rest is left alone
    #[arg(long, conflicts_with_all = ["remove", "moved_from", "explain", "base", "as_base", "configfile", "import", "from_oci", "list"])]
    adopt: bool,
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
    say::tool("jail-init", || run(Cli::parse()))
}

fn run(mut cli: Cli) -> Result<ExitCode> {
    if let Some(file) = &cli.import {
        let choices = import::Choices {
            dir: cli.configfile.as_deref(),
            force: cli.force,
            dry_run: cli.dry_run,
            json: cli.json,
        };
        return import::import(file, &choices);
    }
    let profiles = run::profiles(cli.configfile.as_deref());
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
    if let Some(file) = &cli.from_oci {
        return from_image(file, &jail, &cli);
    }
    if let Some(old) = &cli.moved_from {
        remove::take_over(&jail, old)?;
    }
    let request = Request {
        sections: std::mem::take(&mut cli.sections),
        options: Options { hard_links: cli.hardlink, devices: cli.devices },
        base: cli.base.as_deref().map(base).transpose()?,
        as_base: cli.as_base,
        force: cli.force,
        profiles: profiles?,
        section_dir: cli.configfile.as_deref().map(run::section_dir).transpose()?,
        ..Request::new(&jail)
    };
    let tool = Tool::new("jail-init", cli.dry_run, cli.verbose && !cli.json)?;
    if cli.adopt {
        adopt::adopt(&jail, &request.sections, &tool)?;
        if cli.dry_run {
            return Ok(ExitCode::SUCCESS);
        }
    }
    if request.sections.is_empty() && request.base.is_none() {
        require_sections(&jail, &tool)?;
    }
    let done = tool.provision(&request)?;
    if cli.json {
        say::json(&report::as_json(&done));
    } else {
        say::out(&report::whole(&done));
    }
    Ok(ExitCode::SUCCESS)
}

fn from_image(file: &Path, jail: &Path, cli: &Cli) -> Result<ExitCode> {
    let tool = Tool::new("jail-init", cli.dry_run, cli.verbose && !cli.json)?;
    let (max, force, dry_run) = (cli.max_size.0, cli.force, cli.dry_run);
    let outcome = image::import(
        &image::Request { file, jail, max, force, dry_run, verbose: cli.verbose && !cli.json },
        &tool,
    )?;
    if cli.json {
        say::json(&outcome.as_json());
    } else {
        say::out(&outcome.report());
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

/// The base by its canonical path: it is written down, and compared with what others wrote.
fn base(path: &Path) -> Result<PathBuf> {
    match JailRoot::find(path)? {
        Found::Jail(root) => Ok(root.path().to_path_buf()),
        Found::Nothing => Err(Error::failed(format!("there is no base {}", text::quote(path)))
            .hint(format!("jail-init --as-base -j {} basicshell makes one", text::encode(path)))),
    }
}

/// A run without sections brings an existing jail up to date; a new jail needs some.
fn require_sections(jail: &Path, tool: &Tool) -> Result<()> {
    if let Found::Jail(root) = JailRoot::find(jail)? {
        if tool.state(root.path()).manifest()?.is_some() {
            return Ok(());
        }
    }
    Err(Error::usage(format!("which sections shall {} have?", text::quote(jail)))
        .hint("'jail-init -l' lists them; basicshell is a good start"))
}

fn list(profiles: &Profiles, json: bool) -> Result<ExitCode> {
    let sections = profiles.list()?;
    if json {
        let list: Vec<Value> = sections
            .iter()
            .map(|s| json!({ "name": s.name, "description": s.description, "file": s.file }))
            .collect();
        say::json(&Value::from(list));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
        assert!(EXAMPLE.lines().all(|line| line.chars().count() <= 90));
    }
}
