//! `jail-run --learn`: from one run to a section and a profile, and the same run again under both; as an ordinary user.

use std::path::{Path, PathBuf};

use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Skip, Test, User, skip, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch what_was_learnt_runs_again),
    test!(scratch learning_changes_nothing),
    test!(scratch the_floor_stands_while_learning),
    test!(scratch learning_has_no_network_unless_asked),
    test!(scratch a_signal_ends_a_run_that_is_learnt_from),
    test!(scratch what_cannot_be_learnt_is_refused),
];

struct Learner<'s> {
    user: User<'s>,
    dir: PathBuf,
}

impl Learner<'_> {
    fn new(host: &Scratch) -> Result<Learner<'_>, Skip> {
        if Under::test() != Under::Ours {
            return Err(Skip("jail-run is meant".to_owned()));
        }
        host.product();
        let user = host.plain_user();
        let dir = user.home.join("work");
        std::fs::create_dir(&dir).expect("mkdir");
        user.owns(&dir);
        Ok(Learner { user, dir })
    }

    fn jail_run(&self, args: &[&str]) -> Run {
        let run = self.user.outside("/usr/local/bin/jail-run").args(args);
        run.env("HOME", &self.user.home)
            .without_env("XDG_CACHE_HOME")
            .without_env("XDG_CONFIG_HOME")
            .dir(&self.dir)
    }

    fn read(&self, name: &str) -> String {
        let path = self.dir.join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

fn what_was_learnt_runs_again(host: &Scratch) -> Done {
    let learner = Learner::new(host)?;
    std::fs::write("/etc/learnt.conf", "the setting\n").expect("write");
    learner.user.writes("work/input", "own data\n");
    let script = "cat /etc/learnt.conf input && echo $((6 * 7)) | sed s/4/four/; exit 9";
    let out = learner.jail_run(&["--learn", "job.toml", "--", "/bin/sh", "-c", script]).run();
    assert_eq!((out.status, out.text().as_str()), (9, "the setting\nown data\nfour2"), "{}", out.errors());
    assert!(out.errors().contains("job.toml") && out.errors().contains("job.json"), "{}", out.errors());
    let section = learner.read("job.toml");
    for file in ["\"/etc/learnt.conf\"", "\"/bin/sh\"", "input\""] {
        assert!(section.contains(file), "no {file} in:\n{section}");
    }
    let profile = learner.read("job.json");
    assert!(profile.contains("\"execve\"") && !profile.contains("\"socket\""), "{profile}");
    let again = |script: &str| {
        let run = ["./job.toml", "--seccomp", "job.json", "--", "/bin/sh", "-c", script];
        learner.jail_run(&run).run()
    };
    let out = again(script);
    assert_eq!((out.status, out.text().as_str()), (9, "the setting\nown data\nfour2"), "{}", out.errors());
    // What the run did not do is not possible: neither a file that it had no use for, nor a call.
    let more = again("cat /etc/hostname; mkdir /tmp/x && echo made");
    assert!(more.status != 0 && more.text().is_empty(), "{more:?}");
    Ok(())
}

/// Also where the files are the caller's own: nothing but the two files is new.
fn learning_changes_nothing(host: &Scratch) -> Done {
    // Two is as deep as the kernel stacks overlays: one is this test's over /home, one what is learnt with puts over that.
    let root = Run::sh("findmnt -no FSTYPE --target /usr").run().text();
    if root.trim() == "overlay" {
        return skip("this machine's root is an overlay itself, and the kernel stacks no third");
    }
    let learner = Learner::new(host)?;
    learner.user.writes("work/mine", "as it was\n");
    let home = learner.user.home.display().to_string();
    let script = format!(
        "echo changed >mine; cat mine; rm -f {home}/.bashrc; echo x >{home}/new && ls {home}/new; echo y >/tmp/trace && cat /tmp/trace; \
         (echo z >/etc/hostname) 2>/dev/null || echo not root"
    );
    let out = learner.jail_run(&["--learn", "writes.toml", "--", "/bin/sh", "-c", &script]).run();
    let new = format!("{home}/new");
    assert_eq!(
        out.text().lines().collect::<Vec<_>>(),
        ["changed", &new, "y", "not root"],
        "{}",
        out.errors()
    );
    assert_eq!(learner.read("mine"), "as it was\n");
    assert!(
        learner.user.home.join(".bashrc").exists()
            && !Path::new(&new).exists()
            && !Path::new("/tmp/trace").exists()
    );
    // A file that the run itself made is nothing that a jail could be made from.
    let section = learner.read("writes.toml");
    assert!(!section.contains("/new\"") && section.contains("mine\""), "{section}");
    let mut there: Vec<_> =
        std::fs::read_dir(&learner.dir).expect("read").flatten().map(|e| e.file_name()).collect();
    there.sort();
    assert_eq!(there, ["mine", "writes.json", "writes.toml"]);
    Ok(())
}

fn the_floor_stands_while_learning(host: &Scratch) -> Done {
    let learner = Learner::new(host)?;
    jailwright_tests::user::bring_probe(Path::new("/"));
    let attempts =
        ["unshare_user", "mount_tmpfs", "keyctl_join", "bpf", "io_uring_setup", "chroot", "setuid_0"];
    let command: Vec<&str> =
        ["--learn", "probe.toml", "--", "/usr/bin/probe"].into_iter().chain(attempts).collect();
    let out = learner.jail_run(&command).run();
    assert_eq!(out.text().lines().count(), attempts.len(), "{}", out.errors());
    assert!(!out.text().contains(" OK"), "{}", out.text());
    let profile = learner.read("probe.json");
    let comment = profile.lines().find(|line| line.contains("\"comment\"")).expect("a comment");
    for name in ["unshare", "keyctl", "bpf"] {
        assert!(comment.contains(name), "{comment}");
        assert!(!profile.replace(comment, "").contains(&format!("\"{name}\"")), "{profile}");
    }
    assert!(out.errors().contains("refused, and not in the profile"), "{}", out.errors());
    Ok(())
}

fn learning_has_no_network_unless_asked(host: &Scratch) -> Done {
    let learner = Learner::new(host)?;
    jailwright_tests::user::bring_probe(Path::new("/"));
    let service = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let attempt = format!("connect_tcp:127.0.0.1:{}", service.local_addr().expect("address").port());
    let out = learner.jail_run(&["--learn", "none.toml", "--", "/usr/bin/probe", &attempt]).run();
    assert!(!out.text().is_empty() && !out.text().contains(" OK"), "{} {}", out.text(), out.errors());
    assert!(!learner.read("none.toml").contains("[entry]"));
    let out = learner
        .jail_run(&["--network", "host", "--learn", "host.toml", "--", "/usr/bin/probe", &attempt])
        .run();
    assert!(out.text().contains(" OK"), "{} {}", out.text(), out.errors());
    assert!(learner.read("host.toml").contains("network = \"host\""));
    Ok(())
}

/// As a server is stopped, after which there is all of a record.
fn a_signal_ends_a_run_that_is_learnt_from(host: &Scratch) -> Done {
    let learner = Learner::new(host)?;
    let script = "trap 'echo stopped; exit 3' TERM; echo up; while :; do sleep 0.1; done";
    let mut run = learner.jail_run(&["--learn", "server.toml", "--", "/bin/sh", "-c", script]).background();
    assert_eq!(run.first_line(), "up");
    let pid = i32::try_from(run.pid()).expect("a pid");
    Run::new("kill").args(["-TERM", &pid.to_string()]).run().ok();
    assert_eq!(run.first_line(), "stopped");
    assert_eq!(run.wait(std::time::Duration::from_secs(10)), Some(3));
    assert!(learner.read("server.toml").contains("sleep\""));
    Ok(())
}

fn what_cannot_be_learnt_is_refused(host: &Scratch) -> Done {
    let learner = Learner::new(host)?;
    learner.user.writes("work/there.toml", "mine\n");
    for (args, word) in [
        (&["--learn", "there.toml"][..], "there.toml"),
        (&["--learn", "nameless"], "NAME.toml"),
        (&["--learn", "a.toml", "--seccomp", "default"], "--seccomp"),
        (&["--learn", "a.toml", "--network", "connect=443"], "ports"),
    ] {
        let out = learner.jail_run(&[args, &["--", "true"]].concat()).run();
        assert_eq!(out.status, 125, "{args:?}: {out:?}");
        assert!(out.errors().contains(word), "{args:?}: {}", out.errors());
    }
    let as_root = Run::new("/usr/local/bin/jail-run").args(["--learn", "/tmp/a.toml", "--", "true"]).run();
    assert!(as_root.status == 125 && as_root.errors().contains("ordinary users"), "{as_root:?}");
    let none = learner.jail_run(&["--learn", "a.toml", "--", "/no/such"]).run();
    assert_eq!(none.status, 127, "{none:?}");
    assert!(!learner.dir.join("a.json").exists(), "of a command that did not run");
    assert_eq!(learner.read("there.toml"), "mine\n");
    Ok(())
}
