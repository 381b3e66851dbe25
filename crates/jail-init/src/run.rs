//! What the tools have in common: which jails they are about, and how a run begins, is watched and ends.

use std::path::{Path, PathBuf};

use clap::Args;
use jail_provision::error::{Error, Result};
use jail_provision::host::RealHost;
use jail_provision::inventory;
use jail_provision::jailroot::{Found, JailRoot};
use jail_provision::profiles::Profiles;
use jail_provision::provision::{self, Outlook, Request, Watcher};
use jail_provision::state::{self, State};
use jail_provision::text;

use crate::progress::Line;
use crate::say;

/// `-j DIR` or `--all`, for tools that work on jails that are there.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Which {
    /// The jail's directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) jail: Option<PathBuf>,
    /// Every jail that has a manifest
    #[arg(long)]
    all: bool,
}

impl Which {
    /// The jails' directories; of all jails, those that follow this host (an image's is renewed by whoever makes the image).
    pub(crate) fn jails(&self, base: &Path) -> Result<Vec<PathBuf>> {
        if let Some(jail) = &self.jail {
            return Ok(vec![jail.clone()]);
        }
        inventory::following(base)
    }
}

/// A tool at work: where it keeps state, and how much it is to say.
#[derive(Debug)]
pub(crate) struct Tool {
    name: &'static str,
    /// Where the state of the caller's jails lies.
    pub(crate) base: PathBuf,
    /// Do nothing, say what would be done.
    pub(crate) dry_run: bool,
    /// Name every step.
    pub(crate) verbose: bool,
}

/// A run that went well.
#[derive(Debug)]
pub(crate) struct Done {
    /// What was found and done.
    pub(crate) outlook: Outlook,
    /// How many steps were carried out.
    pub(crate) steps: usize,
    /// How many bytes were written.
    pub(crate) bytes: u64,
    /// Whether it was only a look.
    pub(crate) dry_run: bool,
}

impl Tool {
    /// Finds where this caller's state lies.
    pub(crate) fn new(name: &'static str, dry_run: bool, verbose: bool) -> Result<Self> {
        Ok(Self { name, base: state::base()?, dry_run, verbose })
    }

    /// The state of the jail with this canonical path.
    pub(crate) fn state(&self, jail: &Path) -> State {
        State::of_jail(&self.base, jail)
    }

    /// Looks or runs, as the command line says.
    pub(crate) fn provision(&self, request: &Request) -> Result<Done> {
        let host = RealHost::system();
        let state = |path: &Path| self.state(path);
        let mut line = Line::new(self.verbose);
        let outlook = if self.dry_run {
            provision::look(request, &state, &host)?
        } else {
            let mut waiting = |holder: &str| say::waiting(self.name, holder);
            provision::run(
                request,
                &state,
                &host,
                &mut Watcher { progress: &mut line, waiting: &mut waiting },
            )?
        };
        line.clear();
        Ok(Done { outlook, steps: line.files, bytes: line.bytes, dry_run: self.dry_run })
    }

    /// Looks at many jails at once, and answers for those that have nothing to do.
    pub(crate) fn up_to_date(&self, requests: &[Request]) -> Vec<Option<Done>> {
        let found = provision::up_to_date(requests, &|path| self.state(path));
        let done = |outlook| Done { outlook, steps: 0, bytes: 0, dry_run: self.dry_run };
        found.into_iter().map(|outlook| outlook.map(done)).collect()
    }

    /// For tools that work only on a jail that is there already.
    pub(crate) fn require_manifest(&self, jail: &Path) -> Result<()> {
        let Found::Jail(root) = JailRoot::find(jail)? else {
            return Err(Error::failed(format!("there is no jail {}", text::quote(jail)))
                .hint("'jail-init -j JAIL SECTION…' makes one"));
        };
        if self.state(root.path()).manifest()?.is_none() {
            return Err(Error::failed(format!(
                "{} has no manifest, so it is no jail of ours",
                text::quote(jail)
            ))
            .hint("'jail-init -j JAIL SECTION…' makes one of it, and leaves alone what is in it"));
        }
        Ok(())
    }
}

/// A directory of sections as it is remembered; checked like [`profiles`].
pub(crate) fn section_dir(dir: &Path) -> Result<PathBuf> {
    profiles(Some(dir))?;
    std::path::absolute(dir).map_err(|e| Error::io("find", dir, e))
}

/// The standard sections, and before them those of `-c DIR`.
pub(crate) fn profiles(dir: Option<&Path>) -> Result<Profiles> {
    let Some(dir) = dir else { return Ok(Profiles::standard()) };
    if dir.is_dir() {
        return Ok(Profiles::standard().with_first(dir));
    }
    let error = Error::usage(format!("{} is no directory of sections", text::quote(dir)));
    Err(match dir.extension() {
        Some(ini) if ini == "ini" => error.hint(format!(
            "'jail-init --import {} -c DIR' turns jailkit's file into sections in DIR",
            text::encode(dir)
        )),
        _ => error.hint("-c takes a directory with one NAME.toml a section"),
    })
}
