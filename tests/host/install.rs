//! `make install` and `make uninstall`: what they lay where, with which mode, what they keep, and when they refuse.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jailwright_tests::product::make;
use jailwright_tests::scratch::POLICY;
use jailwright_tests::{Done, Run, Scratch, Test, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch into_a_packagers_directory),
    test!(scratch policy_is_never_overwritten),
    test!(scratch jail_sh_is_no_listed_shell),
    test!(scratch uninstall_refuses_while_in_use),
];

/// Every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let listed = Run::new("find").arg(dir).args(["-not", "-type", "d"]).run().ok().text();
    let mut files: Vec<PathBuf> = listed.lines().map(PathBuf::from).collect();
    files.sort();
    files
}

/// Pages and completions as `make man` leaves them; the tests do not wait for xtask to be built.
fn pages(dir: &str) -> [String; 2] {
    Run::sh(&format!(
        "mkdir -p {dir}/man {dir}/c/bash {dir}/c/zsh {dir}/c/fish; cd {dir}; \
         touch man/jail-init.8 man/jail-run.1 man/jail-sh.toml.5 man/jailwright-section.5; \
         touch c/bash/jail-init.bash c/zsh/_jail-init c/fish/jail-init.fish"
    ))
    .run()
    .ok();
    [format!("MAN_DIR={dir}/man"), format!("COMPLETIONS_DIR={dir}/c")]
}

fn into_a_packagers_directory(_: &Scratch) -> Done {
    let places = ["DESTDIR=/srv/package", "PREFIX=/opt/jw"];
    let pages = pages("/srv/pages");
    let outside = || (files(Path::new("/usr/local")), files(Path::new("/etc")));
    let before = outside();
    make().arg("install").args(places).args(&pages).run().ok();
    assert_eq!(outside(), before, "DESTDIR is all that is written to");

    let root = Path::new("/srv/package/opt/jw");
    for program in files(&root.join("sbin")).iter().chain(&files(&root.join("bin"))) {
        let meta = program.metadata().expect("its status");
        let expected = if program.ends_with("jail-sh") { 0o4755 } else { 0o755 };
        assert_eq!(meta.permissions().mode() & 0o7777, expected, "{}", program.display());
        assert_eq!((meta.uid(), meta.gid()), (0, 0), "{}", program.display());
    }
    for file in [
        "sbin/jail-init",
        "sbin/jail-user",
        "sbin/jail-sh",
        "bin/jail-run",
        "share/jailwright/profiles/basicshell.toml",
        "share/jailwright/seccomp/default.json",
        "share/man/man8/jail-init.8",
        "share/man/man5/jail-sh.toml.5",
        "share/bash-completion/completions/jail-init",
        "share/zsh/site-functions/_jail-init",
        "share/fish/vendor_completions.d/jail-init.fish",
    ] {
        assert!(root.join(file).is_file(), "{file} is not installed");
    }
    assert!(Path::new("/srv/package/etc/jailwright/jail-sh.toml").is_file());

    make().arg("uninstall").args(places).run().ok();
    let left = files(Path::new("/srv/package"));
    assert_eq!(left, [PathBuf::from("/srv/package/etc/jailwright/jail-sh.toml")], "only the policy is kept");
    Ok(())
}

fn policy_is_never_overwritten(host: &Scratch) -> Done {
    host.product();
    let mine = "# an administrator's own line\n[default]\nnetwork = \"none\"\n";
    let shipped = std::fs::read(POLICY).expect("the installed policy");
    std::fs::write(POLICY, mine).expect("write");
    make().arg("install").run().ok();
    assert_eq!(std::fs::read_to_string(POLICY).expect("read"), mine);
    std::fs::write(POLICY, shipped).expect("put it back");
    Ok(())
}

fn jail_sh_is_no_listed_shell(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let shells = std::fs::read_to_string("/etc/shells").unwrap_or_default();
    assert!(!shells.contains("jail-sh"), "listed, {} could chsh out of it: {shells}", user.name);
    Ok(())
}

fn uninstall_refuses_while_in_use(host: &Scratch) -> Done {
    let user = host.jailed_user(&["basicshell"]);
    let refused = make().arg("uninstall").run();
    assert_ne!(refused.status, 0, "{} could not log in any more", user.name);
    let line = format!("/usr/local/sbin/jail-user --release {}", user.name);
    assert!(refused.errors().contains(&line), "{}", refused.errors());
    assert!(host.product().jail_sh().exists(), "it refused, and removed it");
    // Word for word what it says to type, for each account it names.
    let said = refused.errors();
    for line in said.lines().filter(|line| line.contains("jail-user --release")) {
        Run::sh(line).run().ok();
    }
    assert!(user.ssh("echo out").run().ok().text().contains("out"), "the account is as it was");

    let pages = pages("/srv/pages");
    make().arg("install").args(&pages).run().ok();
    let done = make().arg("uninstall").run().ok();
    assert!(done.text().contains("/etc/jailwright"), "it says what it keeps: {}", done.text());
    let ours = |path: &PathBuf| path.to_string_lossy().contains("jail");
    let left: Vec<PathBuf> = files(Path::new("/usr/local"))
        .into_iter()
        .filter(ours)
        .filter(|path| !path.starts_with(jailwright_tests::product::checkout()))
        .filter(|path| !path.starts_with(jailwright_tests::product::target_dir()))
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "left in /usr/local");
    assert!(Path::new(POLICY).exists(), "the policy is the administrator's");
    // The suite's other tests go on with it.
    make().arg("install").run().ok();
    Ok(())
}
