//! JSON of other agents and libraries: what each map makes of what they really write, what it keeps, and what it rejects.
//!
//! `tests/fixtures/agents` has lines that the programs wrote themselves (pino 10, python-json-logger 4, structlog 25, ecs-logging
//! 2), or that their documentation gives for their defaults (Fluent Bit, Vector, zap, Filebeat, Docker).

use serde_json::{Value, json};
use telemetryx::event::{
    Decoded, Events, JsonDecoder, JsonError, JsonOptions, JsonRecord, Map, TimeUnit, UnknownKeys, write_json,
};

#[path = "../support/bad_maps.rs"]
mod bad_maps;

use bad_maps::BAD;

/// The events of `text` as JSON, without their kind, and what was rejected.
fn read(text: &str, options: JsonOptions, lines: bool) -> Result<(Vec<Value>, Vec<String>), String> {
    let mut bytes = Vec::new();
    let emit = |event: &[u8]| {
        bytes.extend_from_slice(event);
        Ok::<(), ()>(())
    };
    let mut decoder = JsonDecoder::with_options(options);
    let decoded: Result<Decoded, JsonError<()>> =
        if lines { decoder.lines(text.as_bytes(), emit) } else { decoder.document(text.as_bytes(), emit) };
    let decoded = decoded.map_err(|error| error.to_string())?;
    let events = Events::accepted(&bytes).map(|event| {
        let mut json = Vec::new();
        write_json(&JsonRecord::event(event), &mut json);
        let mut event: Value = serde_json::from_slice(&json).unwrap();
        event.as_object_mut().unwrap().remove("kind");
        event
    });
    Ok((events.collect(), decoded.rejected.named.into_iter().map(|rejection| rejection.error).collect()))
}

fn options(map: Map) -> JsonOptions {
    JsonOptions { map: Some(map), ..JsonOptions::default() }
}

/// The one event of `text`.
#[track_caller]
fn event(text: &str, options: JsonOptions) -> Value {
    let (events, rejected) = read(text, options, false).expect(text);
    assert!(rejected.is_empty(), "{text}: {rejected:?}");
    assert_eq!(events.len(), 1, "{text}");
    events.into_iter().next().unwrap()
}

#[test]
fn lines_that_the_programs_wrote_become_what_is_listed_beside_them() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/agents");
    for (file, map) in [
        ("fluentbit", Map::FluentBit),
        ("vector", Map::Vector),
        ("python-json-logger", Map::Vector),
        ("structlog", Map::Vector),
        ("pino", Map::Pino),
        ("zap", Map::Zap),
        ("slog", Map::Zap),
        ("filebeat", Map::Ecs),
        ("ecs-logging", Map::Ecs),
        ("docker", Map::Docker),
    ] {
        let page = |end: &str| std::fs::read_to_string(fixtures.join(format!("{file}.{end}"))).expect(file);
        let (events, rejected) = read(&page("ndjson"), options(map), true).unwrap();
        assert!(rejected.is_empty(), "{file}: {rejected:?}");
        let found: String = events.iter().map(|event| format!("{event}\n")).collect();
        assert_eq!(found, page("events"), "{file}");
        // An array of them is the same.
        let array = format!("[{}]", page("ndjson").trim_end().replace('\n', ","));
        assert_eq!(read(&array, options(map), false).unwrap().0, events, "{file}");
    }
}

#[test]
fn a_value_that_does_not_fit_its_field_stays_an_attribute() {
    for (map, text, expected) in [
        (Map::Pino, r#"{"msg":5}"#, json!({"name":"log","attributes":{"msg":5}})),
        (Map::Pino, r#"{"msg":{"a":1}}"#, json!({"name":"log","attributes":{"msg.a":1}})),
        (Map::Pino, r#"{"msg":["a"]}"#, json!({"name":"log","attributes":{"msg":"[\"a\"]"}})),
        (Map::Pino, r#"{"msg":""}"#, json!({"name":"log","attributes":{"msg":""}})),
        (Map::Pino, r#"{"msg":null}"#, json!({"name":"log"})),
        (Map::Pino, "{}", json!({"name":"log"})),
        (Map::Pino, r#"{"msg":"a","level":"loud"}"#, json!({"body":"a","attributes":{"level":"loud"}})),
        (Map::Zap, r#"{"msg":"a","level":30}"#, json!({"body":"a","attributes":{"level":30}})),
        (Map::Pino, r#"{"msg":"a","level":30.5}"#, json!({"body":"a","attributes":{"level":30.5}})),
        (Map::Pino, r#"{"msg":"a","trace_id":"xyz"}"#, json!({"body":"a","attributes":{"trace_id":"xyz"}})),
        (Map::Pino, r#"{"msg":"a","time":true}"#, json!({"body":"a","attributes":{"time":true}})),
        (Map::Pino, r#"{"msg":"a","name":5}"#, json!({"body":"a","attributes":{"name":5}})),
        (
            Map::Ecs,
            r#"{"message":"a","event":{"duration":-1}}"#,
            json!({"body":"a","attributes":{"event.duration":-1}}),
        ),
        // What is a field in strict JSON is nothing special here.
        (
            Map::Pino,
            r#"{"msg":"a","kind":"span","value":1}"#,
            json!({"body":"a","attributes":{"kind":"span","value":1}}),
        ),
        (Map::Pino, r#"{"msg":"a","attributes":{"b":1}}"#, json!({"body":"a","attributes":{"attributes.b":1}})),
        (Map::Pino, r#"{"events":[1],"msg":"a"}"#, json!({"body":"a","attributes":{"events":"[1]"}})),
        (Map::Docker, r#"{"log":"a\r\n"}"#, json!({"body":"a"})),
        (Map::Docker, r#"{"log":"\n"}"#, json!({"name":"log","attributes":{"log":"\n"}})),
    ] {
        assert_eq!(event(text, options(map)), expected, "{map:?} {text}");
    }
}

#[test]
fn of_several_keys_for_one_field_none_is_lost() {
    let both = json!({"body":"a","source":"api","attributes":{"host.name":"h1"}});
    for text in [
        r#"{"message":"a","host":{"name":"h1"},"service":{"name":"api"}}"#,
        r#"{"message":"a","service.name":"api","host.name":"h1"}"#,
        r#"{"service":{"name":"api"},"host":{"name":"h1"},"message":"a"}"#,
    ] {
        assert_eq!(event(text, options(Map::Ecs)), both, "{text}");
    }
    let host = json!({"body":"a","source":"h1","attributes":{"host.name":"h1"}});
    assert_eq!(event(r#"{"message":"a","host":{"name":"h1"}}"#, options(Map::Ecs)), host);
    let texts = json!({"body":"raw","attributes":{"message":"parsed"}});
    assert_eq!(event(r#"{"log":"raw\n","message":"parsed"}"#, options(Map::FluentBit)), texts);
}

#[test]
fn a_text_that_is_too_long_is_cut_at_a_character_and_marked() {
    let long = "é".repeat(40_000);
    let found = event(&format!(r#"{{"msg":"{long}","name":"{}"}}"#, "ä".repeat(200)), options(Map::Pino));
    assert_eq!(found["body"].as_str().map(str::len), Some(65_536));
    assert_eq!(found["source"].as_str().map(str::len), Some(256));
    assert_eq!(found["attributes"], json!({"truncated":true}));
}

#[test]
fn unknown_keys_become_attributes_where_that_is_asked_for() {
    let options = JsonOptions { unknown: UnknownKeys::Attributes, ..JsonOptions::default() };
    for (text, expected) in [
        (r#"{"body":"a","user":"b"}"#, json!({"body":"a","attributes":{"user":"b"}})),
        (
            r#"{"user":{"id":5,"tags":[1]},"body":"a"}"#,
            json!({"body":"a","attributes":{"user.id":5,"user.tags":"[1]"}}),
        ),
        (r#"{"body":"a","attributes":{"b":1},"c":2}"#, json!({"body":"a","attributes":{"b":1,"c":2}})),
        (r#"{"body":"a","events":[1]}"#, json!({"body":"a","attributes":{"events":"[1]"}})),
        (r#"{"events":[{"body":"a","x":null}]}"#, json!({"body":"a"})),
        (r#"{"body":"a","level":"info"}"#, json!({"body":"a","attributes":{"level":"info"}})),
    ] {
        assert_eq!(event(text, options), expected, "{text}");
    }
    // What an event has is as strict as before.
    for (text, error) in [
        (r#"{"body":5,"x":1}"#, "`body` must be a text"),
        (r#"{"x":1}"#, "event has neither `name` nor `body`: set one of them"),
        (r#"{"body":"a","":1}"#, "`attributes` entry 0 has no key: give it 1 to 128 bytes"),
    ] {
        assert_eq!(read(text, options, false).unwrap().1, [error], "{text}");
    }
}

#[test]
fn the_unit_of_a_time_can_be_set() {
    let unit = |time| JsonOptions { time: Some(time), ..JsonOptions::default() };
    let at = |text: &str, options| event(text, options)["time"].clone();
    assert_eq!(
        at(r#"{"body":"a","time":1795771426}"#, unit(TimeUnit::Seconds)),
        json!("2026-11-27T09:23:46.000000000Z")
    );
    assert_eq!(
        at(r#"{"body":"a","time":1795771426.25}"#, unit(TimeUnit::Seconds)),
        json!("2026-11-27T09:23:46.250000000Z")
    );
    assert_eq!(
        at(r#"{"body":"a","time":1795771426124}"#, unit(TimeUnit::Millis)),
        json!("2026-11-27T09:23:46.124000000Z")
    );
    assert_eq!(
        at(r#"{"body":"a","time":1795771426124001}"#, unit(TimeUnit::Micros)),
        json!("2026-11-27T09:23:46.124001000Z")
    );
    let text = r#"{"body":"a","time":"2026-11-27T09:23:46Z"}"#;
    assert_eq!(at(text, unit(TimeUnit::Millis)), json!("2026-11-27T09:23:46.000000000Z"), "a text has no unit");
    let seconds = JsonOptions { time: Some(TimeUnit::Seconds), ..options(Map::Pino) };
    assert_eq!(at(r#"{"msg":"a","time":1795771426}"#, seconds), json!("2026-11-27T09:23:46.000000000Z"));
    assert_eq!(event(r#"{"msg":"a","time":0}"#, seconds), json!({"body":"a"}), "0 is unset");
}

#[test]
fn what_cannot_be_read_is_rejected_with_the_key_and_the_next_step() {
    assert!(BAD.len() >= 40, "{}", BAD.len());
    for (map, text, expected) in BAD {
        let found = match read(text, options(*map), false) {
            Ok((events, rejected)) => {
                assert!(events.is_empty(), "{text}: {events:?}");
                rejected.join("; ")
            }
            Err(error) => error,
        };
        assert!(found.contains(expected), "{map:?} {text}\n found {found}\n expected {expected}");
        // Beside a good line it is only this one that is rejected.
        let lines = format!("{{\"log\":\"x\"}}\n{}\n{{\"log\":\"y\"}}\n", text.replace('\n', "\u{1}"));
        let (events, rejected) = read(&lines, options(*map), true).unwrap();
        let is_blank = text.trim().is_empty();
        assert_eq!((events.len(), rejected.len()), (2, usize::from(!is_blank)), "{text}");
    }
}

#[test]
fn limits_hold_for_mapped_events_too() {
    let many: Vec<_> = (0..129).map(|index| format!("\"k{index}\":1")).collect();
    let deep = format!("{{\"msg\":\"a\",\"x\":{}1{}}}", "{\"a\":".repeat(70), "}".repeat(70));
    for (text, error) in [
        (format!("{{\"msg\":\"a\",{}}}", many.join(",")), "`attributes` has 129 entries"),
        (format!("{{\"{}\":1}}", "k".repeat(129)), "has more than 128 bytes"),
        (deep, "nested deeper than 64 levels"),
        (format!("{{\"a\":\"{}\"}}", "x".repeat(200_000)), "event has more than"),
    ] {
        let (events, rejected) = read(&text, options(Map::Pino), false).unwrap();
        assert!(events.is_empty() && rejected[0].contains(error), "{rejected:?}");
    }
}

/// Any damage to a line of a real program gives events or an error, whatever the map.
#[test]
fn damaged_lines_never_panic() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/agents");
    for entry in std::fs::read_dir(fixtures).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|end| end != "ndjson") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let line = text.lines().next().unwrap();
        for map in Map::ALL {
            for at in (0..line.len()).filter(|at| line.is_char_boundary(*at)) {
                let _ = read(&line[..at], options(map), false);
                for piece in ["\"", "{", "[", "9", "-", "null", "\u{0}", "\\"] {
                    let _ = read(&format!("{}{piece}{}", &line[..at], &line[at..]), options(map), true);
                }
            }
        }
    }
}

#[test]
fn the_examples_of_the_page_are_what_the_code_does() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md")).unwrap();
    let (_, rest) = page.split_once("| `map` | line | event |").expect("the examples");
    let mut seen = 0;
    for row in rest.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect();
        let [map, line, expected] = cells.as_slice() else { panic!("{row}") };
        let mut expected: Value = serde_json::from_str(expected).expect(row);
        assert_eq!(expected.as_object_mut().unwrap().remove("kind"), Some(json!("log")));
        assert_eq!(event(line, options(map.parse().unwrap())), expected, "{row}");
        seen += 1;
    }
    assert_eq!(seen, Map::ALL.len());
}
