//! What is exported: a jail, or a jail and the generation of the base that it lies over.
//!
//! A cell shows the jail's own files over the base's; so does the archive. The generation is held as an entry holds it, so
//! that an update of the base in the middle of an export neither removes nor mixes anything.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use jail_provision::error::{Error, Result};
use jail_provision::jailroot::{Found, JailRoot};
use jail_provision::manifest::{Manifest, PathText};
use jail_provision::state::State;
use jail_provision::text;
use rustix::fs::{FlockOperation, flock};

use super::contents::{Contents, Layer, Reader};
use crate::run::Tool;

/// The jail, held open, and what is known of it.
pub(crate) struct Subject {
    pub(crate) jail: JailRoot,
    pub(crate) state: State,
    /// Of the jail as a whole, its base's part too.
    pub(crate) manifest: Manifest,
    own: Manifest,
    base: Option<Base>,
}

/// The generation of a base that is current.
struct Base {
    root: JailRoot,
    manifest: Manifest,
    /// Locked as long as it is used: nobody removes it meanwhile.
    _held: File,
}

impl Subject {
    /// Finds the jail, and the base that it lies over.
    ///
    /// # Errors
    /// There is none, or none that could be exported.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let tool = Tool::new("jail-export", false, false)?;
        let Found::Jail(jail) = JailRoot::find(path)? else {
            return Err(Error::failed(format!("there is no jail {}", text::quote(path)))
                .hint("'jail-init -j JAIL SECTION…' makes one"));
        };
        let state = tool.state(jail.path());
        let Some(own) = state.manifest()? else {
            return Err(Error::failed(format!(
                "{} has no manifest, so it is no jail of ours",
                text::quote(path)
            ))
            .hint("'jail-init -j JAIL SECTION…' makes one of it, and leaves alone what is in it"));
        };
        if own.generation.is_some() {
            return Err(Error::refused(format!("{} is a base for jails, and no jail", text::quote(path)))
                .hint("'jail-init --base BASE -j JAIL' makes a jail on it, and that can be exported"));
        }
        require_identity(&jail, &own)?;
        let base = own.base.as_ref().map(|base| Base::open(&base.0, &state)).transpose()?;
        let manifest = whole(&own, base.as_ref().map(|base| &base.manifest));
        Ok(Self { jail, state, manifest, own, base })
    }

    /// Everything in it that goes into an archive.
    ///
    /// # Errors
    /// Something in it cannot be read.
    pub(crate) fn contents(&self) -> Result<Contents> {
        let base = self.base.as_ref().map(|base| Layer { root: &base.root, manifest: &base.manifest });
        Contents::of(&Layer { root: &self.jail, manifest: &self.own }, base.as_ref())
    }

    /// Opens its files.
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader::new(&self.jail, self.base.as_ref().map(|base| &base.root))
    }

    /// Where a name of the jail is to be looked up: its own files first.
    pub(crate) fn roots(&self) -> Vec<&JailRoot> {
        std::iter::once(&self.jail).chain(self.base.as_ref().map(|base| &base.root)).collect()
    }
}

impl Base {
    fn open(path: &Path, jail: &State) -> Result<Self> {
        let state = jail.of_other(path);
        let gone = || {
            Error::failed(format!("the base {} is not there, or is none", text::quote(path)))
                .hint("'jail-check -j JAIL' says more")
        };
        loop {
            let generation = state.manifest()?.and_then(|manifest| manifest.generation).ok_or_else(gone)?;
            let lock = state.generation_lock(&generation);
            let held = File::open(&lock).map_err(|e| Error::io("open the lock", &lock, e))?;
            flock(&held, FlockOperation::LockShared).map_err(|e| Error::io("lock", &lock, e))?;
            // An update may have laid the next one while we waited; then the one that we hold may be gone.
            let manifest = state.manifest()?.ok_or_else(gone)?;
            if manifest.generation.as_ref() != Some(&generation) {
                continue;
            }
            let Found::Jail(root) = JailRoot::find(&manifest.root())? else { return Err(gone()) };
            require_identity(&root, &manifest)?;
            return Ok(Self { root, manifest, _held: held });
        }
    }
}

fn require_identity(root: &JailRoot, manifest: &Manifest) -> Result<()> {
    if root.identity()? == (manifest.device, manifest.inode) {
        return Ok(());
    }
    Err(Error::refused(format!("{} is not the directory that jail-init made", text::quote(root.path())))
        .hint("'jail-check -j JAIL' says more"))
}

/// What is known of both: the jail's own records hide the base's.
fn whole(own: &Manifest, base: Option<&Manifest>) -> Manifest {
    let Some(base) = base else { return own.clone() };
    let mut files: BTreeMap<PathText, _> = base.files.clone();
    files.extend(own.files.clone());
    let mut sections = base.sections.clone();
    sections.extend(own.sections.iter().filter(|section| !base.sections.contains(section)).cloned());
    Manifest { files, sections, ..own.clone() }
}
