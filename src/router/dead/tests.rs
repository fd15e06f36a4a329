//! Over real files, with others who change them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prost::Message;
use serde_json::{Value, json};

use super::writer::write_string;
use super::*;
use crate::batch::{Batch, Origin, Payload, Run};
use crate::event::proto::{Attribute, Event, EventBatch, attribute};
use crate::limits;
use crate::metrics::Metrics;
use crate::random::Random;
use crate::sink::testing::{RECEIVED_UNIX_NANO, SERVER_ID, batch_of, delivery_of, http_origin, named, origin};
use crate::sink::{Refusal, uuid};

struct Text(String);

impl Letter for Text {
    fn write(&self, out: &mut Vec<u8>) {
        write_string(&self.0, out);
    }
}

fn letters(dir: &Path, bytes_max: u64) -> DeadLetters {
    DeadLetters { bytes_max, ..DeadLetters::new(dir, "out", &Metrics::new().unwrap()) }
}

fn lines(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("dead/out.ndjson")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

#[test]
fn the_file_is_made_on_first_use() {
    let dir = tempfile::tempdir().unwrap();
    let letters = letters(dir.path(), u64::MAX);
    letters.append(Vec::<Text>::new()).unwrap();
    assert!(!dir.path().join("dead").exists());
    letters.append([Text("a".into()), Text("b".into())]).unwrap();
    letters.append([Text("c".into())]).unwrap();
    assert_eq!(lines(dir.path()), ["a", "b", "c"]);
}

#[test]
fn a_file_that_was_moved_away_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let letters = letters(dir.path(), u64::MAX);
    letters.append([Text("a".into())]).unwrap();
    fs::rename(dir.path().join("dead/out.ndjson"), dir.path().join("aside")).unwrap();
    letters.append([Text("b".into())]).unwrap();
    assert_eq!(lines(dir.path()), ["b"]);
}

#[test]
fn a_torn_line_spoils_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let letters = letters(dir.path(), u64::MAX);
    letters.append([Text("a".into())]).unwrap();
    let path = dir.path().join("dead/out.ndjson");
    fs::write(&path, "\"a\"\n\"tor").unwrap();
    letters.append([Text("b".into())]).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "\"a\"\n\"tor\n\"b\"\n");
}

#[test]
fn a_full_file_loses_its_older_half_and_counts_it() {
    let dir = tempfile::tempdir().unwrap();
    let letters = letters(dir.path(), 1_000);
    let (path, elsewhere) = (dir.path().join("dead/out.ndjson"), dir.path().join("elsewhere"));
    for number in 0..500 {
        letters.append([Text(format!("{number:04}"))]).unwrap();
        let bytes = fs::metadata(&path).unwrap().len();
        assert!(bytes <= 1_000 + 7, "{bytes}");
        if number == 0 {
            // What somebody else has put in the way is not written to.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            fs::write(&elsewhere, "theirs").unwrap();
            std::os::unix::fs::symlink(&elsewhere, dir.path().join("dead/out.ndjson.new")).unwrap();
        }
    }
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "theirs");
    let left = lines(dir.path());
    assert_eq!(left.len() as u64 + letters.dropped.get(), 500);
    let first = 500 - left.len();
    assert_eq!(left, (first..500).map(|number| json!(format!("{number:04}"))).collect::<Vec<_>>());
}

#[test]
fn many_letters_are_more_than_one_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let letters = letters(dir.path(), u64::MAX);
    letters.append((0..20_000).map(|number| Text(format!("letter {number}")))).unwrap();
    assert_eq!(lines(dir.path()).len(), 20_000);
}

#[test]
fn a_refused_event_can_be_sent_again_from_its_letter() {
    let dir = tempfile::tempdir().unwrap();
    let event = Event { body: "line\nnext \"quoted\"".into(), value: Some(1.5), ..named("cpu") };
    let delivery = delivery_of(batch_of(41, vec![vec![named("other"), event]]));
    let refusal = Refusal { position: 42, code: "22P02".into(), reason: "é".repeat(2_000) };
    let record = delivery.records().last().unwrap();
    letters(dir.path(), u64::MAX).append([RefusedEvent { server_id: "5e5e", record, refusal: &refusal }]).unwrap();
    let letter = &lines(dir.path())[0];
    assert_eq!(letter["server_id"], "5e5e");
    assert_eq!(letter["position"], 42);
    assert_eq!(letter["code"], "22P02");
    assert_eq!(letter["reason"], "é".repeat(512));
    assert_eq!(letter["event"]["name"], "cpu");
    assert_eq!(letter["event"]["body"], "line\nnext \"quoted\"");
    assert_eq!(letter["event"]["value"], 1.5);
}

#[test]
fn a_refused_frame_is_kept_as_it_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let frame = |origin, payload| RefusedFrame {
        origin,
        seq: 3,
        code: "MALFORMED",
        reason: "no protobuf",
        payload,
        received_unix_nano: 1,
    };
    let agent = origin();
    let http = Origin { agent_id: None, agent: None, default_source: "127.0.0.1".into(), epoch: 0 };
    letters(dir.path(), u64::MAX).append([frame(&agent, b"\xff\x00\xfe\x01"), frame(&http, b"")]).unwrap();
    let expected = json!({
        "agent": "api",
        "agent_id": "a9".repeat(16),
        "epoch": 7,
        "seq": 3,
        "code": "MALFORMED",
        "reason": "no protobuf",
        "received_at": "1970-01-01T00:00:00.000000001Z",
        "payload": "/wD+AQ==",
    });
    assert_eq!(lines(dir.path())[0], expected);
    assert_eq!(lines(dir.path())[1]["agent"], Value::Null);
}

/// The lines that `append` writes for `event` at `position`, which came from `origin`.
fn letter_of(event: Event, position: u64, origin: Origin) -> (Vec<u8>, Arc<Batch>) {
    let payload = Payload::Read(EventBatch { events: vec![event] }.encode_to_vec().into());
    let run = Run {
        payload,
        events: 1,
        received_unix_nano: RECEIVED_UNIX_NANO,
        origin: Arc::new(origin),
        are_head_first: false,
    };
    let batch = Arc::new(Batch::new(position, vec![run]));
    let refusal = Refusal { position, code: "E1".into(), reason: "no".into() };
    let delivery = delivery_of(batch.clone());
    let mut line = Vec::new();
    RefusedEvent { server_id: &uuid(&SERVER_ID), record: delivery.records().next().unwrap(), refusal: &refusal }
        .write(&mut line);
    (line, batch)
}

/// What a store would be told.
fn told(batch: Arc<Batch>) -> (u64, u64, u64, String, Option<String>, Vec<u8>) {
    let delivery = delivery_of(batch);
    let record = delivery.records().next().unwrap();
    (
        record.position,
        record.received_unix_nano,
        record.time_unix_nano(),
        record.source().to_owned(),
        record.origin.agent.clone(),
        record.event.bytes().to_vec(),
    )
}

#[test]
fn an_event_comes_back_from_its_letter_as_it_was() {
    use attribute::Value::{BoolValue, BytesValue, DoubleValue, IntValue, StringValue};
    let attribute = |key: &str, value| Attribute { key: key.into(), value };
    let simple = Event {
        time_unix_nano: 5,
        kind: crate::event::proto::EventKind::Span.into(),
        severity: 9,
        source: "host".into(),
        name: "a\0\u{7f}".into(),
        body: "zwölf \"quoted\"\n".into(),
        attributes: vec![
            attribute("z.y", Some(StringValue("x".into()))),
            attribute("i", Some(IntValue(i64::MIN))),
            attribute("d", Some(DoubleValue(0.1 + 0.2))),
            attribute("b", Some(BoolValue(true))),
        ],
        value: Some(f64::NEG_INFINITY),
        duration_nano: 77,
        trace_id: vec![0xab; 16],
        span_id: vec![0xcd; 8],
        parent_span_id: vec![0xef; 8],
    };
    let (line, batch) = letter_of(simple.clone(), 7, origin());
    assert!(!String::from_utf8_lossy(&line).contains("encoded"), "JSON says all");
    assert_eq!(told(ReadLetter::read(&line).unwrap().batch().unwrap().into()), told(batch));

    let odd = [
        Event { attributes: vec![attribute("bytes", Some(BytesValue(vec![0xff; 100_000])))], ..named("bytes") },
        Event { attributes: vec![attribute("nan", Some(DoubleValue(f64::NAN)))], ..simple },
        Event { attributes: vec![attribute("null", None)], ..named("null") },
        Event { body: "\0".repeat(limits::EVENT_BODY_BYTES_MAX), ..named("long") },
        largest(),
        with_attributes_of_steps(named("full")),
        with_attributes_of_steps(largest()),
    ];
    let origins = [origin(), http_origin(), origin(), http_origin(), http_origin(), origin(), http_origin()];
    for (event, origin) in odd.into_iter().zip(origins) {
        let (line, batch) = letter_of(event, limits::WAL_POSITION_LIMIT - 1, origin);
        assert!(line.len() < limits::DEAD_LETTER_BYTES_MAX as usize);
        let (back, was) = (told(ReadLetter::read(&line).unwrap().batch().unwrap().into()), told(batch));
        assert_eq!((back.0, back.1, back.2, &back.3, &back.4), (was.0, was.1, was.2, &was.3, &was.4));
        if String::from_utf8_lossy(&line).contains("\"encoded\"") {
            assert!(back.5 == was.5, "byte for byte");
        }
    }
}

/// As many attributes as an event may have, and those that steps add; such a row is larger than an event may be.
fn with_attributes_of_steps(mut event: Event) -> Event {
    let attributes = (event.attributes.len()..limits::EVENT_ATTRIBUTES_MAX + limits::STEP_ATTRIBUTES_MAX)
        .map(|index| Attribute { key: format!("k{index}"), value: Some(attribute::Value::IntValue(1)) });
    event.attributes.extend(attributes);
    event
}

/// With its source and time it would be larger than an event may be.
fn largest() -> Event {
    let text = |bytes| attribute::Value::StringValue("x".repeat(bytes));
    let body = "y".repeat(limits::EVENT_BODY_BYTES_MAX);
    let mut event = Event { body, attributes: vec![Attribute { key: "k".into(), value: Some(text(0)) }], ..named("n") };
    let room = limits::EVENT_BYTES_MAX - event.encoded_len();
    event.attributes[0].value = Some(text(room - 4));
    assert!(limits::EVENT_BYTES_MAX - event.encoded_len() < 4);
    event
}

#[test]
fn an_event_that_a_person_mended_counts_as_mended() {
    let event = Event {
        attributes: vec![Attribute { key: "k".into(), value: Some(attribute::Value::BytesValue(vec![1])) }],
        ..named("bad")
    };
    let (line, _) = letter_of(event, 7, origin());
    let mended = String::from_utf8(line).unwrap().replacen("\"bad\"", "\"good\"", 1);
    let delivery = delivery_of(ReadLetter::read(mended.as_bytes()).unwrap().batch().unwrap().into());
    assert_eq!(delivery.records().next().unwrap().event.name(), "good");
    let spoilt = mended.replacen("\"name\"", "\"nmae\"", 1);
    let error = ReadLetter::read(spoilt.as_bytes()).unwrap().batch().unwrap_err();
    assert!(error.contains("nmae"), "{error}");
}

#[test]
fn letters_of_older_versions_are_read() {
    let line = r#"{"server_id":"5e5e5e5e-5e5e-5e5e-5e5e-5e5e5e5e5e5e","position":2,"code":"X","reason":"no","event":{"time":"2026-01-02T03:04:05.000000006Z","kind":"log","source":"h","name":"bad"}}"#;
    let letter = ReadLetter::read(line.as_bytes()).unwrap();
    assert_eq!((letter.time_unix_nano, letter.agent.as_deref()), (Some(RECEIVED_UNIX_NANO), None));
    let (position, received, time, source, agent, _) = told(letter.batch().unwrap().into());
    assert_eq!((position, received, time), (2, RECEIVED_UNIX_NANO, RECEIVED_UNIX_NANO));
    assert_eq!((source.as_str(), agent), ("h", None));
    let timeless = line.replace("time", "tmie");
    assert!(ReadLetter::read(timeless.as_bytes()).unwrap().batch().unwrap_err().contains("received_at"));
}

#[test]
fn what_is_no_letter_is_not_taken_for_one() {
    for line in [
        "",
        "{}",
        "[1]",
        "\u{0}",
        r#"{"server_id":"5e","position":2,"code":"X","event":{}}"#,
        r#"{"server_id":"5e5e5e5e-5e5e-5e5e-5e5e-5e5e5e5e5e5e","position":0,"code":"X","event":{}}"#,
        r#"{"server_id":"5e5e5e5e-5e5e-5e5e-5e5e-5e5e5e5e5e5e","position":-1,"code":"X","event":{}}"#,
        r#"{"server_id":"5e5e5e5e-5e5e-5e5e-5e5e-5e5e5e5e5e5e","position":1,"event":{}}"#,
        r#"{"epoch":1,"seq":1,"code":"X"}"#,
    ] {
        assert!(ReadLetter::read(line.as_bytes()).is_none(), "{line}");
    }
    assert!(ReadLetter::read(&[b"{\"code\":\"\xff\"".as_slice(), b"}"].concat()).is_none());
}

#[test]
fn a_position_that_no_log_gives_out_makes_no_letter() {
    let line = |position: u64| {
        format!(
            r#"{{"server_id":"940677a2-2146-4607-87e1-839134d082cb","position":{position},"code":"x","reason":"y","event":{{"name":"e"}}}}"#
        )
    };
    assert!(ReadLetter::read(line(7).as_bytes()).is_some());
    for position in [0, 1 << 62, u64::MAX] {
        assert!(ReadLetter::read(line(position).as_bytes()).is_none(), "{position}");
    }
}

#[test]
fn a_line_that_never_ends_costs_no_memory_and_spoils_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ndjson");
    let long = limits::DEAD_LETTER_BYTES_MAX as usize;
    fs::write(&path, [b"a\n", &vec![b'x'; long * 2][..], b"y\nb\nto"].concat()).unwrap();
    let snapshot = Snapshot::open(&path).unwrap().unwrap();
    let mut lines = snapshot.lines().unwrap();
    let (mut whole, mut begun) = (Vec::new(), 0);
    while let Some(piece) = lines.next().unwrap() {
        assert!(piece.bytes.len() <= long);
        begun += u64::from(piece.begins);
        whole.extend(piece.line().map(|line| (piece.number, line.to_vec())));
    }
    assert_eq!((whole, begun), (vec![(1, b"a".to_vec()), (3, b"b".to_vec())], 4));
    assert_eq!(rewrite(&path, |line| line == b"a").unwrap(), 1);
    let left = fs::read(&path).unwrap();
    assert!(left.len() == 2 * long + 6 && left.ends_with(b"y\nb\nto"), "{} bytes", left.len());
}

#[test]
fn a_rewrite_keeps_who_may_write_and_leaves_nothing_else_behind() {
    let dir = tempfile::tempdir().unwrap();
    let letters = letters(dir.path(), u64::MAX);
    letters.append((0..10).map(|number| Text(number.to_string()))).unwrap();
    let path = path(dir.path(), "out");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
    assert_eq!(rewrite(&path, |_| false).unwrap(), 0);
    assert_eq!(rewrite(&path, |line| line > b"\"4\"".as_slice()).unwrap(), 5);
    assert_eq!(lines(dir.path()), ["0", "1", "2", "3", "4"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
    assert_eq!(fs::read_dir(folder(dir.path())).unwrap().count(), 1);
    assert_eq!(rewrite(&dir.path().join("none.ndjson"), |_| true).unwrap(), 0);
}

/// A server appends, and now and then loses its older half, while lines are taken out over and over.
#[test]
fn no_letter_is_lost_while_others_are_taken_out() {
    let seed =
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| std::process::id().into());
    println!("SEED={seed}");
    for (bytes_max, letters_appended) in [(u64::MAX, 2_000), (4_000, 3_000)] {
        let dir = tempfile::tempdir().unwrap();
        let server = letters(dir.path(), bytes_max);
        let path = path(dir.path(), "out");
        let rewrites = AtomicU64::new(0);
        let mut taken = Vec::new();
        std::thread::scope(|scope| {
            let appending = scope.spawn(|| {
                let mut random = Random::seeded(seed);
                let mut next = 0;
                let until = Instant::now() + Duration::from_secs(60);
                while next < letters_appended {
                    let end = next + 1 + random.next_u64() % 20;
                    server.append((next..end).map(|number| Text(number.to_string()))).unwrap();
                    next = end;
                    // In each quarter some are taken out, however the threads run.
                    let due = 4 * next / letters_appended;
                    while rewrites.load(Ordering::SeqCst) < due && Instant::now() < until {
                        std::thread::yield_now();
                    }
                }
                server.append([Text("last".into())]).unwrap();
            });
            while !appending.is_finished() {
                // Every third, as it is when the file is rewritten.
                let mut now = Vec::new();
                let count = rewrite(&path, |line| {
                    let text: String = serde_json::from_slice(line).expect("whole lines only");
                    let goes = text.parse::<u64>().is_ok_and(|number| number % 3 == 0);
                    if goes {
                        now.push(text);
                    }
                    goes
                });
                let count = count.unwrap() as usize;
                // What a first attempt saw, before the server put another file there, was not taken out by it.
                taken.extend(now.split_off(now.len() - count));
                rewrites.fetch_add(u64::from(count > 0), Ordering::SeqCst);
            }
        });
        let rewrites = rewrites.into_inner();
        assert!(rewrites > 2, "{rewrites} rewrites");
        let left: Vec<String> = lines(dir.path()).iter().map(|line| line.as_str().unwrap().to_owned()).collect();
        let (left_count, appended) = (left.len() + taken.len() + server.dropped.get() as usize, {
            let mut all: Vec<&String> = left.iter().chain(&taken).filter(|text| *text != "last").collect();
            let numbers = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), numbers, "none is there twice");
            // The last append went up to twenty further.
            letters_appended as usize + 1..=letters_appended as usize + 20
        });
        assert!(appended.contains(&left_count), "{left_count} of {appended:?}");
        assert_eq!(left.last().map(String::as_str), Some("last"));
        let order: Vec<u64> = left.iter().filter_map(|text| text.parse().ok()).collect();
        assert!(order.is_sorted());
    }
}
