//! The policy file `/etc/jailwright/jail-sh.toml` and the small `entry.toml` that jail-init writes.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::values::{
    AbsolutePath, Accel, Bind, Capability, Count, Cpus, Discard, Home, Isolation, Limit, Limits, Network,
    Root, Seccomp, Session, Size, Stale, Umask, Violation,
};

/// One layer of policy: what one table of the file says. Scalars replace, lists replace, `+lists` append.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each field is the policy key of its name; jail-sh.toml(5) describes them")]
pub struct Layer {
    pub network: Option<Network>,
    pub root: Option<Root>,
    pub home: Option<Home>,
    pub session: Option<Session>,
    pub isolation: Option<Isolation>,
    #[serde(default)]
    pub vm: VmLayer,
    pub stale: Option<Stale>,
    pub discard: Option<Discard>,
    pub limits: Option<Limits>,
    pub memory: Option<Limit<Size>>,
    pub cpus: Option<Limit<Cpus>>,
    pub processes: Option<Limit<Count>>,
    pub open_files: Option<Limit<Count>>,
    pub tmp: Option<Size>,
    pub seccomp: Option<Seccomp>,
    pub violation: Option<Violation>,
    pub agent: Option<bool>,
    pub hostname: Option<String>,
    pub umask: Option<Umask>,
    pub shell: Option<AbsolutePath>,
    pub commands: Option<Vec<String>>,
    pub env: Option<Vec<String>>,
    pub bind: Option<Vec<Bind>>,
    pub capabilities: Option<Vec<Capability>>,
    pub r#unsafe: Option<Vec<String>>,
    #[serde(rename = "+commands")]
    pub more_commands: Option<Vec<String>>,
    #[serde(rename = "+env")]
    pub more_env: Option<Vec<String>>,
    #[serde(rename = "+bind")]
    pub more_bind: Option<Vec<Bind>>,
    #[serde(rename = "+capabilities")]
    pub more_capabilities: Option<Vec<Capability>>,
    #[serde(rename = "+unsafe")]
    pub more_unsafe: Option<Vec<String>>,
    /// Only in `[user]` and `[group]`: for accounts whose passwd line does not name a jail.
    pub jail: Option<AbsolutePath>,
    /// Only in `[user]` and `[group]`: where in the jail the home appears.
    pub home_path: Option<AbsolutePath>,
}

/// The keys of virtual machines, `vm.kernel` and so on.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each field is the policy key of its name; jail-sh.toml(5) describes them")]
pub struct VmLayer {
    pub kernel: Option<AbsolutePath>,
    pub accel: Option<Accel>,
}

/// The administrator's file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyFile {
    /// For everybody.
    #[serde(default)]
    pub default: Layer,
    /// By the jail's canonical path.
    #[serde(default)]
    pub jail: BTreeMap<String, Layer>,
    /// By the name of a group of the user's.
    #[serde(default)]
    pub group: BTreeMap<String, Layer>,
    /// By the user's name.
    #[serde(default)]
    pub user: BTreeMap<String, Layer>,
    /// By the user's name: what jail-user carried over from jailkit's files, below all that the administrator wrote of users.
    #[serde(skip)]
    pub carried: BTreeMap<String, Layer>,
}

/// What the sections of a jail ask of the entry; written by jail-init.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryFile {
    /// Of this format.
    pub version: u32,
    /// The jail's name, its escaped path.
    pub name: String,
    /// The device that the jail's directory is on.
    pub device: u64,
    /// The inode of the jail's directory. Both change when the jail is deleted and made again.
    pub inode: u64,
    /// The sections that the jail was made from.
    #[serde(default)]
    pub sections: Vec<String>,
    /// The base that the jail's own files lie over.
    pub base: Option<AbsolutePath>,
    /// The union of what they ask for.
    #[serde(default)]
    pub entry: SectionEntry,
}

/// Which generation of a base is current; written by jail-init and jail-update.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseFile {
    /// Of this format.
    pub version: u32,
    /// The name of its directory in the base.
    pub generation: String,
    /// The device that the directory is on.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
}

impl BaseFile {
    /// Reads what jail-init or jail-update wrote.
    ///
    /// # Errors
    /// A file that is damaged or of another version, or names something else than a generation.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, BadFile> {
        let base: Self = read(bytes, file)?;
        if base.version != 1 {
            return Err(BadFile(format!("{file}: version {} is not known here", base.version)));
        }
        let digits = base.generation.strip_prefix('g').unwrap_or_default();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(BadFile(format!("{file}: generation '{}' is no 'g' and a number", base.generation)));
        }
        Ok(base)
    }
}

/// The keys that a section may set: the network, the size of /tmp, and variables to let through.
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SectionEntry {
    /// Network.
    pub network: Option<Network>,
    /// Size of the scratch file system.
    pub tmp: Option<Size>,
    /// Environment variables.
    #[serde(default)]
    pub env: Vec<String>,
}

/// Why a file of ours is not accepted: file, line and column where there are any, and the reason.
#[derive(Debug)]
pub struct BadFile(String);

impl fmt::Display for BadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8], file: &str) -> Result<T, BadFile> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes.iter().take(error.valid_up_to()).filter(|b| **b == b'\n').count().saturating_add(1);
        BadFile(format!("{file}:{line}: not UTF-8"))
    })?;
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(at).filter(|b| *b == b'\n').count().saturating_add(1);
        BadFile(format!("{file}:{line}: {}", error.message().trim_end()))
    })
}

impl PolicyFile {
    /// Reads the administrator's file.
    ///
    /// # Errors
    /// Anything that is not exactly as jail-sh.toml(5) says, with its line.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, BadFile> {
        let policy: Self = read(bytes, file)?;
        let misplaced = |layer: &Layer| layer.jail.is_some() || layer.home_path.is_some();
        if misplaced(&policy.default) || policy.jail.values().any(misplaced) {
            return Err(BadFile(format!(
                "{file}: 'jail' and 'home_path' belong into [user.NAME] or [group.NAME]"
            )));
        }
        Ok(policy)
    }
}

/// What jail-user carried over from jailkit: tables of users, and nothing else.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarriedFile {
    /// By the user's name.
    #[serde(default)]
    pub user: BTreeMap<String, Layer>,
}

impl CarriedFile {
    /// Reads it.
    ///
    /// # Errors
    /// A file that was damaged.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, BadFile> {
        read(bytes, file)
    }
}

impl EntryFile {
    /// Reads what jail-init wrote.
    ///
    /// # Errors
    /// A file that is damaged or of another version.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, BadFile> {
        let entry: Self = read(bytes, file)?;
        if entry.version != 1 {
            return Err(BadFile(format!("{file}: version {} is not known here", entry.version)));
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_line() {
        let unknown = PolicyFile::parse(b"[default]\nnetwork = \"none\"\nnetwrk = 1\n", "f").unwrap_err();
        assert!(unknown.to_string().starts_with("f:3: unknown field `netwrk`"), "{unknown}");
        let word = PolicyFile::parse(b"[default]\nroot = \"readonly\"\n", "f").unwrap_err();
        assert!(word.to_string().contains("'readonly' is not one of read-only, writable, discard"), "{word}");
        let latin = PolicyFile::parse(b"[default]\n# \xe4\n", "f").unwrap_err();
        assert_eq!(latin.to_string(), "f:2: not UTF-8");
        assert!(PolicyFile::parse(b"[default]\njail = \"/x\"\n", "f").is_err());
    }

    #[test]
    fn a_generation_is_a_name_and_never_a_path() {
        let of = |generation: &str| {
            let text = format!("version = 1\ngeneration = \"{generation}\"\ndevice = 1\ninode = 2\n");
            BaseFile::parse(text.as_bytes(), "f").map(|base| base.generation)
        };
        assert_eq!(of("g12").ok().as_deref(), Some("g12"));
        for wrong in ["", "g", "../g1", "g1/..", "g1x", "12"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_example_of_the_design_is_read() {
        let file = PolicyFile::parse(
            br#"
            [default]
            network = { connect = [443], bind = [8080] }
            memory = "512M"
            cpus = 0.5
            processes = 128
            open_files = 1024
            tmp = "256M"
            seccomp = "/etc/jailwright/own.json"
            env = ["TERM", "LC_*"]
            bind = [{ from = "/srv/data", to = "/data", read_only = true }]
            umask = "022"
            [jail."/home/jail"]
            "+env" = ["EDITOR"]
            [group.sftponly]
            seccomp = "transfer"
            [user.dave]
            jail = "/home/jail"
            "#,
            "f",
        )
        .expect("valid");
        assert_eq!(file.default.cpus, Some(Limit::At(Cpus(500))));
        assert_eq!(file.default.network, Some(Network::Ports { connect: vec![443], bind: vec![8080] }));
        assert_eq!(file.jail["/home/jail"].more_env, Some(vec!["EDITOR".to_owned()]));
    }
}
