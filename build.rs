//! Writes a list of the modules for the filter of log lines. Has no dependencies: an agent that links the library waits
//! for no code generator. The Rust types of `proto/events.proto` are committed; `tests/project/proto.rs` compares them.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-changed=tools/text-order.ld"); // read by the linker, see tools/release
    let mut modules = Vec::new();
    add_modules(Path::new("src"), "telemetryx", &mut modules)?;
    modules.sort_unstable();
    modules.dedup();
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    std::fs::write(Path::new(&out).join("modules.rs"), format!("&{modules:?}"))?;
    Ok(())
}

/// Adds the paths of the modules in a directory, as log lines name them.
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
    Ok(())
}
