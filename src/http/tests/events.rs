//! Bodies: protobuf, JSON, gzip; what is accepted, refused, and handed on.

use std::io::Write;

use super::*;
use crate::limits::{FRAME_EVENTS_MAX, HTTP_ERROR_BYTES_MAX, HTTP_GZIP_MEMBERS_MAX, HTTP_REJECTED_MAX};

pub(super) fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn body(outcome: &Outcome) -> serde_json::Value {
    serde_json::from_str(outcome.answers.split("\r\n\r\n").last().unwrap()).unwrap()
}

#[test]
fn a_protobuf_batch_is_handed_on_as_it_came() {
    let sent = batch(&["a", "b", "c"]);
    let got = exchange(post(PROTOBUF, &sent));
    assert_eq!(got.payloads, [sent]);
    assert_eq!(got.names, ["a", "b", "c"]);
    assert_eq!(body(&got).to_string(), r#"{"accepted":3,"rejected":[]}"#);
}

#[test]
fn an_empty_batch_is_answered_at_once() {
    let mut peer = Peer { acknowledge: false, ..Peer::new() };
    peer.send(post(PROTOBUF, b""));
    assert!(peer.answer().ends_with(r#"{"accepted":0,"rejected":[]}"#));
    assert!(peer.ingress.accepted.is_empty());
    // The same without any length.
    peer.send("POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n\r\n");
    assert_eq!((peer.statuses(), peer.kept.len()), (vec![200, 200], 0));
}

#[test]
fn a_bad_event_is_named_and_its_neighbours_are_taken() {
    let got = exchange(post(PROTOBUF, batch(&["a", "", "c"])));
    assert_eq!(got.names, ["a", "c"]);
    let answer = body(&got);
    assert_eq!((&answer["accepted"], &answer["rejected"][0]["index"]), (&2.into(), &1.into()));
    assert!(answer["rejected"][0]["error"].as_str().unwrap().contains("name"), "{answer}");
    assert_eq!((got.statuses.as_slice(), got.closing), (&[200][..], false));
    assert_eq!(got.rejected, [(RejectReason::Invalid, 1)]);
}

#[test]
fn nothing_but_bad_events_is_400() {
    let got = exchange(post(PROTOBUF, batch(&["", ""])));
    let answer = body(&got);
    assert_eq!((got.statuses.as_slice(), got.closing), (&[400][..], false));
    assert_eq!((&answer["accepted"], answer["rejected"].as_array().unwrap().len()), (&0.into(), 2));
    assert!(answer["error"].is_string() && got.payloads.is_empty());
    assert_eq!(got.rejected, [(RejectReason::Invalid, 2)]);
}

#[test]
fn bytes_that_are_no_batch_are_400_and_the_connection_stays() {
    let got = exchange(post(PROTOBUF, b"{\"name\":\"json\"}"));
    assert_eq!((got.statuses.as_slice(), got.closing), (&[400][..], false));
    assert!(body(&got)["error"].as_str().unwrap().contains("protobuf"));
    assert_eq!((got.payloads.len(), got.rejected), (0, vec![(RejectReason::Malformed, 1)]));
}

#[test]
fn a_large_batch_is_cut_between_events_into_slots_of_at_most_a_frame() {
    let long = "n".repeat(200);
    let names: Vec<&str> = std::iter::repeat_n(long.as_str(), 300).collect();
    let sent = batch(&names);
    assert!(sent.len() > 3 * SETTINGS.max_frame_bytes);
    let mut peer = Peer { acknowledge: false, ..Peer::new() };
    peer.send(post(PROTOBUF, &sent));
    assert_eq!(peer.ingress.names().len(), 300);
    assert_eq!(peer.ingress.accepted.iter().flat_map(|(payload, _)| payload.to_vec()).collect::<Vec<_>>(), sent);
    let slots = peer.ingress.accepted.len();
    assert!(slots > 3);
    assert_eq!(peer.connection.waiting_for(), Some((AckLevel::Synced, slots as u64)), "the last ticket counts");
}

#[test]
fn a_batch_full_of_gaps_is_packed_into_few_slots() {
    let names: Vec<&str> = ["a", ""].into_iter().cycle().take(2 * (HTTP_REJECTED_MAX + 1)).collect();
    let mut peer = Peer::new();
    peer.send(post(PROTOBUF, batch(&names)));
    assert_eq!((peer.ingress.accepted.len(), peer.ingress.names().len()), (1, HTTP_REJECTED_MAX + 1));
    let answer = peer.answer();
    let answer: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").last().unwrap()).unwrap();
    assert_eq!(answer["rejected"].as_array().unwrap().len(), HTTP_REJECTED_MAX);
    assert_eq!(answer["rejected_total"], HTTP_REJECTED_MAX + 1);
}

#[test]
fn a_full_ring_takes_all_or_nothing() {
    let full = |ingress: &mut FakeIngress| ingress.ring_slots = 1;
    let mut peer = Peer::new();
    full(&mut peer.ingress);
    let long = "n".repeat(200);
    let names: Vec<&str> = std::iter::repeat_n(long.as_str(), 100).collect();
    peer.send(post(PROTOBUF, batch(&names)));
    assert_eq!((peer.statuses(), peer.ingress.accepted.len()), (vec![503], 0));
    assert!(peer.answer().contains("\r\nRetry-After: ") && peer.ingress.rejected.is_empty());
    assert_eq!(peer.ingress.pool.bytes_in_use(), 0);
    assert_eq!(exchange_with(post(PROTOBUF, batch(&["a"])), full).statuses, [200]);
}

#[test]
fn without_memory_posts_get_503_and_pages_are_served() {
    let none = |ingress: &mut FakeIngress| ingress.pool = Pool::new(4096, Box::new(|| {}));
    let get = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    let got = exchange_with([&get[..], &post(PROTOBUF, vec![0; 5000]), &get[..]].concat(), none);
    assert_eq!((got.statuses.as_slice(), got.closing), (&[200, 503][..], true));
    assert!(got.answers.contains("\r\nRetry-After: ") && got.answers.contains("\r\nConnection: close\r\n"));
    // There is memory for the body, but not for what it unpacks to.
    let got = exchange_with(
        post_with("Content-Type: application/x-protobuf\r\nContent-Encoding: gzip\r\n", gzip(&batch(&["a"]))),
        none,
    );
    assert_eq!((got.statuses.as_slice(), got.closing), (&[503][..], true));
}

#[test]
fn a_body_beyond_the_limit_is_refused_by_its_head() {
    let head = |length| {
        format!(
            "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let got = exchange(head(SETTINGS.max_body_bytes + 1));
    assert_eq!((got.statuses.as_slice(), got.closing), (&[413][..], true));
    assert_eq!(exchange(head(SETTINGS.max_body_bytes)).statuses, [0u16; 0]);
}

#[test]
fn media_types_are_told_apart_and_others_refused() {
    for field in [
        "",
        "Content-Type:\r\n",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/jsonx\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: application/x-protobuf, application/json\r\n",
        "Content-Type: application/x-protobuf\r\nContent-Encoding: br\r\n",
        "Content-Type: application/x-protobuf\r\nContent-Encoding: gzip, gzip\r\n",
    ] {
        let got = exchange(post_with(field, batch(&["a"])));
        assert_eq!((got.statuses.as_slice(), got.closing), (&[415][..], true), "{field}");
        assert_eq!((got.rejected.as_slice(), got.payloads.len()), (&[(RejectReason::Codec, 1)][..], 0));
    }
    for field in [
        "Content-Type: Application/X-Protobuf ; charset=utf-8\r\n",
        "Content-Type: application/x-protobuf\r\nContent-Encoding: identity\r\n",
    ] {
        assert_eq!(exchange(post_with(field, batch(&["a"]))).names, ["a"], "{field}");
    }
}

fn post_gzip(packed: &[u8]) -> Vec<u8> {
    post_with("Content-Type: application/x-protobuf\r\nContent-Encoding: gzip\r\n", packed)
}

#[test]
fn gzip_bodies_are_unpacked_all_members_of_them() {
    let packed = gzip(&batch(&["a"]));
    assert_eq!(exchange(post_gzip(&packed)).names, ["a"]);
    assert_eq!(exchange(post_gzip(&[packed.clone(), gzip(b""), packed.clone()].concat())).names, ["a", "a"]);
}

#[test]
fn gzip_that_is_damaged_is_refused() {
    let packed = gzip(&batch(&["hello"]));
    let mut damaged: Vec<Vec<u8>> = (0..packed.len()).map(|end| packed[..end].to_vec()).collect();
    damaged.push([&packed[..], b"x"].concat());
    damaged.push([&packed[..], &[0; 512]].concat());
    damaged.push([&packed[..], &packed[..packed.len() - 1]].concat());
    for at in [packed.len() - 1, packed.len() - 8, 0, 2] {
        let mut bytes = packed.clone();
        bytes[at] ^= 0x55;
        damaged.push(bytes);
    }
    damaged.push(batch(&["a"]));
    for bytes in damaged {
        let mut peer = Peer::new();
        peer.send(post_gzip(&bytes));
        assert_eq!((peer.statuses(), peer.ingress.accepted.len()), (vec![400], 0), "{}", bytes.escape_ascii());
        assert!(!peer.connection.closing());
    }
}

#[test]
fn gzip_is_bounded_by_what_it_unpacks_to() {
    // Unknown field 2 of the batch, so that zeros are a sound body without events.
    let of = |bytes: usize| {
        let mut text = vec![0x12];
        let len = bytes - 4;
        text.extend_from_slice(&[len as u8 & 0x7f | 0x80, (len >> 7) as u8 & 0x7f | 0x80, (len >> 14) as u8]);
        text.resize(bytes, 0);
        text
    };
    for (bytes, status) in [(SETTINGS.max_body_bytes, 200), (SETTINGS.max_body_bytes + 1, 413), (10 << 20, 413)] {
        let mut peer = Peer::new();
        peer.send(post_gzip(&gzip(&of(bytes))));
        assert_eq!(peer.statuses(), [status], "{bytes}");
    }
    let member = gzip(b"");
    for (members, status) in [(HTTP_GZIP_MEMBERS_MAX, 200), (HTTP_GZIP_MEMBERS_MAX + 1, 400)] {
        let mut peer = Peer::new();
        peer.send(post_gzip(&member.repeat(members)));
        assert_eq!(peer.statuses(), [status], "{members} members");
    }
}

#[test]
fn memory_returns_when_a_request_is_done() {
    let mut peer = Peer::new();
    peer.send(post(PROTOBUF, batch(&["a", ""])));
    peer.send(post_gzip(&gzip(&batch(&["a", ""]))));
    peer.send(post(PROTOBUF, b"\x0a"));
    peer.ingress.accepted.clear();
    assert_eq!((peer.statuses(), peer.ingress.pool.bytes_in_use()), (vec![200, 200, 400], 0));
}

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

#[test]
fn json_is_one_event_an_array_or_an_object_of_events() {
    for (text, names) in [
        (r#"{"name":"a"}"#, &["a"][..]),
        (r#" [ {"name":"a"} , {"name":"b"} ] "#, &["a", "b"]),
        (r#"{"events":[{"name":"a"},{"name":"b","body":"x"}]}"#, &["a", "b"]),
        ("[]", &[]),
        (r#"{"events":[]}"#, &[]),
    ] {
        let got = exchange(post("application/json; charset=utf-8", text));
        assert_eq!(
            (got.statuses.as_slice(), got.names.as_slice()),
            (&[200][..], &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()[..]),
            "{text}: {}",
            got.answers
        );
        assert_eq!(body(&got)["accepted"], names.len());
    }
}

#[test]
fn json_becomes_the_bytes_that_protobuf_would_be() {
    let got = exchange(post(JSON, r#"[{"name":"a"},{"name":"b"}]"#));
    assert_eq!(got.payloads, [batch(&["a", "b"])]);
}

#[test]
fn a_malformed_json_document_takes_nothing() {
    for text in ["", " ", "{", "x", r#"[{"name":"a"},"#, r#"[{"name":"a"}] x"#, "1", "null", "[1"] {
        let got = exchange(post(JSON, text));
        assert_eq!(
            (got.statuses.as_slice(), got.payloads.len(), got.closing),
            (&[400][..], 0, false),
            "{text}: {}",
            got.answers
        );
        assert!(body(&got)["error"].is_string());
    }
    let mut peer = Peer::new();
    peer.send(post(JSON, b"[{\"name\":\"a\"},{\"name\":\"\xff\"}]"));
    assert_eq!((peer.statuses(), peer.ingress.accepted.len()), (vec![400], 0));
}

#[test]
fn a_bad_event_of_a_json_array_is_named_by_its_index() {
    let got = exchange(post(JSON, r#"[{"name":"a"},{"nam":"b"},{"name":"c"},{"severity":99,"name":"d"}]"#));
    assert_eq!(got.names, ["a", "c"]);
    let answer = body(&got);
    assert_eq!(
        (&answer["accepted"], &answer["rejected"][0]["index"], &answer["rejected"][1]["index"]),
        (&2.into(), &1.into(), &3.into())
    );
    assert_eq!(exchange(post(JSON, r#"{"nam":"b"}"#)).statuses, [400]);
}

#[test]
fn a_bad_line_is_named_by_its_number_and_blank_lines_count() {
    let text = "{\"name\":\"a\"}\n\n{broken\r\n  \n{\"name\":\"b\"}\r\n{\"name\":7}";
    let got = exchange(post(NDJSON, text));
    assert_eq!((got.statuses.as_slice(), got.names.as_slice()), (&[200][..], &["a".to_owned(), "b".to_owned()][..]));
    let answer = body(&got);
    assert_eq!(
        (&answer["accepted"], &answer["rejected"][0]["index"], &answer["rejected"][1]["index"]),
        (&2.into(), &2.into(), &5.into())
    );
    assert_eq!(exchange(post(NDJSON, "\n\n")).statuses, [200]);
    assert_eq!(exchange(post(NDJSON, "x\ny\n")).statuses, [400]);
}

#[test]
fn json_is_packed_into_slots_of_at_most_a_frame() {
    let text = format!("{{\"name\":\"a\",\"body\":\"{}\"}}\n", "b".repeat(3000)).repeat(20);
    let mut peer = Peer { acknowledge: false, ..Peer::new() };
    peer.send(post(NDJSON, &text));
    assert_eq!(peer.ingress.names().len(), 20);
    assert_eq!(peer.ingress.accepted.len(), 4);
    assert_eq!(peer.connection.waiting_for(), Some((AckLevel::Synced, 4)));
    // Only what is filled stays reserved.
    assert!(peer.ingress.pool.bytes_in_use() <= 4 * SETTINGS.max_frame_bytes);
}

#[test]
fn json_that_becomes_too_much_is_refused_with_its_reason() {
    // The prefix of a nested object is repeated in every key.
    let members: Vec<String> = (0..100).map(|index| format!("\"{index}\":1")).collect();
    let event = format!("{{\"name\":\"a\",\"attributes\":{{\"{}\":{{{}}}}}}}\n", "k".repeat(120), members.join(","));
    let text = event.repeat(32);
    assert!(text.len() < SETTINGS.max_body_bytes / 4);
    let got = exchange(post(NDJSON, &text));
    assert_eq!((got.statuses.as_slice(), got.payloads.len()), (&[413][..], 0), "{}", got.answers);
    assert!(got.answers.contains("becomes"), "{}", got.answers);
}

#[test]
fn json_may_be_packed_with_gzip() {
    let got =
        exchange(post_with("Content-Type: application/json\r\nContent-Encoding: gzip\r\n", gzip(br#"{"name":"a"}"#)));
    assert_eq!(got.names, ["a"]);
}

#[test]
fn more_events_than_a_request_may_have_are_refused_as_a_whole() {
    let settings = Settings { max_body_bytes: 1 << 20, max_frame_bytes: 1 << 20, ..SETTINGS };
    let of = |events: usize| {
        [
            (PROTOBUF, batch(&["a"]).repeat(events)),
            (JSON, format!("[{}{{\"name\":\"a\"}}]", "{\"name\":\"a\"},".repeat(events - 1)).into_bytes()),
            (NDJSON, "{\"name\":\"a\"}\n".repeat(events).into_bytes()),
        ]
    };
    for (events, status) in [(FRAME_EVENTS_MAX, 200), (FRAME_EVENTS_MAX + 1, 413)] {
        for (media_type, text) in of(events) {
            let mut peer = Peer { connection: Connection::new(settings, Instant::now()), ..Peer::new() };
            peer.ingress.pool = Pool::new(8 << 20, Box::new(|| {}));
            peer.send(post(media_type, &text));
            assert_eq!((peer.statuses(), peer.ingress.accepted.len()), (vec![status], usize::from(status == 200)));
        }
    }
}

#[test]
fn errors_that_quote_the_peer_are_cut() {
    let long = "\u{e9}".repeat(5000);
    for (media_type, text) in [
        (NDJSON, format!("{{\"name\":\"a\"}}\n{{\"{long}\":1}}\n{{\"severity\":\"{long}\"}}")),
        (JSON, format!("{{\"{long}\":1}}")),
        (JSON, format!("{{\"events\":\"{long}\"}}")),
    ] {
        let mut peer = Peer::new();
        peer.send(post(media_type, &text));
        let answer = peer.answer();
        assert!(answer.len() < 2 * HTTP_ERROR_BYTES_MAX + 500, "{answer}");
    }
}
