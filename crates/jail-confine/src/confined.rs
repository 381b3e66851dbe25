//! The fourth stage: rights given up, in the one order that works (rulings 3).
//!
//! The bounding set before anything is made, securebits and the ambient set first of all here, since they need CAP_SETPCAP; then groups, gid and uid, since each needs what the next
//! gives up; then the capability sets, emptied by hand because the securebits switch the automatic emptying off; then
//! a look whether all of it is true; then no_new_privs, without which neither Landlock nor seccomp can be put on
//! unprivileged; seccomp last, because it may forbid any of the calls before it.

use jail_sys::process;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, Gid, Uid, capabilities,
    capability_is_in_bounding_set, clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::policy::values::Capability;
use crate::refusal::{OrRefuse, Refusal, Result, What};

/// Who a process becomes.
#[derive(Debug, Clone)]
pub(crate) enum Identity {
    /// This user.
    Change { uid: u32, gid: u32, groups: Vec<u32> },
    /// Whoever it is: in a user namespace with one uid there is nobody else.
    Keep,
}

/// Gives up every right but `kept`, for good, and checks that it is so. The bounding set is dropped already.
pub(crate) fn give_up_rights(identity: &Identity, kept: &[Capability]) -> Result<()> {
    let kept_set = mask(kept);
    clear_ambient_capability_set().or_refuse(What::Host, || "clear the ambient capabilities".into())?;
    lock_securebits(kept)?;
    change_identity(identity)?;
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(kept_set),
        permitted: CapabilitySet::from_bits_retain(kept_set),
        inheritable: CapabilitySet::from_bits_retain(kept_set),
    };
    set_capabilities(None, sets).or_refuse(What::Host, || "set the capabilities".into())?;
    for capability in kept {
        let set = CapabilitySet::from_bits_retain(1_u64.checked_shl(capability.0).unwrap_or(0));
        configure_capability_in_ambient_set(set, true)
            .or_refuse(What::Host, || format!("keep the capability {capability}"))?;
    }
    verify(identity, kept_set)?;
    set_no_new_privs(true).or_refuse(What::Host, || "set no_new_privs".into())?;
    // A change of credentials may have set it back; until exec nobody looks in here.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).or_refuse(What::Host, || "become undumpable".into())
}

fn mask(capabilities: &[Capability]) -> u64 {
    capabilities.iter().fold(0, |set, capability| set | 1_u64.checked_shl(capability.0).unwrap_or(0))
}

/// A capability outside the bounding set cannot come back by any exec, whatever file it is.
///
/// Done once, before the cell is made, since it is inherited: it takes nothing from a process that does not exec.
pub(crate) fn drop_bounding_set(kept: &[Capability]) -> Result<()> {
    let kept = mask(kept);
    for number in 0..64_u32 {
        let bit = 1_u64 << number;
        if kept & bit != 0 {
            continue;
        }
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(bit)) {
            Ok(()) => {}
            // The first number that this kernel does not know, if it does not know it by another call as well.
            Err(errno) => {
                let known = capability_is_in_bounding_set(CapabilitySet::from_bits_retain(bit));
                if (errno, known) == (Errno::INVAL, Err(Errno::INVAL)) {
                    return Ok(());
                }
                return Err(Refusal::new(
                    What::Host,
                    format!("cannot drop capability {number} from the bounding set: {errno}"),
                ));
            }
        }
    }
    Ok(())
}

/// uid 0, should anything ever become it, is a user like any other. A kept capability is raised into the ambient set
/// further on, so only without one can that be locked too. KEEP_CAPS stays unlocked: it means nothing beside
/// NO_SETUID_FIXUP, and ping (iputils since 2024) gives up if it may not set it.
fn lock_securebits(kept: &[Capability]) -> Result<()> {
    let mut bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED;
    if kept.is_empty() {
        bits |= CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    }
    set_capabilities_secure_bits(bits).or_refuse(What::Host, || "lock the securebits".into())
}

fn change_identity(identity: &Identity) -> Result<()> {
    let Identity::Change { uid, gid, groups } = identity else { return Ok(()) };
    let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    set_thread_groups(&groups).or_refuse(What::Host, || "set the supplementary groups".into())?;
    let gid = Gid::from_raw(*gid);
    set_thread_res_gid(gid, gid, gid).or_refuse(What::Host, || format!("become gid {}", gid.as_raw()))?;
    let uid = Uid::from_raw(*uid);
    set_thread_res_uid(uid, uid, uid).or_refuse(What::Host, || format!("become uid {}", uid.as_raw()))
}

/// What the calls above claim is looked at, not believed.
fn verify(identity: &Identity, kept: u64) -> Result<()> {
    let wrong =
        |what: &str| Refusal::new(What::Host, format!("after giving up all rights {what}; this is a defect"));
    let sets = capabilities(None).or_refuse(What::Host, || "read the capabilities back".into())?;
    if sets.effective.bits() != kept || sets.permitted.bits() != kept || sets.inheritable.bits() != kept {
        return Err(wrong("a capability is left"));
    }
    let administer = CapabilitySet::SYS_ADMIN;
    if kept & administer.bits() == 0
        && capability_is_in_bounding_set(administer)
            .or_refuse(What::Host, || "read the bounding set".into())?
    {
        return Err(wrong("the bounding set is not empty"));
    }
    let Identity::Change { uid, gid, .. } = identity else { return Ok(()) };
    let ids = process::ids().or_refuse(What::Host, || "read the ids back".into())?;
    if ids.user != [*uid; 3] {
        return Err(wrong("the uid is not the user's"));
    }
    if ids.group != [*gid; 3] {
        return Err(wrong("the gid is not the user's"));
    }
    if *uid != 0 && set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).is_ok() {
        return Err(wrong("root can be had back"));
    }
    Ok(())
}

/// Asks for a signal when the parent ends; only after the last change of uid, which clears it (prctl(2)).
pub(crate) fn die_with_parent(signal: i32) -> Result<()> {
    process::parent_death_signal(signal).or_refuse(What::Host, || "ask for the parent's end".into())
}
