//! `seccomp = "strict"`, end to end: a program that needs no C library reads, writes and ends, and can do nothing else.

use std::path::PathBuf;

use jailwright_tests::command::have;
use jailwright_tests::user::Under;
use jailwright_tests::{Done, Run, Scratch, Test, skip, test};

pub(crate) const TESTS: &[Test] = &[test!(scratch a_program_without_a_library_under_strict)];

/// Copies its input to its output, then tries to open a file, to start itself by the pointers that it was started with
/// (found on its stack), and another program by an own one. Its status tells what succeeded.
const PROGRAM: &str = r#"
static long call(long n, long a, long b, long c) {
    long r; __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory"); return r;
}
void go(long *stack) {
    char text[64];
    long n = call(0, 0, (long)text, sizeof text);
    call(1, 1, (long)text, n);
    long status = 0;
    if (call(2, (long)"/etc/passwd", 0, 0) >= 0) status |= 1;
    char *own[] = { "/bin/false", 0 };
    if (call(59, (long)own[0], (long)own, 0) >= 0) status |= 2;
    if (call(41, 2, 1, 0) >= 0) status |= 4;
    if (call(57, 0, 0, 0) >= 0) status |= 8;
    (void)stack;
    call(231, status, 0, 0);
    for (;;) ;
}
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call go\n");
"#;

fn a_program_without_a_library_under_strict(host: &Scratch) -> Done {
    if Under::test() != Under::Ours {
        return skip("the profile is ours");
    }
    if !have("cc") || std::env::consts::ARCH != "x86_64" {
        return skip("a C compiler and x86-64 are needed");
    }
    let user = host.plain_user();
    host.product();
    let dir = PathBuf::from(format!("/srv/{}", host.unique("strict")));
    std::fs::create_dir(&dir).expect("mkdir");
    std::fs::write(dir.join("tiny.c"), PROGRAM).expect("write");
    Run::new("cc")
        .args([
            "-nostdlib",
            "-static",
            "-fno-stack-protector",
            "-fno-pie",
            "-no-pie",
            "-O1",
            "-o",
            "tiny",
            "tiny.c",
        ])
        .dir(&dir)
        .run()
        .ok();
    let tiny = dir.join("tiny");
    let run = |flags: &[&str]| {
        user.outside("/usr/local/bin/jail-run")
            .args(["basicshell", "--with"])
            .arg(&tiny)
            .args(flags)
            .arg("--")
            .arg(&tiny)
            .env("HOME", &user.home)
            .without_env("XDG_CACHE_HOME")
            .dir("/")
            .input("words")
            .run()
    };
    let control = run(&["--seccomp", "off"]);
    assert_eq!(control.text(), "words", "{}", control.errors());
    assert_ne!(control.status, 0, "the control: without a profile it opens files and starts programs");
    let strict = run(&["--seccomp", "strict"]);
    assert_eq!((strict.status, strict.text().as_str()), (0, "words"), "{}", strict.errors());
    // A shell has no use for such a life: its loader may not even map a library.
    let shell = user
        .outside("/usr/local/bin/jail-run")
        .args(["basicshell", "--seccomp", "strict", "--", "/bin/sh", "-c", "echo lives"])
        .env("HOME", &user.home)
        .dir("/")
        .run();
    assert!(shell.status != 0 && shell.text().is_empty(), "{shell:?}");
    Ok(())
}
