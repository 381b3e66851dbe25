//! The network of a machine that has one: the one device that QEMU gives it, with the addresses of its user-mode stack.

use jail_wire::{ADDRESS, GATEWAY, NAME_SERVER};
use rustix::fs::{Mode, OFlags};

use crate::Result;
use crate::machine;

/// The device, as the kernel names the first.
const DEVICE: &str = "eth0";

/// Brings it up. What asks for names finds whom to ask where it does on any host.
pub(crate) fn start() -> Result<()> {
    machine::patiently(|| std::fs::metadata(format!("/sys/class/net/{DEVICE}")).ok())
        .ok_or_else(|| format!("there is no network device {DEVICE}"))?;
    jail_sys::net::bring_loopback_up()
        .and_then(|()| jail_sys::net::set_up(DEVICE, ADDRESS, [255, 255, 255, 0], GATEWAY))
        .map_err(|errno| format!("cannot bring the network up: {errno}"))?;
    machine::directory("/etc")?;
    let doing = |errno| format!("cannot write /etc/resolv.conf: {errno}");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::open("/etc/resolv.conf", flags, Mode::from_raw_mode(0o644)).map_err(doing)?;
    rustix::io::write(&file, format!("nameserver {NAME_SERVER}\n").as_bytes()).map(drop).map_err(doing)
}
