//! From the graph of tests to BPF.
//!
//! Written back to front: the ends first, so that every jump's target is known when the jump is made. A conditional jump
//! reaches 255 instructions; a target farther away gets a copy (an answer) or an unconditional jump in between.

use jail_sys::seccomp::Instruction;

use super::dag::{Compare, Dag, Id, Node, Test};

pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER: u16 = 0x25;
pub(super) const JUMP_GREATER_EQUAL: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;

/// The kernel's limit (`BPF_MAXINSNS`).
pub(super) const MAX_INSTRUCTIONS: usize = 4096;
/// A conditional jump's reach, less the two instructions that may come in between.
const REACH: usize = 250;

/// The program would be longer than the kernel takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

/// Whether the accumulator holds what a test needs when control arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Cold,
    Loaded,
}

#[derive(Debug, Clone, Copy, Default)]
struct Places {
    cold: Option<usize>,
    loaded: Option<usize>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Needs {
    cold: bool,
    loaded: bool,
}

struct Emitter<'a> {
    dag: &'a Dag,
    /// Back to front.
    out: Vec<Instruction>,
    places: Vec<Places>,
}

/// Turns the graph below `root` into a program.
pub(super) fn emit(dag: &Dag, root: Id) -> Result<Vec<Instruction>, TooLong> {
    let needs = entries_needed(dag, root);
    let mut emitter =
        Emitter { dag, out: Vec::with_capacity(512), places: vec![Places::default(); dag.len()] };
    for (index, needed) in needs.iter().enumerate() {
        emitter.node(index, *needed)?;
        if emitter.out.len() > MAX_INSTRUCTIONS {
            return Err(TooLong);
        }
    }
    // The root is the newest node of its graph, or an older one that was interned before: then it needs a way to it.
    emitter.enter(root)?;
    let mut program = emitter.out;
    program.reverse();
    if program.len() > MAX_INSTRUCTIONS { Err(TooLong) } else { Ok(program) }
}

/// How each node is arrived at, found from the root downwards.
fn entries_needed(dag: &Dag, root: Id) -> Vec<Needs> {
    let mut needs = vec![Needs::default(); dag.len()];
    if let Some(need) = needs.get_mut(root.index()) {
        need.cold = true;
    }
    for index in (0..needs.len()).rev() {
        let reached = needs.get(index).copied().unwrap_or_default();
        if !reached.cold && !reached.loaded {
            continue;
        }
        if let Some(Node::Test { test, yes, no }) = dag.at(index) {
            for child in [yes, no] {
                let entry = arrival(dag, test, child);
                if let Some(need) = needs.get_mut(child.index()) {
                    need.cold |= entry == Entry::Cold;
                    need.loaded |= entry == Entry::Loaded;
                }
            }
        }
    }
    needs
}

/// A child that tests the same word under the same mask finds it loaded.
fn arrival(dag: &Dag, parent: Test, child: Id) -> Entry {
    match dag.node(child) {
        Some(Node::Test { test, .. }) if test.word == parent.word && test.mask == parent.mask => {
            Entry::Loaded
        }
        _ => Entry::Cold,
    }
}

impl Emitter<'_> {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.out.push(Instruction { code, jt, jf, k });
        self.out.len() - 1
    }

    fn node(&mut self, index: usize, needs: Needs) -> Result<(), TooLong> {
        if !needs.cold && !needs.loaded {
            return Ok(());
        }
        let places = match self.dag.at(index) {
            Some(Node::Answer(action)) => {
                Places { cold: Some(self.push(RETURN, 0, 0, action.to_raw())), loaded: None }
            }
            Some(Node::Test { test, yes, no }) => {
                let jump = self.branch(test, yes, no)?;
                let cold = needs.cold.then(|| self.load(test));
                Places { cold, loaded: Some(jump) }
            }
            None => return Ok(()),
        };
        if let Some(place) = self.places.get_mut(index) {
            *place = places;
        }
        Ok(())
    }

    /// Loads a test's word; the test's jump is the instruction pushed last.
    fn load(&mut self, test: Test) -> usize {
        if test.mask != u32::MAX {
            self.push(AND, 0, 0, test.mask);
        }
        self.push(LOAD, 0, 0, u32::from(test.word.0))
    }

    fn branch(&mut self, test: Test, yes: Id, no: Id) -> Result<usize, TooLong> {
        let yes_at = self.within_reach(test, yes)?;
        let no_at = self.within_reach(test, no)?;
        let jt = self.offset(yes_at)?;
        let jf = self.offset(no_at)?;
        let code = match test.compare {
            Compare::Equal => JUMP_EQUAL,
            Compare::Greater => JUMP_GREATER,
            Compare::GreaterOrEqual => JUMP_GREATER_EQUAL,
        };
        Ok(self.push(code, jt, jf, test.value))
    }

    /// How many instructions the next one skips to get to `target`.
    fn offset(&self, target: usize) -> Result<u8, TooLong> {
        let skipped = self.out.len().checked_sub(target + 1).ok_or(TooLong)?;
        u8::try_from(skipped).map_err(|_| TooLong)
    }

    /// The place of `child`, brought near if it is too far for a conditional jump.
    fn within_reach(&mut self, parent: Test, child: Id) -> Result<usize, TooLong> {
        let entry = arrival(self.dag, parent, child);
        let places = self.places.get(child.index()).copied().unwrap_or_default();
        let place = match entry {
            Entry::Cold => places.cold,
            Entry::Loaded => places.loaded,
        };
        let place = place.ok_or(TooLong)?;
        if self.out.len() - place <= REACH {
            return Ok(place);
        }
        let near = match self.dag.node(child) {
            Some(Node::Answer(action)) => self.push(RETURN, 0, 0, action.to_raw()),
            _ => self.jump_to(place)?,
        };
        if let Some(places) = self.places.get_mut(child.index()) {
            match entry {
                Entry::Cold => places.cold = Some(near),
                Entry::Loaded => places.loaded = Some(near),
            }
        }
        Ok(near)
    }

    fn jump_to(&mut self, target: usize) -> Result<usize, TooLong> {
        let skipped = self.out.len().checked_sub(target + 1).ok_or(TooLong)?;
        let skipped = u32::try_from(skipped).map_err(|_| TooLong)?;
        Ok(self.push(JUMP, 0, 0, skipped))
    }

    /// Makes the program begin at `root`.
    fn enter(&mut self, root: Id) -> Result<(), TooLong> {
        let place = self.places.get(root.index()).and_then(|p| p.cold).ok_or(TooLong)?;
        if place + 1 != self.out.len() {
            self.jump_to(place)?;
        }
        Ok(())
    }
}
