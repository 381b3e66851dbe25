//! What a cell is built from: copies of the host's mounts, taken while the host can still be seen.
//!
//! A descriptor alone will not do: a mount can be copied only in the namespace it belongs to (open_tree(2)). The
//! copies are detached, and the cell's first process attaches them in its own namespace.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use jail_sys::mount::{Reach, attributes, set_attributes};
use jail_sys::process::namespaces;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::discard;
use super::layers::{Changes, Layers};
use super::logging::HostLog;
use super::outside::WayOut;
use crate::admission::{Account, Admission, HomeSource};
use crate::cgroup::Groups;
use crate::own_etc::OwnFile;
use crate::policy::Policy;
use crate::policy::values::{Discard, Home, Network, Root, Size};
use crate::refusal::{OrRefuse, Refusal, Result, What, printable};

/// The privilege that an entry works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Real root, as the set-uid login shell has it.
    Root,
    /// Root of a user namespace that holds just the caller's uid.
    UserNamespace,
}

/// A detached copy of a mount and where it goes.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) tree: OwnedFd,
    /// Where in the cell, absolute.
    pub(crate) target: Vec<u8>,
    pub(crate) kind: Kind,
}

/// What an attachment's target has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

/// Whether a file on a mount that the user can write may become a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Execution {
    /// As on any host.
    Everywhere,
    /// Only what lies in the read-only root.
    RootOnly,
}

impl Execution {
    /// A list of commands would not hold against a program that the user brings along (rulings 9).
    fn under(policy: &Policy) -> Self {
        if policy.commands.is_empty() { Self::Everywhere } else { Self::RootOnly }
    }

    /// The attribute of such a mount.
    pub(crate) const fn attributes(self) -> u64 {
        match self {
            Self::Everywhere => 0,
            Self::RootOnly => attributes::NO_EXEC,
        }
    }
}

/// Everything that [`super::root::build`] needs; it makes no choices of its own.
#[derive(Debug)]
pub struct Blueprint {
    pub(crate) namespaces: u64,
    pub(crate) root: Layers,
    /// `None`: an empty home.
    pub(crate) home: Option<OwnedFd>,
    pub(crate) home_path: Vec<u8>,
    /// The directory that is emptied but for the home; `None` if there is nothing to hide.
    pub(crate) covered: Option<Vec<u8>>,
    /// Parts of a root that is the host's own, each to lie below a layer for changes; `None` for a jail.
    pub(crate) host_parts: Option<Vec<Attachment>>,
    pub(crate) binds: Vec<Attachment>,
    /// Parts of the jail that the scratch space would hide.
    pub(crate) brought: Vec<Attachment>,
    /// A directory to make in the scratch space, if it is missing.
    pub(crate) start: Option<Vec<u8>>,
    /// The host's device nodes, where they cannot be made.
    pub(crate) devices: Vec<(&'static str, OwnedFd)>,
    pub(crate) files: Vec<OwnFile>,
    /// Locks that keep the generation of the base that this is made from, and a layer on disk, from being removed.
    pub(crate) holds: Vec<OwnedFd>,
    pub(crate) tmp: Size,
    pub(crate) execution: Execution,
    pub(crate) hostname: CString,
    pub(crate) own_network: bool,
    /// The network that the first process joins, if it has a way out.
    pub(crate) way_out: Option<WayOut>,
    pub(crate) tty_group: Option<u32>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) privilege: Privilege,
    /// `None` where the host has no /dev/log, and for a caller who is his own administrator.
    pub(crate) log: Option<HostLog>,
}

/// The devices that every program expects.
pub(crate) const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

impl Blueprint {
    /// Takes copies of the mounts and settles what is built from them.
    ///
    /// # Errors
    /// If the kernel will not copy a mount, or a directory that the policy binds is not there.
    pub(crate) fn draw(
        admission: &Admission,
        start: Option<&[u8]>,
        privilege: Privilege,
        own: &[OwnFile],
        groups: &Groups,
    ) -> Result<Self> {
        let policy = &admission.policy;
        let host_parts =
            admission.host_root.as_ref().map(|parts| host_parts(admission, parts)).transpose()?;
        let mut holds: Vec<OwnedFd> = hold_base(admission)?.into_iter().collect();
        // An overlay shows nothing of what is mounted below its lower directory, which much of a host's root is.
        let changes = match policy.root {
            Root::Discard if host_parts.is_none() => changes(admission, privilege, &mut holds)?,
            _ => Changes::InPlace,
        };
        let root = Layers { lowers: copy_layers(admission)?, changes, privilege };
        let execution = Execution::under(policy);
        let home = match &admission.home_source {
            HomeSource::Jail(fd) | HomeSource::Host(fd) => Some(copy_home(fd, execution)?),
            HomeSource::Empty => None,
        };
        let own_network = matches!(policy.network, Network::None | Network::Private);
        // The cgroup namespace comes later, when the first process is in the group that shall be its root.
        let mut namespaces = namespaces::MOUNT | namespaces::PID | namespaces::IPC | namespaces::UTS;
        let way_out = match policy.network {
            Network::Private => {
                let Account { uid, gid, .. } = admission.account;
                Some(WayOut::make(privilege, uid, gid, groups)?)
            }
            _ => None,
        };
        if own_network && way_out.is_none() {
            namespaces |= namespaces::NET;
        }
        Ok(Self {
            namespaces,
            root,
            home,
            home_path: admission.home.clone(),
            covered: match admission.home_source {
                HomeSource::Empty => None,
                _ => covered(&admission.home, policy.home),
            },
            host_parts,
            binds: binds(admission, privilege)?,
            brought: brought(admission)?,
            start: start.filter(|path| is_on_scratch(path)).map(<[u8]>::to_vec),
            devices: match privilege {
                Privilege::Root => Vec::new(),
                Privilege::UserNamespace => host_devices()?,
            },
            files: own.to_vec(),
            holds,
            tmp: policy.tmp,
            execution,
            hostname: CString::new(policy.hostname.as_bytes())
                .or_refuse(What::Policy, || "use the hostname of the policy".into())?,
            own_network,
            way_out,
            tty_group: admission.tty_group,
            uid: admission.account.uid,
            gid: admission.account.gid,
            privilege,
            log: match privilege {
                Privilege::Root => HostLog::find(&admission.account.name, &admission.jail.name),
                Privilege::UserNamespace => None,
            },
        })
    }
}

/// The directories of the root as layers: the jail's own, and below it the base that it shares with others.
fn copy_layers(admission: &Admission) -> Result<Vec<OwnedFd>> {
    let jail = &admission.jail;
    let mut layers = Vec::new();
    for directory in jail.layers() {
        let layer = copy(directory.as_fd(), Below::Included)
            .or_refuse(What::Host, || format!("copy the mount of '{}'", jail.path.display()))?;
        let mut set = attributes::NO_SUID | attributes::NO_DEV;
        if admission.policy.root != Root::Writable || jail.base.is_some() {
            set |= attributes::READ_ONLY;
        }
        set_attributes(layer.as_fd(), set, 0, Reach::Recursive)
            .or_refuse(What::Host, || "make the root of the cell read-only, nosuid and nodev".into())?;
        layers.push(layer);
    }
    Ok(layers)
}

fn host_parts(admission: &Admission, paths: &[Vec<u8>]) -> Result<Vec<Attachment>> {
    let part = |path: &Vec<u8>| {
        let doing = || format!("copy the mount of '{}'", printable(path));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = path.strip_prefix(b"/").unwrap_or(path);
        let fd = openat2(&admission.jail.directory, below, flags, Mode::empty(), crate::admission::BELOW)
            .or_refuse(What::Host, doing)?;
        let tree = copy(fd.as_fd(), Below::Included).or_refuse(What::Host, doing)?;
        Ok(Attachment { tree, target: path.clone(), kind: Kind::Directory })
    };
    paths.iter().map(part).collect()
}

fn hold_base(admission: &Admission) -> Result<Option<OwnedFd>> {
    let hold = admission.jail.base.as_ref().map(|base| base.hold.try_clone());
    hold.transpose().or_refuse(What::Host, || "hold the base".into())
}

/// Where the changes to a root go that are thrown away.
fn changes(admission: &Admission, privilege: Privilege, holds: &mut Vec<OwnedFd>) -> Result<Changes> {
    match (admission.policy.discard, privilege) {
        (Discard::Memory, _) => Ok(Changes::OnScratch),
        (Discard::Disk, Privilege::Root) => {
            if discard::sweep(discard::SWEEP_AT_MOST).is_err() {
                // Whatever is in the way there is in nobody's way here.
            }
            let layer = discard::Layer::make(admission.account.uid)?;
            holds.push(layer.hold);
            Ok(Changes::OnDisk(layer.tree))
        }
        (Discard::Disk, Privilege::UserNamespace) => Err(Refusal::new(
            What::Policy,
            format!(
                "discard = \"disk\" (from {}) needs root, who removes the layer; use \"memory\", whose size is `tmp`",
                admission.policy.origin("discard")
            ),
        )),
    }
}

/// The parent of the home, unless that is the root.
fn covered(home: &[u8], homes: Home) -> Option<Vec<u8>> {
    let last = home.iter().rposition(|b| *b == b'/')?;
    let parent = home.get(..last)?;
    (homes == Home::Own && !parent.is_empty()).then(|| parent.to_vec())
}

fn copy_home(fd: &OwnedFd, execution: Execution) -> Result<OwnedFd> {
    let home =
        copy(fd.as_fd(), Below::Included).or_refuse(What::Host, || "copy the mount of the home".into())?;
    let set = attributes::NO_SUID | attributes::NO_DEV | execution.attributes();
    set_attributes(home.as_fd(), set, 0, Reach::Recursive)
        .or_refuse(What::Host, || "make the home nosuid and nodev".into())?;
    Ok(home)
}

/// A link on the way to what is bound may be one that the jailed user put there. Who runs jail-run without root names
/// paths of his own.
fn links(privilege: Privilege) -> ResolveFlags {
    match privilege {
        Privilege::Root => ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS,
        Privilege::UserNamespace => ResolveFlags::NO_MAGICLINKS,
    }
}

fn binds(admission: &Admission, privilege: Privilege) -> Result<Vec<Attachment>> {
    let mut binds = Vec::new();
    for bind in &admission.policy.bind {
        let doing = || format!("bind '{}' of the host", printable(bind.from.0.as_bytes()));
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat2(rustix::fs::CWD, bind.from.0.as_str(), flags, Mode::empty(), links(privilege))
            .map_err(|errno| match errno {
                Errno::LOOP => Refusal::new(
                    What::Policy,
                    format!("cannot {}: a part of it is a symbolic link, name its real path", doing()),
                ),
                errno => Refusal::new(What::Policy, format!("cannot {}: {errno}", doing())),
            })?;
        let stat = rustix::fs::fstat(&fd).or_refuse(What::Policy, doing)?;
        let kind = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::Directory => Kind::Directory,
            _ => Kind::File,
        };
        let tree = copy(fd.as_fd(), Below::Included).or_refuse(What::Host, doing)?;
        let mut set =
            attributes::NO_SUID | attributes::NO_DEV | Execution::under(&admission.policy).attributes();
        if bind.read_only {
            set |= attributes::READ_ONLY;
        }
        set_attributes(tree.as_fd(), set, 0, Reach::Recursive).or_refuse(What::Host, doing)?;
        binds.push(Attachment { tree, target: bind.to.0.clone().into_bytes(), kind });
    }
    Ok(binds)
}

/// Whether the cell's own file system is mounted above a path.
fn is_on_scratch(path: &[u8]) -> bool {
    [&b"/tmp/"[..], b"/var/tmp/", b"/run/"].iter().any(|top| path.starts_with(top))
}

fn brought(admission: &Admission) -> Result<Vec<Attachment>> {
    let mut brought = Vec::new();
    for path in admission.brought.iter().filter(|path| is_on_scratch(path)) {
        let doing = || format!("bring in '{}'", printable(path));
        let below = path.get(1..).unwrap_or_default();
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let fd =
            openat2(&admission.jail.directory, below, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
                .or_refuse(What::Jail, doing)?;
        let stat = rustix::fs::fstat(&fd).or_refuse(What::Jail, doing)?;
        let kind = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::Directory => Kind::Directory,
            _ => Kind::File,
        };
        let tree = copy(fd.as_fd(), Below::Left).or_refuse(What::Host, doing)?;
        let set = attributes::NO_SUID | attributes::NO_DEV | attributes::READ_ONLY;
        set_attributes(tree.as_fd(), set, 0, Reach::Single).or_refuse(What::Host, doing)?;
        brought.push(Attachment { tree, target: path.clone(), kind });
    }
    Ok(brought)
}

fn host_devices() -> Result<Vec<(&'static str, OwnedFd)>> {
    let mut devices = Vec::new();
    for (name, _, _) in DEVICES {
        let path = format!("/dev/{name}");
        let doing = || format!("bring in '{path}'");
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty()).or_refuse(What::Host, doing)?;
        devices.push((name, copy(fd.as_fd(), Below::Left).or_refuse(What::Host, doing)?));
    }
    Ok(devices)
}

/// Whether what is mounted below is copied too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Below {
    Included,
    Left,
}

/// A detached copy of the mount that `fd` lies on, rooted at `fd`.
pub(crate) fn copy(fd: BorrowedFd<'_>, below: Below) -> std::result::Result<OwnedFd, Errno> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if below == Below::Included {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(fd, "", flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_parent_of_the_home_is_covered() {
        assert_eq!(covered(b"/home/dave", Home::Own), Some(b"/home".to_vec()));
        assert_eq!(covered(b"/home/a/dave", Home::Own), Some(b"/home/a".to_vec()));
        assert_eq!(covered(b"/dave", Home::Own), None);
        assert_eq!(covered(b"/home/dave", Home::All), None);
    }
}
