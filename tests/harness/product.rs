//! The product as an administrator has it: installed by `make install`, then used by its commands.

use std::path::{Path, PathBuf};

use crate::command::Run;

/// The checkout.
#[must_use]
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the checkout").to_owned()
}

/// Where cargo built: this program lies in `TARGET/debug/deps`.
#[must_use]
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("this program's path");
    exe.ancestors().nth(3).expect("TARGET/debug/deps/suite").to_owned()
}

/// The profile directory of a profile's name.
fn profile_dir(variable: &str, default: &str) -> String {
    let profile = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    if profile == "dev" { "debug".to_owned() } else { profile }
}

/// A program as it was built, not installed.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    target_dir().join(profile_dir("TEST_PROFILE", "dev")).join(name)
}

/// The static jail-sh, or the probe, as built.
#[must_use]
pub fn built_static(name: &str) -> PathBuf {
    // The probe is no product: there is one build of it, whatever the tests drive.
    let profile =
        if name == "probe" { "release".to_owned() } else { profile_dir("JAIL_SH_PROFILE", "release") };
    let triples = std::fs::read_dir(target_dir().join("static")).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        triples.map(|triple| triple.path().join(&profile).join(name)).filter(|path| path.is_file()).collect();
    // gnu before musl, if both were built: what `make install` takes unless told otherwise.
    found.sort();
    found.into_iter().next().unwrap_or_else(|| panic!("{name} is not built: run the suite by tests/run"))
}

/// `make` in the checkout, with what was built for the tests as what there is to install.
#[must_use]
pub fn make() -> Run {
    Run::new("make")
        .args(["-s", "-C"])
        .arg(checkout())
        .arg(format!("BIN_DIR={}", target_dir().join(profile_dir("TEST_PROFILE", "dev")).display()))
        .arg(format!(
            "JAIL_RUN={}",
            target_dir().join(profile_dir("TEST_PROFILE", "dev")).join("jail-run").display()
        ))
        .arg(format!("JAIL_SH={}", built_static("jail-sh").display()))
        .arg(format!("JAIL_GUEST={}", built_static("jail-guest").display()))
        .arg(format!("JAIL_MACHINE={}", built_static("jail-machine").display()))
        .arg(format!("MAN_DIR={}", target_dir().join("man").display()))
}

/// The installed product.
pub struct Product {
    _only_by_install: (),
}

impl Product {
    /// `make install` with the default prefix.
    pub(crate) fn install() -> Product {
        make().arg("install").run().ok();
        Product { _only_by_install: () }
    }

    /// One of its commands in `/usr/local/sbin` or `bin`.
    #[must_use]
    pub fn command(&self, name: &str) -> Run {
        let dir = if name == "jail-run" { "bin" } else { "sbin" };
        Run::new(Path::new("/usr/local").join(dir).join(name))
    }

    /// The login shell's path.
    #[must_use]
    pub fn jail_sh(&self) -> &'static Path {
        Path::new("/usr/local/sbin/jail-sh")
    }
}
