//! The alert rules with their own tests, and the page of metrics of a server that runs, checked by promtool of Prometheus.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::http::{get, post};
use crate::support::server::Server;

fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/prometheus"));
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed: run tools/test");
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    process.wait_with_output().unwrap()
}

#[track_caller]
fn assert_passes(output: &Output) {
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{stdout}\n{stderr}");
}

#[test]
fn the_rules_are_valid_and_pass_their_tests() {
    assert_passes(&promtool(&["check", "rules", "alerts.yaml"], ""));
    assert_passes(&promtool(&["test", "rules", "alerts_test.yaml"], ""));
}

#[test]
fn the_metrics_of_a_server_pass_the_check_of_promtool() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["sinks.sqlite.kind=sqlite"]);
    assert_eq!(post(server.address(), "?ack=synced", r#"{"name":"e"}"#).unwrap().0, 200);
    let (status, page) = get(server.address(), "/metrics");
    assert_eq!(status, 200);
    assert_passes(&promtool(&["check", "metrics"], &page));
}
