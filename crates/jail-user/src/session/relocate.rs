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

use super::{Session, not_by_us, plan_each};
use crate::host::Host;
use crate::jail::Jail;
use crate::manager::Services;
use crate::plan::{self, Planned, Wish};
use crate::record::{Record, Records};
use crate::report::Outcome;
use crate::trouble::Trouble;

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
    let session = Session::open(host, services, to, users)?;
    let there: Vec<OsString> =
        users.iter().filter(|user| session.records.get(user.as_bytes()).is_some()).cloned().collect();
    let to = session.jail_path.clone();
    drop(session);
    // The clearing up has been done.
    let (old, mut new) = if from < to.as_path() {
        let old = Session::locked(host, services, from)?;
        (old, Session::locked(host, services, &to)?)
    } else {
        let new = Session::locked(host, services, &to)?;
        (Session::locked(host, services, from)?, new)
    };
    let mut outcomes: Vec<Outcome> = there.iter().map(|user| Outcome::unchanged(user, &to, &[])).collect();
    let going: Vec<OsString> = users.iter().filter(|user| !there.contains(user)).cloned().collect();
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
