//! The home of a login in a machine: the user's own, writable, lasting, and no way to anything else.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use jailwright_tests::{Done, Run, Scratch, Test, test};

use crate::{PATIENCE, in_machines};

pub(crate) const TESTS: &[Test] = &[
    test!(scratch what_is_written_lasts),
    test!(scratch what_a_file_system_is_expected_to_do),
    test!(scratch a_full_home_says_so),
    test!(scratch links_lead_nowhere),
];

fn what_is_written_lasts(host: &Scratch) -> Done {
    let user = in_machines(host)?;
    user.writes("from-host", "host\n");
    let out = user
        .ssh("cat from-host; umask 027; echo guest >from-guest; mkdir -p a/b; printf x >'a/b/odd\n name'; ls -ld ~ from-host")
        .within(PATIENCE)
        .run()
        .ok();
    assert!(out.text().starts_with("host\n"), "{}", out.text());
    assert_eq!(out.text().matches(&user.name).count(), 5, "owner and group are the user's: {}", out.text());
    let meta = std::fs::metadata(user.home.join("from-guest")).expect("lasts");
    assert_eq!((meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777), (user.uid, user.uid, 0o640));
    assert_eq!(std::fs::read(user.home.join("a/b/odd\n name")).expect("lasts"), b"x");
    // Two machines at once, one home: what one writes the other reads.
    let mut one = user.sshd().client("ssh").arg(user.at_host());
    one = one.arg("echo ready; until [ -e ready-two ]; do sleep 0.2; done; cat ready-two");
    let one = std::thread::scope(|scope| {
        let first = scope.spawn(|| one.within(PATIENCE).run());
        user.ssh("cat from-guest; echo two >.two && mv .two ready-two").within(PATIENCE).run().ok();
        first.join().expect("ran")
    });
    assert_eq!(one.text(), "ready\ntwo");
    user.wait_for_the_end();
    Ok(())
}

/// Each line is one thing that programs rely on.
fn what_a_file_system_is_expected_to_do(host: &Scratch) -> Done {
    let user = in_machines(host)?;
    let script = r#"
        set -e; cd; is() { [ "$2" = "$3" ] && echo "ok $1" || echo "WRONG $1: '$2' is not '$3'"; }
        exec 3>gone; rm gone; echo text >&3; is unlinked "$(stat -Lc '%s %h' /proc/self/fd/3)" "5 0"; exec 3>&-
        echo one >f; echo two >>f; is append "$(cat f)" "$(printf 'one\ntwo')"
        ln f g; is links "$(stat -c %h f)" 2; echo three >>g; is "one file" "$(tail -n 1 f)" three
        mv f h; is renamed "$(cat h)" "$(cat g)"; ln -s nowhere l; is link "$(readlink l)" nowhere
        chmod 4751 h; is mode "$(stat -c %a h)" 4751; touch -d @1000000000.123456789 h; is time "$(stat -c %.9Y h)" 1000000000.123456789
        truncate -s 1M big; is size "$(stat -c %s big)" 1048576; is sparse "$(stat -c %b big)" 0
        mkdir d; for i in $(seq 500); do : >d/a-name-of-some-length-$i; done; is many "$(ls d | wc -l)" 500
        rm -r d; is removed "$(ls -d d 2>/dev/null || echo none)" none
        cp /bin/true prog; ./prog; is executed $? 0
        mkdir -p x/y/z; mv x/y w; is "moved with what is in it" "$(ls w)" z; rmdir w/z w x
        echo '#!/bin/sh' >s; echo 'echo script' >>s; chmod +x s; is script "$(./s)" script
        head -c 5M /dev/urandom >r; is copied "$(md5sum <r)" "$(cp r r2; md5sum <r2)"
        ln -s "$(printf '%0200d' 1)" long; is "long link" "$(readlink long)" "$(printf '%0200d' 1)"
        n=$(printf '%0255d' 1); : >$n; is "long name" "$(ls $n)" $n; (: >${n}1) 2>/dev/null || echo "ok too long"
        mkdir sticky; chmod 700 sticky; chmod 000 h; (cat h) 2>/dev/null || echo "ok not readable"
        chown 0 g 2>/dev/null || echo "ok not given away"
    "#;
    let out = user.ssh(script).within(PATIENCE).run();
    assert!(!out.text().contains("WRONG") && out.status == 0, "{}{}", out.text(), out.errors());
    assert_eq!(
        out.text().lines().filter(|line| line.starts_with("ok ")).count(),
        21,
        "{}{}",
        out.text(),
        out.errors()
    );
    user.wait_for_the_end();
    Ok(())
}

fn a_full_home_says_so(host: &Scratch) -> Done {
    let user = in_machines(host)?;
    // A disk of its own for this home, with its key in it.
    let keys = std::fs::read(user.home.join(".ssh/authorized_keys")).expect("keys");
    let options = format!("size=4m,uid={0},gid={0},mode=755", user.uid);
    Run::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&user.home).run().ok();
    std::fs::create_dir(user.home.join(".ssh")).expect("mkdir");
    user.owns(&user.home.join(".ssh"));
    user.writes(".ssh/authorized_keys", keys);
    let script = "head -c 8M /dev/zero >big; echo \"status $?\"; rm big; echo fits >small && cat small";
    let out = user.ssh(script).within(PATIENCE).run();
    user.wait_for_the_end();
    let small = std::fs::read_to_string(user.home.join("small"));
    Run::new("umount").arg(&user.home).run().ok();
    assert!(out.errors().contains("No space left on device"), "{}{}", out.text(), out.errors());
    assert_eq!(out.text(), "status 1\nfits", "{}", out.errors());
    assert_eq!(small.expect("there"), "fits\n");
    Ok(())
}

/// Links that lead out of the home lead to the guest's own files, or nowhere: never to the host's.
fn links_lead_nowhere(host: &Scratch) -> Done {
    let user = in_machines(host)?;
    let secret = format!("/srv/{}", host.unique("secret"));
    std::fs::write(&secret, "host's\n").expect("write");
    for (name, to) in [
        ("out", secret.as_str()),
        ("up", "../../../../../../etc/shadow"),
        ("proc", "/proc/1/root/etc/hostname"),
    ] {
        std::os::unix::fs::symlink(to, user.home.join(name)).expect("link");
    }
    let out = user
        .ssh("cat out; cat up; cat proc; echo mine >out; ls -la | grep -c -- '->'")
        .within(PATIENCE)
        .run();
    assert_eq!(out.text(), "3", "{}", out.errors());
    assert_eq!(std::fs::read_to_string(&secret).expect("there"), "host's\n");
    let name = std::ffi::OsStr::from_bytes(b"\xff\xfe\x1b[31m");
    user.ssh("printf x >\"$(printf '\\377\\376\\033[31m')\"").within(PATIENCE).run().ok();
    assert_eq!(std::fs::read(user.home.join(name)).expect("there"), b"x");
    user.wait_for_the_end();
    Ok(())
}
