//! `--move-to`: from one jail to another, each account either there or still here, whatever happens on the way.
//!
//! It is one move of the home and one change of the passwd line, not a release and a jailing: the new jail's journal
//! holds the old record, and the old jail lets go when passwd names the new one. Both jails' records are locked, in the
//! order of their paths, so that two such runs cannot wait for each other.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use jail_accounts::convention;

use super::{Session, plan_each};
use crate::host::Host;
use crate::jail::Jail;
use crate::manager::Services;
use crate::plan::{self, Planned, Wish};
use crate::record::{Record, Records};
use crate::report::{self, Outcome};
use crate::trouble::{Trouble, quoted};

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
    // What a killed run left is finished first, by the jail alone: it may have to lock the other one.
    let (session, notes) = Session::open(host, services, to, users)?;
    notes.iter().for_each(|note| complain!("jail-user: {note}"));
    let there: Vec<OsString> =
        users.iter().filter(|user| session.records.get(user.as_bytes()).is_some()).cloned().collect();
    let to = session.jail_path.clone();
    drop(session);
    let (mut old, mut new) = if from < to.as_path() {
        let old = open(host, services, from)?;
        (old, open(host, services, &to)?)
    } else {
        let new = open(host, services, &to)?;
        (open(host, services, from)?, new)
    };
    let mut outcomes: Vec<Outcome> = there.iter().map(|user| Outcome::unchanged(user, &to, &[])).collect();
    let going: Vec<OsString> = users.iter().filter(|user| !there.contains(user)).cloned().collect();
    let planned = plan_moves(host, &new, from, &old.records.accounts, &going, wish)?;
    old.jail_path = from.to_owned();
    new.partner = Some(Box::new(old));
    outcomes.extend(new.work_on(&going, planned));
    Ok(outcomes)
}

/// A session without the clearing up, which has been done.
fn open<'a>(host: &'a Host, services: Option<&'a dyn Services>, path: &Path) -> Result<Session<'a>, Trouble> {
    let jail = Jail::open(path)?;
    let records = Records::lock(&host.state, &jail.path, &jail.name)?;
    Ok(Session { host, services, jail_path: jail.path.clone(), jail: Some(jail), records, partner: None })
}

fn plan_moves(
    host: &Host,
    new: &Session<'_>,
    from: &Path,
    old: &[Record],
    users: &[OsString],
    wish: &Wish,
) -> Result<Vec<Result<Planned, Trouble>>, Trouble> {
    plan_records(host, new.jail.as_ref(), &new.records.accounts, from, old, users, wish)
}

fn plan_records(
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
        None => Err(Trouble::failed(format!(
            "{} was not put into {} by jail-user, so what it was before is not known",
            quoted(user),
            quoted(from.as_os_str())
        ))
        .hint("run jail-user on that jail first")),
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
    let planned = plan_records(host, Some(&jail), &records, from, &old, users, wish)?;
    let tell = |(user, plan): (&OsString, Result<Planned, Trouble>)| match plan {
        Err(trouble) => Outcome::failed(user, &jail.path, trouble),
        Ok(plan) => Outcome {
            changed: true,
            actions: report::steps(&plan.record, &jail.path),
            warnings: plan.warnings,
            ..Outcome::unchanged(user, &jail.path, &[])
        },
    };
    Ok(users.iter().zip(planned).map(tell).collect())
}
