//! seccomp: from Docker's profile format to a filter program, with a floor under every profile.
//!
//! [`Source::profile`] reads a profile (JSON of Docker, OCI or containers-common), [`compile`] makes a BPF program of it
//! and [`Program::load`] hands that to the kernel. The compiler is our own: a graph of tests shared where it is equal
//! (`dag`), one balanced search over system call numbers, and an emitter that writes back to front (`emit`).
//! It is held against libseccomp in tests.

mod action;
mod ahead;
mod ahead_programs;
mod arch;
mod builtin;
pub mod caps;
mod compile;
mod dag;
mod emit;
mod errno;
mod error;
mod floor;
mod names;
mod profile;
mod program;
mod supervisor;
mod table;

pub use action::{Action, Verdict};
pub use ahead::COMPILED_AHEAD;
pub use arch::{Arch, X32_BIT};
pub use builtin::{Builtin, Profile, Source, parse};
pub use compile::{ExecPointers, Note, Settings, Violation, ask_about_everything, compile, compile_now};
pub use error::Error;
pub use floor::{PortFilter, UnsafeItem};
pub use jail_sys::seccomp::{Flags, Instruction};
pub use names::Name;
pub use program::{Defect, Program, SeccompData};
pub use supervisor::{Supervisor, supervisor};
