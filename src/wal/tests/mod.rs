//! The log over storage in memory (and once for real): what each test file is about is its name.

mod plain;
