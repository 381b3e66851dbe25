//! What a killed run left is brought to an end before anything else is done: an account that passwd has in the jail is
//! finished, any other is put back.
//!
//! One account that resists (its owner keeps processes, a disk is full) holds up nobody else: it is named, stays in the
//! journal as it is, and only work on that very account is refused.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use jail_accounts::{passwd, table};

use super::{Failures, Session};
use crate::home::{self, Mover, Place};
use crate::record::{Home, Phase, Record};
use crate::text::Text;
use crate::trouble::{Trouble, quoted};
use crate::view::Files;

/// The end of a note.
const IN: &str = "into the jail, which an earlier run had begun";

impl Session<'_> {
    /// Ends what a killed run left, and says of each account what was done.
    pub(super) fn recover(&mut self, resume: &[OsString]) -> Result<Vec<String>, Trouble> {
        if self.records.accounts.iter().all(|record| record.phase == Phase::Jailed) {
            return Ok(Vec::new());
        }
        let files = Files::read(self.host)?;
        let lines = table::Table::passwd(&files.passwd.bytes);
        let (mut finish, mut undo, mut release, mut remove) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for record in &self.records.accounts {
            match record.phase {
                Phase::Jailed => {}
                Phase::Adding if is_switched_over(record, lines.line(&record.user.0)) => {
                    finish.push(record.clone())
                }
                Phase::Adding => undo.push(record.clone()),
                Phase::Releasing => release.push(record.clone()),
                Phase::Removing | Phase::Purging => remove.push(record.clone()),
            }
        }
        let mut notes = Vec::new();
        let failures = self.finish(&finish);
        self.tell(&finish, failures, "finished putting", IN, &mut notes);
        if !undo.is_empty() {
            let resumed = resume.iter().map(|user| Text::from(user.as_bytes())).collect();
            let failures = self.undo(&undo, &resumed)?;
            self.tell(&undo, failures, "undid what an earlier run had begun with", "", &mut notes);
        }
        if !release.is_empty() {
            let failures = self.take_out(&release, false)?;
            self.tell(&release, failures, "finished the release of", "", &mut notes);
        }
        if !remove.is_empty() {
            let failures = self.take_away(&remove)?;
            self.tell(&remove, failures, "finished the removal of", "", &mut notes);
        }
        self.records.save()?;
        Ok(notes)
    }

    /// Notes what became of some accounts; one that is still in the midst of a change is not to be worked on.
    fn tell(
        &mut self,
        records: &[Record],
        failures: Failures,
        done: &str,
        after: &str,
        notes: &mut Vec<String>,
    ) {
        for record in records {
            let who = quoted(record.user.as_os_str());
            match failures.iter().find(|(user, _)| user == record.user.as_os_str()) {
                None => {
                    notes.push(format!("{done} {who} {after}").trim_end().to_owned());
                    if record.phase != Phase::Adding {
                        self.ended.insert(record.user.clone());
                    }
                }
                Some((_, trouble)) => {
                    notes.push(format!("cannot end what an earlier run had begun with {who}: {trouble}"));
                    let phase = self.records.get(&record.user.0).map(|record| record.phase);
                    if phase.is_some_and(|phase| phase != Phase::Jailed) {
                        self.stuck.insert(record.user.clone(), trouble.clone());
                    }
                }
            }
        }
    }

    /// Accounts that passwd has in the jail already: what is left to be cleared away.
    fn finish(&mut self, records: &[Record]) -> Failures {
        let mut failures = Failures::new();
        for record in records {
            let finished = self
                .place(&[record])
                .and_then(|()| self.finish_home(record))
                .and_then(|_| self.leave_old_jail(record));
            match finished {
                Ok(()) => {
                    let done = Record { phase: Phase::Jailed, ..record.clone().settled() };
                    self.upsert(std::iter::once(done));
                }
                Err(trouble) => failures.push((record.user.as_os_str().to_owned(), trouble)),
            }
        }
        failures
    }

    /// Puts accounts back that were not switched over yet. What could not be put back stays in the journal.
    pub(super) fn undo(
        &mut self,
        records: &[Record],
        keep_copies: &HashSet<Text>,
    ) -> Result<Failures, Trouble> {
        let mut failures = Failures::new();
        let mut back = Vec::new();
        for record in records {
            match self.undo_home(record, keep_copies.contains(&record.user)) {
                Ok(()) => back.push(record),
                Err(trouble) => failures.push((record.user.as_os_str().to_owned(), trouble)),
            }
        }
        self.restore_host(&back, super::Restore::WhatIsOurs)?;
        self.clear_jail(&back)?;
        self.place_back(&back)?;
        self.unplace(&back)?;
        let gone: HashSet<&Text> = back.iter().map(|record| &record.user).collect();
        self.records.accounts.retain(|record| !gone.contains(&record.user));
        Ok(failures)
    }

    fn undo_home(&self, record: &Record, keep_copy: bool) -> Result<(), Trouble> {
        let jail = self.jail()?;
        let Some(place) = Place::below(&jail.root, &jail.path, record.inner_home.as_path(), false)? else {
            return Ok(());
        };
        match &record.home {
            Home::Moved { from } => {
                let from = Place::on_host(from.as_path())?;
                Mover { from: &from, to: &place, uid: record.uid }.take_back(keep_copy)
            }
            // It was made by the run that failed, and nobody could log in to it.
            Home::Made => home::unmake(&place, record.uid),
            Home::Kept | Home::Bound => Ok(()),
        }
    }
}

/// Whether passwd has the account where we were putting it, whatever else was changed in its line since: the home that
/// it names is the one that must be there, and where the home stays the shell tells.
fn is_switched_over(record: &Record, line: Option<&[u8]>) -> bool {
    let Some(line) = line else { return false };
    let (now, before, ours) =
        (passwd::parse(table::strip_newline(line)), record.entry_before(), record.entry_after());
    let (Some(now), Some(before), Some(ours)) = (now, before, ours) else { return false };
    match before.home == ours.home {
        true => now.home == ours.home && now.shell == ours.shell,
        false => now.home == ours.home,
    }
}
