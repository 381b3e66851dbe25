//! The bill of material of an image: the one of the last export if nothing can have changed, else asked of the package
//! database by a second thread, which takes as long as writing the layer.
//!
//! Nothing can have changed if the same files come from the same sources and the database is as it was left (inode, size,
//! mtime and ctime of its files: nobody, not even root, can set a ctime back).

use std::os::unix::ffi::OsStrExt as _;
use std::thread::{Scope, ScopedJoinHandle};

use jail_provision::digest::Digest;
use jail_provision::error::{Error, Result};
use jail_provision::host::{RealHost, Stat};
use jail_provision::manifest::Manifest;
use jail_provision::state::State;
use jail_provision::{Processors, package, sbom, text};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::cache::is_recent;
use super::settings;
use super::subject::Subject;
use crate::oci;

const FILE: &str = "bill.json";

/// The bill, or its promise.
pub(super) enum Bill<'scope> {
    Remembered(String),
    Coming { thread: ScopedJoinHandle<'scope, Result<Value>>, key: Option<Digest> },
}

#[derive(Serialize, Deserialize)]
struct Memory {
    key: Digest,
    bill: String,
}

impl<'scope> Bill<'scope> {
    /// Recalls the bill, unless all is to be done `afresh`, or begins to make it.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn begin<'env>(
        scope: &'scope Scope<'scope, 'env>,
        subject: &'env Subject,
        afresh: bool,
    ) -> Result<Self> {
        let key = packages().map(|packages| key(&packages, &subject.manifest));
        if let Some(bill) = key.filter(|_| !afresh).and_then(|key| recall(&subject.state, key)) {
            return Ok(Self::Remembered(bill));
        }
        let processors = Processors::of_this_process();
        let make = move || {
            processors.leave_the_first();
            sbom::cyclonedx(&subject.manifest, &RealHost::system())
        };
        let thread = std::thread::Builder::new().name("bill".to_owned()).spawn_scoped(scope, make);
        thread
            .map(|thread| Self::Coming { thread, key })
            .map_err(|e| Error::failed(format!("no thread can be started: {}", text::reason(&e))))
    }

    /// Puts it to the other labels of an image.
    ///
    /// # Errors
    /// The package database cannot be read.
    pub(super) fn label(self, subject: &Subject, mut image: oci::Settings) -> Result<oci::Settings> {
        let bill = match self {
            Self::Remembered(bill) => bill,
            Self::Coming { thread, key } => {
                let made = thread.join();
                let made = made.map_err(|_| Error::failed("the software bill of material was not made"))?;
                let bill = made?.to_string();
                if let Some(key) = key {
                    remember(&subject.state, key, &bill)?;
                }
                bill
            }
        };
        image.labels.get_or_insert_default().insert(settings::BILL.to_owned(), bill);
        Ok(image)
    }
}

/// The state of the package database; `None` where it cannot be told, or where it was changed just now.
fn packages() -> Option<Vec<Option<Stat>>> {
    let state = package::state(&RealHost::system())?;
    let changing = state.iter().flatten().any(|stat| is_recent(stat.ctime.sec, stat.ctime.nsec));
    (!changing).then_some(state)
}

/// What the bill follows from.
fn key(packages: &[Option<Stat>], manifest: &Manifest) -> Digest {
    let mut hash = Sha256::new();
    hash.update(format!("{} {packages:?} {:?}\n", env!("CARGO_PKG_VERSION"), manifest.sections));
    for (path, record) in &manifest.files {
        let Some(source) = &record.source else { continue };
        // No path holds a NUL.
        for part in [path.0.as_os_str().as_bytes(), source.path.0.as_os_str().as_bytes()] {
            hash.update(part);
            hash.update([0]);
        }
        hash.update(format!("{:?}\n", record.what));
    }
    Digest(hash.finalize().into())
}

fn recall(state: &State, key: Digest) -> Option<String> {
    let bytes = std::fs::read(state.dir().join(FILE)).ok()?;
    let memory: Memory = serde_json::from_slice(&bytes).ok()?;
    (memory.key == key).then_some(memory.bill)
}

fn remember(state: &State, key: Digest, bill: &str) -> Result<()> {
    let json = serde_json::to_vec(&Memory { key, bill: bill.to_owned() }).unwrap_or_default();
    state.stage_bytes(state.dir().join(FILE), &json, 0o600)?.commit()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jail_provision::host::Host as _;
    use jail_provision::manifest::{PathText, Record, Source, Stamp, What, Why};

    use super::*;

    fn manifest(source: &str, target: &str) -> Manifest {
        let mut manifest = Manifest::new(Path::new("/home/jail"));
        let stamp = Stamp(1, 2, 3, 4, 5, 6);
        let source = Source { path: PathText(source.into()), stamp };
        let what = What::Symlink { target: PathText(target.into()) };
        let record = Record {
            what,
            uid: 0,
            gid: 0,
            mode: 0o777,
            source: Some(source),
            stamp: Some(stamp),
            why: Why::EveryJail,
        };
        manifest.files.insert(PathText("/bin/sh".into()), record);
        manifest
    }

    #[test]
    fn whatever_the_bill_names_tells_it_from_another() {
        let stat = RealHost::system().stat(Path::new("/")).expect("a root");
        let plain = manifest("/bin/dash", "dash");
        let known = key(&[Some(stat), None], &plain);
        assert_eq!(known, key(&[Some(stat), None], &plain));
        let touched = Stat { ctime: jail_provision::host::Time { nsec: 7, ..stat.ctime }, ..stat };
        let sections = Manifest { sections: vec!["git".to_owned()], ..plain.clone() };
        for (what, other) in [
            ("the database", key(&[Some(touched), None], &plain)),
            ("one of its files", key(&[Some(stat), Some(stat)], &plain)),
            ("a section", key(&[Some(stat), None], &sections)),
            ("a source", key(&[Some(stat), None], &manifest("/bin/bash", "dash"))),
            ("a content", key(&[Some(stat), None], &manifest("/bin/dash", "bash"))),
        ] {
            assert_ne!(known, other, "{what}");
        }
    }
}
