//! Talking without dying of it: std's own macros panic when the stream is full or closed, in the middle of moving a home.

/// As `println!`, but a stream that takes nothing is nobody to tell.
macro_rules! say {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stdout(), $($what)*).unwrap_or_default();
    }};
}

/// As `eprintln!`, but a stream that takes nothing is nobody to tell.
macro_rules! complain {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stderr(), $($what)*).unwrap_or_default();
    }};
}
