//! The log over storage in memory, and once for real. What a file here is about is its name.

mod damage;
mod faults;
mod folder;
mod follow;
mod format;
pub(crate) mod memory;
mod model;
mod segments;
