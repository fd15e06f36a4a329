//! What sinks get of the stream: the examples of docs/shaping.md, the preview, acknowledgements, and sampling into two stores.
#![cfg(all(feature = "postgres", feature = "redis", feature = "grpc", feature = "http-sink"))]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::http;
use crate::support::server::{Server, wait_until};
use crate::support::stores::Postgres;
use prost::Message;
use telemetryx::batch::{Batch, Delivery, Origin, Payload, Record, Run};
use telemetryx::config::Layers;
use telemetryx::event::proto::{Event, EventBatch};
use telemetryx::event::{EventKind, JsonDecoder, JsonRecord, write_json};
use telemetryx::router::steps::Steps;

const PATIENCE: Duration = Duration::from_secs(120);

/// The fenced blocks of docs/shaping.md: their tag and their text.
fn blocks() -> Vec<(String, String)> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/shaping.md")).unwrap();
    let mut blocks = Vec::new();
    let mut rest = page.as_str();
    while let Some((_, after)) = rest.split_once("\n```") {
        let (tag, after) = after.split_once('\n').unwrap();
        let (text, after) = after.split_once("\n```").expect("the block ends");
        blocks.push((tag.to_owned(), text.to_owned()));
        rest = after;
    }
    blocks
}

fn settings(file: String) -> telemetryx::config::Config {
    let layers = Layers { file: Some(("shaping.toml".to_owned(), file.clone())), ..Layers::default() };
    layers.resolve().unwrap_or_else(|error| panic!("{error}\n{file}")).config
}

/// What the steps leave of the events.
fn shaped(steps: &Steps, lines: &str) -> Vec<serde_json::Value> {
    let mut fields: Vec<Vec<u8>> = Vec::new();
    let decoded = JsonDecoder::new().lines(lines.as_bytes(), |field| {
        fields.push(field.to_vec());
        Ok::<(), ()>(())
    });
    assert_eq!(decoded.unwrap().rejected.total, 0, "{lines}");
    let origin = Arc::new(Origin { agent_id: None, agent: None, default_source: "192.0.2.1".to_owned(), epoch: 0 });
    let events = fields.len() as u32;
    let run = Run {
        payload: Payload::Read(fields.concat().into()),
        events,
        received_unix_nano: 1,
        origin,
        are_head_first: false,
    };
    let delivery = Delivery::new(vec![Arc::new(Batch::new(1, vec![run]))], 1..=events.into());
    let delivery = steps.apply(delivery);
    let row = |record: Record<'_>| {
        let mut json = Vec::new();
        write_json(&JsonRecord::event(record.event), &mut json);
        serde_json::from_slice(&json).unwrap()
    };
    delivery.records().map(row).collect()
}

#[test]
fn the_examples_of_the_page_give_what_it_shows() {
    let blocks = blocks();
    let mut examples = 0;
    for three in blocks.windows(3) {
        let [(tag, toml), (_, input), (out_tag, output)] = three else { unreachable!() };
        if tag != "toml shaping" {
            continue;
        }
        assert_eq!(out_tag, "json out", "an example is settings, events in and rows out: {toml}");
        let config = settings(format!("[[sinks]]\nname = \"a\"\nkind = \"discard\"\n{toml}"));
        let steps = Steps::new(&config.sinks[0].steps, [0; 16]);
        // Read and written by the same rules: a severity has a name in the page, and a number in a row.
        assert_eq!(shaped(&steps, input), shaped(&Steps::default(), output), "{toml}");
        examples += 1;
    }
    assert!(examples >= 2);
    let recipes: Vec<_> = blocks.iter().filter(|(tag, _)| tag == "toml recipe").collect();
    assert!(recipes.len() >= 3);
    recipes.iter().for_each(|(_, toml)| drop(settings(toml.clone())));
}

fn check(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    let output = command.arg("check").args(arguments).current_dir(folder).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

const PREVIEW: &str = r#"
[[sinks]]
name = "errors"
kind = "stdout"
include = [{ severity = "error" }]
[[sinks]]
name = "sampled"
kind = "discard"
exclude = [{ name = "ping" }]
sample = { keep = "1/10", always = { kinds = "log" } }
"#;

#[test]
fn the_preview_says_what_each_sink_gets_and_why() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("telemetryx.toml"), PREVIEW).unwrap();
    let events = [
        r#"{"kind":"span","source":"api-1","name":"GET /","trace_id":"00000000000000000000000000000009"}"#,
        "",
        r#"{"severity":"error","name":"a\u001b[1m","body":"failed"}"#,
        r#"{"name":"ping","kind":"gauge","value":1}"#,
        r#"{"nmae":"x"}"#,
    ];
    fs::write(folder.path().join("events.ndjson"), events.join("\n")).unwrap();
    let (ok, text) = check(folder.path(), &["--event", "events.ndjson"]);
    assert!(!ok && text.contains("1 of 5 lines are not events"), "{text}");
    let expected = [
        r#"line 1: span "GET /" from "api-1""#,
        "  errors   no   left out: meets no condition of include",
        "  sampled  yes  kept by sample, as 1 in 10",
        r#"                {"kind":"span","source":"api-1","name":"GET /","attributes":{"sample_rate":10},"trace_id":"00000000000000000000000000000009"}"#,
        r#"line 3: log "a\u001B[1m" from "127.0.0.1""#,
        "  errors   yes  meets condition 1 of include",
        "  sampled  yes  kept: meets condition 1 of sample.always",
        r#"line 4: gauge "ping" from "127.0.0.1""#,
        "  errors   no   left out: meets no condition of include",
        "  sampled  no   left out: meets condition 1 of exclude",
    ];
    let shown: Vec<&str> = text.lines().skip(1).take(expected.len()).collect();
    assert_eq!(shown, expected, "{text}");
    assert!(text.contains("line 5: not an event: ") && text.contains("did you mean `name`"), "{text}");

    let (ok, text) = check(folder.path(), &["--event", "events.ndjson", "--json"]);
    assert!(!ok);
    let document: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(document["events"].as_array().unwrap().len(), 4);
    let sampled = &document["events"][0]["sinks"][1];
    assert_eq!(sampled["rows"][0]["attributes"]["sample_rate"], 10);
    assert_eq!((&sampled["gets_it"], &sampled["reasons"][0]), (&true.into(), &"kept by sample, as 1 in 10".into()));

    let (ok, text) = check(folder.path(), &["--event", "missing.ndjson"]);
    assert!(!ok && text.contains("missing.ndjson: No such file"), "{text}");
    let (ok, text) = check(folder.path(), &["--set", "sinks.errors.include=[{ kinds = [\"logs\"] }]"]);
    assert!(!ok && text.contains("sinks.errors.include: condition 1: kinds: expected \"log\""), "{text}");
}

const WINDOWS: &str = r#"
[[sinks]]
name = "logs"
kind = "discard"
include = [{ kinds = "log" }]
collapse = true
[[sinks]]
name = "sums"
kind = "stdout"
aggregate = { interval = "10s" }
[[sinks]]
name = "few"
kind = "discard"
required = false
sample = { keep = "1/10", by = "event" }
"#;

/// What the preview prints of these lines, from a file or standard input, and as JSON.
fn preview(folder: &Path, lines: &[&str]) -> (String, serde_json::Value) {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
        command.args(["check", "--event", "-"]).args(arguments).current_dir(folder);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    (run(&[]), serde_json::from_str(&run(&["--json"])).unwrap())
}

#[test]
fn the_preview_takes_the_file_as_one_delivery() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("telemetryx.toml"), WINDOWS).unwrap();
    let events = [
        r#"{"time":"2026-01-02T03:04:05Z","name":"db","body":"refused"}"#,
        r#"{"time":"2026-01-02T03:04:01Z","kind":"counter","name":"requests","value":1}"#,
        "",
        r#"{"time":"2026-01-02T03:04:06Z","name":"db","body":"refused"}"#,
        r#"{"time":"2026-01-02T03:04:02Z","kind":"counter","name":"requests","value":2}"#,
    ];
    let (text, document) = preview(folder.path(), &events);
    let expected = [
        r#"line 1: log "db" from "127.0.0.1""#,
        "  logs  yes  meets condition 1 of include; collapsed into the row of a later line",
        "  sums  yes  as it came",
        "  few   depends  sample keeps 1 in 10, decided by the position in the log",
        r#"line 2: counter "requests" from "127.0.0.1""#,
        "  logs  no   left out: meets no condition of include",
        "  sums  yes  aggregated per 10s; in the row of a later line",
        "  few   yes  as it came",
        r#"line 4: log "db" from "127.0.0.1""#,
        "  logs  yes  meets condition 1 of include; collapsed with earlier lines",
        r#"             {"time":"2026-01-02T03:04:06.000000000Z","kind":"log","name":"db","body":"refused","attributes":{"repeated":2,"first_time":"2026-01-02T03:04:05.000000000Z","last_time":"2026-01-02T03:04:06.000000000Z"}}"#,
        "  sums  yes  as it came",
        "  few   depends  sample keeps 1 in 10, decided by the position in the log",
        r#"line 5: counter "requests" from "127.0.0.1""#,
        "  logs  no   left out: meets no condition of include",
        "  sums  yes  aggregated per 10s",
        r#"             {"time":"2026-01-02T03:04:00.000000000Z","kind":"counter","source":"127.0.0.1","name":"requests","attributes":{"count":2,"interval":"10s"},"value":3.0}"#,
        "  few   yes  as it came",
    ];
    let shown: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(shown, expected, "{text}");
    let of = |event: usize, sink: usize| &document["events"][event]["sinks"][sink];
    assert_eq!((&of(0, 2)["gets_it"], &of(1, 0)["gets_it"]), (&serde_json::Value::Null, &false.into()));
    assert_eq!((&of(1, 1)["gets_it"], &of(1, 1)["rows"]), (&true.into(), &serde_json::json!([])));
    assert_eq!(of(3, 1)["rows"][0]["attributes"]["count"], 2);
    assert_eq!(of(2, 0)["rows"][0]["attributes"]["repeated"], 2);
}

/// Every event has a time: that of its receipt, which is now.
#[test]
fn the_preview_receives_events_now() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("telemetryx.toml"), WINDOWS).unwrap();
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (text, document) = preview(folder.path(), &[r#"{"kind":"counter","name":"requests","value":1}"#]);
    let row = &document["events"][0]["sinks"][1]["rows"][0];
    let year = row["time"].as_str().unwrap().split('-').next().unwrap().parse::<u64>().unwrap();
    assert!(year >= 1970 + before / (366 * 86_400), "{text}");
}

#[test]
fn check_warns_of_a_window_that_is_longer_than_a_request_waits() {
    let folder = tempfile::tempdir().unwrap();
    let warning = "warning: metrics: gathers for \"1m\": a request with ack=delivered may end with 504 after 30 s";
    for (settings, warns) in [
        ("aggregate.interval = \"1m\"", true),
        ("batch.max_age = \"1m\"", true),
        ("aggregate.interval = \"1m\"\nrequired = false", false),
        ("aggregate.interval = \"1m\"\nbatch.max_age = \"10s\"", false),
    ] {
        let file = format!("[[sinks]]\nname = \"metrics\"\nkind = \"discard\"\n{settings}\n");
        fs::write(folder.path().join("telemetryx.toml"), file).unwrap();
        let (ok, text) = check(folder.path(), &[]);
        assert!(ok && text.contains(warning) == warns, "{settings}: {text}");
        let (ok, text) = check(folder.path(), &["--json"]);
        assert!(ok && text.contains("gathers for") == warns, "{settings}: {text}");
    }
}

/// A recipe that is copied warns of nothing.
#[test]
fn no_recipe_has_a_window_that_requests_wait_for_in_vain() {
    let recipes = blocks().into_iter().filter(|(tag, _)| tag == "toml recipe");
    for sink in recipes.flat_map(|(_, toml)| settings(toml).sinks) {
        assert!(!sink.required || sink.batch.max_age < Duration::from_secs(15), "{}", sink.name);
    }
}

#[test]
fn what_is_left_out_is_delivered_for_acknowledgements_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(
        folder.path(),
        &["sinks.none.kind=discard", "sinks.none.exclude={ source = '*' }", "sinks.none.batch.max_age=1ms"],
    );
    for round in 1..=3 {
        let (status, body) =
            http::post(server.address(), "?ack=delivered", "[{\"name\":\"a\"},{\"name\":\"b\"}]").unwrap();
        assert_eq!(status, 200, "{body}");
        let metric = "telemetryx_events_filtered_total{sink=\"none\",step=\"exclude\"}";
        assert_eq!(http::metric(server.address(), metric), Some(f64::from(2 * round)));
    }
    assert_eq!(http::metric(server.address(), "telemetryx_events_delivered_total{sink=\"none\"}"), Some(0.0));
    assert_eq!(http::metric(server.address(), "telemetryx_sink_lag_events{sink=\"none\"}"), Some(0.0));
    let (status, ready) = http::get(server.address(), "/ready");
    assert_eq!(status, 200, "{ready}");
}

/// The id of the n-th trace, and how many spans it has.
fn trace(number: u64) -> ([u8; 16], u64) {
    let mut id = [0; 16];
    let (high, low) = id.split_at_mut(8);
    high.copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    low.copy_from_slice(&number.to_be_bytes());
    (id, 1 + number % 20)
}

fn post_spans(address: SocketAddr, spans: Vec<Event>) {
    let body = EventBatch { events: spans }.encode_to_vec();
    let mut stream = TcpStream::connect(address).unwrap();
    let head =
        "POST /v1/events HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-type: application/x-protobuf\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n", body.len()).unwrap();
    stream.write_all(&body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Spans of a trace are far from each other: each round posts one of each trace that has so many.
fn sampled_alike(traces: u64) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        "sinks.lite.kind=sqlite".to_owned(),
        "sinks.lite.sample.keep=1/10".to_owned(),
        "sinks.pg.kind=postgres".to_owned(),
        format!("sinks.pg.url={}", postgres.url(&database)),
        "sinks.pg.sample.keep=1/10".to_owned(),
        // Other borders of deliveries.
        "sinks.pg.batch.max_events=777".to_owned(),
    ];
    let server = Server::start(folder.path(), &settings.each_ref().map(String::as_str));
    let mut total = 0;
    for round in 0..20 {
        let spans = (0..traces).map(trace).filter(|(_, spans)| *spans > round).map(|(id, _)| Event {
            kind: EventKind::Span.into(),
            name: format!("span {round}"),
            trace_id: id.to_vec(),
            ..Event::default()
        });
        let mut spans = spans.peekable();
        while spans.peek().is_some() {
            let batch: Vec<Event> = spans.by_ref().take(10_000).collect();
            total += batch.len() as u64;
            post_spans(server.address(), batch);
        }
    }
    let passed = |sink: &str| {
        let count = |name: String| http::metric(server.address(), &name).unwrap_or_default() as u64;
        count(format!("telemetryx_events_delivered_total{{sink=\"{sink}\"}}"))
            + count(format!("telemetryx_events_filtered_total{{sink=\"{sink}\",step=\"sample\"}}"))
    };
    let patience = PATIENCE + Duration::from_micros(100 * total);
    assert!(wait_until(patience, || passed("lite") == total && passed("pg") == total), "{}", server.log());

    let is_kept = |id: &[u8; 16]| xxhash_rust::xxh64::xxh64(id, 0) <= u64::MAX / 10;
    let hex = |id: [u8; 16]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let expected: BTreeMap<String, u64> =
        (0..traces).map(trace).filter(|(id, _)| is_kept(id)).map(|(id, spans)| (hex(id), spans)).collect();
    let share = expected.len() as f64 / traces as f64;
    assert!((0.05..0.2).contains(&share), "{share}");

    let query = "SELECT trace_id, count(*) FROM events GROUP BY trace_id";
    let sqlite = crate::support::ledger::open(&folder.path().join("events.db"));
    let mut statement = sqlite.prepare(query).unwrap();
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()));
    let rows = statement.query_map([], row).unwrap();
    let in_sqlite: BTreeMap<String, u64> = rows.map(Result::unwrap).collect();
    assert!(in_sqlite == expected, "SQLite has {} traces, not {}", in_sqlite.len(), expected.len());

    let text = postgres.psql(&database, &query.replacen("trace_id", "encode(trace_id, 'hex')", 1)).unwrap();
    let rows = text.lines().map(|line| line.split_once('|').unwrap());
    let in_postgres: BTreeMap<String, u64> = rows.map(|(id, count)| (id.to_owned(), count.parse().unwrap())).collect();
    assert!(in_postgres == expected, "PostgreSQL has {} traces, not {}", in_postgres.len(), expected.len());
    let rates = "SELECT count(*) FILTER (WHERE attributes->>'sample_rate' = '10'), count(*) FROM events";
    let rates = postgres.psql(&database, rates).unwrap();
    let rows: u64 = expected.values().sum();
    assert_eq!(rates.trim(), format!("{rows}|{rows}"));
}

#[test]
fn sqlite_and_postgresql_keep_the_same_traces_whole() {
    sampled_alike(2_000);
}

/// A few minutes: `make torture`.
#[test]
#[ignore = "sends ten million spans; `make torture` runs it"]
fn a_million_traces() {
    sampled_alike(1_000_000);
}
