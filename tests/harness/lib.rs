//! The harness of the end-to-end tests: a scratch host in private namespaces, real accounts, a real sshd, terminals.
//!
//! A suite is a program: `main` hands its tests to [`suite`], which as root first moves the whole program into a
//! [`Scratch`] host. Nothing a test does there, and no way a test can die, reaches the machine.

pub mod command;
pub mod product;
pub mod pty;
pub mod runner;
pub mod scratch;
pub mod sshd;
pub mod syslog;
pub mod uplink;
pub mod user;

pub use command::{Output, Run};
pub use pty::Pty;
pub use runner::{Body, Done, Skip, Test, skip, suite, suite_in_order};
pub use scratch::Scratch;
pub use user::User;

/// Names a test after its function: `test!(scratch exit_status)`.
///
/// `plain` tests need nothing, `scratch` tests need root and get the [`Scratch`] host.
#[macro_export]
macro_rules! test {
    (plain $name:ident) => {
        $crate::Test {
            name: concat!(module_path!(), "::", stringify!($name)),
            body: $crate::Body::Plain($name),
        }
    };
    (scratch $name:ident) => {
        $crate::Test {
            name: concat!(module_path!(), "::", stringify!($name)),
            body: $crate::Body::Scratch($name),
        }
    };
}
