//! Where the blobs of an image are: a directory, or a file that holds one, read in place.
//!
//! Nothing in it is trusted: names are looked up only by digest, sizes are held against what the description says, and every
//! document is digested before it is read.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jail_provision::digest::Digest;
use jail_provision::error::{Error, Result};
use jail_provision::text;
use rustix::fs::{self, CWD, Mode, OFlags, ResolveFlags};
use serde::de::DeserializeOwned;
use tar::Archive;

use crate::oci::{self, BlobDigest, Descriptor, Index, Manifest};

/// No description of an image is longer.
const LONGEST_DOCUMENT: u64 = 8 << 20;

/// No reason is longer that somebody reads.
const LONGEST_REASON: usize = 120;

/// No image has more blobs.
const MOST_BLOBS: usize = 10_000;

/// An image layout that can be read.
pub(super) struct Layout {
    path: PathBuf,
    place: Place,
}

enum Place {
    Directory {
        fd: OwnedFd,
        /// The blobs that were opened, as they were then.
        seen: RefCell<HashMap<String, FileStamp>>,
    },
    /// Names in the file, and where their content lies.
    File { file: Arc<File>, names: HashMap<Vec<u8>, (u64, u64)>, stamp: FileStamp },
}

/// Tells whether a file was written to or replaced meanwhile: inode, size, mtime and ctime.
type FileStamp = [i64; 6];

/// A part of a file.
pub(super) struct Section {
    file: Arc<File>,
    at: u64,
    pub(super) left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let got = self.file.read_at(&mut buffer[..most], self.at)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += got as u64;
        self.left -= got as u64;
        Ok(got)
    }
}

impl Layout {
    /// Opens a layout.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |e: io::Error| Error::io("read", path, e);
        // A pipe under this name must not hold us until somebody writes.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?);
        let stat = file.metadata().map_err(failed)?;
        let place = if stat.is_dir() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
            Place::Directory { fd, seen: RefCell::default() }
        } else if stat.is_file() {
            let names = names(path, &file)?;
            Place::File { stamp: stamp(&file).map_err(failed)?, file: Arc::new(file), names }
        } else {
            return Err(Error::failed(format!("{} is neither a file nor a directory", text::quote(path))));
        };
        let layout = Self { path: path.to_path_buf(), place };
        if layout.section("oci-layout").is_err() {
            return Err(layout.no_layout());
        }
        Ok(layout)
    }

    fn no_layout(&self) -> Error {
        let docker = self.section("manifest.json").is_ok();
        let error =
            Error::failed(format!("{} holds no OCI image: it has no oci-layout", text::quote(&self.path)));
        if docker {
            return error
                .hint("it is Docker's older form: skopeo copy docker-archive:FILE oci-archive:NEW.tar");
        }
        error.hint("podman save --format oci-archive -o FILE.tar IMAGE makes one")
    }

    fn section(&self, name: &str) -> Result<Section> {
        let failed = |e: io::Error| Error::io("read", &self.path.join(name), e);
        match &self.place {
            Place::File { file, names, .. } => {
                let Some((at, size)) = names.get(name.as_bytes()) else {
                    return Err(failed(io::ErrorKind::NotFound.into()));
                };
                Ok(Section { file: Arc::clone(file), at: *at, left: *size })
            }
            Place::Directory { fd: directory, seen } => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let confined =
                    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
                let file = fs::openat2(directory, name, flags, Mode::empty(), confined)
                    .map_err(|e| failed(e.into()))?;
                let file = File::from(file);
                let stat = file.metadata().map_err(failed)?;
                if !stat.is_file() {
                    return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "no regular file")));
                }
                // Digested the first time, written into the jail the second: it must be the same file.
                let now = stamp(&file).map_err(failed)?;
                if *seen.borrow_mut().entry(name.to_owned()).or_insert(now) != now {
                    return Err(self.written_to());
                }
                Ok(Section { file: Arc::new(file), at: 0, left: stat.len() })
            }
        }
    }

    /// A blob, as long as its descriptor says.
    ///
    /// # Errors
    /// It is not there, or has another length.
    pub(super) fn blob(&self, descriptor: &Descriptor) -> Result<Section> {
        let section = self
            .section(&format!("blobs/sha256/{}", descriptor.digest.0))
            .map_err(|error| error.hint("the image is incomplete: export or save it again"))?;
        if section.left != descriptor.size {
            return Err(self.bad(format!(
                "blob {} has {} bytes, not the {} that are declared",
                descriptor.digest, section.left, descriptor.size
            )));
        }
        Ok(section)
    }

    /// A refusal that names the image.
    pub(super) fn bad(&self, why: String) -> Error {
        Error::refused(format!("{}: {why}", text::quote(&self.path)))
    }

    fn whole(&self, section: Section, what: &str) -> Result<Vec<u8>> {
        if section.left > LONGEST_DOCUMENT {
            return Err(
                self.bad(format!("{what} has {} bytes, more than any is allowed to have", section.left))
            );
        }
        let mut section = section;
        let mut bytes = Vec::new();
        section.read_to_end(&mut bytes).map_err(|e| Error::io("read", &self.path, e))?;
        Ok(bytes)
    }

    fn parse<T: DeserializeOwned>(&self, bytes: &[u8], what: &str) -> Result<T> {
        serde_json::from_slice(bytes).map_err(|e| self.bad(format!("{what} cannot be read: {e}")))
    }

    /// A document, held against its digest.
    ///
    /// # Errors
    /// It is not there, has another digest, or cannot be read.
    pub(super) fn document<T: DeserializeOwned>(&self, descriptor: &Descriptor, what: &str) -> Result<T> {
        let bytes = self.whole(self.blob(descriptor)?, what)?;
        let digest = BlobDigest(Digest::of(&bytes));
        if digest != descriptor.digest {
            return Err(self.wrong_digest(what, descriptor.digest, digest));
        }
        self.parse(&bytes, what)
    }

    pub(super) fn wrong_digest(&self, what: &str, declared: BlobDigest, is: BlobDigest) -> Error {
        self.bad(format!(
            "{what} is declared as {declared} and is {is}: the image is damaged or was tampered with"
        ))
        .hint("get it again from where it came")
    }

    /// The image of this machine: its descriptor and its manifest.
    ///
    /// # Errors
    /// There is none, or several, or one of a kind that is not known here.
    pub(super) fn image(&self) -> Result<(Descriptor, Manifest)> {
        let bytes = self.whole(self.section("index.json")?, "index.json")?;
        let mut index: Index = self.parse(&bytes, "index.json")?;
        // An index of indexes is what 'docker buildx' writes; more levels than that nobody does.
        for _ in 0..3 {
            let one = self.choose(index)?;
            match one.media_type.as_str() {
                oci::MANIFEST | "application/vnd.docker.distribution.manifest.v2+json" => {
                    let manifest = self.document(&one, "the image's manifest")?;
                    return Ok((one, manifest));
                }
                oci::INDEX | "application/vnd.docker.distribution.manifest.list.v2+json" => {
                    index = self.document(&one, "an index")?;
                }
                other => {
                    return Err(
                        self.bad(format!("{} is no media type of an image that is known here", shown(other)))
                    );
                }
            }
        }
        Err(self.bad("its indexes are nested more than three deep".to_owned()))
    }

    fn choose(&self, index: Index) -> Result<Descriptor> {
        let fits = |d: &Descriptor| {
            d.platform.as_ref().is_none_or(|p| p.os == "linux" && p.architecture == oci::architecture())
        };
        let mut fitting: Vec<Descriptor> = index.manifests.into_iter().filter(fits).collect();
        match fitting.len() {
            1 => Ok(fitting.remove(0)),
            0 => Err(Error::failed(format!(
                "{} holds no image for linux/{}",
                text::quote(&self.path),
                oci::architecture()
            ))),
            _ => {
                let names: Vec<String> = fitting
                    .iter()
                    .filter_map(|d| d.annotations.get(oci::REF_NAME))
                    .map(|name| shown(name))
                    .collect();
                Err(Error::usage(format!(
                    "{} holds several images: {}",
                    text::quote(&self.path),
                    names.join(", ")
                ))
                .hint("skopeo copy oci-archive:FILE:NAME oci-archive:ONE.tar takes one out"))
            }
        }
    }

    /// Whether the file is still what was looked at.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn unchanged(&self) -> Result<()> {
        match &self.place {
            Place::File { file, stamp: before, .. } => {
                let now = stamp(file).map_err(|e| Error::io("read", &self.path, e))?;
                if now == *before { Ok(()) } else { Err(self.written_to()) }
            }
            Place::Directory { seen, .. } => {
                let names: Vec<String> = seen.borrow().keys().cloned().collect();
                names.iter().try_for_each(|name| self.section(name).map(drop))
            }
        }
    }

    fn written_to(&self) -> Error {
        Error::failed(format!("{} was written to while it was read", text::quote(&self.path)))
            .hint("run the command again once it has come to rest")
    }
}

/// Words of the image for a message: whoever made it may have put escape sequences for the reader's terminal into them.
pub(super) fn shown(words: &str) -> String {
    text::quote(Path::new(words))
}

/// Why an image cannot be read. The words of a library may quote the archive's bytes, whole headers and escape sequences for
/// the reader's terminal among them.
pub(super) fn reason(error: &io::Error) -> String {
    let words = text::reason(error);
    let words = words.split(" when getting ").next().unwrap_or_default();
    let words: String = words.chars().take(LONGEST_REASON).collect();
    text::encode(Path::new(&words))
}

fn stamp(file: &File) -> io::Result<FileStamp> {
    let stat = file.metadata()?;
    let whole = |number: u64| i64::from_ne_bytes(number.to_ne_bytes());
    Ok([
        whole(stat.ino()),
        whole(stat.len()),
        stat.mtime(),
        stat.mtime_nsec(),
        stat.ctime(),
        stat.ctime_nsec(),
    ])
}

/// The regular files of the outer archive. Only headers are read; names longer than a header holds are none of ours.
fn names(path: &Path, file: &File) -> Result<HashMap<Vec<u8>, (u64, u64)>> {
    let bad = |e: io::Error| {
        Error::failed(format!("{} is no archive of an image: {}", text::quote(path), reason(&e)))
            .hint("podman save --format oci-archive -o FILE.tar IMAGE makes one")
    };
    let mut archive = Archive::new(file);
    let mut names = HashMap::new();
    for entry in archive.entries_with_seek().map_err(bad)?.raw(true) {
        let entry = entry.map_err(bad)?;
        if names.len() >= MOST_BLOBS {
            return Err(Error::refused(format!("{} holds more than {MOST_BLOBS} files", text::quote(path))));
        }
        if entry.header().entry_type().is_file() {
            let name = entry.path_bytes();
            let name = name.strip_prefix(b"./").unwrap_or(&name).to_vec();
            names.insert(name, (entry.raw_file_position(), entry.size()));
        }
    }
    Ok(names)
}
