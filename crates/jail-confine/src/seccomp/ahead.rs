//! Programs compiled ahead: the built-in profiles under plain settings, which nearly every login has.
//!
//! A login starts with cold caches, where reading JSON and compiling costs some 200 microseconds; these cost a copy.
//! `ahead_programs.rs` is written by the example `seccomp-ahead`; a test fails when it is not what the compiler makes.

use jail_sys::seccomp::{Flags, Instruction};

use super::ahead_programs::PROGRAMS;
use super::arch::Arch;
use super::builtin::Builtin;
use super::compile::{Settings, Violation};
use super::floor::PortFilter;
use super::program::Program;

/// One program: the machine and the profile it is of.
pub(super) struct Ahead {
    pub(super) arch: Arch,
    pub(super) builtin: Builtin,
    pub(super) instructions: &'static [Instruction],
}

/// Shortens the generated table.
pub(super) const fn i(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// The profiles that are compiled ahead. (`strict` depends on pointers.)
pub const COMPILED_AHEAD: [Builtin; 3] = [Builtin::Default, Builtin::Transfer, Builtin::Off];

/// The program for these settings, if it is among them.
pub(super) fn program(settings: &Settings<'_>) -> Option<Program> {
    // Every field is named, so that a new one cannot be forgotten here. The kernel's version matters to `minKernel` only,
    // which no built-in profile has.
    let Settings { profile, arch, violation, ports, unsafe_open, kernel: _, caps, strict_exec } = settings;
    let plain = *violation == Violation::Errno
        && *ports == PortFilter::None
        && unsafe_open.is_empty()
        && *caps == 0
        && strict_exec.is_none();
    let builtin = profile.builtin().filter(|_| plain)?;
    let ahead = PROGRAMS.iter().find(|p| p.arch == *arch && p.builtin == builtin)?;
    Some(Program::new(ahead.instructions.to_vec(), Flags { log: true, ..Flags::default() }))
}
