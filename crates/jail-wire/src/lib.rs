//! What a virtual machine's guest and its host say to each other, over one channel of bytes.
//!
//! The guest is the attacker: whoever breaks its kernel writes what he likes. So the host's side ([`Decoder`], [`ToHost`])
//! believes nothing: a length is checked before anything is kept, an unknown word ends the talk, and no frame makes the
//! host hold more than [`LONGEST_FROM_GUEST`] bytes of it. `docs/decisions/0011-virtual-machine.md` says why it is built so.
//!
//! A frame is one byte of kind, four of length (little endian), and the payload. Streams are counted: nobody sends more
//! than [`WINDOW`] bytes of one that the other side has not [`Taken`](ToHost::Taken), so neither side ever has to stop
//! reading, and a full pipe on one stream never holds up another, a signal or the exit status.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod flow;
mod frame;
mod spec;
mod words;

pub use flow::{Sink, Source};
pub use frame::{Decoder, LONGEST_FROM_GUEST, LONGEST_FROM_HOST};
pub use spec::{Accounts, Home, Program, Spec, Window};
pub use words::{Stream, ToGuest, ToHost};

/// Which form of the talk this is; both sides come from one build, and a cache may hold an old guest.
pub const VERSION: u32 = 2;
/// How many bytes of a stream may be on their way.
pub const WINDOW: usize = 256 << 10;
/// How many bytes of a stream go into one frame.
pub const PIECE: usize = 32 << 10;
/// The name of the port that the talk goes through.
pub const PORT: &str = "jailwright";
/// The name of the port that the home is served through: messages of FUSE as the guest's kernel writes them, and nothing else.
pub const HOME_PORT: &str = "jailwright.home";
/// The most that one read or write of the home moves, in bytes.
pub const LONGEST_HOME_DATA: usize = 128 << 10;
/// No message about the home is longer: a write with its head, or two names.
pub const LONGEST_HOME_REQUEST: usize = LONGEST_HOME_DATA + (16 << 10);

/// Where the home of a machine that is kept is seen: its own root is its, so no directory of the jail has to be there.
pub const KEPT_HOME: &str = "/home";
/// The guest's address, the way out and the name server, as QEMU's user-mode network has them.
pub const ADDRESS: [u8; 4] = [10, 0, 2, 15];
/// The way out.
pub const GATEWAY: [u8; 4] = [10, 0, 2, 2];
/// The name server.
pub const NAME_SERVER: &str = "10.0.2.3";

/// What the other side said makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonsense(pub String);

impl std::fmt::Display for Nonsense {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Nonsense {}
