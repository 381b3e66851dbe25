//! The two loaders of Linux and what is built into them: where they search when nobody says where.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use goblin::elf::header as em;

use super::Resolver;
use super::process::Search;
use super::tokens::SearchDir;
use crate::elf::Abi;
use crate::host::Host;

/// Which loader's rules hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Glibc,
    Musl,
}

/// A loader and what is compiled into it.
#[derive(Debug)]
pub(super) struct Loader {
    pub(super) family: Family,
    /// Directories searched last.
    pub(super) directories: Vec<SearchDir>,
    /// What `$LIB` stands for.
    pub(super) lib: Vec<u8>,
    /// What `$PLATFORM` may stand for.
    pub(super) platforms: &'static [&'static str],
    /// Flags of the ld.so.cache lines that this loader takes; None: any that fit the file.
    pub(super) cache_flags: Option<i32>,
    /// A file of search directories that the loader reads (musl).
    pub(super) config: Option<PathBuf>,
    /// What it found where nobody says where, by name and DF_1_NODEFLIB.
    found: RefCell<[HashMap<Vec<u8>, Search>; 2]>,
}

/// Longest loader that is searched for its directories; Debian's has 200 KB.
const MAX_LOADER: usize = 16 << 20;

impl Loader {
    /// What the loader at `interpreter` will do.
    pub(super) fn read(resolver: &Resolver<'_>, interpreter: &[u8], abi: Abi) -> Self {
        match musl_arch(interpreter) {
            Some(arch) => Self::musl(resolver.host, interpreter, arch),
            None => Self::glibc(resolver.host, interpreter, abi),
        }
    }

    fn glibc(host: &dyn Host, interpreter: &[u8], abi: Abi) -> Self {
        let bytes = host.read(Path::new(OsStr::from_bytes(interpreter)), MAX_LOADER).unwrap_or_default();
        let directories = built_in_directories(&bytes).unwrap_or_else(|| fallback_directories(abi));
        let first = directories.first().map_or(&b"/lib"[..], |d| d.as_os_str().as_bytes());
        let lib = first.strip_prefix(b"/usr").unwrap_or(first);
        Self {
            family: Family::Glibc,
            lib: lib.strip_prefix(b"/").unwrap_or(lib).to_vec(),
            directories: directories.into_iter().map(SearchDir::plain).collect(),
            platforms: platforms(abi),
            cache_flags: cache_flags(abi),
            config: None,
            found: RefCell::default(),
        }
    }

    fn musl(host: &dyn Host, interpreter: &[u8], arch: &[u8]) -> Self {
        // The prefix is what stands before the last two slashes of the loader's own path.
        let prefix = Path::new(OsStr::from_bytes(interpreter)).parent().and_then(Path::parent);
        let mut name = b"ld-musl-".to_vec();
        name.extend_from_slice(arch);
        name.extend_from_slice(b".path");
        let config = prefix.unwrap_or(Path::new("/")).join("etc").join(OsStr::from_bytes(&name));
        let text = host.read(&config, 1 << 20);
        let has_config = text.is_ok();
        let text = text.unwrap_or_else(|_| b"/lib:/usr/local/lib:/usr/lib".to_vec());
        let elements = text.split(|b| *b == b':' || *b == b'\n').map(|e| PathBuf::from(OsStr::from_bytes(e)));
        Self {
            family: Family::Musl,
            directories: elements.filter(|dir| dir.is_absolute()).map(SearchDir::plain).collect(),
            lib: Vec::new(),
            platforms: &[],
            cache_flags: None,
            config: has_config.then_some(config),
            found: RefCell::default(),
        }
    }
}

impl Loader {
    pub(super) fn remembered(&self, name: &[u8], nodeflib: bool) -> Option<Search> {
        self.found.borrow()[usize::from(nodeflib)].get(name).cloned()
    }

    pub(super) fn remember(&self, name: &[u8], nodeflib: bool, found: Search) {
        self.found.borrow_mut()[usize::from(nodeflib)].insert(name.to_vec(), found);
    }
}

/// `x86_64` of `/lib/ld-musl-x86_64.so.1`; None if the loader is not musl's.
pub(super) fn musl_arch(interpreter: &[u8]) -> Option<&[u8]> {
    let name = interpreter.rsplit(|b| *b == b'/').next()?;
    let rest = name.strip_prefix(b"ld-musl-")?;
    let end = rest.windows(3).position(|w| w == b".so")?;
    rest.get(..end)
}

/// Where the loader of a library without PT_INTERP would be, for both families.
pub(super) fn default_interpreter(abi: Abi) -> Option<&'static str> {
    Some(match (abi.machine, abi.wide, abi.little) {
        (em::EM_X86_64, true, _) => "/lib64/ld-linux-x86-64.so.2",
        (em::EM_X86_64, false, _) => "/libx32/ld-linux-x32.so.2",
        (em::EM_386, ..) => "/lib/ld-linux.so.2",
        (em::EM_AARCH64, ..) => "/lib/ld-linux-aarch64.so.1",
        (em::EM_ARM, ..) => "/lib/ld-linux-armhf.so.3",
        (em::EM_RISCV, true, _) => "/lib/ld-linux-riscv64-lp64d.so.1",
        (em::EM_PPC64, _, true) => "/lib64/ld64.so.2",
        (em::EM_PPC64, _, false) => "/lib64/ld64.so.1",
        (em::EM_S390, true, _) => "/lib/ld64.so.1",
        (em::EM_LOONGARCH, true, _) => "/lib64/ld-linux-loongarch-lp64d.so.1",
        _ => return None,
    })
}

/// musl's name for a machine.
pub(super) fn musl_interpreter(abi: Abi) -> Option<&'static str> {
    Some(match (abi.machine, abi.wide) {
        (em::EM_X86_64, true) => "/lib/ld-musl-x86_64.so.1",
        (em::EM_386, _) => "/lib/ld-musl-i386.so.1",
        (em::EM_AARCH64, _) => "/lib/ld-musl-aarch64.so.1",
        (em::EM_ARM, _) => "/lib/ld-musl-armhf.so.1",
        (em::EM_RISCV, true) => "/lib/ld-musl-riscv64.so.1",
        (em::EM_PPC64, _) => "/lib/ld-musl-powerpc64le.so.1",
        (em::EM_S390, true) => "/lib/ld-musl-s390x.so.1",
        (em::EM_LOONGARCH, true) => "/lib/ld-musl-loongarch64.so.1",
        _ => return None,
    })
}

/// What the kernel (AT_PLATFORM) or glibc may call this kind of processor. On Intel's, glibc says `haswell` or
/// `xeon_phi` instead of what the kernel says.
fn platforms(abi: Abi) -> &'static [&'static str] {
    match abi.machine {
        em::EM_X86_64 => &["x86_64", "haswell", "xeon_phi"],
        em::EM_386 => &["i686", "i586", "i486", "i386"],
        em::EM_AARCH64 => &["aarch64"],
        em::EM_ARM => &["v7l", "v8l"],
        em::EM_PPC64 => &["power8", "power9", "power10", "power11"],
        em::EM_S390 => &["z13", "z14", "z15", "z16"],
        _ => &[],
    }
}

/// `_DL_CACHE_DEFAULT_ID` of glibc's ports; what ldconfig writes beside a library of that kind.
fn cache_flags(abi: Abi) -> Option<i32> {
    Some(match (abi.machine, abi.wide) {
        (em::EM_X86_64, true) => 0x303,
        (em::EM_X86_64, false) => 0x803,
        (em::EM_386, _) => 0x003,
        (em::EM_AARCH64, true) => 0xa03,
        (em::EM_PPC64, _) => 0x503,
        (em::EM_S390, true) => 0x403,
        _ => return None,
    })
}

/// The loader's own list, out of the loader: strings that begin and end with a slash, one behind the other, as
/// `/lib/x86_64-linux-gnu/` NUL `/usr/lib/x86_64-linux-gnu/` NUL `/lib/` NUL `/usr/lib/` NUL. Every distribution builds
/// in another one, and no table of ours could know them all.
fn built_in_directories(loader: &[u8]) -> Option<Vec<PathBuf>> {
    let mut best: Vec<PathBuf> = Vec::new();
    let mut run: Vec<PathBuf> = Vec::new();
    for text in loader.split(|b| *b == 0) {
        // A string may follow other bytes without a NUL between; only its tail can be a path then.
        if is_directory_name(text) {
            let trimmed = text.strip_suffix(b"/").unwrap_or(text);
            run.push(PathBuf::from(OsStr::from_bytes(trimmed)));
            continue;
        }
        if run.len() > best.len() && run.iter().any(|d| d.starts_with("/usr") || d.starts_with("/nix")) {
            best = std::mem::take(&mut run);
        }
        run.clear();
    }
    (!best.is_empty()).then_some(best)
}

fn is_directory_name(text: &[u8]) -> bool {
    text.len() > 4
        && text.starts_with(b"/")
        && text.ends_with(b"/")
        && !text.starts_with(b"/proc/")
        && !text.starts_with(b"/etc/")
        && text.iter().all(|b| b.is_ascii_alphanumeric() || b"/_.+-".contains(b))
        && text.windows(3).any(|w| w == b"lib")
}

/// For a loader that cannot be read: glibc's own defaults, and Debian's names.
fn fallback_directories(abi: Abi) -> Vec<PathBuf> {
    let triplet = match (abi.machine, abi.wide) {
        (em::EM_X86_64, true) => "x86_64-linux-gnu",
        (em::EM_386, _) => "i386-linux-gnu",
        (em::EM_AARCH64, _) => "aarch64-linux-gnu",
        (em::EM_ARM, _) => "arm-linux-gnueabihf",
        (em::EM_RISCV, true) => "riscv64-linux-gnu",
        (em::EM_PPC64, _) => "powerpc64le-linux-gnu",
        (em::EM_S390, true) => "s390x-linux-gnu",
        _ => "",
    };
    let mut dirs = Vec::new();
    if !triplet.is_empty() {
        dirs.extend(["/lib", "/usr/lib"].map(|d| Path::new(d).join(triplet)));
    }
    if abi.wide {
        dirs.extend(["/lib64", "/usr/lib64"].map(PathBuf::from));
    }
    dirs.extend(["/lib", "/usr/lib"].map(PathBuf::from));
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_own_directories_are_found_in_it() {
        let debian = b"junk\0/etc/ld.so.cache\0/lib/x86_64-linux-gnu/\0/usr/lib/x86_64-linux-gnu/\0/lib/\0/usr/lib/\0\0x";
        let found = built_in_directories(debian).expect("a list");
        assert_eq!(
            found,
            ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib"].map(PathBuf::from)
        );
        let fedora = b"\0/proc/self/\0/lib64/\0/usr/lib64/\0";
        assert_eq!(
            built_in_directories(fedora).expect("a list"),
            ["/lib64", "/usr/lib64"].map(PathBuf::from)
        );
        assert_eq!(built_in_directories(b"\0/etc/ld.so.preload\0nothing"), None);
    }

    #[test]
    fn musl_is_known_by_its_name() {
        assert_eq!(musl_arch(b"/lib/ld-musl-x86_64.so.1"), Some(&b"x86_64"[..]));
        assert_eq!(musl_arch(b"/lib64/ld-linux-x86-64.so.2"), None);
    }
}
