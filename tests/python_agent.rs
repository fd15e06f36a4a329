//! Acceptance: what an independent agent sends through a network that breaks is stored exactly once and in order.
//!
//! ```text
//!  python3 telemetryx_agent.py  ─▶  proxy that cuts  ─▶  server process  ─▶  events.db, read here
//! ```
#![cfg(feature = "sqlite")]

mod support;

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};
use serde_json::Value;
use support::proxy::{CutPlan, Proxy};
use support::seed;
use support::server::{Server, wait_until};

/// For everything an agent sends to be acknowledged: a debug build, a busy machine, and pauses of full jitter.
const AGENT_TIMEOUT: Duration = Duration::from_secs(240);
/// Without a new row in the table.
const SINK_TIMEOUT: Duration = Duration::from_secs(60);
const EXIT_TIMEOUT: Duration = Duration::from_secs(30);

fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/python").join(name)
}

/// A Python agent on its way. Dropping it ends it.
struct Agent {
    child: Child,
    name: String,
    report: PathBuf,
}

impl Agent {
    /// Starts sending counters named `count` with the values 1, 2, 3 … `events`.
    fn start(name: &str, address: SocketAddr, events: u64, frame_events: u64, directory: &Path) -> Self {
        let report = directory.join(format!("{name}.stderr"));
        let child = Command::new("python3")
            .arg(tool("telemetryx_agent.py"))
            .args([&address.to_string(), "--name", name, "--count", &events.to_string()])
            .args(["--frame-events", &frame_events.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&report).unwrap())
            .spawn()
            .expect("python3 (3.8 or later) is installed");
        Self { child, name: name.to_owned(), report }
    }

    /// Waits for its end and returns its summary. Panics with what it reported if not all is acknowledged.
    fn finish(mut self) -> Value {
        let ended = wait_until(AGENT_TIMEOUT, || self.child.try_wait().unwrap().is_some());
        let report = fs::read_to_string(&self.report).unwrap();
        assert!(ended, "{} still sends after {AGENT_TIMEOUT:?}:\n{report}", self.name);
        let summary = std::io::read_to_string(self.child.stdout.take().unwrap()).unwrap();
        assert!(self.child.wait().unwrap().success(), "{}: {summary}\n{report}", self.name);
        println!("{}: {summary}", self.name);
        serde_json::from_str(&summary).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill(); // fails only if it has ended
        let _ = self.child.wait();
    }
}

/// Reads the rows in the order of their positions while they arrive. Each agent's values must be 1, 2, 3 … `events`.
fn assert_stored_once_and_in_order(database: &Path, agents: &[&str], events: u64) {
    let database = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    let mut rows = database
        .prepare("SELECT position, agent, name, value FROM events WHERE position > ?1 ORDER BY position LIMIT 100000")
        .unwrap();
    let mut stored: HashMap<&str, u64> = agents.iter().map(|&agent| (agent, 0)).collect();
    let (mut last_position, total) = (i64::MIN, events * agents.len() as u64);
    while stored.values().sum::<u64>() < total {
        let before = last_position;
        let grown = wait_until(SINK_TIMEOUT, || {
            let mut page = rows.query(params![last_position]).unwrap();
            while let Some(row) = page.next().unwrap() {
                let (agent, name): (String, String) = (row.get(1).unwrap(), row.get(2).unwrap());
                let value: f64 = row.get(3).unwrap();
                last_position = row.get(0).unwrap();
                let count = stored.get_mut(agent.as_str()).unwrap_or_else(|| panic!("nobody is named {agent}"));
                *count += 1;
                assert_eq!((name.as_str(), value), ("count", *count as f64), "{agent} at position {last_position}");
            }
            last_position > before
        });
        assert!(grown, "{stored:?} of {events} each are stored, and no more within {SINK_TIMEOUT:?}");
    }
    // Neither more than was sent, nor anything that came late to a position already read.
    let count: i64 = database.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
    assert_eq!((count as u64, stored), (total, agents.iter().map(|&agent| (agent, events)).collect()));
}

/// Cuts after up to so many bytes towards the server, or up to 125 answers back, half of the time with a reset.
fn cutting(bytes: u64) -> CutPlan {
    CutPlan { seed: seed(), bytes: 0..bytes, answer_bytes: 0..4_000, reset_percent: 50, ..CutPlan::default() }
}

#[test]
fn a_million_events_through_a_network_that_cuts_are_stored_once_and_in_order() {
    const EVENTS: u64 = 500_000;
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), &[]);
    let proxy = Proxy::start(server.address(), cutting(800_000)).unwrap();
    let names = ["first", "second"];
    let agents = names.map(|name| Agent::start(name, proxy.address(), EVENTS, 500, directory.path()));
    let summaries = agents.map(Agent::finish);

    assert_stored_once_and_in_order(&directory.path().join("events.db"), &names, EVENTS);
    let reconnects: u64 = summaries.iter().map(|summary| summary["reconnects"].as_u64().unwrap()).sum();
    println!("{} connections, {} cuts, {reconnects} reconnects", proxy.connections(), proxy.cuts());
    assert!(proxy.cuts() >= 20 && reconnects >= 20, "the network was too good for a test");
    server.terminate();
    assert!(server.wait(EXIT_TIMEOUT).success(), "{}", server.log());
}

#[test]
fn killing_the_server_under_load_loses_and_doubles_nothing() {
    const EVENTS: u64 = 100_000;
    const KILLS: u64 = 3;
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), &[]);
    let proxy = Proxy::start(server.address(), cutting(100_000)).unwrap();
    let agent = Agent::start("killed", proxy.address(), EVENTS, 20, directory.path());
    for _ in 0..KILLS {
        let connections = proxy.connections();
        let reached = wait_until(AGENT_TIMEOUT, || proxy.connections() > connections + 1);
        assert!(reached, "the agent does not connect any more:\n{}", server.log());
        server.kill();
        server = Server::start(directory.path(), &[]);
        proxy.retarget(server.address());
    }
    proxy.calm();
    agent.finish();
    assert_stored_once_and_in_order(&directory.path().join("events.db"), &["killed"], EVENTS);
    server.terminate();
    assert!(server.wait(EXIT_TIMEOUT).success(), "{}", server.log());
}

#[test]
fn the_agent_passes_its_own_tests() {
    let output = Command::new("python3").arg(tool("test_agent.py")).output().expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
