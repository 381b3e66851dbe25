//! From the policy's words to a seccomp program, while files can still be opened.

use std::path::Path;

use jail_sys::process::Exec;

use crate::admission::read_all;
use crate::policy::Policy;
use crate::policy::values::{Network, Seccomp, Violation};
use crate::refusal::{OrRefuse, Refusal, Result, What};
use crate::seccomp::{self, Builtin, ExecPointers, PortFilter, Program, Settings, Source, UnsafeItem};
use crate::trusted::{self, Trust};

/// Reads the profile that the policy names, if that is a file. Before any user namespace: owners are not known in it.
///
/// # Errors
/// A profile that cannot be trusted or read.
pub fn read_profile(policy: &Policy, trust: Trust) -> Result<Option<Vec<u8>>> {
    let Seccomp::File(path) = &policy.seccomp else { return Ok(None) };
    let (fd, _) = trusted::open_file(Path::new(&path.0), trust)
        .map_err(|why| Refusal::new(What::Policy, format!("seccomp profile: {why}")))?;
    read_all(&fd).or_refuse(What::Policy, || format!("read '{path}'")).map(Some)
}

/// Compiles the profile that the policy names; `file` is what [`read_profile`] gave.
///
/// # Errors
/// A profile that cannot be compiled; an unknown word in `unsafe`.
// Its frame must be gone while the waiter waits: see release_unused_stack.
#[inline(never)]
pub(crate) fn compile(
    policy: &Policy,
    file: &Option<Vec<u8>>,
    exec: &Exec,
    notes: &mut Vec<String>,
) -> Result<Program> {
    let source = match &policy.seccomp {
        Seccomp::Default => Source::Builtin(Builtin::Default),
        Seccomp::Transfer => Source::Builtin(Builtin::Transfer),
        Seccomp::Strict => Source::Builtin(Builtin::Strict),
        Seccomp::Off => Source::Builtin(Builtin::Off),
        Seccomp::File(path) => {
            let json = file.as_deref().ok_or_else(|| {
                Refusal::new(What::Policy, format!("seccomp profile '{path}' was not read; this is a defect"))
            })?;
            Source::File { json, name: &path.0 }
        }
    };
    let profile = source.profile().map_err(|why| Refusal::new(What::Policy, why.to_string()))?;
    let unsafe_open = unsafe_items(policy)?;
    let (path, argv, envp) = exec.addresses();
    let settings = Settings {
        profile: &profile,
        arch: seccomp::Arch::NATIVE,
        violation: match policy.violation {
            Violation::Errno => seccomp::Violation::Errno,
            Violation::Kill => seccomp::Violation::Kill,
            Violation::Log => seccomp::Violation::Log,
        },
        ports: match policy.network {
            Network::Ports { .. } => PortFilter::PortList,
            _ => PortFilter::None,
        },
        unsafe_open: &unsafe_open,
        kernel: kernel_version(),
        caps: policy.capabilities.iter().fold(0, |set, c| set | 1_u64.checked_shl(c.0).unwrap_or(0)),
        strict_exec: (policy.seccomp == Seccomp::Strict).then_some(ExecPointers { path, argv, envp }),
    };
    let (program, remarks) =
        seccomp::compile(&settings).map_err(|why| Refusal::new(What::Policy, why.to_string()))?;
    // The shipped profiles are written to be right on kernels old and new: what they name in vain is no news.
    if matches!(policy.seccomp, Seccomp::File(_)) {
        notes.extend(remarks.iter().map(|remark| format!("seccomp profile '{}': {remark}", policy.seccomp)));
    }
    Ok(program)
}

fn unsafe_items(policy: &Policy) -> Result<Vec<UnsafeItem>> {
    let parse = |word: &String| {
        UnsafeItem::parse(word).ok_or_else(|| {
            Refusal::new(What::Policy, format!("'{word}' in unsafe = […] names no part of the floor"))
        })
    };
    policy.r#unsafe.iter().map(parse).collect()
}

/// Major and minor of the running kernel; an unreadable one counts as old.
pub(crate) fn kernel_version() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
