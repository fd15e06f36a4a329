//! R3: an agent that is done sends BYE, and the server forgets it at once. Programs that run for a moment, as from cron,
//! must not use up `server.max_agents`.

use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::agent::{RawAgent, batch, data, hello, named};
use crate::support::certificates::Issued;
use crate::support::http::metric;
use crate::support::proxy::{CutPlan, Proxy};
use crate::support::server::{Server, own_address, wait_until};
use telemetryx::wal::{DirStorage, inspect};
use telemetryx::wire::{AckLevel, FrameKind, GoawayCode, Header, Hello};

/// Of one run of a program: a debug build, a busy machine.
const RUN_TIMEOUT: Duration = Duration::from_secs(60);
const EXIT_TIMEOUT: Duration = Duration::from_secs(60);
const BYE: FrameKind = FrameKind::Bye;

fn send(address: SocketAddr) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.args(["send", "--timeout", "50", "--to", &address.to_string()]);
    command
}

fn python_agent(address: SocketAddr) -> Command {
    let mut command = Command::new("python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/python/telemetryx_agent.py"));
    command.arg(address.to_string());
    command
}

/// Gives the program one line and waits until it has ended well.
fn run(command: Command) {
    run_with(command, b"one line\n");
}

fn run_with(mut command: Command, input: &[u8]) {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("the program starts");
    // Where it has ended already, its status and its report say why.
    let _ = child.stdin.take().unwrap().write_all(input);
    let ended = wait_until(RUN_TIMEOUT, || child.try_wait().unwrap().is_some());
    if !ended {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let (status, report) = (output.status, String::from_utf8_lossy(&output.stderr));
    assert!(ended && status.success(), "ended by itself: {ended}, {status}: {report}");
}

fn count(directory: &Path) -> u64 {
    let Ok(database) = rusqlite::Connection::open(directory.join("events.db")) else { return 0 };
    database.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, i64>(0)).unwrap_or(0) as u64
}

fn expect_stored(directory: &Path, events: u64) {
    let stored = wait_until(RUN_TIMEOUT, || count(directory) >= events);
    assert_eq!(count(directory), events, "complete: {stored}");
}

/// Runs beside `server.max_agents = 5`, with restarts between them.
fn many_runs(program: fn(SocketAddr) -> Command, runs: u64) {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("server.address={}", own_address());
    let settings = [address.as_str(), "server.max_agents=5"];
    let mut server = Server::start(directory.path(), &settings);
    for number in 0..runs {
        run(program(server.address()));
        // At most one mark comes back with each kill: that of an agent whose BYE was not in the log yet.
        if [runs / 5, runs * 3 / 5].contains(&number) {
            server.kill();
            server = Server::start(directory.path(), &settings);
        }
        if [runs * 2 / 5, runs * 4 / 5].contains(&number) {
            server.terminate();
            assert!(server.wait(EXIT_TIMEOUT).success(), "{}", server.log());
            server = Server::start(directory.path(), &settings);
        }
    }
    expect_stored(directory.path(), runs);
    let agents = agents_known(server, directory.path());
    assert!(agents <= 2, "{agents} agents are remembered, and at most one for each kill may be");
}

#[test]
fn a_hundred_runs_of_send_do_not_use_up_max_agents() {
    many_runs(send, 100);
}

/// A limit holds back events. BYE has none, and an agent that has everything acknowledged waits for two seconds only.
#[test]
fn agents_above_their_limit_are_forgotten_too() {
    const RUNS: usize = 3;
    let certificate = Issued::self_signed("localhost");
    let files = tempfile::tempdir().unwrap();
    let [cert, key] = [("cert.pem", &certificate.pem), ("key.pem", &certificate.key)].map(|(name, text)| {
        std::fs::write(files.path().join(name), text).unwrap();
        files.path().join(name)
    });
    for with_tls in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let tls = [format!("tls.cert_file={}", cert.display()), format!("tls.key_file={}", key.display())];
        let mut settings = vec!["limits.agent_events_per_second=1", "limits.burst=1s"];
        settings.extend(tls.iter().map(String::as_str).filter(|_| with_tls));
        let server = Server::start(directory.path(), &settings);
        for _ in 0..RUNS {
            let mut program = send(server.address());
            if with_tls {
                program.arg("--ca-file").arg(&cert);
            }
            run_with(program, "line\n".repeat(60).as_bytes());
        }
        let byes = || metric(server.address(), "telemetryx_connections_closed_total{reason=\"bye\"}");
        wait_until(RUN_TIMEOUT, || byes() == Some(RUNS as f64));
        assert_eq!(byes(), Some(RUNS as f64), "with TLS: {with_tls}");
        assert_eq!(agents_known(server, directory.path()), 0, "with TLS: {with_tls}");
    }
}

#[test]
fn many_runs_of_the_python_agent_do_not_use_up_max_agents() {
    many_runs(python_agent, 30);
}

#[test]
fn an_agent_whose_last_ack_is_lost_resumes_and_is_forgotten_then() {
    const RUNS: u64 = 12;
    for program in [send as fn(SocketAddr) -> Command, python_agent] {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start(directory.path(), &["server.max_agents=5"]);
        // WELCOME takes 88 bytes: of the first ACK one byte arrives. The second WELCOME acknowledges instead.
        let plan = CutPlan { answer_bytes: 89..90, reset_percent: 50, ..CutPlan::default() };
        let proxy = Proxy::start(server.address(), plan).unwrap();
        for _ in 0..RUNS {
            run(program(proxy.address()));
        }
        // Each first connection was cut, each second one ended by BYE. The proxy counts a cut once both sides are closed.
        wait_until(RUN_TIMEOUT, || proxy.cuts() >= RUNS);
        assert_eq!((proxy.cuts(), proxy.connections()), (RUNS, 2 * RUNS));
        expect_stored(directory.path(), RUNS);
        assert_eq!(agents_known(server, directory.path()), 0);
    }
}

/// How many agents the log remembers after an orderly end.
fn agents_known(mut server: Server, directory: &Path) -> usize {
    server.terminate();
    assert!(server.wait(EXIT_TIMEOUT).success(), "{}", server.log());
    inspect(&DirStorage::existing(&directory.join("wal")), false).unwrap().marks.len()
}

fn one(seq: u64) -> Vec<u8> {
    data(seq, &batch(vec![named("event")]))
}

fn bye() -> Vec<u8> {
    Header::empty(BYE, 0, 0).encode().to_vec()
}

#[test]
fn room_for_another_agent_is_there_as_soon_as_one_has_sent_bye() {
    for settings in [&["server.max_agents=1"][..], &["server.max_agents=1", "wal.enabled=false"]] {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start(directory.path(), settings);
        for agent in 1..=20 {
            let (mut raw, welcome) = RawAgent::greeted(server.address(), hello([agent; 16], 0));
            assert!(!welcome.resumed);
            raw.send(&one(1));
            raw.acknowledged(1);
            raw.send(&bye());
            assert!(raw.next().unwrap().is_none(), "the server closes");
        }
        expect_stored(directory.path(), 20);
    }
}

#[test]
fn an_agent_that_sent_bye_is_unknown_when_it_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let level = Hello { ack: Ok(Some(AckLevel::Delivered)), ..hello([7; 16], 0) };
    let (mut raw, first) = RawAgent::greeted(server.address(), level);
    raw.send(&one(1));
    raw.acknowledged(1);
    raw.send(&bye());
    assert!(raw.next().unwrap().is_none());
    let (mut raw, again) = RawAgent::greeted(server.address(), Hello { oldest_seq: 2, ..hello([7; 16], first.epoch) });
    assert_eq!((again.epoch, again.last_seq, again.resumed), (first.epoch, 1, false));
    raw.send(&one(2));
    raw.acknowledged(2);
    // Half-closing without BYE: the mark stays.
    raw.finish();
    expect_stored(directory.path(), 2);
    assert_eq!(agents_known(server, directory.path()), 1);
}

#[test]
fn an_agent_that_comes_back_after_bye_is_known_again_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), &[]);
    let mut epoch = 0;
    for _ in 0..2 {
        let (mut raw, welcome) = RawAgent::greeted(server.address(), hello([7; 16], 0));
        raw.send(&[one(1), one(2)].concat());
        raw.acknowledged(2);
        raw.send(&bye());
        assert!(raw.next().unwrap().is_none());
        assert!(!welcome.resumed && welcome.epoch != epoch);
        epoch = welcome.epoch;
    }
    let (mut raw, welcome) = RawAgent::greeted(server.address(), hello([7; 16], 0));
    raw.send(&one(1));
    raw.acknowledged(1);
    server.kill();
    let server = Server::start(directory.path(), &[]);
    // Frame 1 is sent again, as after a lost ACK.
    let (mut raw, again) = RawAgent::greeted(server.address(), hello([7; 16], welcome.epoch));
    assert_eq!((again.last_seq, again.resumed), (1, true));
    raw.send(&[one(1), one(2)].concat());
    raw.acknowledged(2);
    expect_stored(directory.path(), 6);
}

#[test]
fn a_bye_with_a_payload_is_a_protocol_error_and_forgets_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let (mut raw, welcome) = RawAgent::greeted(server.address(), hello([7; 16], 0));
    raw.send(&one(1));
    raw.acknowledged(1);
    raw.send(&[&Header::of_payload(BYE, 0, 0, b"?").encode()[..], b"?"].concat());
    assert_eq!(raw.answer(FrameKind::Goaway).goaway(), Some(GoawayCode::Protocol));
    let _ = raw.stream.shutdown(Shutdown::Both);
    let (_, again) = RawAgent::greeted(server.address(), Hello { oldest_seq: 2, ..hello([7; 16], welcome.epoch) });
    assert_eq!((again.last_seq, again.resumed), (1, true));
}
