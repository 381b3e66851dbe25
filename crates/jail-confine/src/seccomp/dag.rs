//! What a filter decides, as a graph of tests that ends in answers.
//!
//! Equal nodes are one node, so a test that changes nothing disappears and equal ends are shared; children are always
//! made before parents, which is also the order the emitter wants.

use std::collections::BTreeMap;

use super::action::Action;

/// A node by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(u32);

impl Id {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A 32-bit word of `struct seccomp_data`, by its offset in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Word(pub(super) u8);

impl Word {
    /// The system call's number.
    pub(super) const NUMBER: Self = Self(0);
    /// The audit architecture.
    pub(super) const ARCH: Self = Self(4);

    /// The low half of an argument (all our architectures are little-endian).
    pub(super) const fn low(arg: u8) -> Self {
        Self(16 + 8 * arg)
    }

    /// The high half of an argument.
    pub(super) const fn high(arg: u8) -> Self {
        Self(20 + 8 * arg)
    }
}

#[cfg(not(target_endian = "little"))]
compile_error!("seccomp arguments are read as little-endian words");

/// How a word is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Compare {
    Equal,
    Greater,
    GreaterOrEqual,
}

/// A test of one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Test {
    pub(super) word: Word,
    pub(super) mask: u32,
    pub(super) compare: Compare,
    pub(super) value: u32,
}

impl Test {
    /// `word == value`
    pub(super) const fn equal(word: Word, value: u32) -> Self {
        Self { word, mask: u32::MAX, compare: Compare::Equal, value }
    }

    /// `word & mask == value`
    pub(super) const fn masked(word: Word, mask: u32, value: u32) -> Self {
        Self { word, mask, compare: Compare::Equal, value }
    }

    /// `word >= value`
    pub(super) const fn at_least(word: Word, value: u32) -> Self {
        Self { word, mask: u32::MAX, compare: Compare::GreaterOrEqual, value }
    }
}

/// A test with its two ends, or an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    Answer(Action),
    Test { test: Test, yes: Id, no: Id },
}

/// The graph.
#[derive(Debug, Default)]
pub(super) struct Dag {
    nodes: Vec<Node>,
    /// The strictest answer that can be reached from each node, to spare most walks.
    strictest: Vec<u8>,
    known: BTreeMap<Node, Id>,
}

impl Dag {
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn node(&self, id: Id) -> Option<Node> {
        self.at(id.index())
    }

    pub(super) fn at(&self, index: usize) -> Option<Node> {
        self.nodes.get(index).copied()
    }

    fn intern(&mut self, node: Node, strictest: u8) -> Id {
        if let Some(id) = self.known.get(&node) {
            return *id;
        }
        // A profile of the largest size has fewer nodes than 2^32 by far.
        let id = Id(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(node);
        self.strictest.push(strictest);
        self.known.insert(node, id);
        id
    }

    pub(super) fn answer(&mut self, action: Action) -> Id {
        self.intern(Node::Answer(action), action.rank())
    }

    fn strictest(&self, id: Id) -> u8 {
        self.strictest.get(id.index()).copied().unwrap_or(0)
    }

    /// What `id` comes to where `test` is known to hold, and where it is known not to.
    pub(super) fn given(&self, id: Id, known: Test) -> (Id, Id) {
        match self.node(id) {
            Some(Node::Test { test, yes, no }) if test == known => (yes, no),
            _ => (id, id),
        }
    }

    /// `test ? yes : no`
    pub(super) fn test(&mut self, test: Test, yes: Id, no: Id) -> Id {
        if yes == no {
            return yes;
        }
        if test.mask == 0 && test.compare == Compare::Equal {
            return if test.value == 0 { yes } else { no };
        }
        let strictest = self.strictest(yes).min(self.strictest(no));
        self.intern(Node::Test { test, yes, no }, strictest)
    }

    /// `id`, but nowhere laxer than `action`: what two stacked filters would answer.
    pub(super) fn at_least_as_strict(&mut self, id: Id, action: Action) -> Id {
        if self.strictest(id) >= action.rank() {
            return self.answer(action);
        }
        match self.node(id) {
            Some(Node::Test { test, yes, no }) => {
                let yes = self.at_least_as_strict(yes, action);
                let no = self.at_least_as_strict(no, action);
                self.test(test, yes, no)
            }
            Some(Node::Answer(other)) => self.answer(action.stricter(other)),
            None => self.answer(action),
        }
    }

    /// A balanced search over numbers: `starts` are the first number of each interval, in order, and its decision.
    pub(super) fn search(&mut self, word: Word, intervals: &[(u32, Id)]) -> Id {
        match intervals {
            [] => self.answer(Action::KillProcess),
            [(_, only)] => *only,
            // One number that is told apart from equal neighbours costs one comparison instead of two.
            [(_, before), (number, at), (next, after)]
                if before == after && next.wrapping_sub(*number) == 1 =>
            {
                self.test(Test::equal(word, *number), *at, *before)
            }
            _ => {
                let (low, high) = intervals.split_at(intervals.len() / 2);
                let Some((first_high, _)) = high.first() else { return self.answer(Action::KillProcess) };
                let yes = self.search(word, high);
                let no = self.search(word, low);
                self.test(Test::at_least(word, *first_high), yes, no)
            }
        }
    }
}
