//! `--from-jailkit` and `--back`: accounts that jailkit jailed, with what its files say of them, over to us and back again.
//!
//! The jail and the home stay as they are: both tools understand an account's home alike. What changes is the login
//! shell in passwd, and a table in `/etc/jailwright/from-jailkit.toml` for what was set in jailkit's files.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jail_accounts::{convention, passwd};

use crate::books;
use crate::dir;
use crate::host::Host;
use crate::jail::Jail;
use crate::jailkit::{self, Settings};
use crate::record::{Record, Records};
use crate::report::Outcome;
use crate::trouble::{Trouble, quoted};
use crate::view::{Files, View};

/// Where jailkit's files are.
const CONFIG: &str = "/etc/jailkit";
/// What is carried over; jail-sh reads it below the administrator's own policy.
const FILE: &str = "from-jailkit.toml";
/// What a cell is mounted on; jailkit makes none of these.
const MOUNT_POINTS: [&str; 5] = ["dev", "proc", "tmp", "run", "var/tmp"];

/// Accounts that jailkit jailed, by jail, with what its files say of each.
#[derive(Debug, Default)]
pub struct Found {
    /// By jail.
    pub jails: BTreeMap<PathBuf, Vec<(OsString, Settings)>>,
    /// What is to be said of the others.
    pub outcomes: Vec<Outcome>,
}

/// Looks for accounts with jailkit's shell: those named, or all.
pub fn look(host: &Host, named: &[OsString], all: bool) -> Result<Found, Trouble> {
    let files = Files::read(host)?;
    let view = View::new(&files.passwd.bytes, &files.group.bytes);
    let file = |name: &str| std::fs::read(Path::new(CONFIG).join(name)).unwrap_or_default();
    let (chrootsh, lsh) = (jailkit::read(&file("jk_chrootsh.ini")), jailkit::read(&file("jk_lsh.ini")));
    let every =
        passwd::entries(&files.passwd.bytes).filter(is_theirs).map(|entry| OsStr::from_bytes(entry.name));
    let users: Vec<OsString> = if all { every.map(OsStr::to_owned).collect() } else { named.to_vec() };
    let mut found = Found::default();
    let mut jails: BTreeMap<PathBuf, (Vec<u8>, Option<jail_provision::import::ini::Ini>)> = BTreeMap::new();
    for user in users {
        let split = view.account(user.as_bytes()).filter(|entry| is_theirs(entry)).and_then(|entry| {
            let jail = dir::clean(convention::split_home(entry.home)?.jail)?;
            Some((entry, jail))
        });
        let Some((entry, path)) = split else {
            found.outcomes.push(Outcome::unchanged_because(
                &user,
                Path::new(""),
                "has not jailkit's shell (any more)",
            ));
            continue;
        };
        let (inside, own) = jails.entry(path.clone()).or_insert_with(|| {
            // One that is unsafe is refused further on.
            let jail = Jail::open(&path).ok();
            let read = |inner| jail.as_ref().and_then(|jail| jail.read(inner));
            // jk_lsh runs inside, and reads the file that is there.
            (
                read("etc/passwd").unwrap_or_default(),
                read("etc/jailkit/jk_lsh.ini").map(|ini| jailkit::read(&ini)),
            )
        });
        let shell = passwd::by_name(inside, entry.name).map(|entry| entry.shell).unwrap_or_default();
        let group = view.group_name(entry.gid).map(String::from_utf8_lossy);
        let settings = jailkit::settings(
            &chrootsh,
            own.as_ref().unwrap_or(&lsh),
            &user.to_string_lossy(),
            group.as_deref(),
            shell,
        );
        found.jails.entry(path).or_default().push((user, settings));
    }
    Ok(found)
}

fn is_theirs(entry: &passwd::Entry<'_>) -> bool {
    entry.shell.rsplit(|b| *b == b'/').next() == Some(b"jk_chrootsh")
}

/// Accounts that came from jailkit, by jail: those named, or all.
pub fn came_from_jailkit(host: &Host, named: &[OsString], all: bool) -> Result<Found, Trouble> {
    let recorded = Records::accounts_of_all(&host.state)?;
    let came = |record: &Record| record.entry_before().is_some_and(|entry| is_theirs(&entry));
    let mut found = Found::default();
    for (record, jail) in recorded.iter().filter(|(record, _)| came(record)) {
        let user = record.user.as_os_str().to_owned();
        if all || named.contains(&user) {
            found.jails.entry(jail.clone()).or_default().push((user, Settings::default()));
        }
    }
    for user in named {
        if !found.jails.values().flatten().any(|(known, _)| known == user) {
            found.outcomes.push(Outcome::unchanged_because(user, Path::new(""), "did not come from jailkit"));
        }
    }
    Ok(found)
}

/// Makes in the jail what a cell is mounted on, where it is missing. Says what was made.
pub fn prepare(jail: &Jail) -> Result<Vec<String>, Trouble> {
    let mut made = Vec::new();
    for name in MOUNT_POINTS {
        let below = Path::new(name);
        if dir::open_trusted_below(jail.root.as_fd(), &jail.path, below, false)
            .is_ok_and(|found| found.is_none())
        {
            dir::open_trusted_below(jail.root.as_fd(), &jail.path, below, true)?;
            made.push(format!("jail: made the directory {}", quoted(jail.path.join(name).as_os_str())));
        }
    }
    Ok(made)
}

/// Writes (or, without lines, takes out) what was carried over for some accounts, in one write.
pub fn write(host: &Host, users: &[(OsString, Vec<String>)]) -> Result<(), Trouble> {
    if users.is_empty() {
        return Ok(());
    }
    books::edit_settings(host, FILE, |old| {
        let before = old.map(String::from_utf8_lossy).unwrap_or_default();
        let after = users.iter().fold(before.to_string(), |file, (user, lines)| match user.to_str() {
            Some(user) if !lines.is_empty() || file.contains("[user.") => {
                jailkit::with_user(&file, user, lines)
            }
            _ => file,
        });
        (after != before).then(|| after.into_bytes())
    })
}

/// Accounts that are jailkit's and have settings carried over all the same.
pub fn left_over(host: &Host) -> Result<Vec<OsString>, Trouble> {
    let file = std::fs::read(host.config.join(FILE)).unwrap_or_default();
    let file = String::from_utf8_lossy(&file);
    let carried: std::collections::HashSet<&str> =
        file.lines().filter(|line| line.starts_with("[user.")).collect();
    if carried.is_empty() {
        return Ok(Vec::new());
    }
    let passwd = Files::read(host)?.passwd.bytes;
    let theirs = passwd::entries(&passwd).filter(is_theirs).map(|entry| OsStr::from_bytes(entry.name));
    let has_table =
        |user: &&OsStr| user.to_str().is_some_and(|user| carried.contains(jailkit::header(user).as_str()));
    Ok(theirs.filter(has_table).map(OsStr::to_owned).collect())
}

/// What is said of an account's settings, in a dry run and after.
#[must_use]
pub fn told(settings: &Settings) -> Vec<String> {
    settings.lines.iter().map(|line| format!("/etc/jailwright/{FILE}: +{line}")).collect()
}

/// What of jailkit's needs no carrying over, for the jails concerned.
#[must_use]
pub fn notes_of(jail: &Path) -> Vec<String> {
    let file = |name: &str| jailkit::read(&std::fs::read(Path::new(CONFIG).join(name)).unwrap_or_default());
    let mut notes = Vec::new();
    let of_jail = |name: &str| dir::clean(name.as_bytes()).is_some_and(|path| path == jail);
    if file("jk_update.ini").sections.iter().any(|section| of_jail(&section.name)) {
        notes.push(
            "jk_update.ini: nothing to carry over, jail-update leaves alone what jail-init did not make"
                .to_owned(),
        );
    }
    let socket = jail.join("dev/log");
    if file("jk_socketd.ini").sections.iter().any(|section| Path::new(&section.name) == socket) {
        notes.push("jk_socketd.ini: not needed, every cell has a /dev/log of its own".to_owned());
    }
    notes
}
