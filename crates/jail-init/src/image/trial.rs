//! For fuzzing, and for replaying what it kept: the reading half of an import on bytes, without a file.

use std::io::{Read, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Component, Path};

use jail_provision::digest::Digest;
use serde_json::Value;

use super::layer::{self, Budget};
use super::merge::{Tree, What};
use super::source::Layout;
use super::{Packing, describe, unpack};

/// What an image of a fuzzer may unpack to.
const MAX: u64 = 4 << 20;

/// Lays layers over each other, packed as `packing` says (0 not, 1 gzip, 2 zstd), and holds the tree against what every tree
/// of an image must be; answers how many paths it has.
///
/// # Errors
/// A layer holds what no layer may.
///
/// # Panics
/// The tree is none: something lies outside the root or below a file, or a link leads out.
pub fn layers<'a>(layers: impl Iterator<Item = &'a [u8]>, packing: u8) -> Result<usize, String> {
    let packing = [Packing::None, Packing::Gzip, Packing::Zstd][usize::from(packing % 3)];
    let (mut tree, mut budget) = (Tree::default(), Budget::new(MAX));
    for (number, bytes) in layers.enumerate() {
        let mut items = Vec::new();
        let mut collect = |n: usize, item: layer::Item, _: &mut dyn Read| {
            items.push((n, item, None));
            Ok(())
        };
        layer::read(&mut unpack(packing, bytes), &mut budget, &mut collect)?;
        tree.lay(number, items, &mut budget)?;
    }
    for (path, node) in &tree.nodes {
        hold(&tree, path, &node.what);
        assert!(node.meta.mode & !0o7777 == 0);
    }
    Ok(tree.nodes.len())
}

fn hold(tree: &Tree, path: &Path, what: &What) {
    assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.map(|parent| tree.nodes.get(parent).map(|node| &node.what));
    assert!(matches!(parent, None | Some(Some(What::Directory))), "{path:?} lies in no directory");
    match what {
        What::Directory => {}
        What::File(n) => assert!(*n < tree.files.len()),
        What::Symlink(target) => assert!(layer::resolve(path, target).is_some(), "{path:?} -> {target:?}"),
    }
}

/// Reads the documents of an image: index, manifest and configuration, each with a right digest, so that what is behind the
/// digest is reached. Answers whether they describe an image.
///
/// # Panics
/// There is no file in memory to be had.
#[must_use]
pub fn documents(index: &[u8], manifest: &[u8], config: &[u8]) -> bool {
    let config_digest = Digest::of(config);
    let manifest = pointing(manifest, "/config", config_digest, config.len());
    let manifest_digest = Digest::of(&manifest);
    let index = pointing(index, "/manifests/0", manifest_digest, manifest.len());
    let blob = |digest: Digest| format!("blobs/sha256/{digest}");
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in [
        ("oci-layout".to_owned(), crate::oci::LAYOUT),
        ("index.json".to_owned(), &index),
        (blob(manifest_digest), &manifest),
        (blob(config_digest), config),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content).expect("written to memory");
    }
    let bytes = tar.into_inner().expect("written to memory");
    let file = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).expect("a file in memory");
    let mut file = std::fs::File::from(file);
    file.write_all(&bytes).expect("written to memory");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let layout = Layout::open(Path::new(&path)).expect("a layout");
    let Ok((descriptor, manifest)) = layout.image() else { return false };
    describe(&layout, &descriptor, manifest).is_ok()
}

/// The document, with the descriptor at this place made to fit what it is to describe.
fn pointing(document: &[u8], place: &str, digest: Digest, size: usize) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(document) else { return document.to_vec() };
    if let Some(descriptor) = value.pointer_mut(place).and_then(Value::as_object_mut) {
        descriptor.insert("digest".to_owned(), format!("sha256:{digest}").into());
        descriptor.insert("size".to_owned(), size.into());
    }
    value.to_string().into_bytes()
}
