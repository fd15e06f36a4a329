//! The thread of a router: waits for batches, delivers them, does what the sink's answer asks for.
//!
//! ```text
//!             ┌──────────────── unavailable: sleep (backoff) ◀────────────┐
//!             ▼                                                           │
//!  start ─▶ connect ─▶ next_delivery ─▶ deliver ── stored ─▶ next …       │
//!                          │               ├────── unavailable ───────────┘
//!                          │               └────── refused ─▶ dead letters, deliver the rest
//!                          ▼ queue closed and nothing held, or the deadline passed
//!                         end
//! ```
//!
//! With a log, the store's position decides where to continue, also after a reconnect and also if it is lower than
//! before (a store restored from a copy): what follows it is read from the log again. Where a sink that has nothing yet
//! began is kept in its position file, so that what the log drops before the first delivery is missed and counted, also
//! after a restart.
//!
//! While it waits for its sink, a router holds nothing of the buffer pool: see [`Gather::unpin`] and [`Source::let_go`].

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, mem, thread};

use tracing::{debug, info, warn};

use super::bisection::{Answer, Bisection};
use super::dead::{DeadLetters, RefusedEvent};
use super::gather::{Due, Gather};
use super::positions::PositionFile;
use super::progress::{SinkProgress, SinkStatus};
use super::retry::{RetryDelays, Warnings};
use super::source::{Next, Source};
use super::steps::Steps;
use super::{Drain, Notify, Shared, steps};
use crate::batch::Delivery;
use crate::limits::{REFUSED_IN_A_ROW_MAX, WAL_POSITION_LIMIT};
use crate::metrics::{Metrics, SinkMetrics};
use crate::random::Random;
use crate::sink::{Clocks, Failure, Refusal, Sink, SinkSettings, Unavailable, uuid};
use crate::wal::MissingReason;
use crate::{descriptors, limits};

/// While a delivery fills, its queue is looked at this often: short against `max_age`, and long enough that no queue
/// fills meanwhile.
const FILLING_LOOK: Duration = Duration::from_millis(1);

/// The drain deadline passed while something was still to be done.
struct DeadlinePassed;

type Done<T = ()> = Result<T, DeadlinePassed>;

/// What the thread of a router works with.
pub(super) struct Worker {
    name: String,
    server_id: String,
    sink: Box<dyn Sink>,
    source: Source,
    /// Where the log ended and began when this process opened it; `None`: there is none.
    log: Option<Range<u64>>,
    gather: Gather,
    /// What is left of the delivery.
    parts: Bisection,
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
    /// A worker that has not connected its sink yet.
    pub fn new(
        settings: &SinkSettings,
        sink: Box<dyn Sink>,
        shared: &Shared<'_>,
        source: Source,
        progress: Arc<SinkProgress>,
    ) -> Self {
        let name = settings.name.clone();
        Self {
            server_id: uuid(&shared.identity.server_id),
            sink,
            source,
            log: shared.log.as_ref().map(|log| log.oldest()..log.end()),
            gather: Gather::new(settings.batch, Arc::new(Steps::new(&settings.steps, shared.identity.server_id))),
            parts: Bisection::default(),
            connected: false,
            gap: None,
            counted: 0,
            position: 0,
            position_file: PositionFile::new(shared.data_dir, &name, &shared.identity.server_id),
            saves_position: false,
            begins: false,
            dead: DeadLetters::new(shared.data_dir, &name, shared.metrics),
            refused_in_a_row: 0,
            backoff: RetryDelays::new(Random::from_system()),
            warnings: Warnings::default(),
            refusal_warnings: Warnings::default(),
            upkeep_at: Some(Instant::now()),
            check_at: Some(Instant::now()),
            warned: false,
            drain: shared.drain.clone(),
            draining: false,
            progress,
            notify: shared.notify.clone(),
            metrics: shared.metrics.sink(&name),
            all_metrics: shared.metrics.clone(),
            name,
        }
    }

    /// Delivers until the queue is closed and empty, or the drain deadline has passed.
    pub fn run(mut self) {
        if self.deliver_all().is_err() {
            let events = self.progress.owed_events();
            if events > 0 && self.log.is_none() {
                warn!(sink = self.name, events, "drain deadline passed, events not delivered");
            } else if events > 0 {
                info!(sink = self.name, events, "events stay in the log for the next start");
            }
        }
    }

    fn deliver_all(&mut self) -> Done {
        self.connect()?;
        while let Err(unavailable) = self.sink.reach() {
            self.wait(&unavailable)?;
        }
        self.well();
        while let Some(delivery) = self.next_delivery()? {
            self.deliver(delivery)?;
            self.gather.delivery_ended(Instant::now());
            self.check_in_place()?;
            self.upkeep()?;
        }
        Ok(())
    }

    /// Connects, however long it takes, and learns where the sink is.
    fn connect(&mut self) -> Done {
        loop {
            let position = match self.sink.connect() {
                Ok(kept) => self.last_position(kept),
                Err(unavailable) => Err(unavailable),
            };
            match position {
                Ok(position) => match self.go_on_behind(position) {
                    Ok(()) => return Ok(()),
                    Err(unavailable) => self.wait(&unavailable)?,
                },
                Err(unavailable) => self.wait(&unavailable)?,
            }
        }
    }

    /// Where the sink is, whose store has `kept` this position, if it keeps any.
    fn last_position(&mut self, kept: Option<u64>) -> Result<u64, Unavailable> {
        let Some(log) = &self.log else { return Ok(kept.unwrap_or_default()) };
        self.saves_position = kept.is_none() && self.sink.needs_position();
        let is_new = kept == Some(0);
        if !is_new && !self.saves_position {
            // `discard`: nothing is stored, and all that is kept is delivered again.
            return Ok(kept.unwrap_or(log.start - 1));
        }
        self.begins = is_new;
        match self.position_file.load().map_err(unreadable)? {
            // That of a sink of another kind, which had this name before, says nothing of this store.
            Some(saved) if saved.begins || !is_new => Ok(saved.position),
            // It begins at the oldest event that is kept.
            _ => {
                let begin = log.start - 1;
                self.position_file.save_begin(begin).map_err(|error| Unavailable::retry(error.to_string()))?;
                Ok(begin)
            }
        }
    }

    /// The store has everything up to `position`.
    fn go_on_behind(&mut self, position: u64) -> Result<(), Unavailable> {
        let Some(log) = &self.log else {
            // What this router has seen stored stays stored, whatever the store says later: nothing could bring it back.
            self.pass(position);
            return Ok(());
        };
        if position >= WAL_POSITION_LIMIT {
            return Err(Unavailable::down(format!(
                "the store reports events up to position {position}, which no log can have assigned: \
                 correct the position that it keeps for this sink"
            )));
        }
        if !self.connected && position >= log.end {
            // Events that this process has never seen: the store would take what gets their positions now for them.
            self.progress.set_ahead(position);
            return Err(Unavailable::down(format!(
                "the store holds events up to position {position} of this log, which ended at {} when this server \
                 started: data_dir/wal is an older copy of the log. Stop the server and put the newest copy back, or \
                 start it once more to continue after that position; the events in between are in the store only",
                log.end - 1
            )));
        }
        // What each shard has may be other than it was when rows were made for it.
        if position != self.position || !self.connected || self.gather.is_by_shards() {
            self.connected = true;
            self.gap = None;
            self.gather.restart(position, self.sink.shard_positions());
            self.source.seek(position + 1);
            self.position = position;
            self.progress.restarted(position);
        }
        self.pass(position);
        Ok(())
    }

    /// Waits until a delivery is due. `None`: the queue is closed and everything is stored.
    fn next_delivery(&mut self) -> Done<Option<Delivery>> {
        loop {
            self.check_deadline()?;
            self.pass_gap();
            while self.gather.has_room() && self.gap.is_none() {
                match self.source.next(self.gather.pinned_bytes()) {
                    Ok(Next::Batch(batch)) => self.gather.take(batch),
                    Ok(Next::Missing(positions, reason)) => self.miss(positions, reason),
                    Ok(Next::Nothing) => break,
                    Ok(Next::End) => {
                        self.gather.close();
                        break;
                    }
                    Err(error) => self.wait(&Unavailable::retry(format!("the log cannot be read: {error}")))?,
                }
            }
            if let Some(oldest) = self.gather.oldest_unix_nano() {
                self.progress.holds(oldest);
            }
            let now = Instant::now();
            match self.gather.due(now) {
                Due::Now(delivery) => return Ok(Some(delivery)),
                Due::Nothing if self.gap.is_some() => {}
                Due::Nothing if self.gather.is_closed() => return Ok(None),
                Due::Nothing => {
                    self.check_in_place()?;
                    self.upkeep()?;
                    let due = self.upkeep_at.into_iter().chain(self.check_at).min();
                    self.source.wait(due.filter(|_| !self.drain.begun()));
                }
                // Looking now and then costs both sides less than a wake-up a batch.
                Due::At(at) => {
                    self.check_in_place()?;
                    thread::sleep(FILLING_LOOK.min(at - now));
                }
            }
        }
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
    fn pass_gap(&mut self) {
        if self.gather.is_empty()
            && let Some(gap) = self.gap.take()
        {
            self.pass(gap.end - 1);
        }
    }

    /// Delivers all of it, in parts where the store makes that necessary.
    fn deliver(&mut self, delivery: Delivery) -> Done {
        self.parts = Bisection::rehearsing(delivery, self.sink.rehearses());
        while let Some(part) = self.parts.take_next() {
            self.check_deadline()?;
            // A reconnect may have found that the store has it already.
            let there = self.position >= part.last_position();
            let result = if there { Ok(()) } else { self.attempt(&part) };
            self.parts.put_back(part);
            let unavailable = match self.parts.answer(result) {
                Answer::Stored(part) => {
                    self.stored(part)?;
                    continue;
                }
                Answer::Halved => continue,
                Answer::Accepted { rows } => {
                    if rows > 0 {
                        self.refused_in_a_row = 0;
                    }
                    continue;
                }
                Answer::Refused(refusals) => {
                    self.bury(&refusals)?;
                    continue;
                }
                Answer::RefusedAlone(refusal) if self.refused_in_a_row < REFUSED_IN_A_ROW_MAX => {
                    self.refused_in_a_row += 1;
                    self.bury(&[refusal])?;
                    continue;
                }
                Answer::RefusedAlone(Refusal { code, reason, .. }) => {
                    Unavailable::down(format!("refuses everything, so the events are kept: {code}: {reason}"))
                }
                Answer::Unavailable(unavailable) => unavailable,
            };
            if self.goes_back(&unavailable)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits and connects again. Whether the store then has less than before: what lies between comes first, from the
    /// log.
    fn goes_back(&mut self, unavailable: &Unavailable) -> Done<bool> {
        self.wait(unavailable)?;
        let before = self.position;
        self.connect()?;
        // Rows of several events are made anew where shards may have some of these events.
        let is_made_anew = self.position == before && self.gather.is_by_shards();
        Ok(self.log.is_some() && (self.position < before || is_made_anew))
    }

    fn attempt(&mut self, part: &Delivery) -> Result<(), Failure> {
        let started = Instant::now();
        let is_rehearsal = self.parts.is_rehearsal(part);
        let result = if is_rehearsal { self.sink.rehearse(part) } else { self.sink.deliver(part) };
        let seconds = started.elapsed().as_secs_f64();
        self.metrics.delivery_seconds.observe(seconds);
        let (first, last) = (part.first_position(), part.last_position());
        debug!(sink = self.name, first, last, events = part.events(), seconds, stored = result.is_ok(), "delivery");
        result
    }

    /// The sink has everything up to the end of `part`.
    fn stored(&mut self, part: Delivery) -> Done {
        let last = part.last_position();
        if self.saves_position {
            self.persist(|worker| worker.position_file.save(last))?;
        } else if std::mem::take(&mut self.begins) {
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
        self.well();
        self.pass(last);
        Ok(())
    }

    /// Keeps what the sink refuses of the next part in dead letters, on disk before anything of the delivery is committed,
    /// and leaves it out.
    fn bury(&mut self, refusals: &[Refusal]) -> Done {
        self.persist(|worker| {
            worker.dead.append(worker.parts.asked().flat_map(Delivery::records).filter_map(|record| {
                let index = refusals.binary_search_by_key(&record.position, |refusal| refusal.position).ok()?;
                Some(RefusedEvent { server_id: &worker.server_id, record, refusal: refusals.get(index)? })
            }))
        })?;
        if let Some(Refusal { code, reason, .. }) = refusals.first()
            && let Some(suppressed) = self.refusal_warnings.due(Instant::now())
        {
            let events = refusals.len();
            warn!(sink = self.name, events, code, reason, suppressed, "events refused, kept in dead letters");
        }
        self.metrics.events_dead.inc_by(self.parts.leave_out(refusals));
        Ok(())
    }

    /// Looks whether what was delivered is in place, if it is time to, and connects again where it is not. Not while
    /// draining: that has a deadline.
    fn check_in_place(&mut self) -> Done {
        let now = Instant::now();
        if self.check_at.is_none_or(|at| at > now) || self.drain.begun() {
            return Ok(());
        }
        self.check_at = self.sink.check_interval().map(|interval| now + interval);
        if let Err(unavailable) = self.sink.check_in_place() {
            self.goes_back(&unavailable)?;
            self.well();
        }
        Ok(())
    }

    /// Lets the sink do its upkeep, if it is time to. Not while draining: that has a deadline.
    fn upkeep(&mut self) -> Done {
        if self.upkeep_at.is_none_or(|at| at > Instant::now()) || self.drain.begun() {
            return Ok(());
        }
        let again = match self.sink.upkeep(Clocks::now()) {
            Ok(upkeep) => {
                self.metrics.events_expired.inc_by(upkeep.expired_events);
                upkeep.again
            }
            Err(error) => {
                warn!(sink = self.name, error = error.to_string(), "sink maintenance failed");
                Some(limits::UPKEEP_INTERVAL)
            }
        };
        self.upkeep_at = again.map(|after| Instant::now() + after);
        Ok(())
    }

    /// Does `what` until it works: the disk has to take it before the delivery may continue.
    fn persist(&mut self, what: impl Fn(&Self) -> io::Result<()>) -> Done {
        while let Err(error) = what(self) {
            self.wait(&Unavailable::retry(error.to_string()))?;
        }
        Ok(())
    }

    fn pass(&mut self, position: u64) {
        self.position = self.position.max(position);
        self.gather.stored(position);
        self.progress.passed(position, self.gather.oldest_unix_nano());
        (self.notify)();
    }

    /// The sink works.
    fn well(&mut self) {
        self.backoff.reset();
        if self.progress.set_status(SinkStatus::Ok) == SinkStatus::Ok {
            return;
        }
        self.progress.progressed();
        if mem::take(&mut self.warned) {
            info!(sink = self.name, "sink recovered");
        }
    }

    /// Shows the trouble, then sleeps before the next attempt.
    fn wait(&mut self, unavailable: &Unavailable) -> Done {
        let unavailable = &without_descriptors(unavailable.clone());
        let (status, delay) = match unavailable {
            Unavailable::Retry { reason, after } => (SinkStatus::Retrying(reason.clone()), self.backoff.retry(*after)),
            // While draining there is no time to be slow.
            Unavailable::Down { reason } if self.draining => {
                (SinkStatus::Down(reason.clone()), self.backoff.retry(None))
            }
            Unavailable::Down { reason } => (SinkStatus::Down(reason.clone()), self.backoff.down()),
        };
        if self.log.is_some() && self.drain.begun() {
            // The log keeps what is left; nothing is won by waiting for a store that does not answer.
            self.progress.set_status(status);
            return Err(DeadlinePassed);
        }
        let now = Instant::now();
        let words = status.to_string();
        let is_down = matches!(status, SinkStatus::Down(_));
        let before = self.progress.set_status(status);
        // Whether a person has to act, or not any more, is never one of many: tries are seldom while a sink is down.
        let changes = is_down != matches!(before, SinkStatus::Down(_));
        let suppressed = if changes { Some(self.warnings.at_once(now)) } else { self.warnings.due(now) };
        if let Some(suppressed) = suppressed {
            let next_attempt_seconds = delay.as_secs_f64();
            warn!(sink = self.name, status = words, suppressed, next_attempt_seconds, "sink unavailable, retrying");
            self.warned = true;
        }
        self.metrics.retries.inc();
        // Others need the pool meanwhile: the largest HTTP body may need all that is kept for whole bodies.
        self.gather.unpin(self.parts.parts_mut());
        self.source.let_go();
        self.sleep(now + delay)
    }

    fn sleep(&mut self, until: Instant) -> Done {
        self.drain.sleep(until, self.draining);
        if self.log.is_some() && self.drain.begun() {
            return Err(DeadlinePassed);
        }
        if !self.draining && self.drain.begun() {
            self.draining = true;
            self.backoff.reset();
        }
        self.check_deadline()
    }

    fn check_deadline(&self) -> Done {
        if self.drain.passed(Instant::now()) { Err(DeadlinePassed) } else { Ok(()) }
    }
}

/// A sink that is down while there is no file descriptor left is retried: its store need not be at fault, and the errors
/// of most libraries do not carry the cause.
fn without_descriptors(unavailable: Unavailable) -> Unavailable {
    match unavailable {
        Unavailable::Down { reason } if descriptors::lack(limits::STORE_DESCRIPTORS) => {
            Unavailable::retry(format!("{reason} (out of file descriptors)"))
        }
        unavailable => unavailable,
    }
}

fn unreadable(error: io::Error) -> Unavailable {
    match descriptors::are_exhausted_by(&error) {
        true => Unavailable::retry(error.to_string()),
        false => Unavailable::down(error.to_string()),
    }
}
