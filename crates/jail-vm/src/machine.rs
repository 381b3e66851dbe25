//! QEMU's command line: the least machine that a jail can run in.
//!
//! `microvm` has no PCI, no firmware to speak of and seven devices in all; each device that is not there is code of QEMU
//! that a hostile guest cannot reach. What is said to QEMU is in this file alone.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};

use jail_wire::{HOME_PORT, PORT};

use crate::boot::{INITRAMFS, KERNEL};
use crate::image::IMAGE;

/// QEMU, as its own jail has it.
pub const PROGRAM: &str = "/usr/bin/qemu-system-x86_64";
/// Where its cell shows kernel and initramfs; the section `qemu` makes these directories.
pub const BOOT: &str = "/machine/boot";
/// Where its cell shows the jail's image.
pub const ROOT: &str = "/machine/root";
/// What a machine gets if the policy does not say.
pub const DEFAULT_MEMORY: u64 = 256 << 20;

/// Who executes the guest's instructions.
#[derive(Debug)]
pub enum Accelerator {
    /// The processor, by /dev/kvm, which this is.
    Kvm(OwnedFd),
    /// QEMU. The rate of the host's time stamp counter in kHz, which the guest cannot measure: see [`Machine::kernel_line`].
    Emulation(Option<u64>),
}

/// A machine to be started.
#[derive(Debug)]
pub struct Machine {
    /// In bytes.
    pub memory: u64,
    /// Processors.
    pub processors: u32,
    /// Who executes.
    pub accelerator: Accelerator,
    /// QEMU's end of the socket that the home is served through.
    pub home: Option<OwnedFd>,
    /// The machine's own disk, if it is kept.
    pub disk: Option<OwnedFd>,
    /// Whether the guest has a network: QEMU's cell's, by its user-mode stack.
    pub network: bool,
}

impl Machine {
    /// What QEMU finds open, by number.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        let kvm = match &self.accelerator {
            Accelerator::Kvm(kvm) => Some(kvm),
            Accelerator::Emulation(_) => None,
        };
        kvm.into_iter().chain(&self.home).chain(&self.disk)
    }

    /// The words of the command; the first is the program.
    #[must_use]
    pub fn words(&self) -> Vec<OsString> {
        let mut words: Vec<String> = vec![PROGRAM.to_owned()];
        let mut say = |parts: &[&str]| words.extend(parts.iter().map(|part| (*part).to_owned()));
        // Nothing that is not named here, no configuration of the host's, no window; a guest that starts anew ends.
        say(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        // QEMU's own filter, inside ours.
        say(&["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
        // ACPI is how the guest finds its devices. Neither PIT nor PIC: it has better.
        say(&["-M", "microvm,acpi=on,pit=off,pic=off,rtc=off,isa-serial=on,auto-kernel-cmdline=off"]);
        match &self.accelerator {
            Accelerator::Kvm(kvm) => {
                say(&["-add-fd", &format!("set=1,fd={}", kvm.as_raw_fd())]);
                say(&["-accel", "kvm,device=/dev/fdset/1", "-cpu", "host"]);
            }
            Accelerator::Emulation(_) => say(&["-accel", "tcg,tb-size=128", "-cpu", "max"]),
        }
        say(&["-m", &format!("{}k", self.memory >> 10), "-smp", &self.processors.to_string()]);
        say(&["-kernel", &format!("{BOOT}/{KERNEL}"), "-initrd", &format!("{BOOT}/{INITRAMFS}")]);
        say(&["-append", &self.kernel_line()]);
        // The channel is our end of a socket, on QEMU's standard input: it has no name anywhere.
        say(&["-chardev", "socket,id=channel,fd=0", "-device", "virtio-serial-device,max_ports=3"]);
        say(&["-device", &format!("virtserialport,chardev=channel,name={PORT},nr=1")]);
        if let Some(home) = &self.home {
            say(&["-chardev", &format!("socket,id=home,fd={}", home.as_raw_fd())]);
            say(&["-device", &format!("virtserialport,chardev=home,name={HOME_PORT},nr=2")]);
        }
        // No lock: the image is read by many machines at once, and written by none.
        say(&[
            "-blockdev",
            &format!(
                "driver=raw,node-name=root,read-only=on,file.driver=file,file.locking=off,file.filename={ROOT}/{IMAGE}"
            ),
        ]);
        say(&["-device", "virtio-blk-device,drive=root,serial=root"]);
        if let Some(disk) = &self.disk {
            say(&["-add-fd", &format!("set=2,fd={}", disk.as_raw_fd())]);
            // What a guest lets go of is given back to the host's disk.
            let file = "file.driver=file,file.locking=off,file.filename=/dev/fdset/2,discard=unmap";
            say(&["-blockdev", &format!("driver=raw,node-name=disk,{file}")]);
            say(&["-device", "virtio-blk-device,drive=disk,serial=disk"]);
        }
        if self.network {
            say(&["-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-device,netdev=net"]);
        }
        // The kernel's last words, beside QEMU's own.
        say(&["-chardev", "file,id=console,path=/proc/self/fd/2", "-serial", "chardev:console"]);
        words.into_iter().map(OsString::from).collect()
    }

    /// What the kernel is told. It says nothing until it panics (at `loglevel=0` not even then).
    ///
    /// An emulated machine of this kind has no second clock to measure its time stamp counter by. Measuring it fails on a
    /// busy host, and then the kernel waits for a first tick for ever. The emulated counter is the host's, so the host's
    /// rate is right.
    #[must_use]
    pub fn kernel_line(&self) -> String {
        let mut line = String::from("console=ttyS0 loglevel=1 reboot=t panic=-1 random.trust_cpu=on");
        if let Accelerator::Emulation(Some(rate)) = self.accelerator {
            line.push_str(&format!(" tsc_early_khz={rate} tsc=reliable"));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(machine: &Machine) -> Vec<String> {
        machine.words().into_iter().map(|word| word.into_string().expect("UTF-8")).collect()
    }

    fn after<'a>(words: &'a [String], flag: &str) -> &'a str {
        let at = words.iter().position(|word| word == flag).expect("the flag");
        &words[at + 1]
    }

    #[test]
    fn a_machine_has_what_the_policy_says_and_no_network() {
        let machine = Machine {
            memory: 300 << 20,
            processors: 2,
            accelerator: Accelerator::Emulation(Some(2_300_000)),
            home: None,
            disk: None,
            network: false,
        };
        let words = words(&machine);
        assert_eq!(after(&words, "-m"), "307200k");
        assert_eq!(after(&words, "-smp"), "2");
        assert!(after(&words, "-append").contains("tsc_early_khz=2300000 "));
        assert!(words.contains(&"-nodefaults".to_owned()), "or QEMU adds a network card");
        assert!(!words.iter().any(|word| word.contains("net")), "{words:?}");
        let disks: Vec<&String> = words.iter().filter(|word| word.starts_with("driver=")).collect();
        assert!(disks.len() == 1 && disks[0].contains("read-only=on"), "{disks:?}");
        assert!(
            after(&words, "-sandbox").starts_with("on,") && after(&words, "-sandbox").contains("spawn=deny")
        );
    }

    #[test]
    fn kvm_needs_no_rate() {
        let open = |path: &str| OwnedFd::from(std::fs::File::open(path).expect("opened"));
        let machine = Machine {
            memory: 1 << 30,
            processors: 1,
            accelerator: Accelerator::Kvm(open("/dev/null")),
            home: Some(open("/dev/null")),
            disk: None,
            network: true,
        };
        let words = words(&machine);
        assert!(after(&words, "-accel").starts_with("kvm,"));
        let home = format!("socket,id=home,fd={}", machine.home.as_ref().expect("given").as_raw_fd());
        assert!(words.contains(&home), "{words:?}");
        assert_eq!(machine.descriptors().count(), 2);
        assert!(after(&words, "-netdev").starts_with("user,"));
        assert!(!after(&words, "-append").contains("tsc"));
    }
}
