//! Limits: a POST above one is answered 429 by its head, and each whole body is charged.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Instant;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::http::Limited;
use crate::metrics::LimitScope;
use crate::rate::{Amount, Limit, Received};
use crate::session::rates::{RateSettings, Rates, Sender};

const NDJSON: &str = "application/x-ndjson";

fn limited(scope: LimitScope, wait: Duration) -> impl Fn(&mut FakeIngress) {
    move |ingress| ingress.limited = Some(Limited { scope, wait })
}

fn charged(events: u64, accepted: u64, bytes: usize) -> Received {
    Received { amount: Amount { events, bytes: bytes as u64 }, accepted }
}

#[test]
fn a_post_above_a_limit_is_answered_before_its_body_and_nothing_of_it_is_taken() {
    let get = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    let input = [&post(PROTOBUF, batch(&["a"])), get.as_bytes()].concat();
    let outcome = exchange_with(input, limited(LimitScope::Address, Duration::from_millis(2_001)));
    assert_eq!((&outcome.statuses[..], outcome.names.len(), outcome.rejected.len()), (&[429][..], 0, 0));
    assert!(outcome.closing, "what follows is the body that was not read");
    let answer = outcome.answers;
    assert!(answer.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{answer}");
    assert!(answer.contains("\r\nRetry-After: 3\r\n") && answer.contains("\r\nConnection: close\r\n"), "{answer}");
    let error = r#"{"error":"this address has sent more than its limit (limits.agent_events_per_second, limits.agent_bytes_per_second): nothing of this request was accepted, send it again after 3 s"}"#;
    assert!(answer.ends_with(error), "{answer}");
}

#[test]
fn who_announces_a_body_and_waits_gets_the_answer_and_no_100() {
    let head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    let outcome = exchange_with(head, limited(LimitScope::Server, Duration::from_millis(1)));
    assert_eq!((&outcome.statuses[..], outcome.closing), (&[429][..], true));
    assert!(
        !outcome.answers.contains(" 100 ") && outcome.answers.contains("\r\nRetry-After: 1\r\n"),
        "{}",
        outcome.answers
    );
}

#[test]
fn each_limit_names_its_settings() {
    for (scope, settings) in [
        (LimitScope::Server, "(limits.events_per_second, limits.bytes_per_second)"),
        (LimitScope::Client, "of its client (events_per_second, bytes_per_second)"),
        (LimitScope::Address, "(limits.agent_events_per_second, limits.agent_bytes_per_second)"),
    ] {
        let outcome = exchange_with(post(PROTOBUF, batch(&["a"])), limited(scope, Duration::from_secs(7)));
        assert!(outcome.answers.contains(settings), "{}", outcome.answers);
        assert!(outcome.answers.contains("\r\nRetry-After: 7\r\n"), "{}", outcome.answers);
    }
}

#[test]
fn other_mistakes_come_first_and_pages_are_answered() {
    let above = limited(LimitScope::Server, Duration::from_secs(1));
    let statuses = |input: Vec<u8>, prepare: &dyn Fn(&mut FakeIngress)| {
        exchange_with(input, |ingress| {
            above(ingress);
            prepare(ingress);
        })
        .statuses
    };
    assert_eq!(statuses(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), &|_| {}), [200]);
    assert_eq!(statuses(post(PROTOBUF, b"x"), &|ingress| ingress.token = Some(b"secret")), [401]);
    assert_eq!(statuses(post("text/plain", b"x"), &|_| {}), [415]);
    let paused = |ingress: &mut FakeIngress| ingress.log_pause = Some(crate::pipeline::health::Pause::DiskFull);
    assert_eq!(statuses(post(PROTOBUF, b"x"), &paused), [503]);
}

#[test]
fn a_body_that_was_admitted_is_taken_whatever_is_due_at_its_end() {
    let mut peer = Peer::new();
    let request = post(PROTOBUF, batch(&["a", "b"]));
    peer.send(&request[..request.len() - 3]);
    peer.ingress.limited = Some(Limited { scope: LimitScope::Server, wait: Duration::from_secs(9) });
    peer.send(&request[request.len() - 3..]);
    peer.send(&request);
    assert_eq!(peer.statuses(), [200, 429]);
    assert_eq!(peer.ingress.received, [charged(2, 2, batch(&["a", "b"]).len())]);
}

#[test]
fn a_body_is_charged_once_with_its_bytes_as_sent_and_all_of_its_events() {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all("{\"name\":\"a\"}\n".repeat(50).as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let gzip = post_with(&format!("Content-Type: {NDJSON}\r\nContent-Encoding: gzip\r\n"), &packed);
    let lines = "{\"name\":\"a\"}\nno JSON\n{\"name\":\"b\"}\n";
    for (request, status, expected) in [
        (post(NDJSON, lines), 200, charged(3, 2, lines.len())),
        (gzip, 200, charged(50, 50, packed.len())),
        (post("application/json", "[]"), 200, charged(0, 0, 2)),
        (post("application/json", "{"), 400, charged(1, 0, 1)),
        (post("application/json", "{}"), 400, charged(1, 0, 2)),
    ] {
        let mut peer = Peer::new();
        peer.send(&request);
        assert_eq!((peer.statuses(), &peer.ingress.received), (vec![status], &vec![expected]));
    }
}

/// A client that posts as fast as it can, and waits for as long as each 429 asks.
#[test]
fn a_greedy_client_that_honours_retry_after_gets_its_rate() {
    let (begin, address) = (Instant::now(), Sender::Address(IpAddr::from([192, 0, 2, 1])));
    let agent = Limit::new(1_000, 0, Duration::from_secs(2));
    let rates = Rates::new(RateSettings { agent, ..RateSettings::default() }, begin);
    let request = post(PROTOBUF, batch(&["a"; 70]));
    let (mut now, mut accepted, mut refused) = (begin, 0, 0);
    while now < begin + Duration::from_secs(60) {
        let mut peer = Peer::new();
        peer.ingress.limited =
            rates.wait(address, None, now).map(|wait| Limited { scope: wait.scope, wait: wait.time });
        peer.send(&request);
        match peer.statuses()[..] {
            [200] => {
                let [received] = peer.ingress.received[..] else { panic!("one body") };
                rates.charge(address, None, received.amount, now);
                accepted += received.accepted;
                now += Duration::from_millis(1);
            }
            [429] => {
                let answer = peer.answer();
                let seconds = answer.split_once("\r\nRetry-After: ").unwrap().1.split_once("\r\n").unwrap().0;
                now += Duration::from_secs(seconds.parse().unwrap());
                refused += 1;
            }
            ref other => panic!("{other:?}"),
        }
    }
    assert!((61_000..=62_070).contains(&accepted), "{accepted} events in a minute and a burst of 2 s");
    assert!((50..=61).contains(&refused), "{refused} requests were refused");
}
