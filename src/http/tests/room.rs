//! Where bodies are kept, and what happens where there is no room or the log accepts nothing.

use super::*;
use crate::http::{Beginnings, Room};
use crate::limits::{
    HTTP_ACK_TIMEOUT, HTTP_BODY_BEGINNING_BYTES, HTTP_BODY_BEGINNINGS_BYTES_MAX, HTTP_FINISH_RETRY,
    STALLED_FRAME_TIMEOUT,
};
use crate::pipeline::health::Pause;

const GET: &str = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";

fn large_pool(ingress: &mut FakeIngress) {
    ingress.pool = FakeIngress::new().pool;
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
            let got = exchange(&pipelined);
            assert_eq!((got.statuses.as_slice(), got.closing), (&[200, 200][..], false), "{bytes}");
            assert_eq!(got.names.len(), bytes / 1000, "{bytes}");
        }
    }
    let largest = post("application/x-ndjson", lines(SETTINGS.max_body_bytes));
    assert_eq!(exchange(&largest).names.len(), SETTINGS.max_body_bytes / 1000);
    let too_long = chunked(&lines(SETTINGS.max_body_bytes + 1), 5000);
    assert_eq!(exchange(&too_long).statuses, [413]);
}

#[test]
fn a_body_costs_what_it_has_sent_until_64_kib_have_come() {
    let body = lines(200 * 1024);
    for (request, reserved) in
        [(post("application/x-ndjson", &body), 200 * 1024), (chunked(&body, 100_000), SETTINGS.max_body_bytes)]
    {
        let head_bytes = request.len() - if reserved == 200 * 1024 { body.len() } else { request.len() - 134 };
        let mut peer = Peer::new();
        peer.send(&request[..head_bytes + 100]);
        assert!(HTTP_BODY_BEGINNINGS_BYTES_MAX - peer.ingress.beginnings.left() <= 256);
        peer.send(&request[head_bytes + 100..HTTP_BODY_BEGINNING_BYTES]);
        assert_eq!(peer.ingress.pool.bytes_in_use(), 0);
        assert_eq!(peer.ingress.beginnings.left(), HTTP_BODY_BEGINNINGS_BYTES_MAX - HTTP_BODY_BEGINNING_BYTES);
        peer.send(&request[HTTP_BODY_BEGINNING_BYTES..HTTP_BODY_BEGINNING_BYTES + 1000]);
        assert_eq!(peer.ingress.pool.bytes_in_use(), reserved, "all that may come");
        assert_eq!(peer.ingress.beginnings.left(), HTTP_BODY_BEGINNINGS_BYTES_MAX);
        peer.send(&request[HTTP_BODY_BEGINNING_BYTES + 1000..]);
        assert_eq!(peer.statuses(), [200]);
    }
}

#[test]
fn what_closes_a_connection_gives_its_beginning_back() {
    let mut peer = Peer::new();
    let request = post(PROTOBUF, batch(&["a"]));
    peer.send(&request[..request.len() - 1]);
    assert!(peer.ingress.beginnings.left() < HTTP_BODY_BEGINNINGS_BYTES_MAX);
    drop(peer.connection);
    assert_eq!(peer.ingress.beginnings.left(), HTTP_BODY_BEGINNINGS_BYTES_MAX);
}

#[test]
fn without_a_budget_for_beginnings_bodies_that_come_whole_are_taken_and_others_refused() {
    let request = post(PROTOBUF, batch(&["a"]));
    let mut peer = Peer::new();
    peer.ingress.beginnings = Beginnings::new(0);
    peer.send(&request);
    assert_eq!(peer.statuses(), [200]);
    peer.send(&request[..request.len() - 1]);
    assert_eq!((peer.statuses(), peer.connection.closing()), (vec![503], true));
    assert!(peer.answer().contains("\r\nRetry-After: "));
}

/// Bytes of a large body without its end; the room for it in the pool is lacking.
fn lacking(peer: &mut Peer) -> Vec<u8> {
    let request = post("application/x-ndjson", lines(100 * 1024));
    peer.ingress.pool = Pool::new(4096, Box::new(|| {}));
    let used = peer.connection.receive(&request, peer.now, &mut peer.ingress, &mut peer.out);
    assert_eq!(peer.connection.lacks_room(), Some(Room::Pool(100 * 1024)));
    assert_eq!(peer.connection.receive(&request[used..], peer.now, &mut peer.ingress, &mut peer.out), 0);
    assert!(!peer.connection.take_room(peer.now, &mut peer.ingress, &mut peer.out));
    request[used..].to_vec()
}

#[test]
fn a_body_without_room_continues_once_there_is_some_and_gets_503_else() {
    let mut peer = Peer::new();
    let rest = lacking(&mut peer);
    large_pool(&mut peer.ingress);
    assert!(peer.connection.take_room(peer.now, &mut peer.ingress, &mut peer.out));
    peer.send(rest);
    assert_eq!(peer.statuses(), [200]);

    let mut peer = Peer::new();
    lacking(&mut peer);
    peer.connection.refuse_room(peer.now, &mut peer.ingress, &mut peer.out);
    assert_eq!((peer.statuses(), peer.connection.closing()), (vec![503], true));
}

#[test]
fn the_slowest_body_is_known_by_what_it_holds() {
    let request = post("application/x-ndjson", lines(200 * 1024));
    let rate = |peer: &Peer, room| peer.connection.slow_body(room, peer.now);
    let mut peer = Peer::new();
    peer.send(&request[..40_000]);
    peer.now += STALLED_FRAME_TIMEOUT;
    assert_eq!(rate(&peer, Room::Beginnings(1)), None, "its first 2 s, and the time of what has come, do not count");
    peer.now += Duration::from_secs(1);
    let slow = rate(&peer, Room::Beginnings(1)).expect("40 KB in 3 s");
    assert!((13_000..14_000).contains(&slow), "{slow}");
    assert_eq!(rate(&peer, Room::Pool(1)), None, "closing it frees nothing of the pool");
    peer.send(&request[40_000..100_000]);
    peer.now += Duration::from_secs(1);
    assert_eq!(rate(&peer, Room::Beginnings(1)), None);
    assert!(rate(&peer, Room::Pool(1)).is_some_and(|rate| (24_000..26_000).contains(&rate)));
    peer.connection.press_body(peer.now, &mut peer.ingress, &mut peer.out);
    assert_eq!(peer.statuses(), [408]);
}

/// A body of 100 KiB that is whole and has no room to finish.
fn waiting() -> Peer {
    let request = post("application/x-ndjson", lines(100 * 1024));
    let mut peer = Peer::new();
    peer.ingress.finishes = false;
    let used = peer.connection.receive(&request, peer.now, &mut peer.ingress, &mut peer.out);
    assert_eq!((used, peer.connection.lacks_room()), (request.len(), Some(Room::Finish)));
    peer
}

fn take_room(peer: &mut Peer) -> bool {
    peer.connection.take_room(peer.now, &mut peer.ingress, &mut peer.out)
}

/// Takes the whole pool: the buffers, and the largest number of bytes that there was room for.
fn fill(pool: &mut Pool) -> Vec<crate::batch::pool::Buffer> {
    let mut taken = Vec::new();
    for pages in [1024, 64, 8, 1] {
        while let Some(buffer) = pool.allocate(pages * 4096) {
            taken.push(buffer);
        }
    }
    taken
}

#[test]
fn an_admitted_body_waits_for_room_to_finish() {
    let mut peer = waiting();
    assert!(!take_room(&mut peer));
    let slow = peer.connection.slow_body(Room::Pool(1), peer.now + Duration::from_secs(20));
    assert_eq!(slow, None, "it is not its peer's delay");
    peer.ingress.finishes = true;
    assert!(take_room(&mut peer) || take_room(&mut peer));
    peer.turn();
    assert_eq!((peer.statuses(), peer.ingress.names().len(), peer.ingress.no_room), (vec![200], 102, 0));

    let mut peer = waiting();
    peer.later(HTTP_ACK_TIMEOUT);
    assert_eq!((peer.statuses(), peer.ingress.names().len(), peer.connection.closing()), (vec![503], 0, true));
    assert_eq!((peer.ingress.pool.bytes_in_use(), peer.ingress.no_room), (0, 1));

    let mut peer = waiting();
    peer.ingress.log_pause = Some(Pause::LogFull);
    assert!(take_room(&mut peer));
    assert_eq!((peer.statuses(), peer.ingress.names().len()), (vec![503], 0));
}

#[test]
fn after_a_second_a_whole_body_is_tried_with_what_room_there_is() {
    let mut peer = waiting();
    assert_eq!(peer.connection.retry_at(), Some(peer.now + HTTP_FINISH_RETRY));
    let taken = fill(&mut peer.ingress.pool);
    peer.now += HTTP_FINISH_RETRY;
    assert!(!take_room(&mut peer), "there is none: the body stays as it is");
    assert_eq!(peer.connection.retry_at(), Some(peer.now + HTTP_FINISH_RETRY));
    drop(taken);
    peer.now += HTTP_FINISH_RETRY;
    assert!(take_room(&mut peer));
    peer.turn();
    assert_eq!((peer.statuses(), peer.ingress.names().len()), (vec![200], 102));
}

/// Each kind of body whose memory or ring is used up half-way is there again, as it was.
#[test]
fn a_body_that_finds_no_room_half_way_is_tried_again() {
    let text = lines(200 * 1024);
    let names: Vec<String> = (0..9_000).map(|index| format!("an event with a name {index}")).collect();
    let binary = batch(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let gzip = |media_type: &str, body: &[u8]| {
        // Stored, so that it is larger than a beginning.
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        std::io::Write::write_all(&mut packed, body).unwrap();
        let fields = format!("Content-Type: {media_type}\r\nContent-Encoding: gzip\r\n");
        post_with(&fields, packed.finish().unwrap())
    };
    for (request, events) in [
        (post("application/x-ndjson", &text), 204),
        (gzip("application/x-ndjson", &text), 204),
        (post(PROTOBUF, &binary), 9_000),
        (gzip(PROTOBUF, &binary), 9_000),
    ] {
        for (free, slots) in [(0, 1000), (1, 1000), (5, 1000), (66, 1000), (80, 1000), (200, 1), (200, 3)] {
            let mut peer = Peer::new();
            peer.ingress.finishes = false;
            peer.connection.receive(&request, peer.now, &mut peer.ingress, &mut peer.out);
            assert_eq!(peer.connection.lacks_room(), Some(Room::Finish));
            let mut taken = fill(&mut peer.ingress.pool);
            let mut last = peer.ingress.pool.allocate(1);
            taken.truncate(0);
            taken.extend(std::iter::from_fn(|| {
                let room = peer.ingress.pool.allocate((free + 1) * 4096).is_some();
                room.then(|| peer.ingress.pool.allocate(4096)).flatten()
            }));
            last.take();
            peer.ingress.ring_slots = slots;
            peer.now += HTTP_FINISH_RETRY;
            let held = peer.ingress.pool.bytes_in_use();
            let finished = take_room(&mut peer);
            if !finished {
                assert_eq!(
                    (peer.ingress.pool.bytes_in_use(), peer.ingress.accepted.len()),
                    (held, 0),
                    "nothing is left over"
                );
            }
            drop(taken);
            peer.ingress.ring_slots = 1000;
            peer.now += HTTP_FINISH_RETRY;
            assert!(finished || take_room(&mut peer), "{free} {slots}");
            peer.turn();
            assert_eq!(
                (peer.statuses(), peer.ingress.names().len()),
                (vec![200], events),
                "{free} pages {slots} slots"
            );
            peer.ingress.accepted.clear();
            assert_eq!(peer.ingress.pool.bytes_in_use(), 0);
        }
    }
}

#[test]
fn where_there_is_no_room_for_the_list_of_rejected_events_the_answer_has_their_number() {
    let mut peer = Peer::new();
    peer.ingress.answers_find_room = false;
    peer.send(post("application/x-ndjson", "{\"name\":\"good\"}\n{\"name\":\"\"}\n"));
    peer.turn();
    let answers = String::from_utf8_lossy(&peer.written).into_owned();
    assert_eq!((peer.statuses(), peer.ingress.names().len()), (vec![200], 1));
    assert!(answers.contains(r#""accepted":1,"rejected":[],"rejected_total":1"#), "{answers}");
}

/// A body that came with its head can be sent again sooner than one that was admitted.
#[test]
fn a_small_body_waits_a_second_at_most() {
    let waiting = || {
        let mut peer = Peer::new();
        peer.ingress.ring_slots = 0;
        let request = post(PROTOBUF, batch(&["a"]));
        peer.connection.receive(&request, peer.now, &mut peer.ingress, &mut peer.out);
        assert_eq!(peer.connection.lacks_room(), Some(Room::Finish));
        peer
    };
    let mut peer = waiting();
    peer.ingress.ring_slots = 1000;
    assert!(take_room(&mut peer) || take_room(&mut peer));
    peer.turn();
    assert_eq!((peer.statuses(), peer.ingress.names().len()), (vec![200], 1));
    let mut peer = waiting();
    peer.later(HTTP_FINISH_RETRY);
    assert_eq!((peer.statuses(), peer.ingress.names().len(), peer.connection.closing()), (vec![503], 0, true));
    // It is tried before that, whatever others wait for.
    let mut peer = waiting();
    (peer.ingress.ring_slots, peer.ingress.finishes) = (1000, false);
    peer.later(HTTP_FINISH_RETRY);
    peer.turn();
    assert_eq!((peer.statuses(), peer.ingress.names().len(), peer.ingress.no_room), (vec![200], 1, 0));
    // Where nothing is known to be lacking, it does not wait at all.
    let mut peer = Peer::new();
    peer.ingress.finishes = false;
    peer.send(post(PROTOBUF, batch(&["a"])));
    assert_eq!((peer.statuses(), peer.ingress.asked.get()), (vec![200], 0));
}

/// The drivers of the fuzz targets and of the random tests reach every state of a body, that of a whole one that waits
/// included.
#[test]
fn every_driven_body_of_more_than_a_beginning_waits_once() {
    let mut peer = Peer::new();
    for request in [post("application/x-ndjson", lines(200 * 1024)), chunked(&lines(100 * 1024), 5000)] {
        let before = peer.ingress.asked.get();
        peer.send(&request);
        assert_eq!((peer.statuses(), peer.ingress.asked.get() - before), (vec![200], 2));
        crate::http::fuzz::requests(&request);
    }
}

/// A body that finds room once another one gave it back was not refused: `/ready` stays as it is.
#[test]
fn only_a_body_that_is_refused_counts_as_one() {
    let mut peer = Peer::new();
    let rest = lacking(&mut peer);
    assert_eq!(peer.ingress.no_room, 0, "what was tried in vain is not a refusal yet");
    large_pool(&mut peer.ingress);
    assert!(take_room(&mut peer));
    peer.send(rest);
    assert_eq!((peer.statuses(), peer.ingress.no_room), (vec![200], 0));
    let mut peer = Peer::new();
    lacking(&mut peer);
    peer.connection.refuse_room(peer.now, &mut peer.ingress, &mut peer.out);
    assert_eq!(peer.ingress.no_room, 1);
}

/// R11: what the server does not read is not slow.
#[test]
fn time_in_which_a_connection_is_not_read_counts_neither_for_its_timers_nor_for_its_rate() {
    let request = post("application/x-ndjson", lines(200 * 1024));
    let hour = Duration::from_secs(3600);
    for sent in [20, 1_000, 100_000] {
        let mut peer = Peer::new();
        peer.send(&request[..sent]);
        peer.now += Duration::from_millis(1500);
        let before = peer.connection.deadline().unwrap() - peer.now;
        peer.connection.set_paused(true, peer.now);
        peer.now += hour;
        peer.connection.set_paused(true, peer.now);
        assert_eq!(peer.connection.deadline(), None);
        peer.connection.handle_timeout(peer.now, &mut peer.ingress, &mut peer.out);
        let slow = |peer: &Peer| {
            [Room::Beginnings(1), Room::Pool(1)].map(|room| peer.connection.slow_body(room, peer.now).is_some())
        };
        assert_eq!(slow(&peer), [false; 2], "{sent}");
        peer.connection.press_body(peer.now, &mut peer.ingress, &mut peer.out);
        peer.connection.set_paused(false, peer.now);
        assert_eq!(peer.connection.deadline(), Some(peer.now + before), "{sent}: it goes on where it was");
        assert_eq!((slow(&peer), peer.statuses()), ([false; 2], vec![]), "{sent}");
        peer.now += Duration::from_secs(4);
        assert_eq!(slow(&peer), [sent == 1_000, sent == 100_000], "it is read again");
        peer.send(&request[sent..]);
        assert_eq!(peer.statuses(), [200]);
    }
    // Between two requests the announced time stands.
    let mut peer = Peer::new();
    peer.send(GET);
    let deadline = peer.connection.deadline();
    peer.connection.set_paused(true, peer.now);
    assert_eq!(peer.connection.deadline(), deadline);
    peer.now += Duration::from_secs(1);
    peer.connection.set_paused(false, peer.now);
    assert_eq!(peer.connection.deadline(), deadline);
}

#[test]
fn while_the_log_accepts_nothing_nothing_is_taken_and_pages_are_served() {
    for (pause, word) in
        [(Pause::DiskFull, "disk"), (Pause::LogFull, "wal.max_bytes"), (Pause::NoDescriptors, "file descriptors")]
    {
        let paused = |ingress: &mut FakeIngress| ingress.log_pause = Some(pause);
        let got = exchange_with([GET.as_bytes(), &post(PROTOBUF, batch(&["a"]))].concat(), paused);
        assert_eq!((got.statuses.as_slice(), got.closing), (&[200, 503][..], true));
        assert!(got.answers.contains("\r\nRetry-After: ") && got.answers.contains(word), "{}", got.answers);
        assert_eq!((got.payloads.len(), got.rejected.len()), (0, 0));
        let asks = post_with("Content-Type: application/x-protobuf\r\nExpect: 100-continue\r\n", batch(&["a"]));
        assert!(!exchange_with(asks, paused).answers.contains("100"));
        // Who may not send is not told how the server is doing.
        let needs_token =
            |ingress: &mut FakeIngress| (ingress.token, ingress.log_pause) = (Some(&b"secret"[..]), Some(pause));
        assert_eq!(exchange_with(post(PROTOBUF, batch(&["a"])), needs_token).statuses, [401]);
    }
}

#[test]
fn a_body_that_ends_while_the_log_accepts_nothing_is_refused_and_one_that_waits_is_not() {
    let request = post(PROTOBUF, batch(&["a"]));
    let mut peer = Peer::new();
    peer.send(&request[..request.len() - 1]);
    peer.ingress.log_pause = Some(Pause::DiskFull);
    peer.send(&request[request.len() - 1..]);
    assert_eq!((peer.statuses(), peer.ingress.names().len(), peer.connection.closing()), (vec![503], 0, true));

    let mut peer = Peer { acknowledge: false, ..Peer::new() };
    peer.send(&request);
    peer.ingress.log_pause = Some(Pause::DiskFull);
    peer.acknowledge = true;
    peer.turn();
    assert_eq!((peer.statuses(), peer.ingress.names()), (vec![200], vec!["a".to_owned()]));
}
