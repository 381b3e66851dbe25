//! From flags to an entry.
//!
//! Rootless and as root the path is the same; only its first step differs: a user namespace, or a user to become.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Parser;
use jail_accounts::{group, passwd};
use jail_confine::admission::{
    Account, AccountFiles, Admission, EMPTY_HOME, Jail, POLICY_FILE, STATE_DIRECTORY, is_root_in_disguise,
    open_jail, read_entry_file,
};
use jail_confine::base::Base;
use jail_confine::cell::blueprint::Privilege;
use jail_confine::chroot;
use jail_confine::enter::{self, Bond, Entry, Program, REFUSED, Report};
use jail_confine::filter;
use jail_confine::invocation::{self, Terminal};
use jail_confine::log::Log;
use jail_confine::policy::file::{PolicyFile, SectionEntry};
use jail_confine::policy::values::{Isolation, Network, Session};
use jail_confine::policy::{Origin, Policy, Subject, account_layers};
use jail_confine::refusal::{OrRefuse, Refusal, Result, What};
use jail_confine::rootless;
use jail_confine::trusted::Trust;
use jail_provision::entry::{EntryNeeds, Network as NeededNetwork};
use jail_provision::profiles::Profiles;
use jail_provision::{ThrowawayJail, ThrowawayRequest, throwaway};

use crate::cli::Cli;
use crate::{launch, learn, vm};

/// The program; returns the exit status.
#[must_use]
pub fn main() -> i32 {
    // Before anything else is opened: what we inherit must not reach the cell.
    let ready = match launch::tidy_up() {
        Ok(ready) => ready,
        Err(refusal) => return enter::complain_as_tool(&refusal),
    };
    let cli = Cli::parse();
    match run(&cli, ready) {
        Ok(status) => status,
        Err(Stop::Refused(refusal)) => enter::complain_as_tool(&refusal),
        Err(Stop::Usage(sentence)) => {
            eprintln!(
                "jail-run: {sentence}\nusage: jail-run [-j JAIL | SECTION...] [--with PATH]... -- COMMAND..."
            );
            REFUSED
        }
        Err(Stop::Provision(error)) => {
            eprintln!("jail-run: {error}");
            REFUSED
        }
    }
}

/// Why no command was run.
pub(crate) enum Stop {
    Refused(Refusal),
    Usage(String),
    Provision(jail_provision::Error),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn run(cli: &Cli, ready: Option<OwnedFd>) -> std::result::Result<i32, Stop> {
    if let Some(name) = &cli.reset {
        return vm::reset(name);
    }
    if cli.command.is_empty() && !cli.explain {
        return Err(Stop::Usage("no command: write it behind --".to_owned()));
    }
    if let Some(section) = &cli.learn {
        return learn::run(cli, section);
    }
    if cli.jail.is_none() && cli.sections.is_empty() {
        return Err(Stop::Usage(
            "neither a jail (-j) nor a section to make one from (jail-init -l lists them)".into(),
        ));
    }
    let caller = Caller::find(cli)?;
    let mut place = Place::prepare(cli, &caller)?;
    let mut policy = merge_policy(cli, &caller, &place)?;
    let mut notes = Vec::new();
    chroot::settle(&mut policy, &mut notes);
    if cli.explain {
        print!("{}", jail_confine::explain::table(&policy));
        return Ok(0);
    }
    if policy.isolation == Isolation::Vm {
        return vm::run(cli, &caller, &place, &policy);
    }
    if cli.keep.is_some() {
        return Err(Stop::Usage("--keep goes with a virtual machine: say --vm as well".to_owned()));
    }
    if policy.isolation == Isolation::Chroot {
        chroot_must_be_of_use(cli, &caller, &policy)?;
        for note in &notes {
            eprintln!("jail-run: {note}");
        }
        if cli.chdir.is_none() {
            place.start = PathBuf::from(CHROOT_HOME);
        }
    }
    jail_vm::launch::wait_until_alone();
    let announcement = launch::prepare(cli, ready)?;
    let admission = admit(&caller, &mut place, policy)?;
    let mut environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let set = cli.policy.variables();
    environment.retain(|(name, _)| !set.iter().any(|(other, _)| other == name));
    let entry = Entry {
        privilege: caller.privilege,
        terminal: if cli.background { Terminal::None } else { Terminal::find() },
        directory: place.start.as_os_str().as_bytes().to_vec(),
        program: Program::Command(&cli.command),
        environment: &environment,
        set: &set,
        report: Report::Tool,
        announcement: announcement.as_ref(),
        bond: Bond::AsUsual,
        notebook: None,
    };
    invocation::block_signals()?;
    Ok(enter::enter(&admission, &entry, &Log::silent("jail-run"))?)
}

/// Where a command without a home of its own is at home when nothing is mounted for it: it cannot write there.
const CHROOT_HOME: &str = "/";

/// A chroot keeps nobody from changing modes and times of files that are his own, which those of an ordinary caller's jail
/// are, and those of a jail of the cache must never be.
fn chroot_must_be_of_use(cli: &Cli, caller: &Caller, policy: &Policy) -> Result<()> {
    let why = if caller.privilege == Privilege::UserNamespace {
        "is for root: an ordinary user needs a user namespace for it, and with one the other namespaces are there as well"
    } else if cli.jail.is_none() {
        "needs a jail that lasts (-j): one from the cache is shared by later runs"
    } else {
        return Ok(());
    };
    let origin = policy.origin("isolation");
    Err(Refusal::new(What::Policy, format!("isolation = \"chroot\" (from {origin}) {why}")))
}

/// Who calls, and who the command runs as.
pub(crate) struct Caller {
    pub(crate) account: Account,
    pub(crate) groups: Vec<Vec<u8>>,
    pub(crate) privilege: Privilege,
    pub(crate) trust: Trust,
}

impl Caller {
    pub(crate) fn find(cli: &Cli) -> std::result::Result<Self, Stop> {
        let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
        let groups = std::fs::read("/etc/group").unwrap_or_default();
        let uid = rustix::process::getuid().as_raw();
        if uid != 0 {
            if cli.user.is_some() {
                return Err(Stop::Usage("--user is for root; the command runs as you".to_owned()));
            }
            let gid = rustix::process::getgid().as_raw();
            let name =
                passwd::by_uid(&passwd, uid).next().map_or(b"user".to_vec(), |entry| entry.name.to_vec());
            return Ok(Self {
                account: Account { name, uid, gid, groups: Vec::new() },
                groups: Vec::new(),
                privilege: Privilege::UserNamespace,
                trust: Trust::RootOr(uid),
            });
        }
        let Some(user) = &cli.user else {
            return Err(Stop::Usage(
                "root must say whom the command runs as: --user NAME or --user UID:GID; the cell is never root's".into(),
            ));
        };
        let mut account = named_account(user, &passwd, &groups).map_err(Stop::Usage)?;
        if let Some(group) = &cli.group {
            account.gid = named_group(group, &groups).map_err(Stop::Usage)?;
        }
        let mut names: Vec<Vec<u8>> = Vec::new();
        for entry in group::entries(&groups) {
            if entry.gid == account.gid || account.groups.contains(&entry.gid) {
                names.push(entry.name.to_vec());
            }
        }
        Ok(Self { account, groups: names, privilege: Privilege::Root, trust: Trust::Root })
    }
}

/// `NAME`, `UID` or `UID:GID`. Supplementary groups are the user's, never root's.
fn named_account(user: &str, passwd: &[u8], groups: &[u8]) -> std::result::Result<Account, String> {
    let number = |text: &str| text.parse::<u32>().ok();
    let (first, second) = match user.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (user, None),
    };
    let entry = match number(first) {
        Some(uid) => passwd::by_uid(passwd, uid).next(),
        None => passwd::by_name(passwd, first.as_bytes()),
    };
    let uid = number(first).or(entry.as_ref().map(|entry| entry.uid));
    let gid = match second {
        Some(gid) => Some(number(gid).ok_or_else(|| format!("'{gid}' is no gid"))?),
        None => entry.as_ref().map(|entry| entry.gid),
    };
    let (Some(uid), Some(gid)) = (uid, gid) else {
        return Err(format!("no user '{user}' in /etc/passwd; give UID:GID for one that is not there"));
    };
    if uid == 0 || gid == 0 {
        return Err("the command cannot run as root or with root's group".to_owned());
    }
    let name = entry.as_ref().map_or_else(|| uid.to_string().into_bytes(), |entry| entry.name.to_vec());
    let mut own = entry.map_or_else(Vec::new, |entry| group::groups_of(groups, entry.name));
    own.retain(|gid| !is_root_in_disguise(groups, *gid));
    Ok(Account { name, uid, gid, groups: own })
}

/// `NAME` or `GID`, never root's.
fn named_group(group: &str, groups: &[u8]) -> std::result::Result<u32, String> {
    let gid = group.parse().ok().or_else(|| group::by_name(groups, group.as_bytes()).map(|entry| entry.gid));
    match gid {
        Some(0) => Err("the command cannot run with root's group".to_owned()),
        Some(gid) => Ok(gid),
        None => Err(format!("no group '{group}' in /etc/group; give the GID of one that is not there")),
    }
}

/// The jail and where the command starts in it.
pub(crate) struct Place {
    pub(crate) jail: PathBuf,
    pub(crate) base: Option<Base>,
    sections: Option<SectionEntry>,
    pub(crate) start: PathBuf,
    pub(crate) brought: Vec<Vec<u8>>,
    /// Keeps a jail of the cache from being cleared away while it is in use.
    _kept: Option<ThrowawayJail>,
}

impl Place {
    fn prepare(cli: &Cli, caller: &Caller) -> std::result::Result<Self, Stop> {
        if let Some(jail) = &cli.jail {
            let jail = std::path::absolute(jail)
                .or_refuse(What::Jail, || format!("find the jail '{}'", jail.display()))?;
            let start = cli.chdir.clone().unwrap_or_else(|| PathBuf::from(EMPTY_HOME));
            let (sections, base) = known_of(&jail, caller)?;
            return Ok(Self { jail, base, sections, start, brought: Vec::new(), _kept: None });
        }
        let start = match &cli.chdir {
            Some(directory) => directory.clone(),
            None => std::env::current_dir().or_refuse(What::Call, || "find the working directory".into())?,
        };
        // What the cell brings itself (/tmp, /proc and the like) is not the jail's to make.
        let tops = ["/tmp", "/var/tmp", "/run", "/dev", "/proc"];
        let covered = start == Path::new("/") || tops.iter().any(|top| start.starts_with(top));
        let directories = if covered { Vec::new() } else { vec![start.clone()] };
        let (sections, profiles) = named_sections(&cli.sections);
        let request = ThrowawayRequest {
            sections: &sections,
            with: &cli.with,
            directories: &directories,
            cache_root: cache_root(caller),
            profiles,
        };
        let kept = throwaway(&request).map_err(Stop::Provision)?;
        for note in &kept.notes {
            eprintln!("jail-run: {note}");
        }
        Ok(Self {
            jail: kept.path.clone(),
            base: None,
            sections: Some(needs(&kept.entry)),
            start,
            brought: kept.with.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect(),
            _kept: Some(kept),
        })
    }
}

/// Names of sections and where they are looked for. One with a slash in it is a file, and its directory comes first.
fn named_sections(words: &[String]) -> (Vec<String>, Profiles) {
    let mut profiles = Profiles::standard();
    let names = words.iter().map(|word| match word.rsplit_once('/') {
        None => word.clone(),
        Some((directory, file)) => {
            profiles =
                profiles.clone().with_first(Path::new(if directory.is_empty() { "/" } else { directory }));
            file.strip_suffix(".toml").unwrap_or(file).to_owned()
        }
    });
    let names = names.collect();
    (names, profiles)
}

/// What the sections of an existing jail ask for, and the base it lies on: the caller's own record of it, else root's.
fn known_of(path: &Path, caller: &Caller) -> Result<(Option<SectionEntry>, Option<Base>)> {
    let mut jail = open_jail(path, caller.trust)?;
    let root = PathBuf::from(STATE_DIRECTORY);
    let own = match caller.privilege {
        Privilege::Root => None,
        Privilege::UserNamespace => jail_provision::state::base().ok(),
    };
    for base in own.into_iter().chain([root]) {
        if let Some(entry) = read_entry_file(&mut jail, &base, caller.trust, &mut Vec::new())? {
            return Ok((Some(entry.entry), jail.base));
        }
    }
    Ok((None, None))
}

fn needs(entry: &EntryNeeds) -> SectionEntry {
    SectionEntry {
        network: entry.network.as_ref().map(|network| match network {
            NeededNetwork::None => Network::None,
            NeededNetwork::Host => Network::Host,
            NeededNetwork::Ports { connect, bind } => Network::Ports {
                connect: connect.iter().copied().collect(),
                bind: bind.iter().copied().collect(),
            },
        }),
        tmp: entry.tmp.as_ref().and_then(|size| size.parse().ok()),
        env: entry.env.clone(),
    }
}

pub(crate) fn cache_root(caller: &Caller) -> PathBuf {
    if caller.privilege == Privilege::Root {
        return PathBuf::from("/var/cache/jailwright");
    }
    let base =
        std::env::var_os("XDG_CACHE_HOME").filter(|path| Path::new(path).is_absolute()).map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    base.or(home)
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/jailwright-{}", caller.account.uid)))
        .join("jailwright")
}

/// Built in < sections < the administrator's file (root) or the user's own (rootless) < flags.
fn merge_policy(cli: &Cli, caller: &Caller, place: &Place) -> Result<Policy> {
    let mut policy = Policy::default();
    if let Some(sections) = &place.sections {
        policy.apply_sections(sections);
    }
    apply_files_and_flags(&mut policy, cli, caller, &place.jail)?;
    Ok(policy)
}

/// The same without a jail.
pub(crate) fn policy_of_user(cli: &Cli, caller: &Caller, root: &Path) -> Result<Policy> {
    let mut policy = Policy::default();
    apply_files_and_flags(&mut policy, cli, caller, root)?;
    Ok(policy)
}

fn apply_files_and_flags(policy: &mut Policy, cli: &Cli, caller: &Caller, jail: &Path) -> Result<()> {
    let path = match caller.privilege {
        Privilege::Root => Some(PathBuf::from(POLICY_FILE)),
        Privilege::UserNamespace => user_policy_file(),
    };
    if let Some(path) = path {
        apply_file(policy, &path, caller, jail)?;
    }
    policy.apply(&cli.policy.layer(), &Origin::Flag);
    policy.session = Session::Private;
    Ok(())
}

fn user_policy_file() -> Option<PathBuf> {
    let base =
        std::env::var_os("XDG_CONFIG_HOME").filter(|path| Path::new(path).is_absolute()).map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    Some(base.or(home)?.join("jailwright/jail-run.toml"))
}

fn apply_file(policy: &mut Policy, path: &Path, caller: &Caller, jail: &Path) -> Result<()> {
    let shown = path.display().to_string();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).or_refuse(What::Policy, || format!("read '{shown}'")),
    };
    let file =
        PolicyFile::parse(&bytes, &shown).map_err(|why| Refusal::new(What::Policy, why.to_string()))?;
    policy.apply(&file.default, &Origin::Table("[default]".to_owned()));
    if let Some((name, layer)) = file.jail.iter().find(|(name, _)| Path::new(name.as_str()) == jail) {
        policy.apply(layer, &Origin::Table(format!("[jail.\"{name}\"]")));
    }
    let subject = Subject { user: &caller.account.name, groups: &caller.groups };
    let layers = account_layers(&file, subject)
        .map_err(|why| Refusal::new(What::Policy, format!("{shown}: {why}")))?;
    for (origin, layer) in layers {
        policy.apply(layer, &origin);
    }
    Ok(())
}

pub(crate) fn admit(caller: &Caller, place: &mut Place, policy: Policy) -> Result<Admission> {
    let mut jail = open_jail(&place.jail, caller.trust)?;
    jail.base = place.base.take();
    let home = if policy.isolation == Isolation::Chroot { CHROOT_HOME } else { EMPTY_HOME };
    let profile = filter::read_profile(&policy, caller.trust)?;
    if caller.privilege == Privilege::UserNamespace {
        rootless::enter_user_namespace(caller.account.uid, caller.account.gid)?;
        // The descriptor belongs to the mount namespace that was left; the same directory is opened in the new one.
        jail = jail.reopen()?;
    }
    Ok(Admission {
        home: home.as_bytes().to_vec(),
        brought: place.brought.clone(),
        profile,
        ..admission(caller, jail, policy)
    })
}

/// What is the same for every run: an empty home, and account files of the cell's own.
pub(crate) fn admission(caller: &Caller, jail: Jail, policy: Policy) -> Admission {
    Admission::of_a_tool(caller.account.clone(), jail, policy, account_files(&caller.account))
}

/// The cell's own passwd and group: root, the user, nobody.
pub(crate) fn account_files(account: &Account) -> AccountFiles {
    let name = String::from_utf8_lossy(&account.name).into_owned();
    let (uid, gid) = (account.uid, account.gid);
    AccountFiles {
        passwd: format!(
            "root:x:0:0:root:/root:/usr/sbin/nologin\n{name}:x:{uid}:{gid}::{EMPTY_HOME}:/bin/sh\n\
             nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        )
        .into_bytes(),
        group: format!("root:x:0:\ntty:x:5:\n{name}:x:{gid}:\nnogroup:x:65534:\n").into_bytes(),
    }
}
