//! A body on its way in: what there is of it, what it has no room for, and by when it has to be there.

use std::time::{Duration, Instant};

use super::Ingress;
use super::body::Framing;
use super::connection::Settings;
use super::ingest::{self, Failed, Settled};
use super::kept::Kept;
use super::response::Refusal;
use super::routes::Submission;
use crate::limits::{
    FRAME_RATE_MIN_BYTES_PER_SECOND, FRAME_TIMEOUT, HTTP_ACK_TIMEOUT, HTTP_BODY_BEGINNING_BYTES, HTTP_FINISH_RETRY,
    STALLED_FRAME_TIMEOUT,
};
use crate::rate::{Amount, Received};

/// The body of a POST /v1/events that is not answered yet.
pub(super) struct Body {
    /// The head's fields about the body.
    pub submission: Submission,
    /// How far the body was received.
    pub framing: Framing,
    /// The bytes received so far, without framing.
    pub kept: Kept,
    /// What it cannot continue without.
    pub lacks: Option<Room>,
    /// Once all of it was received.
    pub whole: Option<Whole>,
    /// Of the request: the connection ends after the answer.
    pub close: bool,
    /// When the first byte of the body could come; later by the time in which the connection was not read.
    pub since: Instant,
}

/// Of a body that is whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole {
    since: Instant,
    /// From then on it is tried with what room there is, although it might not be enough.
    pub retry_at: Instant,
}

/// What a body has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// So many bytes of the budget of [`Beginnings`](super::Beginnings), beside what it has, for bytes that were received.
    Beginnings(usize),
    /// So many bytes of the pool, for all of the body.
    Pool(usize),
    /// Pool or ring, for what the body becomes; it is whole. It waits until there is room again.
    Finish,
}

impl Body {
    /// Whether all that may come has to be in the pool before `more` bytes are taken: they end the body, or its beginning.
    pub(super) fn is_to_be_reserved(&self, more: usize) -> bool {
        let Some(left) = self.kept.before_reserving() else { return false };
        match &self.framing {
            Framing::Length(missing) => more >= left.min(*missing),
            Framing::Chunked(_) => left == 0 && self.framing.is_within_data(),
        }
    }

    /// Finds room for `more` bytes of a beginning, or (`reserve`) for all of the body.
    ///
    /// # Errors
    /// There is none; nothing has changed.
    pub(super) fn make_room(
        &mut self,
        more: usize,
        reserve: bool,
        settings: Settings,
        ingress: &mut impl Ingress,
    ) -> Result<(), Room> {
        if reserve {
            let bytes = self.framing.whole_bytes(self.kept.len(), settings.max_body_bytes);
            return self.reserve(bytes, ingress);
        }
        let Some(left) = self.kept.before_reserving() else { return Ok(()) };
        let Kept::Beginning(beginning) = &mut self.kept else { return Ok(()) };
        let more = more.min(left);
        if beginning.grow(more, ingress.beginnings()) { Ok(()) } else { Err(Room::Beginnings(beginning.growth(more))) }
    }

    fn reserve(&mut self, bytes: usize, ingress: &mut impl Ingress) -> Result<(), Room> {
        if matches!(self.kept, Kept::Beginning(_)) {
            let buffer = ingress.reserve(bytes).ok_or(Room::Pool(bytes))?;
            // It has room for more than what has come.
            let fits = self.kept.move_to(buffer);
            debug_assert!(fits);
        }
        Ok(())
    }

    /// Hands the events of a whole body on. `None`: there is no room for that, see `lacks`; nothing has changed.
    ///
    /// # Errors
    /// As of [`ingest::ingest`].
    pub(super) fn finish(
        &mut self,
        settings: Settings,
        now: Instant,
        ingress: &mut impl Ingress,
    ) -> Result<Option<(Settled, Option<u64>)>, Refusal> {
        let is_first = self.whole.is_none();
        let whole = self.whole.get_or_insert(Whole { since: now, retry_at: now + HTTP_FINISH_RETRY });
        let is_due = now >= whole.retry_at;
        if is_due {
            whole.retry_at = now + HTTP_FINISH_RETRY;
        }
        self.lacks = self.reserve(self.kept.len(), ingress).err();
        let bytes = self.kept.len();
        let needs = ingest::needs(bytes, self.submission, settings);
        let is_tried = is_due || (is_first && self.came_at_once()) || ingress.can_finish(needs);
        let Kept::Pool(buffer) = &mut self.kept else { return Ok(None) };
        // A chunked one had room for the largest.
        buffer.trim();
        if is_tried {
            match ingest::ingest(buffer, self.submission, settings, ingress) {
                Ok(finished) => {
                    ingress.received(finished.0.received(bytes));
                    return Ok(Some(finished));
                }
                Err(Failed::Refused(refusal)) => {
                    // It counts as one rejected event, too.
                    ingress.received(Received { amount: Amount { events: 1, bytes: bytes as u64 }, accepted: 0 });
                    return Err(refusal);
                }
                Err(Failed::NoRoom) => {}
            }
        }
        self.lacks = Some(Room::Finish);
        Ok(None)
    }

    /// Whether the body was whole before more than a beginning had to be reserved for it.
    pub(super) fn came_at_once(&self) -> bool {
        self.kept.len() <= HTTP_BODY_BEGINNING_BYTES
    }

    /// Below 64 KiB/s, its first 2 s left out. A whole body is not.
    pub(super) fn is_slow(&self, now: Instant) -> bool {
        let transfer = Duration::from_secs_f64(self.kept.len() as f64 / FRAME_RATE_MIN_BYTES_PER_SECOND as f64);
        self.whole.is_none() && now >= self.since + STALLED_FRAME_TIMEOUT + transfer
    }

    /// R11: 10 s and what the slowest allowed rate needs; for chunked, whose length is unknown, for what has come. A whole
    /// body that was admitted waits for room as long as its answer would for the log; one that came at once may be sent again
    /// sooner.
    pub(super) fn deadline(&self) -> Instant {
        if let Some(whole) = self.whole {
            return whole.since + if self.came_at_once() { HTTP_FINISH_RETRY } else { HTTP_ACK_TIMEOUT };
        }
        let bytes = match &self.framing {
            Framing::Length(missing) => self.kept.len() + missing,
            Framing::Chunked(_) => self.kept.len(),
        };
        let millis = (bytes as u64).saturating_mul(1000) / FRAME_RATE_MIN_BYTES_PER_SECOND;
        self.since + FRAME_TIMEOUT + Duration::from_millis(millis)
    }
}
