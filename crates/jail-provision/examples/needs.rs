//! Prints what programs need: `cargo run --example needs -- /usr/bin/ls …` (`--root DIR` first for a jail).

use std::path::{Path, PathBuf};

use jail_provision::host::RealHost;
use jail_provision::resolve::Resolver;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let mut root = PathBuf::from("/");
    if arguments.first().is_some_and(|a| a == Path::new("--root")) && arguments.len() > 1 {
        root = arguments.remove(1);
        arguments.remove(0);
    }
    let quiet = arguments.first().is_some_and(|a| a == Path::new("-q"));
    let host = RealHost::jail(&root)?;
    let mut resolver = Resolver::new(&host);
    for program in arguments.iter().skip(usize::from(quiet)) {
        match resolver.survey(program) {
            Err(error) => println!("{error}"),
            Ok(_) if quiet => {}
            Ok(found) => {
                println!("{:?} ({:?})", found.program, found.kind);
                for need in &found.needs {
                    println!("    {:?} {:?} <- {:?}", need.kind, need.path, need.needed_by);
                }
                for unmet in found.unmet.iter().chain(&found.absent) {
                    println!("    {unmet}");
                }
            }
        }
    }
    Ok(())
}
