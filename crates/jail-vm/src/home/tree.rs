//! Numbers and paths: the guest names a file by the number it was given for it, and this knows where that is.
//!
//! A number stands for a place, not for a file that is held open: a home may have more files than a process may have
//! descriptors. What is removed while it is open is still known by what is open (`files.rs`).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

type Result<T> = std::result::Result<T, Errno>;

/// The number of the home itself.
pub(super) const ROOT: u64 = 1;
/// A guest holds as many as its memory has room for; one that never lets go of any is stopped here.
const MOST: usize = 1 << 18;
/// A tree is no deeper.
const DEEPEST: usize = 4096;
/// A path is resolved in parts that are no longer (PATH_MAX).
const LONGEST_PART: usize = 3000;

#[derive(Debug)]
struct Node {
    /// The names it has, each in a directory; more than one if the guest has linked it. None: all of them are removed, or
    /// others took them.
    places: Vec<(u64, Vec<u8>)>,
    /// How often the guest was told of it, less how often it has let go.
    told: u64,
}

/// What the guest knows.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: HashMap<u64, Node>,
    numbers: HashMap<(u64, Vec<u8>), u64>,
    last: u64,
}

/// A name in a directory that is open.
pub(super) struct Place {
    pub(super) directory: OwnedFd,
    pub(super) name: Vec<u8>,
}

impl Tree {
    /// The number of a name, which the guest is told of once more.
    pub(super) fn tell(&mut self, parent: u64, name: &[u8]) -> Result<u64> {
        let key = (parent, name.to_vec());
        if let Some(node) = self.numbers.get(&key) {
            let number = *node;
            if let Some(node) = self.nodes.get_mut(&number) {
                node.told = node.told.saturating_add(1);
                return Ok(number);
            }
        }
        if self.nodes.len() >= MOST {
            return Err(Errno::NFILE);
        }
        let number = self.last.max(ROOT).saturating_add(1);
        self.last = number;
        self.nodes.insert(number, Node { places: vec![(parent, name.to_vec())], told: 1 });
        self.numbers.insert(key, number);
        Ok(number)
    }

    /// The guest has given a file one name more, and is told of it by the same number: it is one file.
    pub(super) fn linked(&mut self, number: u64, parent: u64, name: &[u8]) -> Result<u64> {
        if !self.nodes.contains_key(&number) {
            return self.tell(parent, name);
        }
        // What had the name is gone, or the link could not have been made.
        self.removed(parent, name);
        // Every name of every file has its number here: names, too, are bounded.
        if self.numbers.len() >= MOST {
            return Err(Errno::NFILE);
        }
        self.place(Some(number), (parent, name));
        if let Some(node) = self.nodes.get_mut(&number) {
            node.told = node.told.saturating_add(1);
        }
        Ok(number)
    }

    /// The guest lets go.
    pub(super) fn forget(&mut self, number: u64, times: u64) {
        let Some(node) = self.nodes.get_mut(&number) else { return };
        node.told = node.told.saturating_sub(times);
        if node.told > 0 {
            return;
        }
        for place in self.nodes.remove(&number).into_iter().flat_map(|node| node.places) {
            if self.numbers.get(&place) == Some(&number) {
                self.numbers.remove(&place);
            }
        }
    }

    /// A name is no more.
    pub(super) fn removed(&mut self, parent: u64, name: &[u8]) {
        let number = self.numbers.remove(&(parent, name.to_vec()));
        self.lost(number, (parent, name));
    }

    fn lost(&mut self, number: Option<u64>, place: (u64, &[u8])) {
        if let Some(node) = number.and_then(|number| self.nodes.get_mut(&number)) {
            node.places.retain(|(parent, name)| (*parent, name.as_slice()) != place);
        }
    }

    /// A name has moved; what had the new one is gone.
    pub(super) fn moved(&mut self, from: (u64, &[u8]), to: (u64, &[u8])) {
        let number = self.numbers.remove(&(from.0, from.1.to_vec()));
        self.lost(number, from);
        self.removed(to.0, to.1);
        self.place(number, to);
    }

    /// Two names have changed places.
    pub(super) fn exchanged(&mut self, one: (u64, &[u8]), other: (u64, &[u8])) {
        let first = self.numbers.remove(&(one.0, one.1.to_vec()));
        let second = self.numbers.remove(&(other.0, other.1.to_vec()));
        self.lost(first, one);
        self.lost(second, other);
        self.place(first, other);
        self.place(second, one);
    }

    fn place(&mut self, number: Option<u64>, at: (u64, &[u8])) {
        let Some(number) = number else { return };
        if let Some(node) = self.nodes.get_mut(&number) {
            node.places.push((at.0, at.1.to_vec()));
            self.numbers.insert((at.0, at.1.to_vec()), number);
        }
    }

    /// The directory that a number stands for.
    pub(super) fn directory(&self, root: &OwnedFd, number: u64) -> Result<OwnedFd> {
        let mut names = Vec::new();
        let mut at = number;
        while at != ROOT {
            let (parent, name) = self.first_place(at)?;
            names.push(name);
            at = parent;
            if names.len() > DEEPEST {
                return Err(Errno::LOOP);
            }
        }
        let mut current = open_directory(root, b".")?;
        while !names.is_empty() {
            let mut part: Vec<u8> = Vec::new();
            while let Some(name) = names.pop() {
                if !part.is_empty() {
                    part.push(b'/');
                }
                part.extend_from_slice(name);
                if part.len() > LONGEST_PART {
                    break;
                }
            }
            current = open_directory(&current, &part)?;
        }
        Ok(current)
    }

    /// Where a number is; the home itself is `.` in itself.
    pub(super) fn place_of(&self, root: &OwnedFd, number: u64) -> Result<Place> {
        if number == ROOT {
            return Ok(Place { directory: open_directory(root, b".")?, name: b".".to_vec() });
        }
        let (parent, name) = self.first_place(number)?;
        Ok(Place { directory: self.directory(root, parent)?, name: name.to_vec() })
    }

    fn first_place(&self, number: u64) -> Result<(u64, &[u8])> {
        let place = self.nodes.get(&number).and_then(|node| node.places.first());
        place.map(|(parent, name)| (*parent, name.as_slice())).ok_or(Errno::STALE)
    }

    /// How many numbers are known.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }
}

/// No link is followed on the way, and nothing above is reached.
pub(super) const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

fn open_directory(at: impl AsFd, path: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(at, OsStr::from_bytes(path), flags, Mode::empty(), BENEATH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_what_moves_and_are_let_go_of() {
        let dir = tempfile::tempdir().expect("scratch");
        std::fs::create_dir_all(dir.path().join("a/b")).expect("made");
        let root = open_directory(rustix::fs::CWD, b".")
            .and_then(|_| rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()));
        let root = root.expect("opened");
        let mut tree = Tree::default();
        let a = tree.tell(ROOT, b"a").expect("told");
        let b = tree.tell(a, b"b").expect("told");
        assert!(tree.directory(&root, b).is_ok());
        std::fs::rename(dir.path().join("a"), dir.path().join("c")).expect("moved");
        assert!(tree.directory(&root, b).is_err());
        tree.moved((ROOT, b"a"), (ROOT, b"c"));
        assert!(tree.directory(&root, b).is_ok());
        assert_eq!(tree.tell(ROOT, b"c"), Ok(a));
        tree.removed(a, b"b");
        assert_eq!(tree.directory(&root, b).err(), Some(Errno::STALE));
        assert_ne!(tree.tell(a, b"b"), Ok(b), "a new file of the same name is another");
        tree.forget(a, 2);
        assert_eq!(tree.directory(&root, a).err(), Some(Errno::STALE));
        tree.forget(b, 1);
        assert_eq!(tree.len(), 1);
    }

    #[test]
    fn a_file_of_two_names_lives_as_long_as_one_of_them() {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("opened");
        let mut tree = Tree::default();
        let file = tree.tell(ROOT, b"one").expect("told");
        assert_eq!(tree.linked(file, ROOT, b"two"), Ok(file));
        assert_eq!(tree.tell(ROOT, b"two"), Ok(file));
        tree.removed(ROOT, b"one");
        assert_eq!(tree.place_of(&root, file).map(|place| place.name), Ok(b"two".to_vec()));
        tree.moved((ROOT, b"two"), (ROOT, b"three"));
        assert_eq!(tree.place_of(&root, file).map(|place| place.name), Ok(b"three".to_vec()));
        tree.removed(ROOT, b"three");
        assert_eq!(tree.place_of(&root, file).err(), Some(Errno::STALE));
    }

    /// Names in a directory that it lets go of, and is told of by another number the next time.
    #[test]
    fn a_guest_that_links_without_end_is_stopped() {
        let mut tree = Tree::default();
        let file = tree.tell(ROOT, b"file").expect("told");
        let stopped = (0..=MOST).find(|_| {
            let directory = tree.tell(ROOT, b"directory").expect("told");
            let linked = tree.linked(file, directory, b"name");
            tree.forget(directory, 1);
            linked.is_err()
        });
        assert!(stopped.is_some() && tree.numbers.len() <= MOST, "{stopped:?}");
    }

    #[test]
    fn a_name_that_another_had_is_the_new_ones_alone() {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("opened");
        let mut tree = Tree::default();
        let (old, new) = (tree.tell(ROOT, b"name").expect("told"), tree.tell(ROOT, b"new").expect("told"));
        // The host has removed the first meanwhile, or the link could not have been made.
        assert_eq!(tree.linked(new, ROOT, b"name"), Ok(new));
        assert_eq!(tree.place_of(&root, old).err(), Some(Errno::STALE));
    }

    #[test]
    fn a_guest_that_never_lets_go_is_stopped() {
        let mut tree = Tree::default();
        let stopped = (0_u32..).find(|n| tree.tell(ROOT, &n.to_le_bytes()).is_err());
        assert_eq!(stopped, u32::try_from(MOST).ok());
    }
}
