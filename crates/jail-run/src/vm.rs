//! `--vm`: the same jail, the same policy, in a virtual machine of its own.
//!
//! QEMU is one more program that is not trusted: it runs in a cell made of its own package's files, with no network, and
//! sees the kernel, the jail's image and one end of a socket. This process keeps the other end and is the only one that
//! touches the caller's terminal and pipes.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jail_confine::admission::{EMPTY_HOME, open_jail};
use jail_confine::cell::blueprint::Privilege;
use jail_confine::enter::{self, Bond, Entry, Program, Report};
use jail_confine::invocation::{self, Terminal};
use jail_confine::log::Log;
use jail_confine::policy::values::{
    Accel, Bind, Count, Discard, Isolation, Limit, Limits, Network, Root, Session, Size,
};
use jail_confine::policy::{Policy, text};
use jail_confine::refusal::{OrRefuse, Refusal, Result, What};
use jail_confine::{environment, filter};
use jail_sys::clock::Mark;
use jail_sys::process::{self, Cloned};
use jail_vm::boot::{self, Extras};
use jail_vm::image;
use jail_vm::kernel::Kernel;
use jail_vm::machine::{Accelerator, BOOT, DEFAULT_MEMORY, LEAST_MEMORY, Machine, ROOT};
use jail_vm::relay::{self, End, Running};
use jail_wire::{Accounts, Spec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::cli::Cli;
use crate::launch;
use crate::run::{Caller, Place, Stop, account_files, admit, cache_root};

/// How long an emulated guest may take until it speaks: a busy host starts many at once.
const PATIENCE: Duration = Duration::from_secs(180);
/// The file of our guest program.
const GUEST: &str = "jail-guest";

/// Runs the command in a machine; returns its exit status.
pub(crate) fn run(
    cli: &Cli,
    caller: &Caller,
    place: &Place,
    policy: Policy,
) -> std::result::Result<i32, Stop> {
    let mark = Mark::now();
    must_be_possible(&policy, caller)?;
    if place.base.is_some() {
        let why = "the image of a jail on a base is not made in this version";
        return Err(Refusal::new(What::Jail, format!("'{}': {why}", place.jail.display())).into());
    }
    if cli.background || cli.pidfile.is_some() || cli.ready_fd.is_some() {
        return Err(Stop::Usage(
            "--background, --pidfile and --ready-fd do not go with a virtual machine".to_owned(),
        ));
    }
    let profile = filter::read_profile(&policy, caller.trust)?;
    let shown = lay_out(caller, place, &policy)?;
    let home = Place::of_qemu(caller).map_err(explain_missing_qemu)?;
    launch::wait_until_alone();
    invocation::block_signals()?;
    let accelerator = accelerator(&policy, mark)?;
    let machine = Machine { memory: memory(&policy), processors: processors(&policy), accelerator };
    let running = start(caller, home, &machine, &shown, &policy)?;
    if caller.privilege == Privilege::Root {
        enter::become_the_user(&caller.account)?;
    }
    let spec = spec(cli, caller, place, &policy, profile);
    match relay::run(running, spec) {
        Ok(End::Status(status)) => Ok(status.into()),
        Ok(End::Signal(signal)) => Ok(signal.saturating_add(128)),
        Ok(End::NotStarted(why)) => Err(Refusal::new(What::Host, format!("no machine: {why}")).into()),
        Ok(End::Died(why)) => {
            eprintln!("jail-run: the machine is gone, and the command with it: {why}");
            Ok(KILLED)
        }
        Err(why) => Err(Refusal::new(What::Host, why).into()),
    }
}

/// As a shell has it for a process that was killed.
const KILLED: i32 = 128 + 9;

/// What QEMU's cell shows.
struct Shown {
    boot: PathBuf,
    root: PathBuf,
}

fn lay_out(caller: &Caller, place: &Place, policy: &Policy) -> Result<Shown> {
    let refuse = |why: String| Refusal::new(What::Host, why);
    let cache = cache_root(caller);
    let named = policy.vm_kernel.as_ref().map(|path| Path::new(&path.0));
    let kernel = Kernel::find(named).map_err(refuse)?;
    let extras = Extras { overlay: policy.root == Root::Discard };
    let boot = boot::directory(&cache, &kernel, &guest_program()?, extras).map_err(refuse)?;
    let jail = open_jail(&place.jail, caller.trust)?;
    // Opened to be looked at only; the image is made from what it leads to now.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let tree = rustix::fs::openat(&jail.directory, ".", flags, rustix::fs::Mode::empty())
        .or_refuse(What::Jail, || format!("read the jail '{}'", place.jail.display()))?;
    let root = image::directory(&cache, &tree, &jail.path).map_err(refuse)?;
    Ok(Shown { boot, root })
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
                "'{}' is missing: it belongs to this program; run make build and make install",
                places[0].display()
            ),
        )
    })
}

fn explain_missing_qemu(stop: Stop) -> Stop {
    let qemu = Path::new(jail_vm::machine::PROGRAM);
    if qemu.exists() {
        return stop;
    }
    Stop::Refused(Refusal::new(
        What::Host,
        format!(
            "a virtual machine needs QEMU, and there is no '{}' (Debian: apt-get install --no-install-recommends \
             qemu-system-x86)",
            qemu.display()
        ),
    ))
}

fn refuse(policy: &Policy, key: &str, value: impl std::fmt::Display, why: &str) -> Result<()> {
    let origin = policy.origin(key);
    Err(Refusal::new(
        What::Policy,
        format!("{key} = {value} (from {origin}) does not go with isolation = \"vm\": {why}"),
    ))
}

fn must_be_possible(policy: &Policy, caller: &Caller) -> Result<()> {
    if policy.network != Network::None {
        return refuse(
            policy,
            "network",
            &policy.network,
            "a machine has no network in this version; use \"none\"",
        );
    }
    if policy.root == Root::Writable {
        return refuse(
            policy,
            "root",
            policy.root,
            "the jail's image is shared and read-only; use \"discard\"",
        );
    }
    if policy.discard == Discard::Disk {
        let why = "a machine's changes lie in its memory; use \"memory\"";
        return refuse(policy, "discard", policy.discard, why);
    }
    if policy.agent {
        return refuse(policy, "agent", true, "the guest has no way to the host's agent");
    }
    if let Some(bind) = policy.bind.first() {
        return refuse(
            policy,
            "bind",
            bind,
            "directories of the host are not shown to a guest in this version",
        );
    }
    if let Limit::At(Size(bytes)) = policy.memory {
        if bytes < LEAST_MEMORY {
            return refuse(policy, "memory", policy.memory, "a guest needs 96M at least");
        }
        let host = total_memory();
        if bytes > host {
            let why = format!("this host has {}M", host >> 20);
            return refuse(policy, "memory", policy.memory, &why);
        }
    }
    if let (Limit::At(cpus), Privilege::UserNamespace, Limits::Required) =
        (policy.cpus, caller.privilege, policy.limits)
    {
        if cpus.0 % 1000 != 0 {
            return refuse(
                policy,
                "cpus",
                cpus,
                "without root a machine has whole processors; use a whole number, or limits = \"best-effort\"",
            );
        }
    }
    Ok(())
}

fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    u64::from(info.mem_unit.max(1)).saturating_mul(info.totalram)
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

/// Emulation, with the rate of the host's clock: a guest that has to measure it for itself may wait for ever.
fn accelerator(policy: &Policy, mark: Option<Mark>) -> Result<Accelerator> {
    let why = "this version does not use /dev/kvm";
    match policy.vm_accel {
        Accel::Kvm => Err(Refusal::new(
            What::Policy,
            format!(
                "vm.accel = \"kvm\" (from {}), and {why}; \"any\" allows emulation",
                policy.origin("vm.accel")
            ),
        )),
        Accel::Any => Ok(Accelerator::Emulation(mark.and_then(|mark| mark.rate()))),
    }
}

/// Starts QEMU in its cell.
fn start(
    caller: &Caller,
    mut home: Place,
    machine: &Machine,
    shown: &Shown,
    policy: &Policy,
) -> Result<Running> {
    let doing = || "make the channel of a machine".to_owned();
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).or_refuse(What::Host, doing)?;
    let (said, says) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).or_refuse(What::Host, doing)?;
    if caller.privilege == Privilege::Root {
        // QEMU opens it by its name in /proc, as the user.
        let (uid, gid) = (caller.account.uid, caller.account.gid);
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::fchown(&says, Some(uid), Some(gid)).or_refuse(What::Host, doing)?;
    }
    let parent = rustix::process::getpid();
    match process::clone(0).or_refuse(What::Host, || "start the machine's process".into())? {
        Cloned::Child => {
            drop((ours, said));
            let ended = take_places(&theirs, &says, parent)
                .and_then(|()| enter_cell(caller, &mut home, machine, shown, policy));
            process::exit_now(match ended {
                Ok(status) => status,
                Err(refusal) => enter::complain_as_tool(&refusal),
            })
        }
        Cloned::Parent { pid, .. } => {
            // The jail of QEMU stays in use as long as this process lives.
            std::mem::forget(home);
            Ok(Running { channel: ours, said, process: pid, patience: PATIENCE })
        }
    }
}

/// Nothing of the caller's is left in the process that becomes QEMU: not his pipes, not his terminal, not his session. It
/// does not outlive us.
fn take_places(channel: &OwnedFd, says: &OwnedFd, parent: rustix::process::Pid) -> Result<()> {
    let doing = || "set up the machine's process".to_owned();
    rustix::process::setsid().or_refuse(What::Host, doing)?;
    process::parent_death_signal(9).or_refuse(What::Host, doing)?;
    if rustix::process::getppid() != Some(parent) {
        return Err(Refusal::new(What::Host, "the process that started the machine is gone"));
    }
    for (fd, number) in [(channel, 0), (says, 1), (says, 2)] {
        process::move_descriptor(fd.as_fd(), number).or_refuse(What::Host, doing)?;
    }
    Ok(())
}

fn enter_cell(
    caller: &Caller,
    home: &mut Place,
    machine: &Machine,
    shown: &Shown,
    policy: &Policy,
) -> Result<i32> {
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
    cell.processes = Limit::At(Count(64));
    cell.tmp = Size(1 << 20);
    cell.hostname = "machine".to_owned();
    cell.env = Vec::new();
    cell.bind = vec![bind(&shown.boot, BOOT)?, bind(&shown.root, ROOT)?];
    if caller.privilege == Privilege::Root {
        cell.cpus = policy.cpus;
        cell.limits = policy.limits;
    }
    let admission = admit(caller, home, cell)?;
    let words = machine.words();
    let entry = Entry {
        privilege: caller.privilege,
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

/// What the guest is told to run.
fn spec(cli: &Cli, caller: &Caller, place: &Place, policy: &Policy, profile: Option<Vec<u8>>) -> Spec {
    let bytes = |(name, value): &(OsString, OsString)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let accounts = account_files(&caller.account);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Spec {
        policy: text::write(policy),
        program: jail_wire::Program::Command(
            cli.command.iter().map(|word: &OsString| word.as_bytes().to_vec()).collect(),
        ),
        directory: AsRef::<OsStr>::as_ref(&place.start).as_bytes().to_vec(),
        environment: environment::let_through(&environment, &policy.env).iter().map(bytes).collect(),
        set: cli.policy.variables().iter().map(bytes).collect(),
        user: caller.account.name.clone(),
        uid: caller.account.uid,
        gid: caller.account.gid,
        groups: caller.account.groups.clone(),
        home: EMPTY_HOME.as_bytes().to_vec(),
        shell: b"/bin/sh".to_vec(),
        brought: place.brought.clone(),
        accounts: Some(Accounts { passwd: accounts.passwd, group: accounts.group }),
        terminal: relay::has_terminal().then(relay::window).flatten(),
        clock: u64::try_from(clock).unwrap_or(0),
        profile,
    }
}
