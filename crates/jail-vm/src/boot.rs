//! Kernel and initramfs as a directory that QEMU's cell shows: made once a kernel, shared by every machine.
//!
//! The kernel is copied, for two reasons: the cell then shows this one file and not the whole of /boot, and an update that
//! replaces it cannot meet a machine half-way through its start.

use std::io::Write;
use std::path::{Path, PathBuf};

use jail_provision::newc::{self, Head, Newc};

use crate::files::{Shelf, stamp, write};
use crate::kernel::{Kernel, Need};
use crate::{Result, files};

/// The name of the kernel in the directory.
pub const KERNEL: &str = "kernel";
/// The name of the initramfs.
pub const INITRAMFS: &str = "initramfs";

/// What every machine loads, in this order.
const DRIVERS: [Need; 5] = [
    Need::Must("virtio_mmio"),
    Need::Must("virtio_console"),
    Need::Must("virtio_blk"),
    // Where erofs takes its checksums from; built in where ext4 is.
    Need::May("crc32c_generic"),
    Need::Must("erofs"),
];

/// What a machine needs beyond the drivers of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extras {
    /// A root whose changes are thrown away.
    pub overlay: bool,
    /// A home of the host's.
    pub home: bool,
    /// A disk of its own.
    pub disk: bool,
    /// A network.
    pub network: bool,
}

/// The directory for a kernel, with our guest program in the initramfs.
///
/// # Errors
/// A driver that is missing, or a file that cannot be read or written.
pub fn directory(cache: &Path, kernel: &Kernel, guest: &Path, extras: Extras) -> Result<PathBuf> {
    let mut needs = DRIVERS.to_vec();
    let also = [
        (extras.overlay || extras.disk, "overlay"),
        (extras.home, "fuse"),
        (extras.disk, "ext4"),
        (extras.network, "virtio_net"),
    ];
    needs.extend(also.into_iter().filter(|(wanted, _)| *wanted).map(|(_, driver)| Need::Must(driver)));
    let drivers = kernel.drivers(&needs)?;
    let mut source = stamp(&kernel.image)?;
    for file in drivers.iter().map(PathBuf::as_path).chain([guest]) {
        source.extend(stamp(file)?);
    }
    Shelf { cache, kind: "boot" }.get(&source, |dir| {
        let image = read(&kernel.image)?;
        files::write(&dir.join(KERNEL), |out| out.write_all(&image))?;
        let (guest, mut modules, mut order) = (read(guest)?, Vec::new(), String::new());
        for file in &drivers {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            order.push_str(&format!("{name}\n"));
            modules.push((name, read(file)?));
        }
        write(&dir.join(INITRAMFS), |out| {
            let mut archive = Newc::new(out);
            let of = |mode| Head { mode, ..Head::default() };
            let (directory, program, file) =
                (of(newc::DIRECTORY | 0o755), of(newc::FILE | 0o755), of(newc::FILE | 0o644));
            archive.record(b"init", program, &guest)?;
            archive.record(b"dev", directory, b"")?;
            archive.record(b"modules", directory, b"")?;
            archive.record(b"modules/order", file, order.as_bytes())?;
            for (name, content) in &modules {
                archive.record(format!("modules/{name}").as_bytes(), file, content)?;
            }
            archive.finish().map(drop)
        })
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| format!("cannot read '{}': {error}", path.display()))
}
