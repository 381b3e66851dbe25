//! The user's home for a guest: a file system whose operations the guest's kernel asks for over a port (FUSE).
//!
//! The guest is the attacker, and it may do with the home what its user may, no more. So this runs as that user, in a
//! process of its own whose root is the home, under Landlock and a seccomp filter (`jail_confine::service`): there is
//! nothing else to be reached, by whatever mistake. No link is ever followed here and no name with a slash in it taken.
//! [`Server::answer`] is one message in, one out; it is fuzzed (`fuzz/fuzz_targets/home.rs`).
//!
//! ```text
//! message    the form of requests and answers (linux/fuse.h)
//! tree       which number the guest knows which path by
//! files      what is open
//! server     the operations
//! ```

mod files;
mod message;
mod server;
mod tree;

use std::io::{BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use jail_wire::LONGEST_HOME_REQUEST;

pub use self::server::Server;
use crate::Result;

/// How many files a guest may have open.
pub const MOST_OPEN: usize = files::MOST;

/// Answers until the guest is gone.
///
/// # Errors
/// A message that is none; the guest loses its home then.
pub fn serve(channel: OwnedFd, root: OwnedFd) -> Result<()> {
    let mut out = UnixStream::from(channel);
    let read_from = out.try_clone().map_err(|error| format!("cannot hear the guest: {error}"))?;
    let mut requests = BufReader::with_capacity(256 << 10, read_from);
    let mut server = Server::new(root);
    let mut request = Vec::new();
    loop {
        let mut length = [0_u8; 4];
        if requests.read_exact(&mut length).is_err() {
            return Ok(());
        }
        let whole = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if !(message::HEAD..=LONGEST_HOME_REQUEST).contains(&whole) {
            return Err(format!("a request for the home is {whole} bytes long"));
        }
        request.clear();
        request.extend_from_slice(&length);
        request.resize(whole, 0);
        if requests.read_exact(&mut request[4..]).is_err() {
            return Ok(());
        }
        if let Some(answer) = server.answer(&request) {
            if out.write_all(&answer).is_err() {
                return Ok(());
            }
        }
    }
}
