//! What packagers and CI read: the license, and the workflow, which runs the Makefile's targets and nothing else.

use std::fs;
use std::path::Path;

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn the_license_is_mit_everywhere() {
    assert_eq!(env!("CARGO_PKG_LICENSE"), "MIT");
    assert!(page("LICENSE").starts_with("MIT License\n"));
    assert!(page("fuzz/Cargo.toml").contains("\nlicense = \"MIT\"\n"));
    assert!(page("README.md").contains("[LICENSE](LICENSE)"));
}

#[test]
fn the_workflow_runs_targets_of_the_makefile() {
    let (workflow, makefile) = (page(".github/workflows/ci.yml"), page("Makefile"));
    let mut called = Vec::new();
    for line in workflow.lines().map(str::trim) {
        if let Some(action) = line.strip_prefix("- uses: ") {
            assert!(action.starts_with("actions/checkout@"), "a further action is a further party to trust: {action}");
        } else if let Some(target) = line.strip_prefix("- run: make ") {
            assert!(makefile.contains(&format!("\n{target}:")), "the Makefile has no target {target}");
            called.push(target);
        } else if let Some(command) = line.strip_prefix("- run: ") {
            assert!(
                command.starts_with("rustup "),
                "what CI does is in the Makefile, to be run by hand too: {command}"
            );
        }
    }
    assert_eq!(called, ["fmt-check", "clippy", "check", "unit-test", "test"]);
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    assert!(workflow.contains(&format!("- run: rustup default {oldest}\n")), "the oldest Rust is {oldest}");
}
