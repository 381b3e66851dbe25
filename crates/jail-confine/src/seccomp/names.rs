//! System calls by name: the lookups over the generated table.

use super::arch::Arch;
use super::table::SYSCALLS;

/// Not a system call of this architecture.
pub(super) const NONE: u32 = u32::MAX;

/// A name that lies in the table itself. A pointer to it would be relocated at every start of a position-independent
/// program, which costs each process that stays with a session its own copy of the whole table.
#[derive(Debug)]
pub(super) struct Inline<const N: usize> {
    length: u8,
    bytes: [u8; N],
}

impl<const N: usize> Inline<N> {
    /// Fails to compile if the name is too long.
    #[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated by the compiler")]
    pub(super) const fn new(name: &str) -> Self {
        let (from, mut bytes, mut at) = (name.as_bytes(), [0; N], 0);
        while at < from.len() {
            bytes[at] = from[at];
            at += 1;
        }
        Self { length: at as u8, bytes }
    }

    pub(super) fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

/// One system call: its name, the kernel it came with and its number on each architecture (in the order of [`Arch`]).
#[derive(Debug)]
pub(super) struct Syscall {
    name: Inline<31>,
    pub(super) since: (u8, u8),
    numbers: [u32; 5],
}

/// Shortens the generated table.
pub(super) const fn row(name: &str, since: (u8, u8), numbers: [u32; 5]) -> Syscall {
    Syscall { name: Inline::new(name), since, numbers }
}

impl Syscall {
    pub(super) fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Its number on `arch`.
    pub(super) fn number(&self, arch: Arch) -> Option<u32> {
        self.numbers.get(arch.column()).copied().filter(|nr| *nr != NONE)
    }
}

/// A system call that the table knows, by its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(u16);

impl Name {
    /// Looks a name up.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let at = SYSCALLS.binary_search_by(|row| row.name().cmp(name)).ok()?;
        u16::try_from(at).ok().map(Self)
    }

    /// Looks a name up near the one found before: profiles list names in order, which saves most of the search.
    pub(super) fn find_after(name: &str, before: Option<Self>) -> Option<Self> {
        let from = before.map_or(0, |b| b.0.saturating_add(1));
        for step in 0..4 {
            let near = Self(from.saturating_add(step));
            match near.row().map(|row| row.name().cmp(name)) {
                Some(std::cmp::Ordering::Equal) => return Some(near),
                Some(std::cmp::Ordering::Less) => {}
                _ => break,
            }
        }
        Self::find(name)
    }

    /// The name's place in the table.
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(super) fn row(self) -> Option<&'static Syscall> {
        SYSCALLS.get(self.index())
    }

    /// The name as written in profiles.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().map_or("?", |row| row.name())
    }

    /// Its number on `arch`, if that has it.
    #[must_use]
    pub fn number(self, arch: Arch) -> Option<u32> {
        self.row().and_then(|row| row.number(arch))
    }

    /// The kernel (major, minor) it came with; (0, 0) if the table does not know.
    #[must_use]
    pub fn since(self) -> (u8, u8) {
        self.row().map_or((0, 0), |row| row.since)
    }

    /// The name of a number on `arch`.
    #[must_use]
    pub fn of_number(arch: Arch, nr: u32) -> Option<Self> {
        Self::all().find(|name| name.number(arch) == Some(nr))
    }

    /// Every name of the table, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SYSCALLS.len()).filter_map(|i| u16::try_from(i).ok().map(Self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_and_numbers_are_unique() {
        assert!(SYSCALLS.windows(2).all(|w| w[0].name() < w[1].name()));
        for arch in Arch::ALL {
            let mut numbers: Vec<u32> = Name::all().filter_map(|n| n.number(arch)).collect();
            let all = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), all, "{arch:?}");
            assert!(all > 300, "{arch:?} has {all}");
        }
    }

    #[test]
    fn numbers_agree_with_libc() {
        // A second source: libc's constants for the machine that runs the test.
        for (name, nr) in [
            ("read", libc::SYS_read),
            ("clone3", libc::SYS_clone3),
            ("seccomp", libc::SYS_seccomp),
            ("openat2", libc::SYS_openat2),
            ("unshare", libc::SYS_unshare),
        ] {
            let found = Name::find(name).and_then(|n| n.number(Arch::NATIVE)).expect(name);
            assert_eq!(i64::from(found), nr, "{name}");
        }
    }

    #[test]
    fn finding_near_finds_the_same() {
        let mut before = None;
        for name in Name::all() {
            for hint in [before, None, Some(name), Some(Name(u16::MAX))] {
                assert_eq!(Name::find_after(name.as_str(), hint), Some(name));
            }
            before = Some(name);
        }
        assert_eq!(Name::find_after("nonsense", None), None);
    }
}
