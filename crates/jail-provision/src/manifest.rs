//! What was put into a jail and why: the memory that lets an update touch what is ours and nothing else.
//!
//! It lies outside the jail (`/var/lib/jailwright/NAME/manifest.json`, 0600), so nobody in the jail can edit it. It is
//! written twice a run: before the first change with the paths that are about to be made (`pending`), so that a run that was
//! killed leaves no file of ours that the next run would take for the administrator's; and at the end, with what is there.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::digest::{Digest, Fingerprint};
use crate::entry::EntryNeeds;
use crate::error::{Error, Result};
use crate::host::{Stat, Time};
use crate::recording::Seen;
use crate::text;

/// The format's number.
pub const VERSION: u32 = 1;

/// A path as the manifest writes it: text that keeps every byte (see [`text::encode`]).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathText(pub PathBuf);

/// PathBuf's own order. Its comparison takes both paths apart, which was a tenth of a large jail's check: where the first
/// byte that differs is part of a name on both sides, that byte decides.
impl Ord for PathText {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self.0.as_os_str().as_bytes(), other.0.as_os_str().as_bytes());
        let alike = a.chunks_exact(8).zip(b.chunks_exact(8)).take_while(|(a, b)| a == b).count() * 8;
        match a[alike..].iter().zip(&b[alike..]).find(|(a, b)| a != b) {
            Some((a, b)) if !b"/.".contains(a) && !b"/.".contains(b) => a.cmp(b),
            _ => self.0.cmp(&other.0),
        }
    }
}

impl PartialOrd for PathText {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for PathText {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&text::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for PathText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let path = |text: &str| text::decode(text).map(PathText);
        deserializer.deserialize_str(Text { read: path, what: "a path as we write them" })
    }
}

/// Reads a value from text that is not copied first: a large manifest holds fifty thousand of them.
pub(crate) struct Text<F> {
    pub(crate) read: F,
    pub(crate) what: &'static str,
}

impl<T, F: FnOnce(&str) -> Option<T>> de::Visitor<'_> for Text<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<T, E> {
        let what = self.what;
        (self.read)(text).ok_or_else(|| E::custom(format_args!("not {what}")))
    }
}

/// Why something is in the jail. Each reason leads to the next, up to a section or a wish.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A section asked for it.
    Section(String),
    /// `jail-cp` or `--with` asked for it.
    Wish(PathText),
    /// A program needs it as a library or loader.
    NeededBy(PathText),
    /// A script names it in its first line.
    InterpreterOf(PathText),
    /// A symbolic link leads to it.
    LinkedFrom(PathText),
    /// It lies in a tree that was asked for.
    InTree(PathText),
    /// It is a directory (or a link) on the way to something.
    WayTo(PathText),
    /// Every jail has it.
    EveryJail,
    /// It is part of the image that the jail was made from.
    Image,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Section(name) => write!(f, "section {name}"),
            Self::Wish(path) => write!(f, "asked for: {}", text::encode(&path.0)),
            Self::EveryJail => f.write_str("every jail has it"),
            Self::Image => f.write_str("the image that the jail was made from"),
            Self::NeededBy(path)
            | Self::InterpreterOf(path)
            | Self::LinkedFrom(path)
            | Self::InTree(path)
            | Self::WayTo(path) => f.write_str(&text::encode(&path.0)),
        }
    }
}

impl Why {
    /// The next link of the chain, if this reason is another path of the jail.
    #[must_use]
    pub fn next(&self) -> Option<&Path> {
        match self {
            Self::NeededBy(path)
            | Self::InterpreterOf(path)
            | Self::LinkedFrom(path)
            | Self::InTree(path)
            | Self::WayTo(path) => Some(&path.0),
            Self::Section(_) | Self::Wish(_) | Self::EveryJail | Self::Image => None,
        }
    }
}

/// What tells one state of a file from the next without reading it: inode, size, mtime, ctime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp(pub u64, pub u64, pub i64, pub u32, pub i64, pub u32);

impl From<&Stat> for Stamp {
    fn from(stat: &Stat) -> Self {
        let Stat { ino, size, mtime: Time { sec, nsec }, ctime, .. } = *stat;
        Self(ino, size, sec, nsec, ctime.sec, ctime.nsec)
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum What {
    /// A directory.
    Directory,
    /// A regular file, copied (or linked) from the host or written by us.
    File {
        /// Of what we put there.
        digest: Fingerprint,
        /// Whether it is a hard link to the host's file.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        linked: bool,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to.
        target: PathText,
    },
    /// A device node.
    Device {
        /// `true` for a block device.
        block: bool,
        /// st_rdev.
        device: u64,
    },
    /// An account file of the jail's own, in which some lines are ours.
    Accounts {
        /// Our lines, by name.
        lines: BTreeMap<String, String>,
    },
}

/// Where a copy came from, and the state it was in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The host's path.
    pub path: PathText,
    /// Its state when it was copied.
    pub stamp: Stamp,
}

/// One path of the jail that is ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FlatRecord")]
pub struct Record {
    /// What it is.
    #[serde(flatten)]
    pub what: What,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits, octal.
    #[serde(with = "octal")]
    pub mode: u32,
    /// Where it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Its state in the jail when we left it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
    /// Why it is there.
    pub why: Why,
}

/// A record as it is read. `flatten` and `tag` have serde copy each record into a tree of values first, which took longer
/// than all else that reading a manifest is.
#[derive(Deserialize)]
struct FlatRecord {
    kind: Kind,
    digest: Option<Fingerprint>,
    #[serde(default)]
    linked: bool,
    target: Option<PathText>,
    block: Option<bool>,
    device: Option<u64>,
    lines: Option<BTreeMap<String, String>>,
    uid: u32,
    gid: u32,
    #[serde(with = "octal")]
    mode: u32,
    source: Option<Source>,
    stamp: Option<Stamp>,
    why: Why,
}

/// The kinds of [`What`].
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Directory,
    File,
    Symlink,
    Device,
    Accounts,
}

impl TryFrom<FlatRecord> for Record {
    type Error = &'static str;

    fn try_from(flat: FlatRecord) -> std::result::Result<Self, Self::Error> {
        let what = match flat.kind {
            Kind::Directory => What::Directory,
            Kind::File => {
                What::File { digest: flat.digest.ok_or("a file without a digest")?, linked: flat.linked }
            }
            Kind::Symlink => What::Symlink { target: flat.target.ok_or("a link without a target")? },
            Kind::Device => What::Device {
                block: flat.block.ok_or("a device without its kind")?,
                device: flat.device.ok_or("a device without its number")?,
            },
            Kind::Accounts => What::Accounts { lines: flat.lines.ok_or("an account file without lines")? },
        };
        let FlatRecord { uid, gid, mode, source, stamp, why, .. } = flat;
        Ok(Self { what, uid, gid, mode, source, stamp, why })
    }
}

mod octal {
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{mode:04o}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let mode = |text: &str| u32::from_str_radix(text, 8).ok();
        deserializer.deserialize_str(super::Text { read: mode, what: "octal digits" })
    }
}

/// Host paths that planning looked at, and their state then (`None`: nothing was there).
pub type Inputs = BTreeMap<PathText, Option<Stamp>>;

/// The whole memory of one jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u32,
    /// The jail's path.
    pub jail: PathText,
    /// st_dev of its directory.
    pub device: u64,
    /// st_ino of its directory.
    pub inode: u64,
    /// Sections as they were asked for.
    pub sections: Vec<String>,
    /// Paths that `jail-cp` or `--with` brought.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub wishes: BTreeSet<PathText>,
    /// How it was made; kept, so that an update does it the same way.
    #[serde(default)]
    pub options: Options,
    /// Where its sections are looked for first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_dir: Option<PathText>,
    /// The base whose files the jail's own few lie over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathText>,
    /// For a base: the directory in it that is current, and that `files`, `device` and `inode` are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// What the sections need from the entry.
    #[serde(default)]
    pub entry: EntryNeeds,
    /// Digest of the sections' text and of the program's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Digest>,
    /// Paths that a run was about to make; empty once it has ended.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub pending: BTreeSet<PathText>,
    /// Paths of ours that a section lets keep set-uid bits and file capabilities.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub privileged: BTreeSet<PathText>,
    /// The image that the jail was made from, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageOrigin>,
    /// Every path that is ours.
    pub files: BTreeMap<PathText, Record>,
    /// What planning looked at.
    #[serde(default)]
    pub seen: Seen,
}

/// An image that became a jail, and what it says of how to be started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageOrigin {
    /// Digest of the image's manifest; `None` only while a run is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What the image was called.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The user it names.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Its entrypoint and command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Its variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Its working directory.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
}

/// The choices of a jail that are not sections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Hard links to the host's files instead of copies.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hard_links: bool,
    /// Device nodes are made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub devices: bool,
}

impl Manifest {
    /// The memory of a jail that has none yet.
    #[must_use]
    pub fn new(jail: &Path) -> Self {
        Self {
            version: VERSION,
            jail: PathText(jail.to_path_buf()),
            device: 0,
            inode: 0,
            sections: Vec::new(),
            wishes: BTreeSet::new(),
            options: Options::default(),
            section_dir: None,
            base: None,
            generation: None,
            entry: EntryNeeds::default(),
            asked: None,
            pending: BTreeSet::new(),
            privileged: BTreeSet::new(),
            image: None,
            files: BTreeMap::new(),
            seen: Seen::default(),
        }
    }

    /// The directory that `files` lie in: the jail, or a base's current generation.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.generation
            .as_ref()
            .map_or_else(|| self.jail.0.clone(), |generation| self.jail.0.join(generation))
    }

    /// The record of a path.
    #[must_use]
    pub fn get(&self, path: &Path) -> Option<&Record> {
        // PathText is PathBuf's order; there is no borrowed form of it, and this is called for one path at a time.
        self.files.get(&PathText(path.to_path_buf()))
    }

    /// `libselinux.so.1 ← /usr/bin/ls ← section basicshell`; `None` if the path is not ours.
    #[must_use]
    pub fn explain(&self, path: &Path) -> Option<String> {
        let mut record = self.get(path)?;
        let mut chain = text::encode(path);
        // A chain has no loops, but a manifest is a file, and files get edited.
        for _ in 0..100 {
            chain.push_str(" ← ");
            chain.push_str(&record.why.to_string());
            match record.why.next().and_then(|next| self.get(next)) {
                Some(next) => record = next,
                None => break,
            }
        }
        Some(chain)
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// It is no manifest, or of a newer format.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| damaged(file, &e))?;
        if manifest.version != VERSION {
            let version = manifest.version;
            return Err(Error::failed(format!("the manifest {} has version {version}", text::quote(file)))
                .hint("it was written by a newer jail-init; use that one"));
        }
        Ok(manifest)
    }

    /// Reads no more of a manifest than the jail's directory, if the jail follows this host and no image.
    ///
    /// # Errors
    /// It is no manifest.
    pub fn follower(file: &Path, bytes: &[u8]) -> Result<Option<PathBuf>> {
        #[derive(Deserialize)]
        struct Whose {
            jail: PathText,
            #[serde(default)]
            image: Option<serde::de::IgnoredAny>,
        }
        let whose: Whose = serde_json::from_slice(bytes).map_err(|e| damaged(file, &e))?;
        Ok(whose.image.is_none().then_some(whose.jail.0))
    }

    /// The manifest as it is written.
    ///
    /// # Errors
    /// Never for a manifest of ours; serde_json's signature.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut json =
            serde_json::to_vec(self).map_err(|e| Error::failed(format!("cannot write the manifest: {e}")))?;
        json.push(b'\n');
        Ok(json)
    }
}

fn damaged(file: &Path, why: &serde_json::Error) -> Error {
    Error::failed(format!("the manifest {} is damaged: {why}", text::quote(file))).hint(
        "move it away and run 'jail-init -j JAIL SECTION...': files that are there already and differ are kept",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    fn record(why: Why) -> Record {
        let what = What::File { digest: Fingerprint::of(b"x"), linked: false };
        Record { what, uid: 0, gid: 0, mode: 0o755, source: None, stamp: None, why }
    }

    #[test]
    fn a_manifest_reads_back_with_any_path() {
        let mut manifest = Manifest::new(Path::new("/home/jail"));
        let odd = PathText(PathBuf::from(OsString::from_vec(b"/a\n\xff\\".to_vec())));
        manifest.files.insert(odd.clone(), record(Why::Section("x".into())));
        manifest.files.insert(
            PathText("/l".into()),
            Record { what: What::Symlink { target: odd.clone() }, ..record(Why::EveryJail) },
        );
        manifest.seen.paths.insert(odd, Some(Stamp(1, 2, -3, 4, 5, 6)));
        let json = manifest.to_json().expect("serializes");
        assert_eq!(Manifest::parse(Path::new("m"), &json).expect("reads back"), manifest);
    }

    #[test]
    fn every_kind_of_record_reads_back() {
        let mut manifest = Manifest::new(Path::new("/home/jail"));
        let kinds = [
            What::Directory,
            What::File { digest: Fingerprint::of(b"x"), linked: true },
            What::Symlink { target: PathText("x".into()) },
            What::Device { block: true, device: 7 },
            What::Accounts { lines: [("root".to_owned(), "root:x:0:".to_owned())].into() },
        ];
        for (number, what) in kinds.into_iter().enumerate() {
            let source = Source { path: PathText("/s".into()), stamp: Stamp(1, 2, 3, 4, 5, 6) };
            let record = Record { what, source: Some(source), stamp: None, ..record(Why::EveryJail) };
            manifest.files.insert(PathText(format!("/{number}").into()), record);
        }
        let json = manifest.to_json().expect("serializes");
        assert_eq!(Manifest::parse(Path::new("m"), &json).expect("reads back"), manifest);
        let text = String::from_utf8(json).expect("text");
        let error = Manifest::parse(Path::new("m"), text.replace("\"target\"", "\"aim\"").as_bytes());
        assert!(error.expect_err("incomplete").message.contains("a link without a target"));
    }

    #[test]
    fn the_order_is_that_of_paths() {
        let names = [
            "/", "/a", "/a/", "/a/b", "/a-b", "/a.b", "/a//b", "/a/./b", "/ab", "/a/.b", "b", "../a", "/b/a",
            "",
        ];
        for a in names {
            for b in names {
                let (left, right) = (PathText(a.into()), PathText(b.into()));
                assert_eq!(left.cmp(&right), Path::new(a).cmp(Path::new(b)), "{a} {b}");
            }
        }
    }

    #[test]
    fn a_chain_leads_to_the_section() {
        let mut manifest = Manifest::new(Path::new("/home/jail"));
        let path = |p: &str| PathText(PathBuf::from(p));
        manifest.files.insert(path("/usr/bin/ls"), record(Why::Section("basicshell".into())));
        manifest.files.insert(path("/usr/lib/libc.so.6"), record(Why::NeededBy(path("/usr/bin/ls"))));
        assert_eq!(
            manifest.explain(Path::new("/usr/lib/libc.so.6")).as_deref(),
            Some("/usr/lib/libc.so.6 ← /usr/bin/ls ← section basicshell")
        );
        assert_eq!(manifest.explain(Path::new("/nowhere")), None);
    }

    #[test]
    fn damage_is_said_with_what_to_do() {
        let error = Manifest::parse(Path::new("/m.json"), b"{").expect_err("damaged");
        assert!(error.message.contains("'/m.json' is damaged"));
        assert!(error.hint.is_some());
    }
}
