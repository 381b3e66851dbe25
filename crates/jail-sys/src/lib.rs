//! The doors to the kernel: safe wrappers around the system calls the other crates need.

#![deny(unsafe_code)]
