//! profile, wanted, plan, apply, manifest: what goes into a jail and why.

#![forbid(unsafe_code)]
