//! `jail-init --import FILE`: jailkit's sections as files of ours, and a line for each thing that could not be carried over.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jail_provision::error::{Error, Result};
use jail_provision::import::{self, Import, Imported, Note};
use jail_provision::profiles::{ADMIN_DIR, Profiles};
use jail_provision::text;
use serde_json::{Value, json};

use crate::say;

/// No honest file comes near this.
const LARGEST: u64 = 16 << 20;

/// What the command line says.
pub(crate) struct Choices<'a> {
    /// Where the sections go; without it to the administrator's, and then none that would hide a shipped one.
    pub(crate) dir: Option<&'a Path>,
    /// Write over what is there, and over shipped sections.
    pub(crate) force: bool,
    /// Say what would be written.
    pub(crate) dry_run: bool,
    /// Print the result as JSON.
    pub(crate) json: bool,
}

/// What became of one section.
enum Fate {
    Written(PathBuf),
    /// A shipped section of that name does the same and is kept.
    Shipped,
    /// A file of that name is there.
    There(PathBuf),
}

/// Reads the file, writes the sections, says the rest.
pub(crate) fn import(file: &Path, choices: &Choices<'_>) -> Result<ExitCode> {
    let shipped = Profiles::shipped().names()?;
    let import = import::import(&read(file)?, &shipped);
    if import.sections.is_empty() {
        return Err(Error::profile(format!("{} holds no section", text::quote(file)))
            .hint("a jk_init.ini has lines such as [basicshell]"));
    }
    let dir = choices.dir.unwrap_or(Path::new(ADMIN_DIR));
    let hidden = if choices.dir.is_none() && !choices.force { shipped } else { BTreeSet::new() };
    if !choices.dry_run {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(|e| Error::io("make the directory", dir, e))?;
    }
    let mut fates = Vec::new();
    for section in &import.sections {
        fates.push(fate(section, dir, &hidden, choices)?);
    }
    if choices.json {
        say::json(&as_json(&import, &fates, choices.dry_run));
    } else {
        say::out(&as_text(file, dir, &import, &fates, choices.dry_run));
    }
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let io = |e| Error::io("read", file, e);
    let opened = std::fs::File::open(file).map_err(io)?;
    let mut bytes = Vec::new();
    opened.take(LARGEST + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::profile(format!(
            "{} is larger than 16 MiB: no jk_init.ini is",
            text::quote(file)
        )));
    }
    Ok(bytes)
}

fn fate(section: &Imported, dir: &Path, hidden: &BTreeSet<String>, choices: &Choices<'_>) -> Result<Fate> {
    if hidden.contains(&section.name) {
        return Ok(Fate::Shipped);
    }
    let path = dir.join(format!("{}.toml", section.name));
    let same = std::fs::read(&path).is_ok_and(|there| there == section.text.as_bytes());
    if !choices.force && !same && path.symlink_metadata().is_ok() {
        return Ok(Fate::There(path));
    }
    if !choices.dry_run && !same {
        write(&path, &section.text)?;
    }
    Ok(Fate::Written(path))
}

/// Under another name first: whoever reads sections meanwhile gets the old one or the new one.
fn write(path: &Path, content: &str) -> Result<()> {
    let io = |e| Error::io("write", path, e);
    let new = path.with_extension("toml.new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new).map_err(io)?;
    file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
    std::fs::rename(&new, path).map_err(io)
}

fn as_text(file: &Path, dir: &Path, import: &Import, fates: &[Fate], dry_run: bool) -> String {
    let mut out = String::new();
    for (section, fate) in import.sections.iter().zip(fates) {
        match fate {
            Fate::Written(path) if dry_run => {
                out.push_str(&format!("# {}\n{}\n", text::encode(path), section.text));
            }
            Fate::Written(_) => {}
            Fate::Shipped => out.push_str(&format!(
                "kept the shipped section '{}': jail-init -l describes it (-f imports over it)\n",
                section.name
            )),
            Fate::There(path) => {
                out.push_str(&format!(
                    "kept {}: it is there already (-f overwrites it)\n",
                    text::quote(path)
                ));
            }
        }
    }
    for note in &import.notes {
        out.push_str(&format!("{}\n", of_note(file, note)));
    }
    let written = fates.iter().filter(|fate| matches!(fate, Fate::Written(_))).count();
    let verb = if dry_run { "would be written to" } else { "are in" };
    out.push_str(&format!(
        "{} of {} {verb} {}; {}.\n",
        written,
        say::count(import.sections.len(), "section"),
        text::quote(dir),
        match import.notes.len() {
            0 => "everything was carried over".to_owned(),
            notes => format!("{} above", say::count(notes, "remark")),
        }
    ));
    out
}

fn of_note(file: &Path, note: &Note) -> String {
    let place = match note.line {
        0 => text::encode(file),
        line => format!("{}:{line}", text::encode(file)),
    };
    match &note.section {
        Some(section) => format!("{place}: [{}] {}", text::encode(Path::new(section)), note.what),
        None => format!("{place}: {}", note.what),
    }
}

fn as_json(import: &Import, fates: &[Fate], dry_run: bool) -> Value {
    let sections: Vec<Value> = import
        .sections
        .iter()
        .zip(fates)
        .map(|(section, fate)| {
            let (word, file) = match fate {
                Fate::Written(path) => ("written", Some(text::encode(path))),
                Fate::Shipped => ("kept-shipped", None),
                Fate::There(path) => ("kept-file", Some(text::encode(path))),
            };
            json!({ "name": section.name, "fate": word, "file": file, "text": section.text })
        })
        .collect();
    let notes: Vec<Value> = import
        .notes
        .iter()
        .map(|note| json!({ "line": note.line, "section": note.section, "what": note.what }))
        .collect();
    json!({ "dry_run": dry_run, "sections": sections, "notes": notes })
}
