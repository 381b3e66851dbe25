//! A jail that Debian's jailkit made becomes one of ours, with its account in it.

use std::path::{Path, PathBuf};

use jailwright_tests::command::have;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, skip, test};

pub(crate) const TESTS: &[Test] = &[test!(scratch a_jail_of_jailkits_is_adopted_and_kept_in_step)];

fn a_jail_of_jailkits_is_adopted_and_kept_in_step(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("adopting is ours");
    }
    if !have("jk_init") {
        return skip("jailkit is not installed (apt install jailkit)");
    }
    let jail = PathBuf::from(format!("/srv/{}", host.unique("jailkit")));
    let own = Path::new("/usr/local/bin").join(host.unique("own"));
    std::fs::write(&own, "#!/bin/sh\necho one\n").expect("written");
    Run::new("chmod").arg("755").arg(&own).run().ok();
    std::fs::create_dir(&jail).expect("made");
    Run::new("jk_init").arg("-v").arg("-j").arg(&jail).args(["basicshell", "scp", "sftp"]).run().ok();
    Run::new("jk_cp").arg("-j").arg(&jail).arg(&own).run().ok();
    let tool = |name: &str| host.product().command(name).arg("-j").arg(&jail);
    let inside = |path: &Path| jail.join(path.strip_prefix("/").expect("absolute"));
    let before = std::fs::read(jail.join("etc/passwd")).expect("passwd");
    let out = tool("jail-init").args(["--adopt", "--dry-run"]).run().ok();
    assert!(out.text().contains("would be adopted"), "{}", out.text());
    assert_eq!(tool("jail-check").run().status, 5, "nothing was written");
    let out = tool("jail-init").arg("--adopt").run().ok();
    assert!(out.text().contains("paths adopted"), "{}", out.text());
    assert_eq!(std::fs::read(jail.join("etc/passwd")).expect("passwd"), before);
    let out = tool("jail-check").run();
    assert_eq!(out.status, 0, "{}{}", out.text(), out.errors());
    assert!(tool("jail-update").run().ok().text().contains("up to date"));
    assert_eq!(tool("jail-init").arg("--adopt").run().status, 4, "once only");
    // What is the host's is kept in step; what is not is left alone.
    let mine = jail.join("usr/bin/mine");
    std::fs::write(&mine, "mine").expect("written");
    std::fs::write(&own, "#!/bin/sh\necho two\n").expect("changed");
    tool("jail-update").run().ok();
    assert!(std::fs::read_to_string(inside(&own)).expect("there").contains("two"));
    assert!(mine.exists());
    std::fs::remove_file(&mine).expect("removed");
    // And an account lives in it.
    let user = host.plain_user().moved_into(&jail);
    assert_eq!(user.ssh(&own.display().to_string()).run().ok().text(), "two");
    Ok(())
}
