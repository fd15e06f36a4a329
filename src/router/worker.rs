//! The worker of a router, a state machine: gathers batches, delivers them, does what the sink's answer asks for.
//!
//! ```text
//!             ┌───────────────── unavailable: pause (backoff) ◀─────────────────┐
//!             ▼                                                                 │
//!  start ─▶ Connect ─▶ Connected ─▶ Reach ─▶ Reached                            │
//!                                               │                               │
//!               ┌───────────────────────────────┘                               │
//!               ▼    a delivery is due                                          │
//!    ┌────────▶ Gather ─────▶ Deliver ─▶ Answered ──────────────────────────────┤
//!    │           │ ▲           ▲  ▲  refused │ │ stored                         │
//!    │    queue  │ │ batches,  │  └── Bury ◀─┘ ▼                                │
//!    │    closed │ │ a look    └─── a part ─ Save                               │
//!    │           ▼                              │ all parts                     │
//!    │         Ended                            ▼                               │
//!    └───── Upkept ◀─ Upkeep ◀─ Checked ◀─ Check (each if it is due) ───────────┘
//! ```
//!
//! [`Worker::step`] does what is next, and answers what the thread has to wait for; [`thread`] is the loop over it. A step reads
//! no clock and does not sleep. It asks the sink for one thing at most, which may block; the answer is looked at in the next
//! step, whose clock is read after it. Position files and dead letters are written within a step, too.
//!
//! With a log, the store's position decides where to continue, also after a reconnect and also if it is lower than
//! before (a store restored from a copy): what follows it is read from the log again. Where a sink that has nothing yet
//! began is kept in its position file, so that what the log drops before the first delivery is missed and counted, also
//! after a restart.
//!
//! While it waits for its sink, a router holds nothing of the buffer pool: see [`Gather::unpin`] and [`Source::release`].

mod between;
mod connecting;
mod outcome;
mod pausing;
#[cfg(test)]
mod tests;
pub(super) mod thread;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, mem};

use tracing::{Span, debug, debug_span, info, warn};

use super::bisection::{Answer, Bisection};
use super::dead::{DeadLetters, RefusedEvent};
use super::gather::{Due, Gather};
use super::positions::PositionFile;
use super::progress::{SinkProgress, SinkStatus};
use super::queue::{Queue, Reshape};
use super::retry::{RetryDelays, Warnings};
use super::source::{self, Source};
use super::steps::Steps;
use super::{Drain, Notify, RouterQueue, Shared, steps};
use crate::batch::Delivery;
use crate::limits::{REFUSED_IN_A_ROW_MAX, WINDOW_LOG_PART};
use crate::metrics::{Metrics, SinkMetrics};
use crate::pipeline::next::Next;
use crate::random::Random;
use crate::sink::{Clocks, Failure, Refusal, Sink, SinkSettings, Unavailable, Upkeep, uuid};
use crate::time::Now;
use crate::wal::MissingReason;

/// While a delivery fills, its queue is looked at this often: short against `max_age`, and long enough that no queue
/// fills meanwhile.
const FILLING_LOOK: Duration = Duration::from_millis(1);
/// Where a delivery fills for longer than this and nothing comes, its queue is not looked at: it wakes the router.
const LONG_WAIT: Duration = Duration::from_millis(100);

/// The drain deadline passed while something was still to be done.
struct DeadlinePassed;

type Done<T = ()> = Result<T, DeadlinePassed>;
type Stepped = Done<Next<()>>;

/// What is done next.
#[derive(Debug)]
enum State {
    /// Connect the sink and ask for its position; then continue there.
    Connect(Then),
    /// That was answered.
    Connected(Then, Result<Option<u64>, Unavailable>),
    /// See [`Sink::reach`].
    Reach,
    /// That was answered.
    Reached(Result<(), Unavailable>),
    /// Collect the next delivery.
    Gather,
    /// Give the next part of the delivery to the sink; where there is none left, the delivery has ended.
    Deliver,
    /// That was answered; the sink was asked at `since`, within `span`.
    Answered { since: Instant, span: Span, result: Result<(), Failure> },
    /// Keep what the sink refuses of the next part, in order of position.
    Bury(Vec<Refusal>),
    /// Save the position of this part, which the sink has.
    Save(Delivery),
    /// See [`Sink::check_in_place`]; `then_upkeep`: and then the upkeep that is due.
    Check { then_upkeep: bool },
    /// That was answered.
    Checked { then_upkeep: bool, result: Result<(), Unavailable> },
    /// See [`Sink::upkeep`].
    Upkeep,
    /// That was answered.
    Upkept(Result<Upkeep, Unavailable>),
    /// Everything is stored, or the deadline has passed.
    Ended,
}

/// What a connect is for.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// The router has begun.
    Begin,
    /// A part could not be delivered, when the sink had passed this position.
    Deliver { before: u64 },
    /// What was delivered was not in its place any more.
    Gather,
}

/// Delivers to one sink what its [`RouterQueue`] is offered. See the module's drawing.
pub struct Worker {
    state: State,
    /// Nothing is done before then: the sink was unavailable.
    paused_until: Option<Instant>,
    name: String,
    server_id: String,
    sink: Box<dyn Sink>,
    /// Reads the clocks for the sink's upkeep.
    clocks: fn() -> Clocks,
    source: Source,
    /// Where the log ended and began when this process opened it; `None`: there is none.
    log: Option<Range<u64>>,
    gather: Gather,
    /// What is left of the delivery.
    parts: Bisection,
    /// How often the sink was asked to store a part of it.
    attempts: u64,
    /// The store has answered, and its position is one of this log.
    connected: bool,
    /// Positions that no batch will have, after what is gathered.
    gap: Option<Range<u64>>,
    /// What is missing below this position was counted.
    counted: u64,
    /// Last position that the sink has passed.
    position: u64,
    position_file: PositionFile,
    /// The store keeps no positions: the file does. Not without a log, whose positions mean nothing to the next start.
    saves_position: bool,
    /// The position file has where the sink began; its store has nothing of this log yet.
    begins: bool,
    dead: DeadLetters,
    /// Events that the store refused without naming them, since it last stored one.
    refused_in_a_row: u64,
    backoff: RetryDelays,
    warnings: Warnings,
    refusal_warnings: Warnings,
    /// When the sink's next upkeep is due; `None`: never.
    upkeep_at: Option<Instant>,
    /// When it is next looked whether what was delivered is in place; `None`: never.
    check_at: Option<Instant>,
    /// A warning was logged since the sink was last well.
    warned: bool,
    drain: Arc<Drain>,
    draining: bool,
    progress: Arc<SinkProgress>,
    notify: Notify,
    metrics: SinkMetrics,
    all_metrics: Arc<Metrics>,
}

impl Worker {
    /// A worker that has not connected its sink yet, and the end that its batches go into. `random`: for the delays between
    /// attempts.
    pub fn new(
        settings: &SinkSettings,
        sink: Box<dyn Sink>,
        shared: &Shared<'_>,
        random: Random,
        now: Now,
    ) -> (RouterQueue, Self) {
        let name = settings.name.clone();
        let log_end = shared.log.as_ref().map_or(1, |log| log.end());
        let queue = Arc::new(Queue::new(shared.log.as_ref().map(|_| shared.share_bytes), log_end));
        let lag_events = shared.metrics.sink(&name).lag_events;
        let progress = Arc::new(SinkProgress::new(settings, lag_events, shared.log.clone()));
        progress.offered(log_end - 1, None);
        let mut gather = Gather::new(settings.batch, Arc::new(Steps::new(&settings.steps, shared.identity.server_id)));
        if shared.log.is_some() {
            gather.limit_window(shared.log_bytes_max / WINDOW_LOG_PART);
        }
        let worker = Self {
            state: State::Connect(Then::Begin),
            paused_until: None,
            server_id: uuid(&shared.identity.server_id),
            sink,
            clocks: Clocks::now,
            source: Source::new(queue.clone(), shared.log.as_ref()),
            log: shared.log.as_ref().map(|log| log.oldest()..log.end()),
            gather,
            parts: Bisection::default(),
            attempts: 0,
            connected: false,
            gap: None,
            counted: 0,
            position: 0,
            position_file: PositionFile::new(shared.data_dir, &name, &shared.identity.server_id),
            saves_position: false,
            begins: false,
            dead: DeadLetters::new(shared.data_dir, &name, shared.metrics),
            refused_in_a_row: 0,
            backoff: RetryDelays::new(random),
            warnings: Warnings::default(),
            refusal_warnings: Warnings::default(),
            upkeep_at: Some(now.monotonic),
            check_at: Some(now.monotonic),
            warned: false,
            drain: shared.drain.clone(),
            draining: false,
            progress: progress.clone(),
            notify: shared.notify.clone(),
            metrics: shared.metrics.sink(&name),
            all_metrics: shared.metrics.clone(),
            name,
        };
        (RouterQueue { queue, progress }, worker)
    }

    /// What the worker shows to others.
    pub fn progress(&self) -> &Arc<SinkProgress> {
        &self.progress
    }

    /// Does what is next. It ends when the queue is closed and everything is stored, or the drain deadline has passed.
    pub fn step(&mut self, now: Now) -> Next<()> {
        self.try_step(now).unwrap_or_else(|DeadlinePassed| {
            self.state = State::Ended;
            self.report_undelivered();
            Next::End(())
        })
    }

    fn try_step(&mut self, now: Now) -> Stepped {
        if let Some(until) = self.paused_until {
            if !self.is_pause_over(until, now)? {
                return Ok(Next::Pause(until));
            }
            self.paused_until = None;
        }
        match mem::replace(&mut self.state, State::Gather) {
            State::Connect(then) => {
                let answer = self.sink.connect();
                Ok(self.then(State::Connected(then, answer)))
            }
            State::Connected(then, answer) => self.connected(then, answer, now),
            State::Reach => {
                let answer = self.sink.reach();
                Ok(self.then(State::Reached(answer)))
            }
            State::Reached(answer) => self.reached(answer, now),
            State::Gather => self.gather(now),
            State::Deliver => self.deliver(now),
            State::Answered { since, span, result } => self.answered(since, (span, result), now),
            State::Bury(refusals) => self.bury(refusals, now),
            State::Save(part) => self.save(part, now),
            State::Check { then_upkeep } => Ok(self.check(then_upkeep, now)),
            State::Checked { then_upkeep, result } => self.checked(then_upkeep, result, now),
            State::Upkeep => {
                let result = self.sink.upkeep((self.clocks)());
                Ok(self.then(State::Upkept(result)))
            }
            State::Upkept(result) => Ok(self.upkept(result, now)),
            State::Ended => {
                self.state = State::Ended;
                Ok(Next::End(()))
            }
        }
    }

    /// The next step, at once, from this state.
    fn then(&mut self, state: State) -> Next<()> {
        self.state = state;
        Next::Step
    }

    fn report_undelivered(&self) {
        let events = self.progress.owed_events();
        if events > 0 && self.log.is_none() {
            warn!(sink = self.name, events, "drain deadline passed, events not delivered");
        } else if events > 0 {
            info!(sink = self.name, events, "events stay in the log for the next start");
        }
    }

    /// Collects the next delivery, and gives it to the sink once it is due.
    fn gather(&mut self, now: Now) -> Stepped {
        self.check_deadline(now)?;
        if let Some(Reshape { steps, max_age }) = self.source.take_reshape() {
            self.gather.change_steps(steps, max_age);
        }
        self.pass_gap(now);
        let has_taken = match self.fill() {
            Ok(has_taken) => has_taken,
            Err(error) => {
                let unavailable = Unavailable::retry(format!("the log cannot be read: {error}"));
                return self.wait(&unavailable, State::Gather, now);
            }
        };
        if let Some(oldest) = self.gather.oldest_unix_nano() {
            self.progress.holds(oldest);
        }
        self.gather.set_at_gap(self.gap.is_some());
        match self.gather.due(now.monotonic) {
            Due::Now(delivery) => {
                self.take_delivery(delivery);
                self.deliver(now)
            }
            Due::Nothing if self.gap.is_some() => Ok(Next::Step),
            Due::Nothing if self.gather.is_closed() => {
                self.state = State::Ended;
                Ok(Next::End(()))
            }
            Due::Nothing if self.is_due(self.check_at, now) => Ok(self.then(State::Check { then_upkeep: true })),
            Due::Nothing if self.is_due(self.upkeep_at, now) => Ok(self.then(State::Upkeep)),
            Due::Nothing => {
                let due = self.upkeep_at.into_iter().chain(self.check_at).min();
                Ok(Next::Wait(due.filter(|_| !self.drain.begun())))
            }
            Due::At(_) if self.is_due(self.check_at, now) => Ok(self.then(State::Check { then_upkeep: false })),
            // A window may be open for hours in which little comes.
            Due::At(at) if !has_taken && at > now.monotonic + LONG_WAIT => {
                Ok(Next::Wait(Some(self.check_at.map_or(at, |check_at| check_at.min(at)))))
            }
            // Looking now and then costs both sides less than a wake-up a batch.
            Due::At(at) => Ok(Next::Sleep(at.min(now.monotonic + FILLING_LOOK))),
        }
    }

    /// Takes batches while there is room for them. Returns whether there was one.
    fn fill(&mut self) -> io::Result<bool> {
        let mut has_taken = false;
        while self.gather.has_room() && self.gap.is_none() {
            match self.source.next(self.gather.pinned_bytes())? {
                source::Next::Batch(batch) => {
                    self.gather.take(batch);
                    has_taken = true;
                }
                source::Next::Missing(positions, reason) => self.miss(positions, reason),
                source::Next::Nothing => break,
                source::Next::End => {
                    self.gather.close();
                    break;
                }
            }
        }
        Ok(has_taken)
    }

    /// The one place where a delivery passes from [`Gather`] to what is given to the sink.
    fn take_delivery(&mut self, delivery: Delivery) {
        self.parts = Bisection::rehearsing(delivery, self.sink.rehearses());
        self.attempts = 0;
    }

    /// No batch will have `positions`.
    fn miss(&mut self, positions: Range<u64>, reason: MissingReason) {
        // The same is met again where a store that took nothing since is asked for its position.
        let new = positions.start.max(self.counted)..positions.end;
        if let Some(name) = reason.counted_as().filter(|_| !new.is_empty()) {
            self.counted = new.end;
            let events = new.end - new.start;
            self.all_metrics.events_dropped(&self.name, name).inc_by(events);
            warn!(
                sink = self.name,
                first = new.start,
                last = new.end - 1,
                reason = reason.to_string(),
                "events are missing from the log and will not be delivered"
            );
        }
        self.gap = Some(positions);
    }

    /// Passes what is missing, once everything before it is stored.
    fn pass_gap(&mut self, now: Now) {
        if self.gather.is_empty()
            && let Some(gap) = self.gap.take()
        {
            self.pass(gap.end - 1, now);
        }
    }

    /// Gives the next part of the delivery to the sink.
    fn deliver(&mut self, now: Now) -> Stepped {
        self.check_deadline(now)?;
        let Some(part) = self.parts.attempt() else { return Ok(self.delivery_ended(now)) };
        // A reconnect may have found that the store has it already.
        if self.position >= part.last_position() {
            return self.settle(Ok(()), now);
        }
        self.attempts += 1;
        let span = debug_span!(
            parent: None,
            "delivery",
            sink = self.name,
            first = part.first_position(),
            last = part.last_position(),
            events = part.events(),
            attempt = self.attempts
        );
        let is_rehearsal = self.parts.is_rehearsal();
        let result = span.in_scope(|| if is_rehearsal { self.sink.rehearse(&part) } else { self.sink.deliver(&part) });
        Ok(self.then(State::Answered { since: now.monotonic, span, result }))
    }

    fn answered(&mut self, since: Instant, (span, result): (Span, Result<(), Failure>), now: Now) -> Stepped {
        let seconds = now.monotonic.saturating_duration_since(since).as_secs_f64();
        self.metrics.delivery_seconds.observe(seconds);
        let is_shown = !span.is_disabled();
        let _entered = span.entered();
        if is_shown {
            let outcome = outcome::name(&result, self.parts.is_rehearsal());
            debug!(outcome, reason = outcome::reason(&result), seconds, "delivery ended");
        }
        self.settle(result, now)
    }

    /// Does what the sink's answer about the next part asks for.
    fn settle(&mut self, result: Result<(), Failure>, now: Now) -> Stepped {
        let unavailable = match self.parts.answer(result) {
            Answer::Stored(part) => return self.save(part, now),
            Answer::Halved => return Ok(self.then(State::Deliver)),
            Answer::Accepted { rows } => {
                if rows > 0 {
                    self.refused_in_a_row = 0;
                }
                return Ok(self.then(State::Deliver));
            }
            Answer::Refused(refusals) => return self.bury(refusals, now),
            Answer::RefusedAlone(refusal) if self.refused_in_a_row < REFUSED_IN_A_ROW_MAX => {
                self.refused_in_a_row += 1;
                return self.bury(vec![refusal], now);
            }
            Answer::RefusedAlone(Refusal { code, reason, .. }) => {
                Unavailable::down(format!("refuses everything, so the events are kept: {code}: {reason}"))
            }
            Answer::Unavailable(unavailable) => unavailable,
        };
        self.wait(&unavailable, State::Connect(Then::Deliver { before: self.position }), now)
    }

    /// The sink has everything up to the end of `part`: saves that where the store does not.
    fn save(&mut self, part: Delivery, now: Now) -> Stepped {
        let last = part.last_position();
        if self.saves_position {
            if let Err(error) = self.position_file.save(last) {
                return self.wait(&Unavailable::retry(error.to_string()), State::Save(part), now);
            }
        } else if mem::take(&mut self.begins) {
            // From here on the store's own position counts. Were this one left, it would be older, and harm nothing.
            if let Err(error) = self.position_file.remove() {
                debug!(sink = self.name, error = error.to_string(), "where the sink began stays written");
            }
        }
        steps::count(&self.metrics, &part);
        if part.events() > 0 {
            self.refused_in_a_row = 0;
        }
        self.gather.reuse(part);
        self.well(now);
        self.pass(last, now);
        match self.parts.next() {
            Some(_) => Ok(self.then(State::Deliver)),
            None => Ok(self.delivery_ended(now)),
        }
    }

    /// Keeps what the sink refuses of the next part in dead letters, on disk before anything of the delivery is committed,
    /// and leaves it out.
    fn bury(&mut self, refusals: Vec<Refusal>, now: Now) -> Stepped {
        let letters = self.parts.asked().flat_map(Delivery::records).filter_map(|record| {
            let index = refusals.binary_search_by_key(&record.position, |refusal| refusal.position).ok()?;
            Some(RefusedEvent { server_id: &self.server_id, record, refusal: refusals.get(index)? })
        });
        if let Err(error) = self.dead.append(letters) {
            return self.wait(&Unavailable::retry(error.to_string()), State::Bury(refusals), now);
        }
        if let Some(Refusal { code, reason, .. }) = refusals.first()
            && let Some(suppressed) = self.refusal_warnings.due(now.monotonic)
        {
            let events = refusals.len();
            warn!(sink = self.name, events, code, reason, suppressed, "events refused, kept in dead letters");
        }
        self.progress.notes().buried(&refusals, now);
        self.metrics.events_dead.inc_by(self.parts.leave_out(&refusals));
        Ok(self.then(State::Deliver))
    }

    /// Nothing is left of the delivery, or the store has less than before it: then what lies between comes first.
    fn delivery_ended(&mut self, now: Now) -> Next<()> {
        self.parts = Bisection::default();
        self.gather.delivery_ended(now.monotonic);
        if self.is_due(self.check_at, now) {
            self.then(State::Check { then_upkeep: true })
        } else if self.is_due(self.upkeep_at, now) {
            self.then(State::Upkeep)
        } else {
            self.then(State::Gather)
        }
    }

    fn pass(&mut self, position: u64, now: Now) {
        self.position = self.position.max(position);
        self.gather.stored(position);
        self.source.passed(position);
        self.progress.passed(position, self.gather.oldest_unix_nano(), now);
        (self.notify)();
    }

    /// The sink works.
    fn well(&mut self, now: Now) {
        self.backoff.reset();
        if self.progress.set_status(SinkStatus::Ok) == SinkStatus::Ok {
            return;
        }
        self.progress.progressed(now.monotonic);
        self.progress.notes().works();
        if mem::take(&mut self.warned) {
            info!(sink = self.name, "sink recovered");
        }
    }
}
