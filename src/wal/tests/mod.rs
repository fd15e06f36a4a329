//! The log over storage in memory, and once for real. What a file here is about is its name.

mod damage;
mod faults;
mod folder;
mod format;
mod memory;
mod model;
mod segments;
