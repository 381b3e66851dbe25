//! Rules about the source itself: who may depend on what, where `unsafe` may stand.

mod dependencies;
mod source;

use std::process::ExitCode;

fn main() -> ExitCode {
    jailwright_tests::suite(&[dependencies::TESTS, source::TESTS])
}
