//! Which kernel a machine boots, and which of its drivers have to be loaded.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::Result;

/// A kernel image and its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The image.
    pub image: PathBuf,
    /// Its release, as uname gives it.
    pub release: String,
    /// The directory with its `modules.dep`.
    pub modules: PathBuf,
}

/// A driver that a machine needs, and whether it can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// No machine without it.
    Must(&'static str),
    /// Loaded where the kernel has it as a module.
    May(&'static str),
}

impl Kernel {
    /// The kernel at a path, or the host's own: the running one, else the newest in /boot.
    ///
    /// # Errors
    /// No kernel, one that cannot be read, something else than a kernel, or one without its modules.
    pub fn find(named: Option<&Path>) -> Result<Self> {
        match named {
            Some(path) => Self::at(path),
            None => Self::of_host(Path::new("/boot"), &running()),
        }
    }

    fn of_host(boot: &Path, running: &str) -> Result<Self> {
        let own = boot.join(format!("vmlinuz-{running}"));
        if own.exists() {
            return Self::at(&own);
        }
        let mut images: Vec<PathBuf> = std::fs::read_dir(boot)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        images.retain(|path| name(path).starts_with("vmlinuz-"));
        images.sort_by_key(|path| version(&name(path)));
        let Some(newest) = images.last() else {
            return Err(format!(
                "there is no kernel to boot: no '{}/vmlinuz-*'; install one (Debian: apt-get install \
                 linux-image-cloud-amd64) or name one with --vm-kernel",
                boot.display()
            ));
        };
        Self::at(newest)
    }

    fn at(path: &Path) -> Result<Self> {
        let release = release(path)?;
        let above = path.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        // Beside the image first: a kernel that was unpacked somewhere brings its own.
        let places =
            [above.join("lib/modules"), PathBuf::from("/lib/modules"), PathBuf::from("/usr/lib/modules")];
        let found =
            places.iter().map(|place| place.join(&release)).find(|dir| dir.join("modules.dep").exists());
        // A package that was only unpacked has no list of dependencies yet.
        let unpacked =
            || places.iter().map(|place| place.join(&release)).find(|dir| dir.join("kernel").exists());
        if let Some(modules) = found.or_else(unpacked) {
            return Ok(Self { image: path.to_owned(), release, modules });
        }
        Err(format!(
            "the kernel '{}' is {release}, and its drivers are neither in '{}' nor in '/lib/modules'; install its package",
            path.display(),
            places[0].display()
        ))
    }

    /// The files of the drivers, each after those it depends on.
    ///
    /// # Errors
    /// A driver that the kernel has neither built in nor as a module.
    pub fn drivers(&self, needs: &[Need]) -> Result<Vec<PathBuf>> {
        let read = |name: &str| std::fs::read_to_string(self.modules.join(name)).unwrap_or_default();
        let builtin: BTreeSet<String> =
            read("modules.builtin").lines().map(|line| plain_name(Path::new(line))).collect();
        let listed = read("modules.dep");
        let listed = if listed.is_empty() { self.dependencies_by_depmod()? } else { listed };
        let mut files: Vec<PathBuf> = Vec::new();
        for need in needs {
            let (Need::Must(wanted) | Need::May(wanted)) = *need;
            let line = listed.lines().find(|line| {
                line.split(':').next().is_some_and(|file| plain_name(Path::new(file)) == wanted)
            });
            let Some((file, before)) = line.and_then(|line| line.split_once(':')) else {
                if builtin.contains(wanted) || *need == Need::May(wanted) {
                    continue;
                }
                return Err(format!(
                    "the kernel '{}' ({}) has no {wanted}, neither built in nor in '{}': a machine needs it; name \
                     another kernel (--vm-kernel, vm.kernel)",
                    self.image.display(),
                    self.release,
                    self.modules.display()
                ));
            };
            // modules.dep(5): what must be loaded first stands last.
            for file in before.split_whitespace().rev().chain([file]) {
                let path = self.modules.join(file);
                if !files.contains(&path) {
                    files.push(path);
                }
            }
        }
        Ok(files)
    }

    fn dependencies_by_depmod(&self) -> Result<String> {
        let base = self.modules.ancestors().nth(3).unwrap_or(Path::new("/"));
        let program = ["/sbin/depmod", "/usr/sbin/depmod"].into_iter().find(|path| Path::new(path).exists());
        let made = program.map(|program| {
            std::process::Command::new(program)
                .arg("-n")
                .arg("-b")
                .arg(base)
                .arg(&self.release)
                .env_clear()
                .output()
        });
        match made {
            Some(Ok(out)) if out.status.success() => {
                let text = String::from_utf8_lossy(&out.stdout).into_owned();
                // It prints every list, one after the other; the first is modules.dep.
                Ok(text
                    .lines()
                    .take_while(|line| !line.starts_with('#'))
                    .map(|line| format!("{line}\n"))
                    .collect())
            }
            _ => Err(format!(
                "'{}' has no modules.dep, and depmod cannot make one; run depmod -b '{}' {} (package kmod)",
                self.modules.display(),
                base.display(),
                self.release
            )),
        }
    }
}

fn running() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Numbers compare as numbers: 6.10 is newer than 6.9.
fn version(name: &str) -> Vec<(u64, String)> {
    name.split(['.', '-', '_']).map(|part| (part.parse().unwrap_or(0), part.to_owned())).collect()
}

/// A module's name as the kernel has it: without directory and endings, `_` for `-`.
fn plain_name(file: &Path) -> String {
    let name = file.file_name().unwrap_or(OsStr::new("")).to_string_lossy();
    name.split(".ko").next().unwrap_or_default().replace('-', "_")
}

/// The release that a bzImage names (Documentation/arch/x86/boot.rst: `HdrS` at 0x202, `kernel_version` at 0x20e).
fn release(path: &Path) -> Result<String> {
    let shown = path.display();
    let hint = || match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => {
            "; its administrator can make it readable (chmod 644), or name another with --vm-kernel"
        }
        _ => "",
    };
    let mut file =
        File::open(path).map_err(|error| format!("cannot open the kernel '{shown}': {error}{}", hint()))?;
    let mut head = [0_u8; 0x400];
    let no_kernel = || format!("'{shown}' is no Linux kernel for this kind of machine (a bzImage of x86)");
    file.read_exact(&mut head).map_err(|_| no_kernel())?;
    if &head[0x202..0x206] != b"HdrS" {
        return Err(no_kernel());
    }
    let at = u64::from(u16::from_le_bytes([head[0x20e], head[0x20f]])) + 0x200;
    let mut text = [0_u8; 128];
    file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut text)).map_err(|_| no_kernel())?;
    let word: Vec<u8> = text.iter().copied().take_while(|b| b.is_ascii_graphic()).collect();
    let word = String::from_utf8(word).unwrap_or_default();
    // It becomes part of a path.
    if word.is_empty() || word.contains('/') { Err(no_kernel()) } else { Ok(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bz_image(release: &str) -> Vec<u8> {
        let mut bytes = vec![0; 0x500];
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x20e..0x210].copy_from_slice(&0x1f0_u16.to_le_bytes());
        bytes[0x3f0..0x3f0 + release.len()].copy_from_slice(release.as_bytes());
        bytes[0x3f0 + release.len()] = b' ';
        bytes
    }

    fn host(kernels: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("scratch");
        std::fs::create_dir(dir.path().join("boot")).expect("made");
        for kernel in kernels {
            let modules = dir.path().join("lib/modules").join(kernel);
            std::fs::create_dir_all(&modules).expect("made");
            std::fs::write(modules.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").expect("written");
            std::fs::write(
                modules.join("modules.dep"),
                "kernel/virtio.ko:\nkernel/virtio_ring.ko: kernel/virtio.ko\n\
                 kernel/virtio-blk.ko.xz: kernel/virtio_ring.ko kernel/virtio.ko\n",
            )
            .expect("written");
            std::fs::write(dir.path().join("boot").join(format!("vmlinuz-{kernel}")), bz_image(kernel))
                .expect("written");
        }
        dir
    }

    #[test]
    fn the_running_kernel_then_the_newest() {
        let host = host(&["6.9.1-a", "6.10.0-a"]);
        let boot = host.path().join("boot");
        assert_eq!(Kernel::of_host(&boot, "6.9.1-a").expect("found").release, "6.9.1-a");
        assert_eq!(Kernel::of_host(&boot, "5.0").expect("found").release, "6.10.0-a");
        let why = Kernel::of_host(&host.path().join("lib"), "5.0").expect_err("none there");
        assert!(why.contains("--vm-kernel"), "{why}");
    }

    #[test]
    fn drivers_come_after_what_they_need() {
        let host = host(&["6.9.1-a"]);
        let kernel = Kernel::of_host(&host.path().join("boot"), "").expect("found");
        let needs =
            [Need::Must("virtio_blk"), Need::Must("ext4"), Need::May("nothing"), Need::Must("virtio_ring")];
        let names: Vec<String> =
            kernel.drivers(&needs).expect("found").iter().map(|path| name(path)).collect();
        assert_eq!(names, ["virtio.ko", "virtio_ring.ko", "virtio-blk.ko.xz"]);
        let why = kernel.drivers(&[Need::Must("virtio_console")]).expect_err("not there");
        assert!(why.contains("virtio_console") && why.contains("--vm-kernel"), "{why}");
    }

    #[test]
    fn anything_else_is_no_kernel() {
        let dir = tempfile::tempdir().expect("scratch");
        let path = dir.path().join("vmlinuz");
        for bytes in [b"short".to_vec(), vec![0; 4096], bz_image("../../etc"), bz_image("")] {
            std::fs::write(&path, bytes).expect("written");
            assert!(Kernel::find(Some(&path)).is_err());
        }
        std::fs::write(&path, bz_image("1.2.3-none")).expect("written");
        let why = Kernel::find(Some(&path)).expect_err("no modules");
        assert!(why.contains("1.2.3-none"), "{why}");
    }
}
