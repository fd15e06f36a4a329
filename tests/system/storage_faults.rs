//! Disks that fail, hang and fill up, logs that reach their bound or are not the ones they were: nothing acknowledged
//! is lost, nothing is skipped in silence, and what can go on by itself does.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::agent::{RawAgent, batch, data, hello, named};
use crate::support::disk::{Disk, skip};
use crate::support::fifo::Fifo;
use crate::support::http::{self, get};
use crate::support::ledger::{self, Ledger, rows_stored};
use crate::support::load::{Load, Plan};
use crate::support::seed;
use crate::support::server::{Server, own_address, wait_until};
use crate::support::strace::{Strace, newest_segment};
use telemetryx::wire::{AckLevel, FrameKind, GoawayCode};

const TIMEOUT: Duration = Duration::from_secs(60);

/// As much as the server takes: fills disks and logs soon.
fn flood(seed: u64) -> Plan {
    let agents = vec![AckLevel::Synced, AckLevel::Written, AckLevel::Synced];
    Plan {
        agents,
        posters: vec![AckLevel::Synced],
        frame_events_max: 100,
        pause_max: Duration::ZERO,
        ..Plan::mixed(seed)
    }
}

/// Waits until `/ready` is 503 for this reason alone, or 200 without one.
fn wait_for_ready(address: SocketAddr, reason: Option<&str>) {
    let expected = match reason {
        Some(reason) => (503, vec![serde_json::Value::from(reason)]),
        None => (200, vec![]),
    };
    let mut said = String::new();
    let reached = wait_until(TIMEOUT, || {
        let (status, body) = get(address, "/ready");
        let page: serde_json::Value = serde_json::from_str(&body).unwrap();
        said = format!("{status} {body}");
        (status, page["reasons"].as_array().cloned().unwrap_or_default()) == expected
    });
    assert!(reached, "/ready says {said}, expected {expected:?}");
}

/// Waits until nothing has been acknowledged for a while; the server still answers. Returns how much was.
fn wait_for_standstill(load: &Load) -> u64 {
    let (mut acknowledged, mut since) = (load.acknowledged(), Instant::now());
    let still = wait_until(TIMEOUT, || {
        if load.acknowledged() != acknowledged {
            (acknowledged, since) = (load.acknowledged(), Instant::now());
        }
        since.elapsed() > Duration::from_secs(2)
    });
    assert!(still, "events are acknowledged although there is no place to keep them");
    acknowledged
}

/// Everything is in the table, a fresh event too, and the server ends in order.
fn assert_settled(mut server: Server, ledger: &Ledger, database: &Path) {
    let (status, answer) = http::post(server.address(), "?ack=delivered", r#"{"name":"fresh"}"#).unwrap();
    assert_eq!(status, 200, "a fresh event does not flow: {answer}");
    let stored = wait_until(TIMEOUT, || rows_stored(database) > ledger.events());
    server.terminate();
    assert!(server.wait(TIMEOUT).success(), "{}", server.log());
    let outcome = ledger.compare_sqlite(database);
    println!("{outcome}");
    assert!(stored, "not everything is stored: {outcome}");
    outcome.assert_clean();
}

#[test]
fn a_failed_fdatasync_ends_the_process_and_what_was_acknowledged_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let at = own_address();
    let address = format!("server.address={at}");
    let settings = [&address as &str];
    let mut server = Server::start(directory.path(), &settings);
    let (mut witness, _) = RawAgent::greeted(at, hello([99; 16], 0));
    let load = Load::start(at, &Plan::mixed(seed()));
    load.wait_for_acknowledged(500, TIMEOUT);
    let segment = newest_segment(directory.path());
    let strace = match Strace::inject(server.pid(), "fdatasync:error=EIO:when=5", &segment) {
        Ok(strace) => strace,
        Err(reason) => return skip("a failed fdatasync", &reason),
    };
    assert_eq!(server.wait(TIMEOUT).code(), Some(1), "{}", server.log());
    drop(strace);
    let log = server.log();
    let last = log.lines().last().unwrap_or_default();
    println!("last line: {last}");
    assert!(last.contains("sync") && last.contains("Input/output error"), "the last line does not say why:\n{log}");
    let goaway = witness.answer(FrameKind::Goaway);
    assert_eq!(goaway.goaway(), Some(GoawayCode::Storage));

    let server = Server::start(directory.path(), &settings);
    load.wait_for_acknowledged(500, TIMEOUT);
    let ledger = load.finish(TIMEOUT);
    assert_settled(server, &ledger, &directory.path().join("events.db"));
}

#[test]
fn an_agent_whose_frames_wait_unread_hears_that_the_log_failed() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), &[]);
    let (mut agent, _) = RawAgent::greeted(server.address(), hello([1; 16], 0));
    let fault = "fdatasync:error=EIO:delay_enter=3000000:when=1";
    let strace = match Strace::inject(server.pid(), fault, &newest_segment(directory.path())) {
        Ok(strace) => strace,
        Err(reason) => return skip("a failed fdatasync", &reason),
    };
    // More than its window: the server does not read the rest, and closing the socket would reset the connection.
    let event = telemetryx::event::proto::Event { body: "b".repeat(60_000), ..named("a") };
    let payload = batch(vec![event; 16]);
    let mut stream = agent.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        (1..=64).map(|seq| std::io::Write::write_all(&mut stream, &data(seq, &payload))).find(Result::is_err).is_none()
    });
    assert_eq!(server.wait(TIMEOUT).code(), Some(1), "{}", server.log());
    drop(strace);
    let all_written = sender.join().unwrap();
    println!("the server read all 60 MB: {all_written}");
    let heard: Vec<_> = std::iter::from_fn(|| agent.next().ok().flatten()).collect();
    assert_eq!(heard.last().and_then(|answer| answer.goaway()), Some(GoawayCode::Storage), "{heard:?}");
}

#[test]
fn a_log_that_fails_while_the_server_drains_promises_nothing_and_the_exit_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), &[]);
    let at = server.address();
    let (mut agent, _) = RawAgent::greeted(at, hello([1; 16], 0));
    // Long enough to be told to end meanwhile.
    let fault = "fdatasync:error=EIO:delay_enter=8000000:when=1";
    let strace = match Strace::inject(server.pid(), fault, &newest_segment(directory.path())) {
        Ok(strace) => strace,
        Err(reason) => return skip("a failed fdatasync", &reason),
    };
    agent.send(&data(1, &batch(vec![named("a")])));
    let request = std::thread::spawn(move || http::post(at, "", r#"{"name":"b"}"#));
    let received =
        |protocol| http::metric(at, &format!(r#"telemetryx_events_received_total{{protocol="{protocol}"}}"#));
    let both = wait_until(TIMEOUT, || received("frames") == Some(1.0) && received("http") == Some(1.0));
    assert!(both, "{}", server.log());
    server.terminate();
    assert_eq!(server.wait(TIMEOUT).code(), Some(1), "{}", server.log());
    drop(strace);
    let log = server.log();
    assert!(log.contains("draining connections"), "{log}");
    assert!(log.lines().last().unwrap_or_default().contains("Input/output error"), "{log}");
    let heard: Vec<_> = std::iter::from_fn(|| agent.next().ok().flatten()).collect();
    assert!(!heard.iter().any(|answer| answer.header.kind == FrameKind::Ack && answer.header.seq > 0), "{heard:?}");
    assert_eq!(heard.last().and_then(|answer| answer.goaway()), Some(GoawayCode::Storage));
    let (status, answer) = request.join().unwrap().unwrap();
    assert_eq!(status, 503, "{answer}");
}

#[test]
fn r1_while_a_commit_stalls_the_last_ack_is_repeated_every_second() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let (mut agent, _) = RawAgent::greeted(server.address(), hello([1; 16], 0));
    agent.send(&data(1, &batch(vec![named("a")])));
    agent.acknowledged(1);
    let stall = "fdatasync:delay_enter=4500000:when=1";
    let strace = match Strace::inject(server.pid(), stall, &newest_segment(directory.path())) {
        Ok(strace) => strace,
        Err(reason) => return skip("a stalled fdatasync", &reason),
    };
    agent.send(&data(2, &batch(vec![named("b")])));
    let sent = Instant::now();
    let mut repeated = Vec::new();
    loop {
        let answer = agent.answer(FrameKind::Ack);
        if answer.header.seq == 2 {
            break;
        }
        assert_eq!(answer.header.seq, 1);
        repeated.push(sent.elapsed());
    }
    println!("ACK(1) again after {repeated:?}, ACK(2) after {:?}", sent.elapsed());
    assert!(sent.elapsed() >= Duration::from_secs(4), "the commit did not stall");
    assert!((3..=6).contains(&repeated.len()), "every second, so that an agent can tell slow from dead");
    assert_eq!(get(server.address(), "/health").0, 200, "the loop goes on while a commit stalls");
    drop(strace);
}

/// A disk with 8 MiB left, and a file on it that can be taken away to make space.
fn small_disk(ballast_bytes: usize) -> Result<(Disk, PathBuf, PathBuf), String> {
    let disk = Disk::tmpfs(ballast_bytes as u64 + (8 << 20))?;
    let (data_dir, ballast) = (disk.path().join("data"), disk.path().join("ballast"));
    fs::create_dir(&data_dir).unwrap();
    fs::write(&ballast, vec![1; ballast_bytes]).unwrap();
    Ok((disk, data_dir, ballast))
}

#[test]
fn a_full_disk_pauses_and_everything_flows_again_when_space_returns() {
    let (_disk, data_dir, ballast) = match small_disk(16 << 20) {
        Ok(disk) => disk,
        Err(reason) => return skip("a full disk", &reason),
    };
    // The sinks are on another disk, and one takes nothing: the log fills its disk and cannot get smaller.
    let directory = tempfile::tempdir().unwrap();
    let fifo = Fifo::make(directory.path().join("fifo"));
    let [kind, path] = fifo.sink();
    let database = directory.path().join("events.db");
    let at = own_address();
    let table = format!("sinks.sqlite.path={}", database.display());
    let address = format!("server.address={at}");
    let settings = ["wal.segment_bytes=1MiB", &kind, &path, "sinks.sqlite.kind=sqlite", &table, &address];
    let mut server = Server::start(&data_dir, &settings);
    let load = Load::start(at, &flood(seed()));
    wait_for_ready(at, Some("disk_full"));
    let acknowledged = wait_for_standstill(&load);
    println!("{acknowledged} of {} events acknowledged when the disk was full", load.sent());
    assert_eq!(get(at, "/health").0, 200);

    // A kill takes nothing of it: agents compare each WELCOME with what was acknowledged.
    server.kill();
    fs::write(&ballast, vec![1; 14 << 20]).unwrap();
    server = Server::start(&data_dir, &settings);
    wait_for_ready(at, Some("disk_full"));
    wait_for_standstill(&load);

    // Space returns; nobody does anything else.
    fs::remove_file(&ballast).unwrap();
    wait_for_ready(at, None);
    load.wait_for_acknowledged(500, TIMEOUT);
    let ledger = load.finish(TIMEOUT);
    let reader = fifo.read();
    let read = wait_until(TIMEOUT, || reader.count() >= ledger.events());
    assert!(read, "the stuck sink has {} of {} events", reader.count(), ledger.events());
    assert_settled(server, &ledger, &database);
    let outcome = ledger.compare(reader.finish().rows());
    println!("the sink that was stuck: {outcome}");
    outcome.assert_clean();
}

#[test]
fn a_disk_that_log_and_table_fill_together_pauses_and_flows_again() {
    // On a slow machine the load goes on for a while before it is seen that the disk was full: all of it is to fit.
    let (_disk, data_dir, ballast) = match small_disk(88 << 20) {
        Ok(disk) => disk,
        Err(reason) => return skip("a full disk", &reason),
    };
    let at = own_address();
    let settings = ["wal.segment_bytes=256KiB", "wal.keep=0s", &format!("server.address={at}")];
    let server = Server::start(&data_dir, &settings);
    let load = Load::start(at, &flood(seed()));
    wait_for_ready(at, Some("disk_full"));
    fs::remove_file(&ballast).unwrap();
    wait_for_ready(at, None);
    load.wait_for_acknowledged(500, TIMEOUT);
    let ledger = load.finish(TIMEOUT);
    assert_settled(server, &ledger, &data_dir.join("events.db"));
}

#[test]
fn a_log_at_its_bound_pauses_until_the_sink_that_holds_it_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = Fifo::make(directory.path().join("fifo"));
    let [kind, path] = fifo.sink();
    let settings = ["wal.segment_bytes=64KiB", "wal.max_bytes=1MiB", "wal.keep=0s", &kind, &path];
    let mut server = Server::start(directory.path(), &settings);
    let at = server.address();
    let load = Load::start(at, &flood(seed()));
    wait_for_ready(at, Some("log_full"));
    wait_for_standstill(&load);
    let bytes = http::metric(at, "telemetryx_wal_bytes").expect("the log's size is a metric");
    assert!(bytes <= f64::from(1 << 20) * 1.1, "{bytes} bytes of log");
    assert_eq!(http::metric(at, "telemetryx_wal_bytes_needed"), Some(bytes), "the sink needs all of it");
    let waiting = http::metric(at, "telemetryx_ring_depth").unwrap();
    assert!(waiting > 0.0, "frames that are not acknowledged wait in the ring");
    let not_ready = |reason: &str| http::metric(at, &format!("telemetryx_not_ready{{reason=\"{reason}\"}}"));
    assert_eq!((not_ready("log_full"), not_ready("disk_full")), (Some(1.0), Some(0.0)));
    assert_eq!(get(at, "/health").0, 200);

    let reader = fifo.read();
    wait_for_ready(at, None);
    assert!(wait_until(TIMEOUT, || not_ready("log_full") == Some(0.0)));
    load.wait_for_acknowledged(2_000, TIMEOUT);
    let ledger = load.finish(TIMEOUT);
    let read = wait_until(TIMEOUT, || reader.count() >= ledger.events());
    server.terminate();
    assert!(server.wait(TIMEOUT).success(), "{}", server.log());
    let outcome = ledger.compare(reader.finish().rows());
    println!("{outcome}");
    assert!(read, "{outcome}");
    outcome.assert_clean();
}

/// Sends and reads on one connection: the status and the whole answer, and the time that it took.
fn send(stream: &mut TcpStream, bytes: &[u8]) -> (String, Duration) {
    let sent = Instant::now();
    stream.write_all(bytes).unwrap();
    let mut answer = vec![0; 4096];
    let bytes = stream.read(&mut answer).unwrap();
    (String::from_utf8_lossy(&answer[..bytes]).into_owned(), sent.elapsed())
}

/// A client with retries stores its event once.
#[test]
fn while_the_log_accepts_nothing_a_request_is_refused_at_once_and_nothing_of_it_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = Fifo::make(directory.path().join("fifo"));
    let [kind, path] = fifo.sink();
    let settings = ["wal.segment_bytes=64KiB", "wal.max_bytes=128KiB", "wal.keep=0s", &kind, &path];
    let server = Server::start(directory.path(), &settings);
    let at = server.address();
    let connect = || {
        let stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream
    };
    let request = |name: &str| {
        let body = format!(r#"{{"name":"{name}"}}"#);
        let head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json";
        format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    // Its body ends when the log is full already: the head is accepted, and all but the last byte sent.
    let whole = request("early").replace("Host: x", "Host: x\r\nExpect: 100-continue");
    let (head, body) = whole.split_at(whole.find("\r\n\r\n").unwrap() + 4);
    let (first, last) = body.as_bytes().split_at(body.len() - 1);
    let begin = || {
        let mut stream = connect();
        let (answer, _) = send(&mut stream, head.as_bytes());
        if answer.starts_with("HTTP/1.1 100 ") {
            stream.write_all(first).unwrap();
            return Some(stream);
        }
        None
    };
    let mut early = None;
    let commits = || http::metric(at, "telemetryx_wal_sync_seconds_count").unwrap_or_default();
    let (mut agent, _) = RawAgent::greeted(at, hello([1; 16], 0));
    let filler = batch(vec![telemetryx::event::proto::Event { body: "b".repeat(20_000), ..named("filler") }]);
    let mut sent = 0;
    while get(at, "/ready").0 == 200 {
        sent += 1;
        assert!(sent < 1_000, "the log does not fill");
        // As late as possible: a body that takes too long is refused for that.
        early = begin().or(early);
        let before = commits();
        agent.send(&data(sent, &filler));
        wait_until(TIMEOUT, || commits() > before || get(at, "/ready").0 != 200);
    }
    wait_for_ready(at, Some("log_full"));
    let mut early = early.expect("the log is not full from the start");
    early.set_nonblocking(true).unwrap();
    let unanswered = early.peek(&mut [0]).map_err(|error| error.kind());
    assert_eq!(unanswered, Err(std::io::ErrorKind::WouldBlock), "answered before its body ended");
    early.set_nonblocking(false).unwrap();
    let (answer, took) = send(&mut early, last);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "), "{answer}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    for attempt in 0..4 {
        let (answer, took) = send(&mut connect(), request("important").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "), "{attempt}: {answer}");
        assert!(answer.contains("log is full") && took < Duration::from_secs(20), "{took:?}: {answer}");
    }
    // Neither is the body asked for.
    let expecting = request("important").replace("Host: x", "Host: x\r\nExpect: 100-continue");
    let (head, _) = expecting.split_once("\r\n\r\n").unwrap();
    let (answer, _) = send(&mut connect(), format!("{head}\r\n\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");

    let reader = fifo.read();
    wait_for_ready(at, None);
    let (answer, _) = send(&mut connect(), request("important").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    agent.acknowledged(sent);
    assert!(wait_until(TIMEOUT, || reader.count() > sent), "{} of {}", reader.count(), sent + 1);
    let lines = reader.finish();
    let named = |name: &str| lines.events.iter().filter(|event| event["name"] == name).count() as u64;
    assert_eq!((named("filler"), named("important"), named("early")), (sent, 1, 0));
}

#[test]
fn a_log_at_its_bound_is_no_reason_not_to_start_while_its_store_does_not_answer() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("events.db");
    let at = own_address();
    let address = format!("server.address={at}");
    let settings = ["wal.segment_bytes=64KiB", "wal.max_bytes=256KiB", "wal.keep=0s", &address];
    let mut server = Server::start(directory.path(), &settings);
    let holder = rusqlite::Connection::open(&database).unwrap();
    holder.busy_timeout(TIMEOUT).unwrap();
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    // Commits are small: each segment is full, and so is the log.
    let load = Load::start(at, &Plan { frame_events_max: 12, frames_in_flight: 4, ..flood(seed()) });
    wait_for_ready(at, Some("log_full"));
    for _ in 0..2 {
        server.kill();
        server = Server::start(directory.path(), &settings);
        assert!(wait_until(TIMEOUT, || server.log().contains("has not answered yet")), "{}", server.log());
        assert_eq!(get(at, "/health").0, 200);
    }
    drop(holder);
    wait_for_ready(at, None);
    load.wait_for_acknowledged(500, TIMEOUT);
    assert_settled(server, &load.finish(TIMEOUT), &database);
}

#[test]
fn a_sink_that_may_lose_its_oldest_events_holds_up_nobody_and_its_losses_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = Fifo::make(directory.path().join("fifo"));
    let [kind, path] = fifo.sink();
    let may_lose = ["sinks.stuck.required=false", "sinks.stuck.on_full=drop_oldest"];
    let bounded = ["wal.segment_bytes=64KiB", "wal.max_bytes=2MiB", "wal.keep=0s"];
    let settings = [&bounded[..], &may_lose, &[&kind, &path, "sinks.sqlite.kind=sqlite"]].concat();
    let server = Server::start(directory.path(), &settings);
    let at = server.address();
    let load = Load::start(at, &Plan { frame_events_max: 30, ..Plan::mixed(seed()) });
    // Twice what the log may hold. The other sink may fill it, too, while it is slow: but not for ever.
    load.wait_for_acknowledged(25_000, TIMEOUT);
    let dropped = || -> u64 {
        let page = get(at, "/metrics").1;
        let lines = page.lines().filter(|line| line.starts_with("telemetryx_events_dropped_total"));
        let of_sink = lines.filter(|line| line.contains(r#"sink="stuck""#));
        of_sink.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    };
    let ledger = load.finish(TIMEOUT);
    wait_for_ready(at, None);
    let (status, _) = http::post(at, "?ack=delivered", r#"{"name":"fresh"}"#).unwrap();
    assert_eq!(status, 200, "delivered does not wait for a sink that is not required");

    // The other sink has everything; the stuck one what was not counted, the newest, in order.
    let reader = fifo.read();
    let database = directory.path().join("events.db");
    let complete = wait_until(TIMEOUT, || reader.count() + dropped() > ledger.events());
    let (counted, lines) = (dropped(), reader.finish());
    let outcome = ledger.compare(lines.rows());
    println!("{counted} counted as dropped by the stuck sink, which has: {outcome}");
    assert!(counted > 0, "nothing was dropped: the log was too large for this test");
    assert!(complete, "{} read and {counted} dropped of {}", lines.events.len(), ledger.events() + 1);
    assert_eq!(lines.events.len() as u64 + counted, ledger.events() + 1, "each is delivered or counted");
    assert_eq!((outcome.stored_twice, outcome.out_of_order, outcome.altered, outcome.sent_by_nobody), (0, 0, 0, 0));
    assert_settled(server, &ledger, &database);
}

/// Starts, sends `names`, has them delivered, ends in order.
fn run_and_store(data_dir: &Path, agent_epoch: u64, first_seq: u64, names: &[&str]) -> u64 {
    let mut server = Server::start(data_dir, &["wal.keep=0s"]);
    let delivered = Ok(Some(AckLevel::Delivered));
    let greeting = telemetryx::wire::Hello { ack: delivered, oldest_seq: first_seq, ..hello([5; 16], agent_epoch) };
    let (mut agent, welcome) = RawAgent::greeted(server.address(), greeting);
    for (seq, name) in (welcome.last_seq + 1..).zip(names) {
        agent.send(&data(seq, &batch(vec![named(name)])));
    }
    agent.acknowledged(welcome.last_seq + names.len() as u64);
    agent.finish();
    server.terminate();
    assert!(server.wait(TIMEOUT).success(), "{}", server.log());
    welcome.epoch
}

/// (server_id, position, name) in the order of positions.
fn stored(data_dir: &Path) -> Vec<(String, i64, String)> {
    let database = ledger::open(&data_dir.join("events.db"));
    let mut statement =
        database.prepare("SELECT server_id, position, name FROM events ORDER BY received_at, position").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

fn names(data_dir: &Path) -> Vec<String> {
    stored(data_dir).into_iter().map(|(_, _, name)| name).collect()
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().expect("there is a cp command").success());
}

#[test]
fn a_deleted_log_begins_anew_under_another_server_id_and_the_sink_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let epoch = run_and_store(directory.path(), 0, 1, &["a", "b"]);
    fs::remove_dir_all(directory.path().join("wal")).unwrap();
    // The agent goes on where it was: a server that has lost its state adopts it.
    assert_eq!(run_and_store(directory.path(), epoch, 3, &["c", "d"]), epoch);
    assert_eq!(names(directory.path()), ["a", "b", "c", "d"]);
    let stored = stored(directory.path());
    assert_eq!(stored[0].0, stored[1].0);
    assert_eq!(stored[2].0, stored[3].0);
    assert_ne!(stored[0].0, stored[2].0, "positions of one log must not mean another's events");
}

#[test]
fn an_agent_that_asked_twice_for_its_first_epoch_goes_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), &[]);
    let agents = 1..=16;
    let epochs: Vec<u64> = agents
        .clone()
        .map(|id| {
            // The first connection ends before WELCOME is read, and nothing was sent on it.
            drop(RawAgent::greeted(server.address(), hello([id; 16], 0)));
            let gone = || http::metric(server.address(), "telemetryx_connections") == Some(1.0);
            assert!(wait_until(TIMEOUT, gone), "the connection that asks is the only one");
            let (mut agent, welcome) = RawAgent::greeted(server.address(), hello([id; 16], 0));
            agent.send(&data(1, &batch(vec![named("a")])));
            agent.acknowledged(1);
            welcome.epoch
        })
        .collect();
    server.kill();
    let server = Server::start(directory.path(), &[]);
    for (id, epoch) in agents.zip(epochs) {
        let (_, welcome) = RawAgent::greeted(server.address(), hello([id; 16], epoch));
        assert_eq!((welcome.resumed, welcome.last_seq), (true, 1), "agent {id}");
    }
}

#[test]
fn a_store_that_answers_late_and_has_seen_more_than_the_log_takes_no_event_for_another() {
    let directory = tempfile::tempdir().unwrap();
    let (wal, older) = (directory.path().join("wal"), directory.path().join("older"));
    run_and_store(directory.path(), 0, 1, &["a", "b"]);
    copy(&wal, &older);
    run_and_store(directory.path(), 0, 1, &["c", "d", "e"]);
    fs::remove_dir_all(&wal).unwrap();
    copy(&older, &wal);

    // Somebody holds the database until after the port has opened.
    let holder = rusqlite::Connection::open(directory.path().join("events.db")).unwrap();
    holder.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; PRAGMA user_version = 1; COMMIT").unwrap();
    let mut server = Server::start(directory.path(), &["wal.keep=0s"]);
    assert!(wait_until(TIMEOUT, || server.log().contains("has not answered yet")), "{}", server.log());
    for name in ["f", "g", "h"] {
        let body = format!(r#"{{"name":"{name}"}}"#);
        assert_eq!(http::post(server.address(), "?ack=synced", &body).unwrap().0, 200);
    }
    let lag = http::metric(server.address(), "telemetryx_sink_lag_events{sink=\"sqlite\"}").unwrap();
    assert!(lag < 10.0, "positions that were left out are no lag: {lag}");
    drop(holder);
    assert!(wait_until(TIMEOUT, || server.log().contains("older copy")), "{}", server.log());
    server.terminate();
    server.wait(TIMEOUT);

    run_and_store(directory.path(), 0, 1, &["i"]);
    assert_eq!(names(directory.path()), ["a", "b", "c", "d", "e", "f", "g", "h", "i"]);
}

#[test]
fn a_stop_while_the_log_is_full_says_how_many_events_acknowledged_as_received_are_lost() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = Fifo::make(directory.path().join("fifo"));
    let [kind, path] = fifo.sink();
    let bounded = ["wal.segment_bytes=64KiB", "wal.max_bytes=128KiB", "wal.keep=0s", "server.drain_timeout=1s"];
    let mut server = Server::start(directory.path(), &[&bounded[..], &[&kind, &path]].concat());
    let body = format!(r#"{{"name":"e","body":"{}"}}"#, "x".repeat(10_000));
    let mut sent: u64 = 0;
    while get(server.address(), "/ready").0 == 200 {
        assert!(sent < 1_000, "the log does not fill");
        match http::post(server.address(), "?ack=received", &body).unwrap().0 {
            200 => sent += 1,
            status => assert_eq!(status, 503, "it became full just now"),
        }
    }
    // From then on nothing more is taken.
    assert_eq!(http::post(server.address(), "?ack=received", &body).unwrap().0, 503);
    server.terminate();
    assert_eq!(server.wait(TIMEOUT).code(), Some(1), "{}", server.log());
    let log = server.log();
    let last = log.lines().last().unwrap_or_default();
    println!("{sent} sent; {last}");
    assert!(last.contains("events that were acknowledged as `received`") && last.contains("are lost"), "{log}");
    let lost: u64 = last.split(' ').find_map(|word| word.parse().ok()).expect("it says how many");
    let server = Server::start(directory.path(), &[&kind as &str, &path]);
    let reader = fifo.read();
    let rest = sent - lost;
    assert!(wait_until(TIMEOUT, || reader.count() >= rest), "{} of {rest}\n{}", reader.count(), server.log());
    assert_eq!(reader.finish().events.len() as u64, rest, "stored or told as lost");
}

#[test]
fn a_log_restored_from_an_older_copy_is_told_and_skips_nothing_in_silence() {
    let directory = tempfile::tempdir().unwrap();
    let (wal, older) = (directory.path().join("wal"), directory.path().join("older"));
    run_and_store(directory.path(), 0, 1, &["a", "b"]);
    copy(&wal, &older);
    run_and_store(directory.path(), 0, 1, &["c", "d", "e"]);
    let newest = stored(directory.path()).iter().map(|(_, position, _)| *position).max().unwrap();
    fs::remove_dir_all(&wal).unwrap();
    copy(&older, &wal);

    let settings = ["wal.keep=0s"];
    let mut server = Server::start(directory.path(), &settings);
    let told = format!("the store holds events up to position {newest}");
    let down = wait_until(TIMEOUT, || get(server.address(), "/ready").1.contains(r#""sqlite":"down""#));
    let (status, page) = get(server.address(), "/ready");
    assert!(down && status == 200, "{status} {page}");
    assert!(wait_until(TIMEOUT, || server.log().contains(&told)), "{}", server.log());
    // What is acknowledged meanwhile must not be skipped later, as if the store had it already.
    assert_eq!(http::post(server.address(), "?ack=synced", r#"{"name":"f"}"#).unwrap().0, 200);
    server.terminate();
    server.wait(TIMEOUT);

    // One more start: everything acknowledged so far arrives.
    run_and_store(directory.path(), 0, 1, &["g"]);
    assert_eq!(names(directory.path()), ["a", "b", "c", "d", "e", "f", "g"]);
    let positions: Vec<i64> = stored(directory.path()).iter().map(|(_, position, _)| *position).collect();
    println!("positions {positions:?}");
    assert!(positions.is_sorted() && positions[5] > newest, "{positions:?}");
}
