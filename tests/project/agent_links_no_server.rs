//! What an agent links: the library without default features has no server crate in its dependency tree.

use std::process::Command;

/// Crates of the server; one of them in an agent's tree means that a module crossed the line.
const SERVER_CRATES: [&str; 22] = [
    "mio",
    "rusqlite",
    "postgres",
    "redis",
    "rustls",
    "tokio",
    "tonic",
    "hyper",
    "h2",
    "http",
    "libsqlite3-sys",
    "httparse",
    "prometheus",
    "clap",
    "ringbuf",
    "slab",
    "socket2",
    "signal-hook",
    "tracing",
    "tracing-subscriber",
    "ureq",
    "toml",
];

fn tree(edges: &str, features: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--edges", edges, "--prefix", "none", "--format", "{p}", "--offline", "--locked"])
        .args(features)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn an_agent_links_no_server_crate() {
    let agent = tree("normal", &["--no-default-features"]);
    assert!(agent.iter().any(|name| name == "prost"), "the tree is not empty: {agent:?}");
    for name in SERVER_CRATES {
        assert!(!agent.iter().any(|linked| linked == name), "an agent would link {name}");
    }
    let server = tree("normal", &[]);
    for name in SERVER_CRATES {
        assert!(server.iter().any(|linked| linked == name), "{name} is no server crate any more: update this list");
    }
}

#[test]
fn an_agent_with_tls_links_rustls_and_no_server_crate() {
    let agent = tree("normal", &["--no-default-features", "--features", "tls"]);
    assert!(agent.iter().any(|name| name == "rustls"), "{agent:?}");
    for name in SERVER_CRATES.iter().filter(|name| **name != "rustls") {
        assert!(!agent.iter().any(|linked| linked == name), "an agent with TLS would link {name}");
    }
}

#[test]
fn no_second_tls_stack_and_no_downloading_build_script_slips_in() {
    let server = tree("normal", &[]);
    for name in ["openssl", "native-tls", "aws-lc", "bindgen", "cmake", "rustls-native-certs"] {
        assert!(!server.iter().any(|linked| linked.starts_with(name)), "{name}");
    }
}

/// A build script with dependencies of its own is what an agent's authors wait for.
#[test]
fn an_agent_builds_no_code_generator() {
    let mut linked = tree("normal", &["--no-default-features"]);
    let mut built = tree("normal,build", &["--no-default-features"]);
    for names in [&mut linked, &mut built] {
        names.sort_unstable();
        names.dedup();
    }
    // The one build dependency that an agent's crates have among them.
    built.retain(|name| !linked.contains(name) && name != "version_check" && name != "autocfg");
    assert!(built.is_empty(), "an agent would also build {built:?}");
}
