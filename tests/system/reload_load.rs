//! Reloads under load: agents, an HTTP client and three sinks, while tokens are revoked, a limit, steps and the log filter change, and
//! the file is wrong now and then. Nobody is disconnected but by a revoked token, and every acknowledged event is stored once.
//!
//! `TELEMETRYX_TORTURE_ROUNDS=50` is the long run (`make reload`): 50 reloads with 1,000 agents.
#![cfg(feature = "redis")]

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use crate::support::Ended;
use crate::support::agent::{RawAgent, batch, data, hello, named};
use crate::support::http::{self, metric};
use crate::support::server::{Server, wait_until};
use crate::support::stores::Redis;
use telemetryx::event::proto::Event;
use telemetryx::wire::{FrameKind, GoawayCode, Hello};

const DEADLINE: Duration = Duration::from_secs(60);
/// For what sinks have not stored when the load ends.
const CATCH_UP: Duration = Duration::from_secs(300);
const THREADS: usize = 8;
/// An agent's frame: a log that every sink gets, one that a step of the file leaves out now and then, and a counter that is aggregated
/// in SQLite now and then.
const EVENTS: u64 = 3;
const COUNTER: i32 = 3;

/// What is sent, and when it stops.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// The highest number of a revoked token: those up to it may be closed.
    revoked: AtomicU64,
    closed: AtomicU64,
}

/// What one agent has sent.
struct Sent {
    name: String,
    /// Frames 1, 2, 3 … are acknowledged up to here.
    acknowledged: u64,
    /// One more may be stored: its connection was closed before the answer.
    sent: u64,
}

/// Sends for its agents in turn: a frame for each, then the acknowledgement of each.
fn send_all(mut agents: Vec<(RawAgent, Sent, u64)>, shared: &Shared) -> Vec<Sent> {
    let mut done = Vec::new();
    while !shared.stop.load(SeqCst) {
        for (agent, sent, _) in &mut agents {
            sent.sent += 1;
            // It may have been closed meanwhile: whether that was right is seen below.
            let _ = agent.stream.write_all(&data(sent.sent, &batch(events(&sent.name, sent.sent))));
        }
        agents.retain_mut(|(agent, sent, token)| {
            let is_open = acknowledged(agent, sent, *token, shared);
            if !is_open {
                let sent = Sent { name: sent.name.clone(), ..*sent };
                done.push(sent);
            }
            is_open
        });
        thread::sleep(Duration::from_millis(20));
    }
    done.extend(agents.into_iter().map(|(_, sent, _)| sent));
    done
}

/// Waits for the acknowledgement of the last frame. `false`: the token of the agent was revoked.
fn acknowledged(agent: &mut RawAgent, sent: &mut Sent, token: u64, shared: &Shared) -> bool {
    while sent.acknowledged < sent.sent {
        match agent.next() {
            Ok(Some(answer)) if answer.header.kind == FrameKind::Ack => sent.acknowledged = answer.header.seq,
            Ok(Some(answer)) => {
                assert_eq!(answer.goaway(), Some(GoawayCode::Auth), "{}: {answer:?}", sent.name);
                assert!(token > 0 && token <= shared.revoked.load(SeqCst), "{}: its token was not revoked", sent.name);
                shared.closed.fetch_add(1, SeqCst);
                return false;
            }
            other => panic!("{}: the connection ended without a word: {other:?}", sent.name),
        }
    }
    true
}

fn events(source: &str, number: u64) -> Vec<Event> {
    let event = |name: &str| Event { source: source.to_owned(), value: Some(number as f64), ..named(name) };
    let counter =
        Event { kind: COUNTER, value: Some(1.0), time_unix_nano: 1_700_000_000_000_000_000, ..event("count") };
    vec![event("entry"), event("noise"), counter]
}

/// Connects agents whose token is `common`, and those of one token each that is revoked later. Returns them by thread.
fn connect(address: SocketAddr, common: usize, revocable: u64) -> Vec<Vec<(RawAgent, Sent, u64)>> {
    let mut threads: Vec<Vec<_>> = (0..THREADS).map(|_| Vec::new()).collect();
    let tokens = (0..common).map(|_| 0).chain(1..=revocable);
    for (index, token) in tokens.enumerate() {
        let name = format!("agent-{index}");
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(index as u64 + 1).to_le_bytes());
        let text = if token == 0 { "common".to_owned() } else { format!("revoked-{token}") };
        let hello = Hello { token: text.as_bytes(), name: &name, ..hello(id, 0) };
        let (agent, _) = RawAgent::greeted(address, hello);
        threads[index % THREADS].push((agent, Sent { name, acknowledged: 0, sent: 0 }, token));
    }
    threads
}

/// The settings of one round.
struct Settings<'a> {
    directory: &'a Path,
    redis: &'a str,
    revocable: u64,
}

impl Settings<'_> {
    /// `revoked`: tokens up to this number are not in the file any more.
    fn write(&self, round: u64, revoked: u64) {
        let tokens: String = (revoked + 1..=self.revocable).map(|token| format!("revoked-{token}\n")).collect();
        let path = self.directory.join("tokens");
        fs::write(&path, format!("common\n{tokens}")).unwrap();
        let is_odd = round % 2 == 1;
        let limit = if is_odd { 1 } else { 0 };
        let filter = if is_odd { "warn,telemetryx::router=debug" } else { "warn" };
        let steps = if is_odd { "exclude = [{ name = [\"noise\"] }]\n" } else { "" };
        let window = if is_odd { "aggregate = { interval = \"10s\" }\nbatch.max_age = \"300ms\"\n" } else { "" };
        let text = format!(
            "[server]\ntokens_file = {path:?}\nevent_loops = 2\n[log]\nfilter = \"{filter}\"\n[[clients]]\nname = \"limited\"\n\
             token_file = {:?}\nevents_per_second = {limit}\n[[sinks]]\nname = \"sqlite\"\n{window}\
             [[sinks]]\nname = \"file\"\npath = \"out.ndjson\"\nrotate_bytes = \"10GiB\"\n{steps}[[sinks]]\nname = \"redis\"\nmaxlen = 0\nurl = \"{}\"\n",
            self.directory.join("client"),
            self.redis
        );
        fs::write(self.directory.join("settings.toml"), text).unwrap();
    }
}

fn reload(data_dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.arg("reload").arg("--data-dir").arg(data_dir).env_remove("TELEMETRYX_CONFIG").output().unwrap()
}

/// The client that has a limit in odd rounds sends 50 events; the status.
fn post(address: SocketAddr) -> u16 {
    let body = "{\"name\":\"posted\",\"source\":\"limited\"}\n".repeat(50);
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nhost: t\r\nconnection: close\r\nauthorization: Bearer limited\r\n\
         content-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    http::request(address, &request).unwrap().0
}

#[test]
fn reloads_under_load_close_only_what_was_revoked_and_lose_and_repeat_nothing() {
    let rounds: Option<u64> = std::env::var("TELEMETRYX_TORTURE_ROUNDS").ok().map(|rounds| rounds.parse().unwrap());
    let (rounds, common, revocable) = rounds.map_or((10, 200, 8), |rounds| (rounds, 960, 40));
    let (directory, redis) = (tempfile::tempdir().unwrap(), Redis::start(&[]));
    let data_dir = directory.path();
    fs::write(data_dir.join("client"), "limited\n").unwrap();
    let url = redis.url();
    let settings = Settings { directory: data_dir, redis: &url, revocable };
    settings.write(0, 0);
    let file = data_dir.join("settings.toml");
    let mut server = Server::launch_with(data_dir, &[], &[("TELEMETRYX_CONFIG", file.to_str().unwrap())]).listening();
    let address = server.address();
    let (shared, agents) = (Shared::default(), connect(address, common, revocable));
    let mut posted = 0;
    let sent: Vec<Sent> = thread::scope(|scope| {
        let ended = Ended(&shared.stop);
        let senders: Vec<_> = agents.into_iter().map(|agents| scope.spawn(|| send_all(agents, &shared))).collect();
        for round in 1..=rounds {
            let revoked = revocable * round / rounds;
            if round % 5 == 0 {
                fs::write(&file, "[limits]\nburst = 1\n").unwrap();
                let output = reload(data_dir);
                let printed = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(
                    output.status.code() == Some(1) && printed.contains("settings.toml:2: limits.burst"),
                    "{printed}"
                );
            }
            shared.revoked.store(revoked, SeqCst);
            settings.write(round, revoked);
            let output = reload(data_dir);
            assert!(output.status.success(), "{output:?}");
            // Not only within a second: when the command has ended.
            let is_limited = round % 2 == 1;
            let statuses = [(); 2].map(|()| post(address));
            assert_eq!(statuses, if is_limited { [200, 429] } else { [200, 200] }, "round {round}");
            posted += if is_limited { 50 } else { 100 };
            assert!(
                wait_until(DEADLINE, || shared.closed.load(SeqCst) == revoked),
                "not all revoked tokens are closed"
            );
            // A long run: the load goes on for a while with each of the settings.
            if rounds > 10 {
                thread::sleep(Duration::from_millis(500));
            }
        }
        drop(ended);
        senders.into_iter().flat_map(|sender| sender.join().expect("a sender met what must not be")).collect()
    });
    let reloads = |result| metric(address, &format!("telemetryx_reloads_total{{result=\"{result}\"}}"));
    assert_eq!((reloads("applied"), reloads("refused")), (Some(rounds as f64), Some((rounds / 5) as f64)));
    for sink in ["sqlite", "file", "redis"] {
        let lag = || metric(address, &format!("telemetryx_sink_lag_events{{sink=\"{sink}\"}}"));
        assert!(wait_until(CATCH_UP, || lag() == Some(0.0)), "{sink}: {:?} events are not delivered", lag());
    }
    server.terminate();
    assert!(server.wait(DEADLINE).success(), "{}", server.log());
    check_stores(data_dir, &redis, &sent, posted);
    let events: u64 = sent.iter().map(|agent| agent.acknowledged * EVENTS).sum();
    println!(
        "{rounds} reloads, {} agents, {events} events of them, {posted} posted: nothing lost, nothing twice",
        sent.len()
    );
}

/// Every store has each event once; of an agent that was disconnected, the frame without an answer may be there or not.
fn check_stores(data_dir: &Path, redis: &Redis, sent: &[Sent], posted: u64) {
    // Frames of each agent, as the file has them.
    let mut entries: HashMap<String, Vec<u64>> = HashMap::new();
    let text = fs::read_to_string(data_dir.join("out.ndjson")).unwrap();
    let mut in_file = HashMap::<String, u64>::new();
    for line in text.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = event["name"].as_str().unwrap();
        *in_file.entry(name.to_owned()).or_default() += 1;
        if name == "entry" {
            let number = event["value"].as_f64().unwrap() as u64;
            entries.entry(event["source"].as_str().unwrap().to_owned()).or_default().push(number);
        }
    }
    let mut frames = 0;
    for Sent { name, acknowledged, sent } in sent {
        let numbers = entries.remove(name).unwrap_or_default();
        let count = numbers.len() as u64;
        assert!(numbers.iter().copied().eq(1..=count), "{name}: each once, in order: {numbers:?}");
        assert!((*acknowledged..=*sent).contains(&count), "{name}: {count} of {acknowledged} to {sent}");
        frames += count;
    }
    assert!(entries.is_empty());
    assert_eq!((in_file["count"], in_file["posted"]), (frames, posted));
    assert!(in_file["noise"] < frames, "the step was in force for a time");

    let rows = rusqlite::Connection::open(data_dir.join("events.db")).unwrap();
    let number = |sql: &str| rows.query_row(sql, [], |row| row.get::<_, f64>(0)).unwrap() as u64;
    for name in ["entry", "noise"] {
        let sql = format!("SELECT count(*) FROM events WHERE name = '{name}'");
        assert_eq!(number(&sql), frames, "{name}");
        let distinct = format!("SELECT count(DISTINCT source || '/' || value) FROM events WHERE name = '{name}'");
        assert_eq!(number(&distinct), frames, "{name}");
    }
    assert_eq!(number("SELECT sum(value) FROM events WHERE name = 'count'"), frames, "sums are exact");
    assert!(number("SELECT count(*) FROM events WHERE name = 'count'") < frames, "the window was in force for a time");
    assert_eq!(number("SELECT count(*) FROM events WHERE name = 'posted'"), posted);

    assert_eq!(redis.cli(&["XLEN", "events:{0}"]).trim().parse::<u64>().unwrap(), frames * EVENTS + posted);
}
