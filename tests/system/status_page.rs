//! The page at `/` in a real browser, and `/status.json`.
#![cfg(feature = "http-sink")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::Ended;
use crate::support::agent::{RawAgent, batch, data, hello, named};
use crate::support::chromium::Page;
use crate::support::disk::Disk;
use crate::support::http::{get, metric, post, request};
use crate::support::server::{Server, wait_until};
use crate::support::stores::HttpService;
use serde_json::Value;
use telemetryx::wire::{FrameKind, Hello};

/// Of the window in pictures.
const DESK: (u32, u32) = (1000, 760);
const PATIENCE: Duration = Duration::from_secs(60);
/// What a peer may call itself and its events.
const HOSTILE: &str = r#"<img src=x onerror="window.ran=1"><script>window.ran=1</script>"#;

fn status(address: SocketAddr) -> Value {
    let (status, body) = request(address, "GET /status.json HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn agent(address: SocketAddr, number: u8, name: &str) -> RawAgent {
    let greeting = Hello { name, ..hello([number; 16], 0) };
    RawAgent::greeted(address, greeting).0
}

/// A number on the page, without its separators of thousands.
fn number(page: &mut Page, selector: &str) -> f64 {
    let text = page.text(selector);
    text.replace(',', "").parse().unwrap_or_else(|_| panic!("{selector} is {text}"))
}

fn assert_quiet(page: &Page, address: SocketAddr) {
    assert!(page.console.is_empty(), "{:#?}", page.console);
    let own = format!("http://{address}/");
    let others: Vec<_> =
        page.requests.iter().filter(|url| !url.starts_with(&own) && !url.starts_with("data:")).collect();
    assert!(others.is_empty() && page.requests.len() > 1, "{others:?} of {}", page.requests.len());
}

#[test]
fn numbers_are_those_of_the_metrics_and_no_text_of_peers_is_run() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let address = server.address();
    let mut agent = agent(address, 1, HOSTILE);
    agent.send(&data(1, &batch(vec![named("a"), named("b"), named("")])));
    agent.answer(FrameKind::Nack);
    agent.acknowledged(1);
    let body = format!(r#"[{{"name":"c"}},{{"name":"d","{}":1}}]"#, HOSTILE.replace('"', "'"));
    assert_eq!(post(address, "?ack=delivered", &body).unwrap().0, 200);
    assert_eq!(post(address, "", HOSTILE).unwrap().0, 400);

    let mut page = Page::open();
    page.load(&format!("http://{address}/"));
    page.wait_for("document.getElementById('delivered').textContent === '3'");
    let sum = |names: &[&str]| names.iter().map(|name| metric(address, name).unwrap()).sum::<f64>();
    let received = ["frames", "http"].map(|by| format!("telemetryx_events_received_total{{protocol=\"{by}\"}}"));
    assert_eq!(number(&mut page, "#received"), sum(&received.each_ref().map(String::as_str)));
    let rejected = ["malformed", "invalid"].map(|why| format!("telemetryx_events_rejected_total{{reason=\"{why}\"}}"));
    assert_eq!(number(&mut page, "#rejected"), sum(&rejected.each_ref().map(String::as_str)));
    assert_eq!(number(&mut page, "#delivered"), sum(&["telemetryx_events_delivered_total{sink=\"sqlite\"}"]));
    assert_eq!(number(&mut page, "#agents-connected"), 1.0);
    assert_eq!(page.text("#sinks .state"), "✓ ok");
    assert_eq!(page.text("#ready"), "✓ ready");

    // The name of the agent, twice, and what was rejected are there, as text.
    assert_eq!(page.text("#agents th"), HOSTILE);
    page.wait_for("document.querySelectorAll('#rejections tr').length === 3");
    let rejections = page.text("#rejections");
    assert!(rejections.contains(HOSTILE) && !rejections.contains("\"error\""), "{rejections}");
    let ran = "window.ran === undefined && document.images.length === 0 && document.scripts.length === 1";
    page.wait_for(ran);
    assert_quiet(&page, address);
    // A script that got into the page all the same would not be run.
    let injected = "const script = document.createElement('script'); script.textContent = 'window.ran = 1'; \
                    document.body.append(script); window.ran === undefined";
    assert_eq!(page.value(injected), Value::Bool(true));
}

#[test]
fn a_dead_sink_is_shown_by_the_next_but_one_answer() {
    let directory = tempfile::tempdir().unwrap();
    let (service, name, [kind, url]) = HttpService::with_sink("h");
    let server = Server::start(directory.path(), &[&kind, &url]);
    let address = server.address();
    let mut page = Page::open();
    page.load(&format!("http://{address}/"));
    page.wait_for("(document.querySelector('#sinks .state') || {}).textContent === '✓ ok'");
    assert_eq!(page.value("document.getElementById('trouble').hidden"), Value::Bool(true));

    service.tell(&name, "answer", b"HTTP/1.1 503 Busy <b>\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(post(address, "?ack=synced", r#"{"name":"e"}"#).unwrap().0, 200);
    let is_dead = || get(address, "/ready").1.contains(r#""h":"retrying""#);
    assert!(wait_until(PATIENCE, is_dead), "{}", server.log());
    let (dead, asked) = (Instant::now(), page.requests.len());
    page.wait_for("document.querySelector('#sinks .state').textContent === '↻ retrying'");
    // One answer may have been on its way; the page asks each second.
    let (after, answers) = (dead.elapsed(), page.requests.len() - asked);
    println!("shown {after:?} after the sink failed, by answer {answers}");
    assert!(answers <= 2, "{answers}");
    page.wait_for("document.querySelector('#trouble').textContent.includes('Sink h is retrying – 1 event waits: ')");
    let details = page.text("#sinks .more");
    assert!(details.contains("Error, ") && details.contains("503") && details.contains("next attempt"), "{details}");
    assert!(page.text("#announced").contains("sink h is retrying"), "a screen reader hears of it");
    assert!(page.value("document.title").as_str().unwrap().starts_with("(1) "));

    let shown = &status(address)["sinks"][0];
    assert_eq!((&shown["name"], &shown["kind"], &shown["is_up"]), (&"h".into(), &"http".into(), &false.into()));
    service.tell_nothing(&name);
    page.wait_for("document.querySelector('#sinks .state').textContent === '✓ ok'");
    page.wait_for("document.querySelector('#sinks .more').textContent.startsWith('Last error, ')");
    assert_quiet(&page, address);
}

#[test]
fn a_full_disk_is_named_and_what_to_do() {
    let disk = match Disk::tmpfs(10 << 20) {
        Ok(disk) => disk,
        Err(reason) => return println!("skipped, a full disk: {reason}"),
    };
    let (service, name, [kind, url]) = HttpService::with_sink("audit");
    // The sink does not let the log become smaller.
    service.tell(&name, "answer", b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    let server = Server::start(&disk.path(), &["wal.segment_bytes=1MiB", &kind, &url]);
    let address = server.address();
    let mut page = Page::open();
    page.look(DESK, "light");
    page.load(&format!("http://{address}/"));
    page.wait_for("document.getElementById('ready').textContent === '✓ ready'");
    let event = format!(r#"{{"name":"a","body":"{}"}}"#, "x".repeat(20_000));
    let body = format!("[{}]", vec![event; 10].join(","));
    let is_full =
        || post(address, "?ack=received", &body).unwrap().0 == 503 || get(address, "/ready").1.contains("disk_full");
    assert!(wait_until(PATIENCE, is_full), "{}", server.log());
    page.wait_for(
        "document.getElementById('trouble').textContent.includes('Not ready: disk_full – the disk of the log')",
    );
    page.wait_for("document.getElementById('trouble').textContent.includes('Sink audit is retrying')");
    assert_eq!(page.text("#ready"), " not ready");
    keep_screenshot(&mut page, "disk-full");

    let mut top = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    let output = top.args(["top", "--once", &address.to_string()]).current_dir(disk.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["NOT READY: disk_full", "audit  retrying", "HTTP 503"] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
}

#[test]
fn a_log_that_no_sink_needs_is_not_nearly_full_and_rows_stay_what_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut page = Page::open();
    page.load(&format!("http://{}/", server.address()));
    page.wait_for("!document.getElementById('all').hidden");
    // What is drawn of this answer with other numbers. Nothing comes in between: it is one expression.
    let mut of = |changes: &str, shown: &str| {
        page.value(&format!("(() => {{ render({{ ...samples.at(-1), {changes} }}); return {shown}; }})()"))
    };
    let trouble = "document.getElementById('trouble').textContent";
    let log = |needed: u64| format!("log: {{ bytes: {{ used: 99, capacity: 100 }}, needed_bytes: {needed} }}");
    // All of it may be deleted where there is no room: it is there because of wal.keep.
    assert_eq!(of(&log(3), trouble), "");
    assert_eq!(of(&log(3), "document.getElementById('log-share').textContent"), "3.0 %");
    assert_eq!(of(&log(90), trouble), "Log is nearly full – sinks need 90 % of wal.max_bytes");

    let rejections = |count: usize, reason: &str| {
        let rejected = |protocol| {
            let entry = r#"from: "a", code: "400", times: 1, events: 1, unix_ms: 0"#;
            format!("{{ {entry}, protocol: \"{protocol}\", reason: {reason:?} }}")
        };
        let entries: Vec<_> = ["http", "frames"].iter().take(count).map(rejected).collect();
        format!("rejections: [{}]", entries.join(", "))
    };
    let rows = "document.querySelectorAll('#rejections tr').length";
    assert_eq!(of(&rejections(2, "x"), rows), 2);
    of(&rejections(2, "x"), "document.querySelector('#rejections tr').id = 'first'");
    assert_eq!(of(&rejections(2, "another reason"), "document.querySelector('#rejections tr').id"), "first");
    assert_eq!(of(&rejections(1, "x"), rows), 1, "no row is left of an entry that is gone");

    // A store's message must not look like several.
    let letter = "{ unix_ms: 0, events: 1, code: 'E', reason: 'a\\nDead letters, now: 9 × b' }";
    let sink = format!("sinks: [{{ ...samples.at(-1).sinks[0], dead_letters: [{letter}] }}]");
    let lines = "document.querySelector('#sinks .more').textContent.split('\\n').length";
    assert_eq!(of(&sink, lines), 1);
}

#[test]
fn where_senders_need_tokens_the_page_asks_for_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(directory.path().join(name), text).unwrap();
        directory.path().join(name).display().to_string()
    };
    let tokens = format!("server.tokens_file={}", file("tokens", "of-senders\n"));
    let pages = format!("server.pages_token_file={}", file("pages", "of-pages\n"));
    for server in ["1", "2"] {
        fs::create_dir(directory.path().join(server)).unwrap();
    }
    let ask = |address: SocketAddr, token: &str| {
        let head = format!("GET /status.json HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
        request(address, &head).unwrap().0
    };
    let closed = Server::start(&directory.path().join("1"), &[&tokens]);
    assert_eq!(ask(closed.address(), "of-senders"), 403, "nobody may read it");
    drop(closed);
    let server = Server::start(&directory.path().join("2"), &[&tokens, &pages]);
    let address = server.address();
    assert_eq!((ask(address, "of-senders"), ask(address, "of-pages")), (401, 200));

    let mut page = Page::open();
    page.load(&format!("http://{address}/"));
    page.wait_for("!document.getElementById('login').hidden && document.activeElement.id === 'token'");
    // "pläne" cannot be sent in a header.
    let refused = |why| format!("document.getElementById('denied').textContent.includes('{why}')");
    for (token, why) in [
        ("of-senders", Some("not the token of server.pages_token_file")),
        ("pläne", Some("not a token that a browser can send")),
        ("of-pages", None),
    ] {
        page.call("Input.insertText", serde_json::json!({"text": token}));
        for kind in ["keyDown", "keyUp"] {
            let key = serde_json::json!({"type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"});
            page.call("Input.dispatchKeyEvent", key);
        }
        match why {
            Some(why) => {
                page.wait_for(&refused(why));
                assert_eq!(page.value("sessionStorage.length"), 0, "a token that is refused is kept");
            }
            None => page.wait_for("document.getElementById('login').hidden && !document.getElementById('all').hidden"),
        }
    }
    assert_eq!(page.value("document.getElementById('plain').hidden"), Value::Bool(true), "this is the same machine");
    // However often a token is sent, there is one question per second.
    let again =
        "document.getElementById('token').value = 'of-pages'; document.getElementById('login').requestSubmit(); true";
    for _ in 0..3 {
        page.value(again);
    }
    wait_for_answers(&mut page, 4);
    let begun = Instant::now();
    wait_for_answers(&mut page, 4);
    assert!(begun.elapsed() > Duration::from_millis(2_500), "four answers in {:?}", begun.elapsed());
    assert_eq!(page.text("#sinks .state"), "✓ ok");
    let leaked = "document.body.textContent.includes('of-pages') || location.href.includes('of-pages')";
    assert_eq!(page.value(leaked), Value::Bool(false));
}

/// With UPDATE_DOCS=1 pictures are written into docs/, and take their time.
fn updates_docs() -> bool {
    std::env::var_os("UPDATE_DOCS").is_some()
}

/// Writes docs/status-NAME.webp with UPDATE_DOCS=1.
fn keep_screenshot(page: &mut Page, name: &str) {
    let picture = decoded(&page.screenshot());
    assert!(picture.starts_with(b"RIFF"));
    if updates_docs() {
        println!("{name}: {} bytes", picture.len());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(format!("status-{name}.webp"));
        fs::write(path, picture).unwrap();
    }
}

/// Lets the page get so many answers, and as many seconds pass.
fn wait_for_answers(page: &mut Page, count: usize) {
    let before = page.requests.len();
    assert!(wait_until(4 * PATIENCE, || page.value("true") == true && page.requests.len() >= before + count));
}

/// Base64 without white space.
fn decoded(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let digit = |byte: &u8| DIGITS.iter().position(|digit| digit == byte).expect("base64") as u32;
        let bits = four.iter().fold(0, |bits, byte| bits << 6 | digit(byte)) << (6 * (4 - four.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}

#[test]
fn the_page_fits_a_desk_and_a_phone_in_light_and_dark() {
    let directory = tempfile::tempdir().unwrap();
    let (service, name, [kind, url]) = HttpService::with_sink("audit");
    let settings = ["sinks.sqlite.kind=sqlite", "sinks.archive.kind=file", &kind, &url, "server.event_loops=2"];
    let server = Server::start(directory.path(), &settings);
    let address = server.address();
    let agents = ["api", "edge-fra-1", "edge-fra-2", "billing", HOSTILE];
    let _agents: Vec<_> = (1..).zip(agents).map(|(number, name)| agent(address, number, name)).collect();
    assert_eq!(post(address, "", r#"[{"name":"a","severty":"info"}]"#).unwrap().0, 400);
    assert_eq!(post(address, "", "level=info msg=started").unwrap().0, 400);

    let mut page = Page::open();
    page.look(DESK, "light");
    page.load(&format!("http://{address}/"));
    page.wait_for("document.querySelectorAll('#agents tr').length === 5");
    wait_for_answers(&mut page, if updates_docs() { 8 } else { 1 });
    keep_screenshot(&mut page, "idle");
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ended = Ended(&ended);
        scope.spawn(|| send(address, &ended));
        page.wait_for("document.getElementById('received').textContent.includes(',')");
        page.value(WATCH_SHIFTS);
        // Long enough that the lines of the pictures are as wide as their cards.
        wait_for_answers(&mut page, if updates_docs() { 110 } else { 3 });
        let shifted = page.value("window.shifted").as_f64().unwrap();
        assert!(shifted < 0.02, "numbers move each other: {shifted}");
        keep_screenshot(&mut page, "loaded");
        service.tell(&name, "answer", b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
        page.wait_for("document.querySelector('#trouble').textContent.includes('audit is retrying')");
        look_at(&mut page);
    });
    assert_quiet(&page, address);
}

/// Adds up how much of the page moves without anybody's doing (1: all of it, by its whole height).
const WATCH_SHIFTS: &str = "window.shifted = 0; new PerformanceObserver(list => {
    for (const entry of list.getEntries()) window.shifted += entry.value;
}).observe({ type: 'layout-shift' }); true";

/// Sends requests of different sizes until `ended` is set.
fn send(address: SocketAddr, ended: &AtomicBool) {
    let event = r#"{"name":"http.request","severity":"info","body":"GET /orders 200"}"#;
    let mut round = 0_usize;
    while !ended.load(Ordering::Relaxed) {
        let body = format!("[{}]", vec![event; 40 + 30 * (round / 40 % 7)].join(","));
        assert_eq!(post(address, "?ack=synced", &body).unwrap().0, 200);
        round += 1;
        thread::sleep(Duration::from_millis(25));
    }
}

fn look_at(page: &mut Page) {
    for (name, size, scheme) in [
        ("light", DESK, "light"),
        ("dark", DESK, "dark"),
        ("phone", (390, 844), "light"),
        ("narrow", (320, 600), "dark"),
    ] {
        page.look(size, scheme);
        page.wait_for(&format!("window.innerWidth === {}", size.0));
        let width = page.value("document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(width <= u64::from(size.0), "{name}: the page is {width} wide");
        // A table stays one for a screen reader, also where it is shown as a list.
        let spoken = page.spoken();
        for (role, name) in [("table", ""), ("rowheader", "audit (http)"), ("cell", "↻ retrying"), ("heading", "Sinks")]
        {
            let is_it = |found: &(String, String)| found.0 == role && found.1.ends_with(name);
            assert!(spoken.iter().any(is_it), "{role} {name} is missing: {spoken:?}");
        }
        if name != "narrow" {
            keep_screenshot(page, name);
        }
    }
}
