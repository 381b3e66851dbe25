//! Options as getopt reads them: bundles (`-fkj DIR`), values glued on or not, long names that may be shortened, `--`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::trouble::{Trouble, quoted};

/// An option that there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec {
    short: char,
    long: &'static str,
    has_value: bool,
}

impl Spec {
    pub(super) const fn flag(short: char, long: &'static str) -> Self {
        Self { short, long, has_value: false }
    }

    pub(super) const fn with_value(short: char, long: &'static str) -> Self {
        Self { short, long, has_value: true }
    }
}

/// What was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    options: Vec<(char, Option<OsString>)>,
    /// What is no option.
    pub(super) words: Vec<OsString>,
}

impl Given {
    pub(super) fn has(&self, option: char) -> bool {
        self.options.iter().any(|(given, _)| *given == option)
    }

    /// The value that was given last.
    pub(super) fn last(&self, option: char) -> Option<&OsStr> {
        self.options.iter().rev().find(|(given, _)| *given == option)?.1.as_deref()
    }

    /// Those of some flags that were given, as flags.
    pub(super) fn flags(&self, flags: &[char]) -> Vec<String> {
        flags.iter().filter(|flag| self.has(**flag)).map(|flag| format!("-{flag}")).collect()
    }
}

/// Reads a command line.
pub(super) fn read(specs: &[Spec], args: &[OsString]) -> Result<Given, Trouble> {
    let mut given = Given::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_bytes() {
            b"--" => {
                given.words.extend(args.cloned());
                break;
            }
            [b'-', b'-', long @ ..] => {
                let (name, glued) = match long.iter().position(|b| *b == b'=') {
                    Some(at) => (&long[..at], Some(OsString::from_vec(long[at + 1..].to_vec()))),
                    None => (long, None),
                };
                let spec = named(specs, name).ok_or_else(|| unknown(arg))?;
                let value = value_of(spec, glued, &mut args, arg)?;
                given.options.push((spec.short, value));
            }
            [b'-', bundle @ ..] if !bundle.is_empty() => {
                for (at, letter) in bundle.iter().enumerate() {
                    let spec = specs.iter().find(|spec| spec.short == char::from(*letter));
                    let spec = spec.ok_or_else(|| unknown(arg))?;
                    let rest = &bundle[at + 1..];
                    let glued =
                        (spec.has_value && !rest.is_empty()).then(|| OsString::from_vec(rest.to_vec()));
                    let ends = spec.has_value;
                    given.options.push((spec.short, value_of(spec, glued, &mut args, arg)?));
                    if ends {
                        break;
                    }
                }
            }
            _ => given.words.push(arg.clone()),
        }
    }
    Ok(given)
}

/// By its whole name, or by a beginning that only one has.
fn named<'s>(specs: &'s [Spec], name: &[u8]) -> Option<&'s Spec> {
    let whole = specs.iter().find(|spec| spec.long.as_bytes() == name);
    let mut begin = specs.iter().filter(|spec| !name.is_empty() && spec.long.as_bytes().starts_with(name));
    whole.or_else(|| begin.next().filter(|_| begin.next().is_none()))
}

fn value_of<'a>(
    spec: &Spec,
    glued: Option<OsString>,
    args: &mut impl Iterator<Item = &'a OsString>,
    arg: &OsStr,
) -> Result<Option<OsString>, Trouble> {
    match (spec.has_value, glued) {
        (false, None) => Ok(None),
        (false, Some(_)) => Err(Trouble::usage(format!("{} takes no value", quoted(arg)))),
        (true, Some(value)) => Ok(Some(value)),
        (true, None) => match args.next() {
            Some(value) => Ok(Some(value.clone())),
            None => Err(Trouble::usage(format!("{} needs a value", quoted(arg)))),
        },
    }
}

fn unknown(arg: &OsStr) -> Trouble {
    Trouble::usage(format!("there is no option {}", quoted(arg))).hint("see --help")
}
