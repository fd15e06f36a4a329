//! Agents and HTTP clients that push numbered events through whatever happens, and check each word of the server
//! against what it said before.
//!
//! ```text
//!  until stopped: send up to `frames_in_flight` ─▶ hear ACKs ─▶ forget what is acknowledged ─┐
//!       ▲                                                                                   │ connection ends
//!       └── resend the rest, byte by byte the same ◀── WELCOME: what was ACKed is known ◀────┘
//! ```

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use telemetryx::event::proto::Event;
use telemetryx::random::Random;
use telemetryx::wire::{AckLevel, FrameKind, GoawayCode, Hello, Welcome};

use super::agent::{RawAgent, batch, data, hello, hello_bytes};
use super::http;
use super::ledger::{self, Ledger, Sender};
use super::server::wait_until;

/// Before another attempt to connect: no backoff, the test wants its server back under load at once.
const RETRY: Duration = Duration::from_millis(20);

/// Who sends what, how fast.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub seed: u64,
    /// One agent each.
    pub agents: Vec<AckLevel>,
    /// One HTTP client each; it posts one event at a time.
    pub posters: Vec<AckLevel>,
    /// Most events in a frame; each frame draws its own number, now and then 0.
    pub frame_events_max: u64,
    pub frames_in_flight: usize,
    /// Longest pause before a frame; each draws its own.
    pub pause_max: Duration,
    /// After one frame in so many, an agent connects anew and leaves its connection open (R5); 0: never.
    pub takeover_one_in: u64,
    /// What an agent sends, by seed, its name and the number of the event.
    pub event: fn(u64, &str, u64) -> Event,
}

impl Plan {
    /// Eight agents, most at level synced, some at written and delivered, and two HTTP clients, at some thousand events
    /// a second.
    pub(crate) fn mixed(seed: u64) -> Self {
        use AckLevel::{Delivered, Synced, Written};
        Self {
            seed,
            agents: vec![Synced, Written, Synced, Delivered, Synced, Written, Synced, Delivered],
            posters: vec![Synced, Delivered],
            frame_events_max: 12,
            frames_in_flight: 16,
            pause_max: Duration::from_millis(4),
            takeover_one_in: 0,
            event: ledger::event,
        }
    }
}

/// A load on its way. It goes on until [`Load::finish`].
pub(crate) struct Load {
    seed: u64,
    shared: Arc<Shared>,
    senders: Vec<JoinHandle<Sender>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    sent: AtomicU64,
}

impl Load {
    pub(crate) fn start(address: SocketAddr, plan: &Plan) -> Self {
        let shared = Arc::new(Shared::default());
        let agents = plan.agents.iter().enumerate().map(|(index, &level)| {
            let agent = Agent::new(index as u8, level, address, plan, &shared);
            thread::spawn(move || agent.run())
        });
        let posters = plan.posters.iter().enumerate().map(|(index, &level)| {
            let (name, seed, shared) = (format!("http-{index}"), plan.seed, shared.clone());
            let pause = plan.pause_max;
            thread::spawn(move || post(&name, level, seed, pause, address, &shared))
        });
        Self { seed: plan.seed, senders: agents.chain(posters).collect(), shared }
    }

    /// Events acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(SeqCst)
    }

    /// Events sent so far, acknowledged or not.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(SeqCst)
    }

    /// Waits until so many events more are acknowledged. Panics when they are not in time, or when a sender met what
    /// must not be.
    pub(crate) fn wait_for_acknowledged(&self, more: u64, timeout: Duration) {
        let target = self.acknowledged() + more;
        let reached = wait_until(timeout, || self.acknowledged() >= target || self.has_failed());
        assert!(!self.has_failed(), "a sender gave up: its words are above");
        assert!(reached, "{} of {target} events are acknowledged within {timeout:?}", self.acknowledged());
    }

    /// No new events from now on; returns when all that were sent are acknowledged.
    pub(crate) fn finish(self, timeout: Duration) -> Ledger {
        self.shared.stop.store(true, SeqCst);
        let finished = wait_until(timeout, || self.senders.iter().all(JoinHandle::is_finished));
        let (acknowledged, sent) = (self.acknowledged(), self.sent());
        assert!(finished, "{acknowledged} of {sent} events are acknowledged within {timeout:?} of the end");
        let senders = self.senders.into_iter().map(|sender| sender.join().expect("a sender met what must not be"));
        Ledger { seed: self.seed, senders: senders.collect() }
    }

    fn has_failed(&self) -> bool {
        // None ends before it is told to, but by a panic.
        self.senders.iter().any(JoinHandle::is_finished)
    }
}

/// An agent that survives the server: it keeps its id, its epoch and every frame until that is acknowledged.
struct Agent {
    name: String,
    id: [u8; 16],
    level: AckLevel,
    address: SocketAddr,
    plan: Plan,
    shared: Arc<Shared>,
    random: Random,
    epoch: u64,
    server_id: Option<[u8; 16]>,
    /// Seq, bytes and events of what is not acknowledged.
    unacknowledged: VecDeque<(u64, Vec<u8>, u64)>,
    acked_seq: u64,
    last_seq: u64,
    events: u64,
    interruptions: u64,
    /// The connection before this one, if the agent has left it open.
    left_open: Option<RawAgent>,
}

impl Agent {
    fn new(index: u8, level: AckLevel, address: SocketAddr, plan: &Plan, shared: &Arc<Shared>) -> Self {
        Self {
            name: format!("agent-{index}"),
            id: [index + 1; 16],
            level,
            address,
            plan: plan.clone(),
            shared: shared.clone(),
            random: Random::seeded(plan.seed.wrapping_add(u64::from(index))),
            epoch: 0,
            server_id: None,
            unacknowledged: VecDeque::new(),
            acked_seq: 0,
            last_seq: 0,
            events: 0,
            interruptions: 0,
            left_open: None,
        }
    }

    fn run(mut self) -> Sender {
        while self.talk().is_err() {
            self.interruptions += 1;
            thread::sleep(RETRY);
        }
        let Self { name, events, interruptions, .. } = self;
        Sender { name, events, exactly_once: true, interruptions }
    }

    /// One connection. `Ok`: all is acknowledged, and no more is wanted.
    fn talk(&mut self) -> io::Result<()> {
        let mut connection = RawAgent::try_connect(self.address)?;
        let hello = Hello {
            ack: Ok(Some(self.level)),
            oldest_seq: self.acked_seq + 1,
            name: &self.name,
            ..hello(self.id, self.epoch)
        };
        connection.stream.write_all(&hello_bytes(hello))?;
        self.welcome(&mut connection)?;
        for (_, bytes, _) in &self.unacknowledged {
            connection.stream.write_all(bytes)?;
        }
        loop {
            let stop = self.shared.stop.load(SeqCst);
            if stop && self.unacknowledged.is_empty() {
                connection.stream.shutdown(Shutdown::Write)?;
                while connection.next()?.is_some() {}
                return Ok(());
            }
            if !stop && self.unacknowledged.len() < self.plan.frames_in_flight {
                self.send_frame(&mut connection)?;
                if self.takes_over() {
                    self.left_open = Some(connection);
                    return Err(ErrorKind::ConnectionAborted.into());
                }
            }
            self.hear(&mut connection)?;
        }
    }

    fn takes_over(&mut self) -> bool {
        let one_in = self.plan.takeover_one_in;
        one_in > 0 && self.random.next_u64().is_multiple_of(one_in)
    }

    fn welcome(&mut self, connection: &mut RawAgent) -> io::Result<()> {
        let answer = connection.next()?.filter(|answer| answer.header.kind == FrameKind::Welcome);
        let welcome = Welcome::decode(&answer.ok_or(ErrorKind::ConnectionAborted)?.payload).expect("a sound WELCOME");
        let Self { name, acked_seq, last_seq, .. } = self;
        assert_eq!(welcome.ack, self.level, "{name}: another level than it asked for");
        assert_eq!(welcome.server_id, *self.server_id.get_or_insert(welcome.server_id), "{name}: another log");
        assert!(welcome.last_seq >= *acked_seq, "{name}: {acked_seq} was acknowledged, now {}", welcome.last_seq);
        assert!(welcome.last_seq <= *last_seq, "{name}: sent up to {last_seq}, known {}", welcome.last_seq);
        if self.epoch != 0 {
            assert_eq!(welcome.epoch, self.epoch, "{name}: another epoch");
            // An agent of which the server has no frame is forgotten when its connection ends.
            assert!(welcome.resumed || *acked_seq == 0, "{name}: the session was not resumed");
        }
        self.epoch = welcome.epoch;
        self.acknowledge(welcome.last_seq);
        Ok(())
    }

    fn send_frame(&mut self, connection: &mut RawAgent) -> io::Result<()> {
        thread::sleep(self.random.below(self.plan.pause_max));
        let count = self.random.next_u64() % (self.plan.frame_events_max + 1);
        let events =
            (self.events + 1..=self.events + count).map(|number| (self.plan.event)(self.plan.seed, &self.name, number));
        let payload = if count == 0 { Vec::new() } else { batch(events.collect()) };
        self.last_seq += 1;
        self.events += count;
        self.shared.sent.fetch_add(count, SeqCst);
        let bytes = data(self.last_seq, &payload);
        // Kept before it leaves: an error may come after the server has it.
        self.unacknowledged.push_back((self.last_seq, bytes.clone(), count));
        connection.stream.write_all(&bytes)
    }

    /// Waits for ACKs while nothing may be sent; otherwise takes those that are there.
    fn hear(&mut self, connection: &mut RawAgent) -> io::Result<()> {
        let must_wait = self.shared.stop.load(SeqCst) || self.unacknowledged.len() >= self.plan.frames_in_flight;
        if !must_wait && !connection.has_unread()? {
            return Ok(());
        }
        let answer = connection.next()?.ok_or(ErrorKind::ConnectionAborted)?;
        let (kind, seq, name) = (answer.header.kind, answer.header.seq, &self.name);
        match kind {
            FrameKind::Ack => {
                assert!(seq >= self.acked_seq, "{name}: {} was acknowledged, now {seq}", self.acked_seq);
                assert!(seq <= self.last_seq, "{name}: {seq} is acknowledged, {} was sent", self.last_seq);
                self.acknowledge(seq);
                Ok(())
            }
            FrameKind::Goaway => {
                let code = answer.goaway().expect("a known code");
                let own_fault = matches!(code, GoawayCode::Protocol | GoawayCode::SeqGap);
                assert!(code.retry() && !own_fault, "{name}: GOAWAY({code:?})");
                Err(ErrorKind::ConnectionAborted.into())
            }
            kind => panic!("{name}: {kind:?} in answer to sound frames"),
        }
    }

    fn acknowledge(&mut self, seq: u64) {
        let known = self.unacknowledged.partition_point(|(first, _, _)| *first <= seq);
        let events = self.unacknowledged.drain(..known).map(|(_, _, events)| events).sum();
        self.shared.acknowledged.fetch_add(events, SeqCst);
        self.acked_seq = self.acked_seq.max(seq);
    }
}

/// Posts event after event, each until it is answered 200.
fn post(name: &str, level: AckLevel, seed: u64, pause: Duration, address: SocketAddr, shared: &Shared) -> Sender {
    let query = format!("?ack={}", level.name());
    let (mut number, mut interruptions) = (0, 0);
    while !shared.stop.load(SeqCst) {
        number += 1;
        let text = ledger::body(seed, name, number);
        let (event, source) = (ledger::NAME, name);
        let body = format!(r#"{{"name":"{event}","source":"{source}","value":{number},"body":"{text}"}}"#);
        shared.sent.fetch_add(1, SeqCst);
        loop {
            match http::post(address, &query, &body) {
                Ok((200, _)) => break,
                Ok((status, answer)) => assert!(matches!(status, 503 | 504), "{name}: {status} {answer}"),
                Err(_) => {}
            }
            interruptions += 1;
            thread::sleep(RETRY);
        }
        shared.acknowledged.fetch_add(1, SeqCst);
        thread::sleep(pause);
    }
    Sender { name: name.to_owned(), events: number, exactly_once: false, interruptions }
}
