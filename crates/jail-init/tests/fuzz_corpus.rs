//! Every file that fuzzing kept of images, through the code that fuzzing ran.

#[path = "../../../fuzz/images.rs"]
mod images;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tar::{Builder, EntryType, Header};

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name)
}

fn replay(name: &str, body: fn(&[u8])) {
    let mut files = 0;
    for entry in fs::read_dir(corpus(name)).expect("a corpus") {
        body(&fs::read(entry.expect("an entry").path()).expect("read"));
        files += 1;
    }
    assert!(files >= 4, "{name}: only {files} files");
}

#[test]
fn layers() {
    replay("image_layer", images::image_layer);
}

#[test]
fn documents() {
    replay("image_documents", images::image_documents);
}

/// The seeds reach what they are for: a body that refuses everything would replay any corpus.
#[test]
fn the_seeds_are_images() {
    for name in ["layers", "gzip", "long", "whiteouts"] {
        let bytes = fs::read(corpus("image_layer").join(name)).expect("a seed");
        let layers = images::parts(&bytes[1..]);
        let paths = jail_init::image::trial::layers(layers.into_iter(), bytes[0]).expect(name);
        assert!(paths >= 3, "{name}: {paths} paths");
    }
    let bytes = fs::read(corpus("image_documents").join("plain")).expect("a seed");
    let parts = images::parts(&bytes);
    assert!(jail_init::image::trial::documents(parts[0], parts[1], parts[2]));
}

/// Writes the first seeds; run by hand: `cargo test -p jail-init --test fuzz_corpus seeds -- --ignored`.
#[test]
#[ignore = "writes into fuzz/corpus"]
fn seeds() {
    let put = |name: &str, bytes: &[u8]| {
        let path = corpus(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, bytes).expect("written");
    };
    let with = |packing: u8, layers: &[Vec<u8>]| {
        let mut bytes = vec![packing];
        bytes.extend(layers.join(&b"\xff--\xff"[..]));
        bytes
    };
    let base = layer(&[
        ("bin/", EntryType::Directory, ""),
        ("bin/a", EntryType::Regular, ""),
        ("lib", EntryType::Symlink, "bin"),
        ("b", EntryType::Link, "bin/a"),
    ]);
    let above = layer(&[
        ("lib/x", EntryType::Regular, ""),
        ("bin/.wh.a", EntryType::Regular, ""),
        ("opt/.wh..wh..opq", EntryType::Regular, ""),
        ("opt/new", EntryType::Regular, ""),
    ]);
    put("image_layer/layers", &with(0, &[base.clone(), above.clone()]));
    put("image_layer/whiteouts", &with(0, &[base.clone(), above, base.clone()]));
    put(
        "image_layer/devices",
        &with(0, &[layer(&[("dev/null", EntryType::Char, ""), ("x", EntryType::Block, "")])]),
    );
    put(
        "image_layer/out",
        &with(0, &[layer(&[("a", EntryType::Symlink, "../../etc"), ("a/x", EntryType::Regular, "")])]),
    );
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut packed, &base).expect("packed");
    put("image_layer/gzip", &with(1, &[packed.finish().expect("packed")]));
    put("image_layer/zstd", &with(2, &[vec![0x28, 0xb5, 0x2f, 0xfd, 4, 0, 1, 0, 0]]));
    let mut long = Builder::new(Vec::new());
    let records = [("path", &b"d/a-name-in-a-record"[..]), ("uid", b"3000000"), ("linkpath", b"x")];
    long.append_pax_extensions(records).expect("written");
    append(&mut long, "short", EntryType::Regular, "");
    append(&mut long, "L", EntryType::GNULongName, "");
    append(&mut long, "other", EntryType::Regular, "");
    put("image_layer/long", &with(0, &[long.into_inner().expect("written")]));

    let image = json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "", "size": 0,
        "platform": { "os": "linux", "architecture": "amd64" }, "annotations": { "org.opencontainers.image.ref.name": "a:1" } });
    let index = json!({ "schemaVersion": 2, "manifests": [image] });
    let layer = json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": format!("sha256:{}", "0".repeat(64)), "size": 9 });
    let config = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": "", "size": 0 });
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let settings = json!({ "User": "1:1", "Env": ["A=b"], "Entrypoint": ["/bin/sh"], "Cmd": ["-c"], "WorkingDir": "/", "Labels": {} });
    let image = |architecture: &str| {
        json!({ "architecture": architecture, "os": "linux", "config": settings,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", "0".repeat(64))] } })
    };
    let three = |index: &serde_json::Value, image: &serde_json::Value| {
        [index.to_string(), manifest.to_string(), image.to_string()]
            .map(String::into_bytes)
            .join(&b"\xff--\xff"[..])
    };
    put("image_documents/plain", &three(&index, &image("amd64")));
    put("image_documents/other", &three(&index, &image("s390x")));
    put("image_documents/empty", &three(&json!({ "schemaVersion": 2, "manifests": [] }), &image("amd64")));
    put("image_documents/nothing", b"");
}

fn layer(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, kind, target) in entries {
        append(&mut tar, name, *kind, target);
    }
    tar.into_inner().expect("written")
}

fn append(tar: &mut Builder<Vec<u8>>, name: &str, kind: EntryType, target: &str) {
    let content: &[u8] = match kind {
        EntryType::Regular => b"x",
        EntryType::GNULongName => b"d/e/a-long-name\0",
        _ => b"",
    };
    let mut header = Header::new_gnu();
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    header.set_cksum();
    tar.append(&header, content).expect("appended");
}
