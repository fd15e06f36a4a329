//! The server from one start to the next: ingress, ring, group commit and router, without a thread.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::agents::LEFT_OUT;
use super::store::{Letters, Store};
use crate::batch::Origin;
use crate::batch::pool::Pool;
use crate::http;
use crate::ids::{ConnectionId, LoopId, new_uuid};
use crate::limits::{FRAME_BYTES_LOWEST, HEADER_BYTES, HTTP_IDLE_TIMEOUT_DEFAULT, KEEPALIVE};
use crate::metrics::Metrics;
use crate::net::{self, ConnectionLimits, Ingress, Intake, LogLines, LoopState, Loops, Mailbox};
use crate::pipeline::group_commit::{GroupCommit, Holder, LoopEnd, Outlets, Parts, Unwritten};
use crate::pipeline::next::Next;
use crate::pipeline::ring::{SlotSender, ring};
use crate::pipeline::rings::Rings;
use crate::pipeline::watermark::Watermarks;
use crate::random::Random;
use crate::router::{self, Drain, RouterQueue, SinkProgress, SinkStatus, Worker};
use crate::server::identity::{self, RESTORED};
use crate::session::marks::{Greeting, Marks};
use crate::session::receive::{Consumed, End};
use crate::session::server::{ServerSession, SessionSettings};
use crate::session::tokens::{Access, Certificate};
use crate::settings::steps::StepSettings;
use crate::sink::{BatchSettings, Identity, SinkSettings, discard};
use crate::time::{Now, unix_nano};
use crate::wal::tests::memory::MemoryStorage;
use crate::wal::{self, Writer};
use crate::wire::AckLevel;

/// As of this host.
const PRIVATE: Access = Access { is_private: true, refused: None, certificate: Certificate::None };
const POOL_BYTES: usize = 1 << 20;
const SLOTS: usize = 64;
const RETENTION: Duration = Duration::from_secs(86_400);

/// The server's end of a connection, and the bytes on their way in both directions.
struct Link {
    number: u64,
    id: ConnectionId,
    session: ServerSession,
    origin: Arc<Origin>,
    to_server: VecDeque<u8>,
    to_agent: VecDeque<u8>,
    unparsed: Vec<u8>,
    /// The agent sends nothing more.
    is_ended: bool,
    /// The agent reads nothing more.
    is_left: bool,
    /// The server has closed it.
    is_closed: bool,
}

pub(super) struct Life {
    ingress: Ingress,
    links: Vec<Link>,
    connections: u64,
    group_commit: GroupCommit,
    /// What the last step of each machine has answered.
    pub commit_next: Next<Unwritten>,
    worker: Worker,
    pub worker_next: Next<()>,
    pub progress: Arc<SinkProgress>,
    pub metrics: Arc<Metrics>,
    /// Position of the sink when this life began.
    pub began: u64,
}

/// What outlives the server, and where its life begins.
pub(super) struct Start<'a> {
    pub storage: &'a MemoryStorage,
    pub data_dir: &'a Path,
    pub store: &'a Store,
    pub letters: &'a Letters,
    /// Whether the sink has [`steps`].
    pub filters: bool,
    pub now: Now,
}

struct SinkHolder(Arc<SinkProgress>);

impl Holder for SinkHolder {
    fn position(&self) -> u64 {
        self.0.position()
    }

    fn drops_oldest(&self) -> bool {
        false
    }

    fn name(&self) -> &str {
        self.0.name()
    }
}

fn log_settings() -> wal::Settings {
    wal::Settings {
        dir: "wal".into(),
        segment_bytes: 2_000,
        max_bytes: 12_000,
        keep: Duration::ZERO,
        max_agents: 10,
        dedupe_retention: RETENTION,
    }
}

/// Steps that leave out what ends with [`LEFT_OUT`].
pub(super) fn steps() -> StepSettings {
    let exclude = format!("{{ name = '*{LEFT_OUT}' }}");
    StepSettings::read(|key| (key == "exclude").then_some(exclude.as_str())).unwrap()
}

fn sink_settings(filters: bool) -> SinkSettings {
    let batch = BatchSettings { max_events: 20, max_bytes: 1 << 16, max_age: Duration::from_millis(50) };
    let config = Box::new(discard::DiscardSettings {});
    let steps = if filters { steps() } else { StepSettings::default() };
    SinkSettings { name: "out".into(), kind: "test", required: true, drops_oldest: false, steps, batch, config }
}

fn session_settings(server_id: [u8; 16]) -> SessionSettings {
    SessionSettings {
        server_id,
        max_frame_bytes: FRAME_BYTES_LOWEST as u32,
        window_bytes: 2_000,
        window_frames: 4,
        keepalive: KEEPALIVE,
        default_ack: AckLevel::Synced,
        highest_ack: AckLevel::Delivered,
    }
}

impl Start<'_> {
    /// Starts in the order of `server::run`.
    pub(super) fn life(&self, random: &mut Random) -> Life {
        let (now, metrics) = (self.now, Metrics::new().unwrap());
        let now_unix_nano = unix_nano(now.wall);
        let opened = wal::open(&log_settings(), Arc::new(self.storage.clone()), random, now_unix_nano).unwrap();
        let mut marks = Marks::new(10, RETENTION);
        identity::restore(&mut marks, &opened.marks, now_unix_nano, now.monotonic);
        let owner = new_uuid(random);
        let shared = router::Shared {
            identity: &Identity { server_id: opened.server_id, owner, log_end: opened.log.end() },
            data_dir: self.data_dir,
            log: Some(opened.log),
            log_bytes_max: log_settings().max_bytes,
            share_bytes: POOL_BYTES / 4,
            metrics: &metrics,
            drain: Arc::new(Drain::default()),
            notify: Arc::new(|| {}),
        };
        let seed = Random::seeded(random.next_u64());
        let (queue, mut worker) =
            Worker::new(&sink_settings(self.filters), Box::new(self.store.clone()), &shared, seed, now);
        while worker.progress().status() == SinkStatus::Connecting {
            worker.step(now);
        }
        let mut writer = opened.writer;
        identity::go_on_behind_sinks(&mut writer, &[worker.progress()]).unwrap();
        queue.skipped_to(writer.next_position());

        let progress = worker.progress().clone();
        let watermarks = Arc::new(Watermarks::default());
        identity::has_restored(&watermarks, writer.next_position());
        let (sender, receiver) = ring(SLOTS, Box::new(|| {}));
        let parts = parts(writer, &progress, &watermarks, &metrics);
        let health = parts.health.clone();
        let group_commit = GroupCommit::new(parts, self.outlets(queue), Rings::new(vec![receiver]), now);
        let pool = Pool::new(POOL_BYTES, Box::new(|| {}));
        let settings = session_settings(opened.server_id);
        let shared = shared_by_loops(settings, marks, metrics.clone(), watermarks, health, &progress, (&pool, &sender));
        let intake = Intake::new(pool, HEADER_BYTES + FRAME_BYTES_LOWEST);
        let random = Random::seeded(random.next_u64());
        let ingress = Ingress::new(shared, LoopId(0), intake, sender, random, RESTORED.number);
        Life {
            ingress,
            links: Vec::new(),
            connections: 0,
            group_commit,
            commit_next: Next::Step,
            worker,
            worker_next: Next::Step,
            began: progress.position(),
            progress,
            metrics,
        }
    }

    fn outlets(&self, queue: RouterQueue) -> Outlets {
        let letters = self.letters.clone();
        Outlets {
            keep_refused: Box::new(move |refused| letters.keep(refused)),
            offer: Box::new(move |batch| queue.offer(batch)),
        }
    }
}

fn parts(writer: Writer, progress: &Arc<SinkProgress>, watermarks: &Arc<Watermarks>, metrics: &Arc<Metrics>) -> Parts {
    Parts {
        writer,
        holders: vec![Box::new(SinkHolder(progress.clone()))],
        loops: vec![LoopEnd { watermarks: watermarks.clone(), wake: Box::new(|| {}) }],
        health: Arc::default(),
        metrics: metrics.clone(),
        is_over: Box::new(|_| false),
    }
}

fn shared_by_loops(
    settings: SessionSettings,
    marks: Marks,
    metrics: Arc<Metrics>,
    watermarks: Arc<Watermarks>,
    health: Arc<crate::pipeline::health::LogHealth>,
    progress: &Arc<SinkProgress>,
    (pool, ring): (&Pool, &SlotSender),
) -> Arc<net::Shared> {
    let delivered = progress.clone();
    Arc::new(net::Shared {
        settings,
        http: http::Settings {
            max_body_bytes: FRAME_BYTES_LOWEST,
            max_frame_bytes: FRAME_BYTES_LOWEST,
            idle_timeout: HTTP_IDLE_TIMEOUT_DEFAULT,
            unknown_keys: crate::event::UnknownKeys::Reject,
        },
        syslog: None,
        limits: ConnectionLimits { lingering: 0, max_connections: 100, max_unauthenticated: 100 },
        policy: net::Newest::default(),
        marks: Mutex::new(marks),
        metrics,
        watermarks: vec![watermarks],
        health,
        loops: Loops::new(vec![Mailbox::new(|| {})]),
        states: vec![LoopState::new(pool.gauge(), ring.gauge())],
        log_lines: LogLines::default(),
        sinks: Box::new(Vec::new),
        status: net::StatusSources::default(),
        delivered_position: Box::new(move || delivered.position()),
        on_end: Box::new(|| {}),
        hangup_reloads: false,
        on_reload: Box::new(|| {}),
    })
}

/// The agents' side.
impl Life {
    fn link(&mut self, number: u64) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.number == number)
    }

    pub(super) fn connect(&mut self, now: Now) -> u64 {
        self.connections += 1;
        let number = self.connections;
        let id = ConnectionId::new(LoopId(0), number as u32, 0);
        let origin = Origin { agent_id: None, agent: None, default_source: String::new(), epoch: 0 };
        self.links.push(Link {
            number,
            id,
            session: ServerSession::new(id, &self.ingress.shared.settings, now.monotonic),
            origin: Arc::new(origin),
            to_server: VecDeque::new(),
            to_agent: VecDeque::new(),
            unparsed: Vec::new(),
            is_ended: false,
            is_left: false,
            is_closed: false,
        });
        number
    }

    pub(super) fn send(&mut self, number: u64, bytes: &[u8]) {
        if let Some(link) = self.link(number) {
            link.to_server.extend(bytes);
        }
    }

    pub(super) fn end_sending(&mut self, number: u64) {
        if let Some(link) = self.link(number) {
            link.is_ended = true;
        }
    }

    /// The agent is gone; of what it has sent, so many bytes still arrive.
    pub(super) fn leave(&mut self, number: u64, arriving: usize) {
        if let Some(link) = self.link(number) {
            link.to_server.truncate(arriving);
            (link.is_ended, link.is_left) = (true, true);
        }
    }

    /// Some of the bytes for the agent; `None`: the connection has ended.
    pub(super) fn receive(&mut self, number: u64, random: &mut Random) -> Option<Vec<u8>> {
        let link = self.link(number).filter(|link| !link.is_closed || !link.to_agent.is_empty())?;
        let bytes = random.next_u64() as usize % (link.to_agent.len() + 1);
        Some(link.to_agent.drain(..bytes).collect())
    }
}

/// The server's side.
impl Life {
    pub(super) fn has_links(&self) -> bool {
        !self.links.is_empty()
    }

    /// The next moment at which something is to be done, whatever comes.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let commit = match self.commit_next {
            Next::Wait(until) => until,
            Next::Pause(until) | Next::Sleep(until) => Some(until),
            Next::Step | Next::End(_) => None,
        };
        let worker = match self.worker_next {
            Next::Wait(until) => until,
            Next::Pause(until) | Next::Sleep(until) => Some(until),
            Next::Step | Next::End(()) => None,
        };
        let sessions = self.links.iter().filter_map(|link| link.session.deadline(false));
        commit.into_iter().chain(worker).chain(sessions).min()
    }

    /// Steps the log thread, except within a pause. `true`: it has done something.
    pub(super) fn step_commit(&mut self, now: Now) -> bool {
        if matches!(self.commit_next, Next::Pause(until) if now.monotonic < until) {
            return false;
        }
        self.commit_next = self.group_commit.step(now);
        self.commit_next == Next::Step
    }

    /// Steps the router; in vain if it is early. `true`: it has done something.
    pub(super) fn step_worker(&mut self, now: Now) -> bool {
        self.worker_next = self.worker.step(now);
        self.worker_next == Next::Step
    }

    /// A turn of the event loop, with one connection that has some bytes. `true`: something was done.
    pub(super) fn turn(&mut self, random: &mut Random, now: Now) -> bool {
        if self.links.is_empty() {
            return false;
        }
        self.ingress.begin_turn(now);
        self.ingress.look_at_sinks();
        let index = random.next_u64() as usize % self.links.len();
        let Self { links, ingress, .. } = self;
        let link = &mut links[index];
        let arrived = random.next_u64() as usize % (link.to_server.len() + 1);
        link.unparsed.extend(link.to_server.drain(..arrived));
        let mut out = Vec::new();
        let replaced = link.serve(ingress, &mut out, now);
        link.acknowledge(ingress, &mut out, now);
        let has_answered = !out.is_empty();
        link.to_agent.extend(out);
        if link.is_ended && link.to_server.is_empty() && !link.session.is_waiting() {
            link.close(false, ingress, now);
        }
        if let Some(older) = replaced.and_then(|older| links.iter_mut().find(|link| link.id == older)) {
            older.close(true, ingress, now);
        }
        ingress.end_turn();
        // What nobody reads any more is gone.
        links.retain(|link| !link.is_closed || (!link.is_left && !link.to_agent.is_empty()));
        arrived > 0 || has_answered
    }

    /// The event loop has ended: all that is in the ring is committed, and delivered.
    pub(super) fn end(self, now: Now) -> Unwritten {
        let Self { ingress, mut group_commit, mut worker, .. } = self;
        drop(ingress);
        let unwritten = loop {
            match group_commit.step(now) {
                Next::Step => {}
                Next::End(unwritten) => break unwritten,
                other => panic!("the log thread waits for {other:?}"),
            }
        };
        drop(group_commit);
        while worker.step(now) != Next::End(()) {}
        unwritten
    }
}

impl Link {
    /// Parses what has arrived. Returns the connection that has to close first (R5).
    fn serve(&mut self, ingress: &mut Ingress, out: &mut Vec<u8>, now: Now) -> Option<ConnectionId> {
        if self.is_closed {
            self.unparsed.clear();
            return None;
        }
        let may_read = self.session.may_receive(&ingress.shared.settings) && ingress.has_slots();
        self.session.set_paused(!may_read, now.monotonic);
        if !may_read || self.unparsed.is_empty() {
            return None;
        }
        let Consumed { bytes, end } = if self.session.is_authenticated() {
            self.receive(ingress, out)
        } else {
            ingress.turn(PRIVATE, |turn| self.session.greet(&self.unparsed, turn, out))
        };
        self.unparsed.drain(..bytes);
        match end {
            End::All | End::Partial { .. } | End::NoRoom => {}
            End::Greeted(greeting) => self.greeted(&greeting, ingress),
            End::LentTo(older) => return Some(older),
            End::Superseded | End::Bye | End::Closed(_) => self.close(false, ingress, now),
        }
        None
    }

    fn receive(&mut self, ingress: &mut Ingress, out: &mut Vec<u8>) -> Consumed {
        let bytes = self.unparsed.len().min(ingress.bytes_within_slots());
        let nothing = Consumed { bytes: 0, end: End::All };
        let Some(mut buffer) = ingress.intake.take(bytes) else { return nothing };
        assert!(buffer.extend(&self.unparsed[..bytes]));
        let origin = self.origin.clone();
        self.session.receive(&mut buffer, 0, &mut ingress.frames(&origin, PRIVATE), out)
    }

    fn greeted(&mut self, greeting: &Greeting, ingress: &mut Ingress) {
        let name = self.session.agent_name().to_owned();
        self.origin = Arc::new(Origin {
            agent_id: self.session.agent_id().copied(),
            agent: Some(name.clone()),
            default_source: name,
            epoch: greeting.epoch,
        });
        ingress.note_level(self.session.level());
        if greeting.new_epoch {
            ingress.log_epoch(&mut self.session, greeting.last_seq, &self.origin);
        }
    }

    fn acknowledge(&mut self, ingress: &mut Ingress, out: &mut Vec<u8>, now: Now) {
        let (shared, own) = (ingress.shared.clone(), ingress.event_loop);
        let reached = |ticket, level| shared.has_reached(own, ticket, level);
        let closed = ingress.turn(PRIVATE, |turn| {
            self.session.settled(reached, turn, out);
            self.session.acknowledge(reached, turn, out, |_| ());
            // A peer is blamed for silence only after a read that found nothing.
            let is_silent =
                self.to_server.is_empty() && self.session.deadline(false).is_some_and(|at| at <= now.monotonic);
            if is_silent { self.session.handle_timeout(false, turn, out) } else { None }
        });
        if closed.is_some() {
            self.close(false, ingress, now);
        }
    }

    fn close(&mut self, is_replaced: bool, ingress: &mut Ingress, now: Now) {
        if !std::mem::replace(&mut self.is_closed, true) {
            ingress.an_agent_leaves();
            let marks = &mut ingress.shared.marks.lock().unwrap();
            self.session.leave(is_replaced, marks, now.monotonic);
        }
    }
}
