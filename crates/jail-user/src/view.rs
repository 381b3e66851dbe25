//! The host's accounts as they are now, indexed: each file is read once, however many users are asked for.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use jail_accounts::replace::{self, Original};
use jail_accounts::{group, passwd};

use crate::dir;
use crate::host::{Host, LoginDefs};
use crate::trouble::{Trouble, cannot, quoted};

/// The account files, as read.
#[derive(Debug)]
pub struct Files {
    /// The directory they are in.
    pub etc: OwnedFd,
    /// passwd.
    pub passwd: Original,
    /// group.
    pub group: Original,
    /// gshadow, where there is one.
    pub gshadow: Option<Original>,
    /// login.defs.
    pub defs: LoginDefs,
}

impl Files {
    /// Reads the host's files.
    pub fn read(host: &Host) -> Result<Self, Trouble> {
        let etc = dir::open_trusted(&host.etc)?;
        let must = |name: &str| {
            read(&etc, &host.etc, name)?.ok_or_else(|| {
                Trouble::failed(format!("there is no {}", quoted(host.etc.join(name).as_os_str())))
            })
        };
        let (passwd, group) = (must("passwd")?, must("group")?);
        let gshadow = read(&etc, &host.etc, "gshadow")?;
        let defs = read(&etc, &host.etc, "login.defs")?.map(|file| file.bytes).unwrap_or_default();
        Ok(Self { passwd, group, gshadow, defs: LoginDefs::parse(&defs), etc })
    }
}

/// Reads one file of a directory, with a message that names the whole path.
pub fn read(dir: &OwnedFd, path: &Path, name: &str) -> Result<Option<Original>, Trouble> {
    replace::read(dir.as_fd(), name).map_err(|error| cannot("read", path.join(name))(error.source))
}

/// Indexes over the files' bytes.
#[derive(Debug)]
pub struct View<'a> {
    by_name: HashMap<&'a [u8], passwd::Entry<'a>>,
    by_uid: HashMap<u32, Vec<&'a [u8]>>,
    by_home: BTreeMap<PathBuf, Vec<&'a [u8]>>,
    groups: HashMap<u32, &'a [u8]>,
    group_names: HashMap<&'a [u8], u32>,
    memberships: HashMap<&'a [u8], Vec<u32>>,
}

impl<'a> View<'a> {
    /// Indexes a passwd and a group file.
    #[must_use]
    pub fn new(passwd_file: &'a [u8], group_file: &'a [u8]) -> Self {
        let mut view = Self {
            by_name: HashMap::new(),
            by_uid: HashMap::new(),
            by_home: BTreeMap::new(),
            groups: HashMap::new(),
            group_names: HashMap::new(),
            memberships: HashMap::new(),
        };
        for entry in passwd::entries(passwd_file) {
            if view.by_name.contains_key(entry.name) {
                continue;
            }
            view.by_name.insert(entry.name, entry);
            view.by_uid.entry(entry.uid).or_default().push(entry.name);
            if let Some(home) = dir::clean(entry.home) {
                view.by_home.entry(home).or_default().push(entry.name);
            }
        }
        for entry in group::entries(group_file) {
            view.groups.entry(entry.gid).or_insert(entry.name);
            view.group_names.entry(entry.name).or_insert(entry.gid);
            for member in entry.members() {
                let gids = view.memberships.entry(member).or_default();
                if !gids.contains(&entry.gid) {
                    gids.push(entry.gid);
                }
            }
        }
        view
    }

    /// The account of that name.
    #[must_use]
    pub fn account(&self, name: &[u8]) -> Option<&passwd::Entry<'a>> {
        self.by_name.get(name)
    }

    /// All names of a uid.
    #[must_use]
    pub fn names_of(&self, uid: u32) -> &[&'a [u8]] {
        self.by_uid.get(&uid).map(Vec::as_slice).unwrap_or_default()
    }

    /// The accounts whose home that is.
    #[must_use]
    pub fn living_at(&self, home: &Path) -> &[&'a [u8]] {
        self.by_home.get(home).map(Vec::as_slice).unwrap_or_default()
    }

    /// The accounts whose home lies below a directory.
    pub fn living_below(&self, home: &Path) -> impl Iterator<Item = &'a [u8]> {
        // Paths sort by component, so what lies below follows directly.
        let from_here =
            self.by_home.range(home.to_owned()..).skip_while(move |(other, _)| other.as_path() == home);
        from_here
            .take_while(move |(other, _)| other.starts_with(home))
            .flat_map(|(_, names)| names.iter().copied())
    }

    /// A group's name.
    #[must_use]
    pub fn group_name(&self, gid: u32) -> Option<&'a [u8]> {
        self.groups.get(&gid).copied()
    }

    /// A group's number.
    #[must_use]
    pub fn group_id(&self, name: &[u8]) -> Option<u32> {
        self.group_names.get(name).copied()
    }

    /// The groups that list a user.
    #[must_use]
    pub fn groups_of(&self, user: &[u8]) -> &[u32] {
        self.memberships.get(user).map(Vec::as_slice).unwrap_or_default()
    }

    /// Members of a group, for `--group`: those listed and those who have it as their primary one, in order of name.
    #[must_use]
    pub fn members_of(&self, gid: u32) -> Vec<&'a [u8]> {
        let listed = self.memberships.iter().filter(|(_, gids)| gids.contains(&gid)).map(|(name, _)| *name);
        let primary = self.by_name.values().filter(|entry| entry.gid == gid).map(|entry| entry.name);
        let mut all: Vec<&[u8]> =
            listed.chain(primary).filter(|name| self.by_name.contains_key(name)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// A free number for a system group, from the top down as groupadd -r takes them.
    #[must_use]
    pub fn free_system_gid(&self, defs: &LoginDefs) -> Option<u32> {
        let (low, high) = defs.system_gids;
        (low..=high).rev().find(|gid| !self.groups.contains_key(gid))
    }
}
