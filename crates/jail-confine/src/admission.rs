//! The second stage: who comes in, into which jail, under which policy. The last lookup of any name.
//!
//! Everything is decided here and held by descriptor: after this stage nothing of the host is opened by name, so
//! nothing that a jailed user could plant (an nsswitch.conf, a library, a locale) is ever read with privilege
//! (CVE-2019-14271, CVE-2025-32463).

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jail_accounts::convention::{jail_name, split_home};
use jail_accounts::{group, passwd, placement};
use rustix::fs::{Mode, OFlags, ResolveFlags, Stat, fstat, openat2};
use rustix::io::Errno;

use crate::base::{self, Base};
use crate::chroot;
use crate::directory;
use crate::filter;
use crate::invocation::{Invocation, variable};
use crate::policy::file::{BadFile, CarriedFile, EntryFile, PolicyFile};
use crate::policy::{Policy, Subject, account_layers, merge};
use crate::refusal::{OrRefuse, Refusal, Result, What, printable};
use crate::trusted::{self, Top, Trust, Untrusted};

/// The administrator's policy.
pub const POLICY_FILE: &str = "/etc/jailwright/jail-sh.toml";
/// What jail-user carried over from jailkit's files; the administrator's policy comes before it.
pub const CARRIED_FILE: &str = "/etc/jailwright/from-jailkit.toml";
/// Where jail-user writes down who is in which jail while passwd's home stays as it is.
pub const PLACEMENT_FILE: &str = "/etc/jailwright/accounts";
/// What jail-init knows of each jail.
pub const STATE_DIRECTORY: &str = "/var/lib/jailwright";
/// No file that we read whole is longer than this: it would not be one of ours.
const LONGEST_FILE: usize = 64 << 20;

/// Who enters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The name that this login uses.
    pub name: Vec<u8>,
    /// The uid the session gets.
    pub uid: u32,
    /// The gid the session gets.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
}

/// The jail, held by descriptor.
#[derive(Debug)]
pub struct Jail {
    /// Its canonical path on the host.
    pub path: PathBuf,
    /// Its name, the escaped path.
    pub name: String,
    /// The directory itself (`O_PATH`); every component above it has been checked.
    pub directory: OwnedFd,
    /// Its device and inode.
    pub identity: (u64, u64),
    /// What its own files lie over, if it shares a base with other jails.
    pub base: Option<Base>,
}

impl Jail {
    /// The directories that make up its root, the uppermost first.
    pub fn layers(&self) -> impl Iterator<Item = &OwnedFd> {
        std::iter::once(&self.directory).chain(self.base.as_ref().map(|base| &base.directory))
    }

    /// The same jail by descriptors of the mount namespace that this process is in now: those of one that was left cannot
    /// be mounted from.
    ///
    /// # Errors
    /// If it is not the same any more.
    pub fn reopen(&self) -> Result<Self> {
        let directory = reopen(&self.path, self.identity)?;
        let base = self.base.as_ref().map(Base::reopen).transpose()?;
        Ok(Self {
            path: self.path.clone(),
            name: self.name.clone(),
            directory,
            identity: self.identity,
            base,
        })
    }
}

/// Opens a directory again by its path, if it is the same.
pub(crate) fn reopen(path: &Path, known: (u64, u64)) -> Result<OwnedFd> {
    let doing = || format!("open '{}' again", path.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).or_refuse(What::Jail, doing)?;
    if identity(&fstat(&directory).or_refuse(What::Jail, doing)?) != known {
        return Err(Refusal::new(What::Jail, format!("'{}' was replaced meanwhile", path.display())));
    }
    Ok(directory)
}

/// Where the home comes from.
#[derive(Debug)]
pub enum HomeSource {
    /// A directory of the jail (`O_PATH`).
    Jail(OwnedFd),
    /// A directory of the host that the cell mounts (`O_PATH`).
    Host(OwnedFd),
    /// An empty one that is gone with the cell, always at [`EMPTY_HOME`].
    Empty,
}

/// Where an empty home is: on the scratch space, so that no directory of the jail has to be covered for it.
pub const EMPTY_HOME: &str = "/run/home";

/// Whether a jail's passwd has a line of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    /// By name and uid.
    Known,
    /// Then the cell shows account files of its own.
    Unknown,
}

/// Account files of the cell's own, shown instead of the jail's.
#[derive(Debug)]
pub struct AccountFiles {
    /// For /etc/passwd.
    pub passwd: Vec<u8>,
    /// For /etc/group.
    pub group: Vec<u8>,
}

/// Everything an entry needs to know.
#[derive(Debug)]
pub struct Admission {
    /// Who enters.
    pub account: Account,
    /// Where.
    pub jail: Jail,
    /// The home as seen inside: absolute, plain.
    pub home: Vec<u8>,
    /// What is mounted there.
    pub home_source: HomeSource,
    /// What the session may do.
    pub policy: Policy,
    /// The shell inside.
    pub shell: Vec<u8>,
    /// Paths of the jail that have to be seen even below a directory that the cell brings itself, such as /tmp.
    pub brought: Vec<Vec<u8>>,
    /// For a root that is the host's own, to learn from: the directories of it whose changes go to a layer that ends with
    /// the cell. Everything else of it is read-only.
    pub host_root: Option<Vec<Vec<u8>>>,
    /// The seccomp profile, if the policy names a file.
    pub profile: Option<Vec<u8>>,
    /// Whether the jail's own passwd has the account.
    pub inside: Inside,
    /// `None`: the jail's own are seen.
    pub account_files: Option<AccountFiles>,
    /// The gid that terminals belong to, if the host has a group `tty`.
    pub tty_group: Option<u32>,
    /// Lines for the log: things that are allowed but worth knowing.
    pub notes: Vec<String>,
    /// Whether the account's uid has one home in this jail.
    pub homes: Homes,
}

impl Admission {
    /// Of a tool, which decides itself: an empty home, /bin/sh, and account files of the cell's own.
    #[must_use]
    pub fn of_a_tool(account: Account, jail: Jail, policy: Policy, account_files: AccountFiles) -> Self {
        Self {
            account,
            jail,
            home: EMPTY_HOME.as_bytes().to_vec(),
            home_source: HomeSource::Empty,
            policy,
            shell: b"/bin/sh".to_vec(),
            brought: Vec::new(),
            host_root: None,
            profile: None,
            inside: Inside::Unknown,
            account_files: Some(account_files),
            tty_group: None,
            notes: Vec::new(),
            homes: Homes::One,
        }
    }
}

/// The homes in one jail of the names that share a uid. A cell shows one home, so it decides what a cell is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Homes {
    /// One, whatever number of names.
    One,
    /// Several, as hosting panels give a site's user and the shell users beside it.
    Several,
}

/// Decides whether, where and how the caller comes in.
///
/// # Errors
/// The first reason against it.
// Its frame must be gone while the waiter waits: see release_unused_stack.
#[inline(never)]
pub fn decide(invocation: &Invocation) -> Result<Admission> {
    let of_host = |why: Untrusted| Refusal::new(What::Host, why.to_string());
    let root = Top::root(Trust::Root).map_err(of_host)?;
    let etc = root.below(Path::new("etc")).map_err(of_host)?;
    let mut passwd = read_root_file(&etc, "passwd")?;
    if passwd::by_uid(&passwd, invocation.uid).next().is_none() {
        passwd = from_directory(&passwd, invocation.uid)?;
    }
    let groups = read_root_file(&etc, "group")?;
    let file = read_policy(&etc)?;
    let names = names_of(&passwd, invocation);
    let Some(chosen) = names.first() else {
        return Err(Refusal::new(
            What::Account,
            format!(
                "uid {} has no account with jail-sh as its shell in /etc/passwd or the host's directory; \
                 jail-user -j JAIL USER sets one up",
                invocation.uid
            ),
        ));
    };
    let host = Host { root: &root, etc: &etc, groups: &groups, policy: &file };
    let mut admitted = admit_name(chosen, host, invocation)?;
    for other in names.iter().skip(1) {
        let also = admit_name(other, host, invocation)?;
        same_jail_and_policy(&admitted, &also, chosen, other)?;
        if also.home != admitted.home {
            admitted.homes = Homes::Several;
        }
    }
    Ok(admitted)
}

/// What every account is judged by.
#[derive(Debug, Clone, Copy)]
struct Host<'a> {
    root: &'a Top,
    etc: &'a Top,
    /// /etc/group.
    groups: &'a [u8],
    policy: &'a PolicyFile,
}

/// The line of an account that is not in /etc/passwd. What a directory says is believed for the uid that was asked for
/// only, and never for a name that the host has of its own: policy and log go by names.
fn from_directory(local: &[u8], uid: u32) -> Result<Vec<u8>> {
    let answer = directory::ask("passwd", &[uid.to_string().into_bytes()])?;
    let refuse = |why: String| Err(Refusal::new(What::Account, why));
    for entry in passwd::entries(&answer) {
        if entry.uid != uid {
            return refuse(format!(
                "the host's directory was asked for uid {uid} and answered with uid {}",
                entry.uid
            ));
        }
        if let Some(own) = passwd::by_name(local, entry.name) {
            return refuse(format!(
                "the host's directory calls uid {uid} '{}', a name that /etc/passwd has for uid {}",
                printable(entry.name),
                own.uid
            ));
        }
    }
    Ok(answer)
}

/// The accounts of the caller's uid that have jail-sh as shell; the one whose name the login gave comes first.
///
/// The names in the environment are the caller's word, so they choose among his own accounts only (and a jail and
/// policy that differ between these are refused).
fn names_of<'a>(file: &'a [u8], invocation: &Invocation) -> Vec<passwd::Entry<'a>> {
    let is_ours = |entry: &passwd::Entry<'_>| match entry.shell.rsplit(|b| *b == b'/').next() {
        Some(b"jail-sh") => true,
        // `make install-compat` gives us jailkit's name. Where it is jailkit's own program, the account is jailkit's.
        Some(b"jk_chrootsh") => is_this_program(entry.shell),
        _ => false,
    };
    let mut names: Vec<_> = passwd::by_uid(file, invocation.uid).filter(is_ours).collect();
    let login = ["LOGNAME", "USER"].into_iter().filter_map(|name| variable(&invocation.environment, name));
    let login: Vec<&OsStr> = login.collect();
    names.sort_by_key(|entry| !login.iter().any(|name| name.as_bytes() == entry.name));
    names
}

/// Whether a path leads to the very file that runs. Both are names of the host's, resolved before any root is changed.
fn is_this_program(path: &[u8]) -> bool {
    let (Ok(there), Ok(own)) = (rustix::fs::stat(path), rustix::fs::stat("/proc/self/exe")) else {
        return false;
    };
    (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)
}

fn admit_name(entry: &passwd::Entry<'_>, host: Host<'_>, invocation: &Invocation) -> Result<Admission> {
    let account = Account {
        name: entry.name.to_vec(),
        uid: invocation.uid,
        gid: entry.gid,
        groups: invocation.groups.clone(),
    };
    if entry.gid == 0 {
        return Err(Refusal::new(
            What::Account,
            format!("the primary group of '{}' is root's; give it one of its own", printable(entry.name)),
        ));
    }
    // The policy may speak of any group; the session is only in those that give no way to root.
    let named = name_groups(host.groups, &account, host.policy)?;
    let group_names: Vec<Vec<u8>> = named.iter().map(|(_, name)| name.clone()).collect();
    let mut account = account;
    account.groups.retain(|gid| !is_root_in_disguise(host.groups, *gid));
    let account = account;
    let subject = Subject { user: &account.name, groups: &group_names };
    let place = place_of(entry.home, host, subject)?;
    let mut admission = admit(account, &group_names, host, &place)?;
    if let Inside::Unknown = admission.inside {
        admission.account_files = Some(account_files(&admission, entry.gecos, &named));
    }
    Ok(admission)
}

/// passwd and group for a cell whose jail does not know the account: just root, the user and nobody.
fn account_files(admission: &Admission, gecos: &[u8], named: &[(u32, Vec<u8>)]) -> AccountFiles {
    let account = &admission.account;
    let (uid, gid) = (account.uid.to_string(), account.gid.to_string());
    let shell = admission.shell.as_slice();
    let user =
        [&account.name, b"x".as_slice(), uid.as_bytes(), gid.as_bytes(), gecos, &admission.home, shell];
    let nobody = b"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
    let passwd = [b"root:x:0:0:root:/root:/usr/sbin/nologin\n".as_slice(), &user.join(&b':'), b"\n", nobody];
    let mut group = b"root:x:0:\n".to_vec();
    for (gid, name) in named.iter().filter(|(gid, _)| *gid == account.gid || account.groups.contains(gid)) {
        let member = if *gid == account.gid { b"".as_slice() } else { &account.name };
        group.extend_from_slice(&[name.as_slice(), b"x", gid.to_string().as_bytes(), member].join(&b':'));
        group.push(b'\n');
    }
    group.extend_from_slice(b"nogroup:x:65534:\n");
    AccountFiles { passwd: passwd.concat(), group }
}

/// Which jail an account goes to, and where its home is in there.
struct Place {
    jail: Vec<u8>,
    inner_home: Vec<u8>,
    /// The home on the host, for accounts that the policy (not passwd) puts into a jail.
    host_home: Option<Vec<u8>>,
}

fn place_of(home: &[u8], host: Host<'_>, subject: Subject<'_>) -> Result<Place> {
    if let Some(split) = split_home(home) {
        return Ok(Place { jail: split.jail.to_vec(), inner_home: split.inner.to_vec(), host_home: None });
    }
    let layers = account_layers(host.policy, subject).map_err(|why| Refusal::new(What::Policy, why))?;
    let mut jail = None;
    let mut inner = None;
    for (_, layer) in layers {
        jail = layer.jail.as_ref().or(jail);
        inner = layer.home_path.as_ref().or(inner);
    }
    if let Some(jail) = jail {
        return Ok(Place {
            jail: jail.0.clone().into_bytes(),
            inner_home: inner.map_or_else(|| home.to_vec(), |path| path.0.clone().into_bytes()),
            host_home: Some(home.to_vec()),
        });
    }
    // Read only where passwd and the policy are silent.
    let placements = read_of_etc(host.etc, PLACEMENT_FILE)?.unwrap_or_default();
    match placement::by_name(&placements, subject.user) {
        Some(placed) => Ok(Place {
            jail: placed.jail.to_vec(),
            inner_home: inner.map_or_else(|| placed.home.to_vec(), |path| path.0.clone().into_bytes()),
            host_home: Some(home.to_vec()),
        }),
        None => Err(Refusal::new(
            What::Account,
            format!(
                "the home '{}' of '{}' has no '/./' that names a jail, and neither the policy nor '{PLACEMENT_FILE}' \
                 has a jail for the user; jail-user -j JAIL {} sets it",
                printable(home),
                printable(subject.user),
                printable(subject.user)
            ),
        )),
    }
}

fn admit(account: Account, group_names: &[Vec<u8>], host: Host<'_>, place: &Place) -> Result<Admission> {
    let mut jail = open_jail_from(host.root, Path::new(OsStr::from_bytes(&place.jail)))?;
    let mut notes = Vec::new();
    let entry =
        read_entry_file_from(host.root, &mut jail, Path::new(STATE_DIRECTORY), Trust::Root, &mut notes)?;
    let subject = Subject { user: &account.name, groups: group_names };
    let sections = entry.as_ref().map(|entry| &entry.entry);
    let mut policy = merge(host.policy, sections, jail.path.as_os_str().as_bytes(), subject)
        .map_err(|why| Refusal::new(What::Policy, format!("{POLICY_FILE}: {why}")))?;
    chroot::settle(&mut policy, &mut notes);
    let home = plain_home(&place.inner_home, &policy)?;
    let home_source = match &place.host_home {
        None => HomeSource::Jail(open_home(&jail, &home, &account)?),
        Some(path) => HomeSource::Host(open_host_home(path, &account)?),
    };
    let jail_passwd = read_jail_passwd(&jail)?;
    let inside = passwd::by_name(&jail_passwd, &account.name).filter(|entry| entry.uid == account.uid);
    let shell = shell_of(&jail, inside.as_ref(), &policy);
    let inside = if inside.is_some() { Inside::Known } else { Inside::Unknown };
    let profile = filter::read_profile(&policy, Trust::Root)?;
    let tty_group = group::by_name(host.groups, b"tty").map(|entry| entry.gid);
    Ok(Admission {
        account,
        jail,
        home,
        home_source,
        policy,
        shell,
        brought: Vec::new(),
        host_root: None,
        profile,
        inside,
        account_files: None,
        tty_group,
        notes,
        homes: Homes::One,
    })
}

/// Two names of one uid must lead to the same jail under the same policy, or the caller could choose by setting USER. Their
/// homes may differ: whoever has the uid owns both.
fn same_jail_and_policy(
    a: &Admission,
    b: &Admission,
    first: &passwd::Entry<'_>,
    second: &passwd::Entry<'_>,
) -> Result<()> {
    let values = |admission: &Admission| {
        admission.policy.rows().into_iter().map(|(key, value, _)| (key, value)).collect::<Vec<_>>()
    };
    if a.jail.identity == b.jail.identity && values(a) == values(b) && a.shell == b.shell {
        return Ok(());
    }
    Err(Refusal::new(
        What::Account,
        format!(
            "'{}' and '{}' share uid {} but differ in jail, shell or policy; make them alike or give them \
             uids of their own",
            printable(first.name),
            printable(second.name),
            a.account.uid
        ),
    ))
}

/// Opens a jail with everything above it checked.
///
/// # Errors
/// A path that others could change, or that is no directory.
pub fn open_jail(path: &Path, trust: Trust) -> Result<Jail> {
    let root = Top::root(trust).map_err(|why| Refusal::new(What::Host, why.to_string()))?;
    open_jail_from(&root, path)
}

fn open_jail_from(root: &Top, path: &Path) -> Result<Jail> {
    if path == Path::new("/") {
        return Err(Refusal::new(What::Jail, "the jail is '/', which holds nobody"));
    }
    if !path.is_absolute() {
        return Err(Refusal::new(What::Jail, format!("the jail '{}' is no absolute path", path.display())));
    }
    let (directory, stat) = root
        .open_directory(path)
        .map_err(|why| Refusal::new(What::Jail, format!("jail '{}': {why}", path.display())))?;
    // Components are checked one by one, so joining them again gives the canonical path.
    let path: PathBuf = path.components().collect();
    let name = jail_name(path.as_os_str().as_bytes());
    Ok(Jail { path, name, directory, identity: identity(&stat), base: None })
}

/// Device and inode.
#[must_use]
pub const fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// An inner home must be a plain absolute path below the root.
fn plain_home(inner: &[u8], policy: &Policy) -> Result<Vec<u8>> {
    let parts: Vec<&[u8]> = inner.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".").collect();
    if parts.contains(&&b".."[..]) || !inner.starts_with(b"/") {
        return Err(Refusal::new(
            What::Home,
            format!("the home '{}' inside the jail is no plain absolute path", printable(inner)),
        ));
    }
    if parts.is_empty() && policy.root == crate::policy::values::Root::ReadOnly {
        return Err(Refusal::new(
            What::Home,
            "the home inside the jail is '/', which is read-only; set root = \"writable\" or \"discard\", \
             or give the account a home of its own",
        ));
    }
    Ok([b"/".as_slice(), &parts.join(&b'/')].concat())
}

/// Resolution below a jail: links stay inside, and none is followed where the user could plant one.
pub(crate) const BELOW: ResolveFlags =
    ResolveFlags::IN_ROOT.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

fn open_home(jail: &Jail, home: &[u8], account: &Account) -> Result<OwnedFd> {
    let whole = || format!("'{}{}'", jail.path.display(), printable(home));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat2(&jail.directory, home, flags, Mode::empty(), BELOW).map_err(|errno| {
        let hint = match errno {
            Errno::LOOP => "; a part of it is a symbolic link, which is not followed",
            Errno::NOENT => "; jail-user makes it",
            _ => "",
        };
        Refusal::new(What::Home, format!("cannot open the home {}: {errno}{hint}", whole()))
    })?;
    check_home_owner(&fd, &[account.uid, 0], &whole())?;
    Ok(fd)
}

fn open_host_home(path: &[u8], account: &Account) -> Result<OwnedFd> {
    let path = Path::new(OsStr::from_bytes(path));
    let (parent, name) = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => (parent, name),
        _ => {
            return Err(Refusal::new(
                What::Home,
                format!("the home '{}' is no directory below /", path.display()),
            ));
        }
    };
    let (parent, _) = trusted::open_directory(parent, Trust::Root)
        .map_err(|why| Refusal::new(What::Home, format!("home '{}': {why}", path.display())))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat2(&parent, name, flags, Mode::empty(), BELOW)
        .or_refuse(What::Home, || format!("open the home '{}'", path.display()))?;
    // Whoever can change an account in a directory could else have any directory of the host's brought into the jail.
    check_home_owner(&fd, &[account.uid], &format!("'{}'", path.display()))?;
    Ok(fd)
}

fn check_home_owner(fd: &OwnedFd, owners: &[u32], shown: &str) -> Result<()> {
    let stat = fstat(fd.as_fd()).or_refuse(What::Home, || format!("stat the home {shown}"))?;
    if !owners.contains(&stat.st_uid) {
        let wanted: Vec<String> = owners.iter().map(|uid| format!("uid {uid}")).collect();
        return Err(Refusal::new(
            What::Home,
            format!("the home {shown} belongs to uid {}, not to {}", stat.st_uid, wanted.join(" or ")),
        ));
    }
    if stat.st_mode & 0o002 != 0 {
        return Err(Refusal::new(
            What::Home,
            format!(
                "the home {shown} can be written by everybody (mode {:04o}); chmod o-w it",
                stat.st_mode & 0o7777
            ),
        ));
    }
    Ok(())
}

fn read_jail_passwd(jail: &Jail) -> Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match openat2(&jail.directory, "etc/passwd", flags, Mode::empty(), BELOW) {
        Ok(fd) => read_all(&fd).or_refuse(What::Jail, || "read the jail's etc/passwd".into()),
        Err(Errno::NOENT) => Ok(Vec::new()),
        Err(errno) => Err(Refusal::new(What::Jail, format!("cannot open the jail's etc/passwd: {errno}"))),
    }
}

/// The shell: what the policy says, else what the jail's own passwd says, else bash where the jail has it.
fn shell_of(jail: &Jail, inside: Option<&passwd::Entry<'_>>, policy: &Policy) -> Vec<u8> {
    if let Some(shell) = &policy.shell {
        return shell.0.clone().into_bytes();
    }
    let usable = |shell: &[u8]| shell.starts_with(b"/") && !shell.ends_with(b"/jail-sh");
    if let Some(entry) = inside.filter(|entry| usable(entry.shell)) {
        return entry.shell.to_vec();
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let has_bash = |layer: &OwnedFd| {
        openat2(layer, "bin/bash", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).is_ok()
    };
    if jail.layers().any(has_bash) { b"/bin/bash".to_vec() } else { b"/bin/sh".to_vec() }
}

/// Groups whose members own the host by another way: block devices, password hashes, container engines, other
/// people's sessions. A jailed session has no use for them.
#[must_use]
pub fn is_root_in_disguise(groups: &[u8], gid: u32) -> bool {
    const NAMES: [&[u8]; 15] = [
        b"root",
        b"disk",
        b"shadow",
        b"sudo",
        b"wheel",
        b"adm",
        b"docker",
        b"lxd",
        b"incus-admin",
        b"libvirt",
        b"kvm",
        b"kmem",
        b"systemd-journal",
        b"input",
        b"tty",
    ];
    gid == 0 || group::by_gid(groups, gid).is_some_and(|entry| NAMES.contains(&entry.name))
}

/// The account's groups by number and name. Those that only the host's directory knows are asked for where somebody
/// will read their names: the policy's `[group]` tables, or the cell's own group file.
fn name_groups(groups: &[u8], account: &Account, file: &PolicyFile) -> Result<Vec<(u32, Vec<u8>)>> {
    let known = |file: &[u8]| -> Vec<(u32, Vec<u8>)> {
        group::entries(file)
            .filter(|entry| entry.gid == account.gid || account.groups.contains(&entry.gid))
            .map(|entry| (entry.gid, entry.name.to_vec()))
            .collect()
    };
    let mut named = known(groups);
    let mut nameless: Vec<Vec<u8>> = account
        .groups
        .iter()
        .chain([&account.gid])
        .filter(|gid| !named.iter().any(|(known, _)| known == *gid))
        .map(|gid| gid.to_string().into_bytes())
        .collect();
    nameless.sort_unstable();
    nameless.dedup();
    if nameless.is_empty() || file.group.is_empty() {
        return Ok(named);
    }
    let answer = known(&directory::ask("group", &nameless)?);
    refuse_nameless(groups, &nameless, &answer, file)?;
    // A group that the host has of its own keeps its number: the policy means that one.
    named.extend(answer.into_iter().filter(|(_, name)| group::by_name(groups, name).is_none()));
    Ok(named)
}

/// A directory that is down, or has lost a group, says "no such group" as well. The policy may be stricter with that one,
/// so a group of the account that stays without a name is a refusal, unless the host itself has every group that the
/// policy speaks of.
fn refuse_nameless(
    groups: &[u8],
    asked: &[Vec<u8>],
    answer: &[(u32, Vec<u8>)],
    file: &PolicyFile,
) -> Result<()> {
    let Some(elsewhere) = file.group.keys().find(|name| group::by_name(groups, name.as_bytes()).is_none())
    else {
        return Ok(());
    };
    let is_named = |gid: &[u8]| answer.iter().any(|(known, _)| known.to_string().as_bytes() == gid);
    match asked.iter().find(|gid| !is_named(gid)) {
        None => Ok(()),
        Some(gid) => Err(Refusal::new(
            What::Account,
            format!(
                "group {} of the account has no name, so whether it is [group.{elsewhere}] cannot be told; is the \
                 directory service up? Else give the group a name (groupadd -g), or take that table out",
                printable(gid)
            ),
        )),
    }
}

/// The administrator's policy file, for tools that show or carry on what it says; without one, an empty policy.
///
/// # Errors
/// It cannot be trusted, read or understood.
pub fn policy_file() -> Result<PolicyFile> {
    let etc = Top::root(Trust::Root).and_then(|root| root.below(Path::new("etc")));
    read_policy(&etc.map_err(|why| Refusal::new(What::Host, why.to_string()))?)
}

fn read_policy(etc: &Top) -> Result<PolicyFile> {
    let bad = |why: BadFile| Refusal::new(What::Policy, why.to_string());
    let mut policy = match read_of_etc(etc, POLICY_FILE)? {
        Some(bytes) => PolicyFile::parse(&bytes, POLICY_FILE).map_err(bad)?,
        None => PolicyFile::default(),
    };
    if let Some(bytes) = read_of_etc(etc, CARRIED_FILE)? {
        policy.carried = CarriedFile::parse(&bytes, CARRIED_FILE).map_err(bad)?.user;
    }
    Ok(policy)
}

fn read_of_etc(etc: &Top, file: &str) -> Result<Option<Vec<u8>>> {
    match etc.open_file(Path::new(file.trim_start_matches("/etc/"))) {
        Ok((fd, stat)) => {
            read_sized(&fd, &stat).or_refuse(What::Policy, || format!("read '{file}'")).map(Some)
        }
        Err(why) if why.is_missing() => Ok(None),
        Err(why) => Err(Refusal::new(What::Policy, format!("policy: {why}"))),
    }
}

/// What the jail's sections ask for, as jail-init wrote it below `states`. Without it the built-in values hold, with a note.
/// The base that it names becomes part of the jail.
///
/// # Errors
/// If it speaks of another directory than this jail's, or names a base that is not there.
pub fn read_entry_file(
    jail: &mut Jail,
    states: &Path,
    trust: Trust,
    notes: &mut Vec<String>,
) -> Result<Option<EntryFile>> {
    let root = Top::root(trust).map_err(|why| Refusal::new(What::Host, why.to_string()))?;
    read_entry_file_from(&root, jail, states, trust, notes)
}

fn read_entry_file_from(
    root: &Top,
    jail: &mut Jail,
    states: &Path,
    trust: Trust,
    notes: &mut Vec<String>,
) -> Result<Option<EntryFile>> {
    let path = states.join(&jail.name).join("entry.toml");
    let shown = path.display().to_string();
    let (fd, stat) = match root.open_file(&path) {
        Ok(opened) => opened,
        Err(why) => {
            notes
                .push(format!("{why}: built-in values hold; jail-init -j {} writes it", jail.path.display()));
            return Ok(None);
        }
    };
    let parsed = read_sized(&fd, &stat)
        .map_err(|errno| errno.to_string())
        .and_then(|bytes| EntryFile::parse(&bytes, &shown).map_err(|why| why.to_string()));
    let entry = match parsed {
        Ok(entry) => entry,
        Err(why) => {
            notes.push(format!(
                "{why}: built-in values hold; jail-init -j {} repairs it",
                jail.path.display()
            ));
            return Ok(None);
        }
    };
    if (entry.device, entry.inode) != jail.identity {
        return Err(Refusal::new(
            What::Jail,
            format!(
                "'{}' is not the directory that jail-init made (it was moved, or deleted and made again): \
                 run jail-init --moved-from OLD -j {}, or jail-init -j {} SECTION… to make it anew",
                jail.path.display(),
                jail.path.display(),
                jail.path.display()
            ),
        ));
    }
    if let Some(path) = &entry.base {
        jail.base = Some(base::open(Path::new(&path.0), states, trust)?);
    }
    Ok(Some(entry))
}

pub(crate) fn read_root_file(etc: &Top, name: &str) -> Result<Vec<u8>> {
    let (fd, stat) =
        etc.open_file(Path::new(name)).map_err(|why| Refusal::new(What::Host, why.to_string()))?;
    read_sized(&fd, &stat).or_refuse(What::Host, || format!("read '/etc/{name}'"))
}

/// Reads a file to its end, in few system calls.
pub(crate) fn read_all(fd: &OwnedFd) -> std::result::Result<Vec<u8>, Errno> {
    read_sized(fd, &fstat(fd)?)
}

/// As [`read_all`], for a file that has been looked at already.
pub(crate) fn read_sized(fd: &OwnedFd, stat: &Stat) -> std::result::Result<Vec<u8>, Errno> {
    let size = usize::try_from(stat.st_size).unwrap_or(0).min(LONGEST_FILE);
    let mut bytes = Vec::new();
    loop {
        let room = if bytes.is_empty() { size.saturating_add(1) } else { 64 << 10 };
        let start = bytes.len();
        bytes.resize(start.saturating_add(room), 0);
        let Some(space) = bytes.get_mut(start..) else { return Err(Errno::IO) };
        let read = rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut *space))?;
        bytes.truncate(start.saturating_add(read));
        if read == 0 {
            return Ok(bytes);
        }
        // A regular file that filled exactly its size is at its end.
        if start == 0 && read == size && size > 0 {
            return Ok(bytes);
        }
        if bytes.len() > LONGEST_FILE {
            return Err(Errno::FBIG);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inner_home_is_made_plain() {
        let policy = Policy::default();
        assert_eq!(plain_home(b"/home//./dave/", &policy).ok(), Some(b"/home/dave".to_vec()));
        assert!(plain_home(b"/home/../etc", &policy).is_err());
        assert!(plain_home(b"home", &policy).is_err());
        assert!(plain_home(b"/", &policy).is_err(), "a read-only root is no home");
    }
}
