//! Debian's package database: a small one in memory, and this machine's own against `dpkg` itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use jail_provision::host::{Host, MemHost, RealHost};
use jail_provision::manifest::Options;
use jail_provision::package::{Contents, DEFAULT_STOP, PackageError, Packages};
use jail_provision::section;
use jail_provision::tree::{self, Owner, Tree};
use jail_provision::wanted::Wanted;

const STATUS: &str = "\
Package: app
Status: install ok installed
Architecture: amd64
Version: 2:1.0+b1-3
Depends: libapp (>= 1), mail-agent | exim4,
 perl:any, missing | libapp
Pre-Depends: dpkg (>= 1.15)

Package: libapp
Status: install ok installed
Multi-Arch: same
Architecture: i386
Version: 1.1
Depends: app

Package: libapp
Status: install ok installed
Multi-Arch: same
Architecture: amd64
Version: 1.2
Depends: app

Package: perl
Status: hold ok installed
Architecture: amd64
Version: 5

Package: postfix
Status: install ok installed
Architecture: amd64
Version: 3
Provides: mail-agent, mail-transport-agent (= 3)

Package: dpkg
Status: install ok installed
Architecture: amd64
Version: 1.21
Depends: tar

Package: tar
Status: install ok installed
Architecture: amd64
Version: 1

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1
";

fn debian() -> MemHost {
    let mut host = MemHost::new();
    let info = "/var/lib/dpkg/info";
    host.file("/var/lib/dpkg/status", 0o644, STATUS.as_bytes());
    host.file("/var/lib/dpkg/arch", 0o644, b"amd64\ni386\n");
    host.file("/etc/os-release", 0o644, b"NAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_ID=\"12\"\n");
    host.file(
        "/var/lib/dpkg/diversions",
        0o644,
        b"/usr/bin/tool\n/usr/bin/tool.app\nperl\n/usr/bin/gone\n/usr/bin/gone.local\n:\n",
    );
    let list = "/.\n/bin\n/bin/app\n/usr\n/usr/bin\n/usr/bin/tool\n/usr/share\n/usr/share/doc\n/usr/share/doc/app\n\
        /usr/share/doc/app/copyright\n/usr/share/man\n/usr/share/man/app.1\n/etc/app.conf\n/var/lib/app\n\
        /usr/share/app\n/usr/share/app/link\n";
    host.file(&format!("{info}/app.list"), 0o644, list.as_bytes());
    host.file(&format!("{info}/libapp:amd64.list"), 0o644, b"/.\n/usr/lib/libapp.so.1\n");
    host.file(&format!("{info}/libapp:i386.list"), 0o644, b"/.\n/usr/lib32/libapp.so.1\n");
    host.file(&format!("{info}/perl.list"), 0o644, b"/.\n/usr/bin/tool\n");
    for name in ["postfix", "dpkg", "tar"] {
        host.file(&format!("{info}/{name}.list"), 0o644, b"/.\n");
    }
    host.symlink("/bin", "usr/bin").symlink("/usr/share/app/link", "nowhere").dir("/var/lib/app", 0o750);
    for file in
        ["/usr/bin/app", "/usr/bin/tool", "/usr/bin/tool.app", "/usr/share/man/app.1", "/usr/lib/libapp.so.1"]
    {
        host.file(file, 0o755, b"");
    }
    host
}

fn paths(paths: &[&str]) -> Vec<PathBuf> {
    paths.iter().map(PathBuf::from).collect()
}

#[test]
fn files_of_a_package_less_docs_at_the_places_they_have_now() {
    let host = debian();
    let packages = Packages::open(&host).expect("a database");
    let app = packages.find("app").expect("installed");
    assert_eq!(app.purl, "pkg:deb/debian/app@2:1.0%2Bb1-3?arch=amd64&distro=debian-12");
    assert_eq!(
        packages.contents(&app).expect("a list"),
        Contents {
            files: paths(&["/bin/app", "/usr/bin/tool.app", "/usr/share/app/link"]),
            directories: paths(&["/var/lib/app"]),
            gone: paths(&["/etc/app.conf"]),
        }
    );
    // The package for which the name was diverted keeps it.
    let perl = packages.find("perl").expect("on hold is installed");
    assert_eq!(packages.contents(&perl).expect("a list").files, paths(&["/usr/bin/tool"]));
}

#[test]
fn architectures_are_told_apart() {
    let host = debian();
    let packages = Packages::open(&host).expect("a database");
    assert_eq!(packages.find("libapp").expect("installed").architecture, "amd64");
    let narrow = packages.find("libapp:i386").expect("installed");
    assert_eq!(narrow.version, "1.1");
    assert_eq!(packages.contents(&narrow).expect("a list").gone, paths(&["/usr/lib32/libapp.so.1"]));
    assert!(packages.find("libapp:arm64").is_err());
}

#[test]
fn dependencies_follow_alternatives_and_end_at_the_stop_list() {
    let host = debian();
    let packages = Packages::open(&host).expect("a database");
    let names = |stop: &[&str]| -> Vec<String> {
        let all = packages.with_dependencies("app", stop).expect("installed");
        all.into_iter().map(|p| p.name).collect()
    };
    assert_eq!(names(&DEFAULT_STOP), ["app", "libapp", "postfix", "perl"]);
    assert_eq!(names(&[]), ["app", "dpkg", "libapp", "postfix", "perl", "tar"]);
    assert_eq!(names(&["lib*", "postfix", "dpkg", "perl"]), ["app"]);
}

#[test]
fn a_section_takes_a_package_with_what_it_depends_on() {
    let mut host = debian();
    host.file("/var/lib/dpkg/info/postfix.list", 0o644, b"/.\n/etc/secret\n/etc/main.cf\n");
    host.file("/etc/secret", 0o600, b"").file("/etc/main.cf", 0o644, b"");
    let tree = |more: &str| {
        let text = format!("packages = [\"app\"]\n{more}");
        let section = section::parse("x", "x.toml", text.as_bytes()).expect("a section");
        let wanted = Wanted::new(&[section], &BTreeSet::new(), Options::default());
        tree::grow(&host, &wanted, Owner { uid: 0, gid: 0 }).expect("grown")
    };
    let has = |tree: &Tree, path: &str| tree.nodes.contains_key(Path::new(path));
    let alone = tree("");
    assert!(has(&alone, "/usr/bin/app") && !has(&alone, "/usr/bin/tool") && !has(&alone, "/etc/main.cf"));
    assert!(has(&alone, "/usr/share/app/link"), "a link that leads nowhere is a package's all the same");
    let all = tree("dependencies = true");
    for path in ["/usr/bin/app", "/usr/bin/tool", "/usr/lib/libapp.so.1", "/etc/main.cf"] {
        assert!(has(&all, path), "{path}");
    }
    assert!(!has(&all, "/etc/secret"), "what only root may read comes only if it is named itself");
    assert!(all.notes.iter().any(|note| note.contains("/etc/secret")), "{:?}", all.notes);
    let less = tree("dependencies = true\nstop = [\"lib*\", \"perl\"]");
    assert!(
        has(&less, "/etc/main.cf") && !has(&less, "/usr/lib/libapp.so.1") && !has(&less, "/usr/bin/tool")
    );
}

#[test]
fn owners_by_real_path() {
    let host = debian();
    let packages = Packages::open(&host).expect("a database");
    let wanted: BTreeSet<PathBuf> =
        paths(&["/usr/bin/app", "/usr/bin/tool", "/usr/bin/tool.app", "/home/x/app"]).into_iter().collect();
    let owners = packages.owners(&wanted).expect("lists");
    let found: Vec<_> = owners.iter().map(|(f, p)| (f.to_str().expect("plain"), p.name.as_str())).collect();
    assert_eq!(found, [("/usr/bin/app", "app"), ("/usr/bin/tool", "perl"), ("/usr/bin/tool.app", "app")]);
}

#[test]
fn what_cannot_be_had_says_what_to_type() {
    let host = debian();
    let packages = Packages::open(&host).expect("a database");
    let error = |name: &str| packages.find(name).expect_err("not there").to_string();
    assert!(error("nmap").contains("apt install nmap"));
    assert!(error("removed").contains("not installed"), "configuration left over is no package");
    assert!(error("mail-agent").contains("\"postfix\" provides it"));
    assert!(matches!(packages.find("../../etc/passwd"), Err(PackageError::BadName { .. })));
    assert!(matches!(Packages::open(&MemHost::new()), Err(PackageError::NoDatabase)));
}

#[test]
fn this_machines_packages_as_dpkg_tells_them() {
    let host = RealHost::system();
    if host.lstat(Path::new("/var/lib/dpkg/status")).is_err() {
        eprintln!("skipped: not a Debian");
        return;
    }
    let packages = Packages::open(&host).expect("a database");
    let mut compared = 0;
    for name in ["bash", "coreutils", "libc6", "dash", "perl-base", "openssh-client", "git", "tzdata"] {
        let Ok(package) = packages.find(name) else { continue };
        let shown =
            Command::new("dpkg-query").args(["-W", "-f", "${Version} ${Architecture}", name]).output();
        let shown = String::from_utf8(shown.expect("dpkg-query").stdout).expect("text");
        assert_eq!(shown, format!("{} {}", package.version, package.architecture), "{name}");

        let listed = Command::new("dpkg-query").args(["-L", name]).output().expect("dpkg-query").stdout;
        let listed = String::from_utf8(listed).expect("text");
        let contents = packages.contents(&package).expect("a list");
        for file in &contents.files {
            let file = file.to_str().expect("plain");
            let named = listed.lines().any(|l| l == file || l.ends_with(&format!(" to: {file}")));
            assert!(named, "{name}: {file}");
        }
        // Nothing that is there and no documentation was left out.
        let missed = listed.lines().filter(|l| Path::new(l).is_file() && !l.starts_with("/usr/share/"));
        for file in missed {
            let diverted = listed.contains(&format!("{file}\ndiverted by"));
            assert!(diverted || contents.files.contains(&PathBuf::from(file)), "{name} lacks {file}");
        }
        compared += 1;
    }
    assert!(compared >= 3, "only {compared} packages compared");

    let wanted: BTreeSet<PathBuf> =
        ["/usr/bin/bash", "/usr/bin/env", "/usr/lib/os-release"].map(PathBuf::from).into();
    let owners = packages.owners(&wanted).expect("lists");
    let names: Vec<_> = owners.values().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["bash", "coreutils", "base-files"]);
}
