//! jail-list: the jails of this host, their sections, size, accounts, running cells and other processes; and the virtual
//! machines that are kept.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use jail_confine::cell::age::{self, Age};
use jail_provision::error::{Error, Result};
use jail_provision::inventory::{self, Known};
use jail_provision::kept;
use jail_provision::manifest::{Manifest, PathText, What};
use jail_provision::state::{self, State};
use jail_provision::text;
use serde_json::{Value, json};

use crate::cells::{self, Running};
use crate::say;

const EXAMPLE: &str = "\
Example:
  jail-list
  jail-list --json
  jail-list --sweep       clear away what ended cells left

Exit status: 0 done, 1 the work failed, 2 usage.";

/// List the jails of this host: sections, size, accounts, running cells and other processes inside.
///
/// Size is told as what is the jail's own and what it shares: hard links with the host, files with its base.
#[derive(Debug, Parser)]
#[command(name = "jail-list", version, after_help = EXAMPLE, max_term_width = 100)]
pub struct Cli {
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
    /// Clear away the control groups and the state of cells that have ended; for root, and for a timer
    #[arg(long, conflicts_with = "json")]
    sweep: bool,
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
    cells: Vec<Cell>,
    processes: Vec<u32>,
    base: Option<String>,
    generation: Option<String>,
    /// Of a base: the jails that lie on it.
    jails: Vec<String>,
}

/// What is told of one running cell.
struct Cell {
    user: String,
    uid: u32,
    pids: Vec<u32>,
    memory: u64,
    since: u64,
    age: Age,
}

/// A cell's age for a script.
fn word(age: Age) -> &'static str {
    match age {
        Age::Current => "current",
        Age::Older => "older",
        Age::NoLongerHis => "no-longer-his",
    }
}

/// And for a person.
fn remark(age: Age) -> &'static str {
    match age {
        Age::Current => "",
        Age::Older => ", made under an older policy or jail",
        Age::NoLongerHis => ", to which no login of the user comes now",
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    if cli.sweep {
        return sweep();
    }
    let cells = cells::if_root()?;
    let base = state::base()?;
    let mut told = Vec::new();
    for Known { name, manifest, .. } in inventory::jails(&base)? {
        match manifest {
            Ok(manifest) => told.push(tell(&manifest, &name, &base, &cells)?),
            Err(error) => say::note(&format!("jail-list: {name}: {error}")),
        }
    }
    let machines = kept::all(&base)?;
    if cli.json {
        let list: Vec<Value> = told.iter().map(as_json).chain(machines.iter().map(machine_as_json)).collect();
        say::json(&Value::from(list));
    } else if told.is_empty() && machines.is_empty() {
        say::out("There are no jails.\n");
    } else {
        told.iter().for_each(|jail| say::out(&as_text(jail)));
        machines.iter().for_each(|machine| say::out(&machine_as_text(machine)));
    }
    Ok(ExitCode::SUCCESS)
}

/// What a machine takes now: the process beside it, and QEMU with what is around it.
fn memory_of_machine(machine: &kept::Told) -> u64 {
    if !machine.running {
        return 0;
    }
    let mut total = 0;
    let mut pids = vec![machine.note.pid];
    while let Some(pid) = pids.pop() {
        total += cells::memory(pid);
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    total
}

fn machine_as_text(machine: &kept::Told) -> String {
    let state = if machine.running {
        format!("running, pid {}, {} in memory", machine.note.pid, say::size(memory_of_machine(machine)))
    } else {
        "not running".to_owned()
    };
    format!(
        "machine {}\n  jail       {}\n  disk       {} of {}\n  memory     {}\n  state      {state}\n",
        machine.name,
        text::encode(Path::new(&machine.note.jail)),
        say::size(machine.used),
        say::size(machine.size),
        say::size(machine.note.memory)
    )
}

fn machine_as_json(machine: &kept::Told) -> Value {
    json!({
        "machine": machine.name,
        "jail": machine.note.jail,
        "disk": machine.size,
        "disk_used": machine.used,
        "memory": machine.note.memory,
        "running": machine.running,
        "pid": machine.running.then_some(machine.note.pid),
        "memory_used": memory_of_machine(machine),
    })
}

/// Entries clear a little each; this clears all.
fn sweep() -> Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::refused("cells and their control groups are root's to clear away")
            .hint("sudo jail-list --sweep"));
    }
    let running = cells::sweep()?;
    say::out(&format!("{} running; what others left is cleared away.\n", say::count(running, "cell")));
    Ok(ExitCode::SUCCESS)
}

fn tell(manifest: &Manifest, name: &str, base: &Path, running: &[Running]) -> Result<Told> {
    let (mut own, mut shared) = (0, 0);
    for record in manifest.files.values() {
        let size = record.stamp.map_or(0, |stamp| stamp.1);
        match record.what {
            What::File { linked: true, .. } => shared += size,
            _ => own += size,
        }
    }
    if let Some(below) = &manifest.base {
        let below = State::of_jail(base, &below.0).manifest()?;
        let files = below.iter().flat_map(|base| &base.files);
        let in_base = files.filter(|(path, _)| !manifest.files.contains_key(path));
        shared += in_base.map(|(_, record)| record.stamp.map_or(0, |stamp| stamp.1)).sum::<u64>();
    }
    let text_of = |path: &PathText| text::encode(&path.0);
    let on_it = match manifest.generation {
        Some(_) => jail_provision::base::jails_on(&manifest.jail.0, base)?,
        None => Vec::new(),
    };
    let cells: Vec<Cell> = running.iter().filter(|cell| cell.jail == name).map(cell).collect();
    let in_cells: BTreeSet<u32> = cells.iter().flat_map(|cell| cell.pids.iter().copied()).collect();
    let mut processes = inventory::processes(manifest.device, manifest.inode);
    processes.retain(|pid| !in_cells.contains(pid));
    Ok(Told {
        jail: text::encode(&manifest.jail.0),
        sections: manifest.sections.clone(),
        paths: manifest.files.len(),
        own,
        shared,
        accounts: inventory::accounts(&manifest.jail.0)?,
        cells,
        processes,
        base: manifest.base.as_ref().map(text_of),
        generation: manifest.generation.clone(),
        jails: on_it.iter().map(|jail| text::encode(jail)).collect(),
    })
}

fn cell(running: &Running) -> Cell {
    let pids = cells::processes(running.pid);
    let user = users::get_user_by_uid(running.uid).map(|user| user.name().to_string_lossy().into_owned());
    let user = user.unwrap_or_else(|| running.uid.to_string());
    Cell {
        user: user.clone(),
        uid: running.uid,
        age: age::of(&running.found, OsStr::new(&user)),
        memory: pids.iter().map(|pid| cells::memory(*pid)).sum(),
        pids,
        since: cells::began(running.started),
    }
}

fn as_text(told: &Told) -> String {
    let mut out = format!("{}\n  sections   {}\n", told.jail, told.sections.join(", "));
    let shared = if told.shared > 0 {
        let with = if told.base.is_some() { "its base" } else { "the host" };
        format!(", {} shared with {with}", say::size(told.shared))
    } else {
        String::new()
    };
    out.push_str(&format!(
        "  content    {}, {}{shared}\n",
        say::count(told.paths, "path"),
        say::size(told.own)
    ));
    if let Some(base) = &told.base {
        out.push_str(&format!("  base       {base}\n"));
    }
    if let Some(generation) = &told.generation {
        out.push_str(&format!(
            "  base of    {}, generation {generation}\n",
            say::count(told.jails.len(), "jail")
        ));
    }
    for cell in &told.cells {
        out.push_str(&format!(
            "  cell       {}: {} in memory, since {}{}, pids {}\n",
            cell.user,
            say::size(cell.memory),
            say::ago(cell.since),
            remark(cell.age),
            cell.pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
        ));
    }
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
        "cells": told.cells.iter().map(|cell| json!({
            "user": cell.user,
            "uid": cell.uid,
            "pids": cell.pids,
            "memory": cell.memory,
            "age": word(cell.age),
            "since": cell.since,
        })).collect::<Vec<_>>(),
        "processes": told.processes,
        "base": told.base,
        "generation": told.generation,
        "jails": told.jails,
    })
}
