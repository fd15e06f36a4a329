//! Against a real service in a process of its own. What it has kept is what counts.

use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use prost::Message;

use super::settings::HttpSection;
use super::*;
use crate::event::proto::{Event, EventBatch};
use crate::random::Random;
use crate::settings::{Problem, Secret, Url};
use crate::sink::stores::HttpService;
use crate::sink::testing::{
    self, Row, SERVER_ID, Store, batch, batch_of, delivery, delivery_of, down, every_field, identity, retry,
    retry_after, without,
};

impl HttpSection {
    fn valid(&self) -> HttpSettings {
        self.clone().validate().unwrap()
    }
}

fn settings(url: &str) -> HttpSection {
    HttpSection {
        url: Url::new(url),
        format: Format::Json,
        gzip: false,
        headers: Default::default(),
        token: Secret::new(""),
        ca_file: None,
        timeout: Duration::from_secs(20),
    }
}

fn connected(settings: &HttpSection) -> Http {
    let mut sink = Http::new(&settings.valid(), &identity(1));
    assert_eq!(sink.connect(), Ok(None));
    sink
}

/// A name on the shared service, and how to send to it.
struct Service {
    receiver: &'static HttpService,
    name: String,
    format: Format,
    gzip: bool,
}

impl Service {
    fn new(format: Format, gzip: bool) -> Self {
        let receiver = HttpService::shared();
        Self { receiver, name: receiver.name(), format, gzip }
    }

    fn json() -> Self {
        Self::new(Format::Json, false)
    }

    fn settings(&self) -> HttpSection {
        HttpSection { format: self.format, gzip: self.gzip, ..settings(&self.receiver.url(&self.name)) }
    }

    fn connected(&self) -> Http {
        connected(&self.settings())
    }

    /// Delivers one event, which the service answers so.
    fn answered(&self, answer: &str) -> Result<(), Failure> {
        self.receiver.tell(&self.name, "answer", answer.as_bytes());
        self.connected().deliver(&delivery(1..=1))
    }

    fn requests(&self) -> Vec<crate::sink::stores::Request> {
        self.receiver.requests(&self.name)
    }

    /// Bodies without their compression, each with the positions that the header gives to its events.
    fn bodies(&self) -> Vec<(Vec<u64>, Vec<u8>)> {
        let bodies = self.requests().into_iter().map(|request| {
            assert_eq!(request.header("content-type"), self.format.media_type());
            assert_eq!(request.header("content-encoding"), if self.gzip { "gzip" } else { "" });
            assert_eq!(request.header("telemetryx-server-id"), uuid(&SERVER_ID));
            let ranges = request.header("telemetryx-positions").split(',');
            let positions = ranges.flat_map(|range| {
                let (first, last) = range.split_once('-').unwrap();
                first.parse().unwrap()..=last.parse().unwrap()
            });
            let mut body = request.body.clone();
            if self.gzip {
                body.clear();
                GzDecoder::new(&request.body[..]).read_to_end(&mut body).unwrap();
            }
            (positions.collect(), body)
        });
        bodies.collect()
    }
}

impl Store for Service {
    const EXACTLY_ONCE: bool = false;
    const KEEPS_POSITIONS: bool = false;

    fn sink(&self, owner: u8) -> Box<dyn Sink> {
        Box::new(Http::new(&self.settings().valid(), &identity(owner)))
    }

    fn stored(&self) -> Option<Vec<Row>> {
        let rows = self.bodies().into_iter().flat_map(|(positions, body)| {
            let rows: Vec<Row> = match self.format {
                Format::Json => serde_json::from_slice(&body).unwrap(),
                Format::Ndjson => {
                    assert!(body.ends_with(b"\n"));
                    let text = std::str::from_utf8(&body).unwrap();
                    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
                }
                Format::Protobuf => return Vec::new(),
            };
            let in_body: Vec<u64> = rows.iter().map(|row| row["position"].as_u64().unwrap()).collect();
            assert_eq!(in_body, positions);
            rows
        });
        let rows = rows.collect();
        // Not all that a row has is in an EventBatch.
        (self.format != Format::Protobuf).then_some(rows)
    }

    fn rows(&self) -> Option<Vec<(u64, String)>> {
        if let Some(rows) = self.stored() {
            let name = |row: &Row| row.get("name").and_then(|name| name.as_str()).unwrap_or_default().to_owned();
            return Some(rows.iter().map(|row| (row["position"].as_u64().unwrap(), name(row))).collect());
        }
        let rows = self.bodies().into_iter().flat_map(|(positions, body)| {
            let events = EventBatch::decode(&body[..]).unwrap().events;
            assert_eq!(events.len(), positions.len());
            positions.into_iter().zip(events.into_iter().map(|event| event.name))
        });
        Some(rows.collect())
    }

    fn address(&self) -> Option<SocketAddr> {
        Some(([127, 0, 0, 1], self.receiver.port()).into())
    }

    fn sink_through(&self, address: SocketAddr, owner: u8) -> Box<dyn Sink> {
        let url = Url::new(format!("http://{address}/{}/events", self.name));
        Box::new(Http::new(&HttpSection { url, ..self.settings() }.valid(), &identity(owner)))
    }
}

#[test]
fn passes_the_conformance_suite_as_json() {
    testing::conformance(Service::json);
}

#[test]
fn passes_the_conformance_suite_as_ndjson_with_gzip() {
    testing::conformance(|| Service::new(Format::Ndjson, true));
}

#[test]
fn passes_the_conformance_suite_as_protobuf() {
    testing::conformance(|| Service::new(Format::Protobuf, false));
}

// ---- what is sent ----

#[test]
fn a_request_says_what_it_is_and_connections_are_used_again() {
    let service = Service::json();
    let mut sink = service.connected();
    for position in 1..=5 {
        sink.deliver(&delivery(position..=position)).unwrap();
    }
    let requests = service.requests();
    assert_eq!(requests.len(), 5);
    assert!(requests.iter().all(|request| request.client_port == requests[0].client_port), "one connection");
    let request = &requests[4];
    assert_eq!(request.path, format!("/{}/events", service.name));
    let mut headers: Vec<_> = request.headers.iter().map(|(name, value)| (&**name, value.as_str().unwrap())).collect();
    headers.sort_unstable();
    let (host, length) = (format!("localhost:{}", service.receiver.port()), request.body.len().to_string());
    assert_eq!(
        headers,
        [
            ("content-length", &*length),
            ("content-type", "application/json"),
            ("host", &host),
            ("telemetryx-positions", "5-5"),
            ("telemetryx-server-id", "5e5e5e5e-5e5e-5e5e-5e5e-5e5e5e5e5e5e"),
            ("user-agent", USER_AGENT),
        ]
    );
}

#[test]
fn headers_and_token_are_sent() {
    let service = Service::json();
    let headers = [("X-Api-Key".to_owned(), Secret::new("k e y")), ("x.y".to_owned(), Secret::new("é"))].into();
    let with_token = HttpSection { headers, token: Secret::new("t0ken"), ..service.settings() };
    connected(&with_token).deliver(&delivery(1..=1)).unwrap();
    let url = Url::new(service.receiver.url(&service.name).replace("://", "://me:secret@"));
    connected(&HttpSection { url, ..service.settings() }).deliver(&delivery(2..=2)).unwrap();
    let requests = service.requests();
    assert_eq!((requests[0].header("x-api-key"), requests[0].header("authorization")), ("k e y", "Bearer t0ken"));
    assert_eq!(requests[1].header("authorization"), "Basic bWU6c2VjcmV0");
    for shown in [format!("{with_token:?}"), format!("{:?}", with_token.valid())] {
        assert!(!shown.contains("k e y") && !shown.contains("t0ken"), "{shown}");
    }
}

#[test]
fn what_a_service_repeats_of_a_request_shows_no_secret() {
    let service = Service::json();
    let path = service.receiver.url(&service.name).replace("://", "://us%2Fhunter:p%40hunter%3Azebra@");
    let headers = [("X-Api-Key", "a hunter/zebra"), ("Cookie", "id=hunter \"zebra; x=1")];
    let headers = headers.map(|(name, value)| (name.to_owned(), Secret::new(value))).into();
    let all = HttpSection {
        url: Url::new(format!("{path}?hunter%2fzebra&b=%22hunter%20zebra%22&c=hunter%3Czebra;d=hunter+zebra&e=5")),
        headers,
        ..service.settings()
    };
    let token = HttpSection { token: Secret::new("hunter@:/?#%zebra\"\\"), ..service.settings() };
    for (settings, part) in [(&all, "x-api-key"), (&token, "authorization")] {
        for status in ["400", "401", "500", "302"] {
            service.receiver.tell(&service.name, "echo", status.as_bytes());
            let failure = connected(settings).deliver(&delivery(1..=1)).unwrap_err();
            let text = format!("{failure:?}").to_ascii_lowercase();
            assert!(!text.contains("hunter") && !text.contains("zebra"), "{text}");
            let text = text.replace("bearer ", "");
            if status == "400" {
                assert!(text.contains("/events") && text.contains(&format!("{part}\\\": \\\"***")), "{text}");
            }
        }
    }
    service.receiver.tell_nothing(&service.name);
    let location = "Location: /login/hunter%40%3A%2F%3F%23%25zebra%22%5C?x\r\n";
    service.receiver.tell(&service.name, "answer", answer("302 x", location, "").as_bytes());
    let failure = connected(&token).deliver(&delivery(1..=1)).unwrap_err();
    let text = format!("{failure:?}");
    assert!(text.contains("/login/***") && !text.contains("hunter"), "{text}");
}

#[test]
fn protobuf_holds_the_events_as_they_came() {
    let service = Service::new(Format::Protobuf, true);
    let mut sink = service.connected();
    let events = every_field();
    sink.deliver(&delivery_of(batch_of(1, vec![events.clone()]))).unwrap();
    // Two runs in parts, without an event in the middle.
    let halves = events.split_at(events.len() / 2);
    let runs = batch_of(1, vec![halves.0.to_vec(), halves.1.to_vec()]);
    let last = events.len() as u64 - 1;
    sink.deliver(&without(&Delivery::new(vec![runs], 2..=last), &[5])).unwrap();
    let bodies = service.bodies();
    let encoded = |events: Vec<Event>| EventBatch { events }.encode_to_vec();
    assert!(bodies[0].1 == encoded(events.clone()));
    let positions: Vec<u64> = (2..=last).filter(|position| *position != 5).collect();
    assert!(bodies[1].1 == encoded(positions.iter().map(|position| events[*position as usize - 1].clone()).collect()));
    assert_eq!(bodies[1].0, positions);
}

#[test]
fn what_was_refused_before_is_left_out_of_the_positions() {
    let header =
        |first, last, except: &[u64]| encode::header(&without(&delivery(first..=last), except).position_ranges());
    assert_eq!(header(1, 9, &[]), "1-9");
    assert_eq!(header(1, 9, &[5]), "1-4,6-9");
    assert_eq!(header(1, 9, &[1, 2, 9]), "3-8");
    assert_eq!(header(4, 6, &[1, 5, 9]), "4-4,6-6");
    assert_eq!(header(7, 7, &[7]), "");
}

#[test]
fn a_delivery_with_too_many_gaps_is_halved() {
    let service = Service::json();
    let mut sink = service.connected();
    let odd: Vec<u64> = (1..=1_000).step_by(2).collect();
    let result = sink.deliver(&without(&delivery(1..=1_000), &odd));
    assert!(matches!(&result, Err(Failure::BatchRefused { code, .. }) if code == "POSITIONS"), "{result:?}");
    sink.deliver(&without(&delivery(1..=200), &odd)).unwrap();
    assert_eq!(service.rows().unwrap().len(), 100);
}

// ---- answers ----

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn every_2xx_is_stored() {
    let service = Service::json();
    for status in ["200 OK", "201 Created", "202 Accepted", "299 x"] {
        assert_eq!(service.answered(&answer(status, "", "whatever")), Ok(()), "{status}");
    }
    assert_eq!(service.answered("HTTP/1.1 204 No Content\r\n\r\n"), Ok(()));
    assert_eq!(service.answered("HTTP/1.0 200 OK\r\n\r\nuntil it closes"), Ok(()));
    let with_interim =
        format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n{}", answer("200 OK", "", ""));
    assert_eq!(service.answered(&with_interim), Ok(()));
    // Longer than what is read of it.
    assert_eq!(service.answered(&answer("200 OK", "", &"x".repeat(1 << 20))), Ok(()));
}

#[test]
fn what_passes_is_tried_again_after_the_time_that_the_service_names() {
    let service = Service::json();
    for status in [408, 425, 429, 500, 502, 503, 504, 507, 599] {
        let (reason, after) = retry_after(service.answered(&answer(&format!("{status} x"), "", "over\r\n  load")));
        assert_eq!(reason, format!("http {}: HTTP {status}: \"over load\"", service.receiver.url(&service.name)));
        assert_eq!(after, None);
        let (_, after) = retry_after(service.answered(&answer(&format!("{status} x"), "Retry-After: 7\r\n", "")));
        assert_eq!(after, Some(Duration::from_secs(7)));
    }
    let dates = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:49:40 GMT\r\n";
    let (_, after) = retry_after(service.answered(&answer("503 x", dates, "")));
    assert_eq!(after, Some(Duration::from_secs(3)));
}

#[test]
fn what_a_person_must_mend_is_down_and_says_what_to_do() {
    let service = Service::json();
    for (status, advice) in [
        (401, "check token or headers"),
        (403, "check token or headers"),
        (404, "check the path in url"),
        (405, "url does not accept POST"),
        (407, "a proxy"),
        (409, "see the service's message"),
        (410, "check the path in url"),
        (415, "does not take application/json: set format"),
        (431, "headers of this size"),
        (501, "does not speak"),
        (505, "does not speak"),
    ] {
        let reason = down(service.answered(&answer(&format!("{status} x"), "Retry-After: 7\r\n", "go \"away\"")));
        // What the service sent cannot be taken for advice.
        assert!(
            reason.contains(&format!(r#": HTTP {status}: "go \"away\"": "#)) && reason.contains(advice),
            "{reason}"
        );
    }
    for status in [301, 302, 303, 304, 307, 308] {
        let body = if status == 304 { "" } else { "moved" };
        let location = "Location: https://u:secret@elsewhere/x?key=secret\r\n";
        let reason = down(service.answered(&answer(&format!("{status} x"), location, body)));
        assert!(reason.contains("names https://***@elsewhere/x?***, and redirects are not followed"), "{reason}");
    }
    assert!(down(service.answered(&answer("302 x", "", ""))).contains("redirects are not followed"));
    assert!(service.requests().is_empty());
}

#[test]
fn what_refuses_the_events_is_for_the_router_to_halve() {
    let service = Service::json();
    for status in [400, 413, 422] {
        let result = service.answered(&answer(&format!("{status} x"), "", "field `a`\n is no number"));
        let (code, reason) = (format!("HTTP {status}"), "field `a` is no number".to_owned());
        assert_eq!(result, Err(Failure::BatchRefused { code, reason }));
    }
    let Err(Failure::BatchRefused { reason, .. }) = service.answered(&answer("400 x", "", &"é".repeat(100_000)))
    else {
        panic!("400 refuses")
    };
    assert!(reason.len() <= limits::REFUSAL_REASON_BYTES_MAX + 3, "{}", reason.len());
    let result = service.answered(&answer("400 x", "", ""));
    assert!(matches!(&result, Err(Failure::BatchRefused { reason, .. }) if reason.contains("no reason")), "{result:?}");
}

#[test]
fn where_nothing_listens_the_sink_says_so() {
    let mut sink = Http::new(&settings("http://localhost:1/").valid(), &identity(1));
    let of_probe = sink.probe().unwrap_err().to_string();
    let of_delivery = format!("{:?}", connected(&settings("http://127.0.0.1:1/")).deliver(&delivery(1..=1)));
    for reason in [of_probe, of_delivery] {
        assert!(reason.contains("Connection refused") && reason.contains("nothing listens there"), "{reason}");
    }
}

#[test]
fn garbage_half_an_answer_and_none_are_tried_again() {
    let service = Service::json();
    let long_header = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    for broken in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nha",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\0\0\0\0\0\0\u{1}garbage\r\n\r\n",
        &long_header,
    ] {
        let reason = retry(service.answered(broken));
        assert!(reason.starts_with("http http://localhost:"), "{reason}");
    }
    let url = "http://127.0.0.1:1/";
    let reason = retry(connected(&settings(url)).deliver(&delivery(1..=1)));
    assert!(reason.contains("Connection refused"), "{reason}");
    let url = "http://nowhere.invalid/";
    retry(connected(&settings(url)).deliver(&delivery(1..=1)));
}

/// A panic would end the server.
#[test]
fn answers_with_anything_in_them_give_a_verdict() {
    let service = Service::json();
    let seed = Random::from_system().next_u64();
    println!("seed {seed}");
    let mut random = Random::seeded(seed);
    let mut below = |bound: usize| usize::try_from(random.next_u64() % bound as u64).unwrap();
    let bases = [
        answer("200 OK", "Retry-After: 7\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "{}"),
        answer("301 x", "Location: http://u:p@h/?x\r\nConnection: close\r\n", "moved"),
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 x\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\n".into(),
        "HTTP/1.0 400 \r\nContent-Encoding: gzip\r\n\r\nuntil it closes".into(),
    ];
    let mut sink = service.connected();
    for _ in 0..400 {
        let mut bytes = bases[below(bases.len())].clone().into_bytes();
        for _ in 0..=below(4) {
            let at = below(bytes.len().max(1)).min(bytes.len());
            match below(5) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, below(256) as u8),
                2 => drop(bytes.drain(at..(at + below(8)).min(bytes.len()))),
                3 => bytes.splice(at..at, *b"\r\n").for_each(drop),
                _ => bytes.get_mut(at).into_iter().for_each(|byte| *byte = below(256) as u8),
            }
        }
        service.receiver.tell(&service.name, "answer", &bytes);
        // Whatever it is.
        let _ = sink.deliver(&delivery(1..=1));
    }
    service.receiver.tell_nothing(&service.name);
    sink.connect().unwrap();
    assert_eq!(sink.deliver(&delivery(1..=1)), Ok(()));
}

#[test]
fn a_service_that_hangs_is_given_up_after_the_timeout_and_served_when_it_goes_on() {
    let receiver = HttpService::start(None);
    let name = receiver.name();
    let settings = HttpSection { timeout: Duration::from_secs(1), ..settings(&receiver.url(&name)) };
    let mut sink = connected(&settings);
    receiver.signal("STOP");
    let started = Instant::now();
    let reason = retry(sink.deliver(&delivery(1..=1)));
    assert!(reason.contains("in time") && started.elapsed() < Duration::from_secs(5), "{reason}");
    receiver.signal("CONT");
    let deadline = Instant::now() + Duration::from_secs(30);
    while sink.deliver(&delivery(1..=1)).is_err() {
        assert!(Instant::now() < deadline);
        sink.connect().unwrap();
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_answer_before_the_body_was_read_is_heard() {
    let service = Service::json();
    // Larger than what two sockets hold.
    let large = delivery_of(batch_of(1, vec![vec![Event { body: "x".repeat(60_000), ..Event::default() }; 400]]));
    service.receiver.tell(&service.name, "early", answer("413 x", "Connection: close\r\n", "too large").as_bytes());
    let result = service.connected().deliver(&large);
    assert_eq!(result, Err(Failure::BatchRefused { code: "HTTP 413".into(), reason: "too large".into() }));
    // Nobody can have stored what was not sent.
    service.receiver.tell(&service.name, "early", answer("200 OK", "", "").as_bytes());
    let reason = retry(service.connected().deliver(&large));
    assert!(reason.contains("HTTP 200, before it had received the whole request"), "{reason}");
    // Without an answer it is the broken connection that is told.
    service.receiver.tell(&service.name, "early", b"");
    let reason = retry(service.connected().deliver(&large));
    assert!(reason.contains("while the request was sent: if this goes on, lower batch.max_bytes"), "{reason}");
    service.receiver.tell_nothing(&service.name);
    assert_eq!(service.connected().deliver(&large), Ok(()));
}

#[test]
fn a_connection_that_the_service_closed_meanwhile_is_replaced() {
    let service = Service::json();
    let mut sink = service.connected();
    sink.deliver(&delivery(1..=1)).unwrap();
    service.receiver.tell(&service.name, "answer", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    sink.deliver(&delivery(2..=2)).unwrap();
    service.receiver.tell_nothing(&service.name);
    // The service closes right after its answer: whether that has arrived or not, a new connection is made in the end.
    let deadline = Instant::now() + Duration::from_secs(20);
    while sink.deliver(&delivery(3..=3)).is_err() {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(service.requests().len(), 2);
}

// ---- TLS ----

/// Files of a certificate for `localhost` and its key.
fn certificate(folder: &Path) -> [std::path::PathBuf; 2] {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = [folder.join("crt"), folder.join("key")];
    std::fs::write(&files[0], certificate.cert.pem()).unwrap();
    std::fs::write(&files[1], certificate.signing_key.serialize_pem()).unwrap();
    files
}

#[test]
fn tls_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    let [crt, key] = certificate(dir.path());
    let receiver = HttpService::start(Some([&crt, &key]));
    let name = receiver.name();
    let deliver = |url: &str, ca_file: Option<&Path>, delivery: &Delivery| {
        let mut sink =
            Http::new(&HttpSection { ca_file: ca_file.map(Into::into), ..settings(url) }.valid(), &identity(1));
        sink.connect()?;
        sink.deliver(delivery)
    };
    let (url, ok) = (receiver.url(&name), Some(&*crt));
    assert_eq!(deliver(&url, ok, &delivery(1..=10_000)), Ok(()));
    assert!(receiver.requests(&name)[0].body.starts_with(b"[{\"server_id\""));
    let one = delivery_of(batch(1..=1));
    let by_address = url.replace("localhost", "127.0.0.1");
    assert!(down(deliver(&by_address, ok, &one)).contains("check the service's certificate, its name, and ca_file"));
    assert!(down(deliver(&url, None, &one)).contains("UnknownIssuer"));
    assert!(down(deliver(&url, Some("/nonexistent".as_ref()), &one)).contains("ca_file /nonexistent"));
    assert!(down(deliver(&url, Some(&key), &one)).contains("contains no certificate in PEM"));
    let plain = HttpService::shared();
    let https = plain.url(&plain.name()).replace("http://", "https://");
    assert!(down(deliver(&https, ok, &one)).contains("does not speak TLS: name it with http://"));
    retry(deliver(&url.replace("https://", "http://"), None, &one));
    // The answer that comes before the body was read is heard through TLS too.
    let large = delivery_of(batch_of(1, vec![vec![Event { body: "x".repeat(60_000), ..Event::default() }; 400]]));
    receiver.tell(&name, "early", answer("413 x", "Connection: close\r\n", "too large").as_bytes());
    let result = deliver(&url, ok, &large);
    assert_eq!(result, Err(Failure::BatchRefused { code: "HTTP 413".into(), reason: "too large".into() }));
}

// ---- settings ----

#[test]
fn wrong_settings_are_named_with_their_key_and_without_their_secrets() {
    let with = |name: &str, value: &str| HttpSection {
        headers: [(name.to_owned(), Secret::new(value))].into(),
        ..settings("http://h/")
    };
    let token = |token: &str, url: &str| HttpSection { token: Secret::new(token), ..settings(url) };
    for (settings, key, why) in [
        (settings("ftp://h/"), "url", "expected http:// or https://"),
        (settings("h:8080"), "url", "expected http://"),
        (settings("/x"), "url", "expected http://"),
        (settings("http://h/a b"), "url", "expected http://"),
        (settings("http:///x"), "url", "expected http://"),
        (settings("http://h/#x"), "url", "expected http://"),
        (settings(""), "url", "expected http://"),
        (settings("http://u:se/cret@h/"), "url", "write %2F for a /"),
        (settings("http://h/?key=secret@x"), "url", "%40 for an @"),
        (token("secret", "http://u:secret@h/"), "url", "keep one"),
        (token("secret\n", "http://h/"), "token", "a line end"),
        (with("a b", "secret"), "headers.a b", "is not a name of a header"),
        (with("", "secret"), "headers.", "is not a name of a header"),
        (with("a", "secret\r\nb: c"), "headers.a", "no header may have"),
        (with("Content-Type", "text/plain"), "headers.Content-Type", "sets itself"),
        (with("telemetryx-Positions", "1"), "headers.telemetryx-Positions", "sets itself"),
        (HttpSection { token: Secret::new("secret"), ..with("AUTHORIZATION", "secret") }, "token", "keep one"),
        (HttpSection { ca_file: Some("x".into()), ..settings("http://h/") }, "ca_file", "is for https:// only"),
    ] {
        let Problem { key: found, why: words } = settings.validate().unwrap_err();
        assert_eq!(found, key, "{words}");
        assert!(words.contains(why) && !words.contains("secret"), "{words}");
    }
    for url in ["http://h", "https://h:1/x?y=z", "http://u:p@[::1]:8080/%20", "http://u:p%20@q@h/"] {
        assert!(settings(url).validate().is_ok(), "{url}");
    }
}
