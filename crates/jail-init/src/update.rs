//! jail-update: brings jails in step with their host.
//!
//! It is the same plan as jail-init's, for the sections and wishes that a jail already has: changed, moved, gone and newly
//! needed files. What is not in the manifest, or was changed in the jail, is never touched. A program that the host cannot
//! start any more keeps its old, working files in the jail, and is named.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use jail_provision::error::Result;
use jail_provision::provision::Request;
use jail_provision::text;
use serde_json::Value;

use crate::run::{self, Done, Tool, Which};
use crate::{report, say};

const EXAMPLE: &str = "\
Example:
  jail-update --dry-run --all     what would change
  jail-update -j /home/jail       change it

Exit status: 0 done, 1 a jail or a program in it keeps its old files, 2 usage,
3 bad section, 4 refused as unsafe.";

/// Bring jails in step with the host: changed, moved, gone and newly needed files.
///
/// Running programs are not harmed: a file is replaced by rename, never written in place. An administrator's own file is
/// never deleted or overwritten.
#[derive(Debug, Parser)]
#[command(name = "jail-update", version, after_help = EXAMPLE, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    which: Which,
    /// Look for sections in this directory first, now and from now on
    #[arg(short, long, value_name = "DIR")]
    configfile: Option<PathBuf>,
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
    say::tool("jail-update", || run(&Cli::parse()))
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let tool = Tool::new("jail-update", cli.dry_run, cli.verbose && !cli.json)?;
    let mut status = 0;
    let mut results = Vec::new();
    let section_dir = cli.configfile.as_deref().map(run::section_dir).transpose()?;
    let request = |jail: &PathBuf| Request {
        force: cli.force,
        keep_broken: true,
        section_dir: section_dir.clone(),
        ..Request::new(jail)
    };
    let requests: Vec<Request> = cli.which.jails(&tool.base)?.iter().map(request).collect();
    // Most often nothing is to do in most of them, and to see that, one need not wait for the other.
    let up_to_date = if cli.which.jail.is_none() { tool.up_to_date(&requests) } else { vec![None] };
    for (request, looked) in requests.into_iter().zip(up_to_date) {
        let jail = request.jail.clone();
        match looked.map_or_else(|| one(cli, &tool, &request), Ok) {
            Ok(done) => {
                if cli.json {
                    results.push(report::as_json(&done));
                } else if !(cli.quiet && is_quiet(&done)) {
                    say::out(&report::changes(&done));
                }
                for error in &done.outlook.broken {
                    say::note(&format!("jail-update: {}: kept as it is: {error}", text::encode(&jail)));
                    status = 1;
                }
            }
            // One jail's trouble must not keep the others from their updates.
            Err(error) => {
                say::note(&format!("jail-update: {}: {error}", text::encode(&jail)));
                status = if status == 0 || status == error.exit_status() { error.exit_status() } else { 1 };
            }
        }
    }
    if cli.json {
        say::json(&Value::from(results));
    }
    Ok(ExitCode::from(status))
}

fn is_quiet(done: &Done) -> bool {
    done.outlook.plan.steps.is_empty() && done.outlook.plan.kept.is_empty()
}

fn one(cli: &Cli, tool: &Tool, request: &Request) -> Result<Done> {
    // Of --all, every jail has a manifest; one whose directory is gone must not be made anew.
    if cli.which.jail.is_some() || request.jail.symlink_metadata().is_err() {
        tool.require_manifest(&request.jail)?;
    }
    tool.provision(request)
}
