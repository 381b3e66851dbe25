//! The base that a jail shares with others: which of its generations is current, and the hold that keeps that one there.
//!
//! A base is a directory of generations that nobody changes once they are made: changing a layer of a mounted overlay is
//! undefined (rulings 26). An update lays a new generation beside the old one and then says, by one rename of
//! `base.toml` in the base's state, that the new one is current. A cell keeps the generation that it was made from, by a
//! shared lock that its first process holds; what nobody holds the next update removes.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use jail_accounts::convention::jail_name;
use rustix::fs::{FlockOperation, flock, fstat};
use std::os::unix::ffi::OsStrExt;

use crate::admission::{identity, read_all, reopen};
use crate::policy::file::BaseFile;
use crate::refusal::{OrRefuse, Refusal, Result, What};
use crate::trusted::{self, Trust};

/// How often an entry looks again when updates make and remove generations under its hands.
const TRIES: usize = 20;

/// A generation of a base, held.
#[derive(Debug)]
pub struct Base {
    /// The base's path on the host.
    pub path: PathBuf,
    /// The name of the generation.
    pub generation: String,
    /// The generation's directory (`O_PATH`); every component above it has been checked.
    pub directory: OwnedFd,
    /// Locked shared: no update removes the generation while this is open somewhere.
    pub hold: OwnedFd,
}

impl Base {
    /// As [`crate::admission::Jail::reopen`]. The generation was checked when it was opened first, and is held since.
    pub(crate) fn reopen(&self) -> Result<Self> {
        let doing = || format!("open the base '{}' again", self.path.display());
        let known = fstat(&self.directory).or_refuse(What::Jail, doing)?;
        let directory = reopen(&self.path.join(&self.generation), identity(&known))?;
        let hold = self.hold.try_clone().or_refuse(What::Host, doing)?;
        Ok(Self { path: self.path.clone(), generation: self.generation.clone(), directory, hold })
    }
}

/// Opens the current generation of the base at `path`, whose state lies below `states`.
///
/// # Errors
/// There is no such base, or others than root could change it.
pub fn open(path: &Path, states: &Path, trust: Trust) -> Result<Base> {
    let path: PathBuf = path.components().collect();
    let state = states.join(jail_name(path.as_os_str().as_bytes()));
    let mut last = None;
    for _ in 0..TRIES {
        let file = read(&path, &state, trust)?;
        match open_generation(&path, &state, &file, trust) {
            Ok(base) => return Ok(base),
            // An update may have moved on between our look and our lock.
            Err(why) => last = Some(why),
        }
    }
    Err(last
        .unwrap_or_else(|| Refusal::new(What::Jail, format!("the base '{}' does not rest", path.display()))))
}

fn read(path: &Path, state: &Path, trust: Trust) -> Result<BaseFile> {
    let file = state.join("base.toml");
    let broken = |why: String| {
        Refusal::new(
            What::Jail,
            format!("the base '{}' cannot be used: {why}; jail-update -j {0} repairs it", path.display()),
        )
    };
    let (fd, _) = trusted::open_file(&file, trust).map_err(|why| broken(why.to_string()))?;
    let bytes =
        read_all(&fd).map_err(|errno| broken(format!("cannot read '{}': {errno}", file.display())))?;
    BaseFile::parse(&bytes, &file.display().to_string()).map_err(|why| broken(why.to_string()))
}

fn open_generation(path: &Path, state: &Path, file: &BaseFile, trust: Trust) -> Result<Base> {
    let whole = path.join(&file.generation);
    let refuse = |why: String| Refusal::new(What::Jail, format!("base '{}': {why}", whole.display()));
    let lock = state.join(format!("{}.lock", file.generation));
    let (hold, _) = trusted::open_file(&lock, trust).map_err(|why| refuse(why.to_string()))?;
    flock(&hold, FlockOperation::LockShared)
        .or_refuse(What::Host, || format!("hold the base's '{}'", file.generation))?;
    let (directory, stat) = trusted::open_directory(&whole, trust).map_err(|why| refuse(why.to_string()))?;
    if identity(&stat) != (file.device, file.inode) {
        return Err(refuse(format!(
            "it is not the directory that jail-init made; jail-update -j {} makes it anew",
            path.display()
        )));
    }
    Ok(Base { path: path.to_path_buf(), generation: file.generation.clone(), directory, hold })
}
