//! Which process delivers to a store, and up to which position: the decisions, for every store that keeps positions.
//!
//! Such a store has, beside the events of a log, the **position** of the last event that a sink has stored, and the
//! **owner** that stored it. An owner is random per process start. The sinks read and write both in the language of their
//! store; what they read comes here, and the answer says what to do. Nothing here does I/O.
//!
//! ```text
//!                              the store's position is at or after the end of the log:
//!                              another process has a newer log, nothing is changed
//!                                 ┌──────── LeaveAlone ────────┐
//!                                 │                            │
//!  new ──▶ not the owner ─────────┴─ connect ◀─────────────────┘
//!                                      │
//!                                      ├─ New ─ events of this log are there ─▶ Missing (down)
//!                                      │   └─── none are there ──┐
//!                                      └─ Take ──────────────────┴─▶ write own owner ─▶ taken ─▶ the owner
//!
//!  the owner ── commit: own owner, position as last seen ─▶ last of the delivery ── moved ─▶ the owner
//!      │           │
//!      │           └─ the store has something else ─┬─ at or after the last of the delivery: stored already
//!      │                                            ├─ another owner ─────▶ Fenced (down)
//!      │                                            └─ another position ──▶ Changed (connect again)
//!      └── connect again: as above, but another owner is Fenced, and the end of the log is not compared
//! ```
//!
//! # The contract
//!
//! - **The newest process wins.** The first connect of a process takes the position from any owner. A later connect only
//!   verifies that it is still the owner: otherwise two servers would take the position from each other for ever.
//! - **A newer log is left alone.** A process whose log ends before the store's position has an older copy of the log. It
//!   cannot deliver, and it must not fence the process that can.
//! - **A commit is conditional.** It moves the position from the value that this process saw last, under its own owner, in
//!   the transaction that stores the events. What was committed although its answer was lost is found by the next look, and
//!   a process that was replaced stores nothing.
//! - **A missing position is not a new beginning** while the store has events of the log, neither at run time nor at start:
//!   they would be delivered once more. A person decides ([`MissingPosition`]).
//!
//! # Differences between stores
//!
//! They are arguments, not copies of the rules:
//!
//! - **Keys.** A table has one row per sink, and so one key, [`FIRST`]. A store that is split into shards has a key per
//!   shard. The owner of the first key is the owner of all, the lowest position counts, and a key that is ahead skips what
//!   it has.
//! - **The condition.** SQL updates the row under a condition and asks afterwards why no row was changed
//!   ([`Ownership::not_moved`]). Redis watches the key, reads it, and asks before the transaction ([`Ownership::confirm`]).
//! - **No rollback.** Redis moves a position although it refused an entry of the same transaction. The position is then
//!   moved back ([`Ownership::moved_without_events`]).
//! - **Remains.** Whether the store finds every event of a log, and recognizes one that is delivered again ([`Remains`]).

#[cfg(test)]
mod tests;

use std::fmt;

use thiserror::Error;

use super::{Identity, Unavailable, uuid};

/// The key of a store that has one; of several, the key whose owner is the owner of all.
pub const FIRST: usize = 0;

/// A position as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The last position that the store has of the log.
    pub position: u64,
    /// The process that wrote it.
    pub owner: String,
}

/// What a sink knows of its positions in the store.
#[derive(Debug, Clone)]
pub struct Ownership {
    sink: String,
    server_id: String,
    owner: String,
    log_end: u64,
    keys: Vec<Key>,
}

#[derive(Debug, Clone, Default)]
struct Key {
    /// The store's position as of the last look or commit.
    position: u64,
    /// This process has written its owner.
    is_taken: bool,
    /// The store's position may have been moved to this without its events: then it is to be moved back to `position`.
    without_events: Option<u64>,
}

/// What a connect does with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connect {
    /// Write the own owner and this position, which is the store's unless it is to be moved back. Then
    /// [`Ownership::taken`].
    Take {
        /// The position to write.
        position: u64,
    },
    /// The store has no position. See [`Ownership::check_missing`] whether it may begin; if so, as [`Connect::Take`] with
    /// position 0.
    New,
    /// The store has events that this process's log does not have: change nothing.
    LeaveAlone {
        /// The store's position.
        position: u64,
    },
}

/// The events of a log that a store has without a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// None, for certain.
    Nothing,
    /// Events up to this position. The store recognizes every one of them if it is delivered again.
    Events(u64),
    /// The store was searched in part; the last event that was found, if any was. It does not recognize events that it has,
    /// so what this process knows of the position counts too.
    Partly(Option<u64>),
}

/// What shows that a missing position is not a new beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The store has events of the log.
    Events,
    /// This process has seen the position before it was missing.
    Seen,
}

/// How a store names what is missing, and what a person can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wording {
    /// Where the position is kept: the subject of "is missing".
    pub place: String,
    /// Where the events are: the subject of "has events of this log".
    pub events: String,
    /// How this happens.
    pub cause: &'static str,
    /// The statement that writes the position again, with the own owner.
    pub restore: String,
    /// What else can be done, and its effect.
    pub otherwise: String,
}

impl Wording {
    /// Of a store with a table of events and one of positions, in which a row that is there already stays.
    pub fn of_tables(events: &str, positions: &str, own: &Ownership, position: u64) -> Self {
        let Ownership { server_id, sink, owner, .. } = own;
        Self {
            place: format!("the position in {positions}"),
            events: events.to_owned(),
            cause: "it was removed",
            restore: format!(
                "INSERT INTO {positions} (server_id, sink, position, owner) VALUES ('{server_id}', '{sink}', {position}, \
                 '{owner}')"
            ),
            otherwise: format!(
                "with 0 in place of {position}, everything that the log still has is delivered again, and rows that are \
                 there stay"
            ),
        }
    }
}

/// The position is missing although the store has events of the log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{} is missing, and {} {}: {}. To continue after position {position}: {}; {}",
    wording.place, wording.events, Shown(*proof, *position), wording.cause, wording.restore, wording.otherwise
)]
pub struct MissingPosition {
    position: u64,
    proof: Proof,
    wording: Wording,
}

/// The proof as a predicate.
struct Shown(Proof, u64);

impl fmt::Display for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(proof, position) = self;
        match proof {
            Proof::Events => write!(out, "has events of this log up to position {position}"),
            Proof::Seen => write!(out, "exists, and this server had reached position {position}"),
        }
    }
}

/// Why this process cannot store anything at its position.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OwnershipError {
    /// Another process has taken the position since this one did.
    #[error(
        "fenced at position {position}: another server with the same log delivers as sink `{sink}`; stop one of them, \
         then start this one again"
    )]
    Fenced {
        /// The name of the sink.
        sink: String,
        /// The store's position.
        position: u64,
    },
    /// The position is not where this process left it.
    #[error("the position of this sink was changed by another process: reading it again")]
    Changed,
    /// There is no position, and it is not a new beginning.
    #[error(transparent)]
    Missing(Box<MissingPosition>),
}

impl OwnershipError {
    /// As the answer of the sink that writes to `output`.
    pub fn at(&self, output: &dyn fmt::Display) -> Unavailable {
        let reason = format!("{output}: {self}");
        match self {
            Self::Changed => Unavailable::retry(reason),
            Self::Fenced { .. } | Self::Missing(_) => Unavailable::down(reason),
        }
    }
}

impl Ownership {
    /// Of a process that has not connected. `sink`: its name, under which the positions are stored; `keys`: their number, at
    /// least 1.
    pub fn new(sink: &str, identity: &Identity, keys: usize) -> Self {
        Self {
            sink: sink.to_owned(),
            server_id: uuid(&identity.server_id),
            owner: uuid(&identity.owner),
            log_end: identity.log_end,
            keys: vec![Key::default(); keys.max(1)],
        }
    }

    /// The name of the sink.
    pub fn sink(&self) -> &str {
        &self.sink
    }

    /// The log, as a UUID.
    pub fn server_id(&self) -> &str {
        &self.server_id
    }

    /// This process, as a UUID.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The store's position of the key as of the last look or commit; 0: none.
    pub fn position(&self, key: usize) -> u64 {
        self.keys.get(key).map_or(0, |key| key.position)
    }

    /// The position up to which every key has its events.
    pub fn lowest(&self) -> u64 {
        self.keys.iter().map(|key| key.position).min().unwrap_or(0)
    }

    /// Whether this process has taken all keys. Another one may have taken them since.
    pub fn is_owner(&self) -> bool {
        self.keys.iter().all(|key| key.is_taken)
    }

    // ---- connecting ----

    /// Whether the store has a position that this log does not reach, and is to be left alone. With several keys: asked of
    /// the highest one before any is taken.
    pub fn is_of_newer_log(&self, position: u64) -> bool {
        !self.is_owner() && position >= self.log_end
    }

    /// What a connect does with the key that was read, under a lock or a watch that lasts until it is written.
    ///
    /// # Errors
    /// [`OwnershipError::Fenced`].
    pub fn connect(&self, key: usize, held: Option<&Held>) -> Result<Connect, OwnershipError> {
        let Some(held) = held else { return Ok(Connect::New) };
        if key == FIRST && self.is_owner() && held.owner != self.owner {
            return Err(self.fenced(held));
        }
        if self.is_of_newer_log(held.position) {
            return Ok(Connect::LeaveAlone { position: held.position });
        }
        let to_move_back = self.keys.get(key).filter(|key| key.without_events == Some(held.position));
        Ok(Connect::Take { position: to_move_back.map_or(held.position, |key| key.position) })
    }

    /// Whether a key without a position may begin at 0. `words` names, for the position after which a person would
    /// continue, what is missing and what to do.
    ///
    /// # Errors
    /// [`OwnershipError::Missing`].
    pub fn check_missing(
        &self,
        key: usize,
        remains: Remains,
        words: impl FnOnce(u64, Proof) -> Wording,
    ) -> Result<(), OwnershipError> {
        let seen = self.position(key);
        let (position, proof) = match remains {
            Remains::Events(last) => (last, Proof::Events),
            // Events that this key does not get move its position too, so it may be higher than any event shows.
            Remains::Partly(Some(last)) => (last.max(seen), Proof::Events),
            Remains::Partly(None) if seen > 0 => (seen, Proof::Seen),
            Remains::Partly(None) | Remains::Nothing => return Ok(()),
        };
        let wording = words(position, proof);
        Err(OwnershipError::Missing(Box::new(MissingPosition { position, proof, wording })))
    }

    /// The own owner and this position were written to the key.
    pub fn taken(&mut self, key: usize, position: u64) {
        if let Some(key) = self.keys.get_mut(key) {
            *key = Key { position, is_taken: true, without_events: None };
        }
    }

    // ---- commits ----

    /// Before the transaction of a store that refuses it if the key changes after `held` was read: whether it is as this
    /// process left it.
    ///
    /// # Errors
    /// [`OwnershipError::Fenced`], [`OwnershipError::Changed`].
    pub fn confirm(&self, key: usize, held: Option<&Held>) -> Result<(), OwnershipError> {
        let held = self.own(key, held)?;
        if held.position == self.position(key) { Ok(()) } else { Err(OwnershipError::Changed) }
    }

    /// After the store found no position to move in the transaction of a delivery that ends at `last`: `Ok` where the
    /// events are stored already, be it by an attempt whose answer was lost or by the newer owner. For stores in which a
    /// position proves its events.
    ///
    /// # Errors
    /// [`OwnershipError::Fenced`], [`OwnershipError::Changed`].
    pub fn not_moved(&self, held: Option<&Held>, last: u64) -> Result<(), OwnershipError> {
        if held.is_some_and(|held| held.position >= last) {
            return Ok(());
        }
        self.own(FIRST, held)?;
        Err(OwnershipError::Changed)
    }

    /// The transaction that moved the position of the key to `position` was committed with its events.
    pub fn moved(&mut self, key: usize, position: u64) {
        if let Some(key) = self.keys.get_mut(key) {
            key.position = position;
        }
    }

    // ---- without rollback ----

    /// The store may have moved the position of the key without the events: it is moved back where it is found so.
    pub fn moved_without_events(&mut self, key: usize, position: u64) {
        if let Some(key) = self.keys.get_mut(key) {
            key.without_events = Some(position);
        }
    }

    /// Whether [`Ownership::moved_without_events`] was called, and the position was not written since.
    pub fn may_be_without_events(&self, key: usize) -> bool {
        self.keys.get(key).is_some_and(|key| key.without_events.is_some())
    }

    /// The position to write back where the store has the one that was moved without events; `None`: nothing to do.
    pub fn position_to_restore(&self, key: usize, held: Option<&Held>) -> Option<u64> {
        let (held, key) = (held?, self.keys.get(key)?);
        (held.owner == self.owner && key.without_events == Some(held.position)).then_some(key.position)
    }

    /// The position of the key was written back.
    pub fn restored(&mut self, key: usize) {
        if let Some(key) = self.keys.get_mut(key) {
            key.without_events = None;
        }
    }

    /// What the store has of a key, if this process wrote it.
    fn own<'h>(&self, key: usize, held: Option<&'h Held>) -> Result<&'h Held, OwnershipError> {
        match held {
            Some(held) if held.owner == self.owner => Ok(held),
            Some(held) if key == FIRST => Err(self.fenced(held)),
            // Only the owner of the first key shows which process is the newest; the next connect asks for it.
            _ => Err(OwnershipError::Changed),
        }
    }

    fn fenced(&self, held: &Held) -> OwnershipError {
        OwnershipError::Fenced { sink: self.sink.clone(), position: held.position }
    }
}
