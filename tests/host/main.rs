//! What the product and its tests do to a host: installed, installed again, uninstalled, and left as it was.

mod install;
mod killed;

use std::process::ExitCode;

fn main() -> ExitCode {
    jailwright_tests::suite_in_order(&[killed::TESTS, install::TESTS])
}
