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

fn tree(features: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--offline", "--locked"])
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
    let agent = tree(&["--no-default-features"]);
    assert!(agent.iter().any(|name| name == "prost"), "the tree is not empty: {agent:?}");
    for name in SERVER_CRATES {
        assert!(!agent.iter().any(|linked| linked == name), "an agent would link {name}");
    }
    let server = tree(&[]);
    for name in SERVER_CRATES {
        assert!(server.iter().any(|linked| linked == name), "{name} is no server crate any more: update this list");
    }
}

#[test]
fn no_second_tls_stack_and_no_downloading_build_script_slips_in() {
    let server = tree(&[]);
    for name in ["openssl", "native-tls", "aws-lc", "bindgen", "cmake", "rustls-native-certs"] {
        assert!(!server.iter().any(|linked| linked.starts_with(name)), "{name}");
    }
}
