//! Generates the Rust types of `proto/events.proto` while building, in pure Rust: no `protoc` is needed, nothing is
//! downloaded, and the contract cannot drift from the code. The same as a FileDescriptorSet is for the tests of the
//! Python receiver, which has the messages in its own words.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/events.proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.open_file("proto/events.proto")?;
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    std::fs::write(Path::new(&out).join("events.fds"), compiler.encode_file_descriptor_set())?;
    prost_build::Config::new().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
