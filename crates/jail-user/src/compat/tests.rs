//! Command lines as panels write them, in words of ours.

use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn shown(call: Result<Call, Trouble>) -> String {
    match call {
        Ok(call) => {
            let args: Vec<String> = call.args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
            format!("{} {}", call.tool, args.join(" ")).trim_end().to_owned()
        }
        Err(trouble) => format!("{}: {}", trouble.kind.exit_status(), trouble.sentence),
    }
}

#[test]
fn options_are_read_as_getopt_reads_them() {
    let given = read(INIT, &words("-fkj /j --conf=/c --verb a -- -l")).expect("read");
    assert_eq!((given.last('j'), given.last('c')), (Some("/j".as_ref()), Some("/c".as_ref())));
    assert_eq!(given.flags(&['v', 'f', 'k', 'l']), ["-v", "-f", "-k"]);
    assert_eq!(given.words, ["a", "-l"]);
    assert_eq!(read(INIT, &words("-j/j --jail /k")).expect("read").last('j'), Some("/k".as_ref()));
    for (line, why) in [
        ("-x", "there is no option '-x'"),
        ("--nothing", "there is no option '--nothing'"),
        ("-j", "'-j' needs a value"),
        ("--force=1", "'--force=1' takes no value"),
        ("--=", "there is no option '--='"),
    ] {
        assert_eq!(read(INIT, &words(line)).expect_err(line).sentence, why);
    }
}

#[test]
fn panels_calls_in_our_words() {
    assert_eq!(shown(cp(&words("-k -f /srv/j /usr/bin/id"))), "jail-cp -f -k -j /srv/j -- /usr/bin/id");
    assert_eq!(
        shown(cp(&words("-j /srv/j -v sh"))),
        format!("jail-cp -v -j /srv/j -- {}", find("sh".as_ref()).display())
    );
    assert!(shown(cp(&words("-s -j /srv/j /usr/bin/su"))).starts_with("2: -s"));
    let shell = Path::new("/usr/sbin/jk_chrootsh");
    assert_eq!(
        shown(jailuser(&words("-n -s /bin/bash -j /srv/j web1"), shell)),
        "jail-user --login-shell /usr/sbin/jk_chrootsh -s /bin/bash -j /srv/j -- web1"
    );
    assert_eq!(
        shown(jailuser(&words("--move --jail=/srv/j dave"), shell)),
        "jail-user -m --login-shell /usr/sbin/jk_chrootsh -s /usr/sbin/jk_lsh -j /srv/j -- dave",
        "without -s it is the restricted one"
    );
    assert_eq!(
        shown(update(&words("-d --jail=/srv/j --skip=/web -s /private /usr"))),
        "jail-update -d -j /srv/j"
    );
    assert_eq!(shown(update(&words("-c /srv/j"))), "jail-update -j /srv/j");
    assert_eq!(shown(check(&words("-v"))), "jail-check --all");
    assert_eq!(shown(list(&words("-w"))), "jail-list");
    assert_eq!(
        shown(chrootlaunch(&words(
            "-j /srv/j -u www-data -g web -p /run/x.pid -x /srv/j/usr/bin/job -- -a --b"
        ))),
        "jail-run -j /srv/j --user www-data --group web --pidfile /run/x.pid -- /usr/bin/job -a --b"
    );
    assert!(shown(chrootlaunch(&words("-j /srv/j -x /usr/bin/job"))).starts_with("4: -u USER is missing"));
    for call in [cp(&[]), update(&[]), jailuser(&words("dave"), shell), chrootlaunch(&[])] {
        assert!(shown(call).starts_with("2: which jail?"));
    }
}

#[test]
fn jk_lsh_runs_what_is_listed_and_nothing_else() {
    let config = crate::jailkit::read(
        b"[dave]\nexecutables = /usr/bin/scp, /usr/bin/rsync\npaths = /usr/bin, /opt\numask = 027\n\
          environment = A=1, B = two\n[group web]\nexecutables = /usr/bin/id\n[none]\npaths = /usr/bin\n",
    );
    let decide =
        |user: &str, group, line: &str| lsh::decide(&config, user, group, &["-c".into(), line.into()]);
    let allowed = format!("{:?}", decide("dave", None, "scp -t 'a b' \"c\\\"d\" e\\ f"));
    assert_eq!(
        allowed,
        "Ok(Allowed { program: \"/usr/bin/scp\", args: [\"-t\", \"a b\", \"c\\\"d\", \"e f\"], umask: 23, \
         environment: [(\"A\", \"1\"), (\"B\", \"two\")] })"
    );
    assert!(decide("erin", Some("web"), "/usr/bin/id").is_ok());
    for (user, group, line, status) in [
        ("dave", None, "id", 4),
        ("dave", None, "/opt/scp", 4),
        ("dave", None, "", 4),
        ("dave", None, "scp;id", 4),
        ("dave", None, "../usr/bin/scp", 4),
        ("dave", None, "scp 'open", 6),
        ("dave", Some("web"), "/usr/bin/id", 4),
        ("erin", None, "/usr/bin/id", 3),
        ("none", None, "/usr/bin/id", 5),
    ] {
        let refused = format!("{:?}", decide(user, group, line));
        assert!(refused.starts_with(&format!("Err(Refused({status}, ")), "{user} {line}: {refused}");
    }
    for args in [
        vec![],
        vec!["-c".into()],
        vec!["-i".into(), "x".into()],
        vec!["-c".into(), "scp".into(), "x".into()],
    ] {
        let refused = format!("{:?}", lsh::decide(&config, "dave", None, &args));
        assert!(refused.starts_with("Err(Refused(7, "), "{refused}");
    }
}
