//! What a list of sections and wishes asks for, in order, each with its reason: still names, nothing looked up yet.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::digest::Digest;
use crate::entry::EntryNeeds;
use crate::manifest::{Options, PathText, Why};
use crate::section::{Directory, OwnFile, OwnLink, Place, Section};

/// Whether the host may lack something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Missing is an error.
    Must,
    /// Missing is fine.
    May,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A program, by name.
    Command(String),
    /// A file, tree or glob.
    Path(String),
    /// A path taken literally, byte for byte (a wish).
    Exactly(PathBuf),
    /// The files of an installed Debian package.
    Package(String),
    /// The same, and those of all packages that it depends on.
    PackageTree {
        /// The package.
        name: String,
        /// Where following ends, beside where it always does.
        stop: Vec<String>,
    },
    /// A device node.
    Device(String),
    /// The line of a user.
    User(String),
    /// The line of a group.
    Group(String),
    /// A directory of the section's own.
    Directory(Directory),
    /// A file of the section's own.
    File(OwnFile),
    /// A link of the section's own.
    Link(OwnLink),
}

/// One thing asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What.
    pub ask: Ask,
    /// Whether it must be there.
    pub need: Need,
    /// Who asks.
    pub why: Why,
    /// Where that stands; wishes have no place.
    pub place: Option<Place>,
    /// The Debian package that brings it.
    pub package: Option<String>,
}

/// Everything that is asked of one jail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// In the order of sections, then wishes.
    pub items: Vec<Item>,
    /// Files that keep set-uid and set-gid bits and file capabilities.
    pub setuid: BTreeSet<String>,
    /// What the sections need from the entry.
    pub entry: EntryNeeds,
    /// For each need of the entry, the section that asked: for the closing words of jail-init.
    pub entry_reasons: BTreeMap<String, EntryNeeds>,
    /// Whether what cannot be had is told at the end rather than being the end.
    pub keep_broken: bool,
    /// Tells one set of questions from another.
    pub asked: Option<Digest>,
}

impl Wanted {
    /// Joins sections (includes first, as `Profiles::resolve` gives them) and wishes.
    #[must_use]
    pub fn new(sections: &[Section], wishes: &BTreeSet<PathText>, options: Options) -> Self {
        let mut wanted = Self::default();
        for section in sections {
            wanted.add_section(section, options);
        }
        for wish in wishes {
            let ask = Ask::Exactly(wish.0.clone());
            let why = Why::Wish(wish.clone());
            wanted.items.push(Item { ask, need: Need::Must, why, place: None, package: None });
        }
        // Debug output of plain data: stable within one version of the program, which is part of what is digested.
        let version = env!("CARGO_PKG_VERSION");
        wanted.asked =
            Some(Digest::of(format!("{version} {options:?} {:?}", (&wanted, sections)).as_bytes()));
        wanted
    }

    /// Adds empty directories. A path that is not UTF-8 is left out: nothing could name it in a section either.
    #[must_use]
    pub fn with_directories(mut self, directories: &[PathBuf]) -> Self {
        for path in directories {
            let Some(text) = path.to_str() else { continue };
            let ask = Ask::Directory(Directory { path: text.to_owned(), mode: 0o755 });
            let why = Why::Wish(PathText(path.clone()));
            self.items.push(Item { ask, need: Need::Must, why, place: None, package: None });
            self.asked = self.asked.map(|asked| Digest::of(format!("{asked} {text}").as_bytes()));
        }
        self
    }

    fn add_section(&mut self, section: &Section, options: Options) {
        use Need::{May, Must};
        let mut add = |line: usize, need: Need, ask: Ask, package: Option<&str>| {
            let why = Why::Section(section.name.clone());
            let place = Some(section.place(line));
            self.items.push(Item { ask, need, why, place, package: package.map(str::to_owned) });
        };
        for d in &section.directories {
            add(d.line, Must, Ask::Directory(d.value.clone()), None);
        }
        for c in &section.commands {
            add(c.line, Must, Ask::Command(c.value.clone()), section.package_for(&c.value));
        }
        for p in section.paths.iter().chain(&section.setuid) {
            add(p.line, Must, Ask::Path(p.value.clone()), section.package_for(&p.value));
        }
        for o in &section.optional {
            let ask = if o.value.starts_with('/') { Ask::Path } else { Ask::Command };
            add(o.line, May, ask(o.value.clone()), None);
        }
        for p in &section.packages {
            let name = p.value.clone();
            let stop = section.stop.iter().map(|stop| stop.value.clone()).collect();
            let ask = if section.dependencies { Ask::PackageTree { name, stop } } else { Ask::Package(name) };
            add(p.line, Must, ask, Some(&p.value));
        }
        for u in &section.users {
            add(u.line, Must, Ask::User(u.value.clone()), None);
        }
        for g in &section.groups {
            add(g.line, Must, Ask::Group(g.value.clone()), None);
        }
        for f in &section.files {
            add(f.line, Must, Ask::File(f.value.clone()), None);
        }
        for l in &section.links {
            add(l.line, Must, Ask::Link(l.value.clone()), None);
        }
        if options.devices {
            for d in &section.devices {
                add(d.line, Must, Ask::Device(d.value.clone()), None);
            }
        }
        self.setuid.extend(section.setuid.iter().map(|s| s.value.clone()));
        self.entry.join(&section.entry);
        if section.entry != EntryNeeds::default() {
            self.entry_reasons.insert(section.name.clone(), section.entry.clone());
        }
    }
}
