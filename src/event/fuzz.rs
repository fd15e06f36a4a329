//! Bodies of the fuzz targets, as ordinary functions: unit tests call them too, so they run on the stable toolchain.
//! Each panics where a fast way and its plain twin disagree.

use prost::Message;

use super::check::check_any_event;
use super::proto;
use super::usual::is_usual_and_valid;
use super::{
    AttributeValue, BatchError, Decoded, EventError, EventRef, Events, JsonDecoder, JsonError, JsonOptions, JsonRecord,
    Map, UnknownKeys, check_batch, write_json,
};
use crate::limits::{
    ATTRIBUTE_KEY_BYTES_MAX, EVENT_ATTRIBUTES_MAX, EVENT_BODY_BYTES_MAX, EVENT_BYTES_MAX, EVENT_NAME_BYTES_MAX,
    SEVERITY_MAX, TIME_UNIX_NANO_MAX,
};

/// Reads `bytes` as an `EventBatch` and as an `Event`, in place and with prost: both accept or both refuse, they see the
/// same values, and the rules hold exactly for the events that are taken.
///
/// # Panics
/// If they disagree.
pub fn compare_with_prost(bytes: &[u8]) {
    assert_is_valid_if_usual(bytes);
    compare_batch(bytes);
    // An event is checked as a member of a batch, where prost counts its nesting one level deeper.
    let mut batch = Vec::new();
    prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, &mut batch);
    prost::encoding::encode_varint(bytes.len() as u64, &mut batch);
    batch.extend_from_slice(bytes);
    compare_batch(&batch);
    match (EventRef::check(bytes), proto::EventBatch::decode(batch.as_slice())) {
        (Ok(view), Ok(batch)) => compare_event(&view, &batch.events[0]),
        (Err(EventError::Malformed(_)), Err(_)) => {}
        (Err(EventError::Invalid(_)), Ok(batch)) => assert!(!keeps_rules(&batch.events[0], bytes.len())),
        (ours, theirs) => panic!("check: {ours:?}, prost: {theirs:?}"),
    }
    // Never fails, whatever it is given.
    let view = EventRef::accepted(bytes);
    let _ = (view.kind(), view.severity(), view.time_unix_nano(), view.duration_nano(), view.trace_id());
    let _ = (view.source(), view.name(), view.body(), view.attributes().count(), view.span_id());
    assert!(Events::accepted(bytes).count() <= bytes.len());
}

fn compare_batch(bytes: &[u8]) {
    let (mut ours, mut accepted) = (Vec::new(), Vec::new());
    let checked = check_batch(bytes, usize::MAX, |index, range, event| {
        assert_eq!(index, ours.len());
        if event.is_ok() {
            accepted.extend_from_slice(&bytes[range]);
        }
        assert_is_valid_if_usual(event.unwrap_or_default());
        ours.push(event.map(EventRef::accepted));
    });
    let theirs = proto::EventBatch::decode(bytes);
    let (counts, theirs) = match (checked, theirs) {
        (Ok(counts), Ok(theirs)) => (counts, theirs.events),
        (Err(BatchError::Malformed { .. }), Err(_)) => return,
        (ours, theirs) => panic!("check_batch: {ours:?}, prost: {theirs:?}"),
    };
    assert_eq!(ours.len(), theirs.len());
    assert_eq!(counts.accepted + counts.rejected, ours.len());
    let mut kept = Vec::new();
    let mut lengths = event_lengths(bytes).into_iter();
    for (ours, theirs) in ours.into_iter().zip(theirs) {
        let length = lengths.next().expect("a length for each event");
        assert_eq!(ours.is_ok(), keeps_rules(&theirs, length), "{ours:?} {theirs:?}");
        if let Ok(view) = ours {
            assert_eq!(view.bytes().len(), length);
            compare_event(&view, &theirs);
            kept.push(theirs);
        }
    }
    assert_eq!(counts.accepted, kept.len());
    // The accepted ranges are a batch of the accepted events.
    let joined = proto::EventBatch::decode(accepted.as_slice()).expect("joined ranges are a batch");
    assert_eq!(joined.events.len(), kept.len());
    assert_eq!(Events::accepted(&accepted).count(), kept.len());
    for (view, event) in Events::accepted(&accepted).zip(&kept) {
        compare_event(&view, event);
        #[cfg(feature = "server")]
        compare_heads(&view, event, counts.are_head_first);
    }
}

/// Events of which only the head was located, as the steps of the server read them.
#[cfg(feature = "server")]
fn compare_heads(view: &EventRef<'_>, event: &proto::Event, is_head_first: bool) {
    compare_event(&EventRef::head(view.bytes(), false), event);
    if is_head_first {
        let head = EventRef::head(view.bytes(), true);
        assert_eq!(EventRef::head_numbers(view.bytes()), (event.kind, event.severity));
        let ours = (head.time_unix_nano(), head.kind(), i32::from(head.severity()), head.source(), head.name());
        assert_eq!(ours, (event.time_unix_nano, view.kind(), event.severity, &*event.source, &*event.name));
        compare_attributes(&head, event);
    }
}

/// What the fast check takes its naive twin takes as well, and finds its head first.
fn assert_is_valid_if_usual(event: &[u8]) {
    if is_usual_and_valid(event) {
        assert_eq!(check_any_event(event), Ok(true), "{event:02x?}");
    }
}

/// Encoded lengths of the events of a valid batch, read with prost's primitives.
fn event_lengths(mut bytes: &[u8]) -> Vec<usize> {
    use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
    let mut lengths = Vec::new();
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes).expect("a sound batch");
        if (tag, wire_type) == (1, WireType::LengthDelimited) {
            let length = decode_varint(&mut bytes).expect("a sound batch") as usize;
            bytes = &bytes[length..];
            lengths.push(length);
        } else {
            skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).expect("a sound batch");
        }
    }
    lengths
}

/// The rules of the contract once more, in the plainest form.
fn keeps_rules(event: &proto::Event, bytes: usize) -> bool {
    let id = |id: &[u8], bytes| id.is_empty() || id.len() == bytes;
    bytes <= EVENT_BYTES_MAX
        && !(event.name.is_empty() && event.body.is_empty())
        && event.source.len() <= EVENT_NAME_BYTES_MAX
        && event.name.len() <= EVENT_NAME_BYTES_MAX
        && event.body.len() <= EVENT_BODY_BYTES_MAX
        && event.time_unix_nano <= TIME_UNIX_NANO_MAX
        && event.duration_nano <= TIME_UNIX_NANO_MAX
        && (0..=6).contains(&event.kind)
        && (0..=SEVERITY_MAX).contains(&event.severity)
        && id(&event.trace_id, 16)
        && id(&event.span_id, 8)
        && id(&event.parent_span_id, 8)
        && event.attributes.len() <= EVENT_ATTRIBUTES_MAX
        && event.attributes.iter().all(|attribute| (1..=ATTRIBUTE_KEY_BYTES_MAX).contains(&attribute.key.len()))
}

/// Panics unless every accessor of `view` gives what prost decoded.
pub fn compare_event(view: &EventRef<'_>, event: &proto::Event) {
    assert_eq!(view.time_unix_nano(), event.time_unix_nano);
    assert_eq!(view.kind() as i32, if event.kind == 0 { 1 } else { event.kind });
    assert_eq!(i32::from(view.severity()), event.severity);
    assert_eq!(view.source(), event.source);
    assert_eq!(view.name(), event.name);
    assert_eq!(view.body(), event.body);
    assert_eq!(view.value().map(f64::to_bits), event.value.map(f64::to_bits));
    assert_eq!(view.duration_nano(), event.duration_nano);
    assert_eq!(view.trace_id().map_or(&[][..], |id| id), event.trace_id);
    assert_eq!(view.span_id().map_or(&[][..], |id| id), event.span_id);
    assert_eq!(view.parent_span_id().map_or(&[][..], |id| id), event.parent_span_id);
    compare_attributes(view, event);
}

fn compare_attributes(view: &EventRef<'_>, event: &proto::Event) {
    assert_eq!(view.attributes().count(), event.attributes.len());
    assert_eq!(view.unread_attributes().count(), event.attributes.len());
    let both = view.attributes().zip(view.unread_attributes());
    for (((key, value), (unread_key, unread)), attribute) in both.zip(&event.attributes) {
        assert_eq!((key.as_bytes(), format!("{value:?}")), (unread_key, format!("{:?}", unread.read())));
        use proto::attribute::Value;
        assert_eq!(key, attribute.key);
        match (value, &attribute.value) {
            (AttributeValue::Null, None) => {}
            (AttributeValue::String(ours), Some(Value::StringValue(theirs))) => assert_eq!(ours, theirs),
            (AttributeValue::Int(ours), Some(Value::IntValue(theirs))) => assert_eq!(ours, *theirs),
            (AttributeValue::Double(ours), Some(Value::DoubleValue(theirs))) => {
                assert_eq!(ours.to_bits(), theirs.to_bits());
            }
            (AttributeValue::Bool(ours), Some(Value::BoolValue(theirs))) => assert_eq!(ours, *theirs),
            (AttributeValue::Bytes(ours), Some(Value::BytesValue(theirs))) => assert_eq!(ours, theirs),
            (ours, theirs) => panic!("attribute {key}: {ours:?}, prost: {theirs:?}"),
        }
    }
}

/// Reads `body` as a JSON document and as NDJSON, with `json_quick` and without. What is accepted is a valid batch, and is the same
/// events again after it was written as JSON and read back.
///
/// # Panics
/// If it is not.
pub fn json_round_trip(body: &[u8]) {
    compare_with_visitors(body);
    // As other agents' JSON too, each body with one of the maps.
    let map = Map::ALL.get(body.len() % Map::ALL.len()).copied();
    for options in [JsonOptions::default(), JsonOptions { map, ..JsonOptions::default() }] {
        decode_and_read_back(JsonDecoder::with_options(options), body);
    }
}

/// Reads `body` as a document and as lines, with `json_quick` and without: both give the same bytes and rejections, or the same error.
///
/// # Panics
/// If they disagree.
pub fn compare_with_visitors(body: &[u8]) {
    for unknown in [UnknownKeys::Reject, UnknownKeys::Attributes] {
        let options = JsonOptions { unknown, ..JsonOptions::default() };
        let (mut quick, mut visitors) = (JsonDecoder::with_options(options), JsonDecoder::reference(options));
        // The second time with what the first one left in its buffers, and where the third event is not taken.
        for events_max in [usize::MAX, 2] {
            let documents =
                [&mut quick, &mut visitors].map(|decoder| collect(events_max, |emit| decoder.document(body, emit)));
            assert_eq!(documents[0], documents[1], "{:?} as a document", String::from_utf8_lossy(body));
            let lines =
                [&mut quick, &mut visitors].map(|decoder| collect(events_max, |emit| decoder.lines(body, emit)));
            assert_eq!(lines[0], lines[1], "{:?} as lines", String::from_utf8_lossy(body));
        }
    }
}

type Emit<'e> = &'e mut dyn FnMut(&[u8]) -> Result<(), usize>;

/// What `read` gives: a message, or the events and what was rejected. At most `events_max` events are taken.
fn collect(
    events_max: usize,
    read: impl FnOnce(Emit<'_>) -> Result<Decoded, JsonError<usize>>,
) -> Result<(Vec<Vec<u8>>, Decoded), String> {
    let mut events = Vec::new();
    let decoded = read(&mut |event| {
        if events.len() == events_max {
            return Err(events_max);
        }
        events.push(event.to_vec());
        Ok(())
    });
    // The variant and all that it holds.
    decoded.map(|decoded| (events, decoded)).map_err(|error| format!("{error:?}"))
}

fn decode_and_read_back(mut decoder: JsonDecoder, body: &[u8]) {
    let mut batch = Vec::new();
    let decoded = decoder.document(body, |field| {
        batch.extend_from_slice(field);
        Ok::<(), ()>(())
    });
    if let Ok(decoded) = decoded {
        assert!(decoded.rejected.named.len() <= decoded.rejected.total);
        write_and_read_back(&batch, decoded.accepted);
    }
    batch.clear();
    let decoded = decoder.lines(body, |field| {
        batch.extend_from_slice(field);
        Ok::<(), ()>(())
    });
    if let Ok(decoded) = decoded {
        write_and_read_back(&batch, decoded.accepted);
    }
}

fn write_and_read_back(batch: &[u8], accepted: usize) {
    let counts = check_batch(batch, usize::MAX, |_, _, event| assert!(event.is_ok(), "{event:?}"));
    assert_eq!(counts.map(|counts| (counts.accepted, counts.rejected)), Ok((accepted, 0)));
    let mut lines = Vec::new();
    for event in Events::accepted(batch) {
        write_json(&JsonRecord::event(event), &mut lines);
        lines.push(b'\n');
    }
    let mut again = Vec::new();
    let decoded = JsonDecoder::new().lines(&lines, |field| {
        again.extend_from_slice(field);
        Ok::<(), ()>(())
    });
    let decoded = decoded.expect("JSON out is JSON in");
    assert_eq!((decoded.accepted, decoded.rejected.total), (accepted, 0), "{decoded:?}");
    for (event, again) in Events::accepted(batch).zip(Events::accepted(&again)) {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        write_json(&JsonRecord::event(event), &mut first);
        write_json(&JsonRecord::event(again), &mut second);
        assert_eq!(String::from_utf8(first), String::from_utf8(second));
        // Equal as values too, each key once.
        assert_eq!(event.value().map(f64::to_bits), again.value().map(f64::to_bits));
        for (key, value) in again.attributes() {
            let last = event.attributes().filter(|(name, _)| *name == key).last();
            assert_eq!(last, Some((key, value)));
        }
    }
}
