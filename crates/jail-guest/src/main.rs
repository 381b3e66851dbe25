//! The first program of a virtual machine that holds a jail.
//!
//! The kernel starts it from the initramfs. It makes the machine fit to be entered ([`machine`]), is told over the channel
//! what to run, and runs it as the host would: the same policy, the same cell, the same confinement, by jail-confine's own
//! entry ([`session`]). The home may be the host's ([`home`]). Between channel and command it only passes bytes on ([`relay`]). It holds no secret and is not
//! trusted by the host: a user who breaks this kernel owns this program, and QEMU and its cell are what is left.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod channel;
mod home;
mod machine;
mod network;
mod relay;
mod session;

use jail_wire::{Home, PORT, ToGuest, ToHost, VERSION};

use crate::channel::Channel;

/// Why the machine is of no use, for a person.
type Result<T> = std::result::Result<T, String>;

fn main() {
    let port = machine::start().and_then(|()| machine::open_port(PORT));
    let mut channel = match port {
        Ok(port) => Channel::new(port),
        // The console is all that is left, and its last line is what the host shows.
        Err(why) => {
            eprintln!("jail-guest: {why}");
            machine::power_off();
        }
    };
    if let Err(why) = run(&mut channel) {
        channel.say(&ToHost::Failed(why));
        if channel.flush().is_err() {
            // The host is gone, and with it whoever would read this.
        }
    }
    // The host ends the machine when it has heard the last word; if it does not, so do we.
    jail_sys::process::sleep_milliseconds(10_000);
    machine::power_off();
}

fn run(channel: &mut Channel) -> Result<()> {
    channel.say(&ToHost::Hello(VERSION));
    let spec = loop {
        match channel.wait()? {
            Some(ToGuest::Start(spec)) => break spec,
            Some(_) => return Err("the host speaks out of turn".to_owned()),
            None => {}
        }
    };
    machine::set_clock(spec.clock);
    machine::mount_jail()?;
    match spec.home_from {
        Home::Empty => {}
        Home::Served => home::start()?,
        Home::Kept => machine::mount_kept(spec.uid, spec.gid)?,
    }
    let session = session::start(&spec)?;
    channel.say(&ToHost::Started);
    let status = relay::run(channel, session)?;
    machine::settle();
    channel.say(&ToHost::Exit(status));
    channel.flush()
}
