//! One run on one jail: finish or undo what a killed run left, then jail or release accounts, all or nothing for each.
//! [`recover`] ends what a killed run left, [`release`] takes accounts out, [`relocate`] moves them between two jails,
//! [`removal`] deletes them.
//!
//! The order is what makes it safe to die anywhere: the journal first, then homes, the jail's files, systemd, and
//! last the host's passwd. Until that rename an account is as it was and can be undone; after it, it is jailed and
//! only the old home is left to be cleared away.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jail_accounts::{convention, passwd, placement, table};

use crate::books;
use crate::home::{self, Finished, Mover, Place, Totals};
use crate::host::Host;
use crate::jail::Jail;
use crate::keys::Keys;
use crate::manager::{self, Services};
use crate::plan::{self, HomeChoice, JAILED, Planned, Scene, Wish};
use crate::processes::Running;
use crate::record::{Home, Patience, Phase, Record, Records};
use crate::report::Outcome;
use crate::text::Text;
use crate::trouble::{Trouble, quoted};
use crate::view::{Files, View, read};

mod lines;
mod recover;
mod release;
mod relocate;
mod removal;

use lines::{clear_jail_lines, drop_empty_group, join_jailed, leave_jailed, restore_line, write_jail_lines};

pub(crate) use lines::Restore;

pub use relocate::relocate;

/// A run on one jail.
pub struct Session<'a> {
    host: &'a Host,
    services: Option<&'a dyn Services>,
    jail_path: PathBuf,
    /// `None` if the jail is gone, which only a forced release puts up with.
    jail: Option<Jail>,
    records: Records,
    /// Accounts that a killed run left in the midst of a change which could not be brought to an end, and why.
    stuck: HashMap<Text, Trouble>,
    /// Accounts whose release or removal, begun by a killed run, has just been brought to its end.
    ended: HashSet<Text>,
    /// The jail that accounts are being moved out of.
    partner: Option<Box<Session<'a>>>,
}

/// What is to be said of an account, beside the plan.
#[derive(Debug, Clone)]
enum Remark {
    /// Something that was done.
    Done(String),
    /// Something to look at.
    Warning(String),
    /// The account is jailed, but its old home could not be cleared away yet.
    Unfinished,
}

type Remarks = HashMap<Text, Vec<Remark>>;

/// What is said of an account that could not be handled.
type Failures = Vec<(OsString, Trouble)>;

impl<'a> Session<'a> {
    /// Opens the jail, waits for other runs on it, and brings what a killed run left to an end, which is told.
    ///
    /// `resume`: accounts that this run is going to jail, whose half copied homes are worth keeping.
    pub fn open(
        host: &'a Host,
        services: Option<&'a dyn Services>,
        path: &Path,
        resume: &[OsString],
    ) -> Result<Self, Trouble> {
        let mut session = Self::locked(host, services, path)?;
        let notes = session.recover(resume)?;
        notes.iter().for_each(|note| complain!("jail-user: {note}"));
        Ok(session)
    }

    fn with(
        host: &'a Host,
        services: Option<&'a dyn Services>,
        jail_path: PathBuf,
        jail: Option<Jail>,
        records: Records,
    ) -> Self {
        let (stuck, ended) = (HashMap::new(), HashSet::new());
        Self { host, services, jail_path, jail, records, stuck, ended, partner: None }
    }

    fn locked(host: &'a Host, services: Option<&'a dyn Services>, path: &Path) -> Result<Self, Trouble> {
        let jail = Jail::open(path)?;
        let records = Records::lock(&host.state, &jail.path, &jail.name)?;
        let jail_path = jail.path.clone();
        Ok(Self::with(host, services, jail_path, Some(jail), records))
    }

    /// Opens the records of a jail that is no longer there.
    pub fn open_without_jail(
        host: &'a Host,
        services: Option<&'a dyn Services>,
        path: &Path,
    ) -> Result<Self, Trouble> {
        let path = crate::dir::clean(path.as_os_str().as_bytes())
            .ok_or_else(|| Trouble::usage(format!("{} is not an absolute path", quoted(path.as_os_str()))))?;
        let name = convention::jail_name(path.as_os_str().as_bytes());
        let records = Records::lock(&host.state, &path, &name)?;
        Ok(Self::with(host, services, path, None, records))
    }

    /// The jail's path.
    #[must_use]
    pub fn jail_path(&self) -> &Path {
        &self.jail_path
    }

    /// Puts public keys into the home of an account that is in the jail.
    pub fn let_in(&self, outcome: &mut Outcome, keys: &Keys) {
        if outcome.error.is_some() {
            return;
        }
        let put = || -> Result<bool, Trouble> {
            let user = outcome.user.as_os_str();
            let record = self
                .records
                .get(user.as_bytes())
                .ok_or_else(|| Trouble::failed(format!("{} is not in the jail", quoted(user))))?;
            let entry = record
                .entry_after()
                .ok_or_else(|| Trouble::failed(format!("the line of {} cannot be read", quoted(user))))?;
            let place = match record.home {
                Home::Bound => Place::on_host(Path::new(OsStr::from_bytes(entry.home)))?,
                _ => {
                    let jail = self.jail()?;
                    Place::below(&jail.root, &jail.path, record.inner_home.as_path(), true)?
                        .ok_or_else(|| Trouble::failed("the home is not there"))?
                }
            };
            keys.put(&home::open_own(&place, entry.uid)?, &place.path(), entry.uid, entry.gid)
        };
        match put() {
            Ok(false) => {}
            Ok(true) => {
                if !outcome.changed {
                    outcome.actions.clear();
                    outcome.changed = true;
                }
                outcome.actions.push("key: into .ssh/authorized_keys".to_owned());
            }
            Err(trouble) => outcome.error = Some(trouble),
        }
    }

    fn jail(&self) -> Result<&Jail, Trouble> {
        self.jail.as_ref().ok_or_else(|| {
            Trouble::failed(format!("the jail {} is gone", quoted(self.jail_path.as_os_str())))
        })
    }

    /// Jails some accounts.
    pub fn add(&mut self, users: &[OsString], wish: &Wish) -> Vec<Outcome> {
        let planned = match plan_all(self.host, self.jail.as_ref(), &self.records.accounts, users, wish) {
            Ok(planned) => planned,
            Err(trouble) => {
                return users
                    .iter()
                    .map(|user| Outcome::failed(user, &self.jail_path, trouble.clone()))
                    .collect();
            }
        };
        self.work_on(users, planned)
    }

    fn work_on(&mut self, users: &[OsString], planned: Vec<Result<Planned, Trouble>>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut work = Vec::new();
        for (user, plan) in users.iter().zip(planned) {
            if let Some(why) = self.stuck_because(user) {
                outcomes.push(Outcome::failed(user, &self.jail_path, why));
                continue;
            }
            match plan {
                Err(trouble) => outcomes.push(Outcome::failed(user, &self.jail_path, trouble)),
                Ok(plan) if !plan.changes => {
                    outcomes.push(Outcome::unchanged(user, &self.jail_path, &plan.warnings))
                }
                Ok(plan) => work.push(plan),
            }
        }
        outcomes.extend(self.apply(work));
        outcomes
    }

    /// Why an account is not to be worked on: it is half way into the jail or out of it.
    fn stuck_because(&self, user: &OsStr) -> Option<Trouble> {
        let why = self.stuck.get(&Text::from(user.as_bytes()))?;
        let sentence = format!("an earlier run is not done with {}: {why}", quoted(user));
        Some(Trouble { sentence, ..why.clone() })
    }

    fn apply(&mut self, work: Vec<Planned>) -> Vec<Outcome> {
        if work.is_empty() {
            return Vec::new();
        }
        let before: HashMap<Text, Record> =
            self.records.accounts.iter().map(|record| (record.user.clone(), record.clone())).collect();
        self.upsert(work.iter().map(|plan| {
            let phase = before.get(&plan.record.user).map_or(Phase::Adding, |old| old.phase);
            Record { phase, ..plan.record.clone() }
        }));
        let mut failures = Failures::new();
        if let Err(trouble) = self.records.save() {
            // Nothing was done yet.
            self.records.accounts.retain(|record| before.contains_key(&record.user));
            return work
                .iter()
                .map(|plan| Outcome::failed(plan.record.user.as_os_str(), &self.jail_path, trouble.clone()))
                .collect();
        }
        let mut remarks = Remarks::new();
        match self.carry_out(&work, &mut failures, &mut remarks) {
            Ok(()) => {}
            Err(trouble) => {
                let failed: HashSet<OsString> = failures.iter().map(|(user, _)| user.clone()).collect();
                let rest = work
                    .iter()
                    .map(|plan| plan.record.user.as_os_str())
                    .filter(|user| !failed.contains(*user));
                failures.extend(rest.map(|user| (user.to_owned(), trouble.clone())).collect::<Vec<_>>());
            }
        }
        self.settle(&work, failures, &before, &remarks)
    }

    /// The steps, in their order. A failure of one account goes to `failures`; an error stops all that are left.
    fn carry_out(
        &self,
        work: &[Planned],
        failures: &mut Failures,
        remarks: &mut Remarks,
    ) -> Result<(), Trouble> {
        let mut going: Vec<&Planned> = Vec::new();
        for plan in work {
            match self.bring_home(plan) {
                Ok(copied) => {
                    going.push(plan);
                    if let Some(Totals { entries, bytes }) = copied {
                        let said = format!("home: copied and compared {entries} entries, {bytes} bytes");
                        remarks.entry(plan.record.user.clone()).or_default().push(Remark::Done(said));
                    }
                }
                Err(trouble) => failures.push((plan.record.user.as_os_str().to_owned(), trouble)),
            }
        }
        let records: Vec<&Record> = going.iter().map(|plan| &plan.record).collect();
        books::edit_jail(self.host, self.jail()?, |books| {
            records.iter().for_each(|record| write_jail_lines(books, record))
        })?;
        let managed: Vec<(u32, Text)> = records
            .iter()
            .filter(|record| record.user_manager.is_some())
            .map(|record| (record.uid, record.user.clone()))
            .collect();
        manager::mask(self.host, self.services, &managed)?;
        self.place(&records)?;
        let changed_meanwhile = self.switch_over(&going)?;
        for record in records {
            if changed_meanwhile.contains(&record.user) {
                let who = quoted(record.user.as_os_str());
                let trouble = Trouble::failed(format!("the passwd line of {who} was changed meanwhile"))
                    .hint("try again");
                failures.push((record.user.as_os_str().to_owned(), trouble));
                continue;
            }
            // The account is jailed now: what cannot be cleared away is said, not undone.
            let warning = match self.finish_home(record) {
                Ok(None) => continue,
                Ok(Some(at)) => format!(
                    "something wrote to the old home while it was copied, so it is kept at {}: look for what is missing in the new one",
                    quoted(at.as_os_str())
                ),
                Err(trouble) => {
                    remarks.entry(record.user.clone()).or_default().push(Remark::Unfinished);
                    format!("{trouble}; the next run tries again to clear the old home away")
                }
            };
            remarks.entry(record.user.clone()).or_default().push(Remark::Warning(warning));
        }
        Ok(())
    }

    fn bring_home(&self, plan: &Planned) -> Result<Option<Totals>, Trouble> {
        let jail = self.jail()?;
        let inner = plan.record.inner_home.as_path();
        let Some(place) = Place::below(&jail.root, &jail.path, inner, true)? else { return Ok(None) };
        match &plan.record.home {
            Home::Bound => home::make_mount_point(&place).map(|()| None),
            Home::Moved { from } if place.stat()?.is_none() => {
                let from = Place::on_host(from.as_path())?;
                Mover { from: &from, to: &place, uid: plan.record.uid }.bring()
            }
            // A home of his that is there is kept, whatever brought it.
            Home::Kept | Home::Made | Home::Moved { .. } => {
                home::make(&place, &self.host.skeleton, plan.new_home).map(|()| None)
            }
        }
    }

    /// Says in our own file where accounts go whose home stays outside: before passwd, since until that says so too the
    /// file means nothing for them.
    fn place(&self, records: &[&Record]) -> Result<(), Trouble> {
        self.write_placements(records.iter().map(|record| (self.jail_path.as_path(), *record)))
    }

    /// Says so of accounts that could not leave another jail: they are in that one still.
    fn place_back(&self, records: &[&Record]) -> Result<(), Trouble> {
        let origins = records.iter().filter_map(|record| record.origin.as_deref());
        self.write_placements(origins.map(|origin| (origin.jail.as_path(), &origin.record)))
    }

    fn write_placements<'r>(
        &self,
        placed: impl Iterator<Item = (&'r Path, &'r Record)>,
    ) -> Result<(), Trouble> {
        let bound: Vec<_> = placed.filter(|(_, record)| record.home == Home::Bound).collect();
        if bound.is_empty() {
            return Ok(());
        }
        books::edit_placements(self.host, |table| {
            for (jail, record) in bound {
                table.put(&record.user.0, &record.placement(jail));
            }
        })
    }

    /// Takes accounts out of our own file, after passwd; one that has been placed elsewhere since stays there.
    fn unplace(&self, records: &[&Record]) -> Result<(), Trouble> {
        let bound: Vec<&Record> =
            records.iter().filter(|record| record.home == Home::Bound).copied().collect();
        if bound.is_empty() {
            return Ok(());
        }
        let here = |line: &[u8]| {
            placement::parse(line).is_some_and(|placed| placed.jail == self.jail_path.as_os_str().as_bytes())
        };
        books::edit_placements(self.host, |table| {
            for record in &bound {
                if table.text(&record.user.0).is_some_and(here) {
                    table.remove(&record.user.0);
                }
            }
        })?;
        let Some(jail) = &self.jail else { return Ok(()) };
        for record in bound {
            if let Some(place) = Place::below(&jail.root, &jail.path, record.inner_home.as_path(), false)? {
                home::remove_mount_point(&place)?;
            }
        }
        Ok(())
    }

    /// The last step of a move from another jail: what that one knows and has of the account goes.
    fn leave_old_jail(&mut self, record: &Record) -> Result<(), Trouble> {
        let Some(origin) = record.origin.as_deref() else { return Ok(()) };
        if let Some(partner) =
            self.partner.as_deref_mut().filter(|old| old.jail_path == origin.jail.as_path())
        {
            return partner.forget(&origin.record);
        }
        let path = origin.jail.as_path();
        let name = convention::jail_name(path.as_os_str().as_bytes());
        let records = Records::lock_if(self.host.state.as_path(), path, &name, Patience::Try)?
            .ok_or_else(|| Trouble::failed(format!("another run works on {}", quoted(path.as_os_str()))))?;
        let jail = Jail::open(path).ok();
        let (host, services) = (self.host, self.services);
        Session::with(host, services, path.to_owned(), jail, records).forget(&origin.record)
    }

    /// Drops an account that is in another jail now.
    fn forget(&mut self, record: &Record) -> Result<(), Trouble> {
        if self.records.get(&record.user.0).is_none() {
            return Ok(());
        }
        self.clear_jail(&[record])?;
        self.unplace(&[record])?;
        self.records.accounts.retain(|other| other.user != record.user);
        self.records.save()
    }

    fn finish_home(&self, record: &Record) -> Result<Option<PathBuf>, Trouble> {
        let Home::Moved { from } = &record.home else { return Ok(None) };
        let jail = self.jail()?;
        let Some(to) = Place::below(&jail.root, &jail.path, record.inner_home.as_path(), false)? else {
            return Ok(None);
        };
        let from = Place::on_host(from.as_path())?;
        match (Mover { from: &from, to: &to, uid: record.uid }).finish()? {
            Finished::Clean => Ok(None),
            Finished::Kept { at, .. } => Ok(Some(at)),
        }
    }

    /// Groups, then passwd: the point of no return. Gives back the accounts whose line is no longer what was planned for.
    fn switch_over(&self, plans: &[&Planned]) -> Result<HashSet<Text>, Trouble> {
        let made_group = std::cell::Cell::new(None);
        let changed = books::edit_host(self.host, |books| {
            let mut changed = HashSet::new();
            for Planned { record, line: planned_for, .. } in plans {
                let name = record.user.0.as_slice();
                match books.passwd.line(name) {
                    Some(line) if line == record.line_after.0 => {}
                    // The whole line: a home may take long to copy, and an administrator who gives the account another
                    // shell meanwhile (nologin, say) has the last word.
                    Some(line) if line == planned_for.0 => books
                        .passwd
                        .replace(name, record.line_after.0.clone())
                        .map_err(|e| Trouble::failed(e.to_string()))?,
                    Some(_) | None => {
                        changed.insert(record.user.clone());
                        continue;
                    }
                }
                made_group.set(join_jailed(self.host, books, name)?.or(made_group.get()));
            }
            Ok(changed)
        })?;
        if let Some(gid) = made_group.get() {
            // So that the last release can take the group away again.
            let path = self.host.state.join("group-made");
            std::fs::write(&path, format!("{gid}\n")).map_err(crate::trouble::cannot("write", &path))?;
        }
        Ok(changed)
    }

    /// Marks what is done, undoes what failed, and tells.
    fn settle(
        &mut self,
        work: &[Planned],
        failures: Failures,
        before: &HashMap<Text, Record>,
        remarks: &Remarks,
    ) -> Vec<Outcome> {
        let failed: HashMap<OsString, Trouble> = failures.into_iter().collect();
        let worked: HashSet<&Text> = work.iter().map(|plan| &plan.record.user).collect();
        let mut remarks = remarks.clone();
        self.leave_old_jails(work, &failed, &mut remarks);
        for record in self.records.accounts.iter_mut().filter(|record| worked.contains(&record.user)) {
            let told = remarks.get(&record.user).into_iter().flatten();
            let unfinished = told.into_iter().any(|remark| matches!(remark, Remark::Unfinished));
            if record.phase == Phase::Adding && !unfinished && !failed.contains_key(record.user.as_os_str()) {
                *record = Record { phase: Phase::Jailed, ..record.clone().settled() };
            }
        }
        let to_undo: Vec<Record> = (self.records.accounts.iter())
            .filter(|record| {
                failed.contains_key(record.user.as_os_str()) && !before.contains_key(&record.user)
            })
            .cloned()
            .collect();
        let undone =
            if to_undo.is_empty() { Ok(Failures::new()) } else { self.undo(&to_undo, &HashSet::new()) };
        for record in &mut self.records.accounts {
            if let Some(old) =
                before.get(&record.user).filter(|_| failed.contains_key(record.user.as_os_str()))
            {
                *record = old.clone();
            }
        }
        let saved = undone.and_then(|left| self.records.save().map(|()| left));
        let left = saved.unwrap_or_else(|trouble| vec![(OsString::new(), trouble)]);
        for (_, trouble) in left {
            complain!("jail-user: {trouble}; the next run finishes it");
        }
        let tell = |plan: &Planned| match failed.get(plan.record.user.as_os_str()) {
            Some(trouble) => Outcome::failed(plan.record.user.as_os_str(), &self.jail_path, trouble.clone()),
            None => {
                let mut outcome = Outcome::jailed(
                    &plan.record,
                    before.get(&plan.record.user),
                    &self.jail_path,
                    &plan.warnings,
                );
                for remark in remarks.get(&plan.record.user).into_iter().flatten() {
                    match remark {
                        Remark::Done(said) => {
                            outcome.actions.insert(1.min(outcome.actions.len()), said.clone())
                        }
                        Remark::Warning(said) => outcome.warnings.push(said.clone()),
                        Remark::Unfinished => {}
                    }
                }
                outcome
            }
        };
        work.iter().map(tell).collect()
    }

    fn leave_old_jails(
        &mut self,
        work: &[Planned],
        failed: &HashMap<OsString, Trouble>,
        remarks: &mut Remarks,
    ) {
        let moved = |plan: &&Planned| !failed.contains_key(plan.record.user.as_os_str());
        for plan in work.iter().filter(moved) {
            if let Err(trouble) = self.leave_old_jail(&plan.record) {
                let told = remarks.entry(plan.record.user.clone()).or_default();
                told.push(Remark::Unfinished);
                told.push(Remark::Warning(format!("{trouble}; the next run tries again")));
            }
        }
    }

    fn upsert(&mut self, records: impl Iterator<Item = Record>) {
        let mut index: HashMap<Text, usize> =
            self.records.accounts.iter().enumerate().map(|(at, record)| (record.user.clone(), at)).collect();
        for record in records {
            match index.get(&record.user).and_then(|at| self.records.accounts.get_mut(*at)) {
                Some(slot) => *slot = record,
                None => {
                    index.insert(record.user.clone(), self.records.accounts.len());
                    self.records.accounts.push(record);
                }
            }
        }
    }

    /// Does something with all those of the accounts that we have in this jail, and tells of each.
    fn with_records(
        &mut self,
        users: &[OsString],
        prepare: impl Fn(Record) -> Record,
        act: impl FnOnce(&mut Self, &[Record]) -> Result<Failures, Trouble>,
        done: impl Fn(&Record, &Path) -> Outcome,
    ) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut records = Vec::new();
        for user in users {
            match (self.records.get(user.as_bytes()), self.stuck_because(user)) {
                // What resisted a release or a removal may go through now, with --force.
                (Some(record), Some(why)) if record.phase == Phase::Adding => {
                    outcomes.push(Outcome::failed(user, &self.jail_path, why));
                }
                (Some(record), _) => records.push(prepare(record.clone())),
                (None, _) if self.ended.contains(&Text::from(user.as_bytes())) => {
                    outcomes.push(Outcome::finished(user, &self.jail_path));
                }
                (None, _) => outcomes.push(self.unknown_to_us(user)),
            }
        }
        if records.is_empty() {
            return outcomes;
        }
        let failures: HashMap<OsString, Trouble> = match act(self, &records) {
            Ok(failures) => failures.into_iter().collect(),
            Err(trouble) => {
                records.iter().map(|record| (record.user.as_os_str().to_owned(), trouble.clone())).collect()
            }
        };
        outcomes.extend(records.iter().map(|record| match failures.get(record.user.as_os_str()) {
            Some(trouble) => Outcome::failed(record.user.as_os_str(), &self.jail_path, trouble.clone()),
            None => done(record, &self.jail_path),
        }));
        outcomes
    }

    fn unknown_to_us(&self, user: &OsStr) -> Outcome {
        let jailed = Files::read(self.host).ok().and_then(|files| {
            passwd::by_name(&files.passwd.bytes, user.as_bytes())
                .map(|entry| convention::split_home(entry.home).is_some())
        });
        match jailed {
            Some(false) => Outcome::unchanged_because(user, &self.jail_path, "is in no jail"),
            Some(true) => Outcome::failed(
                user,
                &self.jail_path,
                not_by_us(user, &self.jail_path).hint("set its home and shell with usermod -d and -s"),
            ),
            None => Outcome::no_such_user(user, &self.jail_path),
        }
    }

    /// The host's files and systemd, as they were before.
    fn restore_host(&self, records: &[&Record], how: Restore) -> Result<(), Trouble> {
        if self.host_differs(records)? {
            self.restore_books(records, how)?;
        }
        let managed: Vec<_> = records
            .iter()
            .filter_map(|record| record.user_manager.map(|was| (record.uid, record.user.clone(), was)))
            .collect();
        manager::unmask(self.host, self.services, &managed)
    }

    /// Whether the host's files have anything of ours: if not, putting an account back needs no lock, which may be
    /// the very thing that could not be had.
    fn host_differs(&self, records: &[&Record]) -> Result<bool, Trouble> {
        let files = Files::read(self.host)?;
        let lines = table::Table::passwd(&files.passwd.bytes);
        let view = View::new(&files.passwd.bytes, &files.group.bytes);
        let jailed = view.group_id(JAILED);
        Ok(records.iter().any(|record| {
            let name = record.user.0.as_slice();
            let is_member = jailed.is_some_and(|gid| view.groups_of(name).contains(&gid));
            lines.line(name) != Some(record.line_before.0.as_slice()) || (record.joined_jailed && is_member)
        }))
    }

    fn restore_books(&self, records: &[&Record], how: Restore) -> Result<(), Trouble> {
        let marker = self.host.state.join("group-made");
        let made: Option<u32> =
            std::fs::read_to_string(&marker).ok().and_then(|text| text.trim().parse().ok());
        let dropped = books::edit_host(self.host, |books| {
            for record in records {
                restore_line(books, record, how)?;
                if record.joined_jailed {
                    leave_jailed(books, &record.user.0);
                }
            }
            Ok(made.is_some_and(|gid| drop_empty_group(books, gid)))
        })?;
        if dropped {
            std::fs::remove_file(&marker).map_err(crate::trouble::cannot("remove", &marker))?;
        }
        Ok(())
    }

    /// The jail's files without what these accounts needed; a group goes when no other account needs it.
    fn clear_jail(&self, records: &[&Record]) -> Result<(), Trouble> {
        let Some(jail) = &self.jail else { return Ok(()) };
        let going: HashSet<&Text> = records.iter().map(|record| &record.user).collect();
        let needed: HashSet<u32> = (self.records.accounts.iter())
            .filter(|record| !going.contains(&record.user))
            .flat_map(|record| record.jail_groups.iter().map(|group| group.gid))
            .collect();
        books::edit_jail(self.host, jail, |books| {
            for record in records {
                clear_jail_lines(books, record, &needed);
            }
        })
    }
}

fn not_by_us(user: &OsStr, jail: &Path) -> Trouble {
    Trouble::failed(format!(
        "{} was not put into {} by jail-user, so what it was before is not known",
        quoted(user),
        quoted(jail.as_os_str())
    ))
}

/// Plans for some accounts; the files are read once.
pub fn plan_all(
    host: &Host,
    jail: Option<&Jail>,
    records: &[Record],
    users: &[OsString],
    wish: &Wish,
) -> Result<Vec<Result<Planned, Trouble>>, Trouble> {
    let mut seen = HashSet::new();
    let plan_one = |scene: &Scene<'_>, user: &OsString| {
        if seen.insert(user.clone()) {
            plan::account(scene, wish, user)
        } else {
            Err(Trouble::usage(format!("{} is named twice", quoted(user))))
        }
    };
    plan_each(host, jail, records, users, wish, plan_one)
}

/// Reads what planning needs once and plans for each account.
fn plan_each(
    host: &Host,
    jail: Option<&Jail>,
    records: &[Record],
    users: &[OsString],
    wish: &Wish,
    mut plan_one: impl FnMut(&Scene<'_>, &OsString) -> Result<Planned, Trouble>,
) -> Result<Vec<Result<Planned, Trouble>>, Trouble> {
    let jail = jail.ok_or_else(|| Trouble::failed("the jail is gone"))?;
    check_login_shell(host)?;
    let files = Files::read(host)?;
    let view = View::new(&files.passwd.bytes, &files.group.bytes);
    let lines = table::Table::passwd(&files.passwd.bytes);
    let etc = jail.path.join("etc");
    let bytes =
        |name: &str| read(&jail.etc, &etc, name).map(|file| file.map(|file| file.bytes).unwrap_or_default());
    let (jail_passwd, jail_group) = (bytes("passwd")?, bytes("group")?);
    let jailed_gid = match view.group_id(JAILED) {
        Some(gid) => gid,
        None => view
            .free_system_gid(&files.defs)
            .ok_or_else(|| Trouble::failed("there is no free system gid for the group 'jailed'"))?,
    };
    let running = Running::look(Path::new("/proc"));
    let mounts = if wish.home == HomeChoice::Move { plan::mount_points()? } else { Vec::new() };
    let scene = Scene {
        host,
        jail,
        view: &view,
        passwd: &lines,
        jail_passwd: &table::Table::passwd(&jail_passwd),
        jail_view: &View::new(&jail_passwd, &jail_group),
        defs: files.defs,
        jailed_gid,
        running: &running,
        mounts: &mounts,
        records: &records.iter().map(|record| (record.user.0.as_slice(), record)).collect(),
        placements: &books::read_placements(host)?,
    };
    Ok(users.iter().map(|user| plan_one(&scene, user)).collect())
}

/// An account whose shell is missing cannot log in at all: sshd refuses it.
fn check_login_shell(host: &Host) -> Result<(), Trouble> {
    use std::os::unix::fs::PermissionsExt;
    let path = quoted(host.login_shell.as_os_str());
    match std::fs::metadata(&host.login_shell) {
        Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => Ok(()),
        Ok(_) => Err(Trouble::failed(format!("the login shell {path} is not executable"))),
        Err(error) => Err(Trouble::failed(format!("the login shell {path} cannot be found: {error}"))
            .hint("install it (make install), or name it with --login-shell; without it the account could not log in")),
    }
}
