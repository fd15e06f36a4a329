//! What a router notes of trouble with its sink, for `/status.json`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use crate::limits::STATUS_DEAD_LETTERS_MAX;
use crate::sink::Refusal;
use crate::status::{self, DeadLetter, LastError, Recent};
use crate::time::{Now, unix_nano};

/// Written by one router, read by anyone.
#[derive(Debug)]
pub struct SinkNotes {
    trouble: Mutex<Trouble>,
    dead_letters: Recent<DeadLetter>,
}

#[derive(Debug, Default)]
struct Trouble {
    last_error: Option<LastError>,
    next_attempt: Option<Instant>,
}

impl Default for SinkNotes {
    fn default() -> Self {
        Self { trouble: Mutex::default(), dead_letters: Recent::new(STATUS_DEAD_LETTERS_MAX) }
    }
}

impl SinkNotes {
    /// An attempt has failed; the next one is made at `next`.
    pub(super) fn failed(&self, reason: &str, next: Instant, now: Now) {
        let last_error = LastError { reason: status::text(reason), unix_ms: unix_ms(now.wall) };
        *self.lock() = Trouble { last_error: Some(last_error), next_attempt: Some(next) };
    }

    /// The sink works: nothing is waited for.
    pub(super) fn works(&self) {
        self.lock().next_attempt = None;
    }

    /// These events were refused, and are in dead letters. They are in order of position; those next to each other with the
    /// same reason are noted at once.
    pub(super) fn buried(&self, refusals: &[Refusal], now: Now) {
        for same in refusals.chunk_by(|one, next| one.code == next.code && one.reason == next.reason) {
            let Some(last) = same.last() else { continue };
            let (code, reason) = (status::text(&last.code), status::text(&last.reason));
            let (unix_ms, position, events) = (unix_ms(now.wall), last.position, same.len() as u64);
            self.dead_letters.note(
                |letter| letter.code == code && letter.reason == reason,
                |letter| (letter.unix_ms, letter.position, letter.events) = (unix_ms, position, letter.events + events),
                || DeadLetter { unix_ms, position, code: code.clone(), reason: reason.clone(), events },
            );
        }
    }

    /// What is shown: time until the next attempt in seconds, the last error, and the dead letters, the newest first.
    pub fn fill(&self, sink: &mut status::Sink, now: Instant) {
        let trouble = self.lock();
        sink.next_attempt_seconds = trouble.next_attempt.map(|next| next.saturating_duration_since(now).as_secs_f64());
        sink.last_error.clone_from(&trouble.last_error);
        drop(trouble);
        sink.dead_letters = self.dead_letters.newest();
    }

    fn lock(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_ms(wall: SystemTime) -> u64 {
    unix_nano(wall) / 1_000_000
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shown(notes: &SinkNotes, now: Instant) -> status::Sink {
        let mut sink = status::Sink::default();
        notes.fill(&mut sink, now);
        sink
    }

    #[test]
    fn the_last_error_stays_and_the_next_attempt_does_not() {
        let (notes, now) = (SinkNotes::default(), Now::read());
        assert_eq!(shown(&notes, now.monotonic), status::Sink::default());
        let second = Duration::from_secs(1);
        notes.failed("connection refused", now.monotonic + 3 * second, now);
        let sink = shown(&notes, now.monotonic + second);
        assert_eq!(sink.next_attempt_seconds, Some(2.0));
        assert_eq!(sink.last_error.unwrap().reason, "connection refused");
        assert_eq!(shown(&notes, now.monotonic + 9 * second).next_attempt_seconds, Some(0.0));
        notes.works();
        let sink = shown(&notes, now.monotonic);
        assert!(sink.next_attempt_seconds.is_none() && sink.last_error.is_some());
    }

    #[test]
    fn dead_letters_are_noted_by_reason() {
        let (notes, now) = (SinkNotes::default(), Now::read());
        let refusal = |position, reason: &str| Refusal { position, code: "22P05".into(), reason: reason.into() };
        notes.buried(&[refusal(3, "NUL"), refusal(4, "NUL"), refusal(9, "too long")], now);
        notes.buried(&[refusal(12, "NUL")], now);
        let letters = shown(&notes, now.monotonic).dead_letters;
        let noted: Vec<_> = letters.iter().map(|letter| (&*letter.reason, letter.position, letter.events)).collect();
        assert_eq!(noted, [("NUL", 12, 3), ("too long", 9, 1)]);
        for position in 0..100 {
            notes.buried(&[refusal(position, &position.to_string())], now);
        }
        assert_eq!(shown(&notes, now.monotonic).dead_letters.len(), STATUS_DEAD_LETTERS_MAX);
    }
}
