//! The filter of the processes that stay with a session: the cell's first process inside and the waiter outside.
//!
//! Both hold nobody's rights, but both live as long as the session, and the first one reads what untrusted programs send
//! to `/dev/log`. Should one of them be taken over, these few calls are all that it has of the kernel. Any other fails
//! with EPERM: a C library that asks for one more must not end everybody's sessions.

use jail_sys::seccomp::{Flags, Instruction};

use super::action::Action;
use super::arch::Arch;
use super::emit::{AND, JUMP_EQUAL, JUMP_GREATER_EQUAL, LOAD, RETURN};
use super::names::Name;
use super::program::Program;

/// Whose filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supervisor {
    /// The cell's first process: it waits for the end and relays the log.
    FirstProcess,
    /// The process outside: it passes signals in and the status out.
    Waiter,
    /// The same for a session in a chroot: it ends what that leaves, by the kernel's list of its children.
    WaiterOfChroot,
}

/// One call that may be made.
enum Call {
    Any(&'static str),
    /// If the low half of an argument is this.
    Where(&'static str, u32, u32),
    /// If the low half of an argument has none of these bits.
    Without(&'static str, u32, u32),
}

use Call::{Any, Where, Without};

impl Call {
    /// Its number on this machine.
    fn number(&self) -> Option<u32> {
        let (Any(name) | Where(name, ..) | Without(name, ..)) = self;
        Name::find(name)?.number(Arch::NATIVE)
    }
}

const PROT_EXEC: u32 = 4;
const AF_UNIX: u32 = 1;
const FIONBIO: u32 = 0x5421;
const TIOCSPGRP: u32 = 0x5410;
/// Everything but reading: write, both, create, truncate.
const NOT_JUST_READING: u32 = 0o1 | 0o2 | 0o100 | 0o1000;
const EPERM: u16 = 1;

/// Ending, sleeping, memory that is never code, and being stopped and continued.
const BOTH: [Call; 17] = [
    Any("brk"),
    Any("clock_gettime"),
    Any("clock_nanosleep"),
    Any("close"),
    Any("exit"),
    Any("exit_group"),
    Any("kill"),
    Any("madvise"),
    Without("mmap", 2, PROT_EXEC),
    Any("mremap"),
    Any("munmap"),
    Any("nanosleep"),
    Any("poll"),
    Any("ppoll"),
    Any("read"),
    Any("restart_syscall"),
    Any("rt_sigreturn"),
];

/// The lock that keeps the last one from leaving while a next one comes, and the way to the host's logger.
const FIRST_PROCESS: [Call; 5] =
    [Any("connect"), Any("flock"), Where("ioctl", 1, FIONBIO), Any("sendto"), Where("socket", 0, AF_UNIX)];

/// Signals, children, and a terminal that has to be given back.
const WAITER: [Call; 7] = [
    Any("alarm"),
    Any("getppid"),
    Where("ioctl", 1, TIOCSPGRP),
    Any("rt_sigtimedwait"),
    Any("setitimer"),
    Any("wait4"),
    Any("waitid"),
];

/// C libraries open by either of the two.
const OF_CHROOT: [Call; 3] =
    [Any("getpid"), Without("open", 1, NOT_JUST_READING), Without("openat", 2, NOT_JUST_READING)];

/// The program for a process that stays.
#[must_use]
pub fn supervisor(of: Supervisor) -> Program {
    let more: [&[Call]; 2] = match of {
        Supervisor::FirstProcess => [&FIRST_PROCESS, &[]],
        Supervisor::Waiter => [&WAITER, &[]],
        Supervisor::WaiterOfChroot => [&WAITER, &OF_CHROOT],
    };
    let mut out = vec![
        Instruction { code: LOAD, jt: 0, jf: 0, k: 4 },
        Instruction { code: JUMP_EQUAL, jt: 1, jf: 0, k: Arch::NATIVE.audit() },
        answer(Action::KillProcess),
        Instruction { code: LOAD, jt: 0, jf: 0, k: 0 },
    ];
    let mut calls: Vec<(u32, &Call)> = BOTH
        .iter()
        .chain(more.into_iter().flatten())
        // A call that this architecture has under another name is named beside it.
        .filter_map(|call| Some((call.number()?, call)))
        .collect();
    calls.sort_unstable_by_key(|(number, _)| *number);
    out.extend(among(&calls));
    Program::new(out, Flags::default())
}

/// The kernel tries a new program on every number there is, so these are halved until few are left, not asked one by one.
fn among(calls: &[(u32, &Call)]) -> Vec<Instruction> {
    const FEW: usize = 3;
    let (below, above) = calls.split_at(calls.len() / 2);
    if let (Some((first, _)), true) = (above.first(), calls.len() > FEW) {
        let below = among(below);
        if let Ok(over) = u8::try_from(below.len()) {
            let halves = Instruction { code: JUMP_GREATER_EQUAL, jt: over, jf: 0, k: *first };
            return [vec![halves], below, among(above)].concat();
        }
    }
    let mut out = Vec::new();
    for (number, call) in calls {
        push(&mut out, *number, call);
    }
    out.push(answer(Action::Errno(EPERM)));
    out
}

const fn answer(action: Action) -> Instruction {
    Instruction { code: RETURN, jt: 0, jf: 0, k: action.to_raw() }
}

/// Each call is a test of the number with its own answers behind it: the next one finds the number still loaded.
fn push(out: &mut Vec<Instruction>, number: u32, call: &Call) {
    let word = |index: u32| Instruction { code: LOAD, jt: 0, jf: 0, k: 16 + 8 * index };
    let equal = |k: u32, jt: u8, jf: u8| Instruction { code: JUMP_EQUAL, jt, jf, k };
    let (allow, refuse) = (answer(Action::Allow), answer(Action::Errno(EPERM)));
    match call {
        Any(_) => out.extend([equal(number, 0, 1), allow]),
        Where(_, index, value) => {
            out.extend([equal(number, 0, 4), word(*index), equal(*value, 0, 1), allow, refuse]);
        }
        Without(_, index, bits) => {
            let masked = Instruction { code: AND, jt: 0, jf: 0, k: *bits };
            out.extend([equal(number, 0, 5), word(*index), masked, equal(0, 0, 1), allow, refuse]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::program::SeccompData;
    use super::*;

    fn verdict(of: Supervisor, name: &str, args: [u64; 6]) -> Action {
        let nr = Name::find(name).and_then(|name| name.number(Arch::NATIVE)).expect("a call of this machine");
        let data = SeccompData { nr, arch: Arch::NATIVE.audit(), instruction_pointer: 0, args };
        supervisor(of).simulate(&data)
    }

    #[test]
    fn nothing_is_allowed_that_starts_opens_or_looks_into_anything() {
        let refused = Action::Errno(EPERM);
        for of in [Supervisor::FirstProcess, Supervisor::Waiter, Supervisor::WaiterOfChroot] {
            supervisor(of).verify().expect("well-formed");
            for name in ["execve", "clone", "ptrace", "mount", "setns", "unshare", "prctl", "write", "bpf"] {
                assert_eq!(verdict(of, name, [0; 6]), refused, "{of:?} {name}");
            }
            assert_eq!(verdict(of, "mmap", [0, 4096, 3, 0, 0, 0]), Action::Allow);
            assert_eq!(verdict(of, "mmap", [0, 4096, 7, 0, 0, 0]), refused);
            assert_eq!(verdict(of, "exit_group", [0; 6]), Action::Allow);
        }
        let first = Supervisor::FirstProcess;
        assert_eq!(verdict(first, "socket", [1, 0, 0, 0, 0, 0]), Action::Allow);
        assert_eq!(verdict(first, "socket", [2, 0, 0, 0, 0, 0]), refused);
        assert_eq!(verdict(first, "openat", [0; 6]), refused);
        assert_eq!(verdict(Supervisor::Waiter, "socket", [1, 0, 0, 0, 0, 0]), refused);
        assert_eq!(verdict(Supervisor::Waiter, "ioctl", [0, 0x5412, 0, 0, 0, 0]), refused);
        assert_eq!(verdict(Supervisor::Waiter, "openat", [0; 6]), refused);
        assert_eq!(verdict(Supervisor::WaiterOfChroot, "openat", [0; 6]), Action::Allow);
        assert_eq!(verdict(Supervisor::WaiterOfChroot, "openat", [0, 0, 0o101, 0, 0, 0]), refused);
    }

    #[test]
    fn a_foreign_abi_ends_the_process() {
        let data = SeccompData { nr: 1, arch: Arch::X86.audit(), ..SeccompData::default() };
        assert_eq!(supervisor(Supervisor::Waiter).simulate(&data), Action::KillProcess);
    }
}
