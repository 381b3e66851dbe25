//! The loader's traps, each as a real program: compiled here, resolved, put into a tree made from the answer, started.

mod support;

use std::path::Path;
use std::process::Command;

use jail_provision::resolve::NeedKind;
use support::*;

const OLD_TAGS: &str = "-Wl,--disable-new-dtags";
const NEW_TAGS: &str = "-Wl,--enable-new-dtags";

fn rpath(dir: &str) -> String {
    format!("-Wl,-rpath,{dir}")
}

#[test]
fn a_rpath_of_the_program_serves_the_dependency_of_a_dependency() {
    let b = Bench::new();
    b.lib("lib/libinner.so", &[], &[]);
    b.lib("lib/libouter.so", &["lib/libinner.so"], &[]);
    let program = b.program("bin/a", &["lib/libouter.so"], &[OLD_TAGS, &rpath(&b.text("lib"))]);
    let found = starts_in_a_jail_made_from_the_answer(&program);
    assert_eq!(found_as(&found, "libinner.so"), b.path("lib/libinner.so"));
    let inner = b.path("lib/libinner.so");
    let chain: Vec<_> = found.chain(&inner).iter().map(|p| p.to_path_buf()).collect();
    assert_eq!(chain, [inner, b.path("lib/libouter.so"), program]);
}

#[test]
fn a2_rpath_of_a_library_in_between_is_inherited_too() {
    let b = Bench::new();
    b.lib("deep/libinnermost.so", &[], &[]);
    b.lib("lib/libinner.so", &["deep/libinnermost.so"], &[]);
    let both = format!("{}:{}", b.text("lib"), b.text("deep"));
    b.lib("lib/libouter.so", &["lib/libinner.so"], &[OLD_TAGS, &rpath(&both)]);
    let program = b.program("bin/a", &["lib/libouter.so"], &[NEW_TAGS, &rpath(&b.text("lib"))]);
    starts_in_a_jail_made_from_the_answer(&program);
}

#[test]
fn b_runpath_is_not_inherited() {
    let b = Bench::new();
    b.lib("lib/libinner.so", &[], &[]);
    let outer = b.lib("lib/libouter.so", &["lib/libinner.so"], &[]);
    let program = b.program("bin/b", &["lib/libouter.so"], &[NEW_TAGS, &rpath(&b.text("lib"))]);
    refused_by_loader_and_resolver(&program, "libinner.so", &outer);
}

#[test]
fn b2_an_asker_with_runpath_looks_at_no_rpath_at_all() {
    let b = Bench::new();
    b.dir("empty");
    b.lib("lib/libinner.so", &[], &[]);
    let outer = b.lib("lib/libouter.so", &["lib/libinner.so"], &[NEW_TAGS, &rpath(&b.text("empty"))]);
    let program = b.program("bin/b", &["lib/libouter.so"], &[OLD_TAGS, &rpath(&b.text("lib"))]);
    refused_by_loader_and_resolver(&program, "libinner.so", &outer);
}

#[test]
fn b3_an_ancestor_with_runpath_is_skipped_the_program_is_not() {
    let b = Bench::new();
    b.dir("empty");
    b.lib("deep/libinnermost.so", &[], &[]);
    b.lib("lib/libinner.so", &["deep/libinnermost.so"], &[]);
    b.lib("lib/libouter.so", &["lib/libinner.so"], &[NEW_TAGS, &rpath(&b.text("lib"))]);
    let both = format!("{}:{}", b.text("lib"), b.text("deep"));
    let program = b.program("bin/b", &["lib/libouter.so"], &[OLD_TAGS, &rpath(&both)]);
    starts_in_a_jail_made_from_the_answer(&program);
}

#[test]
fn c_hwcaps_variants_are_named_beside_the_base() {
    let b = Bench::new();
    b.lib("lib/libcap.so", &[], &[]);
    b.lib("lib/libonlyv2.so", &[], &[]);
    b.lib("lib/glibc-hwcaps/x86-64-v2/libcap.so", &["lib/libonlyv2.so"], &[NEW_TAGS, &rpath(&b.text("lib"))]);
    let program = b.program("bin/c", &["lib/libcap.so"], &[NEW_TAGS, &rpath(&b.text("lib"))]);
    let found = needs(&program).expect("all there");
    assert_eq!(found_as(&found, "libcap.so"), b.path("lib/libcap.so"));
    let variants: Vec<_> = found.needs.iter().filter(|n| n.kind == NeedKind::HwcapsVariant).collect();
    let paths: Vec<_> = variants.iter().map(|n| n.path.to_path_buf()).collect();
    assert_eq!(paths, [b.path("lib/glibc-hwcaps/x86-64-v2/libcap.so"), b.path("lib/libonlyv2.so")]);
    if can_start() {
        for keep_variants in [true, false] {
            let tree = assemble(&found, |n| keep_variants || !n.kind.is_optional());
            assert!(says_ok(&start_in(tree.path(), &program)), "with variants: {keep_variants}");
        }
    }
}

#[test]
fn d_origin_and_lib_tokens() {
    let b = Bench::new();
    let Some(lib) = lib_token() else { return };
    b.lib(&format!("{lib}/libtok.so"), &[], &[]);
    let use_it = format!("{lib}/libtok.so");
    let program = b.program("bin/d", &[&use_it], &[NEW_TAGS, "-Wl,-rpath,$ORIGIN/../$LIB"]);
    let found = starts_in_a_jail_made_from_the_answer(&program);
    assert!(found_as(&found, "libtok.so").ends_with(format!("../{lib}/libtok.so")));
}

/// What this machine's loader has for `$LIB`: its first own directory, less the slash.
fn lib_token() -> Option<String> {
    let dir =
        ["lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu"].iter().find(|d| Path::new("/").join(d).exists());
    if dir.is_none() {
        eprintln!("skipped: unknown $LIB of this machine");
    }
    dir.map(ToString::to_string)
}

#[test]
fn e_a_soname_already_loaded_is_not_searched_again() {
    let b = Bench::new();
    b.lib("hidden/libshared.so", &[], &[]);
    b.lib("lib/libfirst.so", &["hidden/libshared.so"], &[NEW_TAGS, &rpath(&b.text("hidden"))]);
    b.lib("lib/libsecond.so", &["hidden/libshared.so"], &[]);
    let flags = [NEW_TAGS, &rpath(&b.text("lib"))];
    let program = b.program("bin/e", &["lib/libfirst.so", "lib/libsecond.so"], &flags);
    starts_in_a_jail_made_from_the_answer(&program);
    // The other way round nobody has loaded it when libsecond asks.
    let second = b.path("lib/libsecond.so");
    let program = b.program("bin/e2", &["lib/libsecond.so", "lib/libfirst.so"], &flags);
    refused_by_loader_and_resolver(&program, "libshared.so", &second);
}

#[test]
fn e2_a_library_loaded_by_path_serves_its_soname() {
    if !have("patchelf") {
        return;
    }
    let b = Bench::new();
    b.lib("lib/libreal.so.1", &[], &["-Wl,-soname,libreal.so.1"]);
    b.copy("lib/libreal.so.1", "odd/libodd-name.so");
    b.lib("lib/libuser.so", &["lib/libreal.so.1"], &[]);
    let program =
        b.program("bin/e", &["lib/libreal.so.1", "lib/libuser.so"], &[NEW_TAGS, &rpath(&b.text("lib"))]);
    let odd = b.text("odd/libodd-name.so");
    b.cc("patchelf", &["--replace-needed", "libreal.so.1", &odd, &b.text("bin/e")]);
    let found = starts_in_a_jail_made_from_the_answer(&program);
    assert!(found.needs.iter().all(|n| *n.path != *b.path("lib/libreal.so.1")));
}

#[test]
fn f_needed_with_a_slash_is_a_path() {
    let b = Bench::new();
    b.lib("odd/libslash.so", &[], &["-Wl,-soname,"]);
    let odd = b.text("odd/libslash.so");
    let program = b.program("bin/f", &["odd/libslash.so"], &[]);
    let found = survey(&program);
    assert!(found.needs.iter().any(|n| &*n.soname == odd.as_bytes()), "{found:#?}");
    starts_in_a_jail_made_from_the_answer(&program);
}

#[test]
fn f2_a_relative_path_as_needed_is_refused_by_name() {
    if !have("patchelf") {
        return;
    }
    let b = Bench::new();
    b.lib("odd/libslash.so", &[], &[]);
    let program = b.program("bin/f", &["odd/libslash.so"], &[]);
    b.cc("patchelf", &["--replace-needed", "libslash.so", "odd/libslash.so", &b.text("bin/f")]);
    let error = refused_by_loader_and_resolver(&program, "odd/libslash.so", &program);
    assert!(error.contains("relative"), "{error}");
}

#[test]
fn f3_origin_in_needed() {
    if !have("patchelf") {
        return;
    }
    let b = Bench::new();
    b.lib("odd/libslash.so", &[], &[]);
    let program = b.program("bin/f", &["odd/libslash.so"], &[]);
    b.cc("patchelf", &["--replace-needed", "libslash.so", "$ORIGIN/../odd/libslash.so", &b.text("bin/f")]);
    starts_in_a_jail_made_from_the_answer(&program);
}

#[test]
fn g_a_musl_program_on_a_glibc_host() {
    if !have("musl-gcc") {
        return;
    }
    let b = Bench::new();
    let plain = b.program_with("musl-gcc", "bin/plain", &[], &[]);
    let found = starts_in_a_jail_made_from_the_answer(&plain);
    assert_eq!(found.needs.len(), 1, "musl's loader is its libc: {found:#?}");
    assert_eq!(found.needs[0].kind, NeedKind::Interpreter);

    // musl hands RUNPATH down, which glibc does not.
    b.lib_with("musl-gcc", "lib/libinner.so", &[], &["-nostdlib"]);
    b.lib_with("musl-gcc", "lib/libouter.so", &["lib/libinner.so"], &["-nostdlib"]);
    let program =
        b.program_with("musl-gcc", "bin/g", &["lib/libouter.so"], &[NEW_TAGS, &rpath(&b.text("lib"))]);
    starts_in_a_jail_made_from_the_answer(&program);

    // It takes the first file it can open, whatever is in it.
    b.write("first/libouter.so", 0o755, b"no library");
    let both = format!("{}:{}", b.text("first"), b.text("lib"));
    let program = b.program_with("musl-gcc", "bin/g2", &["lib/libouter.so"], &[NEW_TAGS, &rpath(&both)]);
    refused_by_loader_and_resolver(&program, "libouter.so", &program);
}

#[test]
fn h_a_broken_file_of_the_right_name_stops_the_search() {
    let b = Bench::new();
    b.lib("lib/libgood.so", &[], &[]);
    let both = format!("{}:{}", b.text("first"), b.text("lib"));
    let program = b.program("bin/h", &["lib/libgood.so"], &[NEW_TAGS, &rpath(&both)]);
    for junk in
        [&b"no library at all, but long enough to be one: 0123456789012345678901234567"[..], b"short", b""]
    {
        b.write("first/libgood.so", 0o755, junk);
        let error = refused_by_loader_and_resolver(&program, "libgood.so", &program);
        assert!(error.contains(&b.text("first/libgood.so")), "{error}");
    }
}

#[test]
fn h2_a_truncated_library_stops_the_search() {
    let b = Bench::new();
    b.lib("lib/libgood.so", &[], &[]);
    let both = format!("{}:{}", b.text("first"), b.text("lib"));
    let program = b.program("bin/h", &["lib/libgood.so"], &[NEW_TAGS, &rpath(&both)]);
    let whole = std::fs::read(b.path("lib/libgood.so")).expect("read");
    b.write("first/libgood.so", 0o755, &whole[..100]);
    refused_by_loader_and_resolver(&program, "libgood.so", &program);
}

#[test]
fn h3_another_class_or_machine_is_passed_over() {
    let b = Bench::new();
    b.lib("lib/libgood.so", &[], &[]);
    b.copy("lib/libgood.so", "first/libgood.so");
    let both = format!("{}:{}", b.text("first"), b.text("lib"));
    let program = b.program("bin/h", &["lib/libgood.so"], &[NEW_TAGS, &rpath(&both)]);
    b.patch("first/libgood.so", 18, &[0xf3, 0]); // e_machine: RISC-V
    let found = starts_in_a_jail_made_from_the_answer(&program);
    assert_eq!(found_as(&found, "libgood.so"), b.path("lib/libgood.so"));
    b.copy("lib/libgood.so", "first/libgood.so");
    b.patch("first/libgood.so", 4, &[1]); // EI_CLASS: 32-bit
    let found = starts_in_a_jail_made_from_the_answer(&program);
    assert_eq!(found_as(&found, "libgood.so"), b.path("lib/libgood.so"));
}

#[test]
fn platform_token() {
    let b = Bench::new();
    for platform in ["x86_64", "haswell", "xeon_phi", "aarch64"] {
        b.lib(&format!("lib/{platform}/libplat.so"), &[], &[]);
    }
    let program =
        b.program("bin/p", &["lib/x86_64/libplat.so"], &[NEW_TAGS, "-Wl,-rpath,$ORIGIN/../lib/${PLATFORM}"]);
    let found = needs(&program).expect("all there");
    // Which of them this processor gets is not for us to know: the jail may move to another one.
    let copies = found.needs.iter().filter(|n| &*n.soname == b"libplat.so").count();
    assert_eq!(copies, if cfg!(target_arch = "x86_64") { 3 } else { 1 }, "{found:#?}");
    if can_start() {
        let tree = assemble(&found, |_| true);
        let start = if found.uses_proc { start_in_with_proc } else { start_in };
        assert!(says_ok(&start(tree.path(), &program)), "{found:#?}");
    }
}

#[test]
fn nodeflib_shuts_the_default_directories() {
    let b = Bench::new();
    let shut = "-Wl,-z,nodefaultlib";
    let program = b.program("bin/shut", &[], &[shut]);
    refused_by_loader_and_resolver(&program, "libc.so.6", &program);
    // With the directory named, the program finds it; what libc itself asks for is not shut.
    let libc = found_as(&survey(&b.program("bin/open", &[], &[])), "libc.so.6");
    let dir = libc.parent().and_then(Path::to_str).expect("a directory").to_string();
    let program = b.program("bin/named", &[], &[shut, NEW_TAGS, &rpath(&dir)]);
    starts_in_a_jail_made_from_the_answer(&program);
}

#[test]
fn origin_of_a_library_is_the_path_it_was_opened_by() {
    let b = Bench::new();
    b.lib("alias/libnext.so", &[], &[]);
    b.lib("real/libhere.so", &["alias/libnext.so"], &[NEW_TAGS, "-Wl,-rpath,$ORIGIN"]);
    b.link("alias/libhere.so", "../real/libhere.so");
    let program = b.program("bin/o", &["real/libhere.so"], &[NEW_TAGS, &rpath(&b.text("alias"))]);
    let found = starts_in_a_jail_made_from_the_answer(&program);
    assert_eq!(found_as(&found, "libnext.so"), b.path("alias/libnext.so"));
}

#[test]
fn origin_of_the_program_is_its_real_place() {
    let b = Bench::new();
    b.lib("app/lib/libhere.so", &[], &[]);
    b.program("app/bin/o", &["app/lib/libhere.so"], &[NEW_TAGS, "-Wl,-rpath,$ORIGIN/../lib"]);
    let link = b.link("bin/o", "../app/bin/o");
    starts_in_a_jail_made_from_the_answer(&link);
}

#[test]
fn a_library_reached_by_two_names_is_one() {
    if !have("patchelf") {
        return;
    }
    let b = Bench::new();
    b.lib("lib/libone.so.1", &[], &[]);
    b.link("lib/libalso.so.1", "libone.so.1");
    b.lib("lib/libuser.so", &["lib/libone.so.1"], &[]);
    let program =
        b.program("bin/two", &["lib/libuser.so", "lib/libone.so.1"], &[OLD_TAGS, &rpath(&b.text("lib"))]);
    b.cc("patchelf", &["--replace-needed", "libone.so.1", "libalso.so.1", &b.text("bin/two")]);
    let found = needs(&program).expect("all there");
    if can_start() {
        let tree = assemble(&found, |_| true);
        let output = start_in(tree.path(), &program);
        assert!(says_ok(&output), "{output:?} {found:#?}");
    }
}

#[test]
fn filters_are_loaded_auxiliaries_if_there() {
    let b = Bench::new();
    b.lib("lib/libtarget.so", &[], &[]);
    b.lib("lib/libfilter.so", &[], &["-Wl,-F,libtarget.so", NEW_TAGS, &rpath(&b.text("lib"))]);
    b.lib("lib/libaux.so", &[], &["-Wl,-f,libnowhere.so", NEW_TAGS, &rpath(&b.text("lib"))]);
    let flags = [NEW_TAGS, &rpath(&b.text("lib"))];
    let program = b.program("bin/filter", &["lib/libfilter.so", "lib/libaux.so"], &flags);
    let found = starts_in_a_jail_made_from_the_answer(&program);
    assert_eq!(found_as(&found, "libtarget.so"), b.path("lib/libtarget.so"));
    assert!(found.absent.iter().any(|u| &*u.name == b"libnowhere.so"), "{:?}", found.absent);
}

#[test]
fn names_that_are_no_utf8() {
    let b = Bench::new();
    b.lib("lib/libodd.so", &[], &["-Wl,-soname,libodd.so"]);
    let program = b.program("bin/odd", &["lib/libodd.so"], &[NEW_TAGS, &rpath(&b.text("lib"))]);
    // The same length, so the string tables stay as they are.
    for file in ["lib/libodd.so", "bin/odd"] {
        let mut bytes = std::fs::read(b.path(file)).expect("read");
        let at = bytes.windows(10).position(|w| w == b"libodd.so\0").expect("the soname");
        bytes[at + 3] = 0xff;
        std::fs::write(b.path(file), bytes).expect("write");
    }
    std::fs::rename(b.path("lib/libodd.so"), b.path("lib").join(os(b"lib\xffdd.so"))).expect("rename");
    starts_in_a_jail_made_from_the_answer(&program);
}

#[test]
fn static_programs_need_nothing() {
    let b = Bench::new();
    for (name, flag) in [("bin/static", "-static"), ("bin/pie", "-static-pie")] {
        let program = b.program(name, &[], &[flag]);
        let found = starts_in_a_jail_made_from_the_answer(&program);
        assert!(found.needs.is_empty(), "{found:#?}");
    }
}

#[test]
fn a_missing_loader_is_named() {
    let b = Bench::new();
    let program = b.program("bin/lost", &[], &["-Wl,--dynamic-linker=/nowhere/ld.so"]);
    let error = refused_by_loader_and_resolver(&program, "/nowhere/ld.so", &program);
    assert!(error.contains("loader"), "{error}");
}

#[test]
fn scripts_and_chains_of_scripts() {
    let b = Bench::new();
    let first = b.program("bin/tool", &[], &[]);
    let tool = first.to_str().expect("a plain path").to_string();
    let one = b.write("bin/one", 0o755, format!("#!{tool} -x\n").as_bytes());
    let two = b.write("bin/two", 0o755, format!("#! {}\n", one.display()).as_bytes());
    let three = b.write("bin/three", 0o755, format!("#!{}\n", two.display()).as_bytes());
    let found = starts_in_a_jail_made_from_the_answer(&three);
    let scripts: Vec<_> = found.needs.iter().filter(|n| n.kind == NeedKind::ScriptInterpreter).collect();
    assert_eq!(scripts.len(), 3, "{found:#?}");
    let chain: Vec<_> = found.chain(&first).iter().map(|p| p.to_path_buf()).collect();
    assert_eq!(chain, [first, one, two, three.clone()]);

    let mut last = three;
    for depth in 4..=8 {
        last = b.write(&format!("bin/s{depth}"), 0o755, format!("#!{}\n", last.display()).as_bytes());
        let starts = Command::new(&last).env_clear().output().is_ok_and(|o| says_ok(&o));
        assert_eq!(needs(&last).is_ok(), starts, "a chain of {depth} scripts");
    }
}

#[test]
fn env_in_a_script() {
    let b = Bench::new();
    let shell = b.write("bin/env", 0o755, b"#!/usr/bin/env sh\necho ok\n");
    starts_in_a_jail_made_from_the_answer(&shell);
    let split = b.write("bin/split", 0o755, b"#!/usr/bin/env -S -i PATH=/usr/bin:/bin sh -e\necho ok\n");
    starts_in_a_jail_made_from_the_answer(&split);
    let lost = b.write("bin/lost", 0o755, b"#!/usr/bin/env no-such-program-here\n");
    let error = refused_by_loader_and_resolver(&lost, "no-such-program-here", &lost);
    assert!(error.contains("/usr/bin"), "{error}");
    let lost = b.write("bin/lost2", 0o755, b"#!/no/such/interpreter\n");
    refused_by_loader_and_resolver(&lost, "/no/such/interpreter", &lost);
}

#[test]
fn dlopen_notes_are_optional_needs() {
    let b = Bench::new();
    b.lib("lib/libdeep.so", &[], &[]);
    b.lib("lib/libmaybe.so", &["lib/libdeep.so"], &[NEW_TAGS, &rpath(&b.text("lib"))]);
    let json = r#"[{"feature":"x","description":"y","priority":"suggested","soname":["libmaybe.so","libnever.so"]}]"#;
    let json = b.write("src/note.json", 0o644, json.as_bytes());
    let source = r#"#include <dlfcn.h>
#include <stdio.h>
__asm__(".pushsection .note.dlopen, \"a\", @note\n.balign 4\n.long 4, 2f-1f, 0x407c0c0a\n.asciz \"FDO\"\n"
        "1: .incbin \"JSON\"\n.byte 0\n2: .balign 4\n.popsection\n");
int main(void) { puts(dlopen("libmaybe.so", RTLD_NOW) ? "ok" : "without"); return 0; }"#;
    let source = source.replace("JSON", json.to_str().expect("plain"));
    let file = b.write("src/note.c", 0o644, source.as_bytes());
    let program = b.path("bin/note");
    b.dir("bin");
    let flags = ["-o", program.to_str().expect("plain"), file.to_str().expect("plain"), NEW_TAGS];
    b.cc("gcc", &[&flags[..], &[&rpath(&b.text("lib"))]].concat());
    let found = needs(&program).expect("all there");
    let optional: Vec<_> = found.needs.iter().filter(|n| n.kind == NeedKind::OptionalDlopen).collect();
    let paths: Vec<_> = optional.iter().map(|n| n.path.to_path_buf()).collect();
    assert_eq!(paths, [b.path("lib/libmaybe.so"), b.path("lib/libdeep.so")]);
    assert!(found.absent.iter().any(|u| &*u.name == b"libnever.so"), "{:?}", found.absent);
    if can_start() {
        let tree = assemble(&found, |_| true);
        assert_eq!(start_in(tree.path(), &program).stdout, b"ok\n");
        let tree = assemble(&found, |n| !n.kind.is_optional());
        assert_eq!(start_in(tree.path(), &program).stdout, b"without\n");
    }
}

#[test]
fn a_32_bit_program() {
    let b = Bench::new();
    let source = b.write("src/empty.c", 0o644, b"int main(void) { return 0; }");
    let arguments = ["-m32", "-o", &b.text("probe"), source.to_str().expect("plain")];
    let can = Command::new("gcc").args(arguments).output().is_ok_and(|o| o.status.success());
    if !can {
        eprintln!("skipped: gcc -m32 cannot link here (gcc-multilib is not installed)");
        return;
    }
    b.lib("lib/libnarrow.so", &[], &["-m32"]);
    let program = b.program("bin/narrow", &["lib/libnarrow.so"], &["-m32", NEW_TAGS, &rpath(&b.text("lib"))]);
    starts_in_a_jail_made_from_the_answer(&program);
}
