//! The processor's time stamp counter, and how fast it runs.

use std::time::{Duration, Instant};

/// The counter and the time at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    ticks: u64,
    at: Instant,
}

impl Mark {
    /// Now. `None` where there is no such counter.
    #[must_use]
    pub fn now() -> Option<Self> {
        Some(Self { ticks: ticks()?, at: Instant::now() })
    }

    /// The rate since then in kHz, waiting until it can be told to about a thousandth.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        const LEAST: Duration = Duration::from_millis(5);
        std::thread::sleep(LEAST.saturating_sub(self.at.elapsed()));
        let now = Self::now()?;
        let microseconds = u64::try_from(now.at.duration_since(self.at).as_micros()).ok()?;
        now.ticks.checked_sub(self.ticks)?.checked_mul(1000)?.checked_div(microseconds)
    }
}

#[cfg(target_arch = "x86_64")]
fn ticks() -> Option<u64> {
    // SAFETY: every x86-64 processor has the instruction; Linux lets user space use it unless asked not to (PR_SET_TSC).
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn ticks() -> Option<u64> {
    None
}
