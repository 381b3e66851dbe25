//! What each fuzz target does with its bytes. One file, so that `cargo test` replays the corpora through the same code.

use std::path::Path;

use jail_provision::elf::Head;
use jail_provision::host::MemHost;
use jail_provision::ldcache::LdCache;
use jail_provision::resolve::Resolver;
use jail_provision::script;

/// The reader alone, and the resolver on a host where program, library and loader are all these bytes.
pub(crate) fn elf(data: &[u8]) {
    if let Ok(Some(head)) = Head::read(&data) {
        drop(head.body(&data));
    }
    let mut host = MemHost::new();
    for path in ["/p", "/lib/l.so", "/lib64/ld-linux-x86-64.so.2", "/lib/glibc-hwcaps/x86-64-v2/l.so"] {
        host.file(path, 0o755, data);
    }
    if let Ok(needs) = Resolver::new(&host).survey(Path::new("/p")) {
        for need in &needs.needs {
            assert!(need.path.is_absolute() && need.real.is_absolute());
            assert_eq!(needs.chain(&need.path).last(), Some(&needs.program));
        }
    }
}

/// The cache reader; every line it gives must lie inside the bytes.
pub(crate) fn ldcache(data: &[u8]) {
    let Some(cache) = LdCache::parse(data) else { return };
    for soname in cache.sonames() {
        for line in cache.lines(soname) {
            assert!(line.path.len() <= data.len() && !line.path.contains(&0));
        }
    }
}

/// `#!` lines, by the reader alone and as a file that is its own interpreter.
pub(crate) fn script(data: &[u8]) {
    if let Some(found) = script::shebang(data) {
        assert!(!found.interpreter.is_empty() && found.interpreter.len() <= script::LINE_MAX);
    }
    let mut host = MemHost::new();
    for path in ["/usr/bin/env", "/usr/bin/p", "/p"] {
        host.file(path, 0o755, data);
    }
    drop(Resolver::new(&host).survey(Path::new("/p")));
}

/// A `jk_init.ini`: whatever is in it, what comes out are sections that can be read.
pub(crate) fn jk_ini(data: &[u8]) {
    let import = jail_provision::import::import(data, &std::collections::BTreeSet::new());
    for section in &import.sections {
        assert!(
            !section.name.contains('/') && !section.name.starts_with('.'),
            "{:?} as a file name",
            section.name
        );
        let text = section.text.as_bytes();
        if let Err(error) = jail_provision::section::parse(&section.name, "f", text) {
            panic!("a section that nobody can read: {error}\n{}", section.text);
        }
    }
    for note in &import.notes {
        let section = note.section.as_deref().unwrap_or_default();
        assert!(!note.what.chars().chain(section.chars()).any(char::is_control), "{:?}", note.what);
    }
}
