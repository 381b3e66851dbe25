//! jail-update: brings jails in step with their host.
//!
//! It is the same plan as jail-init's, for the sections and wishes that a jail already has: changed, moved, gone and newly
//! needed files. What is not in the manifest, or was changed in the jail, is never touched. A jail whose plan cannot be
//! made (a program lost its library on the host) keeps the whole of its old, working set of files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, CommandFactory, Parser};
use jail_provision::error::Result;
use jail_provision::host::RealHost;
use jail_provision::inventory;
use jail_provision::provision::{self, Outlook, Request, Watcher};
use jail_provision::state::{self, State};
use serde_json::Value;

use crate::progress::Line;
use crate::{init, say};

const EXAMPLE: &str = "\
Example:
  jail-update --dry-run --all     what would change
  jail-update -j /home/jail       change it

Exit status: 0 done, 1 a jail could not be updated (and is as it was), 2 usage, 3 bad section, 4 refused as unsafe.";

/// Bring jails in step with the host: changed, moved, gone and newly needed files.
///
/// Running programs are not harmed: a file is replaced by rename, never written in place. An administrator's own file is
/// never deleted or overwritten.
#[derive(Debug, Parser)]
#[command(name = "jail-update", version, after_help = EXAMPLE, max_term_width = 100)]
#[command(group = ArgGroup::new("which").required(true))]
pub struct Cli {
    /// The jail's directory
    #[arg(short, long, value_name = "DIR", group = "which")]
    jail: Option<PathBuf>,
    /// Every jail that has a manifest
    #[arg(long, group = "which")]
    all: bool,
    /// Say what would be done, and do nothing
    #[arg(short, long)]
    dry_run: bool,
    /// Name every entry that is renewed
    #[arg(short, long)]
    verbose: bool,
    /// Say nothing about jails that are up to date
    #[arg(short, long)]
    quiet: bool,
    /// Overwrite what was changed in the jail
    #[arg(short, long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
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
    say::finish("jail-update", run(&Cli::parse()))
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let base = state::base()?;
    let jails = match &cli.jail {
        Some(jail) => {
            init::require_manifest(jail, &|path: &Path| State::of_jail(&base, path))?;
            vec![jail.clone()]
        }
        None => all(&base)?,
    };
    let mut status = 0;
    let mut results = Vec::new();
    for jail in jails {
        match one(cli, &base, &jail) {
            Ok((outlook, text)) => {
                if cli.json {
                    results.push(init::as_json(&outlook, cli.dry_run));
                } else if !(cli.quiet && outlook.plan.steps.is_empty() && outlook.plan.kept.is_empty()) {
                    say::out(&text);
                }
            }
            // One jail's trouble must not keep the others from their updates.
            Err(error) => {
                say::note(&format!("jail-update: {}: {error}", jail_provision::text::encode(&jail)));
                status = if status == 0 || status == error.exit_status() { error.exit_status() } else { 1 };
            }
        }
    }
    if cli.json {
        say::out(&format!("{:#}\n", Value::from(results)));
    }
    Ok(ExitCode::from(status))
}

fn all(base: &Path) -> Result<Vec<PathBuf>> {
    let mut jails = Vec::new();
    for known in inventory::jails(base)? {
        jails.push(known.manifest?.jail.0);
    }
    Ok(jails)
}

fn one(cli: &Cli, base: &Path, jail: &Path) -> Result<(Outlook, String)> {
    let request = Request { force: cli.force, ..Request::new(jail) };
    let state = |path: &Path| State::of_jail(base, path);
    init::require_manifest(jail, &state)?;
    let host = RealHost::system();
    let mut line = Line::new(cli.verbose && !cli.json);
    let outlook = if cli.dry_run {
        provision::look(&request, &state, &host)?
    } else {
        let mut waiting = |holder: &str| say::waiting("jail-update", holder);
        provision::run(&request, &state, &host, &mut Watcher { progress: &mut line, waiting: &mut waiting })?
    };
    line.clear();
    let text = init::changes(&outlook, &line, cli.dry_run);
    Ok((outlook, text))
}
