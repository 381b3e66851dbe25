//! The host's package manager as a source: which files a package has, what it depends on, and which package a file is of.
//!
//! Debian's database is read as plain text through `Host`; no program of it is started. Where the host is rpm's, its
//! own `rpm` is asked (the database is no text), by absolute path, with an empty environment and without a shell.

mod dpkg;
mod rpm;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use crate::host::{Directories, Host, Stat};

/// An installed package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Package {
    /// Its name, without architecture.
    pub name: String,
    /// Whole version, epoch and revision included.
    pub version: String,
    /// Architecture as the package manager names it (`amd64`, `all`, `x86_64`).
    pub architecture: String,
    /// Package URL, for software bills of material.
    pub purl: String,
}

/// What a package brings to a jail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Files and links that are on the host, without documentation; sorted.
    pub files: Vec<PathBuf>,
    /// Directories that are the package's and hold nothing of it (`/var/lib/php/sessions`); sorted.
    pub directories: Vec<PathBuf>,
    /// Files of the package that are not on the host any more.
    pub gone: Vec<PathBuf>,
}

/// Why the package manager's answer is of no use.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// Neither Debian's nor rpm's database is there.
    #[error(
        "no package database on this host (neither \"/var/lib/dpkg/status\" nor an rpm one), \
         so `packages = […]` cannot be used\nhint: name the files in `commands` and `paths` instead"
    )]
    NoDatabase,
    /// Not installed.
    #[error("package {name:?} is not installed on this host\nhint: {hint}")]
    NotInstalled {
        /// As asked for.
        name: String,
        /// What to type.
        hint: String,
    },
    /// No name that a package can have.
    #[error(
        "{name:?} is no name of a package: lower-case letters, digits, '+', '-', '.', and ':ARCH' at most"
    )]
    BadName {
        /// As asked for.
        name: String,
    },
    /// The database could not be read.
    #[error("cannot read the package database {path:?}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// rpm failed.
    #[error("cannot ask {program:?} for package data: {why}")]
    Rpm {
        /// Which program.
        program: PathBuf,
        /// Why.
        why: String,
    },
}

/// Packages that set a system up rather than run in it; recursion into dependencies ends at them unless told otherwise.
/// A star at the end matches any rest.
pub const DEFAULT_STOP: [&str; 22] = [
    "adduser",
    "apt",
    "base-files",
    "base-passwd",
    "cron",
    "debconf*",
    "debianutils",
    "dpkg*",
    "init-system-helpers",
    "install-info",
    "libpam-*",
    "login*",
    "logrotate",
    "mount",
    "passwd",
    "rpm*",
    "shadow-utils",
    "systemd*",
    "sysvinit-utils",
    "ucf",
    "udev",
    "update-*",
];

/// The host's packages.
pub struct Packages<'h> {
    host: &'h dyn Host,
    database: Database,
}

enum Database {
    Dpkg(dpkg::Dpkg),
    Rpm(rpm::Rpm),
}

/// What the database's answers follow from, told without reading it: as long as this is the same, so are they. `None` where
/// that cannot be told (rpm's) or where there is none.
pub fn state(host: &dyn Host) -> Option<Vec<Option<Stat>>> {
    dpkg::state(host)
}

impl<'h> Packages<'h> {
    /// Open the database of the machine: Debian's, else rpm's.
    pub fn open(host: &'h dyn Host) -> Result<Self, PackageError> {
        let database = match dpkg::Dpkg::read(host)? {
            Some(dpkg) => Database::Dpkg(dpkg),
            None => match rpm::Rpm::open(host) {
                Some(rpm) => Database::Rpm(rpm),
                None => return Err(PackageError::NoDatabase),
            },
        };
        Ok(Self { host, database })
    }

    /// The installed package of that name (`php8.2-cli`, or `libc6:i386`).
    pub fn find(&self, name: &str) -> Result<Package, PackageError> {
        check_name(name)?;
        match &self.database {
            Database::Dpkg(dpkg) => dpkg.find(name).cloned(),
            Database::Rpm(rpm) => rpm.find(name),
        }
    }

    /// What a package brings.
    pub fn contents(&self, package: &Package) -> Result<Contents, PackageError> {
        let listed = match &self.database {
            Database::Dpkg(dpkg) => dpkg.list(self.host, package)?,
            Database::Rpm(rpm) => rpm.list(package)?,
        };
        Ok(sort_out(self.host, &listed))
    }

    /// The package and, one after the other, all it depends on; `stop` ends the recursion (see `DEFAULT_STOP`).
    pub fn with_dependencies(&self, name: &str, stop: &[&str]) -> Result<Vec<Package>, PackageError> {
        let first = self.find(name)?;
        let mut seen: HashSet<Package> = HashSet::from([first.clone()]);
        let mut todo = VecDeque::from([first]);
        let mut all = Vec::new();
        while let Some(package) = todo.pop_front() {
            let dependencies = match &self.database {
                Database::Dpkg(dpkg) => dpkg.dependencies(&package),
                Database::Rpm(rpm) => rpm.dependencies(&package)?,
            };
            for dependency in dependencies {
                if !is_stopped(&dependency.name, stop) && seen.insert(dependency.clone()) {
                    todo.push_back(dependency);
                }
            }
            all.push(package);
        }
        Ok(all)
    }

    /// Which package each of these files is of. The files are real paths of the host; those of no package are left out.
    pub fn owners(&self, files: &BTreeSet<PathBuf>) -> Result<BTreeMap<PathBuf, Package>, PackageError> {
        match &self.database {
            Database::Dpkg(dpkg) => dpkg.owners(self.host, files),
            Database::Rpm(rpm) => rpm.owners(files),
        }
    }
}

/// Documentation, and what only a package manager or its maintainers read.
const LEFT_OUT: [&str; 9] = [
    "/usr/share/doc",
    "/usr/share/doc-base",
    "/usr/share/man",
    "/usr/share/info",
    "/usr/share/lintian",
    "/usr/share/bug",
    "/usr/share/licenses",
    "/usr/share/gtk-doc",
    "/usr/share/help",
];

fn is_left_out(path: &Path) -> bool {
    LEFT_OUT.iter().any(|dir| path.starts_with(dir))
}

/// Part a package's list into what is there as file, as empty directory, and what is gone.
fn sort_out(host: &dyn Host, listed: &BTreeSet<PathBuf>) -> Contents {
    let directories = Directories::new(host);
    let mut contents = Contents::default();
    // Sorted by component, a directory comes right before what lies in it.
    let mut paths = listed.iter().peekable();
    while let Some(path) = paths.next() {
        if is_left_out(path) || !path.is_absolute() || path.as_os_str() == "/" {
            continue;
        }
        // What has something below it is a directory, though the host may have a link there by now (`/bin`).
        if paths.peek().is_some_and(|next| next.starts_with(path)) {
            continue;
        }
        match directories.locate_itself(path) {
            Err(_) => contents.gone.push(path.clone()),
            Ok((_, stat)) if stat.is_dir() => contents.directories.push(path.clone()),
            Ok(_) => contents.files.push(path.clone()),
        }
    }
    contents
}

fn is_stopped(name: &str, stop: &[&str]) -> bool {
    stop.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *pattern,
    })
}

/// Names become parts of paths and arguments of rpm: nothing that could be a path or an option.
fn check_name(name: &str) -> Result<(), PackageError> {
    let good = |c: char| c.is_ascii_alphanumeric() || "+-._:".contains(c);
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(good) {
        return Ok(());
    }
    Err(PackageError::BadName { name: name.to_string() })
}

/// Where a distribution says who it is; the first that is there counts.
const RELEASES: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// `ID` and `VERSION_ID` of os-release, which package URLs name the distribution by.
fn distribution(host: &dyn Host) -> (String, Option<String>) {
    let read = |path: &str| host.read(Path::new(path), 1 << 16).ok();
    let bytes = RELEASES.into_iter().find_map(read).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim().trim_matches(['"', '\'']).to_ascii_lowercase())
    };
    (value("ID").unwrap_or_else(|| "linux".to_string()), value("VERSION_ID"))
}

/// A package URL; `qualifiers` in alphabetical order.
fn purl(kind: &str, distribution: &str, name: &str, version: &str, qualifiers: &[(&str, &str)]) -> String {
    let mut url = format!("pkg:{kind}/{}/{}@{}", encode(distribution), encode(name), encode(version));
    for (n, (key, value)) in qualifiers.iter().enumerate() {
        url.push_str(if n == 0 { "?" } else { "&" });
        url.push_str(&format!("{key}={}", encode(value)));
    }
    url
}

fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_or_options_are_refused() {
        for bad in ["../../etc/shadow", "-qa", "", "a b", "a;b", "a/b", "$(x)", "ä"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["libc6:i386", "g++", "php8.2-cli", "linux-image-6.1.0-1"] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn package_urls() {
        let url = purl("deb", "debian", "g++", "4:12.2.0-3", &[("arch", "amd64"), ("distro", "debian-12")]);
        assert_eq!(url, "pkg:deb/debian/g%2B%2B@4:12.2.0-3?arch=amd64&distro=debian-12");
    }

    #[test]
    fn stops_by_name_and_by_beginning() {
        assert!(is_stopped("debconf-2.0", &DEFAULT_STOP));
        assert!(is_stopped("ucf", &DEFAULT_STOP));
        assert!(!is_stopped("ucfx", &DEFAULT_STOP));
        assert!(!is_stopped("libc6", &DEFAULT_STOP));
    }
}
