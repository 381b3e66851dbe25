//! policy, admission, cell, confinement, exec: getting a process into a jail.

#![forbid(unsafe_code)]
