//! What is wrong with a jail: every file against the manifest, whole content, and everything in it that is not ours.
//!
//! Nothing is trusted but the manifest, which lies outside the jail. Libraries are looked for with the jail as the root, so
//! the answer is the one that a program in the jail will get. No part of the work waits for another, so all of it is a list
//! of jobs for a few threads.

mod accounts;
mod record;

use std::collections::HashSet;
use std::fmt;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use crate::crew::side_by_side;
use crate::error::{Error, Result};
use crate::host::{Host, Kind, RealHost, Stat};
use crate::jailroot::{self, Found, JailRoot};
use crate::manifest::{Manifest, PathText, Record, What};
use crate::resolve::Resolver;
use crate::text;

/// What kind of thing is wrong; the word that `--json` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The path of the jail is unsafe.
    UnsafePath,
    /// The jail is another directory than the one that was provisioned.
    OtherDirectory,
    /// A run was killed before it was done.
    Unfinished,
    /// Ours, and gone.
    Missing,
    /// Ours, and the content, kind or target is another.
    Tampered,
    /// Ours, and owner or mode are others.
    Permissions,
    /// The host's file has changed since it was copied.
    Outdated,
    /// Not put there by us.
    Foreign,
    /// set-uid, set-gid, file capabilities or a device, not asked for.
    Privileged,
    /// Others may write to it.
    Writable,
    /// A link that leads nowhere inside the jail.
    BrokenLink,
    /// A program that cannot start in the jail.
    CannotStart,
    /// A line of passwd or group disagrees with the host.
    Account,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The path in the jail.
    pub path: PathBuf,
    /// What kind.
    pub fault: Fault,
    /// The sentence.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", text::encode(&self.path), self.detail)
    }
}

/// Directories that belong to the users of a jail, or that the cell covers.
pub const NOT_OURS: &[&str] =
    &["/dev", "/home", "/proc", "/root", "/run", "/srv", "/sys", "/tmp", "/var/tmp"];

/// Checks one jail.
///
/// # Errors
/// The jail could not be read to the end, so the findings would be no answer.
pub fn check(manifest: &Manifest) -> Result<Vec<Finding>> {
    let jail = match JailRoot::find(&manifest.root()) {
        Ok(Found::Jail(jail)) => jail,
        Ok(Found::Nothing) => return Ok(vec![whole(Fault::Missing, "the jail is not there")]),
        Err(error) => return Ok(vec![whole(Fault::UnsafePath, &error.message)]),
    };
    let checker = Checker { manifest, jail: &jail, host: RealHost::system() };
    let mut findings = Findings(checker.identity()?);
    let mut outcome = Ok(());
    let work = |job: &Job<'_>| checker.job(job);
    side_by_side(&checker.jobs(), work, |_, found| match found {
        Ok(found) => {
            findings.0.extend(found.0);
            ControlFlow::Continue(())
        }
        Err(error) => {
            outcome = Err(error);
            ControlFlow::Break(())
        }
    });
    outcome?;
    findings.0.sort();
    findings.0.dedup();
    Ok(findings.0)
}

fn whole(fault: Fault, detail: &str) -> Finding {
    Finding { path: PathBuf::from("/"), fault, detail: detail.to_owned() }
}

/// What a job found; most find nothing.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, path: &Path, fault: Fault, detail: impl Into<String>) {
        self.0.push(Finding { path: path.to_path_buf(), fault, detail: detail.into() });
    }
}

/// A part of the work that waits for no other one.
enum Job<'m> {
    /// Whether every program can start in the jail.
    Programs,
    /// What lies in the jail and is not ours.
    Foreign,
    /// passwd and group.
    Accounts,
    /// One path of ours.
    Record(&'m PathText, &'m Record),
}

struct Checker<'a> {
    manifest: &'a Manifest,
    jail: &'a JailRoot,
    host: RealHost,
}

impl<'a> Checker<'a> {
    /// The long ones first, so that no thread is left alone with one at the end.
    fn jobs(&self) -> Vec<Job<'a>> {
        let records = self.manifest.files.iter().map(|(path, record)| Job::Record(path, record));
        [Job::Programs, Job::Foreign, Job::Accounts].into_iter().chain(records).collect()
    }

    fn job(&self, job: &Job<'_>) -> Result<Findings> {
        match job {
            Job::Programs => Ok(self.programs()),
            Job::Foreign => self.foreign(),
            Job::Accounts => self.accounts(),
            Job::Record(path, record) => self.record(&path.0, record),
        }
    }

    fn identity(&self) -> Result<Vec<Finding>> {
        let mut findings = Findings::default();
        if self.jail.identity()? != (self.manifest.device, self.manifest.inode) {
            let detail = "another directory stands here than the one that was provisioned";
            findings.add(Path::new("/"), Fault::OtherDirectory, detail);
        }
        if !self.manifest.pending.is_empty() {
            findings.add(Path::new("/"), Fault::Unfinished, "a run was cut short; jail-update finishes it");
        }
        Ok(findings.0)
    }

    /// Everything that lies in the jail's own directories and that the manifest does not name.
    fn foreign(&self) -> Result<Findings> {
        let ours: HashSet<&[u8]> =
            self.manifest.files.keys().map(|path| path.0.as_os_str().as_bytes()).collect();
        let mut findings = Findings::default();
        let mut todo = vec![PathBuf::from("/")];
        while let Some(dir) = todo.pop() {
            let entries =
                self.jail.entries(&dir).map_err(|e| Error::io("read", &self.jail.outside(&dir), e))?;
            for (name, kind) in entries {
                let path = dir.join(&name);
                if !ours.contains(path.as_os_str().as_bytes()) {
                    self.foreign_entry(&path, &mut findings);
                }
                if kind == FileType::Directory && !is_not_ours(&path) && !jailroot::is_aside(&path) {
                    todo.push(path);
                }
            }
        }
        Ok(findings)
    }

    fn foreign_entry(&self, path: &Path, findings: &mut Findings) {
        // What is gone again is no finding.
        let Ok(stat) = self.jail.lstat(path) else { return };
        let leftover = path.file_name().is_some_and(jailroot::is_leftover);
        let what = if leftover { "left by a run that was killed" } else { "not put there by us" };
        findings.add(path, Fault::Foreign, what);
        entry(path, &stat, 0, findings);
        if matches!(stat.kind, Kind::BlockDevice | Kind::CharDevice) {
            findings.add(path, Fault::Privileged, "a device node that nobody asked for");
        }
        if stat.is_file() && self.jail.has_capabilities(path).unwrap_or_default() {
            findings.add(path, Fault::Privileged, "it has file capabilities, and no section asked for that");
        }
    }

    /// Whether every program that the host could start can start in the jail too.
    fn programs(&self) -> Findings {
        let mut findings = Findings::default();
        if self.manifest.base.is_some() {
            // Most of what a program needs lies in the base, which is checked as the jail it is.
            return findings;
        }
        let (mut here, mut there) = (Resolver::new(self.jail), Resolver::new(&self.host));
        let runs = |record: &Record| record.mode & 0o111 != 0 && matches!(record.what, What::File { .. });
        for (path, record) in self.manifest.files.iter().filter(|(_, record)| runs(record)) {
            let Some(source) = &record.source else { continue };
            let Ok(needs) = here.survey(&path.0) else { continue };
            let mut broken_there = |name: &[u8]| {
                there.survey(&source.path.0).map_or(true, |n| n.unmet.iter().any(|u| *u.name == *name))
            };
            let unmet: Vec<String> = needs
                .unmet
                .iter()
                .filter(|unmet| !broken_there(&unmet.name))
                .map(|unmet| text::quote(Path::new(std::ffi::OsStr::from_bytes(&unmet.name))))
                .collect();
            if !unmet.is_empty() {
                let detail = format!("cannot start in the jail: it lacks {}", unmet.join(", "));
                findings.add(&path.0, Fault::CannotStart, detail);
            }
        }
        findings
    }
}

/// Whether a path is one of [`NOT_OURS`] itself.
fn is_not_ours(path: &Path) -> bool {
    NOT_OURS.iter().any(|not_ours| path.as_os_str() == *not_ours)
}

/// What is wrong with an entry whoever made it, unless `asked` has the bits.
fn entry(path: &Path, stat: &Stat, asked: u32, findings: &mut Findings) {
    if stat.mode & !asked & 0o6000 != 0 && stat.is_file() {
        findings.add(path, Fault::Privileged, "set-uid or set-gid, and no section asked for that");
    }
    let sticky = stat.is_dir() && stat.mode & 0o1000 != 0;
    if stat.mode & 0o022 != 0 && !sticky && !stat.is_symlink() {
        findings.add(path, Fault::Writable, format!("others may write to it (mode {:04o})", stat.mode));
    }
}
