//! Man pages and completions, made from the programs' own definitions of their flags; never installed.
//!
//! A page written by hand falls behind the program. Those that stay by hand (jail-sh has no clap, and the formats of files)
//! lie in `docs/man/` and are held to the code by the tests below.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap_complete::Shell;

mod tools;

const USAGE: &str = "usage: xtask man DIR | xtask completions DIR";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["man", dir] => man_pages(Path::new(dir)),
        ["completions", dir] => completions(Path::new(dir)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Where the pages written by hand are.
fn by_hand() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/man")
}

fn man_pages(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for page in fs::read_dir(by_hand())? {
        let page = page?;
        fs::copy(page.path(), dir.join(page.file_name()))?;
    }
    for tool in tools::all() {
        let mut page = Vec::new();
        clap_mangen::Man::new(tool.command)
            .section(tool.section)
            .manual("Jailwright")
            .source(concat!("Jailwright ", env!("CARGO_PKG_VERSION")))
            .render(&mut page)?;
        fs::write(dir.join(format!("{}.{}", tool.name, tool.section)), page)?;
    }
    Ok(())
}

fn completions(dir: &Path) -> io::Result<()> {
    for (shell, below) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
        let dir = dir.join(below);
        fs::create_dir_all(&dir)?;
        for mut tool in tools::all() {
            clap_complete::generate_to(shell, &mut tool.command, tool.name, &dir)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(name: &str) -> String {
        fs::read_to_string(by_hand().join(name)).expect("the page is there")
    }

    /// The part of a page about one key: from its tag to the next.
    fn about<'a>(page: &'a str, key: &str) -> &'a str {
        let tag = format!(".It Ic {key}\n");
        let start = page.find(&tag).unwrap_or_else(|| panic!("jail-sh.toml(5) does not describe '{key}'"));
        let text = &page[start + tag.len()..];
        text.find("\n.It ").map_or(text, |end| &text[..end])
    }

    #[test]
    fn every_policy_key_is_described_with_its_built_in_value() {
        let page = page("jail-sh.toml.5");
        let policy = jail_confine::policy::Policy::default();
        for (key, value, _) in policy.rows() {
            let text = about(&page, key).replace(['\n', '"'], " ").replace(".Qq ", "");
            // Lists print in brackets, and what is taken from the account has no value of its own.
            let expected = match value.trim_matches(['[', ']']) {
                "" => "empty",
                account if account.starts_with('(') => continue,
                value => value,
            };
            let text = text.replace(".Ic ", "");
            let built_in = text.split("Built in: ").nth(1).unwrap_or("");
            assert!(
                built_in.trim().starts_with(expected),
                "jail-sh.toml(5) says of '{key}': '{built_in}', the code has '{expected}'"
            );
        }
    }

    #[test]
    fn every_part_of_the_floor_is_named() {
        let page = page("jail-sh.toml.5");
        for (_, word) in jail_confine::seccomp::UnsafeItem::ALL {
            assert!(
                about(&page, "unsafe").contains(&format!(".Ql {word}\n"))
                    || about(&page, "unsafe").contains(&format!(".Ql {word} ")),
                "'{word}'"
            );
        }
    }

    #[test]
    fn pages_are_made_for_every_program() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        man_pages(dir.path()).expect("pages");
        completions(dir.path()).expect("completions");
        for tool in tools::all() {
            let page =
                fs::read_to_string(dir.path().join(format!("{}.{}", tool.name, tool.section))).expect("page");
            assert!(
                page.contains("SYNOPSIS") && page.to_lowercase().contains("example"),
                "{} has no example",
                tool.name
            );
            assert!(dir.path().join(format!("fish/{}.fish", tool.name)).exists());
        }
    }

    /// A flag that no page and no completion knows is a flag that nobody finds.
    #[test]
    fn every_flag_is_in_the_page_and_the_completions() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        man_pages(dir.path()).expect("pages");
        completions(dir.path()).expect("completions");
        let read = |name: String| fs::read_to_string(dir.path().join(&name)).expect(&name);
        for tool in tools::all() {
            // roff writes a hyphen as \-.
            let page = read(format!("{}.{}", tool.name, tool.section)).replace("\\-", "-");
            let shells = [
                ("bash", read(format!("bash/{}.bash", tool.name)), "--"),
                ("zsh", read(format!("zsh/_{}", tool.name)), "--"),
                ("fish", read(format!("fish/{}.fish", tool.name)), "-l "),
            ];
            let mut flags = 0;
            for flag in tool.command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let Some(long) = flag.get_long() else { continue };
                flags += 1;
                assert!(page.contains(&format!("--{long}")), "{}: --{long} is not in its page", tool.name);
                for (shell, text, before) in &shells {
                    let word = format!("{before}{long}");
                    assert!(text.contains(&word), "{}: {shell} does not complete --{long}", tool.name);
                }
            }
            assert!(flags > 0, "{}: no flag was seen", tool.name);
        }
    }

    /// Where a terminal breaks an example, it cannot be copied from there.
    #[test]
    fn help_fits_a_terminal_and_no_example_is_broken() {
        for tool in tools::all() {
            let mut command = tool.command.term_width(80);
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.to_lowercase().contains("example"), "{}", tool.name);
            let help = command.render_long_help().to_string();
            for line in examples.lines().chain(help.lines()) {
                assert!(line.chars().count() <= 80, "{} --help: '{line}'", tool.name);
            }
        }
    }

    /// A table that names tests is worth something only while they exist.
    #[test]
    fn tests_that_the_documents_name_exist() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for entry in fs::read_dir(root.join("docs")).expect("docs") {
            let document = entry.expect("entry").path();
            let Ok(text) = fs::read_to_string(&document) else { continue };
            for (file, function) in text.split('`').filter_map(|word| word.split_once(".rs::")) {
                let source = fs::read_to_string(root.join(format!("{file}.rs"))).unwrap_or_default();
                assert!(
                    source.contains(&format!("fn {function}(")),
                    "{}: there is no test {file}.rs::{function}",
                    document.display()
                );
            }
        }
    }
}
