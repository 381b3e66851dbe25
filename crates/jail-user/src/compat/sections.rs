//! The sections that a `jk_init.ini` names: imported anew at each call, since a panel rewrites the file as it likes.
//!
//! A section that we ship under the same name is ours: it does what jailkit's is meant to do, and says what a session
//! needs. The others lie in `/etc/jailwright/from-jailkit/`, a directory for each ini file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jail_accounts::convention;

use super::tool_path;
use crate::trouble::{Trouble, cannot, quoted};

/// What jailkit reads without `-c`.
const USUAL: &str = "/etc/jailkit/jk_init.ini";
const IMPORTED: &str = "/etc/jailwright/from-jailkit";

/// The directory with the ini's own sections, brought up to date; `None` if there is no ini, and so nothing but ours.
pub(super) fn imported(named: Option<&Path>) -> Result<Option<PathBuf>, Trouble> {
    let ini = named.unwrap_or(Path::new(USUAL));
    if named.is_none() && !ini.exists() {
        return Ok(None);
    }
    let ini = std::fs::canonicalize(ini).map_err(cannot("find", ini))?;
    if !rustix::process::geteuid().is_root() {
        return Err(
            Trouble::failed("only root can make jails of jailkit's sections").hint("run it with sudo")
        );
    }
    let shipped = names(None)?;
    let dir = Path::new(IMPORTED).join(convention::jail_name(ini.as_os_str().as_bytes()));
    // Beside it first: another run must never read a section of the ini's that is about to give way to ours.
    let fresh = Path::new(IMPORTED).join(format!(".new-{}", std::process::id()));
    clear(&fresh)?;
    for path in [&dir, &fresh] {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
        made.map_err(cannot("make", path))?;
    }
    let result = import(&ini, &fresh).and_then(|()| exchange(&fresh, &dir, &shipped));
    clear(&fresh)?;
    result.map(|()| Some(dir))
}

fn import(ini: &Path, to: &Path) -> Result<(), Trouble> {
    let output = Command::new(tool_path("jail-init"))
        .args(["--force", "--import"])
        .arg(ini)
        .arg("-c")
        .arg(to)
        .stdin(Stdio::null())
        .output()
        .map_err(cannot("run", tool_path("jail-init")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("jail-init: ").to_owned();
    Err(Trouble { kind: crate::trouble::Kind::Policy, ..Trouble::failed(said) })
}

/// The new sections to their place, one rename each; those that the ini has no longer go.
fn exchange(fresh: &Path, dir: &Path, shipped: &BTreeSet<String>) -> Result<(), Trouble> {
    let stem =
        |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let mut own = BTreeSet::new();
    for path in listed(fresh)? {
        if shipped.contains(&stem(&path)) {
            continue;
        }
        let to = dir.join(path.file_name().unwrap_or_default());
        std::fs::rename(&path, &to).map_err(cannot("write", &to))?;
        own.insert(to);
    }
    for path in listed(dir)?.into_iter().filter(|path| !own.contains(path)) {
        std::fs::remove_file(&path).map_err(cannot("remove", &path))?;
    }
    Ok(())
}

fn listed(dir: &Path) -> Result<Vec<PathBuf>, Trouble> {
    let entries = std::fs::read_dir(dir).map_err(cannot("read", dir))?;
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension() == Some("toml".as_ref()))
        .collect())
}

fn clear(dir: &Path) -> Result<(), Trouble> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(cannot("clear", dir)(error)),
        _ => Ok(()),
    }
}

/// The sections that jail-init knows.
fn names(dir: Option<&Path>) -> Result<BTreeSet<String>, Trouble> {
    let path = tool_path("jail-init");
    let mut command = Command::new(&path);
    command.args(["--list", "--json"]);
    if let Some(dir) = dir {
        command.arg("-c").arg(dir);
    }
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(cannot("run", &path))?;
    let told: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(cannot("understand", &path))?;
    let entries = told.as_array().or_else(|| told["sections"].as_array()).cloned().unwrap_or_default();
    Ok(entries.iter().filter_map(|entry| entry["name"].as_str().map(ToOwned::to_owned)).collect())
}

/// Those of the sections that there are. As jailkit does, one that is not there is warned of, as long as any is.
pub(super) fn known(wanted: &[OsString], dir: Option<&Path>) -> Result<Vec<OsString>, Trouble> {
    if wanted.is_empty() {
        return Err(Trouble::usage("no section is named").hint("jk_init -l lists what there is"));
    }
    let there = names(dir)?;
    let (known, unknown): (Vec<_>, Vec<_>) =
        wanted.iter().cloned().partition(|name| name.to_str().is_some_and(|name| there.contains(name)));
    if known.is_empty() {
        let what: Vec<String> = unknown.iter().map(|name| quoted(name)).collect();
        return Err(Trouble {
            kind: crate::trouble::Kind::Policy,
            ..Trouble::failed(format!("there is no section {}", what.join(", ")))
        }
        .hint("jk_init -l lists what there is"));
    }
    for name in unknown {
        complain!("jk_init: warning: there is no section {}: left out", quoted(&name));
    }
    Ok(known)
}
