//! What a file needs to run, told in the tree's own terms: paths to lay and the reason for each.
//!
//! The finding is `resolve.rs`'s; this adds the reasons and says in one sentence what could not be found.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::loader_cache;
use crate::manifest::{PathText, Why};
use crate::resolve::{self, NeedKind, ResolveError, Resolver, Unmet};
use crate::text;
use crate::tree::Tree;

/// The one resolver of a run, and what it has already answered.
pub(crate) struct Needs<'h> {
    host: &'h dyn Host,
    resolver: RefCell<Resolver<'h>>,
    /// Paths that were handed out: the thousandth program brings no new libc.
    told: RefCell<HashSet<Arc<Path>>>,
}

/// What one file needs: what is new, and what the host lacks.
pub(crate) struct Found {
    pub(crate) new: Vec<(PathBuf, Why)>,
    pub(crate) unmet: Option<Error>,
}

impl<'h> Needs<'h> {
    pub(crate) fn new(host: &'h dyn Host) -> Self {
        Self { host, resolver: RefCell::new(Resolver::new(host)), told: RefCell::default() }
    }

    /// The paths that a file needs and that were not handed out before.
    pub(crate) fn of(&self, file: &Path) -> Result<Found> {
        let needs = self.resolver.borrow_mut().survey(file).map_err(|e| unreadable(&e))?;
        let mut new = Vec::new();
        let mut told = self.told.borrow_mut();
        for need in &needs.needs {
            let by_glibc = need.path.as_ref() == Path::new(loader_cache::PATH);
            if by_glibc || need.kind == NeedKind::HwcapsVariant || !told.insert(Arc::clone(&need.path)) {
                // The jail's cache is made, not copied; a variant for one processor would tie the jail to it.
                continue;
            }
            let by = needs.needs.iter().find(|n| n.path == need.needed_by).map_or(&needs.real, |n| &n.real);
            let by = PathText(by.to_path_buf());
            let why = match need.kind {
                NeedKind::ScriptInterpreter => Why::InterpreterOf(by),
                _ => Why::NeededBy(by),
            };
            new.push((need.path.to_path_buf(), why));
        }
        let unmet = (!needs.unmet.is_empty()).then(|| cannot_start(file, &needs.unmet));
        Ok(Found { new, unmet })
    }

    /// The ld.so.cache of a jail with this tree; `None` on a host without one.
    pub(crate) fn loader_cache(&self, tree: &Tree) -> Option<Vec<u8>> {
        loader_cache::of_tree(self.host, tree)
    }
}

fn unreadable(error: &ResolveError) -> Error {
    match error {
        ResolveError::Read { path, source } => {
            Error::failed(format!("cannot read {}: {}", text::quote(path), text::reason(source)))
        }
        ResolveError::Broken { path, fault } => Error::failed(format!("{} is {fault}", text::quote(path))),
        ResolveError::Unmet { program, unmet } => cannot_start(program, unmet),
    }
}

fn cannot_start(program: &Path, unmet: &[Unmet]) -> Error {
    let list: Vec<String> = unmet.iter().map(one_unmet).collect();
    Error::failed(format!("{} cannot start on this host: {}", text::quote(program), list.join("; ")))
        .hint("install what is missing on the host first")
}

fn one_unmet(unmet: &Unmet) -> String {
    let name = text::quote(Path::new(OsStr::from_bytes(&unmet.name)));
    let by = text::quote(&unmet.needed_by);
    match &unmet.why {
        resolve::Why::NotFound { .. } => format!("{name}, needed by {by}, is not there"),
        resolve::Why::Broken { path, fault } => {
            format!("{name}, needed by {by}, is {}, which is {fault}", text::quote(path))
        }
        resolve::Why::Relative => format!("{name}, needed by {by}, is a relative path"),
        resolve::Why::TooMuch => {
            format!("{by} has the loader look into more places than any real program does")
        }
        resolve::Why::TooDeep => {
            format!("{by} is a script run by a script, more often than the kernel follows")
        }
    }
}
