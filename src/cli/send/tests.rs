//! The command against a scripted server.

use std::sync::mpsc;

use clap::Parser;

use super::*;
use crate::client::script;
use crate::limits::EVENT_NAME_BYTES_MAX;
use crate::wire::{NackCode, answer};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: SendOptions,
}

fn options(arguments: &[&str]) -> SendOptions {
    Line::try_parse_from([&["send"], arguments].concat()).unwrap_or_else(|error| panic!("{error}")).options
}

/// A server that acknowledges, or refuses, every frame; and the events that it got, once the agent is gone.
fn server(refuse: bool) -> (String, mpsc::Receiver<Vec<Event>>) {
    let (stored, received) = mpsc::channel();
    let address = script::serve(move |_, mut peer| {
        peer.greet();
        let mut got = Vec::new();
        while let Some((seq, events)) = peer.data() {
            got.extend(events);
            if refuse {
                peer.say(|out| answer::nack(seq, NackCode::Invalid, "no", out));
            }
            peer.ack(seq);
        }
        let _ = stored.send(got);
    });
    (address, received)
}

/// Sends files of these contents and returns how it went and the events that arrived.
fn send_files(files: &[(&str, &[u8])], arguments: &[&str]) -> (Result<Sent, SendError>, Vec<Event>) {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<_> = files
        .iter()
        .map(|(name, content)| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        })
        .collect();
    let (address, received) = server(false);
    let outcome =
        send(address, &SendOptions { files: paths, ..options(&[&["--source", "tester"], arguments].concat()) });
    let events = received.recv_timeout(Duration::from_secs(20)).unwrap();
    if let Ok(sent) = &outcome {
        assert_eq!(sent.progress.acknowledged_events, events.len() as u64);
        assert_eq!(sent.bytes, files.iter().map(|(_, content)| content.len() as u64).sum::<u64>());
    }
    (outcome, events)
}

fn send_text(content: &[u8], arguments: &[&str]) -> (Result<Sent, SendError>, Vec<String>) {
    let (outcome, events) = send_files(&[("app.log", content)], arguments);
    (outcome, events.into_iter().map(|event| event.body).collect())
}

#[test]
fn a_text_line_is_the_body_of_a_log_event() {
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let (outcome, events) = send_files(&[("a", b"one\n\ntwo\r\n"), ("b", "dr\u{00e9}i".as_bytes())], &[]);
    let sent = outcome.unwrap();
    assert_eq!(sent.level, Some(AckLevel::Received));
    let bodies: Vec<_> = events.iter().map(|event| event.body.as_str()).collect();
    assert_eq!(bodies, ["one", "", "two", "dr\u{00e9}i"]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    assert!(events.iter().all(|event| event.name == "log" && (before..=now).contains(&event.time_unix_nano)));
    let (_, events) = send_files(&[("a", b"one")], &["--name", "access"]);
    assert_eq!(events.first().map(|event| event.name.as_str()), Some("access"));
}

#[test]
fn many_lines_arrive_in_order() {
    let text: String = (0..50_000).map(|number| format!("line {number} {}\n", "x".repeat(number % 97))).collect();
    let (outcome, bodies) = send_text(text.as_bytes(), &[]);
    outcome.unwrap();
    assert!(bodies.iter().eq(text.lines()), "{} lines", bodies.len());
}

#[test]
fn bytes_that_are_no_utf8_are_replaced() {
    let (outcome, bodies) = send_text(b"a\xffb\nfine\n", &[]);
    outcome.unwrap();
    assert_eq!(bodies, ["a\u{fffd}b", "fine"]);
}

#[test]
fn a_line_beyond_a_body_stops_the_command_or_is_cut() {
    let max = EVENT_BODY_BYTES_MAX;
    let fits = "x".repeat(max);
    let (outcome, bodies) = send_text(format!("{fits}\nb").as_bytes(), &[]);
    outcome.unwrap();
    assert_eq!(bodies.len(), 2);

    // The last character begins within the limit and ends beyond it.
    let long = format!("a\n{}\u{00e9}\nb", "x".repeat(max - 1));
    let (outcome, bodies) = send_text(long.as_bytes(), &[]);
    let error = outcome.err().unwrap().to_string();
    assert!(error.contains("app.log:2: the line has 65537 bytes"), "{error}");
    assert_eq!(bodies, ["a"], "all before it is sent");
    let (outcome, bodies) = send_text(long.as_bytes(), &["--truncate"]);
    outcome.unwrap();
    assert_eq!(bodies, ["a", &"x".repeat(max - 1), "b"]);

    let longer = [b"a\n".as_slice(), &vec![b'x'; 3 * SEND_LINE_BYTES_MAX], b"\nb"].concat();
    let (outcome, bodies) = send_text(&longer, &["--truncate"]);
    outcome.unwrap();
    assert_eq!(bodies, ["a", &fits, "b"]);
}

#[test]
fn the_format_is_told_by_the_name_or_the_first_line() {
    assert!(looks_like_event(br#"{"name":"a","attributes":{"b":1}}"#));
    assert!(looks_like_event(br#" {"body":"a"} "#));
    for text in [r#"{"msg":"a","time":1}"#, "{}", "[]", "1", r#"{"name":"a"} tail"#, r#""name""#, "name"] {
        assert!(!looks_like_event(text.as_bytes()), "{text}");
    }
    let (outcome, bodies) = send_text(b"\n\n{\"msg\":1}\n{\"name\":\"a\"}\n", &[]);
    outcome.unwrap();
    assert_eq!(bodies, ["", "", "{\"msg\":1}", "{\"name\":\"a\"}"]);
    let (outcome, bodies) = send_text(b"\n\n", &[]);
    outcome.unwrap();
    assert_eq!(bodies, ["", ""], "empty lines alone are text");
    let (outcome, bodies) = send_text(b"{\"name\":\"a\"}", &["--format", "text"]);
    outcome.unwrap();
    assert_eq!(bodies, ["{\"name\":\"a\"}"]);
}

#[test]
fn nothing_to_send_is_fine() {
    let (outcome, events) = send_files(&[("empty", b"")], &[]);
    assert_eq!((outcome.unwrap().progress.acknowledged_events, events.len()), (0, 0));
}

#[test]
fn refused_events_are_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.log");
    std::fs::write(&path, "one\ntwo\n").unwrap();
    let (address, _received) = server(true);
    let error = send(address, &SendOptions { files: vec![path], ..options(&[]) }).err().unwrap();
    assert_eq!(error.to_string(), "2 of 2 events were refused by the server");
}

#[test]
fn what_cannot_be_read_is_named() {
    let (address, _received) = server(false);
    let error = send(address.clone(), &options(&["no-such-file"])).err().unwrap();
    assert!(error.to_string().starts_with("no-such-file: No such file"), "{error}");
    let error = send(address, &options(&["--token-file", "no-such-token"])).err().unwrap();
    assert!(error.to_string().starts_with("no-such-token: No such file"), "{error}");
}

#[test]
fn arguments_that_no_event_can_carry_are_refused() {
    let parse = |arguments: [&str; 3]| Line::try_parse_from(arguments).err().map(|error| error.exit_code());
    assert_eq!(parse(["send", "--name", ""]), Some(2));
    assert_eq!(parse(["send", "--source", &"x".repeat(EVENT_NAME_BYTES_MAX + 1)]), Some(2));
    assert_eq!(parse(["send", "--ack", "perhaps"]), Some(2));
    assert_eq!(parse(["send", "--ack", "written"]), None);
}

#[test]
fn sizes_are_for_people() {
    assert_eq!([999, 1_500, 21_900_000, 3_000_000_000].map(megabytes), ["999 B", "1.5 kB", "21.9 MB", "3.0 GB"]);
}

#[test]
fn a_json_line_is_an_event_and_empty_ones_are_none() {
    let lines = "\n{\"name\":\"a\",\"severity\":\"warn\",\"time\":1795464948123456789}\r\n   \n\n{\"body\":\"b\",\"attributes\":{\"k\":1}}";
    for (name, arguments) in [("x.log", &["--format", "ndjson"][..]), ("x.ndjson", &[]), ("x.jsonl", &[]), ("x", &[])] {
        let (outcome, events) = send_files(&[(name, lines.as_bytes())], arguments);
        outcome.unwrap();
        assert_eq!(events.len(), 2, "{name}");
        let first = events.first().map(|event| (event.name.as_str(), event.severity, event.time_unix_nano));
        assert_eq!(first, Some(("a", 13, 1_795_464_948_123_456_789)), "{name}");
    }
}

#[test]
fn a_json_line_that_is_no_event_ends_the_command_after_all_before_it() {
    for (bad, why) in [
        ("{\"name\":", "malformed JSON"),
        ("{\"nam\":\"c\"}", "name"),
        ("{\"severity\":1}", "neither"),
        ("text", "malformed JSON"),
        ("{\"name\":\"c\"} {\"name\":\"d\"}", "malformed JSON"),
    ] {
        let lines = format!("{{\"name\":\"a\"}}\n\n{{\"name\":\"b\"}}\n{bad}\n{{\"name\":\"e\"}}\n");
        let (outcome, events) = send_files(&[("x.ndjson", lines.as_bytes())], &[]);
        let error = outcome.err().unwrap().to_string();
        assert!(error.contains("x.ndjson:4: no event: ") && error.contains(why), "{error}");
        let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
    }
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(SEND_LINE_BYTES_MAX));
    let (outcome, events) = send_files(&[("x.ndjson", long.as_bytes())], &[]);
    let error = outcome.err().unwrap().to_string();
    assert!(error.contains("x.ndjson:1: the line has 1048587 bytes"), "{error}");
    assert_eq!(events.len(), 0);
}
