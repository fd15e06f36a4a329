//! Against a real service in Python: tools/python/telemetryx_receiver.py with the example's table.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Instant;

use prost::Message;

use super::settings::GrpcSection;
use super::*;
use crate::batch::{Batch, Payload, Run};
use crate::event::proto::{DeliverRequest, Event, EventBatch, Verdict};
use crate::settings::{Problem, Secret, Url};
use crate::sink::stores::{HttpService, Receiver};
use crate::sink::testing::{
    self, RECEIVED_UNIX_NANO, Row, SERVER_ID, Store, batch, batch_of, delivery, delivery_of, down, http_origin,
    identity, named, origin, part, retry, retry_after, run, without,
};

impl GrpcSection {
    fn valid(&self) -> GrpcSettings {
        self.clone().validate().unwrap()
    }
}

fn settings(url: &str) -> GrpcSection {
    GrpcSection {
        url: Url::new(url),
        ca_file: None,
        token: Secret::new(""),
        deadline: Duration::from_secs(20),
        in_flight: 4,
    }
}

fn grpc(settings: &GrpcSection) -> Grpc {
    Grpc::new("main", &settings.valid(), &identity(1))
}

fn connected(settings: &GrpcSection) -> Grpc {
    let mut sink = grpc(settings);
    assert_eq!(sink.connect(), Ok(None));
    sink
}

/// A receiver and what it has stored.
struct Python(Receiver);

impl Python {
    fn start() -> Self {
        Self(Receiver::start(&[]))
    }

    fn settings(&self) -> GrpcSection {
        settings(&self.0.url())
    }

    fn connected(&self) -> Grpc {
        connected(&self.settings())
    }
}

impl Store for Python {
    const EXACTLY_ONCE: bool = true;
    const KEEPS_POSITIONS: bool = false;
    const NAN_IS_UNSET: bool = true;

    fn sink(&self, owner: u8) -> Box<dyn Sink> {
        Box::new(Grpc::new("main", &self.settings().valid(), &identity(owner)))
    }

    fn stored(&self) -> Option<Vec<Row>> {
        Some(testing::rows_of_sqlite(&rusqlite::Connection::open(self.0.database()).unwrap()))
    }

    fn address(&self) -> Option<SocketAddr> {
        Some(([127, 0, 0, 1], self.0.port()).into())
    }

    fn sink_through(&self, address: SocketAddr, owner: u8) -> Box<dyn Sink> {
        // A connection that is cut without a word is noticed by the deadline.
        let settings = GrpcSection { deadline: Duration::from_secs(2), ..settings(&format!("http://{address}")) };
        Box::new(Grpc::new("main", &settings.valid(), &identity(owner)))
    }
}

#[test]
fn passes_the_conformance_suite() {
    testing::conformance(Python::start);
}

// ---- requests ----

/// What the parts say, as prost reads them.
fn requests(delivery: &Delivery, except: &[u64], taken: &[RangeInclusive<u64>]) -> Vec<DeliverRequest> {
    let head = Arc::new(Head { server_id: SERVER_ID, sink: "main".into() });
    let parts = encode::parts(&head, &without(delivery, except), taken);
    parts.iter().map(decoded).collect()
}

fn decoded(part: &Part) -> DeliverRequest {
    let mut bytes = Vec::new();
    part.encode(&mut bytes);
    let request = DeliverRequest::decode(&bytes[..]).unwrap();
    // prost would have written the same bytes.
    assert_eq!(request.encode_to_vec(), bytes);
    assert!(bytes.len() <= limits::GRPC_REQUEST_BYTES_MAX, "{} bytes", bytes.len());
    assert_eq!(request.positions.len(), part.events());
    assert_eq!(part.position_of_each().collect::<Vec<_>>(), request.positions);
    assert_eq!(part.positions(), request.positions[0]..=*request.positions.last().unwrap());
    request
}

#[test]
fn a_request_is_what_prost_writes_of_the_same_events() {
    let events = |names: &[&str]| names.iter().map(|name| named(*name)).collect::<Vec<_>>();
    let first = Batch::new(
        7,
        vec![
            run(events(&["a", "b"]), origin()),
            run(Vec::new(), origin()),
            run(vec![Event { value: Some(-0.0), body: "zwölf\0".into(), ..named("c") }], http_origin()),
            run(events(&["d", "e"]), http_origin()),
        ],
    );
    let second = Batch::new(12, vec![run(events(&["f", "g"]), origin())]);
    let delivery = Delivery::new(vec![Arc::new(first), Arc::new(second)], 8..=13);
    let [request] = requests(&delivery, &[7, 10], &[]).try_into().unwrap();
    let run = |events, agent: &str, default_source: &str| crate::event::proto::Run {
        events,
        agent: agent.into(),
        default_source: default_source.into(),
        received_unix_nano: RECEIVED_UNIX_NANO,
    };
    let c = Event { value: Some(-0.0), body: "zwölf\0".into(), ..named("c") };
    let expected = DeliverRequest {
        server_id: SERVER_ID.to_vec(),
        sink: "main".into(),
        batch: Some(EventBatch { events: vec![named("b"), c, named("e"), named("f"), named("g")] }),
        positions: vec![8, 9, 11, 12, 13],
        runs: vec![run(1, "api", "api"), run(1, "", "192.0.2.1"), run(1, "", "192.0.2.1"), run(2, "api", "api")],
    };
    assert_eq!(request, expected);
}

#[test]
fn deliveries_are_cut_by_events_and_by_bytes() {
    let parts = requests(&delivery(1..=25_000), &[], &[]);
    assert_eq!(parts.iter().map(|part| part.positions.len()).collect::<Vec<_>>(), [10_000, 10_000, 5_000]);
    // Events of every size, the largest among them.
    let event = |position: u64| {
        let body = "x".repeat((position as usize * 4_096) % (limits::EVENT_BODY_BYTES_MAX + 1));
        Event { body, ..named(format!("e{position}")) }
    };
    let large = delivery_of(batch_of(1, vec![(1..=100).map(event).collect()]));
    let parts = requests(&large, &[5], &[]);
    assert!((3..=6).contains(&parts.len()), "{}", parts.len());
    let positions: Vec<u64> = parts.iter().flat_map(|part| part.positions.clone()).collect();
    assert_eq!(positions, (1..=100).filter(|position| *position != 5).collect::<Vec<_>>());
    // The longest names of agents count, too.
    let agent = crate::batch::Origin {
        agent: Some("a".repeat(limits::HELLO_BYTES_MAX)),
        default_source: "s".repeat(limits::HELLO_BYTES_MAX),
        ..origin()
    };
    let runs = (0..2_000).map(|_| run(vec![named("e")], agent.clone())).collect();
    let parts = requests(&delivery_of(Arc::new(Batch::new(1, runs))), &[], &[]);
    assert_eq!(parts.iter().map(|part| part.positions.len()).sum::<usize>(), 2_000);
}

#[test]
fn what_an_agent_sent_between_events_makes_no_request_too_large() {
    // Fields that are not of the schema: field 2 of EventBatch, on both sides of each event.
    let unknown = |bytes: usize| {
        let mut field = vec![0x12];
        prost::encoding::encode_varint(bytes as u64, &mut field);
        field.resize(field.len() + bytes, 7);
        field
    };
    for bytes in [100, limits::GRPC_REQUEST_BYTES_MAX / 2, 2 * limits::GRPC_REQUEST_BYTES_MAX] {
        for events in 1..=3_u32 {
            let mut payload = unknown(bytes);
            for event in 1..=events {
                payload.extend(EventBatch { events: vec![named(format!("e{event}"))] }.encode_to_vec());
                payload.extend(unknown(bytes));
            }
            let run = Run { payload: Payload::Read(payload.into()), events, ..run(Vec::new(), origin()) };
            let head = Arc::new(Head { server_id: SERVER_ID, sink: "main".into() });
            let parts = encode::parts(&head, &delivery_of(Arc::new(Batch::new(1, vec![run]))), &[]);
            let mut names = Vec::new();
            for part in &parts {
                let mut request = Vec::new();
                part.encode(&mut request);
                assert!(request.len() <= limits::GRPC_REQUEST_BYTES_MAX, "{} bytes", request.len());
                let request = DeliverRequest::decode(&request[..]).unwrap();
                assert_eq!(request.positions.len(), part.events());
                names.extend(request.batch.unwrap().events.into_iter().map(|event| event.name));
            }
            assert_eq!(names, (1..=events).map(|event| format!("e{event}")).collect::<Vec<_>>());
        }
    }
}

#[test]
fn what_was_taken_before_is_left_out() {
    let parts = requests(&delivery(1..=10), &[2], &[1..=3, 6..=7]);
    assert_eq!(parts.iter().map(|part| part.positions.clone()).collect::<Vec<_>>(), [vec![4, 5], vec![8, 9, 10]]);
    assert!(requests(&delivery(1..=3), &[2], &[1..=1, 3..=3]).is_empty());
}

proptest::proptest! {
    #[test]
    fn every_event_that_is_left_is_in_exactly_one_request(
        runs in proptest::collection::vec(proptest::collection::vec(0_usize..60_000, 0..20), 1..8),
        cut in (0_u64..5, 0_u64..5),
        except in proptest::collection::btree_set(0_u64..100, 0..20),
        taken in proptest::collection::vec((0_u64..100, 0_u64..20), 0..4),
    ) {
        let event = |bytes| Event { body: "x".repeat(bytes), ..named("e") };
        let runs: Vec<Vec<Event>> = runs.into_iter().map(|run| run.into_iter().map(event).collect()).collect();
        let batch = batch_of(50, runs);
        let (first, last) = (batch.first_position() + cut.0, batch.end_position().saturating_sub(1 + cut.1));
        proptest::prop_assume!(first <= last);
        let delivery = Delivery::new(vec![batch], first..=last);
        let except: Vec<u64> = except.into_iter().map(|offset| 50 + offset).collect();
        let taken: Vec<_> = taken.into_iter().map(|(offset, len)| 50 + offset..=50 + offset + len).collect();
        let left: Vec<_> = delivery
            .records()
            .filter(|record| !except.contains(&record.position))
            .filter(|record| !taken.iter().any(|range| range.contains(&record.position)))
            .map(|record| (record.position, record.event.body().len()))
            .collect();
        let sent: Vec<_> = requests(&delivery, &except, &taken)
            .into_iter()
            .flat_map(|part| {
                assert_eq!(part.runs.iter().map(|run| run.events as usize).sum::<usize>(), part.positions.len());
                part.positions.into_iter().zip(part.batch.unwrap().events).map(|(at, event)| (at, event.body.len()))
            })
            .collect();
        proptest::prop_assert_eq!(sent, left);
    }
}

// ---- answers ----

fn refused(positions: &[u64], response: DeliverResponse) -> Result<Vec<Refusal>, Failure> {
    refusals("here", response, positions.len(), positions.iter().copied(), str::to_owned)
}

fn verdict(index: u32) -> Verdict {
    Verdict { index, code: format!("C{index}"), reason: "why".into() }
}

#[test]
fn verdicts_name_events_by_their_index_in_the_request() {
    let verdicts = vec![verdict(3), verdict(0)];
    let refusals = refused(&[4, 9, 10, 12], DeliverResponse { verdicts, retry_after_ms: 0 }).unwrap();
    let refusal = |position, code: &str| Refusal { position, code: code.to_owned(), reason: "why".to_owned() };
    assert_eq!(refusals, [refusal(4, "C0"), refusal(12, "C3")]);
}

#[test]
fn words_of_a_verdict_are_bounded() {
    let long = Verdict { index: 0, code: "é".repeat(1_000), reason: "é".repeat(10_000) };
    let nothing = Verdict { index: 1, ..Verdict::default() };
    let refusals = refused(&[1, 2], DeliverResponse { verdicts: vec![long, nothing], retry_after_ms: 0 }).unwrap();
    assert_eq!(refusals[0].code.len(), limits::GRPC_CODE_BYTES_MAX);
    assert_eq!(refusals[0].reason.len(), limits::REFUSAL_REASON_BYTES_MAX);
    assert_eq!(refusals[1].code, "REFUSED");
}

#[test]
fn verdicts_on_no_event_or_twice_on_one_are_a_broken_receiver() {
    for (indices, words) in [
        (vec![2], "names event 2, the request has 2"),
        (vec![u32::MAX, 0], "names event 4294967295, the request has 2"),
        (vec![1, 0, 1], "two verdicts"),
    ] {
        let verdicts = indices.into_iter().map(verdict).collect();
        let reason = down(refused(&[4, 9], DeliverResponse { verdicts, retry_after_ms: 0 }));
        assert!(reason.contains("the receiver is broken") && reason.contains(words), "{reason}");
    }
}

#[test]
fn a_time_to_come_back_after_is_kept_and_capped() {
    let after = |retry_after_ms| {
        let verdicts = vec![verdict(0)];
        retry_after(refused(&[1], DeliverResponse { verdicts, retry_after_ms })).1
    };
    assert_eq!(after(1_500), Some(Duration::from_millis(1_500)));
    assert_eq!(after(u32::MAX), Some(limits::RETRY_AFTER_MAX));
}

#[test]
fn an_event_that_is_refused_goes_nowhere_and_all_others_arrive() {
    let store = Python::start();
    store.0.control(r#"{"refuse": {"e6789": ["BAD_NAME", "no such events here"]}}"#);
    let mut sink = store.connected();
    let refusal = Refusal { position: 6_789, code: "BAD_NAME".into(), reason: "no such events here".into() };
    assert_eq!(sink.deliver(&delivery(1..=10_000)), Err(Failure::Refused(vec![refusal])));
    assert_eq!(sink.deliver(&without(&delivery(1..=10_000), &[6_789])), Ok(()));
    assert_eq!(store.positions(), (1..=10_000).filter(|position| *position != 6_789).collect::<Vec<_>>());
    assert_eq!(store.0.calls(), [10_000], "what was taken is not sent again");
}

#[test]
fn parts_that_were_taken_are_not_sent_again_after_another_one_failed() {
    let store = Python::start();
    let mut sink = connected(&GrpcSection { in_flight: 1, ..store.settings() });
    store.0.control(r#"{"after": 1, "status": ["UNAVAILABLE", "full"]}"#);
    let reason = retry(sink.deliver(&delivery(1..=35_000)));
    assert!(reason.contains("UNAVAILABLE: full"), "{reason}");
    assert_eq!(store.0.calls(), [10_000, 10_000], "none is begun after a failure");
    store.0.control("{}");
    sink.connect().unwrap();
    assert_eq!(sink.deliver(&delivery(1..=35_000)), Ok(()));
    assert_eq!(store.0.calls()[2..], [10_000, 10_000, 5_000]);
    assert_eq!(store.positions(), (1..=35_000).collect::<Vec<_>>());
    // The next delivery begins anew.
    assert_eq!(sink.deliver(&delivery(1..=35_000)), Ok(()));
    assert_eq!(store.0.calls()[5..].iter().sum::<usize>(), 35_000);
}

#[test]
fn bisection_sends_nothing_twice() {
    let store = Python::start();
    let mut sink = connected(&GrpcSection { in_flight: 1, ..store.settings() });
    store.0.control(r#"{"dislike": "bad"}"#);
    let events = (1..=30_000).map(|at| named(if at == 9_000 { "bad" } else { "e" })).collect();
    let whole = delivery_of(batch_of(1, vec![events]));
    // As the router halves it; the second part was on its way when the first one failed.
    let mut sink_of_two = connected(&GrpcSection { in_flight: 2, ..store.settings() });
    for sink in [&mut sink_of_two, &mut sink] {
        assert!(matches!(sink.deliver(&whole), Err(Failure::BatchRefused { .. })));
    }
    assert!(sink_of_two.taken.contains(&(10_001..=20_000)));
    assert!(matches!(sink_of_two.deliver(&part(&whole, 1..=15_000)), Err(Failure::BatchRefused { .. })));
    assert_eq!(sink_of_two.deliver(&part(&whole, 1..=8_000)), Ok(()));
    assert_eq!(sink_of_two.deliver(&without(&part(&whole, 8_001..=15_000), &[9_000])), Ok(()));
    assert_eq!(sink_of_two.deliver(&part(&whole, 15_001..=30_000)), Ok(()));
    // The first part three times in vain, then each once.
    assert_eq!(store.0.calls().iter().sum::<usize>(), 3 * 10_000 + 29_999);
    assert_eq!(store.positions().len(), 29_999);
}

#[test]
fn a_refusal_beside_a_failure_is_told_first() {
    let store = Python::start();
    let mut sink = connected(&GrpcSection { in_flight: 1, ..store.settings() });
    store.0.control(r#"{"after": 1, "status": ["UNAVAILABLE", "full"]}"#);
    let events = (1..=20_000).map(|at| named(if at == 5 { "forbidden" } else { "e" })).collect();
    let delivery = delivery_of(batch_of(1, vec![events]));
    match sink.deliver(&delivery) {
        Err(Failure::Refused(refusals)) => assert_eq!((refusals.len(), refusals[0].position), (1, 5)),
        other => panic!("{other:?}"),
    }
    assert!(retry(sink.deliver(&without(&delivery, &[5]))).contains("full"));
    store.0.control("{}");
    sink.connect().unwrap();
    assert_eq!(sink.deliver(&without(&delivery, &[5])), Ok(()));
    assert_eq!(store.0.calls(), [10_000, 10_000, 10_000, 10_000]);
    assert_eq!(store.positions().len(), 19_999);
}

// ---- receivers in trouble ----

#[test]
fn each_status_has_its_consequence() {
    let store = Python::start();
    let mut sink = store.connected();
    let mut ask = |status: &str| {
        store.0.control(&format!(r#"{{"status": ["{status}", "some words"]}}"#));
        sink.connect().unwrap();
        sink.deliver(&delivery(1..=2))
    };
    for status in
        ["UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED", "INTERNAL", "UNKNOWN"]
    {
        let reason = retry(ask(status));
        assert!(reason.contains(&format!("{status}: some words")), "{reason}");
    }
    for (status, advice) in [
        ("UNAUTHENTICATED", "see token"),
        ("PERMISSION_DENIED", "token"),
        ("UNIMPLEMENTED", "see url"),
        ("NOT_FOUND", "see url"),
        ("FAILED_PRECONDITION", "see its log"),
        ("DATA_LOSS", "see its log"),
    ] {
        let reason = down(ask(status));
        assert!(reason.contains(&format!("{status}: some words: ")) && reason.contains(advice), "{reason}");
    }
    for status in ["INVALID_ARGUMENT", "OUT_OF_RANGE"] {
        match ask(status) {
            Err(Failure::BatchRefused { code, reason }) => {
                assert_eq!(code, status);
                assert!(reason.contains("some words"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(store.positions().is_empty());
}

#[test]
fn an_answer_that_is_none_is_a_broken_receiver() {
    let store = Python::start();
    let mut sink = store.connected();
    let huge = "00".repeat(limits::GRPC_ANSWER_BYTES_MAX + 1);
    for (answer, words) in
        [("ff", "not a DeliverResponse"), ("0a020807", "names event 7, the request has 2"), (&huge, "above 4 MiB")]
    {
        store.0.control(&format!(r#"{{"answer": "{answer}"}}"#));
        sink.connect().unwrap();
        let reason = down(sink.deliver(&delivery(1..=2)));
        assert!(reason.contains(words), "{reason}");
    }
}

#[test]
fn a_receiver_that_asks_for_time_is_tried_again() {
    let store = Python::start();
    store.0.control(r#"{"retry_after": 0.25}"#);
    let (_, after) = retry_after(store.connected().deliver(&delivery(1..=2)));
    assert_eq!(after, Some(Duration::from_millis(250)));
    assert!(store.positions().is_empty());
}

#[test]
fn a_receiver_that_is_not_there_is_tried_again() {
    let reason = retry(grpc(&settings("http://127.0.0.1:1")).connect());
    assert!(reason.contains("grpc http://127.0.0.1:1") && reason.contains("refused"), "{reason}");
}

#[test]
fn a_stopped_receiver_is_noticed_by_the_deadline_and_found_again() {
    let store = Python::start();
    let mut sink = store.connected();
    assert_eq!(sink.deliver(&delivery(1..=10)), Ok(()));
    Arc::make_mut(&mut sink.settings).deadline = Duration::from_millis(300);
    let mut deliver = |first: u64| {
        sink.connect()?;
        sink.deliver(&delivery(first..=first + 9))
    };
    for (begin, end) in [("STOP", "CONT"), (r#"{"hang": true}"#, "{}")] {
        let signal = begin == "STOP";
        let say = |what: &str| if signal { store.0.signal(what) } else { store.0.control(what) };
        say(begin);
        let begun = Instant::now();
        assert!(retry(deliver(11)).contains("no answer within 300 ms"));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        say(end);
        let deadline = Instant::now() + Duration::from_secs(30);
        while deliver(11) != Ok(()) {
            assert!(Instant::now() < deadline);
        }
    }
    assert_eq!(store.positions(), (1..=20).collect::<Vec<_>>());
}

/// Listens and does so with each connection.
fn peer(talk: impl Fn(std::net::TcpStream) + Send + 'static) -> GrpcSection {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().flatten().for_each(talk));
    GrpcSection { deadline: Duration::from_millis(300), ..settings(&format!("http://{address}")) }
}

#[test]
fn peers_that_speak_no_grpc_end_by_the_deadline() {
    let silent = peer(std::mem::forget);
    let closing = peer(drop);
    let http1 = peer(|mut connection| {
        let _ = connection.read(&mut [0; 1024]);
        let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
    });
    let garbage = peer(|mut connection| {
        let mut byte = 0_u8;
        while connection.write_all(&[byte; 64]).is_ok() {
            byte = byte.wrapping_add(37);
        }
    });
    let half = peer(|mut connection| {
        let _ = connection.write_all(b"\0\0\0");
        std::mem::forget(connection);
    });
    for settings in [silent, half, closing, http1, garbage] {
        let begun = Instant::now();
        println!("{}", grpc(&settings).connect().unwrap_err());
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

#[test]
fn a_crash_of_a_receiver_loses_and_doubles_nothing() {
    let mut store = Python::start();
    let mut sink = store.connected();
    for first in [1, 1_001] {
        assert_eq!(sink.deliver(&delivery(first..=first + 999)), Ok(()));
        store.0.kill();
        let next = delivery(first + 500..=first + 1_499);
        retry(sink.deliver(&next));
        retry(sink.connect());
        store.0.go_on();
        sink.connect().unwrap();
        assert_eq!(sink.deliver(&next), Ok(()));
    }
    assert_eq!(store.positions(), (1..=2_500).collect::<Vec<_>>());
}

#[test]
fn many_requests_at_a_time_are_each_stored_once() {
    let store = Python::start();
    let mut sink = connected(&GrpcSection { in_flight: 3, ..store.settings() });
    let event = |position: u64| Event { body: "x".repeat(40_000), ..named(format!("e{position}")) };
    let batches: Vec<_> = (0..10).map(|at| batch_of(at * 20 + 1, vec![(1..=20).map(event).collect()])).collect();
    assert_eq!(sink.deliver(&without(&Delivery::new(batches, 3..=198), &[100])), Ok(()));
    let calls = store.0.calls();
    assert!(calls.len() >= 7 && calls.iter().sum::<usize>() == 195, "{calls:?}");
    assert_eq!(store.positions(), (3..=198).filter(|position| *position != 100).collect::<Vec<_>>());
}

// ---- tokens and TLS ----

#[test]
fn a_token_is_shown_to_the_receiver_and_to_nobody_else() {
    let receiver = Receiver::start(&["--token", "right-one"]);
    let deliver = |token: &str| {
        let settings = GrpcSection { token: Secret::new(token), ..settings(&receiver.url()) };
        assert!(!format!("{settings:?} {:?}", settings.valid()).contains("right"));
        connected(&settings).deliver(&delivery(1..=1))
    };
    let reason = down(deliver(""));
    assert!(reason.contains("UNAUTHENTICATED: no token was sent") && reason.contains("token_file"), "{reason}");
    assert!(down(deliver("wrong")).contains("unknown token"));
    assert_eq!(deliver(" right-one\n"), Ok(()));
}

#[test]
fn what_a_receiver_repeats_of_the_metadata_shows_no_token() {
    // Longer than a code or a reason may be: what is cut would not be found afterwards.
    let token = format!("hunter{}/%zebra", "0".repeat(2_000));
    let receiver = Receiver::start(&["--token", &token]);
    let settings = GrpcSection { token: Secret::new(&token), ..settings(&receiver.url()) };
    for echo in ["VERDICT", "UNAUTHENTICATED", "INVALID_ARGUMENT", "UNAVAILABLE"] {
        receiver.control(&format!(r#"{{"echo": "{echo}"}}"#));
        let failure = connected(&settings).deliver(&delivery(1..=1)).unwrap_err();
        let text = format!("{failure:?}");
        assert!(text.contains("Bearer ***") && !text.contains("hunter") && !text.contains("000000"), "{text}");
    }
}

#[test]
fn tls_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("crt"), certificate.cert.pem()).unwrap();
    std::fs::write(path("key"), certificate.signing_key.serialize_pem()).unwrap();
    let receiver = Receiver::start(&["--token", "secret", "--tls", &path("key"), &path("crt")]);
    let deliver = |host: &str, ca_file: Option<String>| {
        let url = format!("https://{host}:{}", receiver.port());
        let settings = GrpcSection { ca_file: ca_file.map(Into::into), token: Secret::new("secret"), ..settings(&url) };
        let mut sink = grpc(&settings);
        sink.connect()?;
        sink.deliver(&delivery(1..=1_000))
    };
    assert_eq!(deliver("localhost", Some(path("crt"))), Ok(()));
    let reason = down(deliver("127.0.0.1", Some(path("crt"))));
    assert!(reason.contains("check the receiver's certificate"), "{reason}");
    let reason = down(deliver("localhost", None));
    assert!(reason.contains("UnknownIssuer"), "{reason}");
    assert!(down(deliver("localhost", Some("/nonexistent".into()))).contains("ca_file /nonexistent"));
    // TLS where none is spoken, and the other way round.
    let plain = Receiver::start(&[]);
    let reason = down(grpc(&settings(&format!("https://127.0.0.1:{}", plain.port()))).connect());
    assert!(reason.contains("the receiver does not speak TLS: name it with http://"), "{reason}");
    let reason = grpc(&settings(&receiver.url())).connect().unwrap_err().to_string();
    assert!(reason.contains("https:// in url"), "{reason}");
}

#[test]
fn what_does_not_speak_http_2_is_named() {
    let service = HttpService::shared();
    let http_1 = settings(&format!("http://localhost:{}", service.port()));
    let mut sink = grpc(&http_1);
    for result in [sink.connect().map(drop), sink.probe()] {
        let reason = down(result);
        assert!(reason.contains("HTTP/2") && reason.contains("check host and port in url"), "{reason}");
    }
    // Peers that answer with these bytes, and then close.
    for (answer, is_down, advice) in [
        (&b"SSH-2.0-x\r\n"[..], true, "does not speak HTTP/2"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", true, "an HTTP/1.1 service answers"),
        (b"\x15\x03\x01\x00\x02\x02\x0a", true, "name it with https:// in url"),
        (b"\0\0\x05\x04\0\0\0\0\0", true, "does not speak HTTP/2"),
        (b"", false, "closed the connection"),
        (b"\0\0", false, "closed the connection"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 33]).unwrap();
            stream.write_all(answer).unwrap();
        });
        let unavailable = grpc(&settings(&url)).connect().unwrap_err();
        peer.join().unwrap();
        let reason = unavailable.to_string();
        assert!(reason.contains(advice) && reason.contains(&url), "{reason}");
        assert_eq!(matches!(unavailable, Unavailable::Down { .. }), is_down, "{reason}");
    }
    let reason = retry(grpc(&settings("http://127.0.0.1:1")).probe());
    assert!(reason.contains("nothing listens there"), "{reason}");
}

#[test]
fn wrong_settings_are_named() {
    let with = |change: fn(&mut GrpcSection)| {
        let mut settings = settings("http://h:1");
        change(&mut settings);
        settings.validate()
    };
    assert!(with(|_| {}).is_ok());
    let wrong: BTreeMap<&str, fn(&mut GrpcSection)> = BTreeMap::from([
        ("expected http://host:port", (|settings| settings.url = Url::new("h:1")) as fn(&mut GrpcSection)),
        ("or https://host:port", |settings| settings.url = Url::new("grpc://h:1")),
        ("has a path", |settings| settings.url = Url::new("http://h:1/x")),
        ("give the receiver a token", |settings| settings.url = Url::new("http://u:secret@h:1")),
        ("is for https:// only", |settings| settings.ca_file = Some("x".into())),
        ("visible ASCII", |settings| settings.token = Secret::new("a\nb")),
    ]);
    for (words, change) in wrong {
        let Problem { why, .. } = with(change).unwrap_err();
        assert!(why.contains(words) && !why.contains("secret"), "{why}");
    }
    assert_eq!(settings("https://h").valid().place(), "grpc https://h");
}

#[test]
fn a_delivery_of_which_nothing_is_left_needs_no_call() {
    let store = Python::start();
    let mut sink = store.connected();
    assert_eq!(sink.deliver(&without(&delivery_of(batch(1..=2)), &[1, 2])), Ok(()));
    assert!(store.0.calls().is_empty());
}
