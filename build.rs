//! Generates the Rust types of `proto/events.proto` while building, in pure Rust: no `protoc` is needed, nothing is
//! downloaded, and the contract cannot drift from the code.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/events.proto");
    let files = protox::compile(["proto/events.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
