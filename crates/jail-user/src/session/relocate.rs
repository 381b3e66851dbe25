//! `--move-to`: from one jail to another, each account either there or still here, whatever happens on the way.
//!
//! It is one move of the home and one change of the passwd line, not a release and a jailing: the new jail's journal
//! holds the old record, and the old jail lets go when passwd names the new one. Both jails' records are locked, in the
//! order of their paths, so that two such runs cannot wait for each other.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jail_accounts::{convention, table};

use super::{Session, not_by_us, plan_each};
use crate::host::Host;
use crate::jail::Jail;
use crate::manager::Services;
use crate::plan::{self, Planned, Wish};
use crate::record::{Phase, Record, Records};
use crate::report::Outcome;
use crate::trouble::{Trouble, quoted};
use crate::view::Files;

/// Moves accounts that are in `from` into `to`; with `dry`, shows what that would change.
pub fn relocate(
    host: &Host,
    services: Option<&dyn Services>,
    from: &Path,
    to: &Path,
    users: &[OsString],
    wish: &Wish,
    dry: bool,
) -> Result<Vec<Outcome>, Trouble> {
    if dry {
        return dry_run(host, from, to, users, wish);
    }
    // What killed runs left in either jail is ended first, jail by jail: each may have to lock the other one.
    let to = Session::open(host, services, to, users)?.jail_path;
    drop(Session::open(host, services, from, &[])?);
    let (old, mut new) = if from < to.as_path() {
        let old = Session::locked(host, services, from)?;
        (old, Session::locked(host, services, &to)?)
    } else {
        let new = Session::locked(host, services, &to)?;
        (Session::locked(host, services, from)?, new)
    };
    let passwd = Files::read(host)?.passwd.bytes;
    let lines = table::Table::passwd(&passwd);
    let mut outcomes = Vec::new();
    let mut going = Vec::new();
    for user in users {
        match stands(&old, &new, lines.line(user.as_bytes()), user) {
            Stands::Here => outcomes.push(Outcome::unchanged(user, &to, &[])),
            Stands::Between(jail) => outcomes.push(Outcome::failed(user, &to, not_done(user, &jail))),
            Stands::There => going.push(user.clone()),
        }
    }
    // A record of an account that somebody has taken out of the new jail by hand says nothing any more.
    new.records.accounts.retain(|record| !going.iter().any(|user| user == record.user.as_os_str()));
    let planned = plan_moves(
        host,
        new.jail.as_ref(),
        &new.records.accounts,
        from,
        &old.records.accounts,
        &going,
        wish,
    )?;
    new.partner = Some(Box::new(old));
    outcomes.extend(new.work_on(&going, planned));
    Ok(outcomes)
}

/// Where an account is, before it is moved.
enum Stands {
    /// In the new jail already.
    Here,
    /// Not yet.
    There,
    /// A killed run left it half way into one of the two, and it could not be brought to an end.
    Between(PathBuf),
}

fn stands(old: &Session<'_>, new: &Session<'_>, line: Option<&[u8]>, user: &OsStr) -> Stands {
    for session in [old, new] {
        match session.records.get(user.as_bytes()) {
            Some(record) if record.phase != Phase::Jailed => {
                return Stands::Between(session.jail_path.clone());
            }
            _ => {}
        }
    }
    match new.records.get(user.as_bytes()) {
        Some(record) if line == Some(record.line_after.0.as_slice()) => Stands::Here,
        _ => Stands::There,
    }
}

fn not_done(user: &OsStr, jail: &Path) -> Trouble {
    let (who, jail) = (quoted(user), quoted(jail.as_os_str()));
    Trouble::failed(format!("an earlier run on the jail {jail} is not done with {who}"))
        .hint("run jail-user on that jail again; it says what is in the way")
}

fn plan_moves(
    host: &Host,
    jail: Option<&Jail>,
    records: &[Record],
    from: &Path,
    old: &[Record],
    users: &[OsString],
    wish: &Wish,
) -> Result<Vec<Result<Planned, Trouble>>, Trouble> {
    let old: HashMap<&OsStr, &Record> = old.iter().map(|record| (record.user.as_os_str(), record)).collect();
    plan_each(host, jail, records, users, wish, |scene, user| match old.get(user.as_os_str()) {
        Some(record) => plan::relocation(scene, wish, user, from, record),
        None => Err(not_by_us(user, from).hint("run jail-user on that jail first")),
    })
}

fn dry_run(
    host: &Host,
    from: &Path,
    to: &Path,
    users: &[OsString],
    wish: &Wish,
) -> Result<Vec<Outcome>, Trouble> {
    let jail = Jail::open(to)?;
    let records = Records::read(&host.state, &jail.path, &jail.name)?;
    let old = Records::read(&host.state, from, &convention::jail_name(from.as_os_str().as_bytes()))?;
    let planned = plan_moves(host, Some(&jail), &records, from, &old, users, wish)?;
    Ok(users.iter().zip(planned).map(|(user, plan)| Outcome::planned(user, &jail.path, plan)).collect())
}
