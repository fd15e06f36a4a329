//! Generates the Rust types of `proto/events.proto` while building, in pure Rust: no `protoc` is needed, nothing is
//! downloaded, and the contract cannot drift from the code. The same as a FileDescriptorSet is for the tests of the
//! Python receiver, which has the messages in its own words. A list of the modules is written for the filter of log lines.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/events.proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.open_file("proto/events.proto")?;
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    std::fs::write(Path::new(&out).join("events.fds"), compiler.encode_file_descriptor_set())?;
    prost_build::Config::new().compile_fds(compiler.file_descriptor_set())?;

    println!("cargo:rerun-if-changed=src");
    let mut modules = Vec::new();
    add_modules(Path::new("src"), "telemetryx", &mut modules)?;
    modules.sort_unstable();
    std::fs::write(Path::new(&out).join("modules.rs"), format!("&{modules:?}"))?;
    Ok(())
}

/// The paths of the modules in a directory, as log lines name them: what may stand in a filter of log lines.
fn add_modules(directory: &Path, path: &str, modules: &mut Vec<String>) -> std::io::Result<()> {
    modules.push(path.to_owned());
    for entry in std::fs::read_dir(directory)? {
        let file = entry?.path();
        let Some(name) = file.file_stem().and_then(|name| name.to_str()) else { continue };
        let module = format!("{path}::{name}");
        if file.is_dir() {
            add_modules(&file, &module, modules)?;
        } else if file.extension().is_some_and(|end| end == "rs") && !matches!(name, "lib" | "main" | "mod") {
            modules.push(module);
        }
    }
    modules.sort_unstable();
    modules.dedup();
    Ok(())
}
