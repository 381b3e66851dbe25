//! The laws of the plan, held against hosts and wishes that nobody thought of.
//!
//! Each case is a small host in memory (programs, libraries that need each other, scripts, trees with links of every kind),
//! a list of things wanted from it, and a jail that the plan is carried out on, in memory too. Then the host changes and
//! people meddle in the jail, and the laws must hold again. A failing case prints its seed:
//! `JAILWRIGHT_SEED=N cargo test -p jail-provision --test plan_laws` repeats it alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use jail_provision::digest::Fingerprint;
use jail_provision::host::{Host, MemHost};
use jail_provision::manifest::{Manifest, PathText, Record, Source, Stamp, What, Why};
use jail_provision::plan::{self, Action, Choices, Plan};
use jail_provision::section::{Directory, OwnFile, OwnLink};
use jail_provision::tree::{self, Content, Owner, Tree};
use jail_provision::wanted::{Ask, Item, Need, Wanted};

/// As many cases as take about two seconds.
const CASES: u64 = 300;

/// Changes of host and jail after the first provisioning of a case.
const ROUNDS: usize = 3;

const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
const ROOT: Owner = Owner { uid: 0, gid: 0 };
const GENTLE: Choices = Choices { force: false, hard_links: false };

#[test]
fn the_laws_hold() {
    let given = std::env::var("JAILWRIGHT_SEED").ok().and_then(|seed| seed.parse().ok());
    let start = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        now.as_secs().wrapping_mul(1_000_003)
    });
    for seed in start..start + if given.is_some() { 1 } else { CASES } {
        let outcome = std::panic::catch_unwind(|| case(seed));
        if let Err(panic) = outcome {
            eprintln!("JAILWRIGHT_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

fn case(seed: u64) {
    let mut random = Random(seed);
    let mut world = World::new(&mut random);
    let mut wanted = world.wanted(&mut random);
    let mut jail = MemHost::new();
    let mut manifest = Manifest::new(Path::new("/jail"));
    let mut foreign = BTreeSet::new();
    for round in 0..=ROUNDS {
        let tree = world.grow(&wanted);
        let there = (round > 0).then_some(&jail as &dyn Host);
        let plan = plan::plan(&tree, &manifest, there, GENTLE).expect("plans");
        same_input_same_plan(&world, &wanted, &manifest, there, &tree, &plan);
        no_step_leaves_the_jail(&plan, &jail);
        nothing_foreign_is_touched(&plan, &foreign);
        every_library_is_planned(&world, &tree);
        manifest.files = carry_out(&plan, &world.host, &mut jail);
        let again = plan::plan(&tree, &manifest, Some(&jail), GENTLE).expect("plans again");
        assert!(again.steps.is_empty(), "a plan made after apply is not empty: {:#?}", again.steps);
        for (path, record) in &manifest.files {
            assert_eq!(
                again.unchanged.get(path),
                Some(record),
                "{path:?} is remembered otherwise after a second plan"
            );
        }
        assert_eq!(again.unchanged.len(), manifest.files.len(), "a second plan remembers more");
        // Not for the same reason: what the administrator put in place of one of ours is simply his the second time.
        assert!(again.kept.keys().eq(plan.kept.keys()), "what is kept is kept again");
        if random.one_in(3) {
            wanted = world.wanted(&mut random);
        }
        world.change(&mut random);
        meddle(&mut jail, &manifest, &mut foreign, &mut random);
    }
}

/// Law: the same input gives the same plan.
fn same_input_same_plan(
    world: &World,
    wanted: &Wanted,
    manifest: &Manifest,
    jail: Option<&dyn Host>,
    tree: &Tree,
    first: &Plan,
) {
    let other = world.grow(wanted);
    assert_eq!(*tree, other, "the same wishes grow the same tree");
    let second = plan::plan(&other, manifest, jail, GENTLE).expect("plans");
    assert_eq!(*first, second, "the same input gives the same plan");
}

/// Laws: no step leaves the jail, and parents come first. Every directory on the way to a step is one that the plan made
/// before or that is there, and never a link.
fn no_step_leaves_the_jail(plan: &Plan, jail: &MemHost) {
    let mut directories = BTreeSet::from([PathBuf::from("/")]);
    for step in &plan.steps {
        let plain = step.path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        assert!(
            step.path.is_absolute() && plain && step.path != Path::new("/"),
            "{step:?} is no path in the jail"
        );
        if let Action::Copy { source, .. } = &step.action {
            assert!(source.is_absolute(), "{step:?} has a source that depends on where we stand");
        }
        let parent = step.path.parent().expect("below the root");
        let made = directories.contains(parent);
        // What somebody else put there may be a link to a directory inside; the kernel keeps the look-up inside.
        let there = jail.stat(parent).is_ok_and(|stat| stat.is_dir());
        let kept = parent.ancestors().any(|above| plan.kept.contains_key(above));
        assert!(made || there || kept, "{:?} comes before its directory", step.path);
        if step.action == Action::Directory {
            directories.insert(step.path.clone());
        } else {
            assert!(!directories.contains(&step.path), "{step:?} stands where a directory was just made");
        }
    }
}

fn nothing_foreign_is_touched(plan: &Plan, foreign: &BTreeSet<PathBuf>) {
    for step in &plan.steps {
        assert!(!foreign.contains(&step.path), "{step:?} touches what is not ours");
    }
}

/// Law: every library a planned binary needs is planned, and so is the interpreter of a script. Told from what the test
/// put into each file, not from what the resolver read.
fn every_library_is_planned(world: &World, tree: &Tree) {
    let mut planned = MemHost::new();
    for (path, node) in &tree.nodes {
        let path = path.to_str().expect("UTF-8");
        match &node.content {
            Content::Directory => planned.dir(path, 0o755),
            Content::Symlink { target } => planned.symlink(path, target.to_str().expect("UTF-8")),
            _ => planned.file(path, 0o755, b""),
        };
    }
    for (path, node) in &tree.nodes {
        let Content::Copy { source, stat, .. } = &node.content else { continue };
        assert_eq!(path, source, "a copy lies where it lies on the host");
        if stat.mode & 0o111 == 0 && !path.to_string_lossy().contains(".so") {
            continue;
        }
        let Some(needs) = world.needs.get(source) else { continue };
        for need in needs {
            let candidates = if need.starts_with('/') {
                vec![PathBuf::from(need)]
            } else {
                ["/lib/x86_64-linux-gnu", LIBRARIES, "/lib", "/usr/lib"]
                    .map(|dir| Path::new(dir).join(need))
                    .to_vec()
            };
            let found = candidates.iter().any(|at| planned.stat(at).is_ok_and(|stat| stat.is_file()));
            // What the host itself lacks cannot be planned (and was a note, or the wish would have been refused).
            let lacking = !candidates.iter().any(|at| world.host.stat(at).is_ok_and(|stat| stat.is_file()));
            assert!(found || lacking, "{path:?} needs {need}, which is not planned");
        }
    }
}

/// Carries the plan out on the jail in memory, as apply does on a real one.
fn carry_out(plan: &Plan, host: &MemHost, jail: &mut MemHost) -> BTreeMap<PathText, Record> {
    let mut records = plan.unchanged.clone();
    for step in &plan.steps {
        let (path, mode) = (step.path.to_str().expect("UTF-8"), step.meta.mode);
        let mut source = None;
        let what = match &step.action {
            Action::Directory => {
                jail.dir(path, mode);
                What::Directory
            }
            Action::Symlink { target } => {
                jail.symlink(path, target.to_str().expect("UTF-8"));
                What::Symlink { target: PathText(target.clone()) }
            }
            Action::Write { content } => {
                jail.file(path, mode, content);
                What::File { digest: Fingerprint::of(content), linked: false }
            }
            Action::Accounts { content, lines } => {
                jail.file(path, mode, content);
                What::Accounts { lines: lines.clone() }
            }
            Action::Copy { source: from, .. } => {
                let bytes = host.read(from, 1 << 20).expect("the source is there");
                jail.file(path, mode, &bytes);
                let stamp = Stamp::from(&host.lstat(from).expect("there"));
                source = Some(Source { path: PathText(from.clone()), stamp });
                What::File { digest: Fingerprint::of(&bytes), linked: false }
            }
            Action::Remove => {
                if jail.read_dir(&step.path).map_or(true, |names| names.is_empty()) {
                    jail.remove(path);
                }
                records.remove(&PathText(step.path.clone()));
                continue;
            }
            Action::Link { .. } | Action::Device { .. } => unreachable!("not asked for"),
        };
        let stamp =
            matches!(what, What::File { .. }).then(|| Stamp::from(&jail.lstat(&step.path).expect("made")));
        let (uid, gid) = (step.meta.uid, step.meta.gid);
        records.insert(
            PathText(step.path.clone()),
            Record { what, uid, gid, mode, source, stamp, why: step.why.clone() },
        );
    }
    records
}

/// What people do in a jail: add files of their own, change or remove ours.
fn meddle(jail: &mut MemHost, manifest: &Manifest, foreign: &mut BTreeSet<PathBuf>, random: &mut Random) {
    let files: Vec<&Path> = manifest
        .files
        .iter()
        .filter(|(_, record)| matches!(record.what, What::File { .. } | What::Symlink { .. }))
        .map(|(path, _)| path.0.as_path())
        .collect();
    for _ in 0..random.below(4) {
        let Some(path) = random.pick(&files).and_then(|path| path.to_str()) else { return };
        match random.below(4) {
            0 => drop(jail.remove(path)),
            1 => drop(jail.file(path, 0o755, b"meddled with")),
            2 => drop(jail.symlink(path, "/etc/passwd")),
            _ => {
                let own = format!("{path}.admin");
                if jail.lstat(Path::new(&own)).is_err() {
                    jail.file(&own, 0o644, b"the administrator's own");
                    foreign.insert(PathBuf::from(own));
                }
            }
        }
    }
}

/// A host and what its files need.
struct World {
    host: MemHost,
    /// Names of libraries, or the absolute path of a loader or interpreter, by file.
    needs: BTreeMap<PathBuf, Vec<String>>,
    /// Programs by name, and everything that may be wished for by path.
    commands: Vec<String>,
    paths: Vec<String>,
    libraries: usize,
}

const ODD: &[&str] = &["a b", "new\nline", "semi;colon", "$(reboot)", "ünï", "-rf", "back\\slash", "q'uote"];

impl World {
    fn new(random: &mut Random) -> Self {
        let mut world = Self {
            host: MemHost::new(),
            needs: BTreeMap::new(),
            commands: Vec::new(),
            paths: Vec::new(),
            libraries: 1 + random.below(8),
        };
        if random.one_in(2) {
            for (link, target) in
                [("/bin", "usr/bin"), ("/sbin", "usr/sbin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64")]
            {
                world.host.dir(&format!("/{target}"), 0o755).symlink(link, target);
            }
            world.elf("/usr/lib64/ld-linux-x86-64.so.2", &[], false);
        } else {
            world.elf(LOADER, &[], false);
        }
        world.host.dir(LIBRARIES, 0o755);
        for number in 0..world.libraries {
            world.library(number, random);
        }
        for number in 0..1 + random.below(6) {
            world.program(number, random);
        }
        for number in 0..random.below(3) {
            world.script(number, random);
        }
        for number in 0..random.below(3) {
            world.tree(number, random);
        }
        let accounts = b"root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\n";
        world.host.file("/etc/passwd", 0o644, accounts).file("/etc/group", 0o644, b"root:x:0:\ntty:x:5:\n");
        world
    }

    /// `libN.so.1 -> libN.so.1.V`, or a plain file; circles are allowed, as they are between real libraries.
    fn library(&mut self, number: usize, random: &mut Random) {
        let needed = self.some_libraries(random);
        let soname = format!("{LIBRARIES}/lib{number}.so.1");
        if random.one_in(2) {
            let file = format!("{soname}.{}", random.below(9));
            self.elf(&file, &needed, false);
            self.host.symlink(&soname, file.rsplit('/').next().expect("a name"));
        } else {
            self.elf(&soname, &needed, false);
        }
    }

    fn some_libraries(&self, random: &mut Random) -> Vec<String> {
        (0..random.below(3)).map(|_| format!("lib{}.so.1", random.below(self.libraries))).collect()
    }

    fn program(&mut self, number: usize, random: &mut Random) {
        let name = format!("prog{number}");
        let dir = *random.pick(&["/usr/bin", "/usr/sbin", "/usr/local/bin"]).expect("some");
        let path = format!("{dir}/{name}");
        let needed = self.some_libraries(random);
        if random.one_in(3) {
            // As update-alternatives lays them.
            let real = format!("/opt/app{number}/{name}.real");
            self.elf(&real, &needed, true);
            self.host.symlink(&format!("/etc/alternatives/{name}"), &real);
            self.host.symlink(&path, &format!("/etc/alternatives/{name}"));
        } else {
            self.elf(&path, &needed, true);
            if random.one_in(4) {
                self.host.adjust(&path, |stat| stat.mode |= 0o4000);
            }
        }
        self.commands.push(name);
        self.paths.push(path);
    }

    fn script(&mut self, number: usize, random: &mut Random) {
        let Some(interpreter) = random.pick(&self.paths).cloned() else { return };
        let path = format!("/usr/bin/script{number}");
        self.host.file(&path, 0o755, format!("#! {interpreter} -x\n").as_bytes());
        self.needs.insert(PathBuf::from(&path), vec![interpreter]);
        self.commands.push(format!("script{number}"));
    }

    fn tree(&mut self, number: usize, random: &mut Random) {
        let top = format!("/usr/share/tree{number}");
        let mut dirs = vec![top.clone()];
        self.host.dir(&top, 0o755);
        for n in 0..random.below(12) {
            let dir = random.pick(&dirs).expect("the top").clone();
            let odd = if random.one_in(3) { *random.pick(ODD).expect("some") } else { "" };
            let path = format!("{dir}/e{n}{odd}");
            match random.below(8) {
                0 | 1 => {
                    self.host.dir(&path, *random.pick(&[0o755, 0o700, 0o2775, 0o555]).expect("some"));
                    dirs.push(path);
                }
                2 => drop(self.host.symlink(&path, random.pick(&dirs).expect("the top"))),
                3 => drop(self.host.symlink(&path, "../../../../../../etc/passwd")),
                4 => drop(self.host.symlink(&path, "nowhere/at/all")),
                5 => drop(self.host.symlink(&path, "/")),
                6 => {
                    let needed = self.some_libraries(random);
                    self.elf(&path, &needed, true);
                }
                _ => {
                    let mode = *random.pick(&[0o644, 0o600, 0o666, 0o6755]).expect("some");
                    self.host.file(&path, mode, &[n as u8; 5]);
                }
            }
        }
        self.paths.push(top);
        // Named itself, a file in it must be there even if the tree leaves it out.
        if random.one_in(2) {
            self.host.file(&format!("/usr/share/tree{number}.d/one"), 0o640, b"one");
            self.paths.push(format!("/usr/share/tree{number}.d/one"));
        }
    }

    fn elf(&mut self, path: &str, needed: &[String], program: bool) {
        self.host.file(path, 0o755, &elf(needed, program));
        let mut needs = needed.to_vec();
        if program {
            needs.push(LOADER.to_owned());
        }
        self.needs.insert(PathBuf::from(path), needs);
    }

    fn wanted(&self, random: &mut Random) -> Wanted {
        let mut wanted = Wanted::default();
        for number in 0..1 + random.below(8) {
            let ask = match random.below(10) {
                0..=3 => Ask::Command(random.pick(&self.commands).expect("some").clone()),
                4 | 5 => Ask::Path(random.pick(&self.paths).expect("some").clone()),
                6 => Ask::Exactly(PathBuf::from(random.pick(&self.paths).expect("some"))),
                7 => Ask::User("root".into()),
                8 => Ask::Group("tty".into()),
                _ => match random.below(3) {
                    0 => Ask::Directory(Directory { path: format!("/srv/d{number}/deep"), mode: 0o1777 }),
                    1 => {
                        let content = format!("{number}\n");
                        Ask::File(OwnFile { path: format!("/etc/own/f{number}"), content, mode: 0o644 })
                    }
                    _ => Ask::Link(OwnLink { path: format!("/srv/l{number}"), target: "../../etc".into() }),
                },
            };
            // A changed host may lack what was there before: that is fine here, and another test's subject.
            let why = Why::Section(format!("s{number}"));
            wanted.items.push(Item { ask, need: Need::May, why, place: None, package: None });
        }
        if random.one_in(3) {
            wanted.setuid.extend(random.pick(&self.paths).cloned());
        }
        wanted
    }

    fn grow(&self, wanted: &Wanted) -> Tree {
        tree::grow(&self.host, wanted, ROOT).expect("grows")
    }

    /// An upgrade: files change, come and go, links move.
    fn change(&mut self, random: &mut Random) {
        for _ in 0..random.below(4) {
            match random.below(4) {
                0 => self.library(random.below(self.libraries), &mut *random),
                1 => {
                    let path = random.pick(&self.paths).expect("some").clone();
                    if self.host.lstat(Path::new(&path)).is_ok_and(|stat| stat.is_file()) {
                        let needed = self.some_libraries(random);
                        self.elf(&path, &needed, true);
                    }
                }
                2 => {
                    let path = random.pick(&self.paths).expect("some").clone();
                    if path.starts_with("/usr/share/") {
                        self.host.remove(&path);
                        self.needs.retain(|at, _| !at.starts_with(&path));
                    }
                }
                _ => {
                    let number = 10 + random.below(3);
                    self.tree(number, random);
                }
            }
        }
    }
}

/// A 64-bit ELF file that needs these libraries, as small as one can be.
fn elf(needed: &[String], program: bool) -> Vec<u8> {
    let headers: u64 = if program { 3 } else { 2 };
    let mut strings = vec![0u8];
    let mut dynamic = Vec::new();
    let mut entry =
        |tag: u64, value: u64| dynamic.extend_from_slice(&[tag.to_le_bytes(), value.to_le_bytes()].concat());
    for name in needed {
        entry(1, strings.len() as u64);
        strings.extend_from_slice(name.as_bytes());
        strings.push(0);
    }
    let interpreter = [LOADER.as_bytes(), b"\0"].concat();
    let strings_at = 64 + 56 * headers;
    let interpreter_at = strings_at + strings.len() as u64;
    let dynamic_at = (interpreter_at + interpreter.len() as u64).next_multiple_of(8);
    entry(5, strings_at);
    entry(10, strings.len() as u64);
    entry(0, 0);
    let length = dynamic_at + dynamic.len() as u64;

    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [3u16, 62] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(&1u32.to_le_bytes());
    for word in [0u64, 64, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, headers as u16, 0, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    let mut header = |kind: u32, at: u64, size: u64| {
        file.extend_from_slice(&[kind.to_le_bytes(), 5u32.to_le_bytes()].concat());
        for word in [at, at, at, size, size, 8] {
            file.extend_from_slice(&word.to_le_bytes());
        }
    };
    header(1, 0, length);
    header(2, dynamic_at, dynamic.len() as u64);
    if program {
        header(3, interpreter_at, interpreter.len() as u64);
    }
    file.extend_from_slice(&strings);
    file.extend_from_slice(&interpreter);
    file.resize(dynamic_at as usize, 0);
    file.extend_from_slice(&dynamic);
    file
}

/// The elves above are what the loader's rules say of them: else the law of libraries would hold of nothing.
#[test]
fn the_files_made_here_are_read_as_meant() {
    let mut random = Random(7);
    let world = World::new(&mut random);
    let (path, needs) = world
        .needs
        .iter()
        .find(|(path, needs)| needs.len() > 1 && OsStr::from_bytes(b"prog") != path.as_os_str())
        .expect("a program with a library");
    let found = jail_provision::resolve::Resolver::new(&world.host).survey(path).expect("reads");
    assert!(found.unmet.is_empty(), "{found:?}");
    assert!(found.needs.len() >= needs.iter().collect::<BTreeSet<_>>().len(), "{path:?} {needs:?} {found:?}");
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.below(from.len())) }
    }
}
