//! Making and deleting accounts through the host's own programs, which know its ranges of uids, its groups, its shadow
//! file and its audit log. They are called by absolute path with an argument list: no shell ever sees a name.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jail_accounts::{convention, passwd};

use crate::dir;
use crate::host::Host;
use crate::plan::HomeChoice;
use crate::trouble::{Trouble, cannot, quoted};

/// What `--create` has to do for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// There is no such account.
    Account,
    /// It is there, in a jail or without a home yet: an earlier run made it.
    Nothing,
}

/// Looks whether an account is there. One that lives somewhere already is not ours to take for a new one.
pub fn need(passwd_file: &[u8], user: &OsStr) -> Result<Need, Trouble> {
    let Some(entry) = passwd::by_name(passwd_file, user.as_bytes()) else { return Ok(Need::Account) };
    let jailed = convention::split_home(entry.home).is_some()
        || entry.shell.rsplit(|b| *b == b'/').next() == Some(b"jail-sh");
    let lives = dir::clean(entry.home).is_some_and(|home| home.symlink_metadata().is_ok());
    if lives && !jailed {
        return Err(Trouble::failed(format!("the user {} is there already and has a home", quoted(user)))
            .hint(
                "leave out --create to jail it as it is (-m moves its home, --bind-home leaves it in place)",
            ));
    }
    Ok(Need::Nothing)
}

/// The arguments of useradd for an account that is about to be jailed.
#[must_use]
pub fn arguments(shell: &Path, home: HomeChoice, user: &OsStr) -> Vec<OsString> {
    // A home that the cell mounts is made by useradd; any other is made in the jail.
    let make = if home == HomeChoice::Bind { "--create-home" } else { "--no-create-home" };
    vec![make.into(), "--shell".into(), shell.into(), "--".into(), user.to_owned()]
}

/// Makes an account.
pub fn useradd(host: &Host, shell: &Path, home: HomeChoice, user: &OsStr) -> Result<(), Trouble> {
    run(host.useradd.as_ref(), "useradd", &arguments(shell, home, user)).map_err(|trouble| {
        // useradd says so, and would put nobody into a group that others may be in.
        match trouble.sentence.contains("group") && trouble.sentence.contains("exists") {
            true => trouble.hint(format!("if nobody needs that group: groupdel {}", quoted(user))),
            false => trouble,
        }
    })
}

/// Deletes an account, but not its home.
pub fn userdel(host: &Host, user: &OsStr) -> Result<(), Trouble> {
    run(host.userdel.as_ref(), "userdel", &["--".into(), user.to_owned()])
}

fn run(program: Option<&PathBuf>, name: &str, arguments: &[OsString]) -> Result<(), Trouble> {
    let program = program.ok_or_else(|| {
        Trouble::failed(format!("this host has no {name}"))
            .hint("install the package that has it (passwd on Debian)")
    })?;
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .map_err(cannot("run", program))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(Trouble::failed(format!("{name} failed: {}", said.trim().escape_debug())))
}
