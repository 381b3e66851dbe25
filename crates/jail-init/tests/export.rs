//! What jail-export writes: the same bytes for the same jail, whole or not at all, and nothing that is not the jail's.

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Run, Scratch, text};
use serde_json::Value;

/// A jail of a shell, with things in it that a user may have put there.
fn made() -> Scratch {
    let scratch = Scratch::new();
    scratch.init(&["shell"]).ok();
    scratch
}

fn out(scratch: &Scratch) -> PathBuf {
    let dir = scratch.path("out");
    if !dir.exists() {
        std::fs::create_dir(&dir).expect("made");
        scratch.own(&dir);
    }
    dir
}

fn has(program: &str) -> bool {
    let there = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().expect("sh");
    if !there.status.success() {
        eprintln!("skipped: {program} is not installed");
    }
    there.status.success()
}

fn export(scratch: &Scratch, arguments: &[&str]) -> Run {
    scratch.on_jail("jail-export", arguments)
}

/// The names in a directory, hidden ones too.
fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).expect("listed");
    entries.map(|entry| entry.expect("entry").file_name().into_string().expect("ASCII")).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("read")).expect("JSON")
}

fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().expect("digest").strip_prefix("sha256:").expect("sha256");
    let path = layout.join("blobs/sha256").join(digest);
    let sum = Command::new("sha256sum").arg(&path).output().expect("sha256sum");
    assert!(String::from_utf8_lossy(&sum.stdout).starts_with(digest), "{path:?} is not what its name says");
    assert_eq!(std::fs::metadata(&path).expect("stat").len(), descriptor["size"].as_u64().expect("size"));
    path
}

#[test]
fn the_same_jail_gives_the_same_image() {
    let scratch = made();
    let out = out(&scratch);
    let (one, two) = (out.join("one.tar"), out.join("two.tar"));
    export(&scratch, &["--oci", text(&one)]).ok();
    // Times that are no part of a jail: another run, a directory written to.
    let jail = scratch.jail();
    std::fs::write(jail.join("usr/x"), "").expect("written");
    std::fs::remove_file(jail.join("usr/x")).expect("removed");
    export(&scratch, &["--oci", text(&two), "--afresh"]).ok();
    assert!(std::fs::read(&one).expect("read") == std::fs::read(&two).expect("read"));
    // Another jail of the same sections, in another place at another time.
    let other = scratch.path("other");
    let profiles = scratch.path("profiles");
    scratch.run("jail-init", &["-j", text(&other), "-c", text(&profiles), "shell"]).ok();
    let three = out.join("three.tar");
    let image = ["-j", text(&other), "--oci", text(&three), "--image", "localhost/jail:latest", "--json"];
    let three: Value = serde_json::from_str(&scratch.run("jail-export", &image).ok().out).expect("JSON");
    let again: Value =
        serde_json::from_str(&export(&scratch, &["--oci", text(&one), "--json"]).ok().out).expect("JSON");
    assert_eq!(three["files"][0]["digest"], again["files"][0]["digest"]);
}

#[test]
fn the_layout_is_one_that_others_read() {
    let scratch = made();
    let layout = out(&scratch).join("image");
    for gzip in [false, true] {
        let mut arguments = vec!["--oci", text(&layout)];
        if gzip {
            arguments.push("--gzip");
        }
        export(&scratch, &arguments).ok();
        let index = json(&layout.join("index.json"));
        let manifest = json(&blob(&layout, &index["manifests"][0]));
        let config = json(&blob(&layout, &manifest["config"]));
        let layer = blob(&layout, &manifest["layers"][0]);
        assert_eq!(names(&layout.join("blobs/sha256")).len(), 3, "an earlier export's blobs are gone");
        assert_eq!(config["config"]["User"], "65534:65534");
        assert_eq!(config["config"]["WorkingDir"], "/");
        assert_eq!(config["config"]["Labels"]["org.jailwright.sections"], "shell");
        let bill = config["config"]["Labels"]["org.jailwright.sbom"].as_str().expect("a bill");
        let bill: Value = serde_json::from_str(bill).expect("JSON");
        assert_eq!(bill["bomFormat"], "CycloneDX");
        assert!(bill["components"].as_array().is_some_and(|list| !list.is_empty()));
        let plain = Command::new("sh")
            .args([
                "-c",
                if gzip { "gzip -dc \"$0\" | sha256sum" } else { "sha256sum < \"$0\"" },
                text(&layer),
            ])
            .output()
            .expect("sh");
        let plain = String::from_utf8_lossy(&plain.stdout).into_owned();
        let expected = config["rootfs"]["diff_ids"][0].as_str().expect("diff_id");
        assert_eq!(expected, format!("sha256:{}", plain.split(' ').next().expect("a digest")));
    }
    let profile = json(&layout.with_file_name("image.seccomp.json"));
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    if has("skopeo") {
        let run = scratch.command("skopeo").args(["inspect", &format!("oci:{}", text(&layout))]).output();
        let run = Run::of(&run.expect("skopeo")).ok();
        assert!(run.out.contains("org.jailwright.sections"), "{run:#?}");
    }
}

#[test]
fn nothing_of_the_users_and_nothing_through_a_link() {
    let scratch = made();
    let jail = scratch.jail();
    for dir in ["home/dave", "tmp", "usr/share"] {
        std::fs::create_dir_all(jail.join(dir)).expect("made");
    }
    std::fs::write(jail.join("home/dave/secret"), "x").expect("written");
    std::fs::write(jail.join("tmp/secret"), "x").expect("written");
    symlink("/etc", jail.join("usr/share/planted")).expect("linked");
    symlink("../../../../../../etc/shadow", jail.join("usr/lib/planted")).expect("linked");
    std::fs::write(jail.join("usr/bin/own"), "mine").expect("written");
    std::fs::hard_link(jail.join("usr/bin/own"), jail.join("usr/bin/own2")).expect("linked");
    std::fs::set_permissions(jail.join("usr/bin/own"), PermissionsExt::from_mode(0o4755)).expect("chmod");
    assert!(Command::new("mkfifo").arg(jail.join("usr/lib/pipe")).status().expect("mkfifo").success());
    let archive = out(&scratch).join("jail.tar");
    let run = export(&scratch, &["--tar", text(&archive)]).ok();
    assert!(run.err.contains("'/usr/lib/pipe'") && run.err.contains("set-uid"), "{run:#?}");
    let list = Command::new("tar").args(["--numeric-owner", "-tvf", text(&archive)]).output().expect("tar");
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(
        !list.contains("secret") && !list.contains("usr/lib/pipe") && !list.contains("planted/"),
        "{list}"
    );
    assert!(list.contains("usr/share/planted -> /etc\n"), "{list}");
    assert!(list.contains("usr/lib/planted -> ../../../../../../etc/shadow\n"), "{list}");
    assert!(list.contains("usr/bin/own2 link to usr/bin/own\n"), "{list}");
    assert!(list.lines().all(|line| line.contains(" 0/0 ")), "numbers, and root's:\n{list}");
    assert!(list.lines().all(|line| !line[..10].contains('s') && !line[..10].contains('S')), "{list}");
    let sorted: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().nth(5)).collect();
    assert!(sorted.is_sorted_by_key(PathBuf::from), "{sorted:?}");
}

/// A user of a writable jail swaps a directory for a link, again and again, while the jail is exported: what the link leads to
/// (another user's home) must never be archived under the link's name.
#[test]
fn a_link_that_appears_meanwhile_is_not_followed() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let scratch = made();
    let (jail, out) = (scratch.jail(), out(&scratch));
    for dir in ["home/dave", "opt/a"] {
        std::fs::create_dir_all(jail.join(dir)).expect("made");
    }
    std::fs::write(jail.join("home/dave/dave-s-own-letters"), "x").expect("written");
    std::fs::write(jail.join("opt/a/plain"), "x").expect("written");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (dir, aside) = (jail.join("opt/a"), jail.join("opt/.aside"));
            while !over.load(Ordering::Relaxed) {
                std::fs::rename(&dir, &aside).expect("aside");
                symlink("../home/dave", &dir).expect("swapped");
                std::fs::remove_file(&dir).expect("removed");
                std::fs::rename(&aside, &dir).expect("back");
            }
        });
        for n in 0..40 {
            let archive = out.join(format!("{n}.tar"));
            let run = export(&scratch, &["--tar", text(&archive)]);
            if run.status == Some(0) {
                let bytes = std::fs::read(&archive).expect("read");
                let found = bytes.windows(18).any(|window| window == b"dave-s-own-letters");
                over.store(found, Ordering::Relaxed);
                assert!(!found, "a link was followed in run {n}");
            }
        }
        over.store(true, Ordering::Relaxed);
    });
}

/// What comes out of the archive is what went in.
#[test]
fn every_archive_unpacks_to_the_jail() {
    let scratch = made();
    let out = out(&scratch);
    let deep: String = (0..12).map(|n| format!("a-directory-with-a-long-name-{n}/")).collect();
    let jail = scratch.jail();
    std::fs::create_dir_all(jail.join("opt").join(&deep)).expect("made");
    std::fs::write(jail.join("opt").join(&deep).join("file"), "deep").expect("written");
    symlink(format!("/{deep}"), jail.join("opt/long")).expect("linked");
    let tar = out.join("jail.tar");
    export(&scratch, &["--tar", text(&tar)]).ok();
    let check = |name: &str, unpack: &str, from: &Path| {
        let to = out.join(name);
        std::fs::create_dir(&to).expect("made");
        let done = Command::new("sh").args(["-c", unpack, text(from)]).current_dir(&to).output().expect("sh");
        assert!(done.status.success(), "{name}: {done:?}");
        let compared = Command::new("diff")
            .args(["-r", "--no-dereference", "-x", "home", "-x", "tmp", "-x", "dev", text(&jail), text(&to)])
            .output()
            .expect("diff");
        assert!(compared.status.success(), "{name}: {}", String::from_utf8_lossy(&compared.stdout));
        to
    };
    check("tar", "tar xf \"$0\"", &tar);
    let mut piped = scratch.command(scratch.tool("jail-export"));
    let piped = piped.args(["-j", text(&jail), "--tar", "-"]).output().expect("runs");
    assert!(
        piped.stdout == std::fs::read(&tar).expect("read"),
        "the same on standard output, and nothing else"
    );
    if has("cpio") {
        let cpio = out.join("jail.cpio");
        export(&scratch, &["--cpio", text(&cpio)]).ok();
        let to =
            check("cpio", "cpio -id --quiet --no-absolute-filenames < \"$0\" || [ $(id -u) != 0 ]", &cpio);
        if scratch.is_root() {
            let console = std::fs::metadata(to.join("dev/console")).expect("the kernel's terminal");
            assert_eq!(console.rdev(), 0x501);
        }
    }
}

#[test]
fn a_second_export_digests_nothing_and_asks_for_no_package() {
    if !has("strace") {
        return;
    }
    let scratch = made();
    let out = out(&scratch);
    std::thread::sleep(std::time::Duration::from_millis(100));
    let threads = |image: &Path| {
        let log = out.join("calls");
        let run = scratch
            .command("strace")
            .args(["-f", "-qq", "-e", "trace=prctl", "-o", text(&log)])
            .arg(scratch.tool("jail-export"))
            .args(["-j", text(&scratch.jail()), "--oci", text(image)])
            .output();
        Run::of(&run.expect("strace")).ok();
        let log = std::fs::read_to_string(&log).expect("log");
        ["\"digest\"", "\"bill\""].map(|name| log.matches(name).count())
    };
    let (one, two, three) = (out.join("one.tar"), out.join("two.tar"), out.join("three.tar"));
    assert!(
        threads(&one).iter().all(|n| *n > 0),
        "the first export has a thread for digests and one for the bill"
    );
    let [digest, bill] = threads(&two);
    assert_eq!(digest, 0, "the second has nothing to digest");
    if Path::new("/var/lib/dpkg/status").exists() {
        assert_eq!(bill, 0, "nor packages to look for");
    }
    // The name is part of the index, and differs for nobody here.
    assert!(std::fs::read(&one).expect("read") == std::fs::read(&two).expect("read"));
    let shell = scratch.jail().join("usr/bin/cat");
    let content = std::fs::read(&shell).expect("read");
    std::fs::write(&shell, content).expect("written: the same content under a new ctime");
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(threads(&three)[0] > 0, "a changed file is digested again");
}

/// A full disk, an error or a kill: what had the name before is there, and nothing else.
#[test]
fn never_half_an_archive() {
    if !has("strace") {
        return;
    }
    let scratch = made();
    let out = out(&scratch);
    for form in ["--tar", "--oci", "--cpio"] {
        for fault in [
            "write:error=ENOSPC:when=2",
            "fdatasync:error=EIO",
            "write:signal=KILL:when=2",
            "renameat:error=EIO",
        ] {
            let dir = out.join(format!("{}{}", form.trim_start_matches('-'), fault.replace(':', "-")));
            std::fs::create_dir(&dir).expect("made");
            scratch.own(&dir);
            let file = dir.join("jail.tar");
            std::fs::write(&file, "old").expect("written");
            scratch.own(&file);
            let (call, _) = fault.split_once(':').expect("a fault");
            let run = scratch
                .command("strace")
                .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
                .args(["-e", &format!("inject={fault}")])
                .arg(scratch.tool("jail-export"))
                .args(["-j", text(&scratch.jail()), form, text(&file)])
                .output();
            let run = Run::of(&run.expect("strace"));
            assert_ne!(run.status, Some(0), "{form} {fault}: {run:#?}");
            if !fault.contains("KILL") {
                assert_eq!(run.status, Some(1), "{form} {fault}: {run:#?}");
                assert!(run.err.contains("jail.tar'") && run.err.contains("cannot write"), "{run:#?}");
            }
            assert_eq!(std::fs::read(&file).expect("read"), b"old", "{form} {fault}");
            assert_eq!(names(&dir), BTreeSet::from(["jail.tar".to_owned()]), "{form} {fault}");
        }
    }
}

#[test]
fn a_full_disk_leaves_no_layout() {
    if !has("strace") {
        return;
    }
    let scratch = made();
    let layout = out(&scratch).join("image");
    let run = scratch
        .command("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=write", "-e", "inject=write:error=ENOSPC:when=3"])
        .arg(scratch.tool("jail-export"))
        .args(["-j", text(&scratch.jail()), "--oci", text(&layout)])
        .output();
    Run::of(&run.expect("strace")).fails(1, "no space left");
    assert!(!layout.exists());
}

#[test]
fn what_is_no_image_of_ours_is_not_overwritten() {
    let scratch = made();
    let out = out(&scratch);
    std::fs::write(out.join("precious"), "x").expect("written");
    export(&scratch, &["--oci", text(&out)]).fails(4, "holds something else");
    let layout = out.join("image");
    export(&scratch, &["--oci", text(&layout), "--image", "a:1"]).ok();
    export(&scratch, &["--oci", text(&layout), "--image", "b:1"]).fails(4, "holds other images");
    assert!(json(&layout.join("index.json")).to_string().contains("a:1"));
}

#[test]
fn a_dry_run_writes_nothing() {
    let scratch = made();
    let out = out(&scratch);
    let before = scratch.everything();
    let image = out.join("jail.tar");
    let run = export(&scratch, &["--oci", text(&image), "--dry-run", "--json"]).ok();
    let value: Value = serde_json::from_str(&run.out).expect("JSON");
    assert_eq!(value["dry_run"], true);
    assert!(value["paths"].as_u64().is_some_and(|n| n > 10) && value["files"][0]["digest"].is_null());
    assert!(export(&scratch, &["--tar", text(&image), "--dry-run"]).ok().out.contains("would hold"));
    assert_eq!(names(&out), BTreeSet::new());
    assert_eq!(scratch.everything(), before);
}

/// A jail on a base is what a cell shows: the base's current generation, and its own files over that.
#[test]
fn a_jail_on_a_base_is_exported_as_a_cell_shows_it() {
    let scratch = Scratch::new();
    let (base, jail, profiles) = (scratch.path("base"), scratch.jail(), scratch.path("profiles"));
    let file = scratch.host_file("greeting", "of the base");
    let more = scratch.host_file("more", "of the jail");
    scratch.section("greeting", format!("description = \"x\"\npaths = [{:?}]\n", text(&file)));
    scratch.section("more", format!("description = \"x\"\npaths = [{:?}]\n", text(&more)));
    let on_base = |arguments: &[&str]| {
        let mut all = vec!["-j", text(&base), "-c", text(&profiles), "--as-base"];
        all.extend(arguments);
        scratch.run("jail-init", &all).ok()
    };
    on_base(&["shell", "greeting"]);
    scratch.init(&["--base", text(&base), "more"]).ok();
    std::fs::write(jail.join("etc/motd"), "of nobody's section").expect("written");
    // The same sections in a jail of their own.
    let plain = scratch.path("plain");
    scratch.run("jail-init", &["-j", text(&plain), "-c", text(&profiles), "shell", "greeting", "more"]).ok();
    let out = out(&scratch);
    let unpacked = |name: &str| {
        let (archive, to) = (out.join(format!("{name}.tar")), out.join(name));
        export(&scratch, &["--tar", text(&archive)]).ok();
        std::fs::create_dir(&to).expect("made");
        let tar = Command::new("tar").args(["-xpf", text(&archive), "-C", text(&to)]).status();
        assert!(tar.expect("tar").success());
        to
    };
    let first = unpacked("first");
    let differ = |a: &Path, b: &Path| {
        let diff = Command::new("diff").args(["-rq", "--no-dereference", text(a), text(b)]).output();
        String::from_utf8_lossy(&diff.expect("diff").stdout).into_owned()
    };
    // A jail on a base always has account files of its own.
    let others: Vec<String> = differ(&plain, &first)
        .lines()
        .filter(|line| !["etc: group", "etc: passwd", "etc: motd"].iter().any(|name| line.ends_with(name)))
        .map(str::to_owned)
        .collect();
    assert!(
        others.is_empty() && first.join("etc/motd").exists(),
        "only what nobody asked for differs: {others:#?}"
    );
    // The jail's own file hides the base's.
    let inner = "usr/bin/cat";
    std::fs::create_dir_all(jail.join("usr/bin")).expect("made");
    std::fs::write(jail.join(inner), "of the jail").expect("written");
    let own = unpacked("own");
    assert_eq!(std::fs::read_to_string(own.join(inner)).expect("read"), "of the jail");
    // An update of the base reaches the next export; an image has the same files and a bill of both.
    scratch.host_file("later", "x");
    scratch.section(
        "later",
        format!("description = \"x\"\npaths = [{:?}]\n", text(&scratch.path("host/later"))),
    );
    on_base(&["shell", "greeting", "later"]);
    let later = unpacked("later");
    assert!(later.join(scratch.path("host/later").strip_prefix("/").expect("absolute")).exists());
    let image = out.join("image");
    export(&scratch, &["--oci", text(&image)]).ok();
    let index = json(&image.join("index.json"));
    let manifest = json(&blob(&image, &index["manifests"][0]));
    let config = json(&blob(&image, &manifest["config"]));
    let labels = &config["config"]["Labels"];
    assert_eq!(labels["org.jailwright.sections"], "shell greeting later more", "{labels}");
    assert!(labels["org.jailwright.sbom"].as_str().is_some_and(|bill| bill.contains("libc6")), "{labels}");
    // A base by itself is none, and one that is gone is said to be.
    scratch
        .run("jail-export", &["-j", text(&base), "--tar", text(&out.join("x.tar"))])
        .fails(4, "is a base for jails");
    std::fs::rename(&base, scratch.path("elsewhere")).expect("moved");
    export(&scratch, &["--tar", text(&out.join("x.tar"))]).fails(1, "is not there");
    assert!(!out.join("x.tar").exists());
}

#[test]
fn usage_is_refused_with_what_to_do() {
    let scratch = made();
    export(&scratch, &[]).fails(2, "--oci");
    export(&scratch, &["--oci", "-"]).fails(2, "--tar -");
    export(&scratch, &["--tar", "-", "--cpio", "-"]).fails(2, "standard output");
    export(&scratch, &["--oci", "x.tar", "--user", "nobodyknows"]).fails(2, "there are: ");
    let bare = scratch.path("bare");
    std::fs::create_dir(&bare).expect("made");
    scratch.own(&bare);
    scratch.run("jail-export", &["-j", text(&bare), "--tar", "x"]).fails(1, "no manifest");
}

/// Against the API's published schema, as PyPI's kubernetes-validate carries it.
#[test]
fn kubernetes_takes_the_objects() {
    let venv = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/venv"))
        .args(["kubernetes", "kubernetes-validate"])
        .output()
        .expect("tests/venv");
    if !venv.status.success() {
        eprintln!(
            "skipped: kubernetes-validate cannot be installed: {}",
            String::from_utf8_lossy(&venv.stderr)
        );
        return;
    }
    let venv = PathBuf::from(String::from_utf8(venv.stdout).expect("ASCII").trim());
    let scratch = made();
    let validate = |file: &Path| {
        let run = Command::new(venv.join("bin/kubernetes-validate")).args(["--strict", text(file)]).output();
        Run::of(&run.expect("kubernetes-validate"))
    };
    for (name, more) in
        [("pod", &[][..]), ("deployment", &["--deployment", "--image", "registry.example/jail:1"][..])]
    {
        let file = out(&scratch).join(format!("{name}.yaml"));
        let mut arguments = vec!["--kubernetes", text(&file)];
        arguments.extend(more);
        let run = export(&scratch, &arguments).ok();
        assert!(run.err.contains("jailwright/default.json"), "{run:#?}");
        validate(&file).ok();
        let yaml = std::fs::read_to_string(&file).expect("read");
        for line in [
            "readOnlyRootFilesystem: true",
            "allowPrivilegeEscalation: false",
            "runAsNonRoot: true",
            "type: \"Localhost\"",
            "kind: \"NetworkPolicy\"",
            "automountServiceAccountToken: false",
        ] {
            assert!(yaml.contains(line), "{line} is not in\n{yaml}");
        }
        // A test that cannot fail shows nothing: the validator must notice what the API would.
        let wrong = out(&scratch).join("wrong.yaml");
        std::fs::write(&wrong, yaml.replace("runAsNonRoot: true", "runAsNonRoot: \"true\""))
            .expect("written");
        assert_ne!(validate(&wrong).status, Some(0));
    }
}
