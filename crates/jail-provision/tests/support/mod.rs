//! A workbench for resolver tests: compile a fixture, ask the resolver, build the tree it names, start the program in it.

#![allow(dead_code)]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::rc::Rc;

use jail_provision::host::{Host, RealHost};
use jail_provision::resolve::{Need, NeedKind, Needs, ResolveError, Resolver};
use tempfile::TempDir;

/// A directory with a fixture's sources, programs and libraries, all at absolute paths below it.
pub(crate) struct Bench {
    dir: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("resolver-").tempdir().expect("a scratch directory");
        // A user namespace's root is nobody special outside: it must be able to walk in.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        Self { dir }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("a plain path").to_string()
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("mkdir");
        path
    }

    pub(crate) fn write(&self, name: &str, mode: u32, text: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        fs::write(&path, text).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        path
    }

    pub(crate) fn link(&self, name: &str, target: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        symlink(target, &path).expect("symlink");
        path
    }

    pub(crate) fn copy(&self, from: &str, to: &str) -> PathBuf {
        let to = self.path(to);
        fs::create_dir_all(to.parent().expect("a parent")).expect("mkdir");
        fs::copy(self.path(from), &to).expect("copy");
        to
    }

    /// Run a compiler; its arguments are as given.
    pub(crate) fn cc<S: AsRef<OsStr>>(&self, compiler: &str, arguments: &[S]) {
        let output = Command::new(compiler).args(arguments).output().expect("the compiler starts");
        assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A library at `out` that defines `NAME()` (the file's name without `lib` and what follows a dot) and calls the
    /// function of each library in `uses`, to which it is linked.
    pub(crate) fn lib(&self, out: &str, uses: &[&str], flags: &[&str]) -> PathBuf {
        self.lib_with("gcc", out, uses, flags)
    }

    pub(crate) fn lib_with(&self, compiler: &str, out: &str, uses: &[&str], flags: &[&str]) -> PathBuf {
        let name = function(out);
        let calls: String = uses.iter().map(|u| format!(" + {}()", function(u))).collect();
        let source = format!("{} int {name}(void) {{ return 1{calls}; }}", declarations(uses));
        let soname = Path::new(out).file_name().and_then(OsStr::to_str).expect("a plain name");
        let mut arguments = vec!["-shared".to_string(), "-fPIC".into()];
        if !flags.iter().any(|f| f.contains("-soname")) {
            arguments.push(format!("-Wl,-soname,{soname}"));
        }
        self.build(compiler, out, &source, uses, flags, arguments)
    }

    /// A program at `out` that prints `ok` if all it calls answers.
    pub(crate) fn program(&self, out: &str, uses: &[&str], flags: &[&str]) -> PathBuf {
        self.program_with("gcc", out, uses, flags)
    }

    pub(crate) fn program_with(&self, compiler: &str, out: &str, uses: &[&str], flags: &[&str]) -> PathBuf {
        let calls: String = uses.iter().map(|u| format!(" && {}()", function(u))).collect();
        let source = format!(
            "#include <stdio.h>\n{} int main(void) {{ if (1{calls}) puts(\"ok\"); return 0; }}",
            declarations(uses)
        );
        self.build(compiler, out, &source, uses, flags, Vec::new())
    }

    fn build(
        &self,
        compiler: &str,
        out: &str,
        source: &str,
        uses: &[&str],
        flags: &[&str],
        mut arguments: Vec<String>,
    ) -> PathBuf {
        let source = self.write(&format!("src/{}.c", out.replace('/', "_")), 0o644, source.as_bytes());
        let path = self.path(out);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        arguments.extend(["-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined", "-o"].map(String::from));
        arguments.push(path.to_str().expect("a plain path").into());
        arguments.push(source.to_str().expect("a plain path").into());
        arguments.extend(uses.iter().map(|u| self.text(u)));
        arguments.extend(flags.iter().map(ToString::to_string));
        self.cc(compiler, &arguments);
        path
    }

    /// Change bytes of a file in place.
    pub(crate) fn patch(&self, name: &str, at: usize, bytes: &[u8]) {
        let mut content = fs::read(self.path(name)).expect("read");
        content[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(self.path(name), content).expect("write");
    }
}

/// The C function that a library `dir/libNAME.so.1` defines.
fn function(path: &str) -> String {
    let name = Path::new(path).file_name().and_then(OsStr::to_str).expect("a plain name");
    let name = name.split('.').next().unwrap_or(name);
    format!("fn_{}", name.strip_prefix("lib").unwrap_or(name)).replace('-', "_")
}

fn declarations(uses: &[&str]) -> String {
    uses.iter().map(|u| format!("int {}(void);", function(u))).collect()
}

/// What the machine's own files say.
pub(crate) fn survey(program: &Path) -> Rc<Needs> {
    let host = RealHost::system();
    Resolver::new(&host).survey(program).expect("a readable program")
}

pub(crate) fn needs(program: &Path) -> Result<Rc<Needs>, ResolveError> {
    let host = RealHost::system();
    Resolver::new(&host).needs(program)
}

/// A jail with the program and exactly the files that the answer names.
pub(crate) fn assemble(needs: &Needs, keep: impl Fn(&Need) -> bool) -> TempDir {
    let tree = tempfile::Builder::new().prefix("resolver-jail-").tempdir().expect("a scratch directory");
    fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    bring(tree.path(), &needs.program);
    for need in needs.needs.iter().filter(|n| keep(n)) {
        bring(tree.path(), &need.path);
    }
    tree
}

/// Put a host's file into the tree, with every link on the way to it.
pub(crate) fn bring(tree: &Path, path: &Path) {
    let walk = RealHost::system().walk(path).expect("a file of the host");
    for link in &walk.links {
        let at = inside(tree, &link.path);
        if fs::symlink_metadata(&at).is_err() {
            symlink(&link.target, &at).expect("symlink");
        }
    }
    let at = inside(tree, &walk.real);
    if fs::symlink_metadata(&at).is_err() {
        fs::copy(&walk.real, &at).expect("copy");
    }
}

fn inside(tree: &Path, path: &Path) -> PathBuf {
    let at = tree.join(path.strip_prefix("/").expect("an absolute path"));
    fs::create_dir_all(at.parent().expect("a parent")).expect("mkdir");
    at
}

/// Start a program with `tree` as its root, by chroot: as root, or as root of a user namespace of its own.
pub(crate) fn start_in(tree: &Path, program: &Path) -> Output {
    run(Command::new("unshare").args(user_namespace()).arg("chroot").arg(tree).arg(program))
}

/// The same with a /proc, in mount and pid namespaces of its own.
pub(crate) fn start_in_with_proc(tree: &Path, program: &Path) -> Output {
    fs::create_dir_all(tree.join("proc")).expect("mkdir");
    let mut mount = OsString::from("--mount-proc=");
    mount.push(tree.join("proc"));
    let mut command = Command::new("unshare");
    run(command
        .args(user_namespace())
        .args(["--fork", "--pid"])
        .arg(mount)
        .arg("chroot")
        .arg(tree)
        .arg(program))
}

fn user_namespace() -> &'static [&'static str] {
    if is_root() { &[] } else { &["--user", "--map-root-user"] }
}

fn run(command: &mut Command) -> Output {
    started(command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"))
}

/// Starts a program that was written a moment ago: a child that another test has just forked may hold it open for writing
/// until it executes something, and then it is busy.
fn started(command: &mut Command) -> Output {
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let output = command.output();
        let busy = match &output {
            Ok(output) => String::from_utf8_lossy(&output.stderr).contains("Text file busy"),
            Err(error) => error.kind() == std::io::ErrorKind::ExecutableFileBusy,
        };
        if !busy || std::time::Instant::now() > patience {
            return output.expect("starts");
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Whether programs can be started in a tree here at all; says so if not.
pub(crate) fn can_start() -> bool {
    if is_root()
        || Command::new("unshare")
            .args(["--user", "--map-root-user", "true"])
            .status()
            .is_ok_and(|s| s.success())
    {
        return true;
    }
    skipped("neither root nor user namespaces are there to start programs in");
    false
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn says_ok(output: &Output) -> bool {
    output.status.success() && output.stdout == b"ok\n"
}

/// The whole claim for a fixture that works: the answer is complete (the program starts in a tree made from it)
/// and has nothing in it that could be left out.
pub(crate) fn starts_in_a_jail_made_from_the_answer(program: &Path) -> Rc<Needs> {
    let found = needs(program).unwrap_or_else(|e| panic!("{e}"));
    if !can_start() {
        return found;
    }
    assert!(says_ok(&started(Command::new(program).env_clear())), "the fixture itself is broken");
    let start = if found.uses_proc { start_in_with_proc } else { start_in };
    let tree = assemble(&found, |_| true);
    if found.uses_proc {
        assert!(
            !says_ok(&start_in(tree.path(), program)),
            "{program:?} starts without /proc, said to be needed"
        );
    }
    let output = start(tree.path(), program);
    assert!(says_ok(&output), "{program:?} in its jail: {output:?}\n{found:#?}");
    for left_out in found.needs.iter().filter(|n| !n.kind.is_optional()) {
        let tree = assemble(&found, |n| n.real != left_out.real);
        let output = start(tree.path(), program);
        assert!(!says_ok(&output), "{program:?} starts without {:?}, named as needed", left_out.path);
    }
    found
}

/// The whole claim for a fixture that cannot work: the real loader refuses, and so do we, naming `name` and its asker.
pub(crate) fn refused_by_loader_and_resolver(program: &Path, name: &str, asker: &Path) -> String {
    let output = Command::new(program).env_clear().output();
    assert!(!output.as_ref().is_ok_and(says_ok), "the fixture starts, but should not: {output:?}");
    let error = match needs(program) {
        Err(error @ ResolveError::Unmet { .. }) => error.to_string(),
        other => panic!("{program:?}: {other:?}"),
    };
    assert!(error.contains(name), "{error} does not name {name}");
    assert!(error.contains(asker.to_str().expect("a plain path")), "{error} does not name {asker:?}");
    error
}

/// The path under which a name was found.
pub(crate) fn found_as(needs: &Needs, soname: &str) -> PathBuf {
    let found =
        needs.needs.iter().find(|n| &*n.soname == soname.as_bytes() && n.kind != NeedKind::HwcapsVariant);
    found.unwrap_or_else(|| panic!("{soname} is not among {needs:#?}")).path.to_path_buf()
}

/// Says that a test is not run, past libtest, which keeps what a passing test prints to itself: tests/run counts the lines.
fn skipped(why: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "    skipped because {why}"));
}

pub(crate) fn have(tool: &str) -> bool {
    let dirs = ["/usr/local/bin", "/usr/bin", "/bin"];
    let there = dirs.iter().any(|d| Path::new(d).join(tool).exists());
    if !there {
        skipped(&format!("{tool} is not installed"));
    }
    there
}

pub(crate) fn os(text: &[u8]) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    OsString::from_vec(text.to_vec())
}
