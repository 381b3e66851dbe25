//! Debian's package database, as dpkg(1) describes its files: `status`, `info/NAME.list`, `diversions`, `arch`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead as _};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{Package, PackageError, RELEASES, distribution, purl};
use crate::host::{Directories, Host, Stat};

const STATUS: &str = "/var/lib/dpkg/status";
const INFO: &str = "/var/lib/dpkg/info";
const DIVERSIONS: &str = "/var/lib/dpkg/diversions";
const ARCH: &str = "/var/lib/dpkg/arch";
/// A desktop with 5,000 packages has some 8 MB.
const MAX_DATABASE: usize = 256 << 20;

/// Every file that an answer follows from. Lists are renamed into their directory, which tells of it.
pub(super) fn state(host: &dyn Host) -> Option<Vec<Option<Stat>>> {
    let stat = |path: &str| host.stat(Path::new(path)).ok();
    stat(STATUS)?;
    let files = [STATUS, INFO, DIVERSIONS, ARCH].into_iter().chain(RELEASES);
    Some(files.map(stat).collect())
}

/// What `status` says of the installed packages.
pub(super) struct Dpkg {
    packages: Vec<Installed>,
    /// Name → packages of that name, or that provide it, the native architecture first.
    names: HashMap<String, Vec<usize>>,
    provided: HashMap<String, Vec<usize>>,
    diversions: HashMap<PathBuf, Diversion>,
}

struct Installed {
    package: Package,
    /// What it depends on, as the database says it: taken apart only for who asks.
    depends: String,
}

/// Where a package's file went because another package took its name.
struct Diversion {
    to: PathBuf,
    /// The one that keeps the name; None if an administrator diverted it from all.
    by: Option<String>,
}

impl Dpkg {
    /// Read the database; None if the host has none.
    pub(super) fn read(host: &dyn Host) -> Result<Option<Self>, PackageError> {
        let status = match host.read(Path::new(STATUS), MAX_DATABASE) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(PackageError::Read { path: STATUS.into(), source }),
        };
        let native = host.read(Path::new(ARCH), 4096).unwrap_or_default();
        let native = String::from_utf8_lossy(&native).lines().next().map(str::to_string);
        let mut dpkg = Self {
            packages: Vec::new(),
            names: HashMap::new(),
            provided: HashMap::new(),
            diversions: read_diversions(host),
        };
        let (id, version) = distribution(host);
        let distro = version.map(|version| format!("{id}-{version}"));
        for paragraph in paragraphs(&status) {
            dpkg.add(&paragraph, &id, distro.as_deref(), native.as_deref());
        }
        Ok(Some(dpkg))
    }

    fn add(&mut self, fields: &HashMap<&str, String>, id: &str, distro: Option<&str>, native: Option<&str>) {
        let text = |key: &str| fields.get(key).map(String::as_str);
        let state = text("status").and_then(|s| s.split_whitespace().nth(2)).unwrap_or_default();
        if !matches!(state, "installed" | "triggers-awaited" | "triggers-pending") {
            return;
        }
        let (Some(name), Some(version)) = (text("package"), text("version")) else { return };
        let architecture = text("architecture").unwrap_or("all");
        let mut qualifiers = vec![("arch", architecture)];
        qualifiers.extend(distro.map(|distro| ("distro", distro)));
        let package = Package {
            name: name.to_string(),
            version: version.to_string(),
            architecture: architecture.to_string(),
            purl: purl("deb", id, name, version, &qualifiers),
        };
        let depends: Vec<&str> = ["pre-depends", "depends"].iter().filter_map(|key| text(key)).collect();

        let index = self.packages.len();
        let is_native = architecture == "all" || native == Some(architecture);
        put(&mut self.names, name, index, is_native);
        for provided in text("provides").unwrap_or_default().split(',').filter_map(relation_name) {
            put(&mut self.provided, &provided, index, is_native);
        }
        self.packages.push(Installed { package, depends: depends.join(",") });
    }

    pub(super) fn find(&self, name: &str) -> Result<&Package, PackageError> {
        self.index_of(name).map(|index| &self.packages[index].package).ok_or_else(|| {
            let hint = match self.provided.get(name).and_then(|by| by.first()) {
                Some(index) => format!("{:?} provides it; name that one", self.packages[*index].package.name),
                None => format!("apt install {name}"),
            };
            PackageError::NotInstalled { name: name.to_string(), hint }
        })
    }

    fn index_of(&self, name: &str) -> Option<usize> {
        let (plain, architecture) = match name.split_once(':') {
            Some((plain, architecture)) if architecture != "any" => (plain, Some(architecture)),
            Some((plain, _)) => (plain, None),
            None => (name, None),
        };
        let fits = |i: &&usize| architecture.is_none_or(|a| self.packages[**i].package.architecture == a);
        self.names.get(plain)?.iter().find(fits).copied()
    }

    /// What a package depends on, as far as it is installed: of alternatives, the first that is.
    pub(super) fn dependencies(&self, package: &Package) -> Vec<Package> {
        let Some(installed) = self.packages.iter().find(|p| p.package == *package) else { return Vec::new() };
        // Every group wants one of its alternatives.
        let satisfied = installed.depends.split(',').filter_map(|group| {
            let alternatives: Vec<String> = group.split('|').filter_map(relation_name).collect();
            let by_name = alternatives.iter().find_map(|name| self.index_of(name));
            let provided = || alternatives.iter().find_map(|name| self.provided.get(name)?.first().copied());
            by_name.or_else(provided)
        });
        satisfied.map(|index| self.packages[index].package.clone()).collect()
    }

    /// Everything a package's list names, directories included, under the names it has now.
    pub(super) fn list(&self, host: &dyn Host, package: &Package) -> Result<BTreeSet<PathBuf>, PackageError> {
        let mut buffer = Vec::new();
        Ok(lines(read_list(host, package, &mut buffer)?)
            .map(|path| self.diverted(path, &package.name).to_path_buf())
            .collect())
    }

    fn diverted<'p>(&'p self, path: &'p Path, package: &str) -> &'p Path {
        match self.diversions.get(path) {
            Some(diversion) if diversion.by.as_deref() != Some(package) => &diversion.to,
            _ => path,
        }
    }

    pub(super) fn owners(
        &self,
        host: &dyn Host,
        files: &BTreeSet<PathBuf>,
    ) -> Result<BTreeMap<PathBuf, Package>, PackageError> {
        // Lists name files by paths from before /bin became a link. So: the name decides quickly, the real path surely.
        let names: HashSet<&OsStr> = files.iter().filter_map(|f| f.file_name()).collect();
        // A hundred thousand lines: what they end in decides before anything else is looked at.
        let diverted = self.diversions.keys().filter_map(|path| path.file_name());
        let worth: HashSet<&OsStr> = names.iter().copied().chain(diverted).collect();
        let ends = Ends::of(&worth);
        let directories = Directories::new(host);
        let (mut owners, mut buffer) = (BTreeMap::new(), Vec::new());
        for installed in &self.packages {
            let bytes = read_list(host, &installed.package, &mut buffer)?;
            for line in Lines(bytes).filter(|line| ends.may_be(line) && line.starts_with(b"/")) {
                let last = line.rsplit(|b| *b == b'/').next().unwrap_or_default();
                if !worth.contains(OsStr::from_bytes(last)) {
                    continue;
                }
                let path = self.diverted(Path::new(OsStr::from_bytes(line)), &installed.package.name);
                if !path.file_name().is_some_and(|name| names.contains(name)) {
                    continue;
                }
                let Ok((real, stat)) = directories.locate_itself(path) else { continue };
                if !stat.is_dir() && files.contains(&real) {
                    owners.entry(real).or_insert_with(|| installed.package.clone());
                }
            }
        }
        Ok(owners)
    }
}

/// The lines of a text, without their ends. The standard library looks for the end of a line by whole words, which `split`
/// cannot.
struct Lines<'t>(&'t [u8]);

impl<'t> Iterator for Lines<'t> {
    type Item = &'t [u8];

    fn next(&mut self) -> Option<&'t [u8]> {
        let text = self.0;
        let line = text.get(..self.0.skip_until(b'\n').ok()?)?;
        (!line.is_empty()).then(|| line.strip_suffix(b"\n").unwrap_or(line))
    }
}

/// What lines of interest end in, so that nearly all others are told by three bytes of theirs.
struct Ends(Vec<bool>);

impl Ends {
    fn of(names: &HashSet<&OsStr>) -> Self {
        let mut ends = Self(vec![false; 1 << 16]);
        for name in names {
            match name.as_bytes() {
                [.., a, b, c] => ends.0[Self::slot(*a, *b, *c)] = true,
                [b, c] => ends.0[Self::slot(b'/', *b, *c)] = true,
                [c] => (0..=u8::MAX).for_each(|a| ends.0[Self::slot(a, b'/', *c)] = true),
                [] => {}
            }
        }
        ends
    }

    fn slot(a: u8, b: u8, c: u8) -> usize {
        (usize::from(a) << 9 ^ usize::from(b) << 5 ^ usize::from(c)) & 0xffff
    }

    /// Whether the line's last name may be one of them. A line of two bytes has a name of one.
    fn may_be(&self, line: &[u8]) -> bool {
        match line {
            [.., a, b, c] => self.0[Self::slot(*a, *b, *c)],
            other => !other.is_empty(),
        }
    }
}

fn put(names: &mut HashMap<String, Vec<usize>>, name: &str, index: usize, first: bool) {
    let list = names.entry(name.to_string()).or_default();
    if first { list.insert(0, index) } else { list.push(index) }
}

/// `libc6 (>= 2.34)`, `perl:any`, `x [amd64]` → the name.
fn relation_name(relation: &str) -> Option<String> {
    let name = relation.split(['(', '[', '<']).next()?.trim();
    (!name.is_empty()).then(|| name.to_string())
}

fn read_list<'b>(
    host: &dyn Host,
    package: &Package,
    buffer: &'b mut Vec<u8>,
) -> Result<&'b [u8], PackageError> {
    // Of a package that several architectures may have at once, the list's name tells which.
    let Package { name, architecture, .. } = package;
    let with_architecture = PathBuf::from(format!("{INFO}/{name}:{architecture}.list"));
    let path = PathBuf::from(format!("{INFO}/{name}.list"));
    let length = read_into(host, &with_architecture, buffer).or_else(|_| read_into(host, &path, buffer));
    let length = length.map_err(|source| PackageError::Read { path, source })?;
    Ok(buffer.get(..length).unwrap_or_default())
}

/// Reads a whole file into the beginning of a buffer that serves for many, and answers how long it is.
fn read_into(host: &dyn Host, path: &Path, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let file = host.open(path)?;
    let mut length = 0;
    loop {
        if length == buffer.len() {
            if length >= MAX_DATABASE {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            buffer.resize((2 * length).max(1 << 18), 0);
        }
        length += file.read_at(&mut buffer[length..], length as u64)?;
        if length < buffer.len() {
            return Ok(length);
        }
    }
}

/// Paths of a list; `/.` is the root, and says nothing.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &Path> {
    let paths = bytes.split(|b| *b == b'\n').map(|line| Path::new(OsStr::from_bytes(line)));
    paths.filter(|path| path.is_absolute() && path.file_name().is_some())
}

/// Three lines each: from, to, and who keeps the name (`:` for an administrator's own).
fn read_diversions(host: &dyn Host) -> HashMap<PathBuf, Diversion> {
    let bytes = host.read(Path::new(DIVERSIONS), MAX_DATABASE).unwrap_or_default();
    let lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
    let path = |line: &[u8]| PathBuf::from(OsString::from_vec(line.to_vec()));
    let triples = lines.chunks_exact(3).map(|three| {
        let by = (three[2] != b":").then(|| String::from_utf8_lossy(three[2]).into_owned());
        (path(three[0]), Diversion { to: path(three[1]), by })
    });
    triples.collect()
}

/// The paragraphs of a control file, each as its fields by lower-case name; continuation lines joined.
fn paragraphs(bytes: &[u8]) -> Vec<HashMap<&'static str, String>> {
    const WANTED: [&str; 7] =
        ["package", "status", "architecture", "version", "depends", "pre-depends", "provides"];
    let mut all = Vec::new();
    let mut fields = HashMap::new();
    let mut current: Option<&'static str> = None;
    for line in bytes.split(|b| *b == b'\n').chain([&b""[..]]) {
        if line.is_empty() {
            if !fields.is_empty() {
                all.push(std::mem::take(&mut fields));
            }
            current = None;
        } else if line.starts_with(b" ") || line.starts_with(b"\t") {
            if let Some(value) = current.and_then(|key| fields.get_mut(key)) {
                let value: &mut String = value;
                value.push_str(&String::from_utf8_lossy(line));
            }
        } else if let Some(colon) = line.iter().position(|b| *b == b':') {
            let key = &line[..colon];
            current = WANTED.iter().find(|wanted| key.eq_ignore_ascii_case(wanted.as_bytes())).copied();
            if let Some(key) = current {
                fields.insert(key, String::from_utf8_lossy(&line[colon + 1..]).trim().to_string());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_split() {
        for text in ["", "/a", "/a\n", "/a\n\n/b/c", "\n"] {
            let lines: Vec<&[u8]> = Lines(text.as_bytes()).collect();
            let split: Vec<&[u8]> = text.lines().map(str::as_bytes).collect();
            assert_eq!(lines, split, "{text:?}");
        }
    }

    /// One that is passed over would be a package that no bill names.
    #[test]
    fn no_line_of_a_wanted_name_is_passed_over() {
        for name in ["[", "ls", "awk", "libselinux.so.1", "\u{ff}x"] {
            let ends = Ends::of(&std::iter::once(OsStr::new(name)).collect());
            for line in [format!("/{name}"), format!("/usr/bin/{name}"), format!("/u/{name}")] {
                assert!(ends.may_be(line.as_bytes()), "{line}");
            }
            assert!(!ends.may_be(b"/usr/share/doc/other/README.Debian"), "{name}");
        }
    }
}
