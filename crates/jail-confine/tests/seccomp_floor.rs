//! The floor holds under every profile, whatever it says: mutated profiles and the fuzzer's corpus are compiled, checked as
//! the kernel would, and asked for what the floor forbids.

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/floor_holds.rs"]
mod floor_holds;

use floor_holds::{Met, floor_holds};

fn corpus() -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/seccomp_json");
    let mut found: Vec<_> = fs::read_dir(&dir)
        .expect("the corpus is part of the project")
        .map(|entry| entry.expect("readable").path())
        .map(|path| (path.to_string_lossy().into_owned(), fs::read(&path).expect("readable")))
        .collect();
    let share = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../share/seccomp");
    for name in ["default.json", "transfer.json", "strict.json"] {
        found.push((name.to_owned(), fs::read(share.join(name)).expect("shipped")));
    }
    found.sort();
    found
}

#[test]
fn under_the_fuzzers_corpus() {
    let corpus = corpus();
    let compiled = corpus.iter().filter(|(name, json)| {
        println!("{name}");
        floor_holds(json) == Met::Compiled
    });
    let compiled = compiled.count();
    assert!(compiled >= 8, "only {compiled} of {} profiles compile", corpus.len());
}

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).expect("64 bits") % bound
    }
}

/// Words that turn one valid profile into another, so that most mutants still compile.
const WORDS: [&str; 12] = [
    "\"SCMP_ACT_ALLOW\"",
    "\"SCMP_ACT_ERRNO\"",
    "\"SCMP_ACT_LOG\"",
    "\"SCMP_ACT_KILL\"",
    "\"SCMP_CMP_MASKED_EQ\"",
    "\"SCMP_CMP_NE\"",
    "\"SCMP_CMP_GE\"",
    "\"SCMP_CMP_LT\"",
    "\"mount\"",
    "\"ioctl\"",
    "\"clone3\"",
    "\"socket\"",
];

/// Replaces a few quoted words by others of their kind, and a few bytes by any.
fn mutant(json: &[u8], random: &mut Random) -> Vec<u8> {
    let mut text = String::from_utf8_lossy(json).into_owned();
    for _ in 0..=random.below(6) {
        let new = WORDS[random.below(WORDS.len())];
        let kind = &new[..new.len().min(9)];
        let alike = |word: &str| {
            if kind.starts_with("\"SCMP") { word.starts_with(kind) } else { !word.starts_with("\"SCMP") }
        };
        let quoted: Vec<(usize, usize)> = text
            .match_indices('"')
            .map(|(at, _)| at)
            .collect::<Vec<_>>()
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1] + 1))
            .filter(|(from, to)| text.get(*from..*to).is_some_and(alike))
            .filter(|(_, to)| !text[*to..].trim_start().starts_with(':'))
            .collect();
        if let Some((from, to)) = quoted.get(random.below(quoted.len().max(1))) {
            text.replace_range(*from..*to, new);
        }
    }
    let mut bytes = text.into_bytes();
    if random.below(4) == 0 && !bytes.is_empty() {
        let at = random.below(bytes.len());
        bytes[at] = u8::try_from(random.below(256)).expect("a byte");
    }
    bytes
}

#[test]
fn under_mutated_profiles() {
    let corpus = corpus();
    let mut compiled = 0;
    for seed in 1..=400_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (name, json) = &corpus[random.below(corpus.len())];
        println!("seed {seed} {name}");
        if floor_holds(&mutant(json, &mut random)) == Met::Compiled {
            compiled += 1;
        }
    }
    assert!(compiled > 60, "only {compiled} mutants compile");
}
