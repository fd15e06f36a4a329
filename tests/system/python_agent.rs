//! Acceptance: what an independent agent sends through a network that breaks is stored exactly once and in order.
//!
//! ```text
//!  python3 telemetryx_agent.py  ─▶  proxy that cuts  ─▶  server process  ─▶  events.db, read here
//! ```

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::proxy::{CutPlan, Proxy};
use crate::support::seed;
use crate::support::server::{Server, wait_until};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// For everything an agent sends to be acknowledged: a debug build, a busy machine, and pauses of full jitter.
const AGENT_TIMEOUT: Duration = Duration::from_secs(240);
/// Without a new row in the table.
const SINK_TIMEOUT: Duration = Duration::from_secs(60);
/// More than `PATIENT`: an orderly end delivers what was received.
const EXIT_TIMEOUT: Duration = Duration::from_secs(90);
const PATIENT: &[&str] = &["server.drain_timeout=60s"];

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

/// Waits until as many events are stored as were sent, ends the server in order, and reads the table in the order of
/// positions: each agent's values must be 1, 2, 3 … `events`. Without a log every life of the server has its own id and
/// its own positions.
fn assert_stored_once_and_in_order(mut server: Server, data_dir: &Path, agents: &[&str], events: u64) {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = Connection::open_with_flags(data_dir.join("events.db"), flags).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    let (mut count, total) = (0, events * agents.len() as u64);
    while count < total {
        let before = count;
        let grown = wait_until(SINK_TIMEOUT, || {
            count = database.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, i64>(0)).unwrap() as u64;
            count > before
        });
        assert!(grown, "{count} of {total} events are stored, and no more within {SINK_TIMEOUT:?}");
    }
    server.terminate();
    assert!(server.wait(EXIT_TIMEOUT).success(), "{}", server.log());

    let mut stored: HashMap<String, u64> = agents.iter().map(|&agent| (agent.to_owned(), 0)).collect();
    let mut statement = database
        .prepare(
            "SELECT agent, name, value, position FROM events JOIN (SELECT server_id, min(received_at) AS born FROM \
             events GROUP BY server_id) USING (server_id) ORDER BY born, position",
        )
        .unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let (agent, name): (String, String) = (row.get(0).unwrap(), row.get(1).unwrap());
        let (value, position): (f64, i64) = (row.get(2).unwrap(), row.get(3).unwrap());
        let count = stored.get_mut(&agent).unwrap_or_else(|| panic!("nobody is named {agent}"));
        *count += 1;
        assert_eq!((name.as_str(), value), ("count", *count as f64), "{agent} at position {position}");
    }
    assert!(stored.values().all(|&count| count == events), "{stored:?}, and {events} were sent by each");
}

#[test]
fn a_million_events_through_a_network_that_cuts_are_stored_once_and_in_order() {
    const EVENTS: u64 = 500_000;
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), PATIENT);
    // Cut after up to 800 kB of events or 125 answers, half of the time with a reset.
    let plan =
        CutPlan { seed: seed(), bytes: 0..800_000, answer_bytes: 0..4_000, reset_percent: 50, ..CutPlan::default() };
    let proxy = Proxy::start(server.address(), plan).unwrap();
    let names = ["first", "second"];
    let agents = names.map(|name| Agent::start(name, proxy.address(), EVENTS, 500, directory.path()));
    let summaries = agents.map(Agent::finish);
    let reconnects: u64 = summaries.iter().map(|summary| summary["reconnects"].as_u64().unwrap()).sum();
    println!("{} connections, {} cuts, {reconnects} reconnects", proxy.connections(), proxy.cuts());
    assert!(proxy.cuts() >= 20 && reconnects >= 20, "the network was too good for a test");
    assert_stored_once_and_in_order(server, directory.path(), &names, EVENTS);
}

#[test]
fn orderly_restarts_under_load_lose_and_double_nothing() {
    const EVENTS: u64 = 200_000;
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), PATIENT);
    // Nothing is cut: without a log, an acknowledgement that is lost together with the server's memory means a double.
    let proxy = Proxy::start(server.address(), CutPlan::default()).unwrap();
    let agent = Agent::start("restarted", proxy.address(), EVENTS, 20, directory.path());
    for _ in 0..3 {
        let forwarded = proxy.forwarded_bytes();
        let loaded = wait_until(AGENT_TIMEOUT, || proxy.forwarded_bytes() > forwarded + 500_000);
        assert!(loaded, "the agent sends no more:\n{}", server.log());
        server.terminate();
        assert!(server.wait(EXIT_TIMEOUT).success(), "{}", server.log());
        server = Server::start(directory.path(), PATIENT);
        proxy.retarget(server.address());
    }
    assert_eq!(agent.finish()["reconnects"], 3);
    assert_stored_once_and_in_order(server, directory.path(), &["restarted"], EVENTS);
}

#[test]
fn the_agent_passes_its_own_tests() {
    let output = Command::new("python3").arg(tool("test_agent.py")).output().expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
