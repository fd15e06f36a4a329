//! Deadlines of heads, bodies, answers and idle connections.

use super::*;
use crate::limits::{FRAME_TIMEOUT, HELLO_TIMEOUT, HTTP_ACK_TIMEOUT, HTTP_IDLE_GRACE};

const GET: &str = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
const MOMENT: Duration = Duration::from_millis(1);
/// What is announced, and a moment for a request that is on its way at the end of it.
const IDLE: Duration = SETTINGS.idle_timeout.saturating_add(HTTP_IDLE_GRACE);

fn remaining(peer: &Peer) -> Duration {
    peer.connection.deadline().expect("a deadline") - peer.now
}

#[test]
fn who_says_nothing_after_connecting_is_closed_silently() {
    let mut peer = Peer::new();
    peer.later(HELLO_TIMEOUT - MOMENT);
    assert!(!peer.connection.closing());
    peer.later(MOMENT);
    assert!(peer.connection.closing());
    assert_eq!((peer.answer().as_str(), peer.connection.deadline()), ("", None));
}

#[test]
fn a_first_head_has_until_5_s_after_accept() {
    let mut peer = Peer::new();
    peer.later(Duration::from_secs(3));
    peer.send(&GET[..10]);
    assert_eq!(remaining(&peer), Duration::from_secs(2));
    peer.later(Duration::from_secs(2));
    assert_eq!((peer.statuses(), peer.connection.closing()), (vec![408], true));
}

#[test]
fn later_heads_have_5_s_from_their_first_byte() {
    let mut peer = Peer::new();
    peer.send(GET);
    assert_eq!(remaining(&peer), IDLE);
    peer.later(IDLE - MOMENT);
    peer.send(&GET[..10]);
    assert_eq!(remaining(&peer), HELLO_TIMEOUT);
    peer.later(Duration::from_secs(1));
    peer.send(&GET[10..20]);
    assert_eq!(remaining(&peer), Duration::from_secs(4));
    peer.send(&GET[20..]);
    assert_eq!(peer.statuses(), [200, 200]);
    peer.later(IDLE);
    assert!(peer.connection.closing() && peer.statuses().is_empty());
}

#[test]
fn a_body_has_10_s_and_its_length_at_64_kib_a_second() {
    let mut peer = Peer::new();
    let request = post(PROTOBUF, vec![0; 32 * 1024]);
    peer.send(&request[..1000]);
    assert_eq!(remaining(&peer), FRAME_TIMEOUT + Duration::from_millis(500));
    peer.later(FRAME_TIMEOUT);
    peer.send(&request[1000..2000]);
    assert_eq!(remaining(&peer), Duration::from_millis(500));
    peer.later(Duration::from_millis(500));
    assert_eq!((peer.statuses(), peer.connection.closing()), (vec![408], true));
    assert_eq!(peer.ingress.pool.bytes_in_use(), 0);
}

#[test]
fn a_chunked_body_has_10_s_and_what_came_of_it_at_64_kib_a_second() {
    let mut peer = Peer::new();
    peer.send("POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(remaining(&peer), FRAME_TIMEOUT);
    peer.send([&b"4000\r\n"[..], &[0; 0x4000], b"\r\n"].concat());
    assert_eq!(remaining(&peer), FRAME_TIMEOUT + Duration::from_millis(250));
    peer.later(FRAME_TIMEOUT + Duration::from_millis(250));
    assert_eq!((peer.statuses(), peer.connection.closing()), (vec![408], true));
}

#[test]
fn an_acknowledgement_that_does_not_come_is_504_and_says_what_became_of_the_events() {
    let mut peer = Peer { acknowledge: false, ..Peer::new() };
    peer.send([&post(PROTOBUF, batch(&["a"])), GET.as_bytes()].concat());
    assert_eq!(remaining(&peer), HTTP_ACK_TIMEOUT);
    peer.later(HTTP_ACK_TIMEOUT);
    let answer = peer.answer();
    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("the events are in the log"), "{answer}");
    assert!(answer.ends_with(r#","accepted":1,"rejected":[]}"#), "{answer}");
    // The next request is served.
    assert_eq!(peer.connection.waiting_for(), None);
    peer.turn();
    assert_eq!(peer.statuses(), [504, 200]);
}

#[test]
fn a_504_says_that_events_may_get_lost_that_the_log_has_not_taken() {
    let mut peer = Peer { acknowledge: false, ..Peer::new() };
    peer.ingress.written = false;
    peer.send(post(PROTOBUF, batch(&["a"])));
    peer.later(HTTP_ACK_TIMEOUT);
    let answer = peer.answer();
    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("lost if the server ends before"), "{answer}");
    assert!(answer.ends_with(r#","accepted":1,"rejected":[]}"#), "{answer}");
}

#[test]
fn who_waits_while_the_log_fails_is_told_and_nobody_else() {
    let mut peer = Peer { acknowledge: false, ..Peer::new() };
    peer.connection.log_failed(peer.now, &mut peer.ingress, &mut peer.out);
    assert!(peer.out.is_empty() && !peer.connection.closing());
    peer.send(post(PROTOBUF, batch(&["a"])));
    peer.connection.log_failed(peer.now, &mut peer.ingress, &mut peer.out);
    peer.written.append(&mut peer.out);
    let answer = peer.answer();
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("not known whether the events are kept"),
        "{answer}"
    );
    assert!(answer.contains("Connection: close") && peer.connection.closing(), "{answer}");
}

#[test]
fn who_still_waits_at_the_end_of_a_drain_is_answered() {
    for (written, expected) in [(true, "sending them again stores them twice"), (false, "it is not known whether")] {
        let mut peer = Peer { acknowledge: false, ..Peer::new() };
        peer.ingress.written = written;
        peer.connection.end_waiting(peer.now, &mut peer.ingress, &mut peer.out);
        assert!(peer.out.is_empty() && !peer.connection.closing());
        peer.send(post(PROTOBUF, batch(&["a"])));
        peer.connection.drain(peer.now, &mut peer.ingress, &mut peer.out);
        assert!(peer.out.is_empty() && !peer.connection.closing(), "it is answered first");
        peer.connection.end_waiting(peer.now, &mut peer.ingress, &mut peer.out);
        peer.written.append(&mut peer.out);
        let answer = peer.answer();
        assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("before this server ended"), "{answer}");
        assert!(answer.contains(expected) && answer.ends_with(r#","accepted":1,"rejected":[]}"#), "{answer}");
        assert!(answer.contains("Connection: close") && peer.connection.closing(), "{answer}");
    }
}

#[test]
fn an_early_timeout_or_a_late_acknowledgement_changes_nothing() {
    let mut peer = Peer::new();
    peer.send(GET);
    peer.answer();
    peer.connection.acknowledged(peer.now, &mut peer.ingress, &mut peer.out);
    peer.connection.handle_timeout(peer.now, &mut peer.ingress, &mut peer.out);
    assert!(peer.out.is_empty() && !peer.connection.closing());
}
