//! QEMU's cell: a jail of its own package's files, no network, and the descriptors that a machine needs.
//!
//! QEMU is one more program that is not trusted. It sees the kernel and the jail's image, read-only, and holds one end of
//! the channel, one of the home's, and /dev/kvm where that is used: open, so that none of them has a name in there.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use jail_confine::admission::{Account, AccountFiles, Admission, open_jail};
use jail_confine::cell::blueprint::Privilege;
use jail_confine::enter::{self, Bond, Entry, Program, Report};
use jail_confine::invocation::Terminal;
use jail_confine::log::Log;
use jail_confine::policy::Policy;
use jail_confine::policy::values::{Bind, Count, Isolation, Limit, Session, Size};
use jail_confine::refusal::{OrRefuse, Refusal, Result, What};
use jail_confine::rootless;
use jail_confine::trusted::Trust;
use jail_provision::profiles::Profiles;
use jail_provision::{ThrowawayJail, ThrowawayRequest, throwaway};
use jail_sys::process::{self, Cloned};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::machine::{BOOT, Machine, PROGRAM, ROOT};
use crate::relay::Running;

/// What a machine is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Whom QEMU runs as.
    pub account: &'a Account,
    /// What the caller works with.
    pub privilege: Privilege,
    /// Whose files are believed.
    pub trust: Trust,
    /// Where what is made once is kept.
    pub cache: &'a Path,
    /// Kernel and initramfs.
    pub boot: PathBuf,
    /// The jail's image.
    pub root: PathBuf,
    /// The merged policy.
    pub policy: &'a Policy,
}

/// The jail that QEMU runs in, which is not cleared away while this lives.
#[derive(Debug)]
pub struct QemuJail {
    path: PathBuf,
    _kept: ThrowawayJail,
}

/// Makes QEMU's jail, or finds it.
///
/// # Errors
/// A host without QEMU, or a jail that cannot be made.
pub fn qemu_jail(parts: &Parts<'_>) -> Result<QemuJail> {
    let request = ThrowawayRequest {
        sections: &["qemu".to_owned()],
        with: &[],
        directories: &[],
        cache_root: parts.cache.to_owned(),
        profiles: Profiles::standard(),
    };
    match throwaway(&request) {
        Ok(kept) => Ok(QemuJail { path: kept.path.clone(), _kept: kept }),
        Err(_) if !Path::new(PROGRAM).exists() => Err(Refusal::new(
            What::Host,
            format!(
                "a virtual machine needs QEMU, and there is no '{PROGRAM}' (Debian: apt-get install \
                 --no-install-recommends qemu-system-x86)"
            ),
        )),
        Err(error) => Err(Refusal::new(What::Host, format!("cannot make QEMU's jail: {error}"))),
    }
}

/// Starts QEMU in its cell. What the machine names by descriptor goes along.
///
/// # Errors
/// If the process cannot be made; what goes wrong in it is heard from it.
pub fn start(parts: &Parts<'_>, qemu: &QemuJail, machine: &Machine) -> Result<Running> {
    let doing = || "make the channel of a machine".to_owned();
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).or_refuse(What::Host, doing)?;
    let (said, says) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).or_refuse(What::Host, doing)?;
    if parts.privilege == Privilege::Root {
        // QEMU opens it by its name in /proc, as the user.
        let (uid, gid) = (parts.account.uid, parts.account.gid);
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::fchown(&says, Some(uid), Some(gid)).or_refuse(What::Host, doing)?;
    }
    let parent = rustix::process::getpid();
    match process::clone(0).or_refuse(What::Host, || "start the machine's process".into())? {
        Cloned::Child => {
            drop((ours, said));
            let ended = take_places(&theirs, &says, machine, parent)
                .and_then(|()| enter_cell(parts, &qemu.path, machine));
            process::exit_now(match ended {
                Ok(status) => status,
                Err(refusal) => enter::complain_as_tool(&refusal),
            })
        }
        Cloned::Parent { pid, .. } => Ok(Running { channel: ours, said, process: pid }),
    }
}

/// Nothing of the caller's is left in the process that becomes QEMU: not his pipes, not his terminal, not his session. It
/// does not outlive us.
fn take_places(
    channel: &OwnedFd,
    says: &OwnedFd,
    machine: &Machine,
    parent: rustix::process::Pid,
) -> Result<()> {
    let doing = || "set up the machine's process".to_owned();
    rustix::process::setsid().or_refuse(What::Host, doing)?;
    process::parent_death_signal(9).or_refuse(What::Host, doing)?;
    if rustix::process::getppid() != Some(parent) {
        return Err(Refusal::new(What::Host, "the process that started the machine is gone"));
    }
    for (fd, number) in [(channel, 0), (says, 1), (says, 2)] {
        process::move_descriptor(fd.as_fd(), number).or_refuse(What::Host, doing)?;
    }
    for fd in machine.descriptors() {
        // Through every exec on the way to QEMU; of which there is one.
        rustix::io::fcntl_setfd(fd, FdFlags::empty()).or_refuse(What::Host, doing)?;
        debug_assert!(fd.as_raw_fd() > 2);
    }
    Ok(())
}

fn enter_cell(parts: &Parts<'_>, jail: &Path, machine: &Machine) -> Result<i32> {
    let admission = admit(parts, jail, policy(parts)?)?;
    let words = machine.words();
    let entry = Entry {
        privilege: parts.privilege,
        terminal: Terminal::None,
        directory: b"/".to_vec(),
        program: Program::Command(&words),
        environment: &[],
        set: &[],
        report: Report::Tool,
        announcement: None,
        bond: Bond::WithCaller,
        notebook: None,
    };
    enter::enter(&admission, &entry, &Log::silent("jail-run"))
}

fn policy(parts: &Parts<'_>) -> Result<Policy> {
    let bind = |from: &Path, to: &str| -> Result<Bind> {
        let why = || format!("show '{}' to the machine", from.display());
        let from = from.to_str().ok_or("its name is not UTF-8").or_refuse(What::Host, why)?;
        Ok(Bind {
            from: from.parse().or_refuse(What::Host, why)?,
            to: to.parse().or_refuse(What::Host, why)?,
            read_only: true,
        })
    };
    let mut cell = Policy::default();
    cell.session = Session::Private;
    cell.isolation = Isolation::Namespaces;
    // Of all machines of one user, where no control group counts a cell alone.
    cell.processes = Limit::At(Count(1024));
    cell.tmp = Size(1 << 20);
    cell.hostname = "machine".to_owned();
    cell.env = Vec::new();
    cell.network = parts.policy.network.clone();
    cell.bind = vec![bind(&parts.boot, BOOT)?, bind(&parts.root, ROOT)?];
    if parts.privilege == Privilege::Root {
        cell.cpus = parts.policy.cpus;
        cell.limits = parts.policy.limits;
    }
    Ok(cell)
}

fn admit(parts: &Parts<'_>, path: &Path, policy: Policy) -> Result<Admission> {
    let mut jail = open_jail(path, parts.trust)?;
    if parts.privilege == Privilege::UserNamespace {
        rootless::enter_user_namespace(parts.account.uid, parts.account.gid)?;
        // The descriptor belongs to the mount namespace that was left; the same directory is opened in the new one.
        jail = jail.reopen()?;
    }
    // None of the user's groups: QEMU has no use for what they may read.
    let account = Account { groups: Vec::new(), ..parts.account.clone() };
    let nobody = AccountFiles { passwd: Vec::new(), group: Vec::new() };
    Ok(Admission::of_a_tool(account, jail, policy, nobody))
}
