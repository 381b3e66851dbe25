//! Every program of every shipped section does a real task inside a jail made from that section alone.
//!
//! The tasks are in `fixtures/programs.toml`; a program without one fails the suite. A section that only copied files
//! would pass `--version` and still be useless: what jails lack is what a program opens when it works.

mod rows;
mod services;
mod table;

use std::process::ExitCode;

use jailwright_tests::{Body, Scratch, Test};

/// One test a section, so that a report says which section is broken.
macro_rules! sections {
    ($($name:ident)*) => {
        /// The sections with a test here; `table::every_section_is_tested` holds it against `profiles/`.
        pub(crate) const NAMES: &[&str] = &[$(stringify!($name)),*];
        mod section {
            $(pub(crate) fn $name(host: &super::Scratch) -> jailwright_tests::Done {
                super::rows::run(host, stringify!($name))
            })*
        }
        const SECTIONS: &[Test] = &[$(Test { name: concat!("section::", stringify!($name)), body: Body::Scratch(section::$name) }),*];
    };
}

sections! {
    uidbasics netbasics logbasics terminfo locale basicshell extendedshell interactiveshell editors midnightcommander
    scp sftp ssh rsync git perl jk_lsh limitedshell cvs procmail coreutils env curl zip netutils apacheutils extshellplusnet
    openvpn apache xauth xclients vncserver ping mysql_client php composer node python wp imagemagick qemu
}

fn main() -> ExitCode {
    jailwright_tests::suite(&[table::TESTS, SECTIONS])
}
