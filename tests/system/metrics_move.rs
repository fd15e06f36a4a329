//! Every metric of the page moves when its cause occurs: here, or in the test that the list below names.
#![cfg(feature = "http-sink")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::support::agent::{RawAgent, batch, data, hello, named};
use crate::support::certificates::Authority;
use crate::support::fifo::Fifo;
use crate::support::http::{get, request};
use crate::support::server::{Server, wait_until};
use crate::support::tls;
use telemetryx::event::proto::Event;
use telemetryx::wire::Hello;
use telemetryx::wire::header::FrameKind;

const TIMEOUT: Duration = Duration::from_secs(60);
const SYSLOG: &[u8] = b"<13>1 2026-11-24T10:00:00Z host app - - - text\n";
const TOKEN: &str = "a-token-of-the-client";

/// Metrics whose cause needs a server of its own, and the test that has it.
const ELSEWHERE: [(&str, &str); 7] = [
    ("telemetryx_accept_pauses_total", "tests/system/descriptors.rs"),
    ("telemetryx_connections_cut_total", "tests/refusals.rs"),
    // Old events are looked for every 30 s.
    ("telemetryx_events_expired_total", "tests/system/clock.rs"),
    ("telemetryx_not_ready", "tests/system/storage_faults.rs"),
    ("telemetryx_read_pauses_total", "tests/system/overload.rs"),
    ("telemetryx_reloads_total", "tests/system/reload.rs"),
    // More than 0 for moments only, unless the log stands still.
    ("telemetryx_ring_depth", "tests/system/storage_faults.rs"),
];

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The metrics of docs/operations.md, which `tests/project/docs.rs` compares with the code.
fn documented() -> BTreeSet<String> {
    let page = read("docs/operations.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let is_metric = |name: &str| name.starts_with("telemetryx_") || name.starts_with("process_");
    rows.map(|(name, _)| name.to_owned()).filter(|name| is_metric(name)).collect()
}

/// Adds the metrics of the page that are not 0.
fn add_moved(address: SocketAddr, moved: &mut BTreeSet<String>) {
    let (_, page) = get(address, "/metrics");
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        if value.parse::<f64>().unwrap() != 0.0 {
            let name = series.split('{').next().unwrap();
            let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            moved.extend([Some(name), histogram].into_iter().flatten().map(str::to_owned));
        }
    }
}

fn post(address: SocketAddr, body: &str) -> u16 {
    let head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close";
    let length = body.len();
    let text = format!("{head}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {length}\r\n\r\n{body}");
    request(address, &text).unwrap().0
}

fn greeting(agent: u8, epoch: u64, oldest_seq: u64) -> Hello<'static> {
    Hello { token: TOKEN.as_bytes(), oldest_seq, ..hello([agent; 16], epoch) }
}

/// Events of all protocols, and what goes wrong with them.
fn send(address: SocketAddr) {
    TcpStream::connect(address).unwrap().write_all(SYSLOG).unwrap();
    assert_eq!(post(address, r#"[{"name":"e"},{"name":"noise"}]"#), 200);
    assert_eq!(post(address, "[{}]"), 400);

    let (mut agent, welcome) = RawAgent::greeted(address, greeting(1, 0, 1));
    agent.send(&data(1, &batch(vec![named("e")])));
    agent.acknowledged(1);
    agent.send(&data(2, b"\xff\xff"));
    agent.answer(FrameKind::Nack);
    drop(agent);
    // The same again, as after a lost acknowledgement; then a claim to more than the server has.
    let (mut agent, _) = RawAgent::greeted(address, greeting(1, welcome.epoch, 1));
    agent.send(&data(1, &batch(vec![named("e")])));
    agent.acknowledged(1);
    drop(agent);
    let (_agent, welcome) = RawAgent::greeted(address, greeting(2, 0, 1));
    drop(RawAgent::greeted(address, greeting(2, welcome.epoch, 8)));

    // More than the log and the memory of a router hold for sinks that do not deliver.
    let (mut agent, _) = RawAgent::greeted(address, greeting(3, 0, 1));
    for seq in 1..=60 {
        agent.send(&data(seq, &batch(vec![Event { body: "b".repeat(20_000), ..named("filler") }])));
        agent.acknowledged(seq);
    }
}

#[test]
fn every_metric_moves_here_or_in_the_test_that_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = Fifo::make(directory.path().join("fifo"));
    let [kind, path] = fifo.sink();
    let [cert, key] = tls::settings_in(directory.path(), &Authority::new("an authority"));
    let token = directory.path().join("token");
    fs::write(&token, TOKEN).unwrap();
    let token = format!("clients.api.token_file={}", token.display());
    let settings = [
        "wal.segment_bytes=64KiB",
        "wal.max_bytes=128KiB",
        "wal.keep=0s",
        "server.max_connections=12",
        "limits.agent_events_per_second=100",
        "syslog.enabled=true",
        "syslog.udp=true",
        "sinks.sqlite.kind=sqlite",
        "sinks.sqlite.exclude=[{name=\"noise\"}]",
        // Nobody listens there.
        "sinks.h.kind=http",
        "sinks.h.url=http://127.0.0.1:1/",
        "sinks.h.required=false",
        "sinks.h.on_full=drop_oldest",
        "sinks.stuck.required=false",
        "sinks.stuck.on_full=drop_oldest",
    ];
    let own = [&*kind, &*path, &*cert, &*key, &*token];
    let server = Server::start(directory.path(), &[&settings[..], &own].concat());
    let address = server.address();
    let mut moved = BTreeSet::new();
    send(address);
    let idle: Vec<_> = (0..20).map(|_| TcpStream::connect(address)).collect();
    let reader = fifo.read();
    let elsewhere: BTreeSet<String> = ELSEWHERE.iter().map(|(name, _)| (*name).to_owned()).collect();
    let documented = documented();
    assert!(documented.len() > 40 && elsewhere.is_subset(&documented), "{documented:?}");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let all = wait_until(TIMEOUT, || {
        // Above the limit: datagrams that are read together are paid for together, and later ones are dropped.
        for _ in 0..300 {
            socket.send_to(SYSLOG, address).unwrap();
        }
        add_moved(address, &mut moved);
        documented.difference(&moved).all(|name| elsewhere.contains(name))
    });
    let unmoved: Vec<_> = documented.difference(&moved).filter(|name| !elsewhere.contains(*name)).collect();
    assert!(all, "these metrics stay at 0: {unmoved:?}\n{}", server.log());
    drop((idle, reader));
    for (name, test) in ELSEWHERE {
        assert!(read(test).contains(name), "{test} does not look at {name}");
    }
}
