//! What a filter answers, and which of two answers is the stricter.

/// One answer of a filter program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The process dies by SIGSYS.
    KillProcess,
    /// The calling thread dies by SIGSYS.
    KillThread,
    /// The process gets SIGSYS.
    Trap,
    /// The call is not made and fails with this errno.
    Errno(u16),
    /// A supervisor with the listener decides; the data is free.
    Notify,
    /// A tracer decides; without one the call fails with ENOSYS.
    Trace(u16),
    /// The call is made and logged.
    Log,
    /// The call is made.
    Allow,
}

const DATA: u32 = 0xffff;

impl Action {
    /// The kernel's `SECCOMP_RET_*` value with its data.
    #[must_use]
    pub const fn to_raw(self) -> u32 {
        match self {
            Self::KillProcess => 0x8000_0000,
            Self::KillThread => 0,
            Self::Trap => 0x0003_0000,
            Self::Errno(errno) => 0x0005_0000 | errno as u32,
            Self::Notify => 0x7fc0_0000,
            Self::Trace(data) => 0x7ff0_0000 | data as u32,
            Self::Log => 0x7ffc_0000,
            Self::Allow => 0x7fff_0000,
        }
    }

    /// Reads a `SECCOMP_RET_*` value as the kernel does: what it does not know kills the process.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        // The mask keeps 16 bits, so the conversion loses nothing.
        #[allow(clippy::cast_possible_truncation)]
        let data = (raw & DATA) as u16;
        match raw & !DATA {
            0 => Self::KillThread,
            0x0003_0000 => Self::Trap,
            0x0005_0000 => Self::Errno(data),
            0x7fc0_0000 => Self::Notify,
            0x7ff0_0000 => Self::Trace(data),
            0x7ffc_0000 => Self::Log,
            0x7fff_0000 => Self::Allow,
            _ => Self::KillProcess,
        }
    }

    /// The kernel's order among stacked filters: 0 is the strictest.
    #[must_use]
    pub const fn rank(self) -> u8 {
        match self {
            Self::KillProcess => 0,
            Self::KillThread => 1,
            Self::Trap => 2,
            Self::Errno(_) => 3,
            Self::Notify => 4,
            Self::Trace(_) => 5,
            Self::Log => 6,
            Self::Allow => 7,
        }
    }

    /// The stricter of two; of equally strict ones `self`.
    #[must_use]
    pub const fn stricter(self, other: Self) -> Self {
        if other.rank() < self.rank() { other } else { self }
    }

    /// Whether a call answered so is not made.
    #[must_use]
    pub const fn denies(self) -> Verdict {
        match self {
            Self::KillProcess | Self::KillThread | Self::Trap | Self::Errno(_) => Verdict::Denied,
            Self::Notify | Self::Trace(_) => Verdict::AskedElsewhere,
            Self::Log | Self::Allow => Verdict::Made,
        }
    }
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel does not make it.
    Denied,
    /// Another process decides.
    AskedElsewhere,
    /// The kernel makes it.
    Made,
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::KillProcess => f.write_str("kill the process"),
            Self::KillThread => f.write_str("kill the thread"),
            Self::Trap => f.write_str("SIGSYS"),
            Self::Errno(errno) => match super::errno::name(*errno) {
                Some(name) => f.write_str(name),
                None => write!(f, "errno {errno}"),
            },
            Self::Notify => f.write_str("ask the supervisor"),
            Self::Trace(data) => write!(f, "ask the tracer ({data})"),
            Self::Log => f.write_str("allow and log"),
            Self::Allow => f.write_str("allow"),
        }
    }
}
