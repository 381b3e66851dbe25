//! jail-check: says what is wrong with a jail.

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use jail_provision::check::{self, Finding};
use jail_provision::error::{Error, Result};
use jail_provision::jailroot::{Found, JailRoot};
use jail_provision::manifest::Manifest;
use jail_provision::state::{self, State};
use jail_provision::{inventory, text};
use serde_json::{Value, json};

use crate::run::Which;
use crate::say;

const EXAMPLE: &str = "\
Example:
  jail-check -j /home/jail
  jail-check --all --json

Exit status: 0 clean, 1 findings, 2 usage, 5 could not finish.";

/// Could not finish: neither clean nor not.
const UNFINISHED: u8 = 5;

/// Hold every file of a jail against its manifest, whole content, and name whatever else is wrong with it.
///
/// Found are: missing, changed and foreign files, owners and modes, set-uid files and devices, what others may write, broken
/// links, programs that cannot start in the jail, lines of passwd and group that disagree with the host, files that the
/// host has renewed since, and an unsafe path to the jail.
#[derive(Debug, Parser)]
#[command(name = "jail-check", version, after_help = EXAMPLE, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    which: Which,
    /// Print the findings as JSON
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
    say::tool("jail-check", || {
        let unfinished = |error: Error| {
            say::note(&format!("jail-check: {error}"));
            ExitCode::from(UNFINISHED)
        };
        Ok(run(&Cli::parse()).unwrap_or_else(unfinished))
    })
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let mut clean = true;
    let mut results = Vec::new();
    for manifest in manifests(cli)? {
        let findings = check::check(&manifest)?;
        clean &= findings.is_empty();
        if cli.json {
            results.push(as_json(&manifest, &findings));
        } else {
            say::out(&report(&manifest, &findings));
        }
    }
    if cli.json {
        say::json(&Value::from(results));
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn manifests(cli: &Cli) -> Result<Vec<Manifest>> {
    let base = state::base()?;
    let Some(jail) = &cli.which.jail else {
        return inventory::jails(&base)?.into_iter().map(|known| known.manifest).collect();
    };
    // An unsafe path is a finding, so the manifest is looked for by the path's text.
    let path = match JailRoot::find(jail) {
        Ok(Found::Jail(root)) => root.path().to_path_buf(),
        _ => std::path::absolute(jail).map_err(|e| Error::io("find", jail, e))?,
    };
    match State::of_jail(&base, &path).manifest()? {
        Some(manifest) => Ok(vec![manifest]),
        None => Err(no_manifest(&path)),
    }
}

fn no_manifest(jail: &Path) -> Error {
    Error::failed(format!("{} has no manifest, so there is nothing to check it against", text::quote(jail)))
        .hint("'jail-list' names the jails of this host")
}

fn report(manifest: &Manifest, findings: &[Finding]) -> String {
    let jail = text::encode(&manifest.jail.0);
    if findings.is_empty() {
        return format!("{jail}: {} checked, nothing found.\n", say::count(manifest.files.len(), "path"));
    }
    let mut out = format!("{jail}: {}\n", say::count(findings.len(), "finding"));
    for finding in findings {
        out.push_str(&format!("  {finding}\n"));
    }
    out
}

fn as_json(manifest: &Manifest, findings: &[Finding]) -> Value {
    let list: Vec<Value> = findings
        .iter()
        .map(|f| json!({ "path": text::encode(&f.path), "fault": f.fault, "detail": f.detail }))
        .collect();
    json!({ "jail": text::encode(&manifest.jail.0), "paths": manifest.files.len(), "findings": list })
}
