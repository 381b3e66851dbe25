//! What a seccomp profile costs an entry: compiling it, its length, and loading it. One line of JSON a profile.
//!
//! An example of jail-confine, so that `make bench` measures the code that logs people in.

use std::time::Instant;

use jail_confine::seccomp::{Builtin, Program, Settings, Source, compile};

const ROUNDS: usize = 200;

fn main() {
    for (name, builtin) in
        [("default", Builtin::Default), ("transfer", Builtin::Transfer), ("off", Builtin::Off)]
    {
        let mut programs = Vec::new();
        let compiling = median(|| {
            let started = Instant::now();
            programs.push(program(builtin));
            started.elapsed().as_nanos()
        });
        let program = programs.pop().expect("ROUNDS is above 0");
        let loading = median(|| load_in_a_thread(program.clone()));
        println!(
            "{{\"profile\": \"{name}\", \"compile_us\": {:.1}, \"load_us\": {:.1}, \"instructions\": {}}}",
            compiling,
            loading,
            program.len()
        );
    }
}

/// Parsing included: that is what a login does.
fn program(builtin: Builtin) -> Program {
    let profile = Source::Builtin(builtin).profile().expect("a shipped profile parses");
    compile(&Settings::plain(&profile, (6, 1))).expect("a shipped profile compiles").0
}

/// Filters pile up and stay, so each is loaded by a thread of its own that ends with it.
fn load_in_a_thread(program: Program) -> u128 {
    std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).expect("no_new_privs");
        let started = Instant::now();
        program.load(program.flags()).expect("the kernel takes the program");
        started.elapsed().as_nanos()
    })
    .join()
    .expect("the thread ends")
}

fn median(mut measure: impl FnMut() -> u128) -> f64 {
    let mut nanoseconds: Vec<u128> = (0..ROUNDS).map(|_| measure()).collect();
    nanoseconds.sort_unstable();
    nanoseconds[ROUNDS / 2] as f64 / 1000.0
}
