//! rpm's package database, by asking rpm: the database itself is a private format that changed three times.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Package, PackageError, distribution, purl};
use crate::host::Host;

/// Where rpm has kept its database.
const DATABASES: [&str; 5] = [
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    "/var/lib/rpm/rpmdb.sqlite",
    "/usr/lib/sysimage/rpm/Packages.db",
    "/var/lib/rpm/Packages.db",
    "/var/lib/rpm/Packages",
];
const PROGRAMS: [&str; 2] = ["/usr/bin/rpm", "/bin/rpm"];
/// Files a run of rpm is asked about at once; far below the limit on arguments.
const BATCH: usize = 500;
const FORMAT: &str = r"%{NAME}\t%{EPOCHNUM}\t%{VERSION}-%{RELEASE}\t%{ARCH}\n";

/// A host whose packages are rpm's.
pub(super) struct Rpm {
    program: PathBuf,
    distribution: String,
    distro: Option<String>,
}

impl Rpm {
    /// rpm, if the host has it and a database for it.
    pub(super) fn open(host: &dyn Host) -> Option<Self> {
        let there = |path: &&&str| host.stat(Path::new(path)).is_ok_and(|stat| stat.is_file());
        DATABASES.iter().find(there)?;
        let program = PROGRAMS.iter().find(there)?;
        Some(Self::with_program(host, Path::new(program)))
    }

    fn with_program(host: &dyn Host, program: &Path) -> Self {
        let (distribution, version) = distribution(host);
        let distro = version.map(|version| format!("{distribution}-{version}"));
        Self { program: program.to_path_buf(), distribution, distro }
    }

    pub(super) fn find(&self, name: &str) -> Result<Package, PackageError> {
        let (_, output) = self.ask(&["-q", "--qf", FORMAT, "--", name], &[])?;
        let hint = format!("dnf install {name}");
        let missing = || PackageError::NotInstalled { name: name.to_string(), hint };
        lines(&output).find_map(|line| self.package(line)).ok_or_else(missing)
    }

    /// All files less those marked as documentation.
    pub(super) fn list(&self, package: &Package) -> Result<BTreeSet<PathBuf>, PackageError> {
        let name = full_name(package);
        let (_, all) = self.ask(&["-q", "--list", "--", &name], &[])?;
        let (_, documentation) = self.ask(&["-q", "--docfiles", "--", &name], &[])?;
        let documentation: BTreeSet<PathBuf> = paths(&documentation).collect();
        Ok(paths(&all).filter(|path| !documentation.contains(path)).collect())
    }

    /// The packages that provide what this one requires.
    pub(super) fn dependencies(&self, package: &Package) -> Result<Vec<Package>, PackageError> {
        let (_, required) = self.ask(&["-q", "--requires", "--", &full_name(package)], &[])?;
        // "libc.so.6(GLIBC_2.34)(64bit)" or "bash >= 5": the first word; rpm's own features are no package's.
        let words = lines(&required).filter_map(|line| line.split(|b| *b == b' ').next());
        let capabilities: BTreeSet<OsString> = words
            .filter(|word| !word.is_empty() && !word.starts_with(b"rpmlib("))
            .map(|word| OsStr::from_bytes(word).to_os_string())
            .collect();
        if capabilities.is_empty() {
            return Ok(Vec::new());
        }
        let capabilities: Vec<OsString> = capabilities.into_iter().collect();
        let mut found = BTreeSet::new();
        for batch in capabilities.chunks(BATCH) {
            let (_, output) = self.ask(&["-q", "--whatprovides", "--qf", FORMAT, "--"], batch)?;
            found.extend(lines(&output).filter_map(|line| self.package(line)));
        }
        Ok(found.into_iter().filter(|other| other != package).collect())
    }

    pub(super) fn owners(
        &self,
        files: &BTreeSet<PathBuf>,
    ) -> Result<BTreeMap<PathBuf, Package>, PackageError> {
        let mut owners = BTreeMap::new();
        for file in files {
            // One by one: a file of two packages has two lines, and one of none has an untranslated sentence.
            let (good, output) = self.ask(&["-q", "--qf", FORMAT, "--file", "--"], &[file.clone().into()])?;
            if let Some(package) = lines(&output).find_map(|line| self.package(line)).filter(|_| good) {
                owners.insert(file.clone(), package);
            }
        }
        Ok(owners)
    }

    /// Run rpm; whether it succeeded, and what it said.
    fn ask(&self, arguments: &[&str], more: &[OsString]) -> Result<(bool, Vec<u8>), PackageError> {
        let mut command = Command::new(&self.program);
        command.args(arguments).args(more).env_clear().env("LC_ALL", "C");
        let output = command
            .output()
            .map_err(|error| PackageError::Rpm { program: self.program.clone(), why: error.to_string() })?;
        Ok((output.status.success(), output.stdout))
    }

    fn package(&self, line: &[u8]) -> Option<Package> {
        let line = std::str::from_utf8(line).ok()?;
        let mut fields = line.split('\t');
        let (name, epoch, version, architecture) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let mut qualifiers = vec![("arch", architecture)];
        qualifiers.extend(self.distro.as_deref().map(|distro| ("distro", distro)));
        if epoch != "0" {
            qualifiers.push(("epoch", epoch));
        }
        let whole = if epoch == "0" { version.to_string() } else { format!("{epoch}:{version}") };
        Some(Package {
            name: name.to_string(),
            version: whole,
            architecture: architecture.to_string(),
            purl: purl("rpm", &self.distribution, name, version, &qualifiers),
        })
    }
}

/// `bash-5.2.26-3.fc40.x86_64`: one package even where several versions are installed.
fn full_name(package: &Package) -> String {
    let version = package.version.rsplit_once(':').map_or(package.version.as_str(), |(_, version)| version);
    format!("{}-{version}.{}", package.name, package.architecture)
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|b| *b == b'\n')
}

fn paths(bytes: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    // A package without files says so in a sentence.
    lines(bytes)
        .filter(|line| line.starts_with(b"/"))
        .map(|line| PathBuf::from(OsString::from_vec(line.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::MemHost;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A program that answers as rpm 4.18 does to the questions asked above; anything else is a failure.
    const ANSWERS: &str = r#"#!/bin/sh
test -z "$HOME" || exit 9
case "$*" in
"-q --qf "*" -- bash") printf 'bash\t0\t5.2.26-3.fc40\tx86_64\n' ;;
"-q --qf "*" -- nothing") echo 'package nothing is not installed'; exit 1 ;;
"-q --list -- bash-5.2.26-3.fc40.x86_64") printf '/etc/skel\n/usr/bin/bash\n/usr/share/x/README\n' ;;
"-q --docfiles -- bash-5.2.26-3.fc40.x86_64") echo /usr/share/x/README ;;
"-q --requires -- bash-5.2.26-3.fc40.x86_64") printf 'rpmlib(X) <= 4\nlibc.so.6()(64bit)\nfilesystem >= 3\n' ;;
"-q --whatprovides --qf "*"-- filesystem libc.so.6()(64bit)")
    printf 'filesystem\t0\t3.18-8.fc40\tx86_64\nglibc\t1\t2.39-6.fc40\tx86_64\n' ;;
"-q --qf "*" --file -- /usr/bin/bash") printf 'bash\t0\t5.2.26-3.fc40\tx86_64\n' ;;
"-q --qf "*" --file -- "*) echo 'file is not owned by any package'; exit 1 ;;
*) exit 8 ;;
esac
"#;

    #[test]
    fn what_rpm_says_is_understood() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let program = dir.path().join("rpm");
        fs::write(&program, ANSWERS).expect("write");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
        let mut host = MemHost::new();
        host.file("/etc/os-release", 0o644, b"ID=fedora\nVERSION_ID=40\n");
        let rpm = Rpm::with_program(&host, &program);

        let bash = rpm.find("bash").expect("installed");
        assert_eq!(bash.purl, "pkg:rpm/fedora/bash@5.2.26-3.fc40?arch=x86_64&distro=fedora-40");
        assert!(matches!(rpm.find("nothing"), Err(PackageError::NotInstalled { .. })));
        let files: Vec<_> = rpm.list(&bash).expect("a list").into_iter().collect();
        assert_eq!(files, [PathBuf::from("/etc/skel"), PathBuf::from("/usr/bin/bash")]);
        let names: Vec<_> = rpm.dependencies(&bash).expect("a list").into_iter().map(|p| p.version).collect();
        assert_eq!(names, ["3.18-8.fc40", "1:2.39-6.fc40"]);
        let files = BTreeSet::from([PathBuf::from("/usr/bin/bash"), PathBuf::from("/home/x")]);
        let owners = rpm.owners(&files).expect("owners");
        assert_eq!(
            owners.into_iter().map(|(f, p)| (f, p.name)).collect::<Vec<_>>(),
            [(PathBuf::from("/usr/bin/bash"), "bash".to_string())]
        );
    }

    #[test]
    fn a_host_without_a_database_is_not_rpms() {
        let mut host = MemHost::new();
        host.file("/usr/bin/rpm", 0o755, b"");
        assert!(Rpm::open(&host).is_none());
        host.file("/var/lib/rpm/rpmdb.sqlite", 0o644, b"");
        assert!(Rpm::open(&host).is_some());
    }
}
