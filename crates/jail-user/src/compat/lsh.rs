//! `jk_lsh`: runs the one command of `-c`, if `jk_lsh.ini` lists it, and nothing else; inside a jail or outside.
//!
//! It is as strong as the list: a program that starts others (scp -S, rsync -e) starts any. `commands` in jail-sh.toml holds
//! at the entry and for what is started as well; `jail-user --from-jailkit` turns the one into the other.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use jail_accounts::{group, passwd};
use jail_provision::import::ini::{self, Ini, Section};

use crate::jailkit;

const CONFIG: &str = "/etc/jailkit/jk_lsh.ini";

/// Why a command is not run, with jailkit's exit status for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused(u8, String);

/// What is run, and how.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    program: PathBuf,
    args: Vec<OsString>,
    umask: u32,
    environment: Vec<(String, String)>,
}

/// Runs the command, or says in one sentence why not.
pub(super) fn main(args: &[OsString]) -> u8 {
    let file = |path: &str| std::fs::read(path).unwrap_or_default();
    let uid = rustix::process::getuid().as_raw();
    let (users, groups) = (file("/etc/passwd"), file("/etc/group"));
    let decided = passwd::by_uid(&users, uid)
        .next()
        .ok_or_else(|| Refused(2, format!("uid {uid} is not in /etc/passwd")))
        .and_then(|entry| {
            let config = std::fs::read(CONFIG)
                .map_err(|error| Refused(1, format!("cannot read '{CONFIG}': {error}")))?;
            let name = String::from_utf8_lossy(entry.name).into_owned();
            let of_group = group::by_gid(&groups, entry.gid).map(|group| String::from_utf8_lossy(group.name));
            decide(&jailkit::read(&config), &name, of_group.as_deref(), args)
        });
    match decided {
        Err(Refused(status, why)) => {
            complain!("jk_lsh: refused: {why}");
            status
        }
        Ok(allowed) => {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(allowed.umask));
            let error = Command::new(&allowed.program).args(&allowed.args).envs(allowed.environment).exec();
            complain!("jk_lsh: cannot run '{}': {error}", allowed.program.display());
            126
        }
    }
}

/// What the file lets a user run of what is asked. No shell sees the line: it is split at blanks, with quotes and
/// backslashes, and nothing in it is expanded.
pub(super) fn decide(
    config: &Ini,
    user: &str,
    group: Option<&str>,
    args: &[OsString],
) -> Result<Allowed, Refused> {
    let [option, line] = args else {
        return Err(Refused(7, "only a command can be run here (-c COMMAND), no session".into()));
    };
    if option != "-c" {
        return Err(Refused(7, "only a command can be run here (-c COMMAND), no session".into()));
    }
    let section = jailkit::section(config, user, group)
        .ok_or_else(|| Refused(3, format!("'{CONFIG}' has no section for '{user}'")))?;
    let value = |key: &str| jailkit::value(section, key);
    let executables = value("executables").map(ini::words).unwrap_or_default();
    if executables.is_empty() {
        return Err(Refused(5, format!("'{CONFIG}' lists no executables for '{user}'")));
    }
    let words =
        split(line.as_bytes()).ok_or_else(|| Refused(6, "a quote in the command is not closed".into()))?;
    let (first, rest) = words.split_first().ok_or_else(|| Refused(4, "the command is empty".into()))?;
    let program = candidates(first, section)
        .into_iter()
        .find(|path| executables.iter().any(|known| path == Path::new(known)));
    let program = program.ok_or_else(|| {
        Refused(4, format!("'{}' is not among the allowed commands", first.to_string_lossy().escape_debug()))
    })?;
    let umask = value("umask").map(|mask| u32::from_str_radix(mask, 8).unwrap_or(0o077)).unwrap_or(0o022);
    let pairs = value("environment").map(ini::words).unwrap_or_default();
    let environment = pairs
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))
        .collect();
    Ok(Allowed { program, args: rest.to_vec(), umask: umask & 0o777, environment })
}

/// The paths that a command's name may mean: itself, or a file in one of `paths`; never one of $PATH.
fn candidates(name: &OsString, section: &Section) -> Vec<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return vec![PathBuf::from(name)];
    }
    let paths = jailkit::value(section, "paths").map(ini::words).unwrap_or_default();
    paths.iter().map(|dir| Path::new(dir).join(name)).collect()
}

/// `None` if a quote is left open.
fn split(line: &[u8]) -> Option<Vec<OsString>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote = None;
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (None, b'\'' | b'"') => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (None | Some(b'"'), b'\\') => word.get_or_insert_default().push(bytes.next()?),
            (None, b' ' | b'\t' | b'\n') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word.take());
    quote.is_none().then(|| words.into_iter().map(OsString::from_vec).collect())
}
