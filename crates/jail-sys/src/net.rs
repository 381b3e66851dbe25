//! Network devices: the loopback of a new network namespace, and the one of a virtual machine.

use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::{Errno, check};

/// Brings `lo` up, which also gives it 127.0.0.1 and ::1 (netdevice(7)).
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN` over the network namespace.
pub fn bring_loopback_up() -> Result<(), Errno> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: ifreq is plain data, zeroed, with a name that fits and ends in a zero; it lives through the call.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &request).into()).map(drop)
    }
}

/// Gives a device an IPv4 address and makes it the way to everywhere (netdevice(7), `SIOCADDRT`).
///
/// # Errors
/// `ENODEV` for a name that is no device, `EPERM` without `CAP_NET_ADMIN`.
pub fn set_up(name: &str, address: [u8; 4], mask: [u8; 4], gateway: [u8; 4]) -> Result<(), Errno> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if name.len() >= libc::IFNAMSIZ {
        return Err(Errno::NODEV);
    }
    // SAFETY: both structures are plain data that lives through the calls, zeroed, the name fits and ends in a zero.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        for (what, value) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask)] {
            request.ifr_ifru.ifru_addr = inet(value);
            check(libc::ioctl(socket.as_raw_fd(), what as libc::Ioctl, &request).into())?;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &request).into())?;
        let mut route: libc::rtentry = std::mem::zeroed();
        route.rt_dst = inet([0; 4]);
        route.rt_genmask = inet([0; 4]);
        route.rt_gateway = inet(gateway);
        route.rt_flags = (libc::RTF_UP | libc::RTF_GATEWAY) as libc::c_ushort;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as libc::Ioctl, &route).into()).map(drop)
    }
}

/// An IPv4 address in the form that these calls take (ip(7)): family, port, address.
fn inet(address: [u8; 4]) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().skip(2).zip(address) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}
