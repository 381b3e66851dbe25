//! What is wrong with a jail: every file against the manifest, whole content, and everything in it that is not ours.
//!
//! Nothing is trusted but the manifest, which lies outside the jail. Libraries are looked for with the jail as the root, so
//! the answer is the one that a program in the jail will get.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::crew::side_by_side;
use crate::digest::Digest;
use crate::error::Result;
use crate::host::{Host, RealHost, Stat};
use crate::jailroot::{self, Found, JailRoot};
use crate::manifest::{Manifest, Record, Stamp, What};
use crate::plan::same_state;
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
    /// set-uid, set-gid or a device, not asked for.
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
    let mut checker =
        Checker { manifest, jail: &jail, contents: contents(manifest, &jail), findings: Vec::new() };
    checker.identity()?;
    for (path, record) in &manifest.files {
        checker.record(&path.0, record)?;
    }
    checker.walk()?;
    checker.programs();
    checker.findings.sort();
    checker.findings.dedup();
    Ok(checker.findings)
}

/// The digest of every file of ours, whole content, read by as many threads as are worth it.
fn contents<'a>(manifest: &'a Manifest, jail: &JailRoot) -> HashMap<&'a Path, Result<Digest>> {
    let files: Vec<&Path> = manifest
        .files
        .iter()
        .filter(|(_, record)| matches!(record.what, What::File { .. }))
        .map(|(path, _)| path.0.as_path())
        .collect();
    let mut contents = HashMap::with_capacity(files.len());
    side_by_side(
        &files,
        |path| jail.digest(path),
        |path, digest| {
            contents.insert(*path, digest);
            ControlFlow::Continue(())
        },
    );
    contents
}

fn whole(fault: Fault, detail: &str) -> Finding {
    Finding { path: PathBuf::from("/"), fault, detail: detail.to_owned() }
}

struct Checker<'a> {
    manifest: &'a Manifest,
    jail: &'a JailRoot,
    /// Not yet compared.
    contents: HashMap<&'a Path, Result<Digest>>,
    findings: Vec<Finding>,
}

impl Checker<'_> {
    fn find(&mut self, path: &Path, fault: Fault, detail: impl Into<String>) {
        self.findings.push(Finding { path: path.to_path_buf(), fault, detail: detail.into() });
    }

    fn identity(&mut self) -> Result<()> {
        if self.jail.identity()? != (self.manifest.device, self.manifest.inode) {
            let detail = "another directory stands here than the one that was provisioned";
            self.find(Path::new("/"), Fault::OtherDirectory, detail);
        }
        if !self.manifest.pending.is_empty() {
            self.find(Path::new("/"), Fault::Unfinished, "a run was cut short; jail-update finishes it");
        }
        Ok(())
    }

    fn record(&mut self, path: &Path, record: &Record) -> Result<()> {
        let Ok(stat) = self.jail.lstat(path) else {
            self.find(path, Fault::Missing, format!("missing ({})", record.why));
            return Ok(());
        };
        let right_kind = match &record.what {
            What::Directory => stat.is_dir(),
            What::File { .. } | What::Accounts { .. } => stat.is_file(),
            What::Symlink { .. } => stat.is_symlink(),
            What::Device { device, .. } => stat.rdev == *device,
        };
        if !right_kind {
            self.find(path, Fault::Tampered, "something of another kind has taken its place");
            return Ok(());
        }
        let linked = matches!(record.what, What::File { linked: true, .. });
        let link = matches!(record.what, What::Symlink { .. });
        if !linked && !link && (stat.uid, stat.gid, stat.mode) != (record.uid, record.gid, record.mode) {
            let (was, is) = (
                owner_and_mode(record.uid, record.gid, record.mode),
                owner_and_mode(stat.uid, stat.gid, stat.mode),
            );
            self.find(path, Fault::Permissions, format!("owner and mode are {is}, were {was}"));
        }
        match &record.what {
            What::File { digest, .. } => {
                let now = self.contents.remove(path).unwrap_or_else(|| self.jail.digest(path))?;
                if now != *digest {
                    self.find(path, Fault::Tampered, "the content is not what was put there");
                }
                self.source(path, record, linked);
            }
            What::Symlink { target } => {
                if self.jail.read_link(path).map_or(true, |now| now != target.0) {
                    self.find(path, Fault::Tampered, "the link leads elsewhere than it did");
                } else if self.jail.stat(path).is_err() && RealHost::system().stat(path).is_ok() {
                    self.find(
                        path,
                        Fault::BrokenLink,
                        format!("leads to {}, which the jail lacks", text::quote(&target.0)),
                    );
                }
            }
            What::Accounts { lines } => self.accounts(path, lines),
            What::Directory | What::Device { .. } => {}
        }
        Ok(())
    }

    fn source(&mut self, path: &Path, record: &Record, linked: bool) {
        let Some(source) = &record.source else { return };
        match RealHost::system().lstat(&source.path.0) {
            Ok(now) if same_state(source.stamp, Stamp::from(&now), linked) => {}
            Ok(_) => {
                self.find(path, Fault::Outdated, "the host's file has changed since; jail-update renews it")
            }
            Err(_) => self.find(path, Fault::Outdated, "the host's file is gone"),
        }
    }

    fn accounts(&mut self, path: &Path, lines: &std::collections::BTreeMap<String, String>) {
        let content = self.jail.read(path, 16 << 20).unwrap_or_default();
        let content = String::from_utf8_lossy(&content).into_owned();
        for (name, line) in lines {
            let now = content.lines().find(|l| l.split(':').next() == Some(name));
            match now {
                None => self.find(path, Fault::Account, format!("the line of '{name}' is gone")),
                // Home and shell may differ in a jail; who a name is may not.
                Some(now) if now.split(':').nth(2) != line.split(':').nth(2) => {
                    self.find(path, Fault::Account, format!("'{name}' has another number than on the host"));
                }
                Some(_) => {}
            }
        }
    }

    /// Everything that lies in the jail's own directories.
    fn walk(&mut self) -> Result<()> {
        let skip: BTreeSet<&Path> = NOT_OURS.iter().map(Path::new).collect();
        let mut todo = vec![PathBuf::from("/")];
        while let Some(dir) = todo.pop() {
            let io = |e: std::io::Error| crate::error::Error::io("read", &self.jail.outside(&dir), e);
            for name in self.jail.read_dir(&dir).map_err(io)? {
                let path = dir.join(&name);
                let Ok(stat) = self.jail.lstat(&path) else { continue };
                self.entry(&path, &stat);
                if stat.is_dir() && !skip.contains(path.as_path()) {
                    todo.push(path);
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, stat: &Stat) {
        let record = self.manifest.get(path);
        let mode = record.map_or(0, |record| record.mode);
        if record.is_none() {
            let leftover = path.file_name().is_some_and(jailroot::is_leftover);
            let what = if leftover { "left by a run that was killed" } else { "not put there by us" };
            self.find(path, Fault::Foreign, what);
        }
        if stat.mode & !mode & 0o6000 != 0 && stat.is_file() {
            self.find(path, Fault::Privileged, "set-uid or set-gid, and no section asked for that");
        }
        let device = matches!(stat.kind, crate::host::Kind::BlockDevice | crate::host::Kind::CharDevice);
        if device && record.is_none() {
            self.find(path, Fault::Privileged, "a device node that nobody asked for");
        }
        let sticky = stat.is_dir() && stat.mode & 0o1000 != 0;
        if stat.mode & 0o022 != 0 && !sticky && !stat.is_symlink() {
            self.find(path, Fault::Writable, format!("others may write to it (mode {:04o})", stat.mode));
        }
    }

    /// Whether every program that the host could start can start in the jail too.
    fn programs(&mut self) {
        if self.manifest.base.is_some() {
            // Most of what a program needs lies in the base, which is checked as the jail it is.
            return;
        }
        let Ok(inside) = RealHost::jail(self.jail.path()) else { return };
        let host = RealHost::system();
        let (mut here, mut there) = (Resolver::new(&inside), Resolver::new(&host));
        let runs = |record: &Record| record.mode & 0o111 != 0 && record.source.is_some();
        for (path, record) in self.manifest.files.iter().filter(|(_, record)| runs(record)) {
            let Some(source) = &record.source else { continue };
            let Ok(needs) = here.survey(&path.0) else { continue };
            let broken_there = |name: &[u8]| {
                there.survey(&source.path.0).map_or(true, |n| n.unmet.iter().any(|u| *u.name == *name))
            };
            let mut broken_there = broken_there;
            let unmet: Vec<String> = needs
                .unmet
                .iter()
                .filter(|unmet| !broken_there(&unmet.name))
                .map(|unmet| text::quote(Path::new(std::ffi::OsStr::from_bytes(&unmet.name))))
                .collect();
            if !unmet.is_empty() {
                let detail = format!("cannot start in the jail: it lacks {}", unmet.join(", "));
                self.findings.push(Finding { path: path.0.clone(), fault: Fault::CannotStart, detail });
            }
        }
    }
}

fn owner_and_mode(uid: u32, gid: u32, mode: u32) -> String {
    format!("{uid}:{gid} {mode:04o}")
}
