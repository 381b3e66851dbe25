//! A release: home, passwd line and groups as they were before. What cannot be given back stays in the jail, whole.

use std::ffi::OsString;
use std::path::Path;

use jail_accounts::{passwd, table};

use super::{Failures, Restore, Session};
use crate::home::{self, Finished, Mover, Place};
use crate::processes::Running;
use crate::record::{Home, Phase, Record};
use crate::report::Outcome;
use crate::trouble::{Trouble, quoted};
use crate::view::Files;

/// Where the home of an account is, now that the account is about to be released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    /// Where it was before; the copy in the jail, if it had to be copied, is still to be cleared away.
    Home,
    /// Where it is: nothing of it was moved.
    Stays,
}

impl Session<'_> {
    /// Releases accounts.
    pub fn release(&mut self, users: &[OsString], force: bool) -> Vec<Outcome> {
        self.with_records(
            users,
            |record| record,
            |session, records| session.take_out(records, force),
            Outcome::released,
        )
    }

    /// Takes accounts out of the jail. What failed stays in it.
    pub(super) fn take_out(&mut self, records: &[Record], force: bool) -> Result<Failures, Trouble> {
        let mut failures = Failures::new();
        let files = Files::read(self.host)?;
        let lines = table::Table::passwd(&files.passwd.bytes);
        let running = Running::look(Path::new("/proc"));
        let mut going = Vec::new();
        for record in records {
            match check_release(record, lines.line(&record.user.0), &running, force) {
                Ok(()) => going.push(record.clone()),
                Err(trouble) => failures.push((record.user.as_os_str().to_owned(), trouble)),
            }
        }
        self.upsert(going.iter().map(|record| Record { phase: Phase::Releasing, ..record.clone() }));
        self.records.save()?;
        let mut moved = Vec::new();
        for record in &going {
            let switched = lines.line(&record.user.0) == Some(record.line_before.0.as_slice());
            match self.bring_home_back(record, switched, force) {
                Ok(back) => moved.push((record, back)),
                Err((trouble, phase)) => {
                    failures.push((record.user.as_os_str().to_owned(), trouble));
                    self.upsert(std::iter::once(Record { phase, ..record.clone() }));
                }
            }
        }
        let released: Vec<&Record> = moved.iter().map(|(record, _)| *record).collect();
        self.restore_host(&released, Restore::Everything)?;
        self.clear_jail(&released)?;
        self.unplace(&released)?;
        for (record, back) in moved {
            if back == Back::Home {
                if let Err(trouble) = self.finish_home_back(record) {
                    complain!("jail-user: {trouble}; the next run tries again");
                    continue;
                }
            }
            self.records.accounts.retain(|other| other.user != record.user);
        }
        self.records.save()?;
        Ok(failures)
    }

    /// The home to where it was. On a failure nothing of it is anywhere else, and the account is in the jail as before;
    /// if not even that could be had, it is still being released, and the next run goes on.
    fn bring_home_back(
        &self,
        record: &Record,
        switched: bool,
        force: bool,
    ) -> Result<Back, (Trouble, Phase)> {
        let Home::Moved { from } = &record.home else { return Ok(Back::Stays) };
        if switched {
            return Ok(Back::Home);
        }
        let places = || -> Result<(Place, Place), Trouble> {
            let gone = || {
                Trouble::failed(format!("the home of {} is not in the jail", quoted(record.user.as_os_str())))
            };
            let jail = self.jail()?;
            let here =
                Place::below(&jail.root, &jail.path, record.inner_home.as_path(), false)?.ok_or_else(gone)?;
            if let Some(found) = here.stat()? {
                home::check_own(&here, &found, record.uid)?;
            }
            Ok((here, Place::on_host(from.as_path())?))
        };
        let (trouble, left) = match places() {
            Err(trouble) => (trouble, Ok(())),
            Ok((here, back)) => {
                let mover = Mover { from: &here, to: &back, uid: record.uid };
                match mover.bring() {
                    Ok(_) => return Ok(Back::Home),
                    Err(trouble) => (trouble, mover.take_back(false)),
                }
            }
        };
        if let Err(worse) = left {
            return Err((Trouble::failed(format!("{trouble}; and {worse}")), Phase::Releasing));
        }
        if force {
            // Asked for: the account is put back, the home stays where it is.
            complain!(
                "jail-user: the home of {} stays in the jail: {trouble}",
                quoted(record.user.as_os_str())
            );
            return Ok(Back::Stays);
        }
        let trouble = match trouble.hint.is_empty() {
            true => trouble.hint("--force releases the account without its home"),
            false => trouble,
        };
        Err((trouble, Phase::Jailed))
    }

    fn finish_home_back(&self, record: &Record) -> Result<(), Trouble> {
        let (Home::Moved { from }, Some(jail)) = (&record.home, &self.jail) else { return Ok(()) };
        let Some(here) = Place::below(&jail.root, &jail.path, record.inner_home.as_path(), false)? else {
            return Ok(());
        };
        let back = Place::on_host(from.as_path())?;
        if let Finished::Kept { at, .. } = (Mover { from: &here, to: &back, uid: record.uid }).finish()? {
            complain!(
                "jail-user: something wrote to the home while it was copied; it is kept at {}",
                quoted(at.as_os_str())
            );
        }
        Ok(())
    }
}

fn check_release(
    record: &Record,
    line: Option<&[u8]>,
    running: &Running,
    force: bool,
) -> Result<(), Trouble> {
    let who = quoted(record.user.as_os_str());
    // The account is gone: there is nothing to put back but the jail's lines.
    let Some(line) = line else { return Ok(()) };
    let fields = |entry: Option<passwd::Entry<'_>>| {
        entry.map(|entry| (entry.uid, entry.home.to_vec(), entry.shell.to_vec()))
    };
    let now = fields(passwd::parse(table::strip_newline(line)));
    let (ours, before) = (fields(record.entry_after()), fields(record.entry_before()));
    if now != ours && now != before && !force {
        return Err(Trouble::failed(format!(
            "the home, shell or uid of {who} was changed since it was jailed"
        ))
        .hint("set it back with usermod, or use --force to put back what it was before"));
    }
    match running.of(record.uid) {
        Some(what) if matches!(record.home, Home::Moved { .. }) && !force => {
            Err(Trouble::failed(format!("{who} has processes running: {what}"))
                .hint("end them first, or use --force to move the home under them"))
        }
        _ => Ok(()),
    }
}
