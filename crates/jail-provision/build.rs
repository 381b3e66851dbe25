//! Embeds `profiles/*.toml`, so that jail-init works before it is installed.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let profiles = Path::new(&root).join("../../profiles");
    println!("cargo::rerun-if-changed={}", profiles.display());
    println!("cargo::rerun-if-changed=build.rs");
    let mut files: Vec<_> = fs::read_dir(&profiles)
        .map(|entries| entries.filter_map(|e| Some(e.ok()?.path())).collect())
        .unwrap_or_default();
    files.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    files.sort();
    let mut table = String::from("static EMBEDDED: &[(&str, &str)] = &[\n");
    for path in files {
        let name =
            path.file_stem().expect("has a name").to_str().expect("shipped names are ASCII").to_owned();
        let path = path.canonicalize().expect("was just listed");
        writeln!(table, "    ({name:?}, include_str!({path:?})),").expect("writing to a String");
    }
    table.push_str("];\n");
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("profiles.rs");
    fs::write(out, table).expect("OUT_DIR is writable");
}
