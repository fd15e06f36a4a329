//! A server in one thread, with a clock and a network of the test: the seed of a simulator.
//!
//! ```text
//!  agents ─ bytes, in pieces, cut anywhere ─▶ session ─▶ ingress ─▶ ring ─▶ group commit ─▶ log in memory
//!    ▲                                                                         │
//!    └───────────── WELCOME, ACK, NACK ◀── watermarks ◀────────────────────────┴─▶ worker ─▶ store in memory
//! ```
//!
//! In each turn one of them does one step; a seed decides which, and when a connection is cut, the store or the disk of dead
//! letters fails, or the power does. The clock moves to the next deadline once nothing is left to do, so minutes of backoff
//! take no time. `TELEMETRYX_TEST_SEED` repeats a run.

mod agents;
mod life;
mod store;

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use self::agents::{Client, Fate};
use self::life::{Life, Start};
use self::store::{Letters, Store};
use crate::pipeline::group_commit::Unwritten;
use crate::random::Random;
use crate::router::dead;
use crate::router::tests::counted;
use crate::time::Now;
use crate::wal::tests::memory::{Loss, MemoryStorage};

const AGENTS: usize = 3;
const SEEDS: u64 = 200;
/// Turns in a row without effect after which the clock moves to the next deadline.
const QUIET_TURNS: u32 = 40;
/// A run that takes more does not come to an end.
const TURNS_MAX: u32 = 200_000;

/// How many faults of each kind are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Faults {
    cuts: u32,
    outages: u32,
    answers_lost: u32,
    full_disks: u32,
    restarts: u32,
}

struct Simulation {
    random: Random,
    now: Now,
    storage: MemoryStorage,
    data_dir: tempfile::TempDir,
    store: Store,
    letters: Letters,
    filters: bool,
    clients: Vec<Client>,
    life: Option<Life>,
    faults: Faults,
    /// Whether the power failed at least once.
    was_restarted: bool,
    quiet: u32,
}

/// A directory in memory, where there is one: dead letters are synced.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Simulation {
    fn new(seed: u64, faults: Faults) -> Self {
        let mut random = Random::seeded(seed);
        let now = Now { monotonic: Instant::now(), wall: SystemTime::now() };
        let filters = random.next_u64().is_multiple_of(2);
        let clients = (0..AGENTS).map(|index| Client::new(index, filters, &mut random, now)).collect();
        let store = Store::default();
        store.rows().names_refused = random.next_u64().is_multiple_of(2);
        let mut simulation = Self {
            random,
            now,
            storage: MemoryStorage::default(),
            data_dir: directory(),
            store,
            letters: Letters::default(),
            filters,
            clients,
            life: None,
            faults,
            was_restarted: false,
            quiet: 0,
        };
        simulation.start();
        simulation
    }

    fn start(&mut self) {
        let Self { random, storage, data_dir, store, letters, filters, now, life, .. } = self;
        let start = Start { storage, data_dir: data_dir.path(), store, letters, filters: *filters, now: *now };
        *life = Some(start.life(random));
    }

    /// One of `count` numbers.
    fn draw(&mut self, count: u64) -> u64 {
        self.random.next_u64() % count
    }

    /// Until everything is sent, acknowledged and delivered.
    fn run(&mut self) {
        for _ in 0..TURNS_MAX {
            if self.is_done() {
                return;
            }
            self.turn();
        }
        panic!("it does not come to an end");
    }

    fn is_done(&self) -> bool {
        let Some(life) = &self.life else { return false };
        self.clients.iter().all(Client::is_finished) && !life.has_links() && life.progress.owed_events() == 0
    }

    fn turn(&mut self) {
        self.advance(Duration::from_micros(50));
        let (what, which) = (self.draw(64), self.draw(AGENTS as u64) as usize);
        if what == 63 {
            return self.fault(which);
        }
        let Self { random, now, clients, life: Some(life), .. } = self else { return };
        let client = &mut clients[which];
        let has_effect = match what {
            0..3 => {
                client.queue(random);
                true
            }
            3..15 => client.act(life, *now),
            15..25 => client.receive(life, random, *now),
            25..40 => life.turn(random, *now),
            40..52 => life.step_commit(*now),
            _ => life.step_worker(*now),
        };
        // A client that closes has no effect any more.
        self.quiet = if has_effect && what >= 3 { 0 } else { self.quiet + 1 };
        if self.quiet >= QUIET_TURNS {
            self.skip_to_next_deadline();
        }
    }

    fn advance(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.now.wall += time;
    }

    fn skip_to_next_deadline(&mut self) {
        self.quiet = 0;
        let server = self.life.as_ref().and_then(Life::next_deadline);
        let agents = self.clients.iter().filter_map(|client| client.waits_until);
        if let Some(deadline) = agents.chain(server).min() {
            self.advance(deadline.saturating_duration_since(self.now.monotonic));
        }
    }

    /// The next fault, if one of this kind is left.
    fn fault(&mut self, which: usize) {
        let kind = self.draw(30);
        let Self { random, now, clients, life, faults, store, letters, .. } = self;
        let left = match kind {
            0..4 => &mut faults.cuts,
            4 => &mut faults.outages,
            5 => &mut faults.answers_lost,
            6 => &mut faults.full_disks,
            7 => &mut faults.restarts,
            _ => return,
        };
        let Some(rest) = left.checked_sub(1) else { return };
        *left = rest;
        match (kind, life) {
            (0..4, Some(life)) => clients[which].cut(life, random, *now),
            (4, _) => store.rows().failures = 1 + random.next_u64() % 12,
            (5, _) => store.rows().answers_lost = 1,
            (6, _) => letters.kept().failures = 1 + random.next_u64() % 5,
            _ => self.lose_power(),
        }
    }

    /// Everything in memory is gone, and some of what was not synced.
    fn lose_power(&mut self) {
        self.life = None;
        self.was_restarted = true;
        self.storage.restart(Loss::Random(self.random.next_u64()));
        for client in &mut self.clients {
            client.lose("power loss", self.now);
        }
        self.start();
    }

    /// Ends the server in its order. Then the positions that the sink has passed in this life = delivered + filtered + dead. (Those that are
    /// skipped at a start count for none.)
    fn end(&mut self) {
        let Some(life) = self.life.take() else { return };
        let (began, progress, metrics) = (life.began, life.progress.clone(), life.metrics.clone());
        assert_eq!(life.end(self.now), Unwritten::default());
        let (counted, passed) = (counted(&metrics, "out"), progress.position() - began);
        assert!(counted <= passed, "{counted} events counted, {passed} positions passed");
        assert!(counted == passed || self.was_restarted, "{counted} events counted, {passed} positions passed");
    }

    fn names(&self, fate: Fate) -> Vec<String> {
        let sent = self.clients.iter().flat_map(|client| &client.sent);
        sent.filter(|(_, of)| *of == fate).map(|(name, _)| name.clone()).collect()
    }

    /// Names and positions in the dead letters of the sink, in their order.
    fn dead(&self) -> Vec<(u64, String)> {
        let text = std::fs::read_to_string(dead::path(self.data_dir.path(), "out")).unwrap_or_default();
        let letters = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let named = |letter: serde_json::Value| {
            (letter["position"].as_u64().unwrap(), letter["event"]["name"].as_str().unwrap().to_owned())
        };
        letters.map(named).collect()
    }

    /// Every event that is not left out is in its place once, in the order of its agent; what is sent is what is acknowledged or
    /// refused.
    fn check(&self) {
        let rows = &self.store.rows().rows;
        assert!(rows.is_sorted_by(|one, next| one.0 < next.0), "positions ascend: {rows:?}");
        for client in &self.clients {
            let stored = client.sent.iter().filter(|(_, fate)| *fate == Fate::Stored).map(|(name, _)| name);
            let of_agent =
                client.sent.first().map_or("", |(name, _)| name.trim_start_matches("poison ")).split(' ').next();
            let prefix = format!("{} ", of_agent.unwrap_or_default());
            let found = rows.iter().map(|(_, name)| name).filter(|name| name.starts_with(&prefix));
            assert!(stored.eq(found), "in order: {rows:?}, sent {:?}", client.sent);
            assert_eq!(client.settled_events(), client.sent.len() as u64, "acknowledged or refused");
        }
        assert_eq!(rows.len(), self.names(Fate::Stored).len(), "nothing else");
        let dead = self.dead();
        let distinct: BTreeSet<_> = dead.iter().cloned().collect();
        // A letter is written before its position is passed: after a power loss in between it is written again.
        assert!(dead.len() == distinct.len() || self.was_restarted, "{dead:?}");
        let mut found: Vec<_> = distinct.into_iter().map(|(_, name)| name).collect();
        let mut expected = self.names(Fate::Dead);
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "dead letters of the sink");
        let kept = &self.letters.kept().events;
        let distinct: BTreeSet<_> = kept.iter().cloned().collect();
        assert!(kept.len() == distinct.len() || self.was_restarted, "{kept:?}");
        assert_eq!(distinct, self.names(Fate::Rejected).into_iter().collect(), "dead letters of ingress");
    }
}

/// Runs a seed to its end; returns how long it took by its own clock, and which faults did not come.
fn simulate(seed: u64, faults: Faults) -> (Duration, Faults) {
    let mut simulation = Simulation::new(seed, faults);
    let began = simulation.now.monotonic;
    simulation.run();
    simulation.end();
    simulation.check();
    (simulation.now.monotonic - began, simulation.faults)
}

/// Prints the seed if the test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("TELEMETRYX_TEST_SEED={}", self.0);
        }
    }
}

fn first_seed() -> (u64, u64) {
    match std::env::var("TELEMETRYX_TEST_SEED") {
        Ok(seed) => (seed.parse().expect("TELEMETRYX_TEST_SEED is a number"), 1),
        Err(_) => (Random::from_system().next_u64() >> 32, SEEDS),
    }
}

#[test]
fn without_faults_everything_is_delivered_in_order() {
    let seed = Seed(first_seed().0);
    simulate(seed.0, Faults::default());
}

#[test]
fn through_cuts_outages_full_disks_and_power_losses_every_event_is_stored_or_dead_once() {
    let (first, seeds) = first_seed();
    println!("seeds {first} and the {} that follow", seeds - 1);
    let faults = Faults { cuts: 6, outages: 2, answers_lost: 2, full_disks: 1, restarts: 2 };
    if seeds == 1 {
        let log = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_test_writer().without_time();
        tracing::subscriber::with_default(log.finish(), || simulate(first, faults));
        return;
    }
    let (mut simulated, mut left) = (Duration::ZERO, [0; 5]);
    for seed in first..first + seeds {
        let seed = Seed(seed);
        let (took, Faults { cuts, outages, answers_lost, full_disks, restarts }) = simulate(seed.0, faults);
        simulated += took;
        for (left, of_run) in left.iter_mut().zip([cuts, outages, answers_lost, full_disks, restarts]) {
            *left += of_run;
        }
    }
    let Faults { cuts, outages, answers_lost, full_disks, restarts } = faults;
    let planned = [cuts, outages, answers_lost, full_disks, restarts].map(|planned| planned * seeds as u32);
    println!("{seeds} runs, {simulated:?} by their own clocks; of {planned:?} faults {left:?} did not come");
    assert!(planned.iter().zip(left).all(|(planned, left)| left < planned / 2), "most faults come");
}
