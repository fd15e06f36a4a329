//! Programs of Node, where it is installed: `tools/node/install`, which `tools/test` runs, has put their packages beside what
//! cargo builds.

use std::process::Command;

/// `node`, which finds the packages. `None`: they are not installed, and the test is not to be run.
pub(crate) fn node() -> Option<Command> {
    let packages = super::target_directory().join("node/node_modules");
    if !packages.is_dir() || Command::new("node").arg("--version").output().is_err() {
        println!("not run: {} is missing; install Node with npm, and run tools/test", packages.display());
        return None;
    }
    let mut node = Command::new("node");
    node.env("NODE_PATH", packages).env("NO_PROXY", "*");
    Some(node)
}
