//! One path of ours against the manifest and the host.
//!
//! The content in the jail is read whole and held against the manifest's fingerprint of what was copied. The host's file needs
//! no reading: nobody can set back the time of an inode's last change, so one that is in the very state in which it was
//! copied holds what was copied, and any other is told as changed.

use std::io;
use std::path::Path;

use super::{Checker, Fault, Findings, entry, is_not_ours};
use crate::digest::{Fingerprint, Taking};
use crate::error::{Error, Result};
use crate::host::{Host, Stat};
use crate::manifest::{PathText, Record, Source, Stamp, What};
use crate::plan::same_state;
use crate::text;

/// What a cell brings, so that a jail at rest need not have it.
const A_CELLS_OWN: &[&str] = &["/dev", "/proc", "/run", "/sys"];

/// How the host's file stands to the copy that was made of it.
enum Origin {
    /// As it was then.
    Same,
    Changed,
    Gone,
}

impl Checker<'_> {
    /// Everything about one path of ours.
    pub(super) fn record(&self, path: &Path, record: &Record) -> Result<Findings> {
        let mut findings = Findings::default();
        if let What::File { digest, linked } = &record.what {
            self.file(path, record, *digest, *linked, &mut findings)?;
            return Ok(findings);
        }
        let Ok(stat) = self.jail.lstat(path) else {
            missing(path, record, &mut findings);
            return Ok(findings);
        };
        let right_kind = match &record.what {
            What::Directory => stat.is_dir(),
            What::Accounts { .. } | What::File { .. } => stat.is_file(),
            What::Symlink { .. } => stat.is_symlink(),
            What::Device { device, .. } => stat.rdev == *device,
        };
        if !right_kind {
            another_kind(path, &mut findings);
            return Ok(findings);
        }
        match &record.what {
            What::Symlink { target } => self.symlink(path, target, &mut findings),
            _ => self.permissions(path, record, &stat, &mut findings),
        }
        Ok(findings)
    }

    fn file(
        &self,
        path: &Path,
        record: &Record,
        digest: Fingerprint,
        linked: bool,
        findings: &mut Findings,
    ) -> Result<()> {
        let file = match self.jail.open_file(path) {
            Ok(file) => file,
            Err(error) => return self.no_file(path, record, error, findings),
        };
        if linked {
            // Owner and mode are the host's own.
            self.not_asked_for(path, &file.stat, file.stat.mode, findings);
        } else {
            self.permissions(path, record, &file.stat, findings);
        }
        let io = |error| Error::io("read", &self.jail.outside(path), error);
        if !self.manifest.privileged.contains(&PathText(path.to_path_buf()))
            && file.has_capabilities().map_err(io)?
        {
            findings.add(path, Fault::Privileged, "it has file capabilities, and no section asked for that");
        }
        let origin = record.source.as_ref().map(|source| origin(source, linked, &self.host));
        if self.jail.digest_of(&file, Taking::like(digest)).map_err(io)? != digest {
            findings.add(path, Fault::Tampered, "the content is not what was put there");
        }
        match origin {
            None | Some(Origin::Same) => {}
            Some(Origin::Changed) => {
                let detail = "the host's file has changed since; jail-update renews it";
                findings.add(path, Fault::Outdated, detail);
            }
            Some(Origin::Gone) => findings.add(path, Fault::Outdated, "the host's file is gone"),
        }
        Ok(())
    }

    /// A file that cannot be opened as one.
    fn no_file(&self, path: &Path, record: &Record, error: io::Error, findings: &mut Findings) -> Result<()> {
        match self.jail.lstat(path) {
            Err(_) => missing(path, record, findings),
            Ok(stat) if !stat.is_file() => another_kind(path, findings),
            Ok(_) => return Err(Error::io("read", &self.jail.outside(path), error)),
        }
        Ok(())
    }

    fn symlink(&self, path: &Path, target: &PathText, findings: &mut Findings) {
        if self.jail.read_link(path).map_or(true, |now| now != target.0) {
            findings.add(path, Fault::Tampered, "the link leads elsewhere than it did");
        } else if !self.jail.leads_somewhere(path) && self.leads_there_on_the_host(path) {
            let detail = format!("leads to {}, which the jail lacks", text::quote(&target.0));
            findings.add(path, Fault::BrokenLink, detail);
        }
    }

    /// Whether a link leads to something on the host that a jail could hold: what lies in /proc or /run a cell brings.
    fn leads_there_on_the_host(&self, path: &Path) -> bool {
        let end = self.host.canonical(path);
        end.is_ok_and(|end| !A_CELLS_OWN.iter().any(|brought| end.starts_with(brought)))
    }

    fn permissions(&self, path: &Path, record: &Record, stat: &Stat, findings: &mut Findings) {
        let (was, is) = ((record.uid, record.gid, record.mode), (stat.uid, stat.gid, stat.mode));
        if was != is {
            let detail = format!("owner and mode are {}, were {}", owner_and_mode(is), owner_and_mode(was));
            findings.add(path, Fault::Permissions, detail);
        }
        self.not_asked_for(path, stat, record.mode, findings);
    }

    /// In the directories of the jail's users, and where a cell brings its own, modes are theirs.
    fn not_asked_for(&self, path: &Path, stat: &Stat, asked: u32, findings: &mut Findings) {
        if !path.ancestors().skip(1).any(is_not_ours) {
            entry(path, stat, asked, findings);
        }
    }
}

fn origin(source: &Source, linked: bool, host: &dyn Host) -> Origin {
    match host.lstat(&source.path.0) {
        Ok(stat) if same_state(source.stamp, Stamp::from(&stat), linked) => Origin::Same,
        Ok(_) => Origin::Changed,
        Err(_) => Origin::Gone,
    }
}

fn missing(path: &Path, record: &Record, findings: &mut Findings) {
    findings.add(path, Fault::Missing, format!("missing ({})", record.why));
}

fn another_kind(path: &Path, findings: &mut Findings) {
    findings.add(path, Fault::Tampered, "something of another kind has taken its place");
}

fn owner_and_mode((uid, gid, mode): (u32, u32, u32)) -> String {
    format!("{uid}:{gid} {mode:04o}")
}
