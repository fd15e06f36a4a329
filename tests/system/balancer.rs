//! Two servers behind HAProxy, as docs/deployment.md describes: agents are divided among them, and move when one stops.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::haproxy::Haproxy;
use crate::support::http::{get, metric, post, request};
use crate::support::server::{Server, own_address, wait_until};

const DEADLINE: Duration = Duration::from_secs(120);
const SENDERS: usize = 4;
const LINES: usize = 40_000;

/// Two servers, which accept so few events per second that agents are still sending when one is stopped.
struct Pair {
    directories: [tempfile::TempDir; 2],
    addresses: [SocketAddr; 2],
    servers: [Server; 2],
    haproxy: Haproxy,
}

impl Pair {
    fn start() -> Self {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let addresses = [own_address(), own_address()];
        let start = |index: usize| {
            let address = format!("server.address={}", addresses[index]);
            let settings =
                [&address, "limits.agent_events_per_second=5000", "limits.burst=1s", "sinks.sqlite.required=true"];
            Server::start(directories[index].path(), &settings)
        };
        let servers = [start(0), start(1)];
        Self { haproxy: Haproxy::start(addresses), directories, addresses, servers }
    }

    fn received(&self, index: usize) -> f64 {
        metric(self.addresses[index], "telemetryx_events_received_total{protocol=\"frames\"}").unwrap_or(0.0)
    }

    /// How often each event is in the databases. The servers are stopped first, so that all of them are there.
    fn stop_and_count(mut self) -> BTreeMap<String, u64> {
        for server in &mut self.servers {
            if server.process().is_running() {
                server.terminate();
                assert!(server.wait(DEADLINE).success(), "{}", server.log());
            }
        }
        let mut counts = BTreeMap::new();
        for directory in &self.directories {
            for body in bodies(&directory.path().join("events.db")) {
                *counts.entry(body).or_default() += 1;
            }
        }
        counts
    }
}

fn bodies(database: &Path) -> Vec<String> {
    let output = Command::new("sqlite3").arg(database).arg("select body from events").output().expect("sqlite3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Agents that each send [`LINES`] events: sender and number.
fn send(to: SocketAddr, directory: &Path) -> Vec<Child> {
    let sender = |sender: usize| {
        let mut lines = String::new();
        for line in 0..LINES {
            let _ = writeln!(lines, "{sender} {line}");
        }
        let file = directory.join(format!("{sender}.log"));
        std::fs::write(&file, lines).unwrap();
        Command::new(env!("CARGO_BIN_EXE_telemetryx"))
            .args(["send", "--to", &to.to_string(), "--timeout", "0"])
            .arg(file)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    (0..SENDERS).map(sender).collect()
}

fn wait_for_all(senders: Vec<Child>) {
    for mut sender in senders {
        assert!(sender.wait().unwrap().success());
    }
}

/// Both servers have agents.
fn wait_for_both(pair: &Pair) {
    let both = || (0..2).all(|index| pair.received(index) > 0.0);
    assert!(wait_until(DEADLINE, both), "{:?}", [pair.received(0), pair.received(1)]);
}

#[test]
fn agents_move_to_the_other_server_when_one_is_stopped_and_every_event_is_stored_once() {
    let mut pair = Pair::start();
    let directory = tempfile::tempdir().unwrap();
    let senders = send(pair.haproxy.address(), directory.path());
    wait_for_both(&pair);
    pair.servers[0].terminate();
    assert!(pair.servers[0].wait(DEADLINE).success(), "{}", pair.servers[0].log());
    wait_for_all(senders);
    let counts = pair.stop_and_count();
    assert_eq!(counts.len(), SENDERS * LINES);
    let twice: Vec<_> = counts.iter().filter(|(_, count)| **count != 1).take(3).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn nothing_that_was_acknowledged_is_missing_when_a_server_is_killed() {
    let mut pair = Pair::start();
    let directory = tempfile::tempdir().unwrap();
    let senders = send(pair.haproxy.address(), directory.path());
    wait_for_both(&pair);
    pair.servers[0].kill();
    wait_for_all(senders);
    // It starts again: what it had acknowledged and not delivered is in its log.
    let address = format!("server.address={}", pair.addresses[0]);
    pair.servers[0] = Server::start(pair.directories[0].path(), &[&address, "sinks.sqlite.required=true"]);
    let counts = pair.stop_and_count();
    assert_eq!(counts.len(), SENDERS * LINES);
    // What was stored and not acknowledged when it was killed may be stored by the other server as well.
    assert!(counts.values().all(|count| *count <= 2));
}

#[test]
fn requests_and_pages_pass_and_a_server_that_stops_gets_no_more_of_them() {
    let mut pair = Pair::start();
    let balancer = pair.haproxy.address();
    for number in 0..4 {
        let (status, answer) = post(balancer, "", &format!("{{\"name\":\"{number}\"}}")).unwrap();
        assert_eq!((status, answer.contains("\"accepted\":1")), (200, true), "{answer}");
    }
    assert_eq!(get(balancer, "/ready").0, 200);
    pair.servers[0].terminate();
    assert!(pair.servers[0].wait(DEADLINE).success());
    // From now on, also before HAProxy has noticed: it tries the other server.
    for number in 0..4 {
        let (status, answer) = post(balancer, "", &format!("{{\"name\":\"after {number}\"}}")).unwrap();
        assert_eq!(status, 200, "{answer}");
    }
    assert!(request(pair.addresses[0], "GET /health HTTP/1.1\r\nHost: x\r\n\r\n").is_err());
}
