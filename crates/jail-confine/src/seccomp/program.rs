//! A finished program: loaded into the kernel, or run here to explain and to test it.

use std::io;

use jail_sys::seccomp::{Flags, Instruction};

use super::action::Action;
use super::emit::{AND, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, LOAD, MAX_INSTRUCTIONS, RETURN};

/// A BPF program ready to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
    flags: Flags,
}

/// What the kernel hands to a filter: `struct seccomp_data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeccompData {
    /// The system call's number.
    pub nr: u32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Where it was called from.
    pub instruction_pointer: u64,
    /// Its arguments.
    pub args: [u64; 6],
}

impl SeccompData {
    /// The word at a byte offset, as BPF loads it.
    fn word(&self, offset: u32) -> Option<u32> {
        let wide = |value: u64, high: bool| {
            let half = if high { value >> 32 } else { value & u64::from(u32::MAX) };
            u32::try_from(half).ok()
        };
        match offset {
            0 => Some(self.nr),
            4 => Some(self.arch),
            8 | 12 => wide(self.instruction_pointer, offset == 12),
            16..=60 if offset % 4 == 0 => {
                let arg = usize::try_from((offset - 16) / 8).ok()?;
                wide(*self.args.get(arg)?, offset % 8 == 4)
            }
            _ => None,
        }
    }
}

/// Why a program is not fit to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// It has no instruction, or more than the kernel takes.
    Length(usize),
    /// The instruction at this place is not one the compiler makes.
    Unknown(usize),
    /// The jump at this place leaves the program.
    Jump(usize),
    /// The program runs off its end.
    End,
    /// The load at this place is not a word of `struct seccomp_data`.
    Load(usize),
}

impl Program {
    pub(super) fn new(instructions: Vec<Instruction>, flags: Flags) -> Self {
        Self { instructions, flags }
    }

    /// A program that someone else compiled, to run it here or to look into it. See [`Program::verify`].
    #[must_use]
    pub fn from_instructions(instructions: Vec<Instruction>) -> Self {
        Self::new(instructions, Flags { log: true, ..Flags::default() })
    }

    /// How many instructions it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.instructions.len()
    }

    /// Whether it has none; a compiled program always has some.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instructions.is_empty()
    }

    /// The instructions, for printing.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// The flags it is loaded with: `LOG` always, so that refusals can be found in the log, and what the profile lists.
    #[must_use]
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// Loads it for this thread and everything it starts. There is no way back.
    ///
    /// # Errors
    /// Those of seccomp(2).
    pub fn load(&self, flags: Flags) -> io::Result<()> {
        jail_sys::seccomp::load(&self.instructions, flags)
    }

    /// Loads it and returns the descriptor on which its `Notify` answers are awaited.
    ///
    /// # Errors
    /// Those of seccomp(2).
    pub fn load_with_listener(&self) -> io::Result<std::os::fd::OwnedFd> {
        jail_sys::seccomp::load_with_listener(&self.instructions, self.flags)
    }

    /// What the kernel would answer: an interpreter of our own.
    ///
    /// What cannot happen in a verified program kills, as an unknown answer does.
    #[must_use]
    pub fn simulate(&self, data: &SeccompData) -> Action {
        let (mut at, mut accumulator) = (0_usize, 0_u32);
        while let Some(i) = self.instructions.get(at) {
            let mut skip = 0;
            let branch = |holds: bool| usize::from(if holds { i.jt } else { i.jf });
            match i.code {
                LOAD => match data.word(i.k) {
                    Some(word) => accumulator = word,
                    None => return Action::KillProcess,
                },
                AND => accumulator &= i.k,
                JUMP => skip = usize::try_from(i.k).unwrap_or(usize::MAX),
                JUMP_EQUAL => skip = branch(accumulator == i.k),
                JUMP_GREATER => skip = branch(accumulator > i.k),
                JUMP_GREATER_EQUAL => skip = branch(accumulator >= i.k),
                RETURN => return Action::from_raw(i.k),
                _ => return Action::KillProcess,
            }
            at = at.saturating_add(1).saturating_add(skip);
        }
        Action::KillProcess
    }

    /// Checks what the kernel's own checker would: known instructions, jumps inside, an answer at every end.
    ///
    /// # Errors
    /// The first defect.
    pub fn verify(&self) -> Result<(), Defect> {
        let len = self.instructions.len();
        if len == 0 || len > MAX_INSTRUCTIONS {
            return Err(Defect::Length(len));
        }
        for (at, i) in self.instructions.iter().enumerate() {
            let inside = |skip: u32| usize::try_from(skip).is_ok_and(|skip| skip < len - at - 1);
            match i.code {
                LOAD if SeccompData::default().word(i.k).is_none() => return Err(Defect::Load(at)),
                LOAD | AND if at + 1 == len => return Err(Defect::End),
                LOAD | AND | RETURN => {}
                JUMP if inside(i.k) => {}
                JUMP_EQUAL | JUMP_GREATER | JUMP_GREATER_EQUAL
                    if inside(u32::from(i.jt)) && inside(u32::from(i.jf)) => {}
                JUMP | JUMP_EQUAL | JUMP_GREATER | JUMP_GREATER_EQUAL => return Err(Defect::Jump(at)),
                _ => return Err(Defect::Unknown(at)),
            }
        }
        match self.instructions.last() {
            Some(last) if last.code == RETURN => Ok(()),
            _ => Err(Defect::End),
        }
    }
}
