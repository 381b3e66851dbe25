//! Files made to harm their reader: cut, oversized, overlapping, pointing at themselves. The answer may be anything
//! but a panic, a long wait or a large memory.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use jail_provision::elf::{ElfError, Head};
use jail_provision::host::{HostFile, MemHost, RealHost};
use jail_provision::resolve::{ResolveError, Resolver};

#[path = "../../../fuzz/bodies.rs"]
mod bodies;

/// A file that counts what is read of it.
struct Counted<'a> {
    bytes: &'a [u8],
    reads: Cell<usize>,
    volume: Cell<usize>,
}

impl HostFile for Counted<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.reads.set(self.reads.get() + 1);
        self.volume.set(self.volume.get() + buf.len());
        self.bytes.read_at(buf, offset)
    }
}

/// The same numbers each run; a failing case prints its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// A small but whole 64-bit program: header, four segments, a dynamic section, its strings.
fn small_elf(machine: u16, interpreter: &str, dynamic: &[(u64, &str)]) -> Vec<u8> {
    let mut strings = vec![0];
    let mut entries = Vec::new();
    for (tag, text) in dynamic {
        entries.push((*tag, strings.len() as u64));
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
    }
    let interp_at = 64 + 4 * 56;
    let interp_len = interpreter.len() + 1;
    let strings_at = interp_at + interp_len;
    let dynamic_at = (strings_at + strings.len()).next_multiple_of(8);
    entries.push((5, strings_at as u64)); // DT_STRTAB
    entries.push((10, strings.len() as u64)); // DT_STRSZ
    entries.push((0, 0));
    let end = dynamic_at + entries.len() * 16;

    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    out.extend([3u16, machine].iter().flat_map(|h| h.to_le_bytes()));
    out.extend(1u32.to_le_bytes());
    out.extend([0u64, 64, 0].iter().flat_map(|w| w.to_le_bytes()));
    out.extend(0u32.to_le_bytes());
    out.extend([64u16, 56, 4, 64, 0, 0].iter().flat_map(|h| h.to_le_bytes()));
    let segments = [
        (1u32, 0, end),                      // PT_LOAD
        (3, interp_at, interp_len),          // PT_INTERP
        (2, dynamic_at, entries.len() * 16), // PT_DYNAMIC
        (4, interp_at, interp_len),          // PT_NOTE over other bytes
    ];
    for (kind, at, len) in segments {
        out.extend([kind, 4].iter().flat_map(|w| w.to_le_bytes()));
        let words = [at, at, at, len, len, 8].map(|w| w as u64);
        out.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    }
    out.extend_from_slice(interpreter.as_bytes());
    out.push(0);
    out.extend_from_slice(&strings);
    out.resize(dynamic_at, 0);
    out.extend(entries.iter().flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat()));
    out
}

fn x86(dynamic: &[(u64, &str)]) -> Vec<u8> {
    small_elf(62, "/lib64/ld-linux-x86-64.so.2", dynamic)
}

const NEEDED: u64 = 1;
const SONAME: u64 = 14;
const RPATH: u64 = 15;
const RUNPATH: u64 = 29;

fn read(bytes: &[u8]) -> Result<(), ElfError> {
    let file = Counted { bytes, reads: Cell::new(0), volume: Cell::new(0) };
    let result = Head::read(&file).and_then(|head| head.map(|h| h.body(&file)).transpose());
    assert!(file.reads.get() <= 4096, "{} reads", file.reads.get());
    assert!(file.volume.get() <= 16 << 20, "{} bytes asked for", file.volume.get());
    result.map(drop)
}

#[test]
fn the_small_program_is_a_program() {
    let bytes = x86(&[(NEEDED, "liba.so"), (RUNPATH, "$ORIGIN/../lib"), (SONAME, "me")]);
    let head = Head::read(&bytes.as_slice()).expect("sound").expect("ELF");
    let elf = head.body(&bytes.as_slice()).expect("sound");
    assert_eq!(elf.interpreter.as_deref(), Some(&b"/lib64/ld-linux-x86-64.so.2"[..]));
    assert_eq!(elf.dependencies.len(), 1);
    assert_eq!(elf.dependencies[0].name, b"liba.so");
    assert_eq!(elf.runpath.as_deref(), Some(&b"$ORIGIN/../lib"[..]));
    assert_eq!(elf.soname.as_deref(), Some(&b"me"[..]));
}

#[test]
fn cut_at_every_length() {
    let whole = x86(&[(NEEDED, "liba.so"), (NEEDED, "libb.so"), (RPATH, "/x:/y")]);
    assert!(read(&whole).is_ok());
    for cut in 4..whole.len() - 16 {
        assert!(read(&whole[..cut]).is_err(), "cut at {cut} of {}", whole.len());
        bodies::elf(&whole[..cut]);
    }
}

#[test]
fn every_byte_changed() {
    let whole = x86(&[(NEEDED, "l.so"), (NEEDED, "libb.so"), (RPATH, "/lib:$ORIGIN/$LIB")]);
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff, whole[at].wrapping_add(1)] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            drop(read(&bytes));
            bodies::elf(&bytes);
        }
    }
}

#[test]
fn words_of_the_headers_changed_at_random() {
    let seed = 0x5eed_0001;
    let mut random = Random(seed);
    let seeds = [x86(&[(NEEDED, "l.so"), (RUNPATH, "/lib")]), fs::read("/usr/bin/env").expect("a program")];
    for round in 0..3000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len().min(1200) - 8);
            let values =
                [0, 1, 8, 0xff, 0xffff, u64::from(u32::MAX), u64::MAX, i64::MAX as u64, random.next()];
            let value = values[random.below(values.len())].to_le_bytes();
            let width = [1, 2, 4, 8][random.below(4)];
            bytes[at..at + width].copy_from_slice(&value[..width]);
        }
        let started = Instant::now();
        drop(read(&bytes));
        assert!(started.elapsed() < Duration::from_secs(2), "seed {seed:#x}, round {round}");
    }
}

#[test]
fn a_table_of_a_hundred_thousand_needs_is_refused() {
    let names: Vec<(u64, &str)> = (0..100_000).map(|_| (NEEDED, "l")).collect();
    let error = read(&x86(&names)).expect_err("too much");
    assert!(error.to_string().contains("too long"), "{error}");
    let names: Vec<(u64, &str)> = (0..5_000).map(|_| (NEEDED, "l")).collect();
    let error = read(&x86(&names)).expect_err("too much");
    assert!(error.to_string().contains("too many"), "{error}");
}

#[test]
fn a_file_of_a_terabyte_is_read_where_it_matters() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = dir.path().join("big");
    // Everything points far out into the hole.
    let mut bytes = x86(&[(NEEDED, "liba.so")]);
    bytes[32..40].copy_from_slice(&(1u64 << 39).to_le_bytes()); // e_phoff
    fs::write(&path, &bytes).expect("write");
    fs::File::options().write(true).open(&path).expect("open").set_len(1 << 40).expect("a sparse file");
    let host = RealHost::jail(dir.path()).expect("opens");
    let started = Instant::now();
    let needs = Resolver::new(&host)
        .survey(Path::new("/big"))
        .expect("segments of nothing but zeros ask for nothing");
    assert!(needs.needs.is_empty());
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_file_that_is_its_own_loader_and_its_own_library() {
    let mut host = MemHost::new();
    let me = small_elf(62, "/me", &[(NEEDED, "/me"), (NEEDED, "me"), (RUNPATH, "/")]);
    host.file("/me", 0o755, &me);
    let needs = Resolver::new(&host).needs(Path::new("/me")).expect("it ends");
    assert!(needs.needs.len() <= 1, "{needs:#?}");
    host.file("/script", 0o755, b"#!/script\n");
    assert!(matches!(Resolver::new(&host).needs(Path::new("/script")), Err(ResolveError::Unmet { .. })));
}

#[test]
fn libraries_in_a_circle_and_in_a_chain_without_end() {
    let mut host = MemHost::new();
    host.file("/lib64/ld-linux-x86-64.so.2", 0o755, &x86(&[]));
    host.file("/lib/a", 0o755, &x86(&[(NEEDED, "b")])).file("/lib/b", 0o755, &x86(&[(NEEDED, "a")]));
    host.file("/circle", 0o755, &x86(&[(NEEDED, "a")]));
    let needs = Resolver::new(&host).needs(Path::new("/circle")).expect("it ends");
    assert_eq!(needs.needs.len(), 3);

    for n in 0..9000 {
        host.file(&format!("/lib/n{n}"), 0o755, &x86(&[(NEEDED, &format!("n{}", n + 1))]));
    }
    host.file("/chain", 0o755, &x86(&[(NEEDED, "n0")]));
    let error = Resolver::new(&host).needs(Path::new("/chain")).expect_err("longer than any program's");
    assert!(error.to_string().contains("more searches"), "{error}");
}

#[test]
fn a_thousand_names_times_thousands_of_directories() {
    let mut host = MemHost::new();
    host.file("/lib64/ld-linux-x86-64.so.2", 0o755, &x86(&[]));
    let run_path = "/d:".repeat(20_000);
    let names: Vec<String> = (0..2000).map(|n| format!("n{n}")).collect();
    let mut dynamic: Vec<(u64, &str)> = names.iter().map(|n| (NEEDED, n.as_str())).collect();
    dynamic.push((RUNPATH, &run_path));
    host.dir("/d", 0o755).file("/p", 0o755, &x86(&dynamic));
    let started = Instant::now();
    let needs = Resolver::new(&host).survey(Path::new("/p")).expect("a sound file");
    assert_eq!(needs.unmet.len(), 2000);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

/// Every file that fuzzing kept, through the code that fuzzing ran.
#[test]
fn the_fuzz_corpora() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, body) in [
        ("elf", bodies::elf as fn(&[u8])),
        ("ldcache", bodies::ldcache),
        ("script", bodies::script),
        ("jk_ini", bodies::jk_ini),
    ] {
        let entries = fs::read_dir(corpora.join(name)).expect("a corpus");
        let mut files = 0;
        for entry in entries {
            body(&fs::read(entry.expect("an entry").path()).expect("read"));
            files += 1;
        }
        assert!(files >= 2, "{name}: only {files} files");
    }
}

/// Writes the first seeds; run by hand: `cargo test -p jail-provision --test hostile_files seeds -- --ignored`.
#[test]
#[ignore = "writes into fuzz/corpus"]
fn seeds() {
    use jail_provision::ldcache::{NewLine, write};
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let put = |name: &str, bytes: &[u8]| fs::write(corpora.join(name), bytes).expect("write");
    put("elf/program", &x86(&[(NEEDED, "l.so"), (RUNPATH, "/lib:$ORIGIN/$LIB/${PLATFORM}")]));
    put("elf/rpath", &x86(&[(NEEDED, "l.so"), (RPATH, "/lib"), (SONAME, "l.so"), (0x7fff_fffd, "aux.so")]));
    put("elf/slash", &x86(&[(NEEDED, "$ORIGIN/p"), (NEEDED, "/lib/l.so")]));
    put("elf/musl", &small_elf(62, "/lib/ld-musl-x86_64.so.1", &[(NEEDED, "libc.so"), (RUNPATH, "$ORIGIN")]));
    put("elf/aarch64", &small_elf(183, "/lib/ld-linux-aarch64.so.1", &[(NEEDED, "l.so")]));
    let line = |n: u8| NewLine { soname: vec![b'l', n], path: vec![b'/', n], flags: 0x303 };
    put("ldcache/empty", &write(&[]));
    put("ldcache/two", &write(&[line(b'a'), line(b'b')]));
    let mut old = b"ld.so-1.7.0\0\0\0\0\0".to_vec();
    old.extend(write(&[line(b'a')]));
    put("ldcache/old", &old);
    put("script/sh", b"#!/bin/sh -e\n");
    put("script/env", b"#!/usr/bin/env p\n");
    put("script/split", b"#!/usr/bin/env -S -i A=1 -u B 'p q' \\_x\n");
    put("script/self", b"#! /p\n");
}
