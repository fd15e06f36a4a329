//! Two clients with tokens of their own: the agent of one is out of the other's reach (R5).

use std::time::Duration;

use crate::support::agent::{RawAgent, batch, data, hello, hello_bytes, named};
use crate::support::server::{Server, wait_until};
use telemetryx::wire::{FrameKind, Goaway, GoawayCode, Hello};

const TIMEOUT: Duration = Duration::from_secs(60);
const AGENT: [u8; 16] = [1; 16];
const OWNER: &[u8] = b"token-of-api";

/// The agent of the client `api`, which is connected and has sent its first frame; and its epoch.
struct Bench {
    owner: RawAgent,
    epoch: u64,
    server: Server,
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, format!("token-of-{name}\n")).unwrap();
            path.display().to_string()
        };
        let settings = [
            format!("clients.api.token_file={}", file("api")),
            format!("clients.edge.token_file={}", file("edge")),
            format!("server.tokens_file={}", file("nobody")),
            // The two may come to different loops.
            "server.event_loops=2".to_owned(),
        ];
        let settings: Vec<_> = settings.iter().map(String::as_str).collect();
        let server = Server::start(directory.path(), &settings);
        let hello = Hello { token: OWNER, ..hello(AGENT, 0) };
        let (mut owner, welcome) = RawAgent::greeted(server.address(), hello);
        owner.send(&data(1, &batch(vec![named("first")])));
        owner.acknowledged(1);
        Self { owner, epoch: welcome.epoch, server, directory }
    }

    /// What the server answers to a HELLO for the same agent with another token, followed by what the thief sends at once.
    fn refused(&self, token: &[u8], epoch: u64, then: &[u8]) {
        let mut thief = RawAgent::connect(self.server.address());
        thief.send(&[&hello_bytes(Hello { token, ..hello(AGENT, epoch) })[..], then].concat());
        let answer = thief.answer(FrameKind::Goaway);
        assert_eq!(answer.goaway(), Some(GoawayCode::Auth), "{}", String::from_utf8_lossy(token));
        // Neither its number nor its epoch is shown.
        let goaway = Goaway::decode(&answer.payload).unwrap();
        assert_eq!((answer.header.seq, goaway.text.contains(&self.epoch.to_string())), (0, false), "{goaway:?}");
        assert!(thief.next().unwrap().is_none(), "nothing follows");
    }

    /// The names of all events that are stored, once there are so many.
    #[track_caller]
    fn stored(&self, count: usize) -> Vec<String> {
        let names = || -> rusqlite::Result<Vec<String>> {
            let database = rusqlite::Connection::open(self.directory.path().join("events.db"))?;
            let mut query = database.prepare("SELECT name FROM events ORDER BY position")?;
            let names = query.query_map([], |row| row.get(0))?;
            names.collect()
        };
        assert!(wait_until(TIMEOUT, || names().is_ok_and(|names| names.len() >= count)), "{:?}", names());
        names().unwrap()
    }
}

/// Every token but the owner's.
const OTHERS: [&[u8]; 3] = [b"token-of-edge", b"token-of-nobody", b""];

#[test]
fn another_client_does_not_take_over_an_agent_that_is_connected() {
    let mut bench = Bench::new();
    for token in OTHERS {
        bench.refused(token, bench.epoch, b"");
        bench.refused(token, 0, b"");
    }
    bench.owner.send(&data(2, &batch(vec![named("second")])));
    bench.owner.acknowledged(2);
}

#[test]
fn another_client_does_not_take_over_an_agent_that_has_left() {
    let mut bench = Bench::new();
    drop(std::mem::replace(&mut bench.owner, RawAgent::connect(bench.server.address())));
    for token in OTHERS {
        bench.refused(token, bench.epoch, b"");
    }
    let again = Hello { token: OWNER, oldest_seq: 2, ..hello(AGENT, bench.epoch) };
    let (_, welcome) = RawAgent::greeted(bench.server.address(), again);
    assert_eq!((welcome.epoch, welcome.last_seq), (bench.epoch, 1), "its numbers continue");
}

#[test]
fn what_another_client_sends_for_an_agent_is_not_stored() {
    let mut bench = Bench::new();
    let forged = data(2, &batch(vec![named("forged")]));
    for token in OTHERS {
        bench.refused(token, bench.epoch, &forged);
    }
    // The number is not used up.
    bench.owner.send(&data(2, &batch(vec![named("second")])));
    bench.owner.acknowledged(2);
    assert_eq!(bench.stored(2), ["first", "second"]);
}

#[test]
fn another_client_does_not_have_an_agent_forgotten() {
    let mut bench = Bench::new();
    let bye = telemetryx::wire::Header::empty(FrameKind::Bye, 0, 0).encode();
    for token in OTHERS {
        bench.refused(token, bench.epoch, &bye);
    }
    drop(std::mem::replace(&mut bench.owner, RawAgent::connect(bench.server.address())));
    let again = Hello { token: OWNER, ..hello(AGENT, bench.epoch) };
    let (mut owner, welcome) = RawAgent::greeted(bench.server.address(), again);
    assert_eq!((welcome.epoch, welcome.last_seq), (bench.epoch, 1));
    // The same frame again is a duplicate, as before.
    owner.send(&data(1, &batch(vec![named("first")])));
    owner.acknowledged(1);
    owner.send(&data(2, &batch(vec![named("second")])));
    owner.acknowledged(2);
    assert_eq!(bench.stored(2), ["first", "second"]);
}

#[test]
fn each_client_has_agents_of_its_own_beside_the_other() {
    let mut bench = Bench::new();
    let theirs = Hello { token: b"token-of-edge", ..hello([2; 16], 0) };
    let (mut edge, _) = RawAgent::greeted(bench.server.address(), theirs);
    edge.send(&data(1, &batch(vec![named("edge")])));
    edge.acknowledged(1);
    // And not the other way round.
    let mut thief = RawAgent::connect(bench.server.address());
    thief.send(&hello_bytes(Hello { token: OWNER, ..hello([2; 16], 0) }));
    assert_eq!(thief.answer(FrameKind::Goaway).goaway(), Some(GoawayCode::Auth));
    bench.owner.send(&data(2, &batch(vec![named("second")])));
    bench.owner.acknowledged(2);
    let mut stored = bench.stored(3);
    stored.sort_unstable();
    assert_eq!(stored, ["edge", "first", "second"]);
    let page = crate::support::http::get(bench.server.address(), "/metrics").1;
    for line in ["{client=\"api\"} 2\n", "{client=\"edge\"} 1\n"] {
        assert!(page.contains(&format!("telemetryx_client_events_total{line}")), "{line} {page}");
    }
}
