//! Root's own tools at work in a tree that a jailed user can write: each tries to have them write, or change, something
//! outside of the jail while they look the other way.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use jailwright_tests::command::{Background, have};
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Skip, Test, User, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch directory_swapped_during_jail_cp),
    test!(scratch directory_swapped_during_jail_update),
    test!(scratch directory_swapped_during_jail_init),
    test!(scratch links_where_files_are_due),
];

/// How often root's tool runs against the swapping; enough that most runs see both faces.
const ROUNDS: usize = 25;

/// Swaps `drop` with `link`, as fast as one process can.
const FLIPPER: &str = r#"
use strict; my $rename = 316; my $cwd = -100; my $exchange = 2;
$| = 1; print "up\n";
while (1) { syscall($rename, $cwd, my $a = "drop", $cwd, my $b = "link", $exchange); }
"#;

/// An account in a jail of its own, whose home has a directory that root's tools are asked to fill; and what must not be
/// touched.
struct Stage<'s> {
    user: User<'s>,
    jail: PathBuf,
    victim: PathBuf,
    /// What root brings in, on the host.
    source: PathBuf,
    host: &'s Scratch,
}

impl<'s> Stage<'s> {
    fn set(host: &'s Scratch) -> Result<Stage<'s>, Skip> {
        if Under::test() != Under::Ours {
            return Err(Skip("our tools are meant".to_owned()));
        }
        if !have("perl") {
            return Err(Skip("no perl on this machine".to_owned()));
        }
        let jail = host.jail(&format!("/srv/{}", host.unique("swapped")), &["basicshell"]);
        let user = host.plain_user().moved_into(&jail);
        let victim = PathBuf::from(format!("/srv/{}", host.unique("victim")));
        std::fs::create_dir(&victim).expect("mkdir");
        std::fs::write(victim.join("file"), "root's own\n").expect("write");
        let source = Path::new("/home").join(&user.name).join("drop");
        std::fs::create_dir_all(&source).expect("mkdir");
        std::fs::create_dir(user.home.join("drop")).expect("mkdir");
        user.owns(&user.home.join("drop"));
        symlink(&victim, user.home.join("link")).expect("link");
        Ok(Stage { user, jail, victim, source, host })
    }

    fn flips(&self) -> Background {
        let mut flipper = self.user.outside("perl").args(["-e", FLIPPER]).dir(&self.user.home).background();
        assert_eq!(flipper.first_line(), "up");
        flipper
    }

    /// The victim as it is: names, contents, owners, modes.
    fn picture(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.victim).expect("read").flatten();
        let mut lines: Vec<String> = entries
            .map(|entry| {
                let stat = entry.metadata().expect("stat");
                let content = std::fs::read_to_string(entry.path()).unwrap_or_default();
                format!("{:?} {} {:o} {content}", entry.file_name(), stat.uid(), stat.mode())
            })
            .collect();
        let own = std::fs::metadata(&self.victim).expect("stat");
        lines.push(format!("{} {:o}", own.uid(), own.mode()));
        lines.sort();
        lines
    }

    /// Runs root's tool again and again, with something new to write each time.
    fn hold(&self, tool: impl Fn() -> Run) -> Done {
        let before = self.picture();
        std::fs::write(self.source.join("file"), "the control\n").expect("write");
        tool().run().ok();
        let mut flipper = self.flips();
        let mut done = 0;
        for round in 0..ROUNDS {
            std::fs::write(self.source.join("file"), format!("round {round}\n")).expect("write");
            std::fs::write(self.source.join(format!("new-{round}")), "x").expect("write");
            let out = tool().run();
            // It may give up, and says why; it must not be led away.
            assert!(matches!(out.status, 0 | 1 | 4), "{} {}", out.status, out.errors());
            done += usize::from(out.status == 0);
            assert_eq!(self.picture(), before, "round {round}: written outside of the jail");
        }
        flipper.kill();
        println!("{done} of {ROUNDS} runs done, the others gave up");
        Ok(())
    }

    fn command(&self, name: &str) -> Run {
        self.host.product().command(name).arg("-j").arg(&self.jail)
    }
}

/// CVE-2018-15664, CVE-2024-45310: a directory on the way is swapped for a link while files are copied into it.
fn directory_swapped_during_jail_cp(host: &Scratch) -> Done {
    let stage = Stage::set(host)?;
    stage.hold(|| stage.command("jail-cp").arg("--force").arg(&stage.source))
}

/// The same when a jail is brought in step with its host.
fn directory_swapped_during_jail_update(host: &Scratch) -> Done {
    let stage = Stage::set(host)?;
    std::fs::write(stage.source.join("file"), "first\n").expect("write");
    stage.command("jail-cp").arg(&stage.source).run().ok();
    stage.hold(|| stage.command("jail-update").arg("--force"))
}

/// The same when a section of the administrator's asks for it.
fn directory_swapped_during_jail_init(host: &Scratch) -> Done {
    let stage = Stage::set(host)?;
    let section = format!("swapped{}", stage.user.uid);
    let text =
        format!("description = \"a directory of a user's\"\npaths = [\"{}\"]\n", stage.source.display());
    std::fs::create_dir_all("/etc/jailwright/profiles").expect("mkdir");
    std::fs::write(format!("/etc/jailwright/profiles/{section}.toml"), text).expect("write");
    stage.hold(|| stage.command("jail-init").args(["--force", "basicshell", &section]))
}

/// Nothing swapped, but a link, a FIFO or a directory lies where a file is to be written.
fn links_where_files_are_due(host: &Scratch) -> Done {
    let stage = Stage::set(host)?;
    let before = stage.picture();
    std::fs::write(stage.source.join("file"), "new\n").expect("write");
    let due = stage.user.home.join("drop/file");
    for plant in [
        format!("ln -s {}/file {}", stage.victim.display(), due.display()),
        format!("mkfifo {}", due.display()),
        format!("mkdir {0} && touch {0}/mine", due.display()),
    ] {
        stage.user.outside("sh").args(["-c", &plant]).run().ok();
        let copy = stage.command("jail-cp").arg("--force").arg(&stage.source);
        let out = copy.within(std::time::Duration::from_secs(60)).run();
        assert!(matches!(out.status, 0 | 1 | 4), "{plant}: {} {}", out.status, out.errors());
        assert_eq!(stage.picture(), before, "{plant}");
        Run::new("rm").arg("-rf").arg(&due).run().ok();
    }
    Ok(())
}
