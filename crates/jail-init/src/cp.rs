//! jail-cp: brings files of the host into a jail, with the libraries and interpreters they need.
//!
//! The manifest remembers them as wishes, so that jail-update keeps them in step like everything else.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use jail_provision::error::{Error, Result};
use jail_provision::manifest::Options;
use jail_provision::provision::Request;
use jail_provision::{text, tree};

use crate::run::{self, Tool};
use crate::{report, say};

const EXAMPLE: &str = "\
Example:
  jail-cp -j /home/jail /usr/bin/jq /usr/share/zoneinfo

Exit status: 0 done, 1 the work failed, 2 usage, 3 not on the host,
4 refused as unsafe.";

/// Bring files or trees of the host into a jail, with the libraries and interpreters they need.
///
/// Each lies in the jail where it lies on the host. jail-update keeps it in step with the host from then on.
#[derive(Debug, Parser)]
#[command(name = "jail-cp", version, after_help = EXAMPLE, max_term_width = 100)]
pub struct Cli {
    /// The jail's directory
    #[arg(short, long, value_name = "DIR")]
    jail: Option<PathBuf>,
    /// Files or trees of the host (without -j, the first one is the jail's directory)
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Name every entry that is made
    #[arg(short, long)]
    verbose: bool,
    /// Overwrite what was changed in the jail or was never ours
    #[arg(short, long)]
    force: bool,
    /// Hard-link instead of copying, for the whole jail; never done for set-uid files
    #[arg(short = 'k', long)]
    hardlink: bool,
    /// Look for sections in this directory first, now and from now on
    #[arg(short, long, value_name = "DIR")]
    configfile: Option<PathBuf>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
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
    say::tool("jail-cp", || run(Cli::parse()))
}

fn run(mut cli: Cli) -> Result<ExitCode> {
    let jail = cli.jail.take().unwrap_or_else(|| cli.paths.remove(0));
    if cli.paths.is_empty() {
        return Err(Error::usage("nothing to copy").hint("jail-cp -j /home/jail /usr/bin/jq"));
    }
    let tool = Tool::new("jail-cp", cli.dry_run, cli.verbose && !cli.json)?;
    tool.require_manifest(&jail)?;
    let done = tool.provision(&Request {
        wishes: cli.paths.iter().map(|path| wish(path)).collect::<Result<_>>()?,
        options: Options { hard_links: cli.hardlink, devices: false },
        force: cli.force,
        section_dir: cli.configfile.as_deref().map(run::section_dir).transpose()?,
        ..Request::new(&jail)
    })?;
    if cli.json {
        say::json(&report::as_json(&done));
    } else {
        say::out(&report::changes(&done));
    }
    Ok(ExitCode::SUCCESS)
}

fn wish(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
    tree::plain(&absolute).ok_or_else(|| {
        Error::usage(format!("{} holds '..'", text::quote(path))).hint("give the path without it")
    })
}
