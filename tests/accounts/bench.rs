//! Ten thousand accounts are one read and one write of each file.

use std::fmt::Write;
use std::time::{Duration, Instant};

use jailwright_tests::{Done, Run, Scratch, Test, product, test};

use crate::setting::{LOGIN_SHELL, jail};

pub(crate) const TESTS: &[Test] = &[test!(scratch ten_thousand_accounts)];

const MANY: u32 = 10_000;

fn ten_thousand_accounts(scratch: &Scratch) -> Done {
    let jail = jail(scratch, "/srv");
    let dir = format!("/tmp/{}", scratch.unique("many"));
    std::fs::create_dir(&dir).expect("mkdir");
    let (mut passwd, mut names) = (std::fs::read_to_string("/etc/passwd").expect("read"), String::new());
    for number in 0..MANY {
        let id = 3_000_000 + number;
        writeln!(passwd, "many{number}:x:{id}:{id}:number {number}:/home/many{number}:/bin/bash")
            .expect("write");
        writeln!(names, "many{number}").expect("write");
    }
    std::fs::write(format!("{dir}/passwd"), passwd).expect("write");
    std::fs::write(format!("{dir}/names"), names).expect("write");
    let command =
        |args: &str| format!("{} --login-shell {LOGIN_SHELL} {args}", product::built("jail-user").display());
    let script = format!(
        "set -e; cp -a /etc {dir}/etc; mount --bind {dir}/etc /etc; mkdir {dir}/state; mount --bind {dir}/state /var/lib/jailwright
        cat {dir}/passwd >/etc/passwd
        strace -f --seccomp-bpf -o {dir}/trace -e trace=openat,renameat {}
        grep -c '^many.*:{LOGIN_SHELL}$' /etc/passwd; wc -l <{jail}/etc/passwd
        {}; {}
        cmp {dir}/passwd /etc/passwd; grep -c many {jail}/etc/passwd || :",
        command(&format!("-j {} --from {dir}/names", jail.display())),
        command(&format!("-j {} --from {dir}/names --json >{dir}/again", jail.display())),
        command(&format!("--release --from {dir}/names")),
        jail = jail.display(),
    );
    let started = Instant::now();
    let said = Run::new("unshare").args(["-m", "sh", "-c", &script]).within(Duration::from_secs(230)).run();
    assert_eq!(said.text(), format!("{MANY}\n{}\n0", MANY + 1), "{}", said.errors());
    let trace = std::fs::read_to_string(format!("{dir}/trace")).expect("read");
    let count = |what: &str| trace.lines().filter(|line| line.contains(what)).count();
    for (file, reads) in [("passwd", 3), ("group", 3)] {
        let renamed = count(&format!(", \"{file}\")")) - count(&format!("\"{file}-\")"));
        assert!(renamed <= 2, "{file} of host and jail, once each: {renamed}");
        let opened = trace.lines().filter(|line| line.contains(&format!("\"{file}\", O_RDONLY"))).count();
        assert!(opened <= reads + 2, "{file} was opened {opened} times");
    }
    let again = std::fs::read_to_string(format!("{dir}/again")).expect("read");
    assert!(again.starts_with("{\"changed\":false"), "a second run changes nothing");
    println!(
        "{MANY} accounts in, checked again and out: {:.1} s (the first under strace)",
        started.elapsed().as_secs_f32()
    );
    Ok(())
}
