//! `telemetryx top` against a server: once, as JSON, with a token, and on a terminal.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use crate::support::http::post;
use crate::support::server::{Server, handles, wait_until};
use crate::support::terminal::{run, run_with_keys, seen};

const TELEMETRYX: &str = env!("CARGO_BIN_EXE_telemetryx");
const PATIENCE: Duration = Duration::from_secs(60);

fn top(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(TELEMETRYX);
    command.arg("top").args(arguments).current_dir(folder).env_remove("TELEMETRYX_CONFIG");
    command.output().unwrap()
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn numbers_are_printed_once_or_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let address = server.address().to_string();
    assert_eq!(post(server.address(), "?ack=delivered", r#"[{"name":"a"},{"name":"b"}]"#).unwrap().0, 200);
    assert_eq!(post(server.address(), "", r#"[{"nome":"a"}]"#).unwrap().0, 400);

    let text = printed(&top(folder.path(), &[&address, "--once"]));
    let url = format!("http://{address}/status.json");
    printed(&top(folder.path(), &[&format!("localhost:{}", server.address().port()), "--once"]));
    for part in
        ["  ready  ", &url, "accepted                 2", "rejected                 1", "sqlite  ok ", "unknown key"]
    {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    let piped = printed(&top(folder.path(), &[&address]));
    assert_eq!((piped.lines().count(), piped.contains('\u{1b}')), (text.lines().count(), false), "{piped}");

    let json: serde_json::Value = serde_json::from_str(&printed(&top(folder.path(), &[&address, "--json"]))).unwrap();
    assert_eq!((&json["received"]["http"], &json["rejected"]["invalid"]), (&2.into(), &1.into()));
    assert_eq!((&json["sinks"][0]["name"], &json["sinks"][0]["delivered"]), (&"sqlite".into(), &2.into()));
}

#[test]
fn a_screen_of_eighty_columns_is_drawn_each_second_and_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let command =
        format!("timeout --foreground --preserve-status --signal INT 4 {TELEMETRYX} top {}", server.address());
    let (output, code) = run(folder.path(), 80, &command);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.matches("\u{1b}[H").count() >= 2, "{output:?}");
    let (begin, end) = (output.find("\u{1b}[?1049h"), output.rfind("\u{1b}[?1049l"));
    assert!(begin.is_some() && begin < end && output.contains("\u{1b}[1m"), "{output:?}");
    for screen in output.split("\u{1b}[H").skip(1) {
        let lines = seen(screen);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        assert!(lines.iter().any(|line| line.starts_with("sqlite") && line.contains(" ok ")), "{lines:#?}");
    }
}

#[test]
fn a_key_ends_it_and_gives_the_terminal_back() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let modes = "stty -a | tr ' ;' '\\n\\n' | grep -x -e -*icanon -e -*echo";
    let line = format!(
        "{modes}; NO_COLOR=1 timeout --foreground 60 {TELEMETRYX} top {}; echo code $?; {modes}",
        server.address()
    );
    let (output, code) = run_with_keys(folder.path(), 80, &line, "xq");
    assert_eq!(code, Some(0), "{output}");
    let text = output.replace('\r', "");
    assert!(text.starts_with("icanon\necho\n") || text.contains("\nicanon\necho\n"), "{output:?}");
    assert!(!text.contains("\u{1b}[1m") && !text.contains("\u{1b}[0m"), "NO_COLOR: {output:?}");
    assert!(text.ends_with("\u{1b}[?1049lcode 0\nicanon\necho\n"), "{output:?}");
}

fn is_stopped(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default().contains("State:\tT")
}

#[test]
fn signals_give_the_terminal_back() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    for end in ["QUIT", "HUP"] {
        let pid_file = folder.path().join(format!("pid-{end}"));
        let modes = "stty -a | tr ' ;' '\\n\\n' | grep -x -e -*icanon -e -*echo";
        let line = format!(
            "timeout --foreground --signal KILL 100 sh -c 'echo $$ > {}; exec {TELEMETRYX} top {}'; echo code $?; {modes}",
            pid_file.display(),
            server.address()
        );
        let (output, code) = thread::scope(|scope| {
            let shown = scope.spawn(|| run(folder.path(), 80, &line));
            let pid = || fs::read_to_string(&pid_file).ok()?.trim().parse::<u32>().ok();
            assert!(wait_until(PATIENCE, || pid().is_some_and(|pid| handles(pid, 20))));
            let pid = pid().unwrap();
            let signal = |name: &str| {
                let sent = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
                assert!(sent.success(), "{name}");
            };
            signal("TSTP");
            assert!(wait_until(PATIENCE, || is_stopped(pid)), "it is not suspended");
            signal("CONT");
            assert!(wait_until(PATIENCE, || !is_stopped(pid)));
            signal(end);
            shown.join().unwrap()
        });
        assert_eq!(code, Some(0), "{output}");
        let text = output.replace('\r', "");
        assert_eq!((text.matches("\u{1b}[?1049h").count(), text.matches("\u{1b}[?1049l").count()), (2, 2), "{text:?}");
        assert!(text.ends_with("\u{1b}[?1049lcode 0\nicanon\necho\n"), "{end}: {text:?}");
    }
}

#[test]
fn in_the_background_it_waits_before_it_takes_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    // With job control a command in the background is stopped where it would change the terminal.
    let line = format!(
        "set -m; {TELEMETRYX} top {} & i=0; until jobs -l > jobs; grep -q -i -e stopped jobs; do i=$((i+1)); [ $i -lt 600 ] || break; sleep 0.1; \
         done; cat jobs; kill -9 %1; echo code $?",
        server.address()
    );
    let (output, _) = run(folder.path(), 200, &line);
    assert!(output.to_lowercase().contains("stopped"), "{output:?}");
    assert!(output.contains("code 0") && !output.contains("\u{1b}[?1049h"), "{output:?}");
}

#[test]
fn a_token_goes_unencrypted_to_another_machine_only_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pages"), "secret-of-pages\n").unwrap();
    // An address for documentation: nothing is there.
    let with = |url: &str| top(folder.path(), &[url, "--json", "--token-file", "pages"]);
    let output = with("192.0.2.1:4640");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("the token would be sent unencrypted") && error.contains("https://"), "{error}");
    let output = with("http://telemetryx.invalid:4640");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.starts_with("telemetryx: the token is sent unencrypted"), "{error}");
}

#[test]
fn certificates_are_not_ignored() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, why) in [
        (&["top", "--ca-file", "ca.pem"][..], "need a URL"),
        (&["health", "--ca-file", "ca.pem"], "need a URL"),
        (&["health", "http://localhost:1", "--cert", "c.pem", "--key", "k.pem"], "the URL is http"),
        (&["top", "localhost:1", "--ca-file", "none.pem"], "none.pem"),
    ] {
        let output = Command::new(TELEMETRYX).args(arguments).current_dir(folder.path()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(why), "{arguments:?}: {error}");
    }
}

#[test]
fn a_token_is_sent_and_its_absence_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pages"), "secret-of-pages\n").unwrap();
    fs::write(folder.path().join("other"), "other\n").unwrap();
    let pages = format!("server.pages_token_file={}", folder.path().join("pages").display());
    let server = Server::start(folder.path(), &[&pages]);
    let address = server.address().to_string();
    let with = |arguments: &[&str]| top(folder.path(), &[&[address.as_str(), "--json"], arguments].concat());
    printed(&with(&["--token-file", "pages"]));
    let refused = |output: &Output, part: &str| {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("answers 401") && error.contains(part) && !error.contains("secret"), "{error}");
    };
    refused(&with(&[]), "--token-file");
    refused(&with(&["--token-file", "other"]), "this is not the token of server.pages_token_file");

    let nobody = top(folder.path(), &["127.0.0.1:1", "--once"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("nothing listens there"), "{nobody:?}");
    assert_eq!(top(folder.path(), &["ftp://h"]).status.code(), Some(2));
}
