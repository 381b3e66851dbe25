//! The compiler held against libseccomp: the same verdict for every number, ABI and a grid of arguments.
//!
//! libseccomp (Debian's python3-seccomp) compiles the same profile by the runtimes' rules; both programs run in our
//! interpreter. Two differences are meant, and each is checked for what it is: the floor, which is opened here (the floor
//! has its own test), and ENOSYS for calls the profile's author cannot have known. Skips where python3-seccomp is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use jail_confine::seccomp::{
    Action, Arch, Builtin, Instruction, Name, Program, SeccompData, Settings, UnsafeItem, X32_BIT, compile,
    parse,
};
use serde_json::Value;

const PYTHON: &str = "/usr/bin/python3";
const ENOSYS: Action = Action::Errno(38);
/// Debian 12's libseccomp knows the calls of this kernel; an older one would leave too much uncompared.
const LIBSECCOMP_KNOWS: (u8, u8) = (5, 16);

fn libseccomp_is_missing() -> Option<String> {
    match Command::new(PYTHON).args(["-c", "import seccomp"]).output() {
        Ok(output) if output.status.success() => None,
        Ok(_) => Some("python3-seccomp is not installed".to_owned()),
        Err(error) => Some(format!("{PYTHON}: {error}")),
    }
}

/// What libseccomp makes of a profile, and the names it does not know.
fn reference(json: &str, machine: Arch) -> (Program, BTreeSet<String>) {
    let dir = tempfile::tempdir().expect("a directory");
    let (profile, out) = (dir.path().join("profile.json"), dir.path().join("out.bpf"));
    std::fs::write(&profile, json).expect("written");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seccomp/libseccomp.py");
    let output = Command::new(PYTHON)
        .arg(script)
        .arg(&profile)
        .arg(machine.short_name())
        .arg(&out)
        .output()
        .expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(out).expect("a program");
    let instructions = bytes.chunks_exact(8).map(|b| Instruction {
        code: u16::from_ne_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
    });
    let program = Program::from_instructions(instructions.collect());
    program.verify().expect("libseccomp's program uses what our interpreter knows");
    let unknown =
        String::from_utf8(output.stdout).expect("text").split_whitespace().map(str::to_owned).collect();
    (program, unknown)
}

/// The values worth trying for each argument of each call: around every value that a rule compares with.
fn grid(json: &Value) -> BTreeMap<String, Vec<[u64; 6]>> {
    let mut values: BTreeMap<String, [BTreeSet<u64>; 6]> = BTreeMap::new();
    for rule in json["syscalls"].as_array().into_iter().flatten() {
        let names = rule["names"].as_array().cloned().unwrap_or_else(|| vec![rule["name"].clone()]);
        for arg in rule["args"].as_array().into_iter().flatten() {
            let index = usize::try_from(arg["index"].as_u64().expect("a number")).expect("small");
            for name in &names {
                let slots = values.entry(name.as_str().expect("text").to_owned()).or_default();
                for key in ["value", "valueTwo"] {
                    let Some(v) = arg[key].as_u64() else { continue };
                    let around =
                        [v, v.wrapping_sub(1), v.wrapping_add(1), v ^ (1 << 32), v | 1, !v, v & 0xffff_ffff];
                    slots[index].extend(around);
                }
            }
        }
    }
    values.into_iter().map(|(name, slots)| (name, product(&slots))).collect()
}

/// Every combination, thinned where there are very many.
fn product(slots: &[BTreeSet<u64>; 6]) -> Vec<[u64; 6]> {
    let mut all = vec![[0; 6]];
    for (index, slot) in slots.iter().enumerate() {
        if slot.is_empty() {
            continue;
        }
        let choices: Vec<u64> = slot.iter().copied().chain([0, 1, u64::MAX, 1 << 63]).collect();
        let step = all.len().div_ceil(200).max(1);
        let kept: Vec<[u64; 6]> = all.iter().step_by(step).copied().collect();
        all = kept
            .iter()
            .flat_map(|base| {
                choices.iter().map(move |choice| {
                    let mut args = *base;
                    args[index] = *choice;
                    args
                })
            })
            .collect();
    }
    all
}

/// The names a profile mentions, and the kernel of the newest.
fn named(json: &Value) -> (BTreeSet<String>, (u8, u8)) {
    let mut names = BTreeSet::new();
    for rule in json["syscalls"].as_array().into_iter().flatten() {
        let list = rule["names"].as_array().cloned().unwrap_or_else(|| vec![rule["name"].clone()]);
        names.extend(list.iter().map(|n| n.as_str().expect("text").to_owned()));
    }
    let era = names.iter().filter_map(|n| Name::find(n)).map(Name::since).max().unwrap_or_default();
    (names, era)
}

#[derive(Default, Debug)]
struct Tally {
    same: u64,
    newer: u64,
    libseccomp_too_old: BTreeSet<String>,
}

/// Compares the two programs on every number of one ABI.
fn compare(json: &str, machine: Arch, abis: &[Arch], tally: &mut Tally) {
    let value: Value = serde_json::from_str(json).expect("JSON");
    let (theirs, unknown) = reference(json, machine);
    let profile = parse(json.as_bytes(), "differential").expect("well-formed");
    let everything: Vec<UnsafeItem> = UnsafeItem::ALL.iter().map(|(item, _)| *item).collect();
    let settings = Settings { arch: machine, unsafe_open: &everything, ..Settings::plain(&profile, (6, 18)) };
    let (ours, _) = compile(&settings).expect("compiles");
    let (names, era) = named(&value);
    let grid = grid(&value);
    for abi in abis {
        let base = if *abi == Arch::X32 { X32_BIT } else { 0 };
        let by_number: BTreeMap<u32, Name> =
            Name::all().filter_map(|name| name.number(*abi).map(|nr| (nr, name))).collect();
        let odd = [0x1000, 0x0fff_ffff, 0x3fff_ffff];
        for nr in (0..=600).chain(odd).map(|nr| nr | base) {
            let name = by_number.get(&nr).copied();
            let text = name.map_or("", Name::as_str);
            // It may know a newer call on the machine's own ABI only.
            let newer_foreign = *abi != machine && name.is_some_and(|n| n.since() > LIBSECCOMP_KNOWS);
            if unknown.contains(text) || newer_foreign {
                tally.libseccomp_too_old.insert(text.to_owned());
                continue;
            }
            // libseccomp turns socket, shmget and their kin into rules for i386's multiplexers; we judge only what is named.
            if *abi == Arch::X86 && ["socketcall", "ipc"].contains(&text) {
                continue;
            }
            let zeros = [[0; 6], [u64::MAX; 6], [1, 2, 3, 4, 5, 6]];
            for args in zeros.iter().chain(grid.get(text).into_iter().flatten()) {
                let mut args = *args;
                if *abi == Arch::X86 {
                    // A 32-bit ABI has no high halves.
                    args = args.map(|a| a & 0xffff_ffff);
                }
                let data = SeccompData { nr, arch: abi.audit(), instruction_pointer: 0, args };
                let (we, they) = (ours.simulate(&data), theirs.simulate(&data));
                if we == they {
                    tally.same += 1;
                    continue;
                }
                let newer = !names.contains(text) && name.is_none_or(|n| n.since() > era);
                assert!(
                    newer && we == ENOSYS,
                    "{abi:?} {nr:#x} {text:?} {args:x?}: ours {we:?}, libseccomp {they:?}, in\n{json}"
                );
                tally.newer += 1;
            }
        }
    }
    // An ABI that nobody listed.
    let data = SeccompData { nr: 0, arch: 0xc000_0015, ..SeccompData::default() };
    assert_eq!((ours.simulate(&data), theirs.simulate(&data)), (Action::KillProcess, Action::KillProcess));
}

fn check(what: &str, json: &str, foreign: &[Arch]) {
    let mut tally = Tally::default();
    let abis: Vec<Arch> = [Arch::X86_64].iter().chain(foreign).copied().collect();
    compare(json, Arch::X86_64, &abis, &mut tally);
    compare(json, Arch::Aarch64, &[Arch::Aarch64], &mut tally);
    for name in &tally.libseccomp_too_old {
        let since = Name::find(name).map(Name::since);
        assert!(since.is_none_or(|s| s > LIBSECCOMP_KNOWS), "libseccomp does not know {name} of {since:?}");
    }
    assert!(tally.same > 1200, "{what}: {tally:?}");
    println!(
        "{what}: {} verdicts the same, {} ENOSYS for newer calls, libseccomp does not know {:?}",
        tally.same, tally.newer, tally.libseccomp_too_old
    );
}

const I386_AND_X32: &[Arch] = &[Arch::X86, Arch::X32];

#[test]
fn our_profiles() {
    if let Some(why) = libseccomp_is_missing() {
        eprintln!("skipped: {why}");
        return;
    }
    for which in [Builtin::Default, Builtin::Transfer] {
        let json = String::from_utf8(which.json().expect("has one").to_vec()).expect("text");
        check(which.as_str(), &json, I386_AND_X32);
    }
    let json = String::from_utf8(Builtin::Strict.json().expect("has one").to_vec()).expect("text");
    check("strict", &json, I386_AND_X32);
}

#[test]
fn every_key_and_operator() {
    if let Some(why) = libseccomp_is_missing() {
        eprintln!("skipped: {why}");
        return;
    }
    check("fixture", include_str!("seccomp/every-key.json"), I386_AND_X32);
    check("oci fixture", include_str!("seccomp/oci.json"), I386_AND_X32);
}

#[test]
fn dockers_profile() {
    if let Some(why) = libseccomp_is_missing() {
        eprintln!("skipped: {why}");
        return;
    }
    match std::fs::read_to_string(shared("docker-default-seccomp.json")) {
        Ok(json) => check("Docker's", &json, I386_AND_X32),
        Err(error) => eprintln!("skipped: docker-default-seccomp.json: {error}"),
    }
}

#[test]
fn containers_commons_profile() {
    if let Some(why) = libseccomp_is_missing() {
        eprintln!("skipped: {why}");
        return;
    }
    match containers_common() {
        Ok(json) => check("containers-common's", &json, I386_AND_X32),
        Err(why) => eprintln!("skipped: containers-common's seccomp.json: {why}"),
    }
}

/// Data beside the project that a fresh clone does not have.
fn shared(file: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let places = [root.join("shared/data"), root.join("../shared/data")];
    places.iter().map(|p| p.join(file)).find(|p| p.exists()).unwrap_or_else(|| places[0].join(file))
}

/// The installed file, or the one in Debian's package, unpacked without installing it.
fn containers_common() -> Result<String, String> {
    if let Ok(json) = std::fs::read_to_string("/usr/share/containers/seccomp.json") {
        return Ok(json);
    }
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    // apt's sandbox user cannot write there; as root it says so and goes on.
    run(Command::new("apt-get")
        .args(["-qq", "download", "golang-github-containers-common"])
        .current_dir(&dir))?;
    let deb = std::fs::read_dir(&dir)
        .map_err(|e| e.to_string())?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .ok_or("apt-get download brought nothing")?;
    let tree = dir.path().join("tree");
    run(Command::new("dpkg").arg("-x").arg(&deb).arg(&tree))?;
    std::fs::read_to_string(tree.join("usr/share/containers/seccomp.json")).map_err(|e| e.to_string())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Numbers from a seed, so that a failure can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).expect("small")]
    }
}

/// A profile of random rules, at most `most` for one call, all with the same action: what overlapping rules with different
/// actions mean is nowhere written down.
fn random_profile(random: &mut Random, most: u64) -> String {
    let mut names: Vec<&str> = Name::all()
        .filter(|n| {
            n.number(Arch::X86_64).is_some() && n.number(Arch::Aarch64).is_some() && n.since() <= (5, 10)
        })
        .map(Name::as_str)
        .collect();
    let values: [u64; 10] =
        [0, 1, 2, 5, 0xff, 0x7e02_0000, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0005, u64::MAX - 1];
    let actions = ["SCMP_ACT_ALLOW", "SCMP_ACT_TRAP", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG"];
    let operators = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    let mut rules = Vec::new();
    for _ in 0..random.below(12) + 2 {
        let name = names.swap_remove(usize::try_from(random.below(names.len() as u64)).expect("small"));
        let action = *random.pick(&actions);
        for _ in 0..random.below(most) + 1 {
            let mut args = Vec::new();
            let mut indexes = BTreeSet::new();
            for _ in 0..random.below(4) {
                let index = random.below(4);
                // The runtimes' "or" is in the fixture; here every rule is a conjunction.
                if !indexes.insert(index) {
                    continue;
                }
                let op = *random.pick(&operators);
                let (value, two) = (*random.pick(&values), *random.pick(&values));
                let two = if op == "MASKED_EQ" { two & value } else { 0 };
                args.push(format!(
                    r#"{{"index": {index}, "value": {value}, "valueTwo": {two}, "op": "SCMP_CMP_{op}"}}"#
                ));
            }
            rules.push(format!(
                r#"{{"names": ["{name}"], "action": "{action}", "args": [{}]}}"#,
                args.join(", ")
            ));
        }
    }
    let default = *random.pick(&["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS"]);
    format!(
        r#"{{"defaultAction": "{default}", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{}]}}"#,
        rules.join(",\n")
    )
}

const SEEDS: std::ops::RangeInclusive<u64> = 1..=20;

fn random(seed: u64) -> Random {
    println!("seed {seed}");
    Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed))
}

/// One rule a call: libseccomp 2.5.4 joins several rules of one call into a tree and gets some of them wrong (it answers
/// TRAP where none of four rules holds), so several rules are held against the plain reading below instead.
#[test]
fn random_profiles_of_one_rule_a_call() {
    if let Some(why) = libseccomp_is_missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let mut tally = Tally::default();
    for seed in SEEDS {
        let json = random_profile(&mut random(seed), 1);
        compare(&json, Arch::X86_64, &[Arch::X86_64], &mut tally);
        compare(&json, Arch::Aarch64, &[Arch::Aarch64], &mut tally);
    }
    assert!(tally.same > 40_000, "{tally:?}");
}

/// What a profile says of a call, read rule by rule.
fn plain_reading(json: &Value, name: &str, args: [u64; 6]) -> String {
    let holds = |arg: &Value| {
        let number = |key: &str| arg[key].as_u64().expect("a number");
        let seen = args[usize::try_from(number("index")).expect("small")];
        let value = number("value");
        match arg["op"].as_str().expect("text") {
            "SCMP_CMP_NE" => seen != value,
            "SCMP_CMP_LT" => seen < value,
            "SCMP_CMP_LE" => seen <= value,
            "SCMP_CMP_EQ" => seen == value,
            "SCMP_CMP_GE" => seen >= value,
            "SCMP_CMP_GT" => seen > value,
            _ => seen & value == number("valueTwo"),
        }
    };
    let rules = json["syscalls"].as_array().into_iter().flatten();
    let mut rules = rules.filter(|rule| rule["names"][0] == name);
    let fits = rules.find(|rule| rule["args"].as_array().into_iter().flatten().all(holds));
    fits.map_or(&json["defaultAction"], |rule| &rule["action"]).as_str().expect("text").to_owned()
}

#[test]
fn random_profiles_of_several_rules_a_call() {
    let everything: Vec<UnsafeItem> = UnsafeItem::ALL.iter().map(|(item, _)| *item).collect();
    let mut seen = 0;
    for seed in SEEDS {
        let json = random_profile(&mut random(seed), 6);
        let value: Value = serde_json::from_str(&json).expect("JSON");
        let profile = parse(json.as_bytes(), "random").expect("well-formed");
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let settings = Settings { arch, unsafe_open: &everything, ..Settings::plain(&profile, (6, 18)) };
            let (program, _) = compile(&settings).expect("compiles");
            for (name, grid) in grid(&value) {
                let nr = Name::find(&name).and_then(|n| n.number(arch)).expect("chosen so");
                for args in grid {
                    let data = SeccompData { nr, arch: arch.audit(), instruction_pointer: 0, args };
                    let expected = match plain_reading(&value, &name, args).as_str() {
                        "SCMP_ACT_ALLOW" => Action::Allow,
                        "SCMP_ACT_TRAP" => Action::Trap,
                        "SCMP_ACT_LOG" => Action::Log,
                        "SCMP_ACT_ERRNO" => Action::Errno(1),
                        _ => Action::KillProcess,
                    };
                    assert_eq!(program.simulate(&data), expected, "{name} {args:x?} in\n{json}");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 25_000, "{seen}");
}
