//! `jail-init --adopt -j JAIL`: a manifest for a jail that jailkit made, and then a run as any other.

use std::path::Path;

use jail_provision::adopt;
use jail_provision::error::{Error, Result};
use jail_provision::host::RealHost;
use jail_provision::jailroot::{Found, JailRoot};
use jail_provision::manifest::{Manifest, PathText};
use jail_provision::profiles::Profiles;
use jail_provision::section;
use jail_provision::state::State;
use jail_provision::text;
use jail_provision::tree::{self, Owner, Tree};
use jail_provision::wanted::Wanted;

use crate::run::Tool;
use crate::say;

/// The section that the finding becomes.
const SECTION: &str = "adopted";

/// Looks through the jail and writes down what was found. The run that follows makes what is missing.
pub(crate) fn adopt(jail: &Path, sections: &[String], tool: &Tool) -> Result<()> {
    let Found::Jail(root) = JailRoot::find(jail)? else {
        return Err(Error::failed(format!("there is no jail {}", text::quote(jail))));
    };
    let state = tool.state(root.path());
    must_be_unknown(&state, root.path())?;
    let host = RealHost::system();
    let mut found = adopt::look(&root, &host)?;
    let mut manifest = Manifest::new(root.path());
    manifest.sections = sections.iter().cloned().chain([SECTION.to_owned()]).collect();
    let shipped = Profiles::standard().resolve(sections)?;
    let grow = |found: &adopt::Holdings, tree: &Tree| -> Result<(Tree, String)> {
        let text = found.section(root.path(), &host, tree);
        let mut all = shipped.clone();
        all.push(section::parse(SECTION, "adopted.toml", text.as_bytes())?);
        let mut wanted = Wanted::new(&all, &found.wishes(), manifest.options);
        wanted.keep_broken = true;
        Ok((tree::grow(&host, &wanted, Owner::of_this_process())?, text))
    };
    let (tree, _) = grow(&found, &Tree::default())?;
    found.name_the_rest(&tree);
    let (tree, _) = grow(&found, &tree)?;
    let (tree, text) = grow(&found, &tree)?;
    manifest.wishes = found.wishes();
    adopt::remember(&tree, &root, &host, &mut manifest)?;
    tell(&manifest, &found, tool.dry_run);
    if tool.dry_run {
        say::out(&text);
        return Ok(());
    }
    state.make()?;
    let _lock = state.lock(&mut |holder| say::waiting("jail-init", holder))?;
    // Whoever had the lock before us may have made it his.
    must_be_unknown(&state, root.path())?;
    let dir = state.dir().join("sections");
    std::fs::create_dir_all(&dir).map_err(|e| Error::io("make the directory", &dir, e))?;
    state.stage_bytes(dir.join(format!("{SECTION}.toml")), text.as_bytes(), 0o644)?.commit()?;
    manifest.section_dir = Some(PathText(dir));
    state.stage(&manifest)?.commit()
}

fn must_be_unknown(state: &State, jail: &Path) -> Result<()> {
    match state.manifest()? {
        None => Ok(()),
        Some(_) => Err(Error::refused(format!("{} has a manifest already", text::quote(jail)))
            .hint("jail-update brings it in step with the host")),
    }
}

fn tell(manifest: &Manifest, found: &adopt::Holdings, dry_run: bool) {
    for path in &found.foreign {
        say::out(&format!("left alone {}: the host has no such file\n", text::quote(path)));
    }
    let verb = if dry_run { "would be adopted" } else { "adopted" };
    let jail = text::encode(&manifest.jail.0);
    say::out(&format!("{jail}: {} {verb}.\n", say::count(manifest.files.len(), "path")));
}
