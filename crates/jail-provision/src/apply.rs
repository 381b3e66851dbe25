//! Carries out a plan and makes no choices of its own.
//!
//! Half the time of a provisioning is copying and digesting, and no file waits for another, so several threads share the
//! steps. The results are gathered by one.

use std::cmp::Reverse;
use std::ops::ControlFlow;
use std::path::Path;

use rustix::fs::FileType;

use crate::crew::side_by_side;
use crate::error::Result;
use crate::jailroot::{JailRoot, Privilege, Removed, Written};
use crate::manifest::{PathText, Record, Source, Stamp, What};
use crate::plan::{Action, Cause, Plan, Step};
use crate::recording::Opened;

/// Told about each step that is done.
pub trait Progress {
    /// A step is done; so many bytes were written.
    fn step(&mut self, path: &Path, bytes: u64);
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&mut self, _: &Path, _: u64) {}
}

/// What a run put where.
pub type Records = std::collections::BTreeMap<PathText, Record>;

/// Carries out the steps, from the files that planning left open where it did; answers the records of what is there now.
///
/// Directories are made first, in order, and what is no longer wanted is removed last; all else in between is independent
/// of each other, so that files are copied side by side.
///
/// # Errors
/// A step failed. What was done before stays, and the next run goes on from there.
pub fn apply(plan: &Plan, jail: &JailRoot, opened: &Opened, progress: &mut dyn Progress) -> Result<Records> {
    let mut records = plan.unchanged.clone();
    let mut done = |step: &Step, (record, bytes): Done| {
        let path = PathText(step.path.clone());
        match record {
            Some(record) => records.insert(path, record),
            None => records.remove(&path),
        };
        progress.step(&step.path, bytes);
    };
    let (last, rest): (Vec<&Step>, _) = plan.steps.iter().partition(|step| step.cause == Cause::Unwanted);
    let (first, mut between): (Vec<&Step>, Vec<&Step>) =
        rest.into_iter().partition(|step| matches!(step.action, Action::Directory | Action::Remove));
    // The largest first: the disk has longest to do with them, and no thread is left alone with one at the end.
    between.sort_by_key(|step| Reverse(step.action.size()));
    for step in first {
        done(step, one(step, jail, opened)?);
    }
    let mut outcome = Ok(());
    let work = |step: &&Step| one(step, jail, opened);
    side_by_side(&between, work, |step, result| match result {
        Ok(left) => {
            done(step, left);
            ControlFlow::Continue(())
        }
        Err(error) => {
            // The first to fail is told; what the others were at ends first, so that none leaves a temporary file.
            if outcome.is_ok() {
                outcome = Err(error);
            }
            ControlFlow::Break(())
        }
    });
    outcome?;
    for step in last {
        done(step, one(step, jail, opened)?);
    }
    Ok(records)
}

/// What a step left (`None` if nothing of ours is there afterwards), and the bytes written.
type Done = (Option<Record>, u64);

/// One step.
fn one(step: &Step, jail: &JailRoot, opened: &Opened) -> Result<Done> {
    let path = &step.path;
    let record = |what: What| Record {
        what,
        uid: step.meta.uid,
        gid: step.meta.gid,
        mode: step.meta.mode,
        source: None,
        stamp: None,
        why: step.why.clone(),
    };
    let done = match &step.action {
        Action::Directory => {
            jail.make_directory(path, step.meta)?;
            record(What::Directory)
        }
        Action::Symlink { target } => {
            jail.symlink(path, target, step.meta)?;
            record(What::Symlink { target: PathText(target.clone()) })
        }
        Action::Device { block, device } => {
            let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
            jail.device(path, kind, *device, step.meta)?;
            record(What::Device { block: *block, device: *device })
        }
        Action::Write { content } => {
            let written = jail.write_file(path, content, step.meta)?;
            let bytes = written.stat.size;
            return Ok((Some(file(record, &written, None, false)), bytes));
        }
        Action::Accounts { content, lines } => {
            jail.write_file(path, content, step.meta)?;
            record(What::Accounts { lines: lines.clone() })
        }
        Action::Copy { source, privilege, .. } => {
            let written = jail.copy_file(path, source, opened, step.meta, *privilege)?;
            let bytes = written.stat.size;
            return Ok((Some(file(record, &written, Some(source), false)), bytes));
        }
        Action::Link { source, .. } => {
            if let Some(written) = jail.hard_link(path, source)? {
                return Ok((Some(file(record, &written, Some(source), true)), 0));
            }
            let written = jail.copy_file(path, source, opened, step.meta, Privilege::Drop)?;
            let bytes = written.stat.size;
            return Ok((Some(file(record, &written, Some(source), false)), bytes));
        }
        Action::Remove => {
            // A directory that is still in use holds something that is not ours: it is not ours any more either.
            let (Removed::Gone | Removed::InUse) = jail.remove(path)?;
            return Ok((None, 0));
        }
    };
    Ok((Some(done), 0))
}

fn file(record: impl Fn(What) -> Record, written: &Written, source: Option<&Path>, linked: bool) -> Record {
    let source = source
        .zip(written.source.as_ref())
        .map(|(path, stat)| Source { path: PathText(path.to_path_buf()), stamp: Stamp::from(stat) });
    let what = What::File { digest: written.digest, linked };
    Record { source, stamp: Some(Stamp::from(&written.stat)), ..record(what) }
}
