//! jail-run as a launcher of daemons, as root: what jk_chrootlaunch does, and more.

use std::path::PathBuf;
use std::time::Duration;

use jailwright_tests::command::wait_until;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, User, skip, test};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch into_the_background_with_a_pid_file),
    test!(scratch a_start_that_fails_is_told),
    test!(scratch a_supervisor_is_told),
    test!(scratch it_runs_as_the_user_and_not_as_root),
    test!(scratch the_unit_example_is_valid),
];

fn ours() -> bool {
    Under::test() == Under::Ours
}

fn jail_run(host: &Scratch, user: &User<'_>, arguments: &str) -> Run {
    host.product();
    let jail = user.jail.as_ref().expect("jailed").display();
    Run::sh(&format!("exec /usr/local/bin/jail-run -j {jail} --user {} {arguments}", user.name))
}

fn into_the_background_with_a_pid_file(host: &Scratch) -> Done {
    if !ours() {
        return skip("jail-run is meant");
    }
    let user = host.jailed_user(&["basicshell"]);
    let file = PathBuf::from(format!("/run/{}.pid", host.unique("daemon")));
    let log = file.with_extension("log");
    let line = format!(
        "--background --pidfile {} -- /bin/bash -c 'trap \"echo ended; exit 0\" TERM; echo started; while :; do sleep 0.1; done' \
         >{} 2>&1",
        file.display(),
        log.display()
    );
    jail_run(host, &user, &line).run().ok();
    let pid: u32 = std::fs::read_to_string(&file).expect("pid file").trim().parse().expect("a pid");
    assert!(user.processes().iter().any(|(process, _)| *process == pid), "{pid}: {:?}", user.processes());
    wait_until("it has started", Duration::from_secs(10), || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("started"))
    });
    Run::new("kill").arg(pid.to_string()).run().ok();
    user.wait_for_the_end();
    assert_eq!(std::fs::read_to_string(&log).expect("log"), "started\nended\n");
    Ok(())
}

fn a_start_that_fails_is_told(host: &Scratch) -> Done {
    if !ours() {
        return skip("jail-run is meant");
    }
    let user = host.jailed_user(&["basicshell"]);
    let file = PathBuf::from(format!("/run/{}.pid", host.unique("failed")));
    let line = |rest: &str| format!("--background --pidfile {} {rest}", file.display());
    for (rest, status) in [("-- /no/such", 127), ("-- /etc/passwd", 126), ("--isolation vm -- true", 125)] {
        let out = jail_run(host, &user, &line(rest)).run();
        assert_eq!(out.status, status, "{rest}: {}", out.errors());
        assert!(out.errors().contains("jail-run: "), "{rest}: {}", out.errors());
        assert!(!file.exists(), "{rest}: a pid file of nobody");
    }
    Ok(())
}

fn a_supervisor_is_told(host: &Scratch) -> Done {
    if !ours() {
        return skip("jail-run is meant");
    }
    let user = host.jailed_user(&["basicshell"]);
    let file = PathBuf::from(format!("/run/{}", host.unique("ready")));
    // The command must not have the descriptor, nor any other.
    let line =
        format!("--ready-fd 7 -- /bin/bash -c 'echo /proc/self/fd/*' 7>{} 9</etc/shadow", file.display());
    let out = jail_run(host, &user, &line).run().ok();
    assert!(std::fs::read_to_string(&file).expect("told").trim().parse::<u32>().is_ok());
    let open: Vec<String> =
        out.text().split(' ').map(|fd| fd.rsplit('/').next().unwrap_or("").to_owned()).collect();
    assert!(open.iter().all(|fd| matches!(fd.as_str(), "0" | "1" | "2" | "3")), "{open:?}");
    for bad in ["99", "1", "x", "-1"] {
        let out = jail_run(host, &user, &format!("--ready-fd {bad} -- true")).run();
        assert!(matches!(out.status, 2 | 125), "{bad}: {}", out.status);
    }
    Ok(())
}

fn it_runs_as_the_user_and_not_as_root(host: &Scratch) -> Done {
    if !ours() {
        return skip("jail-run is meant");
    }
    let user = host.jailed_user(&["basicshell", "extendedshell"]);
    let extra = 987_654;
    Run::new("/usr/sbin/groupadd").args(["--gid", &extra.to_string(), "jwextra"]).run().ok();
    Run::new("/usr/sbin/usermod").args(["-a", "-G", "jwextra,disk", &user.name]).run().ok();
    let id = "-- /bin/bash -c 'id -u; id -g; id -G; echo $USER $LOGNAME $HOME; grep -c ^CapEff.*0000000000000000 /proc/self/status'";
    let out = jail_run(host, &user, id).env("USER", "root").env("LOGNAME", "root").run().ok().text();
    let uid = user.uid;
    let name = &user.name;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.first().copied(), Some(uid.to_string().as_str()));
    let groups: Vec<&str> = lines.get(2).expect("groups").split(' ').collect();
    assert!(
        groups.contains(&extra.to_string().as_str()) && !groups.contains(&"0") && !groups.contains(&"6"),
        "{groups:?}"
    );
    assert_eq!(lines.get(3..), Some(&[format!("{name} {name} /run/home").as_str(), "1"][..]), "{out}");
    let other = jail_run(host, &user, "--group jwextra -- id -g").run().ok().text();
    assert_eq!(other, extra.to_string());
    for bad in ["--group 0 -- id", "--group root -- id", "--group nosuchgroup -- id"] {
        assert_eq!(jail_run(host, &user, bad).run().status, 125, "{bad}");
    }
    Ok(())
}

fn the_unit_example_is_valid(host: &Scratch) -> Done {
    if !jailwright_tests::command::have("systemd-analyze") {
        return skip("no systemd-analyze on this machine");
    }
    host.product();
    let unit = jailwright_tests::product::checkout().join("share/systemd/jailed-daemon.service");
    let out = Run::new("systemd-analyze").args(["verify", "--man=no"]).arg(unit).run();
    assert_eq!((out.status, out.errors().as_str()), (0, ""));
    Ok(())
}
