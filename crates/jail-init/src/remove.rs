//! `jail-init --remove` and `--moved-from`: the end of a jail, and its move.

use std::path::Path;
use std::process::ExitCode;

use jail_provision::error::{Error, Result};
use jail_provision::jailroot::{Found, JailRoot};
use jail_provision::manifest::PathText;
use jail_provision::state::{self, State};
use jail_provision::{base, inventory, takedown, text};

use crate::{cells, say};

/// Removes a jail that nobody uses: its tree by descriptor on one file system, then what is known of it.
pub(crate) fn remove(jail: &Path, dry_run: bool) -> Result<ExitCode> {
    let Found::Jail(root) = JailRoot::find(jail)? else {
        return Err(Error::failed(format!("there is no jail {}", text::quote(jail))));
    };
    let state = State::of_jail(&state::base()?, root.path());
    if state.manifest()?.is_none() {
        return Err(Error::refused(format!(
            "{} has no manifest, so it is not ours to remove",
            text::quote(jail)
        )));
    }
    let lock = state.lock(&mut |holder| say::waiting("jail-init", holder))?;
    let accounts = inventory::accounts(root.path())?;
    if !accounts.is_empty() {
        let names = accounts.join(" ");
        return Err(Error::refused(format!("{} still has accounts: {names}", text::quote(root.path())))
            .hint(format!("jail-user --release -j {} {names}", text::encode(root.path()))));
    }
    let jails = base::jails_on(root.path(), &state::base()?)?;
    if !jails.is_empty() {
        let names: Vec<String> = jails.iter().map(|jail| text::encode(jail)).collect();
        return Err(Error::refused(format!(
            "jails lie on {}: {}",
            text::quote(root.path()),
            names.join(", ")
        ))
        .hint("remove them first, or make them jails of their own files"));
    }
    refuse_while_cells_run(&state)?;
    let (device, inode) = root.identity()?;
    let processes = inventory::processes(device, inode);
    if !processes.is_empty() {
        let pids: Vec<String> = processes.iter().map(u32::to_string).collect();
        return Err(Error::refused(format!(
            "processes run in {}: {}",
            text::quote(root.path()),
            pids.join(", ")
        ))
        .hint("end them first"));
    }
    if !dry_run {
        takedown::remove_tree(root.path())?;
        takedown::remove_tree(state.dir())?;
    }
    drop(lock);
    let done = if dry_run { "would be removed" } else { "is removed" };
    say::out(&format!("{} {done}.\n", text::encode(root.path())));
    Ok(ExitCode::SUCCESS)
}

/// A cell whose root is an overlay has no process whose root is the jail's directory.
fn refuse_while_cells_run(state: &State) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let cells = cells::of_jail(state.name())?;
    if cells.is_empty() {
        return Ok(());
    }
    let pids: Vec<String> = cells.iter().map(|cell| cell.pid.to_string()).collect();
    Err(Error::refused(format!("cells of this jail are running (first processes {})", pids.join(", ")))
        .hint("end them first; 'jail-list' names them"))
}

/// Takes over the manifest of a jail that was moved; the run that follows writes a new entry.toml.
pub(crate) fn take_over(jail: &Path, old: &Path) -> Result<()> {
    let Found::Jail(root) = JailRoot::find(jail)? else {
        return Err(Error::failed(format!("there is no jail {}", text::quote(jail))));
    };
    let base = state::base()?;
    let old = std::path::absolute(old).map_err(|e| Error::io("find", old, e))?;
    let (from, to) = (State::of_jail(&base, &old), State::of_jail(&base, root.path()));
    if to.manifest()?.is_some() {
        return Err(Error::refused(format!(
            "{} has a manifest of its own already",
            text::quote(root.path())
        )));
    }
    let Some(mut manifest) = from.manifest()? else {
        return Err(Error::failed(format!("nothing is known of a jail at {}", text::quote(&old))));
    };
    let identity = root.identity()?;
    if identity != (manifest.device, manifest.inode) {
        return Err(Error::refused(format!(
            "{} is not the directory that was provisioned as {}",
            text::quote(root.path()),
            text::quote(&old)
        ))
        .hint("a copy is a new jail: give it its sections with jail-init -j"));
    }
    std::fs::rename(from.dir(), to.dir()).map_err(|e| Error::io("rename", from.dir(), e))?;
    manifest.jail = PathText(root.path().to_path_buf());
    // The next look must be a thorough one.
    manifest.asked = None;
    to.stage(&manifest)?.commit()
}
