//! Waiting that has an end, for whoever is waited for: a directory, pasta.

use std::time::Instant;

use rustix::event::{PollFd, Timespec, poll};
use rustix::io::Errno;

/// poll(2) until a moment; how many of them have something.
pub(crate) fn poll_until(on: &mut [PollFd<'_>], end: Instant) -> Result<usize, Errno> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        let left = Timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() };
        match poll(on, Some(&left)) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}
