//! Logins over a real sshd: everything that works for a plain account has to work for a jailed one.
//!
//! `JAIL_UNDER_TEST=none` runs the same tests against plain accounts with /bin/bash: the control.

mod adopted;
mod agent;
mod bases;
mod chroot;
mod command;
mod commands;
mod crowd;
mod daemons;
mod doors;
mod everyday;
mod killed;
mod learning;
mod listing;
mod logging;
mod names;
mod private_network;
mod privileged;
mod roots;
mod staying;
mod strict;
mod terminal;
mod transfer;

use std::process::ExitCode;

fn main() -> ExitCode {
    jailwright_tests::suite(&[
        agent::TESTS,
        adopted::TESTS,
        bases::TESTS,
        chroot::TESTS,
        command::TESTS,
        commands::TESTS,
        crowd::TESTS,
        daemons::TESTS,
        doors::TESTS,
        everyday::TESTS,
        names::TESTS,
        killed::TESTS,
        learning::TESTS,
        listing::TESTS,
        logging::TESTS,
        private_network::TESTS,
        privileged::TESTS,
        roots::TESTS,
        staying::TESTS,
        strict::TESTS,
        terminal::TESTS,
        transfer::TESTS,
    ])
}
