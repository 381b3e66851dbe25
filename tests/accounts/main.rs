//! Accounts: into a jail and out again, with hostile homes, odd files, full disks, and runs that are killed.
//!
//! These tests need neither a provisioned jail nor a login: a jail here is a directory with an /etc and a shell.

mod bench;
mod compat;
mod create;
mod deaths;
mod directory;
mod edits;
mod faults;
mod homes;
mod jailkit;
mod ldap;
mod odd;
mod refusals;
mod relocate;
mod setting;
mod together;

use std::process::ExitCode;

fn main() -> ExitCode {
    jailwright_tests::suite(&[
        edits::TESTS,
        create::TESTS,
        directory::TESTS,
        compat::TESTS,
        odd::TESTS,
        deaths::TESTS,
        ldap::TESTS,
        jailkit::TESTS,
        relocate::TESTS,
        refusals::TESTS,
        homes::TESTS,
        faults::TESTS,
        together::TESTS,
        bench::TESTS,
    ])
}
