//! Accounts that are not in /etc/passwd, over real sshd; and what a caller can do to the question that jail-sh asks.
//!
//! The directory is libnss-extrausers: NSS as LDAP has it, with files behind it.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use jailwright_tests::command::wait_until;
use jailwright_tests::{Done, Output, Run, Scratch, Test, skip, test};

use crate::setting::line_of;

pub(crate) const TESTS: &[Test] = &[
    test!(scratch mapped_by_user),
    test!(scratch mapped_by_group),
    test!(scratch a_group_that_cannot_be_named_widens_nothing),
    test!(scratch the_question_is_roots_alone),
    test!(scratch nothing_of_the_callers_is_run),
    test!(scratch forged_answers_are_refused),
    test!(scratch a_directory_that_hangs_is_not_waited_for),
    test!(scratch a_connection_lost_while_the_directory_thinks),
];

const MODULE: &str = "/usr/lib/libnss_extrausers.so.2";
static FILES: Mutex<()> = Mutex::new(());
static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(2_500_000);

/// An account of the directory, in a group of the directory, with a home on the host.
struct Known {
    name: String,
    uid: u32,
    group: String,
    home: PathBuf,
}

/// Makes one; `None` where the host has no such module.
fn known(scratch: &Scratch) -> Option<Known> {
    if !Path::new(MODULE).exists() {
        return None;
    }
    let uid = NEXT.fetch_add(2, std::sync::atomic::Ordering::Relaxed);
    let (name, group) = (format!("dir{uid}"), format!("team{uid}"));
    let home = PathBuf::from(format!("/home/{name}"));
    let shell = scratch.product().jail_sh().display().to_string();
    let _one_at_a_time = FILES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::fs::create_dir_all("/var/lib/extrausers").expect("mkdir");
    let add = |file: &str, line: String, mode: u32| {
        let path = format!("/var/lib/extrausers/{file}");
        let mut open = std::fs::OpenOptions::new().append(true).create(true).open(&path).expect("open");
        writeln!(open, "{line}").expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    };
    add("passwd", format!("{name}:x:{uid}:{uid}:Dir Ectory:{}:{shell}", home.display()), 0o644);
    add("group", format!("{name}:x:{uid}:\n{group}:x:{}:{name}", uid + 1), 0o644);
    add("shadow", format!("{name}:*:19000:0:99999:7:::"), 0o600);
    ask_also("extrausers");
    std::fs::create_dir_all(home.join(".ssh")).expect("mkdir");
    std::fs::write(home.join(".ssh/authorized_keys"), scratch.sshd().public_key()).expect("write");
    for path in [home.clone(), home.join(".ssh"), home.join(".ssh/authorized_keys")] {
        chown(&path, Some(uid), Some(uid)).expect("chown");
    }
    Some(Known { name, uid, group, home })
}

/// Has the host's name service ask one more module; the caller holds [`FILES`].
fn ask_also(module: &str) {
    let switch = std::fs::read_to_string("/etc/nsswitch.conf").expect("read");
    let bases = ["passwd:", "group:", "shadow:"];
    let was = switch.lines().find(|line| line.starts_with("passwd:")).unwrap_or_default();
    let mut modules: Vec<&str> = vec!["files"];
    modules.extend(["extrausers", "ldap"].iter().filter(|known| was.contains(**known) || **known == module));
    let lines = bases.map(|base| format!("{base} {}\n", modules.join(" "))).concat();
    let rest: String = switch
        .lines()
        .filter(|line| !bases.iter().any(|base| line.starts_with(base)))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write("/etc/nsswitch.conf.new", lines + &rest).expect("write");
    std::fs::rename("/etc/nsswitch.conf.new", "/etc/nsswitch.conf").expect("rename");
}

/// One more module, while nobody else edits the same files.
pub(crate) fn ask(module: &str) {
    let _one_at_a_time = FILES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    ask_also(module);
}

const NO_MODULE: &str = "libnss-extrausers is not installed";

impl Known {
    fn ssh(&self, scratch: &Scratch, command: &str) -> Output {
        scratch.sshd().client("ssh").arg(format!("{}@jail", self.name)).arg(command).run()
    }

    /// The login shell started by hand, by the account, with something before it in the same mount namespace.
    fn by_hand(&self, before: &str, command: &str) -> Output {
        let line = format!(
            "{before}\nexec setpriv --reuid {0} --regid {0} --groups {0},{1} env -i USER={2} LOGNAME={2} PATH=/bin \
             /usr/local/sbin/jail-sh -c '{command}'",
            self.uid,
            self.uid + 1,
            self.name
        );
        Run::new("unshare").args(["-m", "sh", "-c", &line]).within(Duration::from_secs(60)).run()
    }
}

fn mapped_by_user(scratch: &Scratch) -> Done {
    let Some(user) = known(scratch) else { return skip(NO_MODULE) };
    assert_eq!(line_of("/etc/passwd", &user.name), None);
    let jail = scratch.jail(&format!("/srv/{}", scratch.unique("directory")), &["basicshell", "scp"]);
    let (passwd, group) = (std::fs::read(jail.join("etc/passwd")), std::fs::read(jail.join("etc/group")));
    let refused = user.ssh(scratch, "true");
    assert_eq!(refused.status, 125, "{}", refused.errors());
    scratch.syslog().expect(&["refused", &user.uid.to_string(), "has a jail for the user"]);

    scratch.add_policy(&format!(
        "[user.{}]\njail = \"{}\"\nhome_path = \"/home/me\"\n",
        user.name,
        jail.display()
    ));
    let said = user.ssh(scratch, "id -un; pwd; ls /home; cat /etc/passwd; echo in >mark");
    let (name, uid) = (&user.name, user.uid);
    let expected = format!(
        "{name}\n/home/me\nme\nroot:x:0:0:root:/root:/usr/sbin/nologin\n\
         {name}:x:{uid}:{uid}:Dir Ectory:/home/me:/bin/bash\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin"
    );
    assert_eq!(said.text(), expected, "{}", said.errors());
    let mounts =
        user.ssh(scratch, "while read -r _ _ _ _ at how _; do echo \"$at $how\"; done </proc/self/mountinfo");
    for own in ["/etc/passwd ro,", "/etc/group ro,"] {
        assert!(mounts.text().lines().any(|line| line.starts_with(own)), "{own} is not in {}", mounts.text());
    }
    assert_eq!(std::fs::read_to_string(user.home.join("mark")).expect("in the home outside"), "in\n");
    assert_eq!(std::fs::read(jail.join("etc/passwd")).ok(), passwd.ok(), "no jail was edited");
    assert_eq!(std::fs::read(jail.join("etc/group")).ok(), group.ok());
    let told = Run::new(scratch.product().jail_sh()).args(["--explain", name]).run().ok();
    assert!(told.text().contains(&format!("jail   {}", jail.display())), "{}", told.text());
    // scp goes the same way, both directions.
    let file = format!("/tmp/{}", scratch.unique("file"));
    std::fs::write(&file, "content").expect("write");
    scratch.sshd().client("scp").args([&file, &format!("{name}@jail:copied")]).run().ok();
    assert_eq!(std::fs::read_to_string(user.home.join("copied")).expect("there"), "content");
    Ok(())
}

fn mapped_by_group(scratch: &Scratch) -> Done {
    let Some(user) = known(scratch) else { return skip(NO_MODULE) };
    let jail =
        scratch.jail(&format!("/srv/{}", scratch.unique("directory")), &["basicshell", "extendedshell"]);
    scratch.add_policy(&format!("[group.{}]\njail = \"{}\"\nopen_files = 77\n", user.group, jail.display()));
    let said = user.ssh(scratch, "id -Gn; ulimit -n; cat /etc/group");
    let (name, group, uid) = (&user.name, &user.group, user.uid);
    let expected = format!(
        "{name} {group}\n77\nroot:x:0:\n{name}:x:{uid}:\n{group}:x:{}:{name}\nnogroup:x:65534:",
        uid + 1
    );
    assert_eq!(said.text(), expected, "{}", said.errors());
    let told = Run::new(scratch.product().jail_sh()).args(["--explain", name]).run().ok();
    assert!(told.text().contains(&format!("[group.{group}]")), "{}", told.text());
    Ok(())
}

/// A `getent` of the test's, seen instead of the host's in the mount namespace of one call.
fn stand_in(scratch: &Scratch, script: &str) -> String {
    let path = format!("/run/{}", scratch.unique("getent"));
    std::fs::copy("/usr/bin/getent", format!("{path}.real")).expect("copy");
    std::fs::write(&path, format!("#!/bin/sh\nreal={path}.real out={path}.out\n{script}\n")).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    path
}

fn over(path: &str) -> String {
    format!("mount --bind {path} /usr/bin/getent")
}

fn in_a_jail(scratch: &Scratch, user: &Known) {
    let jail = scratch.jail(&format!("/srv/{}", scratch.unique("directory")), &["basicshell"]);
    scratch.add_policy(&format!("[user.{}]\njail = \"{}\"\n", user.name, jail.display()));
}

/// `getent` says 2 for a group that is not there, and for a directory that is down.
fn a_group_that_cannot_be_named_widens_nothing(scratch: &Scratch) -> Done {
    let Some(user) = known(scratch) else { return skip(NO_MODULE) };
    in_a_jail(scratch, &user);
    scratch.add_policy(&format!("[group.{}]\nopen_files = 78\n", user.group));
    let within = |script: &str| {
        let path =
            stand_in(scratch, &format!("case \"$*\" in *group*) {script};; esac; exec \"$real\" \"$@\""));
        user.by_hand(&over(&path), "ulimit -n")
    };
    assert_eq!(within(":").text(), "78", "as long as the directory answers");
    let (gid, name) = (user.uid + 1, &user.name);
    for script in [
        "exit 2".to_owned(),
        format!("echo '{name}:x:{}:'; exit 2", user.uid),
        format!("echo 'x:x:{}:'; exit 0", gid + 1),
    ] {
        let said = within(&script);
        assert_eq!((said.status, said.text().as_str()), (125, ""), "{script}: {}", said.errors());
        scratch.syslog().expect(&["refused", &user.uid.to_string(), "has no name"]);
    }
    for script in ["exit 1", "exit 3"] {
        assert_eq!(within(script).status, 125, "{script}");
    }
    Ok(())
}

fn the_question_is_roots_alone(scratch: &Scratch) -> Done {
    let Some(user) = known(scratch) else { return skip(NO_MODULE) };
    in_a_jail(scratch, &user);
    let path = stand_in(
        scratch,
        "{ tr '\\0' '\\n' </proc/$$/environ; echo; ls -l /proc/$$/fd | grep -c /etc/hostname; pwd; ulimit -n; ulimit -v
           grep -E '^(Uid|Gid|Groups|SigBlk):' /proc/$$/status | tr '\\t' ' '; echo $$; } >$out 2>&1
         sleep 3; exec \"$real\" \"$@\"",
    );
    // Another process of the caller's uid: it may look, stop and trace as much as it can.
    let (out, uid) = (format!("{path}.out"), user.uid);
    let meddler = std::thread::spawn(move || {
        let end = Instant::now() + Duration::from_secs(20);
        while std::fs::read_to_string(&out).unwrap_or_default().lines().count() < 9 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let pid =
            std::fs::read_to_string(&out).unwrap_or_default().lines().last().unwrap_or_default().to_owned();
        let line = format!(
            "kill -STOP {pid} && echo stopped; timeout 1 strace -p {pid} 2>&1 | grep -c attached; cat /proc/{pid}/environ; true"
        );
        let id = uid.to_string();
        let said = Run::new("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--clear-groups", "sh", "-c", &line])
            .run();
        (pid, said.text())
    });
    let said = user.by_hand(
        &format!("{}; ulimit -S -n 64; ulimit -S -v 500000; exec 7</etc/hostname", over(&path)),
        "id -un",
    );
    let logged = || scratch.syslog().with(&user.uid.to_string()).join("");
    assert_eq!(said.text(), user.name, "{} {}", said.errors(), logged());
    let (pid, meddled) = meddler.join().expect("joins");
    assert!(!pid.is_empty() && meddled == "0", "of the meddling only a failed trace is told: {meddled}");
    let facts = std::fs::read_to_string(format!("{path}.out")).expect("there");
    let facts: Vec<&str> =
        facts.lines().filter(|line| !line.is_empty() && !line.starts_with("PWD=")).collect();
    assert_eq!((facts[0], facts[1], facts[3]), ("0", "/", "unlimited"), "{facts:?}");
    assert!(facts[2].parse::<u64>().expect("a number") >= 256, "{facts:?}");
    assert_eq!(&facts[4..7], ["Uid: 0 0 0 0", "Gid: 0 0 0 0", "Groups:  "], "{facts:?}");
    assert_eq!(facts[7], "SigBlk: 0000000000000000");
    Ok(())
}

fn nothing_of_the_callers_is_run(scratch: &Scratch) -> Done {
    let Some(user) = known(scratch) else { return skip(NO_MODULE) };
    in_a_jail(scratch, &user);
    let dir = format!("/tmp/{}", scratch.unique("planted"));
    let marks = format!("{dir}/marks");
    std::fs::create_dir_all(&marks).expect("mkdir");
    std::fs::set_permissions(&marks, std::fs::Permissions::from_mode(0o1777)).expect("chmod");
    std::fs::write(format!("{dir}/getent"), format!("#!/bin/sh\n: >{marks}/run\n")).expect("write");
    std::fs::set_permissions(format!("{dir}/getent"), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let line = format!(
        "cd {dir}; exec setpriv --reuid {0} --regid {0} --clear-groups env -i USER={1} LOGNAME={1} PATH={dir}:. ENV={dir}/getent \
         BASH_ENV={dir}/getent LD_LIBRARY_PATH={dir} LD_PRELOAD={dir}/x.so LD_AUDIT={dir}/x.so LOCALDOMAIN=x NSS_WRAPPER_PASSWD={dir}/x \
         /usr/local/sbin/jail-sh -c 'id -un'",
        user.uid, user.name
    );
    let said = Run::sh(&line).run();
    assert_eq!(said.text(), user.name, "{}", said.errors());
    assert_eq!(std::fs::read_dir(&marks).expect("read").count(), 0, "the planted getent ran");
    // Nor is a program believed that others could have changed.
    let path = stand_in(scratch, "exec \"$real\" \"$@\"");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("chmod");
    assert_eq!(user.by_hand(&over(&path), "id -un").status, 125);
    scratch.syslog().expect(&["refused", &user.uid.to_string(), "getent", "can be written by others"]);
    Ok(())
}

fn forged_answers_are_refused(scratch: &Scratch) -> Done {
    let Some(user) = known(scratch) else { return skip(NO_MODULE) };
    in_a_jail(scratch, &user);
    let (name, uid) = (&user.name, user.uid);
    let shell = "/usr/local/sbin/jail-sh";
    let local = scratch.plain_user();
    let cases = [
        (format!("echo '{name}:x:{}:{uid}::/home/{name}:{shell}'", uid + 1), "answered with uid"),
        (format!("echo '{}:x:{uid}:{uid}::/home/{name}:{shell}'", local.name), "a name that /etc/passwd has"),
        (format!("echo 'root:x:{uid}:{uid}::/home/{name}:{shell}'"), "a name that /etc/passwd has"),
        (format!("echo '{name}:x:{uid}:0::/home/{name}:{shell}'"), "primary group"),
        (format!("echo '{name}:x:{uid}:{uid}::/home/{name}:/bin/bash'"), "no account with jail-sh"),
        (format!("echo '{name}:x:{uid}:{uid}::/var/lib:{shell}'"), "belongs to uid 0"),
        ("exit 2".to_owned(), "no account with jail-sh"),
        ("exit 1".to_owned(), "ended with status 1"),
        ("kill -SEGV $$".to_owned(), "was killed"),
        ("yes x:y".to_owned(), "does not stop talking"),
        ("head -c 3000000 /dev/zero".to_owned(), "no account with jail-sh"),
    ];
    for (script, why) in cases {
        let path = stand_in(
            scratch,
            &format!("case \"$*\" in *passwd*) {script}; exit;; esac; exec \"$real\" \"$@\""),
        );
        let said = user.by_hand(&over(&path), "id -un");
        assert_eq!((said.status, said.text().as_str()), (125, ""), "{script}: {}", said.errors());
        scratch.syslog().expect(&["refused", &uid.to_string(), why]);
    }
    Ok(())
}

fn a_directory_that_hangs_is_not_waited_for(scratch: &Scratch) -> Done {
    let Some(user) = known(scratch) else { return skip(NO_MODULE) };
    in_a_jail(scratch, &user);
    for script in ["echo $$ >$out; sleep 600", "echo $$ >$out; exec >&-; sleep 600"] {
        let path = stand_in(scratch, script);
        let started = Instant::now();
        let said = user.by_hand(&over(&path), "id -un");
        assert_eq!(said.status, 125, "{}", said.errors());
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
        scratch.syslog().expect(&["refused", &user.uid.to_string(), "gave no answer in 10 seconds"]);
        let pid = std::fs::read_to_string(format!("{path}.out")).expect("it ran");
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        assert!(state.is_empty() || state.contains(" Z "), "it was left running: {state}");
    }
    Ok(())
}

/// The connection drops between jail-sh's start and its entry: the login must not be tied to whoever took it in.
fn a_connection_lost_while_the_directory_thinks(scratch: &Scratch) -> Done {
    let Some(user) = known(scratch) else { return skip(NO_MODULE) };
    in_a_jail(scratch, &user);
    let path = stand_in(scratch, "echo >$out; until test -e $out.go; do sleep 0.05; done; exec $real \"$@\"");
    let line = format!(
        "{0}\nsetpriv --reuid {1} --regid {1} --clear-groups /usr/local/sbin/jail-sh -c 'sleep 600' </dev/null >/dev/null \
         2>&1 &\necho $! >{path}.pid\nuntil test -e {path}.out; do sleep 0.05; done",
        over(&path),
        user.uid,
    );
    Run::new("unshare").args(["-m", "sh", "-c", &line]).within(Duration::from_secs(60)).run().ok();
    std::fs::write(format!("{path}.out.go"), "").expect("write");
    scratch.syslog().expect(&[&user.name, "runs 'sleep 600'"]);
    let pid = std::fs::read_to_string(format!("{path}.pid")).expect("it was started");
    wait_until("the login ends", Duration::from_secs(30), || {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        state.is_empty() || state.contains(" Z ")
    });
    Ok(())
}
