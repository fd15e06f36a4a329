//! Where bodies are kept, and what happens where there is no room or the log accepts nothing.

use super::*;
use crate::http::{Beginnings, Room};
use crate::limits::{
    HTTP_ACK_TIMEOUT, HTTP_BODY_BEGINNING_BYTES, HTTP_BODY_BEGINNINGS_BYTES_MAX, STALLED_FRAME_TIMEOUT,
};
use crate::pipeline::health::Pause;

const LARGE: Settings = Settings { max_body_bytes: 256 * 1024, ..SETTINGS };
const GET: &str = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";

fn large_pool(door: &mut FakeDoor) {
    door.pool = Pool::new(16 * LARGE.max_body_bytes, Box::new(|| {}));
}

fn large_peer() -> Peer {
    let mut peer = Peer::new();
    peer.connection = Connection::new(LARGE, peer.now);
    large_pool(&mut peer.door);
    peer
}

/// Lines of `bytes` in all, an event in every 1,000.
fn lines(bytes: usize) -> Vec<u8> {
    let line = format!("{{\"name\":\"a\",\"body\":\"{}\"}}\n", "b".repeat(977));
    let mut body = line.repeat(bytes / line.len()).into_bytes();
    body.resize(bytes, b'\n');
    body
}

fn chunked(body: &[u8], chunk_bytes: usize) -> Vec<u8> {
    let mut request = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n\
        Transfer-Encoding: chunked\r\n\r\n"
        .to_vec();
    for chunk in body.chunks(chunk_bytes) {
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

#[test]
fn bodies_around_the_size_of_a_beginning_are_the_same_however_they_come() {
    for bytes in [1, 255, 256, 257]
        .into_iter()
        .chain((-1..=1).map(|more: isize| HTTP_BODY_BEGINNING_BYTES.saturating_add_signed(more)))
    {
        for request in
            [post("application/x-ndjson", lines(bytes)), chunked(&lines(bytes), bytes), chunked(&lines(bytes), 1000)]
        {
            let pipelined = [&request[..], GET.as_bytes()].concat();
            let got = exchange_within(LARGE, &pipelined, &large_pool);
            assert_eq!((got.statuses.as_slice(), got.closing), (&[200, 200][..], false), "{bytes}");
            assert_eq!(got.names.len(), bytes / 1000, "{bytes}");
        }
    }
    let largest = post("application/x-ndjson", lines(LARGE.max_body_bytes));
    assert_eq!(exchange_within(LARGE, &largest, &large_pool).names.len(), LARGE.max_body_bytes / 1000);
    let too_long = chunked(&lines(LARGE.max_body_bytes + 1), 5000);
    assert_eq!(exchange_within(LARGE, &too_long, &large_pool).statuses, [413]);
}

#[test]
fn a_body_costs_what_it_has_sent_until_64_kib_have_come() {
    let body = lines(200 * 1024);
    for (request, reserved) in
        [(post("application/x-ndjson", &body), 200 * 1024), (chunked(&body, 100_000), LARGE.max_body_bytes)]
    {
        let head_bytes = request.len() - if reserved == 200 * 1024 { body.len() } else { request.len() - 134 };
        let mut peer = large_peer();
        peer.send(&request[..head_bytes + 100]);
        assert!(HTTP_BODY_BEGINNINGS_BYTES_MAX - peer.door.beginnings.left() <= 256);
        peer.send(&request[head_bytes + 100..HTTP_BODY_BEGINNING_BYTES]);
        assert_eq!(peer.door.pool.bytes_in_use(), 0);
        assert_eq!(peer.door.beginnings.left(), HTTP_BODY_BEGINNINGS_BYTES_MAX - HTTP_BODY_BEGINNING_BYTES);
        peer.send(&request[HTTP_BODY_BEGINNING_BYTES..HTTP_BODY_BEGINNING_BYTES + 1000]);
        assert_eq!(peer.door.pool.bytes_in_use(), reserved, "all that may come");
        assert_eq!(peer.door.beginnings.left(), HTTP_BODY_BEGINNINGS_BYTES_MAX);
        peer.send(&request[HTTP_BODY_BEGINNING_BYTES + 1000..]);
        assert_eq!(peer.statuses(), [200]);
    }
}

#[test]
fn what_closes_a_connection_gives_its_beginning_back() {
    let mut peer = Peer::new();
    let request = post(PROTOBUF, batch(&["a"]));
    peer.send(&request[..request.len() - 1]);
    assert!(peer.door.beginnings.left() < HTTP_BODY_BEGINNINGS_BYTES_MAX);
    drop(peer.connection);
    assert_eq!(peer.door.beginnings.left(), HTTP_BODY_BEGINNINGS_BYTES_MAX);
}

#[test]
fn without_a_budget_for_beginnings_bodies_that_come_whole_are_taken_and_others_refused() {
    let request = post(PROTOBUF, batch(&["a"]));
    let mut peer = Peer::new();
    peer.door.beginnings = Beginnings::new(0);
    peer.send(&request);
    assert_eq!(peer.statuses(), [200]);
    peer.send(&request[..request.len() - 1]);
    assert_eq!((peer.statuses(), peer.connection.closing()), (vec![503], true));
    assert!(peer.answer().contains("\r\nRetry-After: "));
}

/// Bytes of a large body without its end; the room for it in the pool is lacking.
fn lacking(peer: &mut Peer) -> Vec<u8> {
    let request = post("application/x-ndjson", lines(100 * 1024));
    peer.door.pool = Pool::new(4096, Box::new(|| {}));
    let used = peer.connection.receive(&request, peer.now, &mut peer.door, &mut peer.out);
    assert_eq!(peer.connection.lacks_room(), Some(Room::Pool));
    assert_eq!(peer.connection.receive(&request[used..], peer.now, &mut peer.door, &mut peer.out), 0);
    assert!(!peer.connection.take_room(peer.now, &mut peer.door, &mut peer.out));
    request[used..].to_vec()
}

#[test]
fn a_body_without_room_continues_once_there_is_some_and_gets_503_else() {
    let mut peer = large_peer();
    let rest = lacking(&mut peer);
    large_pool(&mut peer.door);
    assert!(peer.connection.take_room(peer.now, &mut peer.door, &mut peer.out));
    peer.send(rest);
    assert_eq!(peer.statuses(), [200]);

    let mut peer = large_peer();
    lacking(&mut peer);
    peer.connection.refuse_room(peer.now, &mut peer.door, &mut peer.out);
    assert_eq!((peer.statuses(), peer.connection.closing()), (vec![503], true));
}

#[test]
fn the_slowest_body_is_known_by_what_it_holds() {
    let request = post("application/x-ndjson", lines(200 * 1024));
    let rate = |peer: &Peer, room| peer.connection.slow_body(room, peer.now);
    let mut peer = large_peer();
    peer.send(&request[..40_000]);
    peer.now += STALLED_FRAME_TIMEOUT;
    assert_eq!(rate(&peer, Room::Beginnings), None, "its first 2 s, and the time of what has come, do not count");
    peer.now += Duration::from_secs(1);
    let slow = rate(&peer, Room::Beginnings).expect("40 KB in 3 s");
    assert!((13_000..14_000).contains(&slow), "{slow}");
    assert_eq!(rate(&peer, Room::Pool), None, "closing it frees nothing of the pool");
    peer.send(&request[40_000..100_000]);
    peer.now += Duration::from_secs(1);
    assert_eq!(rate(&peer, Room::Beginnings), None);
    assert!(rate(&peer, Room::Pool).is_some_and(|rate| (24_000..26_000).contains(&rate)));
    peer.connection.press_body(peer.now, &mut peer.door, &mut peer.out);
    assert_eq!(peer.statuses(), [408]);
}

#[test]
fn an_admitted_body_waits_for_room_to_finish_and_small_ones_do_not() {
    let request = post("application/x-ndjson", lines(100 * 1024));
    let waiting = || {
        let mut peer = large_peer();
        peer.door.finishes = false;
        let used = peer.connection.receive(&request, peer.now, &mut peer.door, &mut peer.out);
        assert_eq!((used, peer.connection.lacks_room()), (request.len(), Some(Room::Finish)));
        peer.now += Duration::from_secs(20);
        assert_eq!(peer.connection.slow_body(Room::Pool, peer.now), None, "it is not its peer's delay");
        peer.connection.press_body(peer.now, &mut peer.door, &mut peer.out);
        assert!(!peer.connection.take_room(peer.now, &mut peer.door, &mut peer.out));
        peer
    };
    let mut peer = waiting();
    peer.door.finishes = true;
    assert!(peer.connection.take_room(peer.now, &mut peer.door, &mut peer.out));
    peer.turn();
    assert_eq!((peer.statuses(), peer.door.names().len()), (vec![200], 102));

    let mut peer = waiting();
    peer.later(HTTP_ACK_TIMEOUT - Duration::from_secs(20));
    assert_eq!((peer.statuses(), peer.door.names().len(), peer.connection.closing()), (vec![503], 0, true));
    assert_eq!(peer.door.pool.bytes_in_use(), 0);

    let mut peer = waiting();
    peer.door.log_pause = Some(Pause::LogFull);
    assert!(peer.connection.take_room(peer.now, &mut peer.door, &mut peer.out));
    assert_eq!((peer.statuses(), peer.door.names().len()), (vec![503], 0));

    let mut peer = large_peer();
    peer.door.finishes = false;
    peer.send(post(PROTOBUF, batch(&["a"])));
    assert_eq!(peer.statuses(), [200]);
}

#[test]
fn while_the_log_accepts_nothing_nothing_is_taken_and_pages_are_served() {
    for (pause, word) in
        [(Pause::DiskFull, "disk"), (Pause::LogFull, "wal.max_bytes"), (Pause::NoDescriptors, "file descriptors")]
    {
        let paused = |door: &mut FakeDoor| door.log_pause = Some(pause);
        let got = exchange_with([GET.as_bytes(), &post(PROTOBUF, batch(&["a"]))].concat(), paused);
        assert_eq!((got.statuses.as_slice(), got.closing), (&[200, 503][..], true));
        assert!(got.answers.contains("\r\nRetry-After: ") && got.answers.contains(word), "{}", got.answers);
        assert_eq!((got.payloads.len(), got.rejected.len()), (0, 0));
        let asks = post_with("Content-Type: application/x-protobuf\r\nExpect: 100-continue\r\n", batch(&["a"]));
        assert!(!exchange_with(asks, paused).answers.contains("100"));
        // Who may not send is not told how the server is doing.
        let needs_token = |door: &mut FakeDoor| (door.token, door.log_pause) = (Some(&b"secret"[..]), Some(pause));
        assert_eq!(exchange_with(post(PROTOBUF, batch(&["a"])), needs_token).statuses, [401]);
    }
}

#[test]
fn a_body_that_ends_while_the_log_accepts_nothing_is_refused_and_one_that_waits_is_not() {
    let request = post(PROTOBUF, batch(&["a"]));
    let mut peer = Peer::new();
    peer.send(&request[..request.len() - 1]);
    peer.door.log_pause = Some(Pause::DiskFull);
    peer.send(&request[request.len() - 1..]);
    assert_eq!((peer.statuses(), peer.door.names().len(), peer.connection.closing()), (vec![503], 0, true));

    let mut peer = Peer { acknowledge: false, ..Peer::new() };
    peer.send(&request);
    peer.door.log_pause = Some(Pause::DiskFull);
    peer.acknowledge = true;
    peer.turn();
    assert_eq!((peer.statuses(), peer.door.names()), (vec![200], vec!["a".to_owned()]));
}
