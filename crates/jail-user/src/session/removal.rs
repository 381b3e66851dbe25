//! `--remove`: the account is deleted by the host's own userdel, and the jail forgets it. The home stays unless asked.

use std::ffi::OsString;
use std::path::Path;

use jail_accounts::passwd;

use super::lines::leave_jailed;
use super::{Failures, Session};
use crate::books;
use crate::create;
use crate::home::{self, Place};
use crate::manager;
use crate::processes::Running;
use crate::record::{Home, Phase, Record, UserManager};
use crate::report::Outcome;
use crate::trouble::{Trouble, quoted, quoted_bytes};
use crate::view::Files;

/// How an account came to be no more.
enum Deleted {
    /// By userdel, just now.
    ByUserdel,
    /// It was not in passwd any more, by whatever.
    Before,
}

impl Session<'_> {
    /// Deletes accounts that we put into this jail.
    pub fn remove(&mut self, users: &[OsString], with_home: bool) -> Vec<Outcome> {
        let phase = if with_home { Phase::Purging } else { Phase::Removing };
        self.with_records(
            users,
            |record| Record { phase, ..record },
            Self::check_and_take_away,
            Outcome::removed,
        )
    }

    fn check_and_take_away(&mut self, records: &[Record]) -> Result<Failures, Trouble> {
        let running = Running::look(Path::new("/proc"));
        let mut failures = Failures::new();
        let mut going = Vec::new();
        for record in records {
            match running.of(record.uid) {
                Some(what) => failures.push((
                    record.user.as_os_str().to_owned(),
                    Trouble::failed(format!(
                        "{} has processes running: {what}",
                        quoted(record.user.as_os_str())
                    ))
                    .hint("end them first"),
                )),
                None => going.push(record.clone()),
            }
        }
        failures.extend(self.take_away(&going)?);
        Ok(failures)
    }

    /// userdel is the point of no return; before it nothing was done, after it only the tidying is left.
    pub(super) fn take_away(&mut self, records: &[Record]) -> Result<Failures, Trouble> {
        let mut failures = Failures::new();
        self.upsert(records.iter().cloned());
        self.records.save()?;
        let files = Files::read(self.host)?;
        let mut gone = Vec::new();
        let mut half = Vec::new();
        for record in records {
            match self.delete_account(record, &files) {
                Ok(Deleted::ByUserdel) => gone.push(record),
                Ok(Deleted::Before) => {
                    gone.push(record);
                    half.push(record);
                }
                // userdel may fail with its work half done: what passwd says of the account counts.
                Err(trouble) if self.is_gone(record)? => {
                    complain!("jail-user: {} is deleted, but {trouble}", quoted(record.user.as_os_str()));
                    gone.push(record);
                    half.push(record);
                }
                Err(trouble) => {
                    failures.push((record.user.as_os_str().to_owned(), trouble));
                    self.upsert(std::iter::once(Record { phase: Phase::Jailed, ..record.clone() }));
                }
            }
        }
        let managed: Vec<_> = gone
            .iter()
            // A user who is no more lingers no more.
            .filter_map(|record| record.user_manager.map(|was| (record, was)))
            .map(|(record, was)| (record.uid, record.user.clone(), UserManager { lingered: false, ..was }))
            .collect();
        manager::unmask(self.host, self.services, &managed)?;
        self.leave_group(&half)?;
        self.clear_jail(&gone)?;
        self.unplace(&gone)?;
        for record in gone {
            // A home that resists keeps its record, so that the next run knows whose it was.
            match if record.phase == Phase::Purging { self.purge_home(record) } else { Ok(()) } {
                Ok(()) => self.records.accounts.retain(|other| other.user != record.user),
                Err(trouble) => failures.push((record.user.as_os_str().to_owned(), trouble)),
            }
        }
        self.records.save()?;
        Ok(failures)
    }

    fn is_gone(&self, record: &Record) -> Result<bool, Trouble> {
        Ok(passwd::by_name(&Files::read(self.host)?.passwd.bytes, &record.user.0).is_none())
    }

    /// userdel takes an account out of passwd first; where it got no further, our own group is for us to clear.
    fn leave_group(&self, records: &[&Record]) -> Result<(), Trouble> {
        if records.is_empty() {
            return Ok(());
        }
        books::edit_host(self.host, |books| {
            records.iter().for_each(|record| leave_jailed(books, &record.user.0));
            Ok(())
        })
    }

    fn delete_account(&self, record: &Record, files: &Files) -> Result<Deleted, Trouble> {
        match passwd::by_name(&files.passwd.bytes, &record.user.0) {
            None => Ok(Deleted::Before),
            Some(entry) if entry.uid != record.uid => Err(Trouble::unsafe_to(format!(
                "{} has uid {} now, and had {} when it was jailed",
                quoted_bytes(entry.name),
                entry.uid,
                record.uid
            ))
            .hint("delete it by userdel, if it is the one that you mean")),
            Some(_) => create::userdel(self.host, record.user.as_os_str()).map(|()| Deleted::ByUserdel),
        }
    }

    fn purge_home(&self, record: &Record) -> Result<(), Trouble> {
        if record.home == Home::Bound {
            let Some(home) = record.entry_before().and_then(|entry| crate::dir::clean(entry.home)) else {
                return Ok(());
            };
            return home::unmake(&Place::on_host(&home)?, record.uid);
        }
        let Some(jail) = &self.jail else { return Ok(()) };
        match Place::below(&jail.root, &jail.path, record.inner_home.as_path(), false)? {
            Some(place) => home::unmake(&place, record.uid),
            None => Ok(()),
        }
    }
}
