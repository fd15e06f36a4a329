//! The generated types in `src/event/proto.rs` are those of `proto/events.proto`, byte for byte. They are committed, so
//! that an agent builds the library without a protobuf compiler.

use std::fs;
use std::path::{Path, PathBuf};

const GENERATED: &str = "src/event/proto.rs";

fn at_root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The Rust types of a contract, in pure Rust: no `protoc` is needed.
fn generate(directory: &Path) -> String {
    let mut compiler = protox::Compiler::new([directory]).unwrap();
    compiler.include_source_info(true).open_file("events.proto").unwrap();
    let out = tempfile::tempdir().unwrap();
    prost_build::Config::new().out_dir(out.path()).compile_fds(compiler.file_descriptor_set()).unwrap();
    fs::read_to_string(out.path().join("telemetryx.v1.rs")).unwrap()
}

/// An error if the committed types are not the generated ones.
fn compare(committed: &str, generated: &str) -> Result<(), String> {
    if committed == generated {
        return Ok(());
    }
    let differs = committed.lines().zip(generated.lines()).take_while(|(before, now)| before == now).count() + 1;
    Err(format!(
        "{GENERATED} is not what proto/events.proto gives; first difference in line {differs} (run \"make proto\" and \
         commit the file)"
    ))
}

#[test]
fn the_committed_types_are_those_of_the_contract() {
    let generated = generate(&at_root("proto"));
    if std::env::var_os("UPDATE_PROTO").is_some() {
        fs::write(at_root(GENERATED), generated).unwrap();
        return;
    }
    let committed = fs::read_to_string(at_root(GENERATED)).unwrap();
    compare(&committed, &generated).unwrap_or_else(|message| panic!("{message}"));
}

#[test]
fn a_changed_contract_is_noticed() {
    let contract = fs::read_to_string(at_root("proto/events.proto")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let changed = contract.replace("string source = 4;", "string origin = 4;");
    assert_ne!(changed, contract);
    fs::write(directory.path().join("events.proto"), changed).unwrap();
    let committed = fs::read_to_string(at_root(GENERATED)).unwrap();
    let message = compare(&committed, &generate(directory.path())).unwrap_err();
    assert!(message.contains("make proto"), "{message}");
}
