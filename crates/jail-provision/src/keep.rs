//! What an update leaves alone because a program could not be made to work any more: the program's old files, and only its.
//!
//! The old set is found in the jail itself, by asking what the program there needs there: that is what it runs with now.
//! What other programs need as well is renewed with them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::glob;
use crate::host::{Host, RealHost};
use crate::jailroot::JailRoot;
use crate::manifest::{Manifest, PathText};
use crate::plan::{Action, Plan, Step};
use crate::resolve::Resolver;
use crate::tree::Tree;

/// Takes the broken programs out of the tree, so that they are not renewed. Answers all paths of the jail that they need.
pub(crate) fn hold(tree: &mut Tree, old: &Manifest, jail: &JailRoot) -> BTreeSet<PathBuf> {
    let mut held = BTreeSet::new();
    for broken in tree.broken.clone() {
        for place in broken.places.iter().flat_map(|place| expand(jail, place)) {
            for path in own_files(&place, old, jail) {
                tree.nodes.remove(&path);
                held.insert(path);
            }
        }
    }
    let programs: Vec<PathBuf> = held.iter().cloned().collect();
    held.extend(programs.iter().flat_map(|program| needs(program, jail)));
    held
}

fn expand(jail: &JailRoot, place: &Path) -> Vec<PathBuf> {
    match place.to_str() {
        Some(pattern) if glob::is_pattern(pattern) => glob::expand(jail, pattern),
        _ => vec![place.to_path_buf()],
    }
}

/// The file or tree at a place of the jail, with the links that lead there, as far as it is ours. A directory's link
/// (`/bin`) is everybody's.
fn own_files(place: &Path, old: &Manifest, jail: &JailRoot) -> Vec<PathBuf> {
    let Ok(walk) = jail.walk(place) else { return Vec::new() };
    if walk.stat.is_dir() {
        let below = old.files.keys().map(|path| &path.0).filter(|path| path.starts_with(&walk.real));
        return below.cloned().collect();
    }
    let leads_to_file = |link: &Path| jail.stat(link).is_ok_and(|stat| stat.is_file());
    let links = walk.links.into_iter().map(|link| link.path).filter(|link| leads_to_file(link));
    links.chain([walk.real]).filter(|path| old.get(path).is_some()).collect()
}

/// What a program needs in the jail, with the links on the way.
fn needs(program: &Path, jail: &JailRoot) -> Vec<PathBuf> {
    let Ok(inside) = RealHost::jail(jail.path()) else { return Vec::new() };
    let Ok(needs) = Resolver::new(&inside).survey(program) else { return Vec::new() };
    let mut paths = Vec::new();
    for need in &needs.needs {
        if let Ok(walk) = jail.walk(&need.path) {
            paths.extend(walk.links.into_iter().map(|link| link.path));
            paths.push(walk.real);
        }
    }
    paths
}

/// Takes out of a plan whatever would remove what is held, or a directory above it.
pub(crate) fn protect(plan: &mut Plan, held: &BTreeSet<PathBuf>, old: &Manifest) {
    let needed: BTreeSet<&Path> = held.iter().flat_map(|path| path.ancestors()).collect();
    let (harmful, steps): (Vec<Step>, _) = std::mem::take(&mut plan.steps)
        .into_iter()
        .partition(|step| step.action == Action::Remove && needed.contains(step.path.as_path()));
    plan.steps = steps;
    for step in harmful {
        let key = PathText(step.path);
        if let Some(record) = old.files.get(&key) {
            plan.unchanged.insert(key, record.clone());
        }
    }
}
