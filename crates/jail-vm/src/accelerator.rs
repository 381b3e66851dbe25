//! Who executes a guest's instructions: the processor, where that works, else QEMU.
//!
//! That /dev/kvm can be opened says little: on some hosts QEMU ends over it, on others a guest hangs (nested machines,
//! other hypervisors below). So the first start on a host is tried: a machine is booted to the first word of its guest. The
//! verdict is kept for each user until the host boots anew, or kernel or QEMU change.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use jail_confine::policy::values::Accel;
use jail_confine::refusal::{OrRefuse, Refusal, Result, What, printable};
use jail_provision::digest::Digest;
use rustix::fs::{Mode, OFlags};

use crate::cell::{self, Parts, QemuJail};
use crate::files::{stamp, write};
use crate::machine::{Accelerator, DEFAULT_MEMORY, Machine, PROGRAM};
use crate::relay;

/// The device.
const KVM: &str = "/dev/kvm";
/// How long a guest may take that the processor runs: it is there in less than one second.
const PATIENCE: Duration = Duration::from_secs(15);
const WORKS: &str = "works";

/// What was chosen.
#[derive(Debug)]
pub struct Choice {
    /// Who executes.
    pub accelerator: Accelerator,
    /// Why it is not the processor, for the log.
    pub note: Option<String>,
}

/// Chooses; `rate` is the host's clock, for an emulated guest.
///
/// # Errors
/// A policy that wants the processor on a host where that does not work.
pub fn choose(parts: &Parts<'_>, qemu: &QemuJail, rate: Option<u64>) -> Result<Choice> {
    let why = match open().and_then(|kvm| try_once(parts, qemu, kvm)) {
        Ok(kvm) => return Ok(Choice { accelerator: Accelerator::Kvm(kvm), note: None }),
        Err(why) => why,
    };
    match parts.policy.vm_accel {
        Accel::Kvm => Err(Refusal::new(
            What::Host,
            format!(
                "vm.accel = \"kvm\" (from {}), and {why}; vm.accel = \"any\" allows emulation, which is slower by far",
                parts.policy.origin("vm.accel")
            ),
        )),
        Accel::Any => Ok(Choice {
            accelerator: Accelerator::Emulation(rate),
            note: Some(format!("the virtual machine is emulated, which is slower by far: {why}")),
        }),
    }
}

fn open() -> std::result::Result<OwnedFd, String> {
    rustix::fs::open(KVM, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| format!("'{KVM}' cannot be opened: {errno}"))
}

/// What is known of this host, or the trial.
fn try_once(parts: &Parts<'_>, qemu: &QemuJail, kvm: OwnedFd) -> std::result::Result<OwnedFd, String> {
    let known = parts.cache.join("machines").join(format!("kvm-{}", state(parts)?));
    let verdict = match std::fs::read_to_string(&known) {
        Ok(verdict) => verdict,
        Err(_) => {
            let verdict = trial(parts, qemu, &kvm).err().unwrap_or_else(|| WORKS.to_owned());
            keep(&known, &verdict);
            verdict
        }
    };
    if verdict == WORKS { Ok(kvm) } else { Err(format!("a guest does not start under '{KVM}': {verdict}")) }
}

/// What the verdict depends on.
fn state(parts: &Parts<'_>) -> std::result::Result<String, String> {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    // It is tried with the user's limits, and so says nothing of others.
    let user = parts.account.uid.to_le_bytes().to_vec();
    let state =
        [boot, stamp(Path::new(PROGRAM))?, stamp(&parts.boot)?, stamp(Path::new(KVM))?, user].concat();
    Ok(Digest::of(&state).to_string().chars().take(20).collect())
}

/// By a new name first: another start may look at it now. One that cannot be kept is tried again next time.
fn keep(path: &Path, verdict: &str) {
    let new = path.with_extension(std::process::id().to_string());
    let written = write(&new, |out| out.write_all(verdict.as_bytes()));
    if written.is_err() || std::fs::rename(&new, path).is_err() {
        std::fs::remove_file(&new).unwrap_or_default();
    }
}

/// Boots a guest to its first word.
fn trial(parts: &Parts<'_>, qemu: &QemuJail, kvm: &OwnedFd) -> std::result::Result<(), String> {
    let doing = || format!("use '{KVM}'");
    let kvm = kvm.try_clone().or_refuse(What::Host, doing).map_err(|refusal| refusal.why)?;
    let machine = Machine {
        memory: DEFAULT_MEMORY,
        processors: 1,
        accelerator: Accelerator::Kvm(kvm),
        home: None,
        disk: None,
        network: false,
    };
    let running = cell::start(parts, qemu, &machine).map_err(|refusal| refusal.why)?;
    let heard = relay::first_word(&running, Instant::now() + PATIENCE);
    running.end();
    match heard {
        Ok(true) => Ok(()),
        Ok(false) => {
            let said = relay::last_words(&running);
            let why = if said.is_empty() { "it says nothing".to_owned() } else { printable(said.as_bytes()) };
            Err(why)
        }
        Err(why) => Err(why),
    }
}
