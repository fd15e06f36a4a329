//! Commands on a terminal of a given width, as `script` of util-linux gives them one.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a shell command line in `folder` on a terminal; returns all that it printed there, and its exit code.
pub(crate) fn run(folder: &Path, columns: usize, line: &str) -> (String, Option<i32>) {
    run_with_keys(folder, columns, line, "")
}

/// As [`run`], while somebody types `keys`.
pub(crate) fn run_with_keys(folder: &Path, columns: usize, line: &str, keys: &str) -> (String, Option<i32>) {
    let line = format!("stty cols {columns} rows 40; {line}");
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"])
        .current_dir(folder)
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .env_remove("TELEMETRYX_CONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("script of util-linux runs");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(keys.as_bytes()).expect("script reads");
    drop(input);
    let output = child.wait_with_output().expect("script ends");
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code())
}

/// What a person saw on each line at any time: without sequences that move the cursor or erase.
pub(crate) fn seen(output: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut rest = output.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => {
                // ESC [ parameters, then a letter.
                rest.find(char::is_ascii_alphabetic);
            }
            '\n' | '\r' => lines.push(String::new()),
            c => lines.last_mut().expect("there is a line").push(c),
        }
    }
    lines.retain(|line| !line.trim().is_empty());
    lines
}
