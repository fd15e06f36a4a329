//! The settings of the Docker image, without building it (`make image-test` does): a file that another one may replace, and
//! that the health check reads too.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::server::Server;

const PLACE: &str = "/etc/telemetryx/telemetryx.toml";

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A command in a container: the working directory and the environment have no settings but those of this file.
fn telemetryx(folder: &Path, file: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.args(arguments).current_dir(folder).env_clear().env("TELEMETRYX_CONFIG", file);
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn the_defaults_of_the_image_are_a_file_that_can_be_replaced() {
    let dockerfile = page("Dockerfile");
    assert!(!dockerfile.contains("TELEMETRYX__"), "a variable overrides every file");
    for line in [format!("COPY tools/image.toml {PLACE}"), format!("ENV TELEMETRYX_CONFIG={PLACE}")] {
        assert!(dockerfile.lines().any(|found| found == line), "{line}");
    }
    assert!(page(".dockerignore").lines().any(|line| line == "!tools/image.toml"));
    let folder = tempfile::tempdir().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/image.toml");
    let shown = telemetryx(folder.path(), &file, &["config"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    for line in ["data_dir = \"/data\" # ", "address = \"0.0.0.0:4640\" # ", "path = \"/data/events.db\""] {
        assert!(shown.lines().any(|found| found.starts_with(line)), "{line}: {shown}");
    }
    // The documents have the same.
    let toml: String = page("tools/image.toml")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(page("docs/operations.md").contains(&format!("```toml\n{toml}```")), "{toml}");
}

#[test]
fn the_image_is_built_with_what_the_release_script_reads() {
    let (script, dockerfile, sent) = (page("tools/release"), page("Dockerfile"), page(".dockerignore"));
    let order = "tools/text-order.ld";
    assert!(script.contains(&format!("-Wl,-T,{order}")) && page(order).ends_with("INSERT BEFORE .text;\n"));
    assert!(dockerfile.lines().any(|line| line.starts_with("COPY tools/release ") && line.contains(order)));
    assert!(sent.lines().any(|line| line == format!("!{order}")));
}

#[test]
fn the_health_check_follows_the_file() {
    assert!(page("Dockerfile").contains("CMD [\"/telemetryx\", \"health\"]\n"));
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["sinks.discard.kind=discard"]);
    let file = folder.path().join("mounted.toml");
    fs::write(&file, format!("[server]\naddress = \"{}\"\n", server.address())).unwrap();
    let output = telemetryx(folder.path(), &file, &["health"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_image_says_what_it_is() {
    let dockerfile = page("Dockerfile");
    for label in ["title", "description", "vendor", "licenses", "version", "revision"] {
        assert!(dockerfile.contains(&format!("org.opencontainers.image.{label}=\"")), "{label}");
    }
    // What `make image` gives it.
    let makefile = page("Makefile");
    assert!(dockerfile.contains(&format!("\nARG VERSION={}\n", env!("CARGO_PKG_VERSION"))), "a plain `docker build`");
    assert!(dockerfile.contains("\nARG REVISION=unknown\n"));
    for argument in ["VERSION", "REVISION"] {
        assert!(makefile.contains(&format!("--build-arg {argument}=")), "{argument}");
    }
    assert!(makefile.contains("PLATFORM=linux/arm64 is untested"));
}
