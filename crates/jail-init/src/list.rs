//! jail-list: the jails of this host, their sections, size, accounts and processes.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use jail_provision::error::Result;
use jail_provision::inventory::{self, Known};
use jail_provision::manifest::{Manifest, What};
use jail_provision::{state, text};
use serde_json::{Value, json};

use crate::say;

const EXAMPLE: &str = "\
Example:
  jail-list
  jail-list --json

Exit status: 0 done, 1 the work failed, 2 usage.";

/// List the jails of this host: sections, size, accounts, and processes inside.
#[derive(Debug, Parser)]
#[command(name = "jail-list", version, after_help = EXAMPLE, max_term_width = 100)]
pub struct Cli {
    /// Print the list as JSON
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
    say::tool("jail-list", || run(&Cli::parse()))
}

/// What is told of one jail.
struct Told {
    jail: String,
    sections: Vec<String>,
    paths: usize,
    own: u64,
    shared: u64,
    accounts: Vec<String>,
    processes: Vec<u32>,
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let mut told = Vec::new();
    for Known { name, manifest, .. } in inventory::jails(&state::base()?)? {
        match manifest {
            Ok(manifest) => told.push(tell(&manifest)?),
            Err(error) => say::note(&format!("jail-list: {name}: {error}")),
        }
    }
    if cli.json {
        let list: Vec<Value> = told.iter().map(as_json).collect();
        say::json(&Value::from(list));
    } else if told.is_empty() {
        say::out("There are no jails.\n");
    } else {
        told.iter().for_each(|jail| say::out(&as_text(jail)));
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(manifest: &Manifest) -> Result<Told> {
    let (mut own, mut shared) = (0, 0);
    for record in manifest.files.values() {
        let size = record.stamp.map_or(0, |stamp| stamp.1);
        match record.what {
            What::File { linked: true, .. } => shared += size,
            _ => own += size,
        }
    }
    Ok(Told {
        jail: text::encode(&manifest.jail.0),
        sections: manifest.sections.clone(),
        paths: manifest.files.len(),
        own,
        shared,
        accounts: inventory::accounts(&manifest.jail.0)?,
        processes: inventory::processes(manifest.device, manifest.inode),
    })
}

fn as_text(told: &Told) -> String {
    let mut out = format!("{}\n  sections   {}\n", told.jail, told.sections.join(", "));
    let shared = if told.shared > 0 {
        format!(", {} shared with the host", say::size(told.shared))
    } else {
        String::new()
    };
    out.push_str(&format!(
        "  content    {}, {}{shared}\n",
        say::count(told.paths, "path"),
        say::size(told.own)
    ));
    let or_none = |list: String| if list.is_empty() { "none".to_owned() } else { list };
    out.push_str(&format!("  accounts   {}\n", or_none(told.accounts.join(", "))));
    let pids: Vec<String> = told.processes.iter().map(u32::to_string).collect();
    out.push_str(&format!("  processes  {}\n", or_none(pids.join(", "))));
    out
}

fn as_json(told: &Told) -> Value {
    json!({
        "jail": told.jail,
        "sections": told.sections,
        "paths": told.paths,
        "bytes": told.own,
        "bytes_shared": told.shared,
        "accounts": told.accounts,
        "processes": told.processes,
    })
}
