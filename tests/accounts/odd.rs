//! Account files and names as hosts have had them for decades: one line changes, every other byte stays, and a release
//! takes the file back to the byte.

use jailwright_tests::command::wait_until;
use jailwright_tests::{Done, Output, Run, Scratch, Test, product, test};
use std::time::Duration;

use crate::setting::{LOGIN_SHELL, account, jail, jail_user_in, picture};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch odd_files_change_in_one_line),
    test!(scratch odd_names_go_in_and_out),
    test!(scratch a_name_with_a_dash_first_is_no_account),
    test!(scratch the_first_of_two_lines_is_the_account),
    test!(scratch a_jail_that_is_being_provisioned_is_waited_for),
    test!(scratch root_that_may_not_read_a_home_leaves_it),
    test!(scratch eight_runs_on_one_jail),
];

/// Lines of shell in a mount namespace with an /etc of its own; `$jail` and `$run` (jail-user with a login shell) are there.
fn in_own_etc(jail: &str, setup: &str, lines: &str) -> Output {
    let script = format!(
        "set -e; d=$(mktemp -d); cp -a /etc $d/etc 2>/dev/null || :; rm -f $d/etc/*.lock; mount --bind $d/etc /etc; jail={jail}; old=$d/old; new=$d/new
        run='{} --login-shell {LOGIN_SHELL}'
        {setup}
        set +e
        {lines}",
        product::built("jail-user").display()
    );
    Run::new("unshare").args(["-m", "bash", "-c", &script]).within(Duration::from_secs(120)).run()
}

/// In and out again: what is printed must be exactly this.
const IN_AND_OUT: &str = r#"
    cp -a /etc/passwd $old
    $run -m -j $jail -- "$user" >/dev/null 2>$d/err; echo "in $?"
    cmp -l $old /etc/passwd >/dev/null; cp -a /etc/passwd $new
    python3 - $old $new "$user" <<'PY'
import sys
old, new = (open(p, 'rb').read().split(b'\n') for p in sys.argv[1:3])
name = sys.argv[3].encode('utf-8', 'surrogateescape')
changed = [i for i, (a, b) in enumerate(zip(old, new)) if a != b]
print('lines', len(new) - len(old), 'changed', len(changed), 'its own', all(old[i].lstrip().startswith(name + b':') for i in changed))
PY
    test -d "$jail/home/$home" && echo home
    $run --release -- "$user" >/dev/null 2>>$d/err; echo "out $?"
    cmp $old /etc/passwd && echo same
    cat $d/err | grep -v sshd >&2
"#;

const ALL_WELL: &str = "in 0\nlines 0 changed 1 its own True\nhome\nout 0\nsame";

fn odd_files_change_in_one_line(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let jail = jail.to_str().expect("text");
    for (what, setup) in [
        ("NIS at the end", "printf '+@netgroup::::::\\n-baduser::::::\\n+::::::\\n' >>/etc/passwd; printf '+:::\\n' >>/etc/group"),
        ("comments and blanks", "sed -i '1i# a comment: with: colons\\n\\n   ' /etc/passwd; printf '#%s:x:1:\\n' $user >>/etc/group"),
        ("no final newline", "truncate -s -1 /etc/passwd; truncate -s -1 /etc/group"),
        ("CR LF in other lines", "sed -i '2,5s/$/\\r/' /etc/passwd; sed -i '2,5s/$/\\r/' /etc/group"),
        ("a line of a megabyte", "printf 'longone:x:77777:77777:%s:/nonexistent:/usr/sbin/nologin\\n' $(head -c 1000000 /dev/zero | tr '\\0' x) >>/etc/passwd
            printf 'longgroup:x:77777:%s\\n' $(head -c 1000000 /dev/zero | tr '\\0' y) >>/etc/group"),
        ("malformed lines", "printf 'x\\n:::\\nbad:x:notanumber:1::/:/bin/sh\\n%s\\nmany:x:1:1:a:b:c:d:e\\n' $user >>/etc/passwd"),
        ("bytes of another encoding", "printf 'latin:x:77778:77778:M\\374ller \\000 x:/:/bin/sh\\n' >>/etc/passwd"),
        ("blanks before its line", "sed -i \"s/^$user:/  $user:/\" /etc/passwd"),
        ("an empty group file", ": >/etc/group; : >/etc/gshadow"),
        ("no gshadow", "rm /etc/gshadow"),
        ("another of the same uid", "printf 'twin:x:%s:%s::/nonexistent:/usr/sbin/nologin\\n' $uid $uid >>/etc/passwd"),
    ] {
        let user = account();
        let setup = format!("user={}; home=$user; uid={}; {setup}", user.name, user.uid);
        let said = in_own_etc(jail, &setup, IN_AND_OUT);
        assert_eq!(said.text(), ALL_WELL, "{what}: {}", said.errors());
        assert!(user.home.join(".profile").exists(), "{what}: the home is back");
    }
    Ok(())
}

fn odd_names_go_in_and_out(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let jail = jail.to_str().expect("text");
    for (number, name) in [
        "a-b",
        "a.b",
        "machine$",
        "user@domain.example",
        "d\\303\\244vid",
        "raw\\377name",
        "a b",
        "UPPER",
        "9lives",
    ]
    .iter()
    .enumerate()
    {
        let uid = 2_700_000 + number;
        // printf's escapes make the bytes; no tool of the host would make all of these.
        let setup = format!(
            "user=$(printf '%b' '{name}'); home=$user; mkdir \"/home/$user\"; echo mine >\"/home/$user/mine\"; chown -R {uid}:{uid} \"/home/$user\"
            printf '%s:x:{uid}:{uid}:%s:/home/%s:/bin/bash\\n' \"$user\" gecos \"$user\" >>/etc/passwd; printf 'g{uid}:x:{uid}:\\n' >>/etc/group"
        );
        let lines = format!("{IN_AND_OUT}\ncat \"/home/$user/mine\"; cat $jail/etc/passwd | grep -c {uid}");
        let said = in_own_etc(jail, &setup, &lines);
        assert_eq!(said.text(), format!("{ALL_WELL}\nmine\n0"), "{name}: {}", said.errors());
    }
    Ok(())
}

/// A line of NIS, as glibc has it, and so nobody's name.
fn a_name_with_a_dash_first_is_no_account(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let setup =
        "user=-dash; home=-dash; printf -- '-dash:x:77780:77780::/home/-dash:/bin/bash\\n' >>/etc/passwd";
    let said = in_own_etc(jail.to_str().expect("text"), setup, IN_AND_OUT);
    assert_eq!(said.text(), "in 1\nlines 0 changed 0 its own True\nout 1\nsame", "{}", said.errors());
    assert!(said.errors().contains("there is no user '-dash'"), "{}", said.errors());
    Ok(())
}

/// As glibc takes it. The second is nobody's, and stays as it is.
fn the_first_of_two_lines_is_the_account(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let user = account();
    let setup = format!(
        "user={}; home=$user; printf '%s:x:77779:77779::/nonexistent:/bin/sh\\n' $user >>/etc/passwd",
        user.name
    );
    let lines = format!("{IN_AND_OUT}\ngrep -c \"^$user:x:77779:77779::/nonexistent:/bin/sh$\" $new");
    let said = in_own_etc(jail.to_str().expect("text"), &setup, &lines);
    assert_eq!(said.text(), format!("{ALL_WELL}\n1"), "{}", said.errors());
    Ok(())
}

/// jail-init and jail-update write the jail's account files as well: there is one lock for them and us.
fn a_jail_that_is_being_provisioned_is_waited_for(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let (first, second) = (account(), account());
    jail_user_in(&jail, &[&first.name]).ok();
    let name =
        format!("srv-{}", jail.file_name().expect("name").to_str().expect("text").replace('-', "\\x2d"));
    let lock = std::path::Path::new("/var/lib/jailwright").join(name).join("lock");
    std::fs::write(&lock, "jail-update (pid 1)\n").expect("write");
    let mut holder = Run::new("flock").arg(&lock).args(["sh", "-c", "echo held; exec sleep 3"]).background();
    assert_eq!(holder.first_line(), "held");
    let started = std::time::Instant::now();
    let said = jail_user_in(&jail, &[&second.name]).ok();
    assert!(started.elapsed() > Duration::from_secs(2), "it did not wait: {:?}", started.elapsed());
    assert!(said.errors().contains("waiting for jail-update (pid 1)"), "{}", said.errors());
    assert!(second.line_in(jail.join("etc/passwd").to_str().expect("text")).is_some());
    holder.kill();
    Ok(())
}

/// As on NFS with root_squash: root is nobody there, so it may not read what is the user's alone.
fn root_that_may_not_read_a_home_leaves_it(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let user = account();
    user.sh("chmod 700 .; echo mine >mine; chmod 600 mine").run().ok();
    let (before, line) = (picture(&user.home), user.line_in("/etc/passwd"));
    let squashed = |args: &[&str]| {
        Run::new("setpriv")
            .args(["--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all"])
            .args(["--", "unshare", "-m"])
            .arg(product::built("jail-user"))
            .args(["--login-shell", LOGIN_SHELL])
            .args(args)
            .run()
    };
    let jail_text = jail.to_str().expect("text");
    let said = squashed(&["-m", "-j", jail_text, &user.name]);
    assert_eq!(said.status, 1, "{}", said.errors());
    assert!(
        said.errors().contains("ermission denied") && said.errors().contains(&user.name),
        "{}",
        said.errors()
    );
    assert_eq!((picture(&user.home), user.line_in("/etc/passwd")), (before.clone(), line.clone()));
    assert!(!jail.join("home").join(&user.name).exists());
    // Left where it is, it needs no reading.
    squashed(&["--bind-home", "-j", jail_text, &user.name]).ok();
    squashed(&["--release", &user.name]).ok();
    assert_eq!((picture(&user.home), user.line_in("/etc/passwd")), (before, line));
    Ok(())
}

fn eight_runs_on_one_jail(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let jail_text = jail.to_str().expect("text");
    let users: Vec<_> = (0..8).map(|_| account()).collect();
    let lines: Vec<_> = users.iter().map(|user| user.line_in("/etc/passwd")).collect();
    let all_at_once = |args: &dyn Fn(usize) -> Vec<String>| {
        let mut runs: Vec<_> = (0..8)
            .map(|number| {
                Run::new(product::built("jail-user"))
                    .args(["--login-shell", LOGIN_SHELL])
                    .args(args(number))
                    .background()
            })
            .collect();
        for (number, run) in runs.iter_mut().enumerate() {
            assert_eq!(run.wait(Duration::from_secs(90)), Some(0), "run {number}");
        }
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    // Every run names all of them, and each in another way: one wins an account, the others find it done.
    let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
    all_at_once(&|number| {
        words(&[&["-m", "-j", jail_text][..], &names[number..], &names[..number]].concat())
    });
    for user in &users {
        assert!(user.line_in("/etc/passwd").expect("nobody is lost").ends_with(LOGIN_SHELL));
        assert!(jail.join("home").join(&user.name).join(".profile").exists() && !user.home.exists());
    }
    all_at_once(&|number| words(&["--release", names[number]]));
    for (user, line) in users.iter().zip(lines) {
        assert_eq!(user.line_in("/etc/passwd"), line);
        assert!(user.home.join(".profile").exists());
        assert_eq!(user.line_in(jail.join("etc/passwd").to_str().expect("text")), None);
    }
    wait_until("no lock is left", Duration::from_secs(15), || {
        ["passwd", "group", "gshadow"]
            .iter()
            .all(|file| !std::path::Path::new(&format!("/etc/{file}.lock")).exists())
    });
    Ok(())
}
