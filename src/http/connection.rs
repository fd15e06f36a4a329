//! One connection: heads, bodies and answers in strict order. The states are drawn in [`super`].

use std::ops::Range;
use std::time::{Duration, Instant};

use super::body::{self, Chunked, Framing};
use super::head::{BodyLength, Head, HeadScan};
use super::incoming::{Body, Room};
use super::ingest::{self, Settled};
use super::kept::Kept;
use super::otlp::{self, Encoding};
use super::pages;
use super::profiles::Profile;
use super::proxy_header;
use super::response::{Answer, CONTINUE, Refusal, error_body};
use super::routes::{self, Route, Submission, Target};
use super::{Ingress, Page, Refused};
use crate::event::UnknownKeys;
use crate::limits::{HELLO_TIMEOUT, HTTP_ACK_TIMEOUT, HTTP_IDLE_GRACE, OUTBOX_BYTES_MAX};
use crate::pipeline::health::Pause;
use crate::wire::AckLevel;

/// Bounds that the user sets.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Bytes of a body, as sent and unpacked, and of what it becomes.
    pub max_body_bytes: usize,
    /// Bytes of one slot; the largest event fits (the settings refuse less than 256 KiB).
    pub max_frame_bytes: usize,
    /// How long a connection may be idle between requests, as announced in whole seconds; at least one.
    pub idle_timeout: Duration,
    /// What becomes of unknown keys in JSON, where the query does not say it.
    pub unknown_keys: UnknownKeys,
}

/// The sinks that a request of this level waits for, for a 504.
fn late_sinks(level: AckLevel, age: Duration, ingress: &impl Ingress) -> String {
    if level == AckLevel::Delivered { ingress.late_sinks(age) } else { String::new() }
}

/// What becomes of events that the log has, for a 504.
const IN_LOG: &str = "the events are in the log and will be delivered: sending them again stores them twice";

/// The state machine of one connection. Every method that takes `out` appends what is to be written to the peer.
pub struct Connection {
    settings: Settings,
    pub(super) state: State,
    /// The caller does not read it since then.
    paused: Option<Instant>,
}

pub(super) enum State {
    /// Between two requests.
    Idle {
        deadline: Instant,
    },
    /// Within a head, or before the first one.
    Head {
        scan: HeadScan,
        deadline: Instant,
    },
    Body(Body),
    Waiting(Waiting),
    /// A profile is being taken.
    Profile(Profile),
    Closing,
}

/// A request whose events were handed on.
pub(super) struct Waiting {
    level: AckLevel,
    ticket: u64,
    settled: Settled,
    close: bool,
    deadline: Instant,
}

impl Connection {
    /// A connection accepted at `now`.
    pub fn new(settings: Settings, now: Instant) -> Self {
        let state = State::Head { scan: HeadScan::default(), deadline: now + HELLO_TIMEOUT };
        Self { settings, state, paused: None }
    }

    /// Takes bytes from the peer and returns how many were consumed.
    ///
    /// The caller keeps the rest and offers it again, with more after it, or once the reason is gone:
    /// * a partial head: at most `HTTP_HEAD_BYTES_MAX` bytes stay (the machine answers 431 above that);
    /// * [`Connection::waiting_for`] an acknowledgement: requests are answered in order, nothing is consumed;
    /// * `out` holds `OUTBOX_BYTES_MAX` or more: call again when it has been written;
    /// * [`Connection::lacks_room`]: nothing is consumed before that is settled;
    /// * [`Connection::closing`]: nothing is consumed any more.
    ///
    /// A peer that has half-closed still gets the answers to what it sent: close once nothing is waited for, nothing
    /// more is consumed, and `out` is written.
    pub fn receive(&mut self, input: &[u8], now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) -> usize {
        let mut consumed = 0;
        while let Some(rest) = input.get(consumed..).filter(|rest| !rest.is_empty()) {
            let taken = match &mut self.state {
                State::Idle { .. } | State::Head { .. } if out.len() >= OUTBOX_BYTES_MAX => 0,
                State::Idle { .. } => {
                    self.state = State::Head { scan: HeadScan::default(), deadline: now + HELLO_TIMEOUT };
                    continue;
                }
                State::Head { .. } => self.receive_head(rest, now, ingress, out),
                State::Body(_) => self.receive_body(rest, now, ingress, out),
                State::Waiting(_) | State::Profile(_) | State::Closing => 0,
            };
            if taken == 0 {
                break;
            }
            consumed += taken;
        }
        consumed
    }

    /// Where the next bytes of a body of known length belong, so that the socket can be read straight into the pool;
    /// then [`Connection::body_filled`]. `None`: bytes go through [`Connection::receive`]. Never empty.
    pub fn body_room(&mut self) -> Option<&mut [u8]> {
        match &mut self.state {
            State::Body(Body { framing: Framing::Length(missing), kept: Kept::Pool(buffer), whole: None, .. }) => {
                buffer.unfilled().get_mut(..*missing)
            }
            _ => None,
        }
    }

    /// Bytes to read at most for [`Connection::receive`] where they belong to the beginning of a body of known length;
    /// `None`: anything may come next.
    pub fn beginning_room(&self) -> Option<usize> {
        match &self.state {
            State::Body(Body { framing: Framing::Length(missing), kept, .. }) => {
                kept.before_reserving().map(|bytes| bytes.min(*missing))
            }
            _ => None,
        }
    }

    /// The first `bytes` of [`Connection::body_room`] were written.
    pub fn body_filled(&mut self, bytes: usize, now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) {
        if let State::Body(Body { framing: Framing::Length(missing), kept: Kept::Pool(buffer), .. }) = &mut self.state {
            let bytes = bytes.min(*missing);
            buffer.advance(bytes);
            *missing -= bytes;
            if *missing == 0 {
                self.body_complete(now, ingress, out);
            }
        }
    }

    /// The level and the ticket whose acknowledgement the answer waits for.
    pub fn waiting_for(&self) -> Option<(AckLevel, u64)> {
        match &self.state {
            State::Waiting(waiting) => Some((waiting.level, waiting.ticket)),
            _ => None,
        }
    }

    /// The watermark of [`Connection::waiting_for`] was reached: answers 200. Then offer what is left to
    /// [`Connection::receive`].
    pub fn acknowledged(&mut self, now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) {
        if let State::Waiting(waiting) = &self.state {
            if waiting.settled.nothing_but_refused() {
                return self.answer_failed(400, &waiting.settled.nothing_accepted(), false, now, ingress, out);
            }
            let (body, close) = (waiting.settled.body(None), waiting.close);
            let content_type = waiting.settled.content_type();
            self.answer(Answer { content_type, ..Answer::json(200, &body, close) }, now, ingress, out);
        }
    }

    /// Answers a request that waits for its acknowledgement with an error.
    fn answer_failed(
        &mut self,
        status: u16,
        error: &str,
        close: bool,
        now: Instant,
        ingress: &mut impl Ingress,
        out: &mut Vec<u8>,
    ) {
        let State::Waiting(waiting) = &self.state else { return };
        let settled = &waiting.settled;
        let is_noted = settled.nothing_but_refused();
        ingress.refused(&Refused { is_noted, ..Refused::post(status, settled.target(), error) });
        let (body, close) = (settled.body(Some((status, error))), close || waiting.close);
        let content_type = settled.content_type();
        self.answer(Answer { content_type, ..Answer::json(status, &body, close) }, now, ingress, out);
    }

    /// The caller stops or begins to read this connection, because of anything but an empty socket. The time in between is
    /// not the peer's: it counts neither towards the timers of a head or a body nor towards its rate (R11).
    pub fn set_paused(&mut self, paused: bool, now: Instant) {
        if paused {
            self.paused = self.paused.or(Some(now));
            return;
        }
        let Some(since) = self.paused.take() else { return };
        let pause = now.saturating_duration_since(since);
        match &mut self.state {
            State::Head { deadline, .. } => *deadline += pause,
            State::Body(body) => body.since += pause,
            State::Idle { .. } | State::Waiting(_) | State::Profile(_) | State::Closing => {}
        }
    }

    /// When [`Connection::handle_timeout`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Head { .. } | State::Body(Body { whole: None, .. }) if self.paused.is_some() => None,
            State::Idle { deadline } | State::Head { deadline, .. } => Some(*deadline),
            State::Body(body) => Some(body.deadline()),
            State::Waiting(waiting) => Some(waiting.deadline),
            State::Profile(profile) => Some(profile.deadline),
            State::Closing => None,
        }
    }

    /// Time has passed. For timers on the peer (R11) call it only after a read that found nothing.
    pub fn handle_timeout(&mut self, now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match &self.state {
            State::Head { scan, .. } if scan.begun() => {
                let refusal = Refusal::new(408, "the request head took too long");
                self.refuse(&refusal, Ending::unreadable(), now, ingress, out);
            }
            State::Idle { .. } | State::Head { .. } => self.state = State::Closing,
            State::Body(Body { whole: Some(_), lacks, .. }) => {
                if *lacks == Some(Room::Finish) && self.came_at_once() {
                    // Others may be before it in line, and wait for more than it needs.
                    self.body_complete(now, ingress, out);
                }
                if matches!(self.state, State::Body(_)) {
                    self.refuse_room(now, ingress, out);
                }
            }
            State::Body(_) => self.abandon_body(now, ingress, out),
            State::Waiting(waiting) => {
                let (level, seconds) = (waiting.level.name(), HTTP_ACK_TIMEOUT.as_secs());
                let what_becomes_of_them = match ingress.is_written(waiting.ticket) {
                    true => IN_LOG,
                    false => {
                        "the events wait in memory until the log accepts them, and are lost if the server ends before: \
                         sending them again may store them twice"
                    }
                };
                // The oldest event of a sink that holds this one is at least as old; clocks differ by less than half of that.
                let sinks = late_sinks(waiting.level, HTTP_ACK_TIMEOUT / 2, ingress);
                let error = format!("not {level} within {seconds} s; {sinks}{what_becomes_of_them}");
                self.answer_failed(504, &error, false, now, ingress, out);
            }
            State::Profile(_) => {
                let error = "the profile was not ready in time: ask for fewer seconds, or for less load";
                self.end_profile((504, error), now, ingress, out);
            }
            State::Closing => {}
        }
    }

    /// While others wait for memory: ends a body that comes slower than 64 KiB/s after its first 2 s (R11), and gives its
    /// memory back. Does nothing elsewhere.
    pub fn press_body(&mut self, now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) {
        if let State::Body(body) = &self.state
            && self.paused.is_none()
            && body.is_slow(now)
        {
            self.abandon_body(now, ingress, out);
        }
    }

    /// The bytes per second at which a body comes, if that is below 64 KiB/s after its first 2 s and closing it (see
    /// [`Connection::press_body`]) would free some of `room`.
    pub fn slow_body(&self, room: Room, now: Instant) -> Option<u64> {
        let State::Body(body) = &self.state else { return None };
        let helps = match &body.kept {
            Kept::Beginning(_) => matches!(room, Room::Beginnings(_)) && body.kept.len() > 0,
            Kept::Pool(_) => matches!(room, Room::Pool(_)),
        };
        let millis = now.saturating_duration_since(body.since).as_millis().max(1) as u64;
        (helps && self.paused.is_none() && body.is_slow(now)).then(|| body.kept.len() as u64 * 1000 / millis)
    }

    /// The pages of the pool that the body holds; none elsewhere.
    pub fn body_pages(&self) -> Range<usize> {
        match &self.state {
            State::Body(Body { kept: Kept::Pool(buffer), .. }) => buffer.pages(),
            _ => 0..0,
        }
    }

    /// Bytes of the budget of [`Beginnings`](super::Beginnings) that the body holds; none elsewhere.
    pub fn beginning_bytes(&self) -> usize {
        match &self.state {
            State::Body(Body { kept: Kept::Beginning(beginning), .. }) => beginning.taken(),
            _ => 0,
        }
    }

    /// When a whole body that lacks [`Room::Finish`] is tried again whatever [`Ingress::can_finish`] says, by
    /// [`Connection::take_room`].
    pub fn retry_at(&self) -> Option<Instant> {
        match &self.state {
            State::Body(Body { whole: Some(whole), .. }) => Some(whole.retry_at),
            _ => None,
        }
    }

    fn came_at_once(&self) -> bool {
        matches!(&self.state, State::Body(body) if body.came_at_once())
    }

    /// What the body that is being received cannot continue without. Nothing is consumed until
    /// [`Connection::take_room`] has found it or [`Connection::refuse_room`] has given up.
    pub fn lacks_room(&self) -> Option<Room> {
        match &self.state {
            State::Body(body) => body.lacks,
            _ => None,
        }
    }

    /// Tries again what there was no room for. `true`: nothing is lacking now; offer what is left to
    /// [`Connection::receive`].
    pub fn take_room(&mut self, now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) -> bool {
        let settings = self.settings;
        let State::Body(body) = &mut self.state else { return true };
        let Some(lacks) = body.lacks.take() else { return true };
        if body.whole.is_some() {
            self.body_complete(now, ingress, out);
        } else if let Err(room) = body.make_room(1, matches!(lacks, Room::Pool(_)), settings, ingress) {
            body.lacks = Some(room);
        }
        self.lacks_room().is_none()
    }

    /// There is no room for the body, and none can be made: 503.
    pub fn refuse_room(&mut self, now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) {
        ingress.no_room();
        self.refuse(&ingest::no_memory(), self.post_ending(true), now, ingress, out);
    }

    /// Ends a body and gives its memory back. Does nothing elsewhere.
    fn abandon_body(&mut self, now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) {
        if let State::Body(body) = &self.state {
            // Exporters of OTLP send again after a 503, and drop what a 408 was the answer to.
            let status = if body.submission.target == Target::Events { 408 } else { 503 };
            let refusal = Refusal::new(status, "the body took too long: nothing of it was accepted, send it again");
            self.refuse(&refusal, self.post_ending(true), now, ingress, out);
        }
    }

    /// How the answer to the POST ends whose body is being received.
    fn post_ending(&self, close: bool) -> Ending<'static> {
        match &self.state {
            State::Body(body) => Ending::of_post(body.submission, close),
            _ => Ending::unreadable(),
        }
    }

    /// The server begins to drain, and reads no more: an idle connection closes, a request that has begun is refused
    /// (503), one that waits for its acknowledgement is answered first. A profile ends.
    pub fn drain(&mut self, now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) {
        match &self.state {
            State::Idle { .. } => self.state = State::Closing,
            State::Head { scan, .. } if !scan.begun() => self.state = State::Closing,
            State::Head { .. } => self.refuse(&routes::draining(ingress), Ending::unreadable(), now, ingress, out),
            State::Body(_) => self.refuse(&routes::draining(ingress), self.post_ending(true), now, ingress, out),
            State::Profile(_) => {
                self.end_profile((503, "the server is shutting down: the profile was ended early"), now, ingress, out);
            }
            State::Waiting(_) | State::Closing => {}
        }
    }

    /// The log has failed, and the process ends: a request that waits is answered.
    pub fn log_failed(&mut self, now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) {
        if let State::Waiting(_) = &self.state {
            let error = "this server cannot write its log any more: it is not known whether the events are kept; \
                         sending them again may store them twice";
            self.answer_failed(503, error, true, now, ingress, out);
        }
    }

    /// The server ends, and the acknowledgement that a request waits for does not come before: 504.
    pub fn end_waiting(&mut self, now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) {
        if let State::Waiting(waiting) = &self.state {
            let what_becomes_of_them = match ingress.is_written(waiting.ticket) {
                true => IN_LOG,
                false => "it is not known whether the events are kept: sending them again may store them twice",
            };
            let sinks = late_sinks(waiting.level, Duration::ZERO, ingress);
            let error = format!("not {} before this server ended; {sinks}{what_becomes_of_them}", waiting.level.name());
            self.answer_failed(504, &error, true, now, ingress, out);
        }
    }

    /// Nothing more will be consumed or answered: write what is in `out`, then close as R15 says.
    pub fn closing(&self) -> bool {
        matches!(self.state, State::Closing)
    }

    fn receive_head(&mut self, input: &[u8], now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) -> usize {
        let State::Head { scan, .. } = &mut self.state else { return 0 };
        if proxy_header::is_undecided(input) {
            return 0;
        }
        let range = match scan.advance(input) {
            Ok(Some(range)) => range,
            Ok(None) => return 0,
            Err(refusal) => {
                let refusal = proxy_header::refusal(input).unwrap_or(refusal);
                self.refuse(&refusal, Ending::unreadable(), now, ingress, out);
                return 0;
            }
        };
        let consumed = range.end;
        let head = input.get(range).unwrap_or_default();
        match Head::parse(head) {
            Ok(head) => self.request(&head, now, ingress, out),
            Err(refusal) => {
                // Whatever is wrong with a HEAD, its answer has no body (RFC 9110, section 9.3.2).
                let ending = Ending { head_only: head.starts_with(b"HEAD "), ..Ending::unreadable() };
                let refusal = proxy_header::refusal(head).unwrap_or(refusal);
                self.refuse(&refusal, ending, now, ingress, out);
            }
        }
        consumed
    }

    /// A whole head: answers at once, or continues with the body.
    fn request(&mut self, head: &Head<'_>, now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) {
        // An answer that is given now leaves the body unread, and what follows must not be read as a request.
        let empty = head.length == BodyLength::Known(0);
        let ending = Ending {
            close: head.close || !empty,
            head_only: head.method == "HEAD",
            method: head.method,
            path: head.path,
            encoding: if routes::is_otlp(head.path) { Encoding::of_otlp(head.content_type) } else { Encoding::Native },
        };
        match Route::find(head) {
            Ok(Route::Page(page)) => match pages::check(page, head, ingress) {
                Ok(()) => self.show(page, ending, now, ingress, out),
                Err(refusal) => self.refuse(&refusal, ending, now, ingress, out),
            },
            Ok(Route::Home) => match pages::check_host(head, ingress) {
                Ok(()) => {
                    let html = Answer::json(200, pages::HTML.as_bytes(), ending.close);
                    let (content_type, fields) = (pages::CONTENT_TYPE, pages::fields_of_html());
                    let answer = Answer { content_type, fields, head_only: ending.head_only, ..html };
                    self.answer(answer, now, ingress, out);
                }
                Err(refusal) => self.refuse(&refusal, ending, now, ingress, out),
            },
            Ok(Route::Post(target)) => match self.begin_body(head, target, now, ingress) {
                Ok(body) => {
                    self.state = State::Body(body);
                    if empty {
                        self.body_complete(now, ingress, out);
                    } else if head.expects_continue {
                        out.extend_from_slice(CONTINUE);
                    }
                }
                Err(refusal) => self.refuse(&refusal, ending, now, ingress, out),
            },
            Ok(Route::Profile(format)) => self.profile((format, head, ending), now, ingress, out),
            Err(refusal) => self.refuse(&refusal, ending, now, ingress, out),
        }
    }

    fn show(&mut self, page: Page, ending: Ending<'_>, now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) {
        let (status, content_type, body) = ingress.status_page(page);
        let fields = if page == Page::Status { pages::FIELDS_OF_STATUS } else { "" };
        let answer = Answer::json(status, &body, ending.close);
        self.answer(Answer { content_type, fields, head_only: ending.head_only, ..answer }, now, ingress, out);
    }

    fn begin_body(
        &self,
        head: &Head<'_>,
        target: Target,
        now: Instant,
        ingress: &mut impl Ingress,
    ) -> Result<Body, Refusal> {
        let submission = Submission::check(head, target, ingress)?;
        let max_bytes = self.settings.max_body_bytes;
        let framing = match head.length {
            BodyLength::Chunked => Framing::Chunked(Chunked::new()),
            BodyLength::Known(length) => match usize::try_from(length) {
                Ok(length) if length <= max_bytes => Framing::Length(length),
                _ => return Err(body::too_large(max_bytes)),
            },
        };
        if let Some(pause) = ingress.log_pause() {
            return Err(paused(pause));
        }
        if let Some(limited) = ingress.limited() {
            return Err(limited.refusal());
        }
        let (kept, close) = (Kept::new(), head.close);
        Ok(Body { submission, framing, kept, lacks: None, whole: None, close, since: now })
    }

    fn receive_body(&mut self, input: &[u8], now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) -> usize {
        let settings = self.settings;
        let mut consumed = 0;
        loop {
            let State::Body(body) = &mut self.state else { return consumed };
            let rest = input.get(consumed..).unwrap_or_default();
            if body.lacks.is_some() || rest.is_empty() {
                return consumed;
            }
            if let Err(room) = body.make_room(rest.len(), body.is_to_be_reserved(rest.len()), settings, ingress) {
                body.lacks = Some(room);
                return consumed;
            }
            match body.framing.receive(rest, &mut body.kept, settings.max_body_bytes) {
                Ok((taken, complete)) => {
                    consumed += taken;
                    if complete {
                        self.body_complete(now, ingress, out);
                        return consumed;
                    }
                }
                Err(refusal) => {
                    self.refuse(&refusal, self.post_ending(true), now, ingress, out);
                    return consumed;
                }
            }
        }
    }

    /// All of the body has come: its events are handed on, or it waits for room.
    fn body_complete(&mut self, now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) {
        let settings = self.settings;
        let State::Body(body) = &mut self.state else { return };
        let refusal = match ingress.log_pause() {
            _ if ingress.draining() => Some(routes::draining(ingress)),
            pause => pause.map(paused),
        };
        let finished = match refusal {
            None => body.finish(settings, now, ingress),
            Some(refusal) => Err(refusal),
        };
        let (submission, close) = (body.submission, body.close);
        let finished = match finished {
            Ok(None) => return,
            Ok(Some(finished)) => Ok(finished),
            Err(refusal) => Err(refusal),
        };
        self.state = State::Closing;
        match finished {
            Ok((settled, Some(ticket))) => {
                let deadline = now + HTTP_ACK_TIMEOUT;
                let level = submission.level;
                self.state = State::Waiting(Waiting { level, ticket, settled, close, deadline });
            }
            Ok((settled, None)) if settled.nothing_but_refused() => {
                let error = settled.nothing_accepted();
                ingress.refused(&Refused::wholly_rejected(submission.target, &error));
                let (body, content_type) = (settled.body(Some((400, &error))), settled.content_type());
                self.answer(Answer { content_type, ..Answer::json(400, &body, close) }, now, ingress, out);
            }
            Ok((settled, None)) => {
                let (body, content_type) = (settled.body(None), settled.content_type());
                self.answer(Answer { content_type, ..Answer::json(200, &body, close) }, now, ingress, out);
            }
            Err(refusal) => self.refuse(&refusal, Ending::of_post(submission, close), now, ingress, out),
        }
    }

    pub(super) fn refuse(
        &mut self,
        refusal: &Refusal,
        ending: Ending<'_>,
        now: Instant,
        ingress: &mut impl Ingress,
        out: &mut Vec<u8>,
    ) {
        let Ending { method, path, encoding, .. } = ending;
        ingress.refused(&Refused { status: refusal.status, method, path, reason: &refusal.error, is_noted: false });
        if let Some(reason) = refusal.reason {
            ingress.rejected(reason, 1);
        }
        let body = match encoding {
            Encoding::Native => error_body(&refusal.error),
            encoding => otlp::status_body(encoding, refusal.status, &refusal.error),
        };
        // A server without memory or ring is not helped by who asks again at once on the same connection.
        let close = ending.close || refusal.status == 503;
        let answer = Answer {
            allow: refusal.allow,
            accept_encoding: refusal.accept_encoding,
            retry_after: refusal.retry_after,
            head_only: ending.head_only,
            content_type: encoding.content_type(),
            ..Answer::json(refusal.status, &body, close)
        };
        self.answer(answer, now, ingress, out);
    }

    pub(super) fn answer(&mut self, answer: Answer<'_>, now: Instant, ingress: &mut impl Ingress, out: &mut Vec<u8>) {
        let idle_timeout = self.settings.idle_timeout;
        let answer = Answer { close: answer.close || ingress.draining(), keep_alive: Some(idle_timeout), ..answer };
        answer.write(ingress.date(), out);
        ingress.answered(answer.status);
        self.state = match answer.close {
            true => State::Closing,
            false => State::Idle { deadline: now + idle_timeout + HTTP_IDLE_GRACE },
        };
    }
}

/// The log accepts nothing: an event taken now would wait in memory, and each retry would store it again.
fn paused(pause: Pause) -> Refusal {
    let why = match pause {
        Pause::DiskFull => "the server's disk is full",
        Pause::LogFull => "the server's log is full (wal.max_bytes)",
        Pause::NoDescriptors => "the server is out of file descriptors",
    };
    Refusal::new(503, format!("{why}: nothing was accepted, retry later"))
}

/// What a request says about how its answer ends.
#[derive(Clone, Copy)]
pub(super) struct Ending<'a> {
    /// The connection ends after it.
    pub close: bool,
    /// The request was a HEAD.
    pub head_only: bool,
    /// For the log; empty where the head could not be read.
    pub method: &'a str,
    /// Likewise.
    pub path: &'a str,
    /// Of the answer.
    pub encoding: Encoding,
}

impl Ending<'static> {
    /// The answer to a POST whose head was read.
    fn of_post(submission: Submission, close: bool) -> Self {
        let Refused { method, path, .. } = Refused::post(0, submission.target, "");
        Self { close, head_only: false, method, path, encoding: submission.encoding() }
    }

    /// Where the next request would begin is not known.
    fn unreadable() -> Self {
        Self { close: true, head_only: false, method: "", path: "", encoding: Encoding::Native }
    }
}
