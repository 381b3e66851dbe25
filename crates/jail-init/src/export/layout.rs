//! An OCI image layout, as a directory or as one file: layer, configuration, manifest, index.
//!
//! A blob's name is its digest, which is known only once the layer is written. In a directory the layer gets its name at the
//! end; in a file its header is filled in afterwards. So each byte is read, digested and written once. The index comes last:
//! a directory without one holds no image.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use jail_provision::apply::Progress;
use jail_provision::digest::Digest;
use jail_provision::error::{Error, Result};
use jail_provision::{takedown, text};
use serde::{Deserialize, Serialize};
use tar::{EntryType, Header};

use super::archive;
use super::contents::{Contents, Reader};
use super::digesting::{Digesting, Sum};
use super::output::Output;
use crate::oci::{self, BlobDigest, Descriptor, Image, Index, Manifest, RootFs, Settings};

/// What goes into the image.
pub(crate) struct Source<'a> {
    pub(crate) contents: &'a Contents,
    pub(crate) reader: &'a Reader<'a>,
    /// Asked for when the layer is written: some of it is still being found out until then.
    pub(crate) settings: Box<dyn FnOnce() -> Result<Settings> + 'a>,
    /// What the image is called in the index.
    pub(crate) name: &'a str,
    pub(crate) gzip: bool,
    /// The sums of the layer, if this very list was written before.
    pub(crate) known: Option<Sums>,
    pub(crate) mode: u32,
}

/// The layer as it is stored, and as it unpacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sums {
    pub(crate) blob: Digest,
    pub(crate) size: u64,
    pub(crate) unpacked: Digest,
}

/// An image that was written.
pub(crate) struct Written {
    pub(crate) manifest: Digest,
    pub(crate) sums: Sums,
}

/// Writes the layer; without digesting it if its sums are known.
fn layer<W: Write>(
    source: &Source<'_>,
    out: W,
    name: &Path,
    progress: &mut dyn Progress,
) -> Result<(W, Sums)> {
    let failed = |e: io::Error| Error::io("write", name, e);
    let tar = |out: &mut dyn Write, progress: &mut dyn Progress| {
        archive::write(source.contents, source.reader, out, name, progress).map(drop)
    };
    if let Some(sums) = source.known {
        let mut out = BufWriter::with_capacity(256 << 10, out);
        if source.gzip {
            let mut packed = GzEncoder::new(out, Compression::default());
            tar(&mut packed, progress)?;
            out = packed.finish().map_err(failed)?;
        } else {
            tar(&mut out, progress)?;
        }
        return Ok((out.into_inner().map_err(|e| failed(e.into_error()))?, sums));
    }
    let out = Digesting::new(out).map_err(failed)?;
    if source.gzip {
        let mut plain = Digesting::new(GzEncoder::new(out, Compression::default())).map_err(failed)?;
        tar(&mut plain, progress)?;
        let (packed, unpacked) = plain.finish().map_err(failed)?;
        let (out, blob) = packed.finish().and_then(Digesting::finish).map_err(failed)?;
        return Ok((out, Sums { blob: blob.digest, size: blob.size, unpacked: unpacked.digest }));
    }
    let mut plain = out;
    tar(&mut plain, progress)?;
    let (out, Sum { digest, size }) = plain.finish().map_err(failed)?;
    Ok((out, Sums { blob: digest, size, unpacked: digest }))
}

/// The three documents above a layer.
struct Documents {
    config: Vec<u8>,
    manifest: Vec<u8>,
    index: Vec<u8>,
}

impl Documents {
    fn of(source: Source<'_>, sums: Sums) -> Result<Self> {
        let settings = (source.settings)()?;
        let config = json(&Image {
            created: Some(oci::timestamp(source.contents.newest())),
            architecture: oci::architecture().to_owned(),
            os: "linux".to_owned(),
            config: settings,
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![BlobDigest(sums.unpacked)] },
        })?;
        let media_type = if source.gzip { oci::LAYER_GZIP } else { oci::LAYER };
        let layer = Descriptor { size: sums.size, ..descriptor(media_type, sums.blob, &[]) };
        let manifest = json(&Manifest {
            schema_version: 2,
            media_type: Some(oci::MANIFEST.to_owned()),
            config: descriptor(oci::CONFIG, Digest::of(&config), &config),
            layers: vec![layer],
        })?;
        let mut entry = descriptor(oci::MANIFEST, Digest::of(&manifest), &manifest);
        entry.platform =
            Some(oci::Platform { architecture: oci::architecture().to_owned(), os: "linux".to_owned() });
        entry.annotations.insert(oci::REF_NAME.to_owned(), source.name.to_owned());
        let media_type = Some(oci::INDEX.to_owned());
        let index = json(&Index { schema_version: 2, media_type, manifests: vec![entry] })?;
        Ok(Self { config, manifest, index })
    }

    fn blobs(&self) -> [(Digest, &[u8]); 2] {
        [&self.config, &self.manifest].map(|bytes| (Digest::of(bytes), bytes.as_slice()))
    }

    fn written(&self, sums: Sums) -> Written {
        Written { manifest: Digest::of(&self.manifest), sums }
    }
}

fn descriptor(media_type: &str, digest: Digest, content: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: BlobDigest(digest),
        size: content.len() as u64,
        platform: None,
        annotations: std::collections::BTreeMap::new(),
    }
}

fn json(document: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(document)
        .map_err(|e| Error::failed(format!("cannot write the image's description: {e}")))
}

/// Writes the layout as one file.
///
/// # Errors
/// The jail cannot be read, or the file not be written; then what had its name before is still there.
pub(crate) fn to_file(path: &Path, source: Source<'_>, progress: &mut dyn Progress) -> Result<Written> {
    let failed = |e: io::Error| Error::io("write", path, e);
    let mut out = Output::create(path, source.mode)?;
    for directory in ["blobs/", "blobs/sha256/"] {
        out.write_all(header(directory, EntryType::Directory, 0).as_bytes()).map_err(failed)?;
    }
    let at = out.stream_position().map_err(failed)?;
    out.write_all(&[0; 512]).map_err(failed)?;
    let (mut out, sums) = layer(&source, out, path, progress)?;
    pad(&mut out, sums.size).map_err(failed)?;
    let end = out.stream_position().map_err(failed)?;
    if end != at + 512 + sums.size.next_multiple_of(512) {
        return Err(Error::failed("the layer is not as long as the one that was remembered".to_owned())
            .hint("run the command again with --afresh"));
    }
    out.seek(SeekFrom::Start(at)).map_err(failed)?;
    out.write_all(header(&blob_name(sums.blob), EntryType::Regular, sums.size).as_bytes()).map_err(failed)?;
    out.seek(SeekFrom::Start(end)).map_err(failed)?;
    // While the rest of the image's settings are waited for.
    out.begin_writing();
    let documents = Documents::of(source, sums)?;
    let mut file = |name: &str, content: &[u8]| {
        out.write_all(header(name, EntryType::Regular, content.len() as u64).as_bytes())?;
        out.write_all(content)?;
        pad(&mut out, content.len() as u64)
    };
    for (digest, content) in documents.blobs() {
        file(&blob_name(digest), content).map_err(failed)?;
    }
    file("oci-layout", oci::LAYOUT).map_err(failed)?;
    file("index.json", &documents.index).map_err(failed)?;
    out.write_all(&[0; 1024]).map_err(failed)?;
    out.commit()?;
    Ok(documents.written(sums))
}

fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{digest}")
}

/// All names are shorter than the field.
fn header(name: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header
}

fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let missing = usize::try_from(size.wrapping_neg() % 512).unwrap_or(0);
    out.write_all(&[0; 512][..missing])
}

/// Writes the layout as a directory, in place of the image of this name that may be there.
///
/// # Errors
/// The jail cannot be read, the directory holds something else, or it cannot be written.
pub(crate) fn to_directory(path: &Path, source: Source<'_>, progress: &mut dyn Progress) -> Result<Written> {
    let fresh = prepare(path, source.name)?;
    let written = fill(path, source, progress);
    if written.is_err() && fresh {
        // Best effort: the error that brought us here is what gets told.
        takedown::remove_tree(path).unwrap_or_default();
    }
    written
}

/// Looks at what is there; answers whether the directory was made.
fn prepare(path: &Path, name: &str) -> Result<bool> {
    let failed = |e: io::Error| Error::io("make the directory", path, e);
    let fresh = match std::fs::create_dir(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(failed(error)),
    };
    if !fresh {
        holds_nothing_else(path, name)?;
    }
    std::fs::create_dir_all(path.join("blobs/sha256")).map_err(failed)?;
    Ok(fresh)
}

fn holds_nothing_else(path: &Path, name: &str) -> Result<()> {
    let other = |what: &str| {
        Error::refused(format!("{} {what}", text::quote(path)))
            .hint("give a directory of its own, or one that holds nothing but an earlier export of this jail")
    };
    let read = |e: io::Error| Error::io("read", path, e);
    let mut names = std::fs::read_dir(path).map_err(read)?;
    let index = match std::fs::read(path.join("index.json")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let strange = names.any(|entry| {
                entry.map_or(true, |entry| entry.file_name() != "blobs" && entry.file_name() != "oci-layout")
            });
            return if strange { Err(other("holds something else than an image")) } else { Ok(()) };
        }
        other => other.map_err(read)?,
    };
    let index: Index =
        serde_json::from_slice(&index).map_err(|_| other("has an index.json that is none of ours"))?;
    let ours = |entry: &Descriptor| entry.annotations.get(oci::REF_NAME).is_some_and(|n| n == name);
    if index.manifests.iter().all(ours) { Ok(()) } else { Err(other("holds other images")) }
}

fn fill(path: &Path, source: Source<'_>, progress: &mut dyn Progress) -> Result<Written> {
    let blobs = path.join("blobs/sha256");
    let there = |sums: &Sums| {
        std::fs::symlink_metadata(blobs.join(sums.blob.to_string()))
            .is_ok_and(|stat| stat.is_file() && stat.len() == sums.size)
    };
    let sums = match source.known.filter(there) {
        Some(sums) => sums,
        None => {
            let place = blobs.join("layer");
            let (out, sums) = layer(&source, Output::create(&place, source.mode)?, &place, progress)?;
            out.commit_as(&OsString::from(sums.blob.to_string()))?;
            sums
        }
    };
    let documents = Documents::of(source, sums)?;
    for (digest, content) in documents.blobs() {
        write_file(&blobs.join(digest.to_string()), content)?;
    }
    write_file(&path.join("oci-layout"), oci::LAYOUT)?;
    write_file(&path.join("index.json"), &documents.index)?;
    let mut wanted: BTreeSet<OsString> =
        documents.blobs().map(|(digest, _)| digest.to_string().into()).into();
    wanted.insert(sums.blob.to_string().into());
    remove_others(&blobs, &wanted)?;
    Ok(documents.written(sums))
}

/// The blobs of the image that was there before: nothing names them any more.
fn remove_others(blobs: &Path, wanted: &BTreeSet<OsString>) -> Result<()> {
    let entries = std::fs::read_dir(blobs).map_err(|e| Error::io("read", blobs, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read", blobs, e))?;
        let is_blob = entry.file_name().to_str().and_then(Digest::parse).is_some();
        if is_blob && !wanted.contains(&entry.file_name()) {
            std::fs::remove_file(entry.path()).map_err(|e| Error::io("remove", &entry.path(), e))?;
        }
    }
    Ok(())
}

fn write_file(path: &Path, content: &[u8]) -> Result<()> {
    let mut out = Output::create(path, 0o644)?;
    out.write_all(content).map_err(|e| Error::io("write", path, e))?;
    out.commit()
}

/// Where the seccomp profile goes: beside the image, under the image's name.
pub(crate) fn beside(image: &Path) -> PathBuf {
    let mut name = image.file_name().unwrap_or_default().to_os_string();
    if image.extension().is_some_and(|extension| extension == "tar") {
        name = image.file_stem().unwrap_or_default().to_os_string();
    }
    name.push(".seccomp.json");
    image.with_file_name(name)
}
