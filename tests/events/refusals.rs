//! Bad protobuf payloads and the answer to each: malformed ones void the whole batch, invalid events only themselves.
//! Each goes through the parser, and through HTTP whole, byte by byte and split at every offset.

use telemetryx::event::fuzz::compare_with_prost;
use telemetryx::event::{BatchError, Counts, EventError, EventRef, Events, check_batch};
use telemetryx::http::fuzz::exchange_body;
use telemetryx::limits::{
    ATTRIBUTE_KEY_BYTES_MAX, EVENT_ATTRIBUTES_MAX, EVENT_BODY_BYTES_MAX, EVENT_BYTES_MAX, EVENT_NAME_BYTES_MAX,
};
use telemetryx::metrics::RejectReason;

/// Key, length, content.
fn field(key: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![key];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(content);
    bytes
}

/// Accepted and rejected events.
fn numbers(counts: Result<Counts, BatchError>) -> Result<(usize, usize), BatchError> {
    counts.map(|counts| (counts.accepted, counts.rejected))
}

fn fixed(key: u8, value: u64) -> Vec<u8> {
    [&[key][..], &value.to_le_bytes()].concat()
}

/// A good event and then `bytes` in it.
fn named(bytes: &[u8]) -> Vec<u8> {
    [b"\x2a\x01n", bytes].concat()
}

fn attribute(bytes: &[u8]) -> Vec<u8> {
    named(&field(0x3a, bytes))
}

fn answer(event: &[u8]) -> String {
    compare_with_prost(event);
    let error = EventRef::check(event).expect_err("a bad event");
    // The batch says the same: about the whole of it, or about the one event between two good ones.
    let good = field(0x0a, &named(&[]));
    let bad = field(0x0a, event);
    let mut seen = Vec::new();
    let counts = check_batch(&[&good[..], &bad, &good].concat(), 3, |index, range, event| {
        seen.push((index, range, event.err()));
    });
    match error {
        EventError::Malformed(malformed) => assert_eq!(counts, Err(BatchError::Malformed { index: 1, malformed })),
        EventError::Invalid(invalid) => {
            assert_eq!(numbers(counts), Ok((2, 1)));
            let (first, second) = (good.len(), good.len() + bad.len());
            assert_eq!(
                seen,
                [(0, 0..first, None), (1, first..second, Some(invalid)), (2, second..second + good.len(), None)]
            );
        }
    }
    posted(event, &bad);
    error.to_string()
}

/// The same over HTTP, however the bytes come: 400, one counter, nothing kept.
fn posted(event: &[u8], batch: &[u8]) {
    let outcome = exchange_body("application/x-protobuf", batch);
    let reason = match EventRef::check(event) {
        Err(EventError::Malformed(_)) => RejectReason::Malformed,
        _ => RejectReason::Invalid,
    };
    assert_eq!((outcome.statuses.as_slice(), outcome.rejected.as_slice()), (&[400][..], &[(reason, 1)][..]));
    assert!(outcome.payloads.is_empty() && !outcome.closing, "{}", outcome.answers);
}

const LONG_VARINT: &[u8] = &[0xff; 11];

#[test]
fn bad_events_and_their_answers() {
    let group = |depth: usize| [vec![0x6b; depth], vec![0x6c; depth]].concat();
    let keys = |count: usize| named(&field(0x3a, b"\x0a\x01k").repeat(count));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        // Malformed: keys.
        (named(&[0x80]), "malformed protobuf in `Event`: it is truncated; encode with proto/events.proto"),
        (named(LONG_VARINT), "in `Event`: a varint exceeds 64 bits"),
        (named(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]), "in `Event`: a varint exceeds 64 bits"),
        (named(&[0x80, 0x80, 0x80, 0x80, 0x10]), "in `Event`: a field key is 0 or exceeds 32 bits"),
        (named(&[0x00]), "in `Event`: a field key is 0 or exceeds 32 bits"),
        (named(&[0x02, 0x00]), "in `Event`: a field key is 0 or exceeds 32 bits"),
        (named(&[0x80, 0x00]), "in `Event`: a field key is 0 or exceeds 32 bits"),
        (named(&[0x07, 0x00]), "in `Event`: a field key is 0 or exceeds 32 bits"),
        // Malformed: fixed numbers.
        (named(&[0x09]), "in `time_unix_nano`: it is truncated"),
        (named(&[0x09, 1, 2, 3, 4, 5, 6, 7]), "in `time_unix_nano`: it is truncated"),
        (named(&[0x41, 1]), "in `value`: it is truncated"),
        (named(&[0x49, 1]), "in `duration_nano`: it is truncated"),
        (named(&[0x08, 1]), "in `time_unix_nano`: it has another wire type than in the schema"),
        (named(&[0x0a, 0]), "in `time_unix_nano`: it has another wire type"),
        (named(&[0x0d, 0, 0, 0, 0]), "in `time_unix_nano`: it has another wire type"),
        (named(&[0x40, 1]), "in `value`: it has another wire type"),
        (named(&[0x48, 1]), "in `duration_nano`: it has another wire type"),
        // Malformed: varints.
        (named(&[0x10]), "in `kind`: it is truncated"),
        (named(&[0x10, 0x80]), "in `kind`: it is truncated"),
        (named(&[0x18, 0x80, 0x80]), "in `severity`: it is truncated"),
        (named(&[&[0x18][..], LONG_VARINT].concat()), "in `severity`: a varint exceeds 64 bits"),
        (
            named(&[0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
            "in `kind`: a varint exceeds 64 bits",
        ),
        (named(&[0x11, 0, 0, 0, 0, 0, 0, 0, 0]), "in `kind`: it has another wire type"),
        (named(&[0x1a, 0]), "in `severity`: it has another wire type"),
        (named(&[0x13, 0x14]), "in `kind`: it has another wire type"),
        // Malformed: texts and ids.
        (named(&[0x22]), "in `source`: it is truncated"),
        (named(&[0x22, 5, b'a']), "in `source`: it is truncated"),
        (named(&[0x2a, 0x80]), "in `name`: it is truncated"),
        (named(&[0x32, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), "in `body`: it is truncated"),
        (named(&[&[0x32][..], LONG_VARINT].concat()), "in `body`: a varint exceeds 64 bits"),
        (named(&[0x20, 1]), "in `source`: it has another wire type"),
        (named(&[0x2d, 0, 0, 0, 0]), "in `name`: it has another wire type"),
        (named(&[0x33, 0x34]), "in `body`: it has another wire type"),
        (named(b"\x22\x01\xff"), "in `source`: it is not valid UTF-8"),
        (named(b"\x2a\x02\xc0\x80"), "in `name`: it is not valid UTF-8"),
        (named(b"\x32\x03\xed\xa0\x80"), "in `body`: it is not valid UTF-8"),
        (named(b"\x32\x08abcdefg\xc3"), "in `body`: it is not valid UTF-8"),
        (named(&field(0x32, &[&[b'a'; 99][..], b"\xf5"].concat())), "in `body`: it is not valid UTF-8"),
        (named(&field(0x32, &[&[b'a'; 999][..], b"\xe2\x82"].concat())), "in `body`: it is not valid UTF-8"),
        (b"\x2a\x01\xff\x2a\x01n".to_vec(), "in `name`: it is not valid UTF-8"),
        (named(&[0x52, 17]), "in `trace_id`: it is truncated"),
        (named(&[0x58, 1]), "in `span_id`: it has another wire type"),
        (named(&[0x62, 9, 0]), "in `parent_span_id`: it is truncated"),
        // Malformed: attributes.
        (named(&[0x3a]), "in `attributes`: it is truncated"),
        (named(&[0x3a, 3, 0x0a, 1]), "in `attributes`: it is truncated"),
        (named(&[0x38, 1]), "in `attributes`: it has another wire type"),
        (attribute(&[0x0a, 2, b'k']), "in `attributes.key`: it is truncated"),
        (attribute(b"\x0a\x01\xff"), "in `attributes.key`: it is not valid UTF-8"),
        (attribute(&[0x08, 1]), "in `attributes.key`: it has another wire type"),
        (attribute(b"\x0a\x01k\x12\x01\xff"), "in `attributes.string_value`: it is not valid UTF-8"),
        (attribute(b"\x0a\x01k\x12\x01\xff\x18\x01"), "in `attributes.string_value`: it is not valid UTF-8"),
        (attribute(b"\x0a\x01k\x18\x80"), "in `attributes.int_value`: it is truncated"),
        (attribute(b"\x0a\x01k\x19\0\0\0\0\0\0\0\0"), "in `attributes.int_value`: it has another wire type"),
        (attribute(b"\x0a\x01k\x21\0"), "in `attributes.double_value`: it is truncated"),
        (attribute(b"\x0a\x01k\x2a\0"), "in `attributes.bool_value`: it has another wire type"),
        (attribute(b"\x0a\x01k\x32\x02a"), "in `attributes.bytes_value`: it is truncated"),
        (attribute(&[0x80]), "in `Attribute`: it is truncated"),
        (attribute(&[0x3c]), "in `Attribute`: the end of a group without its start"),
        // Malformed: unknown fields.
        (named(&[0x68]), "in `Event`: it is truncated"),
        (named(&[0x69, 0]), "in `Event`: it is truncated"),
        (named(&[0x6a, 1]), "in `Event`: it is truncated"),
        (named(&[0x6d, 0, 0, 0]), "in `Event`: it is truncated"),
        (named(&[0x6e]), "in `Event`: it has another wire type"),
        (named(&[0x6f]), "in `Event`: it has another wire type"),
        (named(&[0x6c]), "in `Event`: the end of a group without its start"),
        (named(&[0x6b]), "in `Event`: it is truncated"),
        (named(&[0x6b, 0x74]), "in `Event`: the end of a group without its start"),
        (named(&[0x6b, 0x00, 0x6c]), "in `Event`: a field key is 0 or exceeds 32 bits"),
        (named(&[0x6b, 0x0a, 5, 0x6c]), "in `Event`: it is truncated"),
        (named(&group(100)), "in `Event`: groups are nested deeper than 100"),
        // Invalid.
        (vec![], "event has neither `name` nor `body`: set one of them"),
        (b"\x22\x01s\x18\x01".to_vec(), "event has neither `name` nor `body`"),
        (b"\x2a\x01n\x2a\x00".to_vec(), "event has neither `name` nor `body`"),
        (named(&field(0x22, &[b'x'; EVENT_NAME_BYTES_MAX + 1])), "`source` has 257 bytes: send at most 256"),
        (field(0x2a, &[b'x'; EVENT_NAME_BYTES_MAX + 1]), "`name` has 257 bytes: send at most 256"),
        (field(0x32, &[b'x'; EVENT_BODY_BYTES_MAX + 1]), "`body` has 65537 bytes: send at most 65536"),
        (named(&fixed(0x09, 1 << 63)), "`time_unix_nano` is 9223372036854775808: send nanoseconds below 2^63"),
        (named(&fixed(0x49, u64::MAX)), "`duration_nano` is 18446744073709551615: send nanoseconds below 2^63"),
        (named(&[0x10, 7]), "`kind` is 7: use 1 log, 2 gauge, 3 counter, 4 span, 5 histogram or 6 summary"),
        (named(&[0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), "`kind` is -1: use"),
        (named(&[0x18, 25]), "`severity` is 25: use 1 to 24, or 0 for none"),
        (named(&[0x18, 0xff, 0xff, 0xff, 0xff, 0x0f]), "`severity` is -1: use"),
        (named(&field(0x52, &[1; 15])), "`trace_id` has 15 bytes: send 16, or none"),
        (named(&field(0x52, &[1; 32])), "`trace_id` has 32 bytes: send 16, or none"),
        (named(&field(0x5a, &[1; 16])), "`span_id` has 16 bytes: send 8, or none"),
        (named(&field(0x62, &[1; 7])), "`parent_span_id` has 7 bytes: send 8, or none"),
        (keys(EVENT_ATTRIBUTES_MAX + 1), "`attributes` has 129 entries: send at most 128"),
        (attribute(&[]), "`attributes` entry 0 has no key: give it 1 to 128 bytes"),
        (attribute(b"\x0a\x01k\x0a\x00"), "`attributes` entry 0 has no key"),
        (
            [attribute(b"\x0a\x01k"), attribute(&field(0x0a, &[b'k'; ATTRIBUTE_KEY_BYTES_MAX + 1]))].concat(),
            "`attributes` entry 1 has a key of 129 bytes: send at most 128",
        ),
        (named(&field(0x6a, &[0; EVENT_BYTES_MAX - 6])), "event has 131073 bytes: send at most 131072"),
        (as_encoders_write(EVENT_BYTES_MAX + 1), "event has 131073 bytes: send at most 131072"),
    ];
    assert!(cases.len() >= 60);
    for (event, expected) in cases {
        let answer = answer(&event);
        assert!(answer.contains(expected), "{:02x?}: {answer}", &event[..event.len().min(40)]);
    }
}

/// An event of so many bytes with known fields only, in the order of their numbers.
fn as_encoders_write(bytes: usize) -> Vec<u8> {
    let text = |bytes: usize| field(0x3a, &[field(0x0a, b"k"), field(0x12, &vec![b'x'; bytes])].concat());
    let mut event = named(&[]);
    while bytes - event.len() > 16_000 {
        event.extend(text(15_000));
    }
    // Three keys, two lengths of two bytes, a key of one byte with its length.
    let last = text(bytes - event.len() - 9);
    event.extend(last);
    assert_eq!(event.len(), bytes);
    event
}

#[test]
fn events_at_the_limits_are_taken() {
    let group = |depth: usize| [vec![0x6b; depth], vec![0x6c; depth]].concat();
    for event in [
        field(0x2a, &[b'x'; EVENT_NAME_BYTES_MAX]),
        field(0x32, &[b'x'; EVENT_BODY_BYTES_MAX]),
        named(&field(0x22, "ü".repeat(EVENT_NAME_BYTES_MAX / 2).as_bytes())),
        named(&fixed(0x09, i64::MAX as u64)),
        named(&fixed(0x49, i64::MAX as u64)),
        named(&[0x10, 4, 0x18, 24]),
        named(&field(0x3a, b"\x0a\x01k").repeat(EVENT_ATTRIBUTES_MAX)),
        attribute(&field(0x0a, &[b'k'; ATTRIBUTE_KEY_BYTES_MAX])),
        named(&field(0x6a, &[0; EVENT_BYTES_MAX - 7])),
        as_encoders_write(EVENT_BYTES_MAX),
        named(&group(99)),
        // A rule broken by a value that a later one replaces.
        named(&[0x10, 9, 0x10, 1]),
        named(&[0x52, 1, 1, 0x52, 0]),
        // Varints that are longer than needed.
        vec![0xaa, 0x80, 0x00, 0x81, 0x00, b'n'],
    ] {
        compare_with_prost(&event);
        assert!(EventRef::check(&event).is_ok(), "{:02x?}", &event[..event.len().min(40)]);
    }
}

#[test]
fn bad_batches_and_their_answers() {
    let good = field(0x0a, &named(&[]));
    for (payload, expected) in [
        (&[0x08, 0x01][..], "event 1: malformed protobuf in `EventBatch`: it has another wire type than in the schema"),
        (&[0x0a], "event 1: malformed protobuf in `EventBatch`: it is truncated"),
        (&[0x0a, 0x05, 0x2a], "event 1: malformed protobuf in `EventBatch`: it is truncated"),
        (&[0x00], "event 1: malformed protobuf in `EventBatch`: a field key is 0"),
        (&[0x0b, 0x0c], "event 1: malformed protobuf in `EventBatch`: it has another wire type"),
        (&[0x14], "event 1: malformed protobuf in `EventBatch`: the end of a group without its start"),
        // The protocol's first vector.
        (&[0x0a, 0x03, 0x61, 0x62, 0x63], "event 1: malformed protobuf in `parent_span_id`: it has another wire type"),
        // A malformed event behind an invalid one.
        (&[0x0a, 0x00, 0x0a, 0x01, 0x2a], "event 2: malformed protobuf in `name`: it is truncated"),
        (&[0x0a, 0x00, 0x0a, 0x00, 0x0a, 0x00], "more than 3 events in one batch: split it"),
    ] {
        let payload = [&good[..], payload].concat();
        compare_with_prost(&payload);
        let error = check_batch(&payload, 3, |_, _, _| {}).expect_err("a bad batch");
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    let three = good.repeat(3);
    assert_eq!(numbers(check_batch(&three, 3, |_, _, _| {})), Ok((3, 0)));
    assert_eq!(check_batch(&three, 2, |_, _, _| {}), Err(BatchError::TooManyEvents { max: 2 }));
    assert_eq!(numbers(check_batch(&[], 0, |_, _, _| {})), Ok((0, 0)));
}

#[test]
fn unknown_fields_of_a_batch_belong_to_no_range() {
    let good = field(0x0a, &named(&[]));
    let unknown = b"\x12\x03abc\x1b\x20\x01\x1c";
    let payload = [&unknown[..], &good, unknown, &good, unknown].concat();
    let mut joined = Vec::new();
    let counts = check_batch(&payload, 9, |_, range, _| joined.extend_from_slice(&payload[range]));
    assert_eq!(numbers(counts), Ok((2, 0)));
    assert_eq!(joined, good.repeat(2));
    // A reader of the whole payload sees the same events.
    assert_eq!(Events::accepted(&payload).count(), 2);
}

#[test]
fn the_event_of_the_protocol_is_read() {
    let payload = b"\x0a\x07\x2a\x05hello";
    let names: Vec<_> = Events::accepted(payload).map(|event| event.name()).collect();
    assert_eq!(names, ["hello"]);
    assert_eq!(numbers(check_batch(payload, 1, |_, _, _| {})), Ok((1, 0)));
}

#[test]
fn attributes_between_other_fields_are_found_in_order() {
    let event =
        [field(0x3a, b"\x0a\x01a\x18\x01"), named(&[0x18, 9]), field(0x3a, b"\x0a\x01b"), vec![0x10, 1]].concat();
    compare_with_prost(&event);
    let keys: Vec<_> = EventRef::check(&event).unwrap().attributes().map(|(key, _)| key).collect();
    assert_eq!(keys, ["a", "b"]);
}
