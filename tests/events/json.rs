//! JSON in and out: the forms that are taken, what they become, and how each bad body is answered.

use proptest::collection::vec;
use proptest::prelude::*;
use telemetryx::event::fuzz::json_round_trip;
use telemetryx::event::{
    AttributeValue, Decoded, EventKind, EventRef, Events, JsonDecoder, JsonError, JsonRecord, write_attributes_json,
    write_json,
};
use telemetryx::http::fuzz::exchange_body;
use telemetryx::limits::{EVENT_ATTRIBUTES_MAX, FRAME_EVENTS_MAX, HTTP_REJECTED_MAX};
use telemetryx::metrics::RejectReason;

type Answer = Result<Decoded, JsonError<&'static str>>;

fn document(body: impl AsRef<[u8]>) -> (Answer, Vec<u8>) {
    let mut batch = Vec::new();
    let answer = JsonDecoder::new().document(body.as_ref(), |field| {
        batch.extend_from_slice(field);
        Ok(())
    });
    (answer, batch)
}

fn lines(body: impl AsRef<[u8]>) -> (Answer, Vec<u8>) {
    let mut batch = Vec::new();
    let answer = JsonDecoder::new().lines(body.as_ref(), |field| {
        batch.extend_from_slice(field);
        Ok(())
    });
    (answer, batch)
}

/// The batch of a body that is taken whole.
fn taken(body: &str) -> Vec<u8> {
    let (answer, batch) = document(body);
    let decoded = answer.unwrap_or_else(|error| panic!("{body}: {error}"));
    assert_eq!(decoded.rejected.total, 0, "{body}: {decoded:?}");
    assert_eq!(decoded.accepted, Events::accepted(&batch).count(), "{body}");
    batch
}

fn names(batch: &[u8]) -> Vec<&str> {
    Events::accepted(batch).map(|event| event.name()).collect()
}

/// An event as JSON out writes it.
fn json(event: EventRef<'_>) -> String {
    let mut out = Vec::new();
    write_json(&JsonRecord::event(event), &mut out);
    String::from_utf8(out).unwrap()
}

/// What JSON out makes of the attributes that JSON in was given.
fn attributes(body: &str) -> String {
    let batch = taken(&format!(r#"{{"name":"n","attributes":{body}}}"#));
    let mut out = Vec::new();
    write_attributes_json(&Events::accepted(&batch).next().unwrap(), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_document_is_an_event_an_array_or_an_envelope() {
    for (body, expected) in [
        (r#"{"name":"a"}"#, &["a"][..]),
        (" \n{\"name\":\"a\"}\r\n\t ", &["a"]),
        (r#"[{"name":"a"},{"name":"b"}]"#, &["a", "b"]),
        (r#"{"events":[{"name":"a"},{"name":"b"}]}"#, &["a", "b"]),
        ("[]", &[]),
        (r#"{"events":[]}"#, &[]),
    ] {
        assert_eq!(names(&taken(body)), expected, "{body}");
    }
}

#[test]
fn every_field_arrives() {
    let batch = taken(
        r#"{"time":"2026-11-23T20:15:48.123456789Z","kind":"span","severity":"warn","source":"api","name":"GET /",
            "body":"täxt \"\u20ac\" \ud83d\ude00","value":-1.5e3,"duration_nano":1500,
            "trace_id":"000102030405060708090A0B0C0D0e0f","span_id":"0001020304050607",
            "parent_span_id":"ffffffffffffffff","attributes":{"s":"x","i":-7,"d":0.1,"t":true,"f":false}}"#,
    );
    let event = Events::accepted(&batch).next().unwrap();
    assert_eq!(event.time_unix_nano(), 1_795_464_948_123_456_789);
    assert_eq!(event.kind(), EventKind::Span);
    assert_eq!(event.severity(), 13);
    assert_eq!((event.source(), event.name(), event.body()), ("api", "GET /", "täxt \"€\" 😀"));
    assert_eq!(event.value(), Some(-1500.0));
    assert_eq!(event.duration_nano(), 1500);
    assert_eq!(event.trace_id(), Some(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]));
    assert_eq!(event.span_id(), Some(&[0, 1, 2, 3, 4, 5, 6, 7]));
    assert_eq!(event.parent_span_id(), Some(&[255; 8]));
    let attributes: Vec<_> = event.attributes().collect();
    assert_eq!(
        attributes,
        [
            ("s", AttributeValue::String("x")),
            ("i", AttributeValue::Int(-7)),
            ("d", AttributeValue::Double(0.1)),
            ("t", AttributeValue::Bool(true)),
            ("f", AttributeValue::Bool(false)),
        ]
    );
    assert_eq!(
        json(event),
        r#"{"time":"2026-11-23T20:15:48.123456789Z","kind":"span","severity":13,"source":"api","name":"GET /","#
            .to_owned()
            + r#""body":"täxt \"€\" 😀","attributes":{"s":"x","i":-7,"d":0.1,"t":true,"f":false},"#
            + r#""value":-1500.0,"duration_nano":1500,"trace_id":"000102030405060708090a0b0c0d0e0f","#
            + r#""span_id":"0001020304050607","parent_span_id":"ffffffffffffffff"}"#
    );
}

#[test]
fn fields_have_these_spellings() {
    for (given, written) in [
        (r#""time":1795464948123456789"#, r#""time":"2026-11-23T20:15:48.123456789Z""#),
        (r#""time":9223372036854775807"#, r#""time":"2262-04-11T23:47:16.854775807Z""#),
        (r#""time":"2026-11-23T21:15:48+01:00""#, r#""time":"2026-11-23T20:15:48.000000000Z""#),
        (r#""kind":"gauge""#, r#""kind":"gauge""#),
        (r#""kind":"counter""#, r#""kind":"counter""#),
        (r#""severity":"trace""#, r#""severity":1"#),
        (r#""severity":"debug""#, r#""severity":5"#),
        (r#""severity":"info""#, r#""severity":9"#),
        (r#""severity":"error""#, r#""severity":17"#),
        (r#""severity":"fatal""#, r#""severity":21"#),
        (r#""severity":24"#, r#""severity":24"#),
        (r#""value":3"#, r#""value":3.0"#),
        (r#""value":-0"#, r#""value":-0.0"#),
        (r#""value":5e-324"#, r#""value":5e-324"#),
        (r#""value":18446744073709551615"#, r#""value":1.8446744073709552e+19"#),
        (r#""value":"NaN""#, r#""value":"NaN""#),
        (r#""value":"Infinity""#, r#""value":"Infinity""#),
        (r#""value":"-Infinity""#, r#""value":"-Infinity""#),
        (r#""duration_nano":9223372036854775807"#, r#""duration_nano":9223372036854775807"#),
    ] {
        let batch = taken(&format!(r#"{{"name":"n",{given}}}"#));
        let out = json(Events::accepted(&batch).next().unwrap());
        assert!(out.contains(written), "{given}: {out}");
    }
}

#[test]
fn null_empty_and_zero_are_unset_and_left_out() {
    for given in [
        r#"{"name":"n"}"#,
        r#"{"name":"n","kind":"log"}"#,
        r#"{"name":"n","time":null,"kind":null,"severity":null,"source":null,"body":null,"attributes":null,"value":null,
            "duration_nano":null,"trace_id":null,"span_id":null,"parent_span_id":null}"#,
        r#"{"name":"n","time":0,"severity":0,"source":"","body":"","attributes":{},"duration_nano":0,"trace_id":"",
            "span_id":"","parent_span_id":""}"#,
        r#"{"name":"n","attributes":{"a":null,"b":{"c":null},"d":{}}}"#,
    ] {
        let batch = taken(given);
        assert_eq!(json(Events::accepted(&batch).next().unwrap()), r#"{"kind":"log","name":"n"}"#, "{given}");
    }
}

#[test]
fn the_later_of_two_equal_keys_counts() {
    let batch = taken(r#"{"name":"a","severity":1,"name":"b","severity":2,"body":"x","body":null}"#);
    assert_eq!(json(Events::accepted(&batch).next().unwrap()), r#"{"kind":"log","severity":2,"name":"b","body":"x"}"#);
    assert_eq!(attributes(r#"{"a":1,"b":2,"a":"3"}"#), r#"{"b":2,"a":"3"}"#);
    assert_eq!(attributes(r#"{"a.b":1,"a":{"b":2}}"#), r#"{"a.b":2}"#);
}

#[test]
fn attributes_become_flat() {
    for (given, written) in [
        (r#"{"a":{"b":{"c":1},"d":2},"e":3}"#, r#"{"a.b.c":1,"a.d":2,"e":3}"#),
        (r#"{"a":{"":1,"b.c":2}}"#, r#"{"a.":1,"a.b.c":2}"#),
        (r#"{"a":[]}"#, r#"{"a":"[]"}"#),
        (r#"{"a": [ 1 , "x\n" , null, [true, {"k" : 1.5, "l":[]}], {} ]}"#, {
            r#"{"a":"[1,\"x\\n\",null,[true,{\"k\":1.5,\"l\":[]}],{}]"}"#
        }),
        (
            r#"{"a":[18446744073709551615,-9223372036854775808]}"#,
            r#"{"a":"[18446744073709551615,-9223372036854775808]"}"#,
        ),
        (r#"{"a":9223372036854775807}"#, r#"{"a":9223372036854775807}"#),
        (r#"{"a":-9223372036854775808}"#, r#"{"a":-9223372036854775808}"#),
        (r#"{"a":9223372036854775808}"#, r#"{"a":9.223372036854775808e18}"#),
        (r#"{"a":1e2}"#, r#"{"a":100.0}"#),
        (r#"{"a":"AQI="}"#, r#"{"a":"AQI="}"#),
        (r#"{"\u0000ä\"":"\u0001"}"#, "{\"\\u0000ä\\\"\":\"\\u0001\"}"),
    ] {
        let (written, out) = (serde_json::from_str::<serde_json::Value>(written).unwrap(), attributes(given));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap(), written, "{given}: {out}");
        assert!(!out.contains(' '), "{out}");
    }
}

#[test]
fn bytes_and_non_finite_numbers_are_written_as_texts() {
    use prost::Message;
    use telemetryx::event::proto::attribute::Value;
    use telemetryx::event::proto::{Attribute, Event};
    let values = [
        ("empty", Some(Value::BytesValue(vec![]))),
        ("one", Some(Value::BytesValue(vec![0xFF]))),
        ("two", Some(Value::BytesValue(b"ab".to_vec()))),
        ("three", Some(Value::BytesValue(b"abc".to_vec()))),
        ("four", Some(Value::BytesValue(b"\xfb\xef\xbe\xff".to_vec()))),
        ("nan", Some(Value::DoubleValue(f64::NAN))),
        ("inf", Some(Value::DoubleValue(f64::INFINITY))),
        ("-inf", Some(Value::DoubleValue(f64::NEG_INFINITY))),
        ("none", None),
    ];
    let attributes = values.map(|(key, value)| Attribute { key: key.to_owned(), value }).to_vec();
    let bytes = Event { name: "n".to_owned(), attributes, ..Event::default() }.encode_to_vec();
    let mut out = Vec::new();
    write_attributes_json(&EventRef::check(&bytes).unwrap(), &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"{"empty":"","one":"/w==","two":"YWI=","three":"YWJj","four":"++++/w==","nan":"NaN","inf":"Infinity","#
            .to_owned()
            + r#""-inf":"-Infinity","none":null}"#
    );
}

#[test]
fn the_later_of_two_attributes_wins_however_many_there_are() {
    use prost::Message;
    use telemetryx::event::proto::attribute::Value;
    use telemetryx::event::proto::{Attribute, Event};
    // Around the number up to which they are gathered in little room, and at the largest.
    for count in [1, 2, 14, 15, 16, 17, 18, 127, 128] {
        let key = |index: i64| if index == 0 || index == count - 1 { "twice".to_owned() } else { format!("k{index}") };
        let attribute = |index| Attribute { key: key(index), value: Some(Value::IntValue(index)) };
        let attributes = (0..count).map(attribute).collect();
        let bytes = Event { name: "n".to_owned(), attributes, ..Event::default() }.encode_to_vec();
        let mut out = Vec::new();
        write_attributes_json(&EventRef::check(&bytes).unwrap(), &mut out);
        let first = if count == 1 { 0 } else { 1 };
        let expected: Vec<_> = (first..count).map(|index| format!("\"{}\":{index}", key(index))).collect();
        assert_eq!(String::from_utf8(out).unwrap(), format!("{{{}}}", expected.join(",")), "{count} attributes");
    }
}

#[test]
fn a_record_carries_its_place_and_origin() {
    let batch = taken(r#"{"name":"n"}"#);
    let event = Events::accepted(&batch).next().unwrap();
    let record = JsonRecord {
        server_id: Some(*b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\xff"),
        position: Some(u64::MAX),
        received_unix_nano: Some(1),
        agent: Some("a\"b"),
        source: "10.0.0.1",
        time_unix_nano: 2,
        event,
    };
    let mut out = b"before".to_vec();
    write_json(&record, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"before{"server_id":"00010203-0405-0607-0809-0a0b0c0d0eff","position":18446744073709551615,"#.to_owned()
            + r#""received_at":"1970-01-01T00:00:00.000000001Z","agent":"a\"b","#
            + r#""time":"1970-01-01T00:00:00.000000002Z","kind":"log","source":"10.0.0.1","name":"n"}"#
    );
}

/// The answer to a body of which nothing is taken: the error, or the refusal of event 0. The same over HTTP, however the
/// bytes come: 400, one counter, nothing kept.
fn refused(body: &[u8]) -> String {
    let answer = document(body).0;
    let outcome = exchange_body("application/json", body);
    let reason = if answer.is_ok() { RejectReason::Invalid } else { RejectReason::Malformed };
    assert_eq!((outcome.statuses.as_slice(), outcome.rejected.as_slice()), (&[400][..], &[(reason, 1)][..]));
    assert!(outcome.payloads.is_empty() && !outcome.closing, "{}", outcome.answers);
    match answer {
        Ok(decoded) => {
            let shown = String::from_utf8_lossy(&body[..body.len().min(100)]);
            assert_eq!((decoded.accepted, decoded.rejected.total), (0, 1), "{shown}: {decoded:?}");
            assert_eq!(decoded.rejected.named[0].index, 0);
            format!("0: {}", decoded.rejected.named[0].error)
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn bad_bodies_and_their_answers() {
    let nested = |depth| format!(r#"{{"name":"n","attributes":{}1{}}}"#, r#"{"a":"#.repeat(depth), "}".repeat(depth));
    let arrays = |depth| format!(r#"{{"name":"n","attributes":{{"a":{}{}}}}}"#, "[".repeat(depth), "]".repeat(depth));
    let long = |field, bytes| format!(r#"{{"name":"n","{field}":"{}"}}"#, "x".repeat(bytes));
    let many = (0..=EVENT_ATTRIBUTES_MAX).map(|n| format!(r#""a{n}":1"#)).collect::<Vec<_>>().join(",");
    let wide = (0..3).map(|n| format!(r#""a{n}":"{}""#, "x".repeat(50_000))).collect::<Vec<_>>().join(",");
    let in_object = |fields: &str| format!(r#"{{"name":"n",{fields}}}"#);
    let texts: &[(&str, &str)] = &[
        // No document.
        ("", "the body is empty: send an event, an array of events or {\"events\":[…]}"),
        ("   ", "the body is empty"),
        (
            "null",
            "malformed JSON: invalid type: null, expected an event object, an array of events or {\"events\":[…]}",
        ),
        ("true", "malformed JSON: invalid type: boolean"),
        ("5", "malformed JSON: invalid type: integer"),
        ("\"name\"", "malformed JSON: invalid type: string"),
        ("name", "malformed JSON: expected ident"),
        ("{", "malformed JSON: EOF while parsing an object"),
        ("[", "malformed JSON: EOF while parsing a list"),
        ("[{\"name\":\"a\"}", "malformed JSON: EOF while parsing a list"),
        ("[{\"name\":\"a\"},]", "malformed JSON: trailing comma"),
        ("[{\"name\":\"a\"} {\"name\":\"b\"}]", "malformed JSON: expected `,` or `]`"),
        ("{\"name\":\"a\"}x", "malformed JSON: trailing characters at line 1 column 13"),
        ("{\"name\":\"a\"}{\"name\":\"b\"}", "malformed JSON: trailing characters"),
        ("{\"name\":\"a\"}\n{\"name\":\"b\"}", "malformed JSON: trailing characters at line 2 column 1"),
        ("{\"name\":\"a\",}", "malformed JSON: trailing comma"),
        ("{\"name\" \"a\"}", "malformed JSON: expected `:`"),
        ("{\"name\":}", "malformed JSON: expected value"),
        ("{name:\"a\"}", "malformed JSON: key must be a string"),
        ("{'name':'a'}", "malformed JSON: key must be a string"),
        ("{\"name\":\"a}", "malformed JSON: EOF while parsing a string"),
        ("{\"name\":\"a\nb\"}", "malformed JSON: control character"),
        ("{\"name\":\"\\x\"}", "malformed JSON: invalid escape"),
        ("{\"name\":\"\\u12\"}", "malformed JSON: invalid escape"),
        ("{\"name\":\"\\ud800\"}", "malformed JSON: half of a surrogate pair at line 1 column 16: send both halves"),
        ("{\"name\":\"\\ud800\\u0041\"}", "malformed JSON: half of a surrogate pair"),
        ("{\"name\":\"\\udc00\"}", "malformed JSON: half of a surrogate pair"),
        ("{\"value\":01}", "malformed JSON: invalid number"),
        ("{\"value\":.5}", "malformed JSON: expected value"),
        ("{\"value\":1.}", "malformed JSON: invalid number"),
        ("{\"value\":+1}", "malformed JSON: expected value"),
        ("{\"value\":NaN}", "malformed JSON: `NaN` is not a JSON value at line 1 column 10: leave the key out"),
        ("{\"value\":1e999}", "malformed JSON: number out of range"),
        ("{\"name\":tru}", "malformed JSON: expected ident"),
        ("\u{FEFF}{\"name\":\"a\"}", "malformed JSON: it begins with a byte order mark: leave it out"),
        // Envelopes.
        ("{\"events\":null}", "malformed JSON: invalid type: null, expected an array of events"),
        ("{\"events\":{}}", "malformed JSON: invalid type: map, expected an array of events"),
        ("{\"events\":[],\"events\":[]}", "malformed JSON: an envelope has no key but one `events`"),
        ("{\"events\":[],\"name\":\"a\"}", "malformed JSON: an envelope has no key but one `events`"),
        ("{\"name\":\"a\",\"events\":[]}", "0: unknown key `events`: an envelope has no keys of an event"),
        // No event.
        ("[null]", "0: an event must be an object"),
        ("[5]", "0: an event must be an object"),
        ("[\"a\"]", "0: an event must be an object"),
        ("[[{\"name\":\"a\"}]]", "0: an event must be an object"),
        ("{}", "0: event has neither `name` nor `body`: set one of them"),
        ("{\"name\":\"\",\"body\":null}", "0: event has neither `name` nor `body`"),
        ("{\"nmae\":\"a\"}", "0: unknown key `nmae`: did you mean `name`?"),
        ("{\"name\":\"a\",\"message\":null}", "0: unknown key `message`: use `body`"),
        ("{\"name\":\"a\",\"traceId\":\"\"}", "0: unknown key `traceId`: use `trace_id`"),
        ("{\"name\":\"a\",\"user\":1}", "0: unknown key `user`: put it into `attributes`"),
        ("{\"name\":\"a\",\"x\\n\":{\"y\":[]}}", "0: unknown key `x\\n`"),
        ("{\"NAME\":\"a\"}", "0: unknown key `NAME`: did you mean `name`?"),
        // Fields.
        ("{\"name\":5}", "0: `name` must be a text"),
        ("{\"body\":{\"a\":[1]}}", "0: `body` must be a text"),
        ("{\"source\":[]}", "0: `source` must be a text"),
        ("{\"attributes\":[]}", "0: `attributes` must be an object"),
        ("{\"attributes\":\"a\"}", "0: `attributes` must be an object"),
        ("{\"time\":-1}", "0: `time` must be an RFC 3339 text or integer nanoseconds"),
        ("{\"time\":1.5}", "0: `time` must be"),
        ("{\"time\":9223372036854775808}", "0: `time` must be"),
        ("{\"time\":true}", "0: `time` must be"),
        ("{\"time\":\"now\"}", "0: `time` is `now`: not an RFC 3339 time"),
        ("{\"time\":\"2025-02-29T00:00:00Z\"}", "0: `time` is `2025-02-29T00:00:00Z`: no such date"),
        ("{\"time\":\"1969-12-31T23:59:59Z\"}", "0: `time` is `1969-12-31T23:59:59Z`: before 1970"),
        (
            "{\"kind\":\"LOG\"}",
            "0: `kind` must be \"log\", \"gauge\", \"counter\", \"span\", \"histogram\" or \"summary\", not `LOG`: did you mean \"log\"?",
        ),
        ("{\"kind\":\"metric\"}", "not `metric`: use \"gauge\" for a value, \"counter\" for a total that only grows"),
        ("{\"kind\":\"trace\"}", "not `trace`: did you mean \"span\"?"),
        ("{\"kind\":\"conter\"}", "not `conter`: did you mean \"counter\"?"),
        (
            "{\"kind\":\"pie\"}",
            "0: `kind` must be \"log\", \"gauge\", \"counter\", \"span\", \"histogram\" or \"summary\", not `pie`",
        ),
        ("{\"kind\":1}", "0: `kind` must be"),
        ("{\"severity\":25}", "0: `severity` must be an integer from 0 to 24"),
        ("{\"severity\":-1}", "0: `severity` must be"),
        ("{\"severity\":9.0}", "0: `severity` must be"),
        ("{\"severity\":\"ERROR\"}", "\"error\" or \"fatal\", not `ERROR`: did you mean \"error\"?"),
        ("{\"severity\":\"warning\"}", "not `warning`: did you mean \"warn\"?"),
        ("{\"severity\":\"Critical\"}", "not `Critical`: did you mean \"fatal\"?"),
        ("{\"severity\":\"17\"}", "not `17`: send a number without quotes"),
        ("{\"severity\":\"high\"}", "\"error\" or \"fatal\", not `high`"),
        ("{\"value\":\"1\"}", "0: `value` must be a number"),
        ("{\"value\":true}", "0: `value` must be a number"),
        ("{\"duration_nano\":-1}", "0: `duration_nano` must be integer nanoseconds from 0 to 2^63 - 1"),
        ("{\"duration_nano\":9223372036854775808}", "0: `duration_nano` must be"),
        ("{\"duration_nano\":\"1s\"}", "0: `duration_nano` must be"),
        ("{\"trace_id\":\"00\"}", "0: `trace_id` must be a text of 32 hex digits, not `00`"),
        ("{\"trace_id\":\"000102030405060708090a0b0c0d0e0g\"}", "0: `trace_id` must be"),
        ("{\"trace_id\":\"000102030405060708090a0b0c0d0e0f0\"}", "0: `trace_id` must be"),
        ("{\"trace_id\":5}", "0: `trace_id` must be"),
        ("{\"span_id\":\"000102030405060708090a0b0c0d0e0f\"}", "0: `span_id` must be a text of 16 hex digits"),
        ("{\"parent_span_id\":\"ääääääääääääääää\"}", "0: `parent_span_id` must be"),
        (&in_object(r#""attributes":{"":1}"#), "0: `attributes` entry 0 has no key"),
        (&in_object(&format!(r#""attributes":{{"{}":1}}"#, "k".repeat(129))), "has more than 128 bytes"),
        (&in_object(&format!(r#""attributes":{{"a":{{"{}":1}}}}"#, "k".repeat(127))), "has more than 128 bytes"),
        (&in_object(&format!(r#""attributes":{{{many}}}"#)), "0: `attributes` has 129 entries: send at most 128"),
        (&in_object(&format!(r#""attributes":{{{wide}}}"#)), "0: event has more than 131072 bytes"),
        (&in_object(&format!(r#""attributes":{{"a":["{}"]}}"#, "x".repeat(131_072))), "0: event has more than"),
        (&long("name", 257), "0: `name` has 257 bytes: send at most 256"),
        (&long("source", 257), "0: `source` has 257 bytes"),
        (&long("body", 65_537), "0: `body` has 65537 bytes: send at most 65536"),
        (&long("body", 200_000), "0: event has more than 131072 bytes"),
        (&nested(64), "0: `attributes` is nested deeper than 64 levels"),
        (&nested(20_000), "0: `attributes` is nested deeper than 64 levels"),
        (&arrays(63), "0: `attributes` is nested deeper than 64 levels"),
        (&arrays(100_000), "0: `attributes` is nested deeper than 64 levels"),
        (&"[".repeat(100_000), "malformed JSON: EOF while parsing a list"),
        (&"{\"name\":".repeat(30_000), "malformed JSON: EOF"),
        (&"{\"attributes\":".repeat(15_000), "malformed JSON: EOF"),
    ];
    assert!(texts.len() >= 60);
    for (body, answer) in texts {
        let shown = refused(body.as_bytes());
        assert!(shown.contains(answer), "{}: {shown}", &body[..body.len().min(100)]);
    }
    for (body, answer) in [
        (&b"{\"name\":\"\xff\"}"[..], "malformed JSON: byte 9 is not UTF-8"),
        (b"\xff\xfe{\0}\0", "malformed JSON: the text is UTF-16: encode it as UTF-8"),
        (b"[{\"name\":\"a\"},\"\xff\"]", "malformed JSON: byte 15 is not UTF-8, event 1: encode texts as UTF-8"),
        (b"{\"x\":\"\xed\xa0\x80\"}", "malformed JSON: byte 6 is not UTF-8"),
        (b"{\"name\":\"a\"}\0", "malformed JSON: trailing characters"),
    ] {
        assert!(refused(body).contains(answer), "{}", refused(body));
    }
    assert_eq!(names(&taken(&arrays(62))), ["n"]);
    assert_eq!(names(&taken(&nested(63))), ["n"]);
}

#[test]
fn a_bad_event_leaves_its_neighbours() {
    let (answer, batch) = document(r#"[{"name":"a"},{"nmae":"b"},7,{"name":"c","trace_id":"x"},{},{"name":"d"}]"#);
    let decoded = answer.unwrap();
    assert_eq!(names(&batch), ["a", "d"]);
    assert_eq!((decoded.accepted, decoded.rejected.total), (2, 4));
    assert_eq!(decoded.rejected.named.iter().map(|rejection| rejection.index).collect::<Vec<_>>(), [1, 2, 3, 4]);
    // The same event is judged the same in an envelope.
    let (answer, batch) = document(r#"{"events":[{"name":"a"},{"nmae":"b"}]}"#);
    assert_eq!(answer.unwrap().rejected.named[0].index, 1);
    assert_eq!(names(&batch), ["a"]);
}

#[test]
fn a_line_stands_for_itself() {
    let body =
        b"{\"name\":\"a\"}\r\n\n \t\r\n{\"name\":\"b\"\n{\"name\":\"c\"} x\n[{\"name\":\"d\"}]\n{\"name\":\"\xff\"}\n\
        {\"nmae\":\"e\"}\n5\n{\"events\":[]}\n{\"name\":\"f\"}";
    let (answer, batch) = lines(body);
    let decoded = answer.unwrap();
    assert_eq!(names(&batch), ["a", "f"]);
    assert_eq!(decoded.accepted, 2);
    let named: Vec<_> = decoded.rejected.named.iter().map(|one| (one.index, one.error.as_str())).collect();
    assert_eq!(
        named,
        [
            (3, "malformed JSON: EOF while parsing an object at column 11: the text is cut off"),
            (4, "malformed JSON: trailing characters at column 14"),
            (5, "an event must be an object"),
            (6, "malformed JSON: byte 9 is not UTF-8: encode texts as UTF-8"),
            (7, "unknown key `nmae`: did you mean `name`?"),
            (8, "an event must be an object"),
            (9, "unknown key `events`: an envelope has no keys of an event"),
        ]
    );
    assert_eq!(lines("{\"name\":\"a\"}\x0c\n\x0c\n").0.unwrap().rejected.total, 2, "a form feed is no space of JSON");
    for body in ["", "\n", "\r\n\r\n", " "] {
        assert_eq!(lines(body).0.unwrap(), Decoded::default());
    }
}

#[test]
fn a_line_taken_after_a_refused_one_holds_nothing_of_it() {
    let (answer, batch) =
        lines("{\"body\":\"secret\",\"severity\":24,\"x\":1}\n{\"name\":\"a\"}\n{\"body\":\"x\"\n{\"name\":\"b\"}");
    assert_eq!(answer.unwrap().accepted, 2);
    let out: Vec<_> = Events::accepted(&batch).map(json).collect();
    assert_eq!(out, [r#"{"kind":"log","name":"a"}"#, r#"{"kind":"log","name":"b"}"#]);
}

#[test]
fn the_number_of_events_is_bounded() {
    let body = |events: usize| format!("[{}]", vec![r#"{"name":"a"}"#; events].join(","));
    assert_eq!(document(body(FRAME_EVENTS_MAX)).0.unwrap().accepted, FRAME_EVENTS_MAX);
    for bad in [body(FRAME_EVENTS_MAX + 1), format!("[{}]", vec!["5"; FRAME_EVENTS_MAX + 1].join(","))] {
        assert!(matches!(document(bad).0, Err(JsonError::TooManyEvents { max: FRAME_EVENTS_MAX })));
    }
    assert_eq!(lines("{\"name\":\"a\"}\n\n".repeat(FRAME_EVENTS_MAX)).0.unwrap().accepted, FRAME_EVENTS_MAX);
    for bad in ["{\"name\":\"a\"}\n", "x\n"] {
        let answer = lines(bad.repeat(FRAME_EVENTS_MAX + 1)).0;
        assert!(matches!(answer, Err(JsonError::TooManyEvents { .. })));
    }
}

#[test]
fn the_list_of_rejections_is_bounded_and_all_are_counted() {
    let decoded = lines("x\n".repeat(HTTP_REJECTED_MAX + 7)).0.unwrap();
    assert_eq!((decoded.rejected.named.len(), decoded.rejected.total), (HTTP_REJECTED_MAX, HTTP_REJECTED_MAX + 7));
    let long = format!("{{\"{}\":1}}", "ü".repeat(100_000));
    assert!(lines(long).0.unwrap().rejected.named[0].error.len() < 300);
}

#[test]
fn what_emit_says_ends_the_reading() {
    let mut calls = 0;
    let mut emit = |_: &[u8]| {
        calls += 1;
        if calls == 2 { Err("full") } else { Ok(()) }
    };
    let answer = JsonDecoder::new().document(br#"[{"name":"a"},{"name":"b"},{"name":"c"}]"#, &mut emit);
    assert!(matches!(answer, Err(JsonError::Emit("full"))));
    assert_eq!(calls, 2);
}

#[test]
fn every_length_of_an_event_has_the_right_header() {
    for bytes in [1, 100, 120, 124, 125, 126, 127, 128, 200, 16_378, 16_379, 16_380, 16_381, 16_400, 65_536] {
        let batch = taken(&format!(r#"{{"body":"{}"}}"#, "x".repeat(bytes)));
        assert_eq!(Events::accepted(&batch).next().unwrap().body().len(), bytes);
        let counts = telemetryx::event::check_batch(&batch, 1, |_, range, _| assert_eq!(range, 0..batch.len()));
        assert_eq!(counts.unwrap().accepted, 1);
    }
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let scalar = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,20}".prop_map(Into::into),
    ];
    scalar.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(serde_json::Value::Array),
            vec(("[a-c.ä\"]{0,3}", inner), 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A member of an event: mostly sound, sometimes of the wrong type.
fn member() -> impl Strategy<Value = (String, serde_json::Value)> {
    let id = |digits| proptest::string::string_regex(&format!("[0-9a-fA-F]{{{digits}}}")).unwrap();
    let sound = prop_oneof![
        (0..i64::MAX).prop_map(|n| ("time", n.into())),
        "20[0-9]{2}-0[1-9]-[0-2][0-9]T[01][0-9]:00:00(\\.[0-9]{1,9})?Z".prop_map(|t| ("time", t.into())),
        prop_oneof!["log", "gauge", "counter", "span"].prop_map(|k| ("kind", k.into())),
        (0..25i32).prop_map(|n| ("severity", n.into())),
        prop_oneof!["trace", "debug", "info", "warn", "error", "fatal"].prop_map(|k| ("severity", k.into())),
        ".{0,20}".prop_map(|t| ("source", t.into())),
        ".{0,20}".prop_map(|t| ("name", t.into())),
        ".{0,200}".prop_map(|t| ("body", t.into())),
        value().prop_map(|v| ("attributes", serde_json::json!({ "k": v }))),
        any::<f64>().prop_map(|n| ("value", n.into())),
        (0..i64::MAX).prop_map(|n| ("duration_nano", n.into())),
        id(32).prop_map(|t| ("trace_id", t.into())),
        id(16).prop_map(|t| ("span_id", t.into())),
        id(16).prop_map(|t| ("parent_span_id", t.into())),
    ];
    let any_name = prop_oneof![
        Just("name"),
        Just("time"),
        Just("kind"),
        Just("severity"),
        Just("value"),
        Just("attributes"),
        Just("events"),
        Just("x")
    ];
    prop_oneof![19 => sound, 1 => (any_name, value())].prop_map(|(name, value)| (name.to_owned(), value))
}

fn body() -> impl Strategy<Value = String> {
    let event = vec(member(), 0..8).prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
        format!("{{{}}}", members.join(", "))
    });
    (vec(event, 0..4), 0..4).prop_map(|(events, form)| match form {
        0 => events.concat(),
        1 => format!("[{}]", events.join(",")),
        2 => format!("{{\"events\":[{}]}}", events.join(" , ")),
        _ => events.join("\n"),
    })
}

proptest! {
    #[test]
    fn events_survive_the_way_out_and_back(body in body()) {
        json_round_trip(body.as_bytes());
    }

    #[test]
    fn damaged_bodies_never_panic(body in body(), at in any::<prop::sample::Index>(), new in vec(any::<u8>(), 0..4), cut in 0..6usize) {
        let mut bytes = body.into_bytes();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, new);
        }
        json_round_trip(&bytes);
    }

    #[test]
    fn noise_never_panics(bytes in vec(prop_oneof![Just(b'{'), Just(b'"'), Just(b':'), Just(b'['), Just(b','), any::<u8>()], 0..60)) {
        json_round_trip(&bytes);
    }
}
