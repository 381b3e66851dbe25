//! `--vm`: the same jail, the same policy, in a virtual machine of its own.
//!
//! What a machine is made of and how it is started is in jail-vm, for logins as well; here is what a person on a command
//! line has to say about it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use jail_confine::admission::{EMPTY_HOME, open_jail};
use jail_confine::environment;
use jail_confine::filter;
use jail_confine::invocation;
use jail_confine::log::Log;
use jail_confine::machine::must_be_possible;
use jail_confine::policy::{Policy, text};
use jail_confine::refusal::{Refusal, What};
use jail_provision::kept::Kept;
use jail_provision::state;
use jail_sys::clock::Mark;
use jail_vm::launch::{self, Bond, Order};
use jail_wire::{Accounts, Home, KEPT_HOME, Spec};

use crate::cli::Cli;
use crate::run::{Caller, Place, Stop, account_files, cache_root};

/// How large a disk is made.
const DISK: u64 = 4 << 30;

fn kept(name: &str) -> std::result::Result<Kept, Stop> {
    state::base().and_then(|base| Kept::named(&base, name)).map_err(Stop::Provision)
}

/// Puts a machine back as it was made.
pub(crate) fn reset(name: &str) -> std::result::Result<i32, Stop> {
    kept(name)?.reset().map_err(Stop::Provision)?;
    Ok(0)
}

/// Runs the command in a machine; returns its exit status.
pub(crate) fn run(
    cli: &Cli,
    caller: &Caller,
    place: &Place,
    policy: &Policy,
) -> std::result::Result<i32, Stop> {
    let begun = Mark::now();
    must_be_possible(policy, caller.privilege)?;
    if place.base.is_some() {
        let why = "the image of a jail on a base is not made in this version";
        return Err(Refusal::new(What::Jail, format!("'{}': {why}", place.jail.display())).into());
    }
    if cli.background || cli.pidfile.is_some() || cli.ready_fd.is_some() {
        return Err(Stop::Usage(
            "--background, --pidfile and --ready-fd do not go with a virtual machine".to_owned(),
        ));
    }
    let keep = cli.keep.as_ref().map(|name| kept(name)).transpose()?;
    let keep = keep.map(|kept| (kept, cli.disk.map_or(DISK, |size| size.0)));
    let profile = filter::read_profile(policy, caller.trust)?;
    let jail = open_jail(&place.jail, caller.trust)?;
    invocation::block_signals()?;
    let log = Log::open("jail-run");
    let order = Order {
        account: &caller.account,
        privilege: caller.privilege,
        trust: caller.trust,
        cache: cache_root(caller),
        jail: &jail,
        policy,
        home: None,
        keep,
        name: "jail-run",
        log: &log,
        begun,
        bond: Bond::None,
    };
    Ok(launch::run(order, spec(cli, caller, place, policy, profile))?)
}

/// What the guest is told to run.
fn spec(cli: &Cli, caller: &Caller, place: &Place, policy: &Policy, profile: Option<Vec<u8>>) -> Spec {
    let bytes = |(name, value): &(OsString, OsString)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let is_kept = cli.keep.is_some();
    let accounts = account_files(&caller.account);
    Spec {
        policy: text::write(policy),
        program: jail_wire::Program::Command(
            cli.command.iter().map(|word: &OsString| word.as_bytes().to_vec()).collect(),
        ),
        directory: if is_kept && place.start == Path::new(EMPTY_HOME) {
            KEPT_HOME.as_bytes().to_vec()
        } else {
            AsRef::<OsStr>::as_ref(&place.start).as_bytes().to_vec()
        },
        environment: environment::let_through(&environment, &policy.env).iter().map(bytes).collect(),
        set: cli.policy.variables().iter().map(bytes).collect(),
        user: caller.account.name.clone(),
        uid: caller.account.uid,
        gid: caller.account.gid,
        groups: caller.account.groups.clone(),
        home: if is_kept { KEPT_HOME } else { EMPTY_HOME }.as_bytes().to_vec(),
        home_from: if is_kept { Home::Kept } else { Home::Empty },
        shell: b"/bin/sh".to_vec(),
        brought: place.brought.clone(),
        accounts: Some(Accounts { passwd: accounts.passwd, group: accounts.group }),
        // By whoever has the terminal, at the last moment.
        terminal: None,
        clock: 0,
        profile,
    }
}
