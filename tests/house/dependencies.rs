//! The arrows between the crates, read from `cargo tree`: what sits under the set-uid program must fit in an afternoon.

use std::collections::BTreeSet;

use jailwright_tests::product::checkout;
use jailwright_tests::{Done, Run, Test, test};

pub(crate) const TESTS: &[Test] = &[
    test!(plain jail_sh_stays_small),
    test!(plain confinement_does_not_provision),
    test!(plain arrows_point_down),
];

/// Every crate below `package`, itself too, as linked into a build (no dev and no build dependencies).
fn tree(package: &str) -> BTreeSet<String> {
    let out = Run::new(checkout().join("tests/cargo"))
        .dir(checkout())
        .args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "-p", package])
        .run()
        .ok();
    out.text().lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Procedural macros and what they are made of run in the compiler, not in the program.
fn linked(package: &str) -> BTreeSet<String> {
    let out = Run::new(checkout().join("tests/cargo"))
        .dir(checkout())
        .args([
            "tree",
            "--locked",
            "--offline",
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "none",
            "-p",
            package,
        ])
        .run()
        .ok();
    out.text().lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn jail_sh_stays_small() -> Done {
    let tree = tree("jail-sh");
    for barred in
        ["clap", "goblin", "walkdir", "tar", "flate2", "sha2", "users", "uzers", "fs_extra", "jail-provision"]
    {
        assert!(!tree.contains(barred), "jail-sh has gained {barred}: {tree:?}");
    }
    let linked = linked("jail-sh");
    assert!(linked.contains("jail-confine"), "the tree could not be read: {linked:?}");
    assert!(linked.len() <= 32, "jail-sh links {} crates: {linked:?}", linked.len());
    Ok(())
}

fn confinement_does_not_provision() -> Done {
    let tree = tree("jail-confine");
    assert!(tree.contains("jail-sys"), "the tree could not be read: {tree:?}");
    assert!(!tree.contains("jail-provision"), "{tree:?}");
    assert!(!self::tree("jail-provision").contains("jail-confine"));
    Ok(())
}

fn arrows_point_down() -> Done {
    let ours = |package: &str| -> BTreeSet<String> {
        tree(package).into_iter().filter(|name| name.starts_with("jail-") && name != package).collect()
    };
    assert_eq!(ours("jail-sys"), BTreeSet::new());
    assert_eq!(ours("jail-accounts"), BTreeSet::from(["jail-sys".to_owned()]));
    assert!(
        !ours("jail-user").contains("jail-confine"),
        "jail-user puts nobody into a cell: {:?}",
        ours("jail-user")
    );
    for (package, never) in
        [("jail-init", "jail-user"), ("jail-run", "jail-user"), ("jail-user", "jail-init")]
    {
        assert!(!ours(package).contains(never), "{package} depends on {never}");
    }
    Ok(())
}
