//! jail-check: says what is wrong with a jail, or how accounts could get round theirs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, CommandFactory, Parser};
use jail_provision::check::{self, Finding};
use jail_provision::error::{Error, Result};
use jail_provision::host::RealHost;
use jail_provision::jailroot::{Found, JailRoot};
use jail_provision::manifest::Manifest;
use jail_provision::state::{self, State};
use jail_provision::{inventory, sbom, text};
use serde_json::{Value, json};

use crate::host::{self, Question, View};
use crate::say;

const EXAMPLE: &str = "\
Example:
  jail-check -j /home/jail
  jail-check --all --json
  jail-check --host
      how could jailed accounts get round their shell?
  jail-check --host dave --sshd-config /etc/ssh/sshd_config_sftp

Exit status: 0 clean, 1 findings, 2 usage, 5 could not finish.";

/// Could not finish: neither clean nor not.
const UNFINISHED: u8 = 5;

/// Hold every file of a jail against its manifest, whole content, and name whatever else is wrong with it; or look for
/// ways round the login shell.
///
/// Found are: missing, changed and foreign files, owners and modes, set-uid files and devices, what others may write, broken
/// links, programs that cannot start in the jail, lines of passwd and group that disagree with the host, files that the
/// host has renewed since, and an unsafe path to the jail.
#[derive(Debug, Parser)]
#[command(name = "jail-check", version, after_help = EXAMPLE, max_term_width = 100)]
#[command(group = ArgGroup::new("which").required(true))]
pub struct Cli {
    /// The jail's directory
    #[arg(short, long, value_name = "DIR", group = "which")]
    jail: Option<PathBuf>,
    /// Every jail that has a manifest
    #[arg(long, group = "which")]
    all: bool,
    /// The host instead: every way by which a jailed account could get round its login shell
    ///
    /// Looked at are sshd's settings in force for each account, cron and at, systemd's user managers, lingering and units,
    /// sudo and doas, mail, web servers and PHP pools, other names of a uid, groups, /etc/shells, and who can write to
    /// jail-sh, its policy and the jails. Nothing is changed.
    #[arg(long, group = "which")]
    host: bool,
    /// With --host: only these accounts
    #[arg(value_name = "USER", requires = "host")]
    users: Vec<String>,
    /// With --host: ask sshd about this configuration (an sshd that was started with -f)
    #[arg(long, value_name = "FILE", requires = "host")]
    sshd_config: Option<PathBuf>,
    /// With --host: ask sshd about a connection from here, for Match blocks (host=NAME,addr=ADDRESS)
    #[arg(long, value_name = "SPEC", requires = "host")]
    from: Vec<String>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
    /// Check nothing; print the packages of the host that the jail's files come from, as CycloneDX JSON for a scanner
    #[arg(long, conflicts_with_all = ["json", "all"])]
    sbom: bool,
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
    if cli.host {
        return check_host(cli);
    }
    if cli.sbom {
        return bill(cli);
    }
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

fn check_host(cli: &Cli) -> Result<ExitCode> {
    let question =
        Question { users: cli.users.clone(), sshd_config: cli.sshd_config.clone(), from: cli.from.clone() };
    let report = host::audit(&View::this_host()?, &question)?;
    if cli.json {
        say::json(&report.json());
    } else {
        say::out(&report.text());
    }
    Ok(match (report.unfinished.is_empty(), report.findings.is_empty()) {
        (false, _) => ExitCode::from(UNFINISHED),
        (true, false) => ExitCode::FAILURE,
        (true, true) => ExitCode::SUCCESS,
    })
}

/// The bill of material of a jail; the files of its base are files of the jail.
fn bill(cli: &Cli) -> Result<ExitCode> {
    for mut manifest in manifests(cli)? {
        if let Some(base) = &manifest.base {
            let base =
                State::of_jail(&state::base()?, &base.0).manifest()?.ok_or_else(|| no_manifest(&base.0))?;
            for (path, record) in base.files {
                manifest.files.entry(path).or_insert(record);
            }
        }
        say::json(&sbom::cyclonedx(&manifest, &RealHost::system())?);
    }
    Ok(ExitCode::SUCCESS)
}

fn manifests(cli: &Cli) -> Result<Vec<Manifest>> {
    let base = state::base()?;
    let Some(jail) = &cli.jail else {
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
