//! A software bill of material in CycloneDX's form: which packages of the host a jail's files come from.
//!
//! A vulnerability scanner reads names, versions and package URLs, not files; so a jail is told by its packages, and a file
//! that no package owns (a program of the administrator's own) by path and digest. No time and no random number is in it:
//! the same jail on the same packages gives the same text, and an image that carries it keeps its digest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::digest::{Digest, Fingerprint};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::manifest::{Manifest, What};
use crate::package::{Package, PackageError, Packages};
use crate::text;

/// The bill of a jail, as a CycloneDX 1.5 document.
///
/// # Errors
/// The host's package database is there and cannot be read.
pub fn cyclonedx(manifest: &Manifest, host: &dyn Host) -> Result<Value> {
    let (packages, unowned) = origins(manifest, host)?;
    let mut components: Vec<Value> = packages.iter().map(package).collect();
    components.extend(unowned.iter().map(|(path, digest)| file(path, *digest)));
    let serial = serial_number(&components);
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": serial,
        "version": 1,
        "metadata": {
            "tools": { "components": [
                { "type": "application", "name": "jailwright", "version": env!("CARGO_PKG_VERSION") },
            ] },
            "component": {
                "type": "container",
                "bom-ref": "jail",
                "name": manifest.sections.join(" "),
            },
        },
        "components": components,
    }))
}

/// Packages that files of the jail are of, and the files that are of none.
fn origins(
    manifest: &Manifest,
    host: &dyn Host,
) -> Result<(BTreeSet<Package>, BTreeMap<PathBuf, Fingerprint>)> {
    let mut files = BTreeMap::new();
    for (path, record) in &manifest.files {
        let What::File { digest, .. } = record.what else { continue };
        // What we wrote ourselves (ld.so.cache) comes from nobody's package and is nobody's program.
        let Some(source) = &record.source else { continue };
        files.insert(source.path.0.clone(), (path.0.clone(), digest));
    }
    let sources: BTreeSet<PathBuf> = files.keys().cloned().collect();
    let owners = match Packages::open(host).and_then(|packages| packages.owners(&sources)) {
        Ok(owners) => owners,
        Err(PackageError::NoDatabase) => BTreeMap::new(),
        Err(error) => return Err(Error::failed(error.to_string())),
    };
    let unowned = files.into_iter().filter(|(source, _)| !owners.contains_key(source)).map(|(_, file)| file);
    let unowned = unowned.collect();
    Ok((owners.into_values().collect(), unowned))
}

fn package(package: &Package) -> Value {
    json!({
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
    })
}

fn file(path: &std::path::Path, digest: Fingerprint) -> Value {
    let path = text::encode(path);
    let (algorithm, digits) = digest.named();
    json!({
        "type": "file",
        "bom-ref": format!("file:{path}"),
        "name": path,
        "hashes": [{ "alg": algorithm, "content": digits }],
    })
}

/// A UUID that follows from the content (version 8: made in a way of one's own).
fn serial_number(components: &[Value]) -> String {
    let digest = Digest::of(Value::from(components).to_string().as_bytes()).to_string();
    let (a, b, c, d, e) = (&digest[..8], &digest[8..12], &digest[13..16], &digest[17..20], &digest[20..32]);
    format!("urn:uuid:{a}-{b}-8{c}-8{d}-{e}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::host::MemHost;
    use crate::manifest::{PathText, Record, Source, Stamp, Why};

    fn record(source: Option<&str>) -> Record {
        let stamp = Stamp(1, 2, 3, 4, 5, 6);
        Record {
            what: What::File { digest: Fingerprint::of(b"x"), linked: false },
            uid: 0,
            gid: 0,
            mode: 0o755,
            source: source.map(|path| Source { path: PathText(path.into()), stamp }),
            stamp: Some(stamp),
            why: Why::EveryJail,
        }
    }

    #[test]
    fn packages_by_url_and_the_rest_by_digest() {
        let mut host = MemHost::new();
        host.file("/etc/os-release", 0o644, b"ID=debian\nVERSION_ID=\"12\"\n");
        host.file(
            "/var/lib/dpkg/status",
            0o644,
            b"Package: app\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2:1.0-3\n",
        );
        host.file("/var/lib/dpkg/info/app.list", 0o644, b"/.\n/usr\n/usr/bin\n/usr/bin/app\n");
        host.file("/usr/bin/app", 0o644, b"app");
        host.file("/opt/own", 0o644, b"own");
        let mut manifest = Manifest::new(Path::new("/home/jail"));
        manifest.files.insert(PathText("/usr/bin/app".into()), record(Some("/usr/bin/app")));
        manifest.files.insert(PathText("/opt/own".into()), record(Some("/opt/own")));
        manifest.files.insert(PathText("/etc/ld.so.cache".into()), record(None));
        let bill = cyclonedx(&manifest, &host).expect("made");
        let components = bill["components"].as_array().expect("a list");
        assert_eq!(components.len(), 2, "{bill:#}");
        assert_eq!(components[0]["version"], "2:1.0-3");
        assert!(components[0]["purl"].as_str().is_some_and(|p| p.starts_with("pkg:deb/debian/app@2:1.0-3")));
        assert_eq!(components[1]["name"], "/opt/own");
        assert_eq!(bill, cyclonedx(&manifest, &host).expect("again"), "the same jail gives the same bill");
    }

    #[test]
    fn a_host_without_packages_has_files() {
        let mut host = MemHost::new();
        host.file("/opt/own", 0o644, b"own");
        let mut manifest = Manifest::new(Path::new("/home/jail"));
        manifest.files.insert(PathText("/opt/own".into()), record(Some("/opt/own")));
        let bill = cyclonedx(&manifest, &host).expect("made");
        assert_eq!(bill["components"].as_array().map(Vec::len), Some(1));
    }
}
