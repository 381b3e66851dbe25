//! The layers of an image laid over each other, in memory: what the tree will be, decided before anything is written.
//!
//! A layer may take away, replace and add. A path whose directory is a link is followed only within this tree, only through
//! a link that a layer below made, and only one link at a time: an honest layer is the picture of a directory tree, in which
//! nothing lies below a link that the same picture holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jail_provision::digest::Fingerprint;
use jail_provision::jailroot::Meta;
use jail_provision::text;

use super::layer::{Budget, Item, Kind, resolve};

/// Where a file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) layer: usize,
    /// Which item of the layer.
    pub(super) number: usize,
    pub(super) size: u64,
    pub(super) mtime: i64,
    /// Known if the tree is to be held against an older one.
    pub(super) digest: Option<Fingerprint>,
}

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Directory,
    /// A number of [`Tree::files`]; names that share one are hard links.
    File(usize),
    Symlink(PathBuf),
}

/// A path of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) what: What,
    pub(super) meta: Meta,
    /// The layer that put it there.
    layer: usize,
}

/// The merged tree.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Parents before what is in them.
    pub(super) nodes: BTreeMap<PathBuf, Node>,
    pub(super) files: Vec<Content>,
    /// What the image had and the jail will not.
    pub(super) dropped: Dropped,
    /// The directory of the last entry, as it was named and where it really lies: entries of one directory come together.
    way: Option<(PathBuf, PathBuf)>,
}

/// Counted, with the first few by name.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    pub(super) setuid: Vec<PathBuf>,
    pub(super) capabilities: Vec<PathBuf>,
    pub(super) devices: Vec<PathBuf>,
}

/// One item of a layer, its number, and its content's digest if it is wanted.
pub(super) type Numbered = (usize, Item, Option<Fingerprint>);

impl Tree {
    /// Lays a layer over what is there.
    ///
    /// # Errors
    /// A sentence about what no honest layer holds.
    pub(super) fn lay(
        &mut self,
        layer: usize,
        items: Vec<Numbered>,
        budget: &mut Budget,
    ) -> Result<(), String> {
        self.way = None;
        // What a layer takes away is what was below it, wherever in the layer it says so.
        let (orders, things): (Vec<_>, Vec<_>) =
            items.into_iter().partition(|(_, item, _)| matches!(item.kind, Kind::Whiteout | Kind::Opaque));
        for (_, item, _) in orders {
            self.take_away(&item, layer)?;
        }
        for (number, item, digest) in things {
            self.add(layer, number, item, digest, budget)?;
        }
        Ok(())
    }

    fn take_away(&mut self, item: &Item, layer: usize) -> Result<(), String> {
        if item.path.as_os_str().is_empty() {
            self.nodes.clear();
            return Ok(());
        }
        let Some(path) = self.locate(&item.path, layer)? else { return Ok(()) };
        self.remove_below(&path);
        if item.kind == Kind::Whiteout {
            self.nodes.remove(&path);
        }
        Ok(())
    }

    fn add(
        &mut self,
        layer: usize,
        number: usize,
        item: Item,
        digest: Option<Fingerprint>,
        budget: &mut Budget,
    ) -> Result<(), String> {
        let Item { path, kind, mode, uid, gid, mtime, capabilities } = item;
        if kind == Kind::Device {
            self.dropped.devices.push(path);
            return Ok(());
        }
        let path = self.make_way(&path, layer, budget)?;
        if capabilities {
            self.dropped.capabilities.push(path.clone());
        }
        let mut meta = Meta { uid, gid, mode };
        let what = match kind {
            Kind::Directory => {
                // set-uid means nothing on a directory; set-gid hands the group on, and stays.
                meta.mode &= !0o4000;
                What::Directory
            }
            Kind::File { size } => {
                if meta.mode & 0o6000 != 0 {
                    meta.mode &= 0o1777;
                    self.dropped.setuid.push(path.clone());
                }
                self.files.push(Content { layer, number, size, mtime, digest });
                What::File(self.files.len() - 1)
            }
            Kind::Symlink(target) => What::Symlink(target),
            Kind::HardLink(target) => {
                let linked = self.hard_link(&path, &target, layer)?;
                meta = linked.meta;
                linked.what
            }
            Kind::Whiteout | Kind::Opaque | Kind::Device => return Ok(()),
        };
        let is_directory = what == What::Directory;
        let old = self.nodes.insert(path.clone(), Node { what, meta, layer });
        match old.map(|old| old.what) {
            // Only a directory has anything below it.
            Some(What::Directory) if !is_directory => {
                self.remove_below(&path);
                self.way = None;
            }
            Some(What::Symlink(_)) => self.way = None,
            _ => {}
        }
        Ok(())
    }

    fn hard_link(&self, path: &Path, target: &Path, layer: usize) -> Result<Node, String> {
        let found = self.locate(target, layer)?.and_then(|target| self.nodes.get(&target));
        match found {
            Some(node) if node.what != What::Directory => Ok(node.clone()),
            _ => Err(format!(
                "the hard link {} leads to {}, which is no file of the image",
                text::quote(path),
                text::quote(target)
            )),
        }
    }

    /// Where a path really lies; `None` if a directory on the way is not there.
    fn locate(&self, path: &Path, layer: usize) -> Result<Option<PathBuf>, String> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if self.is_plain(parent) {
            return Ok(Some(path.to_path_buf()));
        }
        let mut at = PathBuf::new();
        for component in parent.components() {
            let next = at.join(component);
            at = match self.nodes.get(&next) {
                None => return Ok(None),
                Some(node) => self.through(path, &next, node, layer)?,
            };
        }
        Ok(Some(at.join(path.file_name().unwrap_or_default())))
    }

    /// As [`Tree::locate`], and makes the directories that are missing: layers may leave them out.
    fn make_way(&mut self, path: &Path, layer: usize, budget: &mut Budget) -> Result<PathBuf, String> {
        let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        if let Some((_, real)) =
            self.way.as_ref().filter(|(named, _)| named.as_os_str() == parent.as_os_str())
        {
            return Ok(real.join(name));
        }
        if self.is_plain(parent) {
            self.way = Some((parent.to_path_buf(), parent.to_path_buf()));
            return Ok(path.to_path_buf());
        }
        let mut at = PathBuf::new();
        for component in parent.components() {
            let next = at.join(component);
            at = match self.nodes.get(&next) {
                Some(node) => self.through(path, &next, node, layer)?,
                None => {
                    budget.entry(0, next.as_os_str().len())?;
                    let meta = Meta { uid: 0, gid: 0, mode: 0o755 };
                    self.nodes.insert(next.clone(), Node { what: What::Directory, meta, layer });
                    next
                }
            };
        }
        let path = at.join(name);
        self.way = Some((parent.to_path_buf(), at));
        Ok(path)
    }

    /// Whether this is a directory of the tree, or its root. All that is above one is too, so no link can be on the way, and
    /// nobody need go it step by step: two hundred steps for each of a million entries take a quarter of an hour.
    fn is_plain(&self, directory: &Path) -> bool {
        directory.as_os_str().is_empty()
            || self.nodes.get(directory).is_some_and(|node| node.what == What::Directory)
    }

    /// The directory that a component of a path stands for.
    fn through(&self, path: &Path, at: &Path, node: &Node, layer: usize) -> Result<PathBuf, String> {
        if node.what == What::Directory {
            return Ok(at.to_path_buf());
        }
        let (path, shown) = (text::quote(path), text::quote(at));
        let target = match &node.what {
            What::Directory => return Ok(at.to_path_buf()),
            What::File(_) => return Err(format!("{path} lies below the file {shown}")),
            What::Symlink(_) if node.layer == layer => {
                return Err(format!("{path} leads through the link {shown} of the same layer"));
            }
            What::Symlink(target) => target,
        };
        let real = resolve(at, target).unwrap_or_default();
        if real.as_os_str().is_empty() {
            return Err(format!("{path} leads through the link {shown} to the root"));
        }
        match self.nodes.get(&real) {
            Some(Node { what: What::Directory, .. }) => Ok(real),
            _ => Err(format!(
                "{path} leads through the link {shown}, which leads to no directory of the image"
            )),
        }
    }

    fn remove_below(&mut self, path: &Path) {
        // Ordered by component, what is below a path comes right after it.
        let below: Vec<PathBuf> = self
            .nodes
            .range::<Path, _>((std::ops::Bound::Excluded(path), std::ops::Bound::Unbounded))
            .map(|(other, _)| other)
            .take_while(|other| other.starts_with(path))
            .cloned()
            .collect();
        for path in below {
            self.nodes.remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(path: &str, kind: Kind) -> Item {
        Item { path: path.into(), kind, mode: 0o755, uid: 0, gid: 0, mtime: 0, capabilities: false }
    }

    fn file(path: &str) -> Item {
        item(path, Kind::File { size: 1 })
    }

    fn link(path: &str, target: &str) -> Item {
        item(path, Kind::Symlink(target.into()))
    }

    fn merged(layers: &[&[Item]]) -> Result<Tree, String> {
        let (mut tree, mut budget) = (Tree::default(), Budget::new(1 << 20));
        for (n, layer) in layers.iter().enumerate() {
            let items = layer.iter().cloned().enumerate().map(|(i, item)| (i, item, None)).collect();
            tree.lay(n, items, &mut budget)?;
        }
        Ok(tree)
    }

    fn paths(tree: &Tree) -> Vec<&str> {
        tree.nodes.keys().map(|path| path.to_str().expect("ASCII")).collect()
    }

    #[test]
    fn a_layer_takes_away_what_is_below_it_only() {
        let below = [file("a/x"), file("a/y"), file("b/x")];
        let above = [file("a/z"), item("a/x", Kind::Whiteout), item("b", Kind::Opaque), file("b/new")];
        let tree = merged(&[&below, &above]).expect("merged");
        assert_eq!(paths(&tree), ["a", "a/y", "a/z", "b", "b/new"]);
        let gone = merged(&[&below, &[item("a", Kind::Whiteout), file("a/own")]]).expect("merged");
        assert_eq!(paths(&gone), ["a", "a/own", "b", "b/x"]);
        // Its own file of the same name is not what a whiteout takes away.
        let kept = merged(&[&below, &[file("a/x"), item("a/x", Kind::Whiteout)]]).expect("merged");
        assert!(kept.nodes.contains_key(Path::new("a/x")));
    }

    #[test]
    fn a_thing_of_another_kind_takes_the_place_of_a_tree() {
        let tree = merged(&[&[file("a/b/c"), file("a!")], &[file("a")]]).expect("merged");
        assert_eq!(paths(&tree), ["a", "a!"]);
        let tree = merged(&[&[file("a/b/c"), file("a/b"), file("a/d")], &[link("x", "a"), file("x/y")]]);
        assert!(tree.expect_err("through its own link").contains("of the same layer"));
        let tree = merged(&[&[link("a", "/b"), file("b/x")], &[item("a", Kind::Directory), file("a/y")]]);
        assert_eq!(paths(&tree.expect("merged")), ["a", "a/y", "b", "b/x"]);
    }

    #[test]
    fn a_link_of_a_layer_below_is_followed_inside_the_tree() {
        let base = [item("usr/lib", Kind::Directory), link("lib", "usr/lib")];
        let tree = merged(&[&base, &[file("lib/libc.so")]]).expect("merged");
        assert!(tree.nodes.contains_key(Path::new("usr/lib/libc.so")));
        let tree = merged(&[&base, &[file("usr/lib/x")], &[item("lib/x", Kind::Whiteout)]]).expect("merged");
        assert!(!tree.nodes.contains_key(Path::new("usr/lib/x")));
    }

    /// What is remembered of the last entry's directory must not outlive that directory.
    #[test]
    fn a_directory_that_was_replaced_is_none() {
        let refused = merged(&[&[file("a/x"), link("a", "/etc"), file("a/y")]]).expect_err("refused");
        assert!(refused.contains("of the same layer"), "{refused}");
        let refused = merged(&[&[file("a/x"), file("a"), file("a/y")]]).expect_err("refused");
        assert!(refused.contains("below the file"), "{refused}");
        let base = [item("b", Kind::Directory), link("a", "b")];
        let tree = merged(&[&base, &[file("a/x"), item("a", Kind::Directory), file("a/y")]]).expect("merged");
        assert_eq!(paths(&tree), ["a", "a/y", "b", "b/x"]);
    }

    /// Directories that the layer leaves out count as if it had named them.
    #[test]
    fn directories_on_the_way_are_counted() {
        let deep: Vec<Item> = (0..100).map(|n| file(&format!("{n}/{}x", "d/".repeat(100)))).collect();
        let refused = merged(&[&deep]).expect_err("ten thousand directories");
        assert!(refused.contains("unpacks to more than 1048576 bytes"), "{refused}");
    }

    #[test]
    fn a_link_is_no_way_out() {
        for (layers, why) in [
            (vec![vec![link("a", "/etc"), file("a/passwd")]], "of the same layer"),
            (vec![vec![link("a", "/etc")], vec![file("a/passwd")]], "no directory of the image"),
            (
                vec![vec![item("d", Kind::Directory), link("b", "d"), link("a", "b")], vec![file("a/x")]],
                "no directory",
            ),
            (vec![vec![link("a", "a")], vec![file("a/x")]], "no directory"),
            (vec![vec![link("a", "/")], vec![file("a/x")]], "to the root"),
            (vec![vec![file("a"), file("a/x")]], "below the file"),
            (vec![vec![item("x", Kind::HardLink("etc/shadow".into()))]], "no file of the image"),
            (
                vec![vec![link("a", "/etc"), item("x", Kind::HardLink("a/shadow".into()))]],
                "of the same layer",
            ),
        ] {
            let layers: Vec<&[Item]> = layers.iter().map(Vec::as_slice).collect();
            let refused = merged(&layers).expect_err(why);
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn hard_links_share_one_content_and_privilege_is_dropped() {
        let su = Item { mode: 0o4755, ..file("bin/su") };
        let tree = merged(&[&[su], &[item("bin/too", Kind::HardLink("bin/su".into()))], &[file("bin/su")]]);
        let tree = tree.expect("merged");
        assert_eq!(tree.nodes[Path::new("bin/too")].what, What::File(0));
        assert_eq!(tree.nodes[Path::new("bin/su")].what, What::File(1));
        assert_eq!(tree.nodes[Path::new("bin/too")].meta.mode, 0o755);
        assert_eq!(tree.dropped.setuid, [PathBuf::from("bin/su")]);
    }
}
