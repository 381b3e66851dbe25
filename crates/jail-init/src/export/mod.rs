//! jail-export: a jail as an OCI image, an archive, an initramfs, or a Pod.
//!
//! The same jail gives the same bytes. Nothing of the jail is changed; an archive appears under its name only when it is
//! whole.

mod archive;
mod bill;
mod cache;
mod contents;
mod cpio;
pub(crate) mod digesting;
mod kubernetes;
mod layout;
mod output;
mod settings;
mod subject;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, CommandFactory, Parser};
use jail_provision::error::{Error, Result};
use jail_provision::text;
use serde_json::{Value, json};

use self::bill::Bill;
use self::contents::Contents;
use self::kubernetes::Kind;
use self::layout::Source;
use self::output::{Output, is_stream};
use self::settings::Container;
use self::subject::Subject;
use crate::oci;
use crate::progress::Line;
use crate::say;

const EXAMPLE: &str = "\
Example:
  jail-export -j /home/jail --oci jail.tar
      an image for podman load, skopeo copy, ctr image import
  podman load -i jail.tar
  podman run --read-only --network none --cap-drop all \\
    --security-opt no-new-privileges \\
    --security-opt seccomp=jail.seccomp.json localhost/home-jail ls
  jail-export -j /home/jail --tar - | ssh other 'tar xC /srv/jail'
  jail-export -j /home/jail --kubernetes jail.yaml \\
    --image registry.example/jail:1

Exit status: 0 done, 1 the work failed, 2 usage, 3 bad policy,
4 refused as unsafe.";

/// Export a jail as an OCI image, a tar or cpio archive, or as YAML for Kubernetes.
///
/// The same jail gives the same image, digest and all. Left out are homes, /tmp, /run, device nodes and sockets. What a
/// section did not ask to be set-uid is not in the archive either. An image is configured from the policy: its user,
/// variables, working directory and command; its labels name the sections and hold the software bill of material; its seccomp
/// profile is written beside it as NAME.seccomp.json.
#[derive(Debug, Parser)]
#[command(name = "jail-export", version, after_help = EXAMPLE, max_term_width = 100)]
#[command(override_usage = "jail-export -j DIR (--oci | --tar | --cpio | --kubernetes) FILE [OPTIONS]")]
#[command(group = ArgGroup::new("form").required(true).multiple(true))]
pub struct Cli {
    /// The jail's directory
    #[arg(short, long, value_name = "DIR")]
    jail: PathBuf,
    /// Write an OCI image: a file if the name ends in .tar, else a directory
    #[arg(long, value_name = "DIR|FILE.tar", group = "form")]
    oci: Option<PathBuf>,
    /// Write a tar archive (- is standard output)
    #[arg(long, value_name = "FILE", group = "form")]
    tar: Option<PathBuf>,
    /// Write a cpio archive that a kernel takes as initramfs (- is standard output)
    #[arg(long, value_name = "FILE", group = "form")]
    cpio: Option<PathBuf>,
    /// Write a Pod and a NetworkPolicy with the jail's confinement (- is standard output)
    #[arg(long, value_name = "FILE.yaml", group = "form")]
    kubernetes: Option<PathBuf>,
    /// A Deployment instead of a Pod
    #[arg(long, requires = "kubernetes")]
    deployment: bool,
    /// The user of the jail that the image runs as; without it the image runs as nobody
    #[arg(short, long, value_name = "NAME")]
    user: Option<String>,
    /// What the image is called [default: localhost/JAIL:latest]
    #[arg(long, value_name = "REFERENCE")]
    image: Option<String>,
    /// Compress the image's layer
    #[arg(long, requires = "oci")]
    gzip: bool,
    /// Digest everything again, whatever is remembered of the last export
    #[arg(long, requires = "oci")]
    afresh: bool,
    /// Name every entry that is written
    #[arg(short, long)]
    verbose: bool,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The command line, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// The whole tool.
#[must_use]
pub fn main() -> ExitCode {
    say::tool("jail-export", || run(&Cli::parse()))
}

/// One file or directory that was, or would be, written.
struct Made {
    form: &'static str,
    path: PathBuf,
    digest: Option<String>,
}

fn run(cli: &Cli) -> Result<ExitCode> {
    check_usage(cli)?;
    let subject = Subject::open(&cli.jail)?;
    // A dry run takes no lock: it must not write even that.
    let lock = if cli.dry_run {
        None
    } else {
        Some(subject.state.lock(&mut |holder| say::waiting("jail-export", holder))?)
    };
    let mut line = Line::new(cli.verbose && !cli.json && !writes_to_stream(cli));
    let container = container(cli, &subject)?;
    // What the bill of material needs takes as long as the layer: so both are done at once.
    let (contents, made, more_notes) = std::thread::scope(|scope| {
        let bill = match cli.oci.is_some() && !cli.dry_run {
            true => Some(Bill::begin(scope, &subject, cli.afresh)?),
            false => None,
        };
        let contents = subject.contents()?;
        let (made, notes) = write(cli, &subject, &contents, container.as_ref(), bill, &mut line)?;
        Ok((contents, made, notes))
    })?;
    line.clear();
    drop(lock);
    let notes: Vec<&String> =
        contents.notes.iter().chain(container.iter().flat_map(|c| &c.notes)).chain(&more_notes).collect();
    if cli.json {
        say::json(&as_json(cli, &subject, &contents, &made, &notes));
        return Ok(ExitCode::SUCCESS);
    }
    notes.iter().for_each(|note| say::note(&format!("jail-export: note: {note}")));
    if !writes_to_stream(cli) {
        say::out(&report(cli, &contents, &made));
    }
    Ok(ExitCode::SUCCESS)
}

fn files(cli: &Cli) -> impl Iterator<Item = &PathBuf> {
    [&cli.tar, &cli.cpio, &cli.kubernetes].into_iter().flatten()
}

fn writes_to_stream(cli: &Cli) -> bool {
    files(cli).any(|path| is_stream(path))
}

fn check_usage(cli: &Cli) -> Result<()> {
    if files(cli).filter(|path| is_stream(path)).count() > 1 || (writes_to_stream(cli) && cli.json) {
        return Err(
            Error::usage("only one thing can go to standard output").hint("name a file for the others")
        );
    }
    if cli.oci.as_deref().is_some_and(is_stream) {
        return Err(Error::usage(
            "an image cannot go to standard output: its parts are named by their digests",
        )
        .hint("jail-export --oci FILE.tar, or --tar - for the bare tree"));
    }
    Ok(())
}

/// The settings, where an image or a Pod needs them.
fn container(cli: &Cli, subject: &Subject) -> Result<Option<Container>> {
    if cli.oci.is_none() && cli.kubernetes.is_none() {
        return Ok(None);
    }
    settings::container(subject, cli.user.as_deref()).map(Some)
}

fn write(
    cli: &Cli,
    subject: &Subject,
    contents: &Contents,
    container: Option<&Container>,
    bill: Option<Bill<'_>>,
    line: &mut Line,
) -> Result<(Vec<Made>, Vec<String>)> {
    let reader = subject.reader();
    let mode = if contents.is_private() { 0o600 } else { 0o644 };
    let name = kubernetes::object_name(subject.state.name());
    let image = cli.image.clone().unwrap_or_else(|| format!("localhost/{name}:latest"));
    let mut made = Vec::new();
    let mut notes = Vec::new();
    let mut digest = None;
    if let (Some(path), Some(container)) = (&cli.oci, container) {
        if let Some(bill) = bill {
            let settings = Box::new(|| bill.label(subject, container.image.clone()));
            digest = Some(image_at(path, cli, subject, contents, settings, &image, mode, line)?);
        }
        made.push(Made { form: "oci", path: path.clone(), digest: digest.clone() });
        if let Some(profile) = &container.seccomp {
            let path = layout::beside(path);
            // Each file that is written is waited for until it is on the disk.
            if std::fs::read(&path).ok().as_deref() != Some(profile.as_slice()) {
                put(cli, &path, profile, 0o644)?;
            }
            made.push(Made { form: "seccomp", path, digest: None });
        }
    }
    if let Some(path) = &cli.tar {
        if !cli.dry_run {
            let out = std::io::BufWriter::with_capacity(256 << 10, Output::create(path, mode)?);
            let out = archive::write(contents, &reader, out, path, line)?;
            out.into_inner().map_err(|e| Error::io("write", path, e.into_error()))?.commit()?;
        }
        made.push(Made { form: "tar", path: path.clone(), digest: None });
    }
    if let Some(path) = &cli.cpio {
        if !cli.dry_run {
            cpio::write(contents, &reader, Output::create(path, mode)?, path, line)?.commit()?;
        }
        made.push(Made { form: "cpio", path: path.clone(), digest: None });
    }
    if let (Some(path), Some(container)) = (&cli.kubernetes, container) {
        let kind = if cli.deployment { Kind::Deployment } else { Kind::Pod };
        let (text, more) = kubernetes::documents(container, &name, &image, kind);
        put(cli, path, text.as_bytes(), 0o644)?;
        notes.extend(more);
        if container.seccomp.is_some() {
            let profile = kubernetes::localhost_profile(container);
            notes.push(format!("each node needs the seccomp profile as /var/lib/kubelet/seccomp/{profile}"));
        }
        made.push(Made { form: "kubernetes", path: path.clone(), digest: None });
    }
    Ok((made, notes))
}

/// Writes the image; answers its digest.
#[allow(clippy::too_many_arguments, reason = "each is one thing the image is made of")]
fn image_at(
    path: &Path,
    cli: &Cli,
    subject: &Subject,
    contents: &Contents,
    settings: Box<dyn FnOnce() -> Result<oci::Settings> + '_>,
    name: &str,
    mode: u32,
    line: &mut Line,
) -> Result<String> {
    let reader = subject.reader();
    let key = cache::key(contents, cli.gzip);
    let known = if cli.afresh { None } else { cache::recall(&subject.state, key) };
    let source = Source { contents, reader: &reader, settings, name, gzip: cli.gzip, known, mode };
    let is_file = path.extension().is_some_and(|extension| extension == "tar");
    let write = if is_file { layout::to_file } else { layout::to_directory };
    let written = write(path, source, line)?;
    if known.is_none() {
        cache::remember(&subject.state, contents, key, written.sums)?;
    }
    Ok(format!("sha256:{}", written.manifest))
}

fn put(cli: &Cli, path: &Path, content: &[u8], mode: u32) -> Result<()> {
    if cli.dry_run {
        return Ok(());
    }
    let mut out = Output::create(path, mode)?;
    out.write_all(content).map_err(|e| Error::io("write", path, e))?;
    out.commit()
}

fn report(cli: &Cli, contents: &Contents, made: &[Made]) -> String {
    let mut out = String::new();
    let verb = if cli.dry_run { "would hold" } else { "holds" };
    let (count, size) = (say::count(contents.entries.len(), "path"), say::size(contents.bytes()));
    for Made { form, path, digest } in made {
        let path = text::encode(path);
        out.push_str(&match (*form, digest) {
            ("oci", Some(digest)) => format!("{path} {verb} {count}, {size}; image {digest}\n"),
            ("oci" | "tar" | "cpio", _) => format!("{path} {verb} {count}, {size}\n"),
            ("seccomp", _) => format!("{path} {verb} the seccomp profile\n"),
            _ => format!("{path} {verb} the objects for Kubernetes\n"),
        });
    }
    out
}

fn as_json(cli: &Cli, subject: &Subject, contents: &Contents, made: &[Made], notes: &[&String]) -> Value {
    let files: Vec<Value> = made
        .iter()
        .map(|made| json!({ "form": made.form, "path": text::encode(&made.path), "digest": made.digest }))
        .collect();
    json!({
        "jail": text::encode(subject.jail.path()),
        "sections": subject.manifest.sections,
        "dry_run": cli.dry_run,
        "paths": contents.entries.len(),
        "bytes": contents.bytes(),
        "files": files,
        "notes": notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }
}
