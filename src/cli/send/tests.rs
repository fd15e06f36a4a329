//! The command against a scripted server.

use std::io::Write as _;
use std::sync::mpsc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::client::script;
use crate::event::proto::Event;
use crate::event::proto::attribute::Value;
use crate::limits::{EVENT_BODY_BYTES_MAX, EVENT_NAME_BYTES_MAX, SEND_LINE_BYTES_MAX};
use crate::wire::{NackCode, Welcome, answer};

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

fn send(address: String, options: &SendOptions) -> Result<Sent, Ended> {
    super::send(address, options, &Stop::default(), &Live::new(&[]))
}

/// Sends files of these contents and returns how it went and the events that arrived.
fn send_files(files: &[(&str, &[u8])], arguments: &[&str]) -> (Result<Sent, Ended>, Vec<Event>) {
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
        assert_eq!(sent.events, events.len() as u64);
    }
    (outcome, events)
}

fn send_text(content: &[u8], arguments: &[&str]) -> (Result<Sent, Ended>, Vec<String>) {
    let (outcome, events) = send_files(&[("app.log", content)], arguments);
    (outcome, events.into_iter().map(|event| event.body).collect())
}

#[test]
fn a_text_line_is_the_body_of_a_log_event() {
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let (outcome, events) = send_files(&[("a", b"one\n\ntwo\r\n"), ("b", "dr\u{00e9}i".as_bytes())], &[]);
    let sent = outcome.unwrap();
    assert_eq!(sent.level, Some(AckLevel::Received));
    assert_eq!(sent.bytes, 15);
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
fn a_line_beyond_a_body_is_cut_at_a_character_and_marked() {
    let max = EVENT_BODY_BYTES_MAX;
    let fits = "x".repeat(max);
    // The last character begins within the limit and ends beyond it.
    let long = format!("a\n{}\u{00e9}\nb", "x".repeat(max - 1));
    let longer = format!("a\n{}\nb", "x".repeat(3 * SEND_LINE_BYTES_MAX));
    for (text, cut) in [(&long, &fits[..max - 1]), (&longer, &fits)] {
        for arguments in [&[][..], &["--truncate"]] {
            let (outcome, events) = send_files(&[("app.log", text.as_bytes())], arguments);
            outcome.unwrap();
            let bodies: Vec<_> = events.iter().map(|event| event.body.as_str()).collect();
            assert_eq!(bodies, ["a", cut, "b"]);
            let marks: Vec<_> = events.iter().map(|event| event.attributes.clone()).collect();
            assert_eq!((marks[0].len(), marks[1].len(), marks[2].len()), (0, 1, 0), "the mark is on the cut line only");
            assert_eq!((marks[1][0].key.as_str(), &marks[1][0].value), ("truncated", &Some(Value::BoolValue(true))));
        }
    }
    let (outcome, events) = send_files(&[("app.log", format!("{fits}\r\nb").as_bytes())], &[]);
    outcome.unwrap();
    assert!(events.len() == 2 && events.iter().all(|event| event.attributes.is_empty()));
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

#[test]
fn gzip_is_unpacked_whatever_the_name() {
    let two_members = [packed(b"one\ntw"), packed(b"o\n")].concat();
    let (outcome, bodies) = send_text(&two_members, &[]);
    assert_eq!((outcome.unwrap().bytes, &bodies[..]), (8, &["one".to_owned(), "two".to_owned()][..]));
    let events = packed(b"{\"name\":\"a\",\"kind\":\"log\"}\n");
    for name in ["x.ndjson.gz", "x"] {
        let (outcome, events) = send_files(&[(name, &events)], &[]);
        outcome.unwrap();
        assert_eq!(events.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["a"]);
    }
}

#[test]
fn a_cut_gzip_file_ends_with_an_error_after_what_is_readable() {
    let lines: String = (0..50_000).map(|line| format!("line {line}\n")).collect();
    let whole = packed(lines.as_bytes());
    let (outcome, bodies) = send_text(&whole[..whole.len() / 2], &[]);
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("app.log: the gzip data ends early: the file is incomplete; "), "{error}");
    assert!(error.ends_with(&format!("; {0} of {0} events were acknowledged", bodies.len())), "{error}");
    assert!(bodies.len() > 10_000 && bodies.iter().eq(lines.lines().take(bodies.len())), "{}", bodies.len());
}

#[test]
fn the_elements_of_an_array_are_events() {
    let pretty =
        "\u{feff}[\r\n  {\r\n    \"name\": \"a\",\r\n    \"body\": \"]\"\r\n  },\r\n  {\"name\": \"b\"}\r\n]\r\n";
    let dense = "[{\"name\":\"a\"},{\"name\":\"b\"}]";
    let objects = "{\n\"name\":\"a\"}\n{\n\"name\":\"b\"}";
    for (name, text, arguments) in [
        ("x.json", pretty, &[][..]),
        ("x.log", pretty, &[]),
        ("x", dense, &[]),
        ("x.json", objects, &[]),
        ("x", objects, &["--format", "json"]),
    ] {
        for bytes in [text.as_bytes().to_vec(), packed(text.as_bytes())] {
            let (outcome, events) = send_files(&[(name, &bytes)], arguments);
            outcome.unwrap();
            let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
            assert_eq!(names, ["a", "b"], "{text}");
        }
    }
    let many: Vec<String> =
        (0..30_000).map(|n| format!("{{\"name\":\"n{n}\",\"body\":\"{}\"}}", "x".repeat(90))).collect();
    let (outcome, events) = send_files(&[("x.json", format!("[{}]", many.join(",\n")).as_bytes())], &[]);
    outcome.unwrap();
    assert!(events.iter().enumerate().all(|(n, event)| event.name == format!("n{n}")) && events.len() == many.len());
    let (outcome, bodies) = send_text(b"[info] x\n[{\"msg\":1}]\n", &[]);
    outcome.unwrap();
    assert_eq!(bodies, ["[info] x", "[{\"msg\":1}]"], "a log may begin with a bracket");
}

#[test]
fn an_element_that_is_not_an_event_ends_the_command_with_its_line() {
    for (end, why) in [
        ("{\"nam\":1}]", "x.json:3: not an event: "),
        ("7]", "x.json:3: not an event: "),
        ("{\"name\":", "x.json:3: the input ends within a JSON value"),
        ("{\"name\":\"c\"} {}]", "x.json:3: malformed JSON: a comma or ] is missing"),
    ] {
        let text = format!("[{{\"name\":\"a\"}},\n{{\"name\":\"b\"}},\n{end}");
        let (outcome, events) = send_files(&[("x.json", text.as_bytes())], &[]);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(error.ends_with(&format!("; {0} of {0} events were acknowledged", events.len())), "{error}");
        assert!(events.len() >= 2);
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_line() {
    let (outcome, bodies) = send_text(b"\xef\xbb\xbfone\r\ntwo\r\n", &[]);
    outcome.unwrap();
    assert_eq!(bodies, ["one", "two"]);
    let (outcome, events) = send_files(&[("x.ndjson", b"\xef\xbb\xbf{\"name\":\"a\"}\n")], &[]);
    outcome.unwrap();
    assert_eq!(events.len(), 1);
}

#[test]
fn utf16_is_refused_by_name_after_what_came_before_it() {
    let utf16 = [b"\xff\xfe".to_vec(), "one\n".encode_utf16().flat_map(u16::to_le_bytes).collect()].concat();
    let (outcome, events) = send_files(&[("first", b"one\n"), ("second", &utf16)], &[]);
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("second: is UTF-16, not UTF-8 text: convert it, as in `iconv "), "{error}");
    assert!(error.ends_with("; 1 of 1 event was acknowledged"), "{error}");
    assert_eq!(events.len(), 1);
}

#[test]
fn what_ends_before_the_first_event_says_so() {
    let (address, _received) = server(false);
    let error = send(address, &options(&["no-such-file"])).unwrap_err().to_string();
    assert!(error.ends_with("; no events were sent"), "{error}");
    let error = send("127.0.0.1:1".to_owned(), &options(&["--timeout", "1"])).unwrap_err().to_string();
    assert!(error.starts_with("127.0.0.1:1: ") && error.ends_with("; no events were sent"), "{error}");
}

#[test]
fn a_timeout_that_is_given_holds_for_the_first_connection_too() {
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(patience(options(&[]).timeout), (seconds(5), seconds(30)));
    assert_eq!(patience(options(&["--timeout", "0"]).timeout), (None, None));
    assert_eq!(patience(options(&["--timeout", "2"]).timeout), (seconds(2), seconds(2)));
    assert_eq!(patience(options(&["--timeout", "90"]).timeout), (seconds(90), seconds(90)));
}

#[test]
fn where_nobody_listens_the_next_step_is_named() {
    let options = SendOptions { timeout: Some(1), ..options(&[]) };
    let error = send("127.0.0.1:1".to_owned(), &options).unwrap_err().to_string();
    assert!(error.ends_with("; start the server, or check host and port; no events were sent"), "{error}");
}

#[test]
fn a_server_that_stops_answering_leaves_the_rest_unknown() {
    let address = script::serve(move |_, mut peer| {
        peer.greet();
        while peer.data().is_some() {}
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.log");
    std::fs::write(&path, "one\ntwo\n").unwrap();
    let options = SendOptions { files: vec![path], timeout: Some(1), ..options(&[]) };
    let error = send(address, &options).unwrap_err().to_string();
    let end = "; 0 of 2 events were acknowledged; 2 were not and may be stored nevertheless";
    assert!(error.contains("no progress for 1 s") && error.ends_with(end), "{error}");
    let why = "; connected, but nothing is acknowledged: see /ready of the server for the reason; without an answer there, it hangs";
    assert!(error.contains(why), "{error}");
}

#[test]
fn a_server_that_waits_for_its_sinks_is_asked_for_them() {
    let address = script::serve(move |_, mut peer| {
        let last_seq = peer.hello() - 1;
        peer.say(|out| Welcome { ack: AckLevel::Delivered, ..script::welcome(last_seq, false) }.encode(out));
        while peer.data().is_some() {}
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.log");
    std::fs::write(&path, "one\ntwo\n").unwrap();
    let options = SendOptions { files: vec![path], timeout: Some(1), ..options(&["--ack", "delivered"]) };
    let error = send(address, &options).unwrap_err().to_string();
    let why = "; connected, but nothing is acknowledged as delivered: see /ready of the server for the states of its sinks, \
               and its log for their errors; one that gathers for long (batch.max_age, aggregate.interval) needs a longer timeout";
    assert!(error.contains(why), "{error}");
}

#[test]
fn what_accepts_connections_and_says_nothing_may_not_be_telemetryx() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let error = send(address, &options(&["--timeout", "1"])).unwrap_err().to_string();
    let why = "; connected, but there is no answer: it is not telemetryx, it hangs, or its log accepts no events (see its \
               /ready); no events were sent";
    assert!(error.ends_with(why), "{error}");
}

#[test]
fn directories_are_named() {
    let (address, _received) = server(false);
    let error = send(address, &options(&["/"])).unwrap_err().to_string();
    assert!(error.starts_with("/: is a directory"), "{error}");
}

#[test]
fn the_format_is_told_by_the_name_or_the_first_line() {
    let looks_like_event = |line: &[u8]| options(&[]).is_event(line);
    assert!(looks_like_event(br#"{"name":"a","attributes":{"b":1}}"#));
    assert!(looks_like_event(br#" {"body":"a"} "#));
    for arguments in [["--map", "pino"], ["--unknown", "attributes"]] {
        assert!(options(&arguments).is_event(br#"{"msg":"a","time":1}"#));
        assert!(!options(&arguments).is_event(b"{}") && !options(&arguments).is_event(b"a"));
    }
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
    let expected = "2 of 2 events were refused by the server; 0 of 2 events were acknowledged";
    assert_eq!(error.to_string(), expected);
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
    assert_eq!(parse(["send", "--to", "local host"]), Some(2));
    assert_eq!(parse(["send", "--to", "localhost:"]), Some(2));
    assert_eq!(parse(["send", "--to", "localhost"]), None);
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
        assert!(error.contains("x.ndjson:4: not an event: ") && error.contains(why), "{error}");
        let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
    }
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(SEND_LINE_BYTES_MAX));
    let (outcome, events) = send_files(&[("x.ndjson", long.as_bytes())], &[]);
    let error = outcome.err().unwrap().to_string();
    assert!(error.contains("x.ndjson:1: the line has 1048587 bytes"), "{error}");
    assert_eq!(events.len(), 0);
}

#[test]
fn json_of_other_agents_is_mapped() {
    let line = br#"{"level":50,"time":1795771426124,"name":"api","msg":"failed","code":7}"#;
    let (outcome, events) = send_files(&[("app.log", line)], &["--map", "pino"]);
    outcome.unwrap();
    let event = &events[0];
    assert_eq!((event.body.as_str(), event.source.as_str(), event.severity), ("failed", "api", 17));
    assert_eq!(event.time_unix_nano, 1_795_771_426_124_000_000);
    assert_eq!(event.attributes.len(), 1);
}

/// Programs write other lines among their JSON, also before it.
#[test]
fn with_a_map_lines_that_are_not_json_objects_are_text() {
    let json = r#"{"level":50,"time":1795771426124,"msg":"failed"}"#;
    let others = ["> app@1.0.0 start", "    at main (app.js:1)", "{\"level\":", "[1]", "5"];
    for first in 0..others.len() {
        let mut lines = others.map(str::to_owned).to_vec();
        lines.rotate_left(first);
        let input: String = lines.iter().map(|other| format!("{other}\n\n{json}\n")).collect();
        let (outcome, events) = send_files(&[("app.log", input.as_bytes())], &["--map", "pino"]);
        outcome.unwrap();
        for (pair, other) in events.chunks(2).zip(&lines) {
            assert_eq!((pair[0].body.as_str(), pair[0].severity, pair[0].name.as_str()), (other.as_str(), 0, "log"));
            assert_eq!((pair[1].body.as_str(), pair[1].severity), ("failed", 17));
        }
        assert_eq!(events.len(), 2 * lines.len());
    }
    // Where the input is declared to be JSON, it has to be.
    let input = format!("{json}\nbanner\n");
    for (name, arguments) in
        [("app.log", &["--format", "ndjson", "--map", "pino"][..]), ("app.ndjson", &["--map", "pino"])]
    {
        let (outcome, events) = send_files(&[(name, input.as_bytes())], arguments);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(&format!("{name}:2: not an event: ")), "{error}");
        assert_eq!(events.len(), 1);
    }
}

/// Without this, all lines would be text because of the first one, and the options had no effect.
#[test]
fn options_about_json_need_json_from_the_first_line_on() {
    for arguments in [["--unknown", "attributes"], ["--time", "s"]] {
        let (outcome, events) = send_files(&[("app.log", b"banner\n{\"name\":\"a\"}\n")], &arguments);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("app.log:1: not an event: malformed JSON"), "{error}");
        assert_eq!(events.len(), 0);
    }
}

#[test]
fn a_wrong_unit_is_named() {
    let line = br#"{"level":50,"time":1795771426,"msg":"failed"}"#;
    let (outcome, _) = send_text(line, &["--map", "pino"]);
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("it looks like seconds: set time=s"), "{error}");
    let (outcome, bodies) = send_text(line, &["--map", "pino", "--time", "s"]);
    outcome.unwrap();
    assert_eq!(bodies, ["failed"]);
}
