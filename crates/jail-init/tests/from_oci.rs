//! An image becomes a jail: layers as they were meant, and nothing that a hostile image would have root do.

mod common;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Run, Scratch, text};
use flate2::write::GzEncoder;
use jail_provision::digest::Digest;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// A tar archive made by hand, so that it can hold what no honest tool writes.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn entry(mut self, name: &str, kind: EntryType, mode: u32, target: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).expect("appended");
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(name, EntryType::Regular, 0o644, "", content.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.entry(name, EntryType::Directory, 0o755, "", b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Symlink, 0o777, target, b"")
    }

    /// A header that lies.
    fn raw(mut self, change: impl FnOnce(&mut Header)) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..1].copy_from_slice(b"a");
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        change(&mut header);
        header.set_cksum();
        self.0.get_mut().write_all(header.as_bytes()).expect("written");
        self
    }

    fn done(self) -> Vec<u8> {
        self.0.into_inner().expect("finished")
    }
}

/// Tampers with the manifest and the configuration.
type Change<'a> = &'a dyn Fn(&mut Value, &mut Value);

/// An image that is being made: blobs, and the documents above them.
struct Image {
    layers: Vec<(String, Vec<u8>, Vec<u8>)>,
}

impl Image {
    fn of(layers: Vec<Layer>) -> Self {
        let layers = layers.into_iter().map(|layer| {
            let tar = layer.done();
            (TAR.to_owned(), tar.clone(), tar)
        });
        Self { layers: layers.collect() }
    }

    fn packed(media_type: &str, tar: Vec<u8>, blob: Vec<u8>) -> Self {
        Self { layers: vec![(media_type.to_owned(), tar, blob)] }
    }

    /// Writes the archive; `change` may tamper with the documents first.
    fn write(&self, path: &Path, change: impl FnOnce(&mut Value, &mut Value)) {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let digest = |bytes: &[u8]| format!("sha256:{}", Digest::of(bytes));
        let diff_ids: Vec<String> = self.layers.iter().map(|(_, tar, _)| digest(tar)).collect();
        let mut config = json!({ "architecture": arch, "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "config": { "Cmd": ["/bin/hello"], "User": "1000" } });
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|(kind, _, blob)| json!({ "mediaType": kind, "digest": digest(blob), "size": blob.len() }))
            .collect();
        let mut manifest = json!({ "schemaVersion": 2, "layers": layers });
        change(&mut manifest, &mut config);
        let config = config.to_string();
        manifest["config"] = json!({ "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(config.as_bytes()), "size": config.len() });
        let manifest = manifest.to_string();
        let index = json!({ "schemaVersion": 2, "manifests": [{ "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(manifest.as_bytes()), "size": manifest.len(),
            "annotations": { "org.opencontainers.image.ref.name": "localhost/test:1" } }] });
        let mut tar = Builder::new(std::fs::File::create(path).expect("made"));
        let mut add = |name: &str, content: &[u8]| {
            let mut header = Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, content).expect("appended");
        };
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        add("index.json", index.to_string().as_bytes());
        let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes));
        add(&blob(manifest.as_bytes()), manifest.as_bytes());
        add(&blob(config.as_bytes()), config.as_bytes());
        for (_, _, content) in &self.layers {
            add(&blob(content), content);
        }
        tar.finish().expect("finished");
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).expect("chmod");
    }
}

fn import(scratch: &Scratch, file: &Path, more: &[&str]) -> Run {
    let jail = scratch.jail();
    let mut arguments = vec!["-j", text(&jail), "--from-oci", text(file)];
    arguments.extend(more);
    scratch.run("jail-init", &arguments)
}

/// jail-init in whose calls strace puts a fault (strace(1), `inject=`), which begins with the call's name.
fn with_fault(scratch: &Scratch, fault: &str) -> Command {
    let call = fault.split(':').next().unwrap_or_default();
    let mut command = scratch.command("strace");
    command.args([
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        &format!("trace={call}"),
        "-e",
        &format!("inject={fault}"),
    ]);
    command.arg(scratch.tool("jail-init"));
    command
}

fn with(layers: Vec<Layer>) -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    let file = scratch.path("image.tar");
    Image::of(layers).write(&file, |_, _| ());
    (scratch, file)
}

fn paths(jail: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut todo = vec![jail.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).expect("listed") {
            let path = entry.expect("entry").path();
            if std::fs::symlink_metadata(&path).expect("stat").is_dir() {
                todo.push(path.clone());
            }
            found.insert(text(path.strip_prefix(jail).expect("below")).to_owned());
        }
    }
    found
}

#[test]
fn layers_whiteouts_and_links_become_a_jail() {
    let base = Layer::new()
        .dir("bin/")
        .file("bin/hello", "one")
        .file("bin/old", "x")
        .dir("opt/")
        .file("opt/a", "x")
        .file("opt/b", "x")
        .dir("usr/lib/")
        .link("lib", "usr/lib")
        .file("./etc/passwd", "root:x:0:0::/:/bin/sh\n")
        .entry("bin/su", EntryType::Regular, 0o4755, "", b"su")
        .entry("bin/hello2", EntryType::Link, 0o644, "bin/hello", b"")
        .entry("dev/null", EntryType::Char, 0o666, "", b"");
    let above = Layer::new()
        .file("lib/libx.so", "x")
        .file("bin/.wh.old", "")
        .file("opt/.wh..wh..opq", "")
        .file("opt/new", "x")
        .file("bin/hello", "two");
    let (scratch, file) = with(vec![base, above]);
    let run = import(&scratch, &file, &[]).ok();
    let jail = scratch.jail();
    let expected = [
        "bin",
        "bin/hello",
        "bin/hello2",
        "bin/su",
        "etc",
        "etc/passwd",
        "lib",
        "opt",
        "opt/new",
        "usr",
        "usr/lib",
        "usr/lib/libx.so",
    ];
    assert_eq!(paths(&jail), expected.map(str::to_owned).into());
    assert_eq!(std::fs::read(jail.join("bin/hello")).expect("read"), b"two");
    assert_eq!(std::fs::read(jail.join("bin/hello2")).expect("read"), b"one");
    let su = std::fs::metadata(jail.join("bin/su")).expect("stat");
    assert_eq!((su.mode() & 0o7777, su.mtime()), (0o755, 1_000_000_000));
    assert!(run.out.contains("'/bin/su'") && run.out.contains("'/dev/null'"), "{run:#?}");
    // A jail like any other: checked, explained, exported; and nothing to do a second time.
    scratch.on_jail("jail-check", &[]).ok();
    assert!(scratch.on_jail("jail-init", &["--explain", "/bin/su"]).ok().out.contains("the image"));
    let before = scratch.everything();
    assert!(import(&scratch, &file, &[]).ok().out.contains("is up to date"));
    assert_eq!(scratch.everything(), before);
    // Sections would mix the host's libraries with the image's; an update without any must not take it for rubbish.
    scratch.init(&["shell"]).fails(4, "was made from an image");
    scratch.on_jail("jail-update", &[]).fails(4, "was made from an image");
    scratch.run("jail-update", &["--all"]).ok();
    assert_eq!(scratch.everything(), before);
}

#[test]
fn hard_links_stay_one_file() {
    let layer = Layer::new().file("a", "x").entry("b", EntryType::Link, 0o644, "/a", b"").entry(
        "c/d",
        EntryType::Link,
        0o644,
        "./b",
        b"",
    );
    let (scratch, file) = with(vec![layer]);
    import(&scratch, &file, &[]).ok();
    let inode = |name: &str| std::fs::metadata(scratch.jail().join(name)).expect("stat").ino();
    assert_eq!((inode("a"), inode("a")), (inode("b"), inode("c/d")));
    scratch.on_jail("jail-check", &[]).ok();
}

/// What a layer says twice is as it says last, and a large owner stands where tar writes it: in a record of its own.
#[test]
fn entries_that_come_twice_and_owners_in_records() {
    let layer = Layer::new()
        .file("a", "first")
        .file("a", "second")
        .dir("d/")
        .file("d/x", "x")
        .file("d", "a file now")
        .entry("p", EntryType::XHeader, 0o644, "", b"15 uid=3000000\n15 gid=3000001\n")
        .file("big", "x")
        .entry("p", EntryType::XHeader, 0o644, "", b"41 SCHILY.xattr.security.capability=\x01\0\0\x02\n")
        .file("ping", "x");
    let (scratch, file) = with(vec![layer]);
    let run = import(&scratch, &file, &["--json"]).ok();
    assert_eq!(paths(&scratch.jail()), ["a", "big", "d", "ping"].map(str::to_owned).into());
    assert_eq!(std::fs::read(scratch.jail().join("a")).expect("read"), b"second");
    assert!(run.out.contains("file capabilities were dropped: '/ping'"), "{run:#?}");
    if scratch.is_root() {
        // As root, the numbers are the image's; a look is enough, and writes nothing.
        let place = tempfile::tempdir().expect("scratch");
        let root = Command::new(scratch.tool("jail-init"))
            .args(["-j", text(&place.path().join("jail")), "--from-oci", text(&file), "--dry-run", "--json"])
            .output()
            .expect("runs");
        let root: Value = serde_json::from_slice(&root.stdout).expect("JSON");
        assert!(root["notes"].to_string().contains("1 path belong to other users"), "{root}");
    }
}

#[test]
fn a_newer_image_brings_the_jail_up_to_date() {
    let (scratch, file) =
        with(vec![Layer::new().file("same", "x").file("changed", "x").file("gone", "x").file("mine", "x")]);
    import(&scratch, &file, &[]).ok();
    let jail = scratch.jail();
    let inode = std::fs::metadata(jail.join("same")).expect("stat").ino();
    std::fs::write(jail.join("mine"), "the administrator's").expect("written");
    std::fs::write(jail.join("foreign"), "too").expect("written");
    Image::of(vec![
        Layer::new().file("same", "x").file("changed", "y").file("mine", "y").file("foreign", "y"),
    ])
    .write(&file, |_, _| ());
    let dry = import(&scratch, &file, &["--dry-run", "--json"]).ok();
    let dry: Value = serde_json::from_str(&dry.out).expect("JSON");
    assert_eq!((&dry["written"], &dry["removed"]), (&json!(1), &json!(1)));
    let run = import(&scratch, &file, &[]).ok();
    assert!(run.out.contains("kept '/mine'") && run.out.contains("kept '/foreign'"), "{run:#?}");
    let read = |name: &str| std::fs::read_to_string(jail.join(name)).expect("read");
    assert_eq!(
        (read("changed"), read("mine"), read("foreign")),
        ("y".into(), "the administrator's".into(), "too".into())
    );
    assert!(!jail.join("gone").exists());
    assert_eq!(
        std::fs::metadata(jail.join("same")).expect("stat").ino(),
        inode,
        "what is right is left alone"
    );
    import(&scratch, &file, &["-f"]).ok();
    assert_eq!((read("mine"), read("foreign")), ("y".into(), "y".into()));
}

/// Each of these must be refused before anything is written.
#[test]
fn hostile_images_are_refused() {
    let long = "x/".repeat(49);
    let cases: Vec<(&str, Vec<Layer>, &str)> = vec![
        ("dots", vec![Layer::new().file("../escape", "x")], "holds '..'"),
        ("dots within", vec![Layer::new().file("a/../../escape", "x")], "holds '..'"),
        ("link out", vec![Layer::new().link("a", "../../../etc")], "leads out of the image"),
        ("through own link", vec![Layer::new().link("a", "/etc").file("a/passwd", "x")], "of the same layer"),
        (
            "through lower link",
            vec![Layer::new().link("a", "/etc"), Layer::new().file("a/passwd", "x")],
            "no directory",
        ),
        (
            "link to link",
            vec![Layer::new().dir("d/").link("b", "d").link("a", "b"), Layer::new().file("a/x", "x")],
            "no directory of the image",
        ),
        (
            "hard link out",
            vec![Layer::new().entry("a", EntryType::Link, 0o644, "/etc/shadow", b"")],
            "no file of the image",
        ),
        (
            "hard link dots",
            vec![Layer::new().entry("a", EntryType::Link, 0o644, "../../etc/shadow", b"")],
            "holds '..'",
        ),
        ("whiteout dots", vec![Layer::new().file("a/.wh...", "")], "no whiteout"),
        ("device", vec![Layer::new().entry("disk", EntryType::Block, 0o666, "", b"")], "device node"),
        (
            "pipe",
            vec![Layer::new().entry("etc/pipe", EntryType::Fifo, 0o666, "", b"")],
            "device node or a pipe",
        ),
        ("sparse", vec![Layer::new().entry("a", EntryType::GNUSparse, 0o644, "", b"")], "no layer may hold"),
        ("below a file", vec![Layer::new().file("a", "x").file("a/b", "x")], "below the file"),
        (
            "endless name",
            vec![Layer::new().entry("L", EntryType::GNULongName, 0o644, "", &vec![b'a'; 2 << 20])],
            "header of",
        ),
        (
            "device by link",
            vec![
                Layer::new()
                    .link("dev", "etc")
                    .entry("dev/null", EntryType::Char, 0o666, "", b"")
                    .file("dev/x", "y"),
            ],
            "of the same layer",
        ),
        (
            "a file, then a link, then through it",
            vec![Layer::new().dir("a/").link("a", "/etc").file("a/passwd", "x")],
            "of the same layer",
        ),
        (
            "through a link to the root",
            vec![Layer::new().link("a", "/"), Layer::new().file("a/x", "x")],
            "to the root",
        ),
        (
            "hard link to a link's target",
            vec![Layer::new().link("a", "/etc/shadow").dir("etc/").entry(
                "b",
                EntryType::Link,
                0o644,
                "etc/shadow",
                b"",
            )],
            "no file of the image",
        ),
        (
            "hard link to itself",
            vec![Layer::new().entry("a", EntryType::Link, 0o644, "a", b"")],
            "no file of the image",
        ),
        (
            "hard link to a directory",
            vec![Layer::new().dir("d/").entry("a", EntryType::Link, 0o644, "d", b"")],
            "no file of the image",
        ),
        (
            "socket",
            vec![Layer::new().entry("run/s", EntryType::new(b'X'), 0o666, "", b"")],
            "no layer may hold",
        ),
        (
            "too deep",
            vec![
                Layer::new()
                    .entry("L", EntryType::GNULongName, 0o644, "", "d/".repeat(300).as_bytes())
                    .file("a", "x"),
            ],
            "deeper than 200",
        ),
        (
            "a size that is not there",
            vec![Layer::new().raw(|header| header.set_size(1 << 30))],
            "no tar archive",
        ),
        (
            "a pax record that is none",
            vec![Layer::new().entry("p", EntryType::XHeader, 0o644, "", b"99 path=x\n").file("a", "x")],
            "pax",
        ),
        (
            "an owner that nobody is",
            vec![
                Layer::new().entry("p", EntryType::XHeader, 0o644, "", b"18 uid=4294967295\n").file("a", "x"),
            ],
            "no owner",
        ),
        (
            "too long",
            vec![
                Layer::new()
                    .entry("L", EntryType::GNULongName, 0o644, "", long.repeat(100).as_bytes())
                    .file("a", "x"),
            ],
            "longer than a path",
        ),
    ];
    for (name, layers, why) in cases {
        let (scratch, file) = with(layers);
        let before = scratch.everything();
        import(&scratch, &file, &[]).fails(4, why);
        assert_eq!(scratch.everything(), before, "{name}");
        assert!(!scratch.jail().exists(), "{name}");
    }
}

/// A library's message quotes the header it stumbled over; root's terminal must not be told what to do by it.
#[test]
fn what_an_archive_says_reaches_no_terminal_as_it_is() {
    let evil = |header: &mut Header| {
        header.as_old_mut().name[..7].copy_from_slice(b"\x1b]0;ha\x07");
        header.as_old_mut().size[..8].copy_from_slice(b"\x1b[2J\nxxx");
    };
    let (scratch, file) = with(vec![Layer::new().raw(evil)]);
    let outer = scratch.path("outer.tar");
    std::fs::write(&outer, Layer::new().raw(evil).done()).expect("written");
    let no_archive = scratch.path("text.tar");
    std::fs::write(&no_archive, "\x1b[2J\n".repeat(1000)).expect("written");
    for image in [&file, &outer, &no_archive] {
        let run = import(&scratch, image, &[]);
        assert!(matches!(run.status, Some(1 | 4)), "{run:#?}");
        assert!(run.err.contains("archive"), "{run:#?}");
        assert!(!run.err.contains('\x1b') && !run.err.contains('\x07'), "{run:#?}");
        assert!(run.err.lines().count() <= 2 && run.err.len() < 600, "a sentence and a hint: {run:#?}");
    }
}

#[test]
fn a_tampered_image_is_refused() {
    let scratch = Scratch::new();
    let file = scratch.path("image.tar");
    let image = Image::of(vec![Layer::new().file("a", "x")]);
    let zeros = "0".repeat(64);
    let cases: [(&str, Change<'_>, i32, &str); 10] = [
        // What is shown of the image's own words must not reach the terminal as it is.
        ("escape", &|m, _| m["layers"][0]["mediaType"] = "\x1b]0;evil".into(), 4, "\\x1b]0;evil"),
        (
            "many layers",
            &|m, c| {
                m["layers"] = vec![m["layers"][0].clone(); 1_001].into();
                c["rootfs"]["diff_ids"] = vec![c["rootfs"]["diff_ids"][0].clone(); 1_001].into();
            },
            4,
            "1001 layers",
        ),
        (
            "type",
            &|m, _| m["layers"][0]["mediaType"] = "application/x-evil".into(),
            4,
            "no media type of a layer",
        ),
        ("length", &|m, _| m["layers"][0]["size"] = 1.into(), 4, "that are declared"),
        (
            "diff id",
            &|_, c| c["rootfs"]["diff_ids"][0] = format!("sha256:{zeros}").into(),
            4,
            "is declared as",
        ),
        ("count", &|_, c| c["rootfs"]["diff_ids"] = json!([]), 4, "digests of layers"),
        ("missing", &|m, _| m["layers"][0]["digest"] = format!("sha256:{zeros}").into(), 1, "incomplete"),
        (
            "path",
            &|m, _| m["layers"][0]["digest"] = "sha256:../../../../etc/passwd".into(),
            4,
            "a digest that is not",
        ),
        ("other machine", &|_, c| c["architecture"] = "s390x".into(), 1, "for 'linux/s390x'"),
        ("other system", &|_, c| c["os"] = "plan9".into(), 1, "for 'plan9"),
    ];
    for (name, change, status, why) in cases {
        image.write(&file, |manifest, config| change(manifest, config));
        let run = import(&scratch, &file, &[]).fails(status, why);
        assert!(!scratch.jail().exists(), "{name}: {run:#?}");
    }
    // A blob that is not what its name says, of the right length.
    image.write(&file, |_, _| ());
    let mut bytes = std::fs::read(&file).expect("read");
    let at = bytes.windows(8).rposition(|w| w == b"ustar  \0").expect("a header");
    bytes[at + 300] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    let run = import(&scratch, &file, &[]);
    assert_eq!(run.status, Some(4), "{run:#?}");
    assert!(!scratch.jail().exists());
}

#[test]
fn packed_layers_are_unpacked_and_bounded() {
    let scratch = Scratch::new();
    let file = scratch.path("image.tar");
    let tar = Layer::new().file("a", "hello").done();
    let mut packed = GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(&tar).expect("packed");
    let packed = packed.finish().expect("packed");
    Image::packed("application/vnd.oci.image.layer.v1.tar+gzip", tar.clone(), packed.clone())
        .write(&file, |_, _| ());
    import(&scratch, &file, &[]).ok();
    assert_eq!(std::fs::read(scratch.jail().join("a")).expect("read"), b"hello");
    // Packed otherwise than it says.
    let other = Scratch::new();
    let file = other.path("image.tar");
    Image::packed("application/vnd.oci.image.layer.v1.tar+zstd", tar.clone(), packed).write(&file, |_, _| ());
    import(&other, &file, &[]).fails(4, "no zstd stream");
    if Command::new("zstd").arg("-V").output().is_ok_and(|o| o.status.success()) {
        let plain = other.path("plain.tar");
        std::fs::write(&plain, &tar).expect("written");
        let zstd = Command::new("zstd").args(["-qc", text(&plain)]).output().expect("zstd").stdout;
        Image::packed("application/vnd.oci.image.layer.v1.tar+zstd", tar.clone(), zstd)
            .write(&file, |_, _| ());
        import(&other, &file, &[]).ok();
        assert_eq!(std::fs::read(other.jail().join("a")).expect("read"), b"hello");
        // As zstd:chunked is: a frame for every piece, and between them frames that are to be skipped.
        let mut frames = Vec::new();
        for piece in tar.chunks(512) {
            std::fs::write(&plain, piece).expect("written");
            frames.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
            frames.extend(Command::new("zstd").args(["-qc", text(&plain)]).output().expect("zstd").stdout);
        }
        let chunked = Scratch::new();
        let image = |blob: Vec<u8>| {
            Image::packed("application/vnd.oci.image.layer.v1.tar+zstd", tar.clone(), blob)
                .write(&file, |_, _| ());
        };
        image(frames.clone());
        import(&chunked, &file, &[]).ok();
        assert_eq!(std::fs::read(chunked.jail().join("a")).expect("read"), b"hello");
        // One that ends in the middle of what is to be skipped.
        frames.extend([0x50, 0x2a, 0x4d, 0x18, 99, 0, 0, 0, 1]);
        image(frames);
        import(&Scratch::new(), &file, &[]).fails(4, "no tar archive");
    } else {
        eprintln!("skipped in part: zstd is not installed");
    }
}

/// A bomb: a few kilobytes that unpack to hundreds of megabytes, as one file, as padding, and as names.
#[test]
fn what_unpacks_to_more_than_allowed_is_refused() {
    let pack = |tar: &[u8]| {
        let mut packed = GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(tar).expect("packed");
        packed.finish().expect("packed")
    };
    let big = Layer::new().entry("a", EntryType::Regular, 0o644, "", &vec![0; 64 << 20]).done();
    let mut padded = Layer::new().file("a", "x").done();
    padded.resize(64 << 20, 0);
    let mut many = Layer::new();
    for n in 0..5_000 {
        many = many.file(&format!("f{n}"), "");
    }
    for (name, tar) in [("one file", big), ("padding", padded), ("many files", many.done())] {
        let scratch = Scratch::new();
        let file = scratch.path("image.tar");
        let blob = pack(&tar);
        assert!(blob.len() < 1 << 20, "{name} is small when packed");
        Image::packed("application/vnd.oci.image.layer.v1.tar+gzip", tar, blob).write(&file, |_, _| ());
        import(&scratch, &file, &["--max-size", "16M"]).fails(4, "unpacks to more than 16777216 bytes");
        assert!(!scratch.jail().exists(), "{name}");
        import(&scratch, &file, &["--max-size", "256M"]).ok();
    }
}

/// The same padded layer again and again: each is within the bounds, all of them are not.
#[test]
fn layers_count_together() {
    let mut tar = Layer::new().file("a", "x").done();
    tar.resize(20 << 20, 0);
    let mut packed = GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(&tar).expect("packed");
    let scratch = Scratch::new();
    let file = scratch.path("image.tar");
    let image =
        Image::packed("application/vnd.oci.image.layer.v1.tar+gzip", tar, packed.finish().expect("packed"));
    image.write(&file, |m, c| {
        m["layers"] = vec![m["layers"][0].clone(); 5].into();
        c["rootfs"]["diff_ids"] = vec![c["rootfs"]["diff_ids"][0].clone(); 5].into();
    });
    import(&scratch, &file, &["--max-size", "16M"]).fails(4, "unpacks to more than");
    import(&scratch, &file, &["--max-size", "64M"]).ok();
}

/// Long names cost memory and no disk; they have a bound of their own.
#[test]
fn names_are_bounded_too() {
    let scratch = Scratch::new();
    let file = scratch.path("image.tar");
    let mut layer = Layer::new();
    let long = format!("{}/", "n".repeat(250)).repeat(15);
    for n in 0..20_000 {
        layer = layer
            .entry("L", EntryType::GNULongName, 0o644, "", format!("{long}{n}").as_bytes())
            .file("x", "");
    }
    let tar = layer.done();
    let mut packed = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&tar).expect("packed");
    Image::packed("application/vnd.oci.image.layer.v1.tar+gzip", tar, packed.finish().expect("packed"))
        .write(&file, |_, _| ());
    import(&scratch, &file, &["--max-size", "500M"]).fails(4, "names take more than");
}

/// A layout directory that somebody changes between the look and the copying: what was digested is what is written, or nothing.
#[test]
fn a_layout_that_changes_meanwhile_is_noticed() {
    if !Command::new("strace").arg("-V").output().is_ok_and(|o| o.status.success()) {
        eprintln!("skipped because strace is not installed");
        return;
    }
    let (scratch, file) = with(vec![Layer::new().file("a", "honest")]);
    let layout = scratch.path("layout");
    std::fs::create_dir(&layout).expect("made");
    assert!(
        Command::new("tar").args(["-xf", text(&file), "-C", text(&layout)]).status().expect("tar").success()
    );
    let other = Layer::new().file("a", "hostil").done();
    let honest = Layer::new().file("a", "honest").done();
    assert_eq!(other.len(), honest.len());
    let blob = layout.join(format!("blobs/sha256/{}", Digest::of(&honest)));
    // Held for two seconds when it writes down what it is about to do.
    let mut run = with_fault(&scratch, "rename:delay_enter=2000000:when=1")
        .args(["-j", text(&scratch.jail()), "--from-oci", text(&layout)])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("strace");
    // Made once all of it was looked at.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !scratch.jail().exists() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let new = scratch.path("new");
    std::fs::write(&new, other).expect("written");
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o644)).expect("chmod");
    std::fs::rename(&new, &blob).expect("swapped");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut run.stderr.take().expect("piped"), &mut said).expect("read");
    assert!(!run.wait().expect("ended").success());
    assert!(said.contains("was written to while it was read"), "{said}");
    assert!(!scratch.jail().join("a").exists(), "nothing of it is in the jail");
}

#[test]
fn a_jail_of_another_kind_is_left_alone() {
    let (scratch, file) = with(vec![Layer::new().file("a", "x")]);
    scratch.init(&["shell"]).ok();
    let before = scratch.everything();
    import(&scratch, &file, &[]).fails(4, "made from sections");
    assert_eq!(scratch.everything(), before);
    let other = Scratch::new();
    std::fs::create_dir_all(other.jail().join("precious")).expect("made");
    other.own(&other.jail());
    let run = other.run("jail-init", &["-j", text(&other.jail()), "--from-oci", text(&file)]);
    run.fails(4, "holds something already");
    std::fs::write(other.path("text"), "no image").expect("written");
    import(&other, &other.path("text"), &[]).fails(1, "podman save");
}

/// What is exported comes back as it was.
#[test]
fn there_and_back_again() {
    let scratch = Scratch::new();
    scratch.init(&["shell"]).ok();
    let out = scratch.path("out");
    std::fs::create_dir(&out).expect("made");
    scratch.own(&out);
    for more in [&[][..], &["--gzip"]] {
        let (image, back) =
            (out.join(format!("{}.tar", more.len())), scratch.path(&format!("back{}", more.len())));
        let mut arguments = vec!["--oci", text(&image)];
        arguments.extend(more);
        scratch.on_jail("jail-export", &arguments).ok();
        scratch.run("jail-init", &["-j", text(&back), "--from-oci", text(&image)]).ok();
        let diff = Command::new("diff")
            .args(["-r", "--no-dereference", text(&scratch.jail()), text(&back)])
            .output();
        let diff = diff.expect("diff");
        assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
        scratch.run("jail-check", &["-j", text(&back)]).ok();
    }
}

/// Killed while it writes: the next run finishes, and takes nothing of its own for the administrator's. A new jail is made
/// aside and moved into place; one whose directory was there already is written where it is.
#[test]
fn a_killed_import_is_finished_by_the_next() {
    if !Command::new("strace").arg("-V").output().is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: strace is not installed");
        return;
    }
    for (new, fault) in [
        (true, "pwrite64:signal=KILL:when=7"),
        (true, "renameat2:signal=KILL:when=9"),
        (true, "mkdirat:signal=KILL:when=9"),
        (true, "unlinkat:signal=KILL:when=1"),
        (true, "pwrite64:error=ENOSPC:when=5"),
        (false, "pwrite64:signal=KILL:when=7"),
        (false, "renameat:signal=KILL:when=3"),
        (false, "mkdirat:signal=KILL:when=9"),
        (false, "pwrite64:error=ENOSPC:when=5"),
    ] {
        let fill = |layer: Layer, n: usize| layer.file(&format!("d{n}/f"), "content");
        let (scratch, file) = with(vec![(0..20).fold(Layer::new(), fill)]);
        if !new {
            std::fs::create_dir(scratch.jail()).expect("made");
            scratch.own(&scratch.jail());
        }
        let run = with_fault(&scratch, fault)
            .args(["-j", text(&scratch.jail()), "--from-oci", text(&file)])
            .output()
            .expect("strace");
        assert!(!run.status.success(), "{new} {fault}");
        let run = import(&scratch, &file, &[]).ok();
        assert!(!run.out.contains("kept"), "{new} {fault}: {run:#?}");
        scratch.on_jail("jail-check", &[]).ok();
        let names: BTreeSet<_> = paths(&scratch.jail());
        assert_eq!(names.len(), 40, "{new} {fault}: {names:?}");
    }
}

/// The last change of a file is in its record; a move into place is one, for every other name of the file, too.
#[test]
fn names_of_one_file_at_the_top_are_known_as_they_were_left() {
    let layer = Layer::new().file("top", "x").entry("also", EntryType::Link, 0o644, "top", b"").entry(
        "below/third",
        EntryType::Link,
        0o644,
        "top",
        b"",
    );
    let (scratch, file) = with(vec![layer]);
    import(&scratch, &file, &[]).ok();
    let again = import(&scratch, &file, &[]).ok();
    assert!(again.out.contains("is up to date"), "{again:#?}");
    scratch.on_jail("jail-check", &[]).ok();
}

/// Bytes changed at random in every place of an archive: refused or a jail, never a panic, and nothing outside the jail.
#[test]
fn damaged_archives_never_panic() {
    let seed = std::env::var("JAILWRIGHT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_124_u64);
    println!("JAILWRIGHT_SEED={seed}");
    let mut random = seed;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let layer = Layer::new().dir("bin/").file("bin/a", "x").link("lib", "bin").entry(
        "b",
        EntryType::Link,
        0o644,
        "bin/a",
        b"",
    );
    let tar = layer.done();
    let scratch = Scratch::new();
    let file = scratch.path("image.tar");
    for n in 0..150 {
        let mut damaged = tar.clone();
        for _ in 0..=next(4) {
            let (at, what) = (next(damaged.len().min(2560)), next(256));
            damaged[at] = what as u8;
        }
        // A right checksum for every header that the damage hit: what lies behind the checksum is what is tried.
        if n % 3 > 0 {
            for block in damaged.chunks_exact_mut(512).filter(|block| block.iter().any(|b| *b != 0)) {
                let header = Header::from_byte_slice(block);
                let mut header = header.clone();
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        Image::packed(TAR, damaged.clone(), damaged).write(&file, |_, _| ());
        let jail = scratch.path(&format!("jail{n}"));
        let run = scratch.run("jail-init", &["-j", text(&jail), "--from-oci", text(&file)]);
        assert!(matches!(run.status, Some(0 | 1 | 4)), "JAILWRIGHT_SEED={seed} run {n}: {run:#?}");
        assert!(!run.err.contains("panicked"), "JAILWRIGHT_SEED={seed} run {n}: {run:#?}");
    }
    assert!(!scratch.path("escape").exists());
}
