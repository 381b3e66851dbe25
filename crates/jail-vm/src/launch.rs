//! From what was admitted to a machine that runs it.
//!
//! The order matters, as it does for a cell: everything that needs rights is done before the guest can say a word, then
//! this process is the user for good, and only then the channel is read.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use jail_confine::admission::{Account, Jail};
use jail_confine::cell::blueprint::Privilege;
use jail_confine::enter;
use jail_confine::log::{Level, Log};
use jail_confine::policy::Policy;
use jail_confine::policy::values::{Limit, Network, Root, Size};
use jail_confine::refusal::{OrRefuse, Refusal, Result, What};
use jail_confine::service;
use jail_confine::trusted::Trust;
use jail_provision::kept::{Kept, Note};
use jail_sys::clock::Mark;
use jail_sys::process::{self, Cloned};
use jail_wire::Spec;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::boot::{self, Extras};
use crate::cell::{self, Parts};
use crate::kernel::Kernel;
use crate::machine::{DEFAULT_MEMORY, Machine};
use crate::relay::{self, End};
use crate::{accelerator, home, image};

/// As a shell has it for a process that was killed.
const KILLED: i32 = 128 + 9;
/// The file of our guest program.
const GUEST: &str = "jail-guest";
/// What a process that serves a home may have open: the guest's files, and its own.
const FILES: u64 = home::MOST_OPEN as u64 + 64;

/// What is to run, and for whom. What the policy asks for must be possible (`jail_confine::machine`).
#[derive(Debug)]
pub struct Order<'a> {
    /// Whom the command runs as.
    pub account: &'a Account,
    /// What the caller works with.
    pub privilege: Privilege,
    /// Whose files are believed.
    pub trust: Trust,
    /// Where what is made once is kept.
    pub cache: PathBuf,
    /// The jail.
    pub jail: &'a Jail,
    /// The merged policy.
    pub policy: &'a Policy,
    /// The home that is served to the guest, if it is one of the host's.
    pub home: Option<OwnedFd>,
    /// The machine whose disk is kept, and how large that is made.
    pub keep: Option<(Kept, u64)>,
    /// By which name this program complains.
    pub name: &'static str,
    /// Told of what is worth knowing.
    pub log: &'a Log,
    /// When this process began: a clock is measured from then.
    pub begun: Option<Mark>,
    /// Whether the machine ends when its starter does.
    pub bond: Bond,
}

/// Whether a machine outlives who started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bond {
    /// A login ends with its connection.
    WithCaller,
    /// A person's own run is ended by signals.
    None,
}

/// Runs the session; returns its exit status. All signals must be blocked, and this process have one thread.
///
/// # Errors
/// Whatever kept the command from running.
pub fn run(order: Order<'_>, mut spec: Spec) -> Result<i32> {
    let parent = rustix::process::getppid();
    let parts = lay_out(&order)?;
    let disk = order.keep.as_ref().map(|(kept, size)| take_disk(&order, &parts, kept, *size)).transpose()?;
    let qemu = cell::qemu_jail(&parts)?;
    wait_until_alone();
    let choice = accelerator::choose(&parts, &qemu, order.begun.as_ref().and_then(Mark::rate))?;
    if let Some(note) = &choice.note {
        order.log.line(Level::Notice, note);
    }
    let home = order.home.as_ref().map(|home| serve(home, order.account)).transpose()?;
    let machine = Machine {
        memory: memory(order.policy),
        processors: processors(order.policy),
        accelerator: choice.accelerator,
        home,
        disk,
        network: order.policy.network != Network::None,
    };
    let running = cell::start(&parts, &qemu, &machine)?;
    // QEMU has its own copies of what it holds; with ours open nobody would hear of its end.
    drop(machine);
    if order.privilege == Privilege::Root {
        enter::become_the_user(order.account)?;
    }
    if order.bond == Bond::WithCaller {
        // After the last change of uid, which clears it.
        let doing = || "ask for the parent's end".to_owned();
        process::parent_death_signal(1).or_refuse(What::Host, doing)?;
        if rustix::process::getppid() != parent {
            running.end();
            return Err(Refusal::new(What::Host, "the connection was cut before the machine was there"));
        }
    }
    spec.terminal = relay::has_terminal().then(relay::window).flatten();
    spec.clock = now();
    let end = relay::run(running, spec);
    drop(qemu);
    match end {
        Ok(End::Status(status)) => Ok(status.into()),
        Ok(End::Signal(signal)) => Ok(signal.saturating_add(128)),
        Ok(End::NotStarted(why)) => Err(Refusal::new(What::Host, format!("no machine: {why}"))),
        Ok(End::Died(why)) => {
            order.log.line(Level::Warning, &format!("a machine of uid {} is gone: {why}", order.account.uid));
            eprintln!("{}: the machine is gone, and the command with it: {why}", order.name);
            Ok(KILLED)
        }
        Err(why) => Err(Refusal::new(What::Host, why)),
    }
}

fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(0)
}

/// Kernel, initramfs and image, made or found.
fn lay_out<'a>(order: &'a Order<'_>) -> Result<Parts<'a>> {
    let refuse = |why: String| Refusal::new(What::Host, why);
    let named = order.policy.vm_kernel.as_ref().map(|path| Path::new(&path.0));
    let kernel = Kernel::find(named).map_err(refuse)?;
    let extras = Extras {
        overlay: order.policy.root == Root::Discard,
        home: order.home.is_some(),
        disk: order.keep.is_some(),
        network: order.policy.network != Network::None,
    };
    let boot = boot::directory(&order.cache, &kernel, &guest_program()?, extras).map_err(refuse)?;
    // Opened to be looked at only; the image is made from what it leads to now.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let tree = rustix::fs::openat(&order.jail.directory, ".", flags, Mode::empty())
        .or_refuse(What::Jail, || format!("read the jail '{}'", order.jail.path.display()))?;
    let root = image::directory(&order.cache, &tree, &order.jail.path).map_err(refuse)?;
    Ok(Parts {
        account: order.account,
        privilege: order.privilege,
        trust: order.trust,
        cache: &order.cache,
        boot,
        root,
        policy: order.policy,
    })
}

/// The disk of a machine that is kept, and a note of this run.
fn take_disk(order: &Order<'_>, parts: &Parts<'_>, kept: &Kept, size: u64) -> Result<OwnedFd> {
    let refuse = |error: jail_provision::Error| Refusal::new(What::Host, error.to_string());
    let disk = kept.disk(size).map_err(refuse)?;
    let tree = parts.root.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if kept.note().is_some_and(|before| before.tree != tree) {
        eprintln!(
            "{}: the jail has changed since this machine was made; what it changed itself lies over the new one (--reset \
             starts anew)",
            order.name
        );
    }
    let jail = order.jail.path.display().to_string();
    kept.write(&Note { jail, tree, memory: memory(order.policy), pid: std::process::id() })
        .map_err(refuse)?;
    Ok(disk)
}

/// Beside this program as it is installed, or as it is built.
fn guest_program() -> Result<PathBuf> {
    let own = std::env::current_exe().or_refuse(What::Host, || "find this program's own file".to_owned())?;
    let bin = own.parent().unwrap_or(Path::new("/"));
    let mut places = vec![bin.join("../libexec/jailwright").join(GUEST)];
    if let (Some(target), Some(profile)) = (bin.parent(), bin.file_name()) {
        let built = std::fs::read_dir(target.join("static")).into_iter().flatten().flatten();
        places.extend(built.map(|triple| triple.path().join(profile).join(GUEST)));
    }
    // Last: a plain cargo build leaves one there that is not static.
    places.push(bin.join(GUEST));
    places.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        Refusal::new(
            What::Host,
            format!(
                "'{GUEST}' is missing, which belongs to '{}'; run make build and make install",
                own.display()
            ),
        )
    })
}

/// Starts the process that serves the home; returns QEMU's end of its socket. It ends when that is closed.
fn serve(directory: &OwnedFd, account: &Account) -> Result<OwnedFd> {
    let doing = || "start the process that serves the home".to_owned();
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).or_refuse(What::Host, doing)?;
    match process::clone(0).or_refuse(What::Host, doing)? {
        Cloned::Parent { .. } => Ok(theirs),
        Cloned::Child => {
            drop(theirs);
            let shut = leave_the_caller().and_then(|()| service::shut_into(directory, account, FILES));
            process::exit_now(match shut {
                Ok(root) => {
                    let closed = process::close_from_but(3, &[ours.as_fd(), root.as_fd()]);
                    closed.map_or(1, |()| home::serve(ours, root).map_or(1, |()| 0))
                }
                Err(_) => 1,
            })
        }
    }
}

/// A pipe of the caller's that stays open would keep his session from ending.
fn leave_the_caller() -> Result<()> {
    let doing = || "let go of the caller's descriptors".to_owned();
    rustix::process::setsid().or_refuse(What::Host, doing)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .or_refuse(What::Host, doing)?;
    for number in 0..=2 {
        process::move_descriptor(null.as_fd(), number).or_refuse(What::Host, doing)?;
    }
    Ok(())
}

const fn memory(policy: &Policy) -> u64 {
    match policy.memory {
        Limit::At(Size(bytes)) => bytes,
        Limit::None => DEFAULT_MEMORY,
    }
}

/// A share of one is one: the rest is for the cell of QEMU, which root can limit.
fn processors(policy: &Policy) -> u32 {
    let host =
        std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
    match policy.cpus {
        Limit::At(cpus) => cpus.0.div_ceil(1000).clamp(1, host),
        Limit::None => 1,
    }
}

/// Waits until the threads that copied files are gone. They have been joined, but the kernel takes a moment longer to
/// forget them, and meanwhile neither makes user namespaces for this process nor lets it join any (unshare(2), EINVAL).
pub fn wait_until_alone() {
    for _ in 0..1000 {
        let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        if threads <= 1 {
            return;
        }
        process::sleep_milliseconds(1);
    }
}
