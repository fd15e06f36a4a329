//! The books of a fault test: what was sent and acknowledged, and what a store has of it.
//!
//! Every event is a function of (seed, sender, number), so the ledger holds counts, and whoever reads a store can tell
//! a lost event from a changed one and from one that nobody sent.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use telemetryx::event::proto::Event;
use telemetryx::random::Random;

/// Name of every event in a ledger. Others (probes of a test) are left out of account.
pub(crate) const NAME: &str = "entry";

/// Lost events that are named, of each sender.
const FIRST_LOST: usize = 10;

/// One agent, or one HTTP client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sender {
    /// `source` of its events.
    pub name: String,
    /// It sent the events 1, 2, 3 … `events`, and all are acknowledged.
    pub events: u64,
    /// Frames: exactly once and in order. HTTP: at least once.
    pub exactly_once: bool,
    /// Connections that ended before it wanted; repeated requests.
    pub interruptions: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub seed: u64,
    pub senders: Vec<Sender>,
}

/// An event as a store has it.
pub(crate) struct Row {
    pub sender: String,
    pub number: u64,
    pub body: String,
}

/// What became of the events in one store.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub acknowledged: u64,
    pub lost: u64,
    /// Of frames. Requests that were repeated are at least once.
    pub stored_twice: u64,
    pub out_of_order: u64,
    pub altered: u64,
    pub sent_by_nobody: u64,
    pub requests_acknowledged: u64,
    pub requests_lost: u64,
    pub requests_stored_twice: u64,
    pub interruptions: u64,
    /// The first of those that are lost, for whoever looks for the reason.
    pub first_lost: Vec<(String, u64)>,
}

/// The text of an event: 8 to 247 characters that no other event has.
pub(crate) fn body(seed: u64, sender: &str, number: u64) -> String {
    let sender = sender.bytes().fold(0, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut random =
        Random::seeded(seed ^ sender.wrapping_mul(0x9e37_79b9) ^ number.wrapping_mul(0xd134_2543_de82_ef95));
    let words = 1 + random.next_u64() % 14;
    (0..words).map(|_| format!("{:016x} ", random.next_u64())).collect::<String>().trim_end().to_owned()
}

/// The event that this number stands for.
pub(crate) fn event(seed: u64, sender: &str, number: u64) -> Event {
    Event {
        name: NAME.to_owned(),
        source: sender.to_owned(),
        value: Some(number as f64),
        body: body(seed, sender, number),
        ..Event::default()
    }
}

impl Ledger {
    pub(crate) fn events(&self) -> u64 {
        self.senders.iter().map(|sender| sender.events).sum()
    }

    /// Compares with a store's rows, in the order of their positions.
    pub(crate) fn compare(&self, rows: impl IntoIterator<Item = Row>) -> Outcome {
        struct Account<'a> {
            sender: &'a Sender,
            seen: Vec<bool>,
            highest: u64,
        }
        let account = |sender| Account { sender, seen: vec![false; sender.events as usize], highest: 0 };
        let mut accounts: BTreeMap<&str, Account> =
            self.senders.iter().map(|sender| (sender.name.as_str(), account(sender))).collect();
        let mut outcome = Outcome::default();
        for row in rows {
            let Some(account) = accounts.get_mut(row.sender.as_str()) else {
                outcome.sent_by_nobody += 1;
                continue;
            };
            let Some(seen) = (row.number as usize).checked_sub(1).and_then(|index| account.seen.get_mut(index)) else {
                outcome.sent_by_nobody += 1;
                continue;
            };
            outcome.altered += u64::from(row.body != body(self.seed, &row.sender, row.number));
            match (std::mem::replace(seen, true), account.sender.exactly_once) {
                (true, true) => outcome.stored_twice += 1,
                (true, false) => outcome.requests_stored_twice += 1,
                (false, true) if row.number < account.highest => outcome.out_of_order += 1,
                (false, _) => account.highest = account.highest.max(row.number),
            }
        }
        for account in accounts.values() {
            let lost = account.seen.iter().filter(|seen| !**seen).count() as u64;
            let numbers = (1..).zip(&account.seen).filter(|(_, seen)| !**seen);
            let named = numbers.map(|(number, _)| (account.sender.name.clone(), number));
            outcome.first_lost.extend(named.take(FIRST_LOST));
            outcome.interruptions += account.sender.interruptions;
            if account.sender.exactly_once {
                outcome.acknowledged += account.sender.events;
                outcome.lost += lost;
            } else {
                outcome.requests_acknowledged += account.sender.events;
                outcome.requests_lost += lost;
            }
        }
        outcome
    }

    /// Compares with the table `events` of an SQLite sink, which must hold the events of one log only.
    pub(crate) fn compare_sqlite(&self, path: &Path) -> Outcome {
        let database = open(path);
        let logs: i64 =
            database.query_row("SELECT count(DISTINCT server_id) FROM events", [], |row| row.get(0)).unwrap();
        assert_eq!(logs, 1, "the log was begun anew: its identity changed");
        let mut statement =
            database.prepare("SELECT source, value, body FROM events WHERE name = ?1 ORDER BY position").unwrap();
        let rows = statement
            .query_map([NAME], |row| {
                Ok(Row { sender: row.get(0)?, number: row.get::<_, f64>(1)? as u64, body: row.get(2)? })
            })
            .unwrap();
        self.compare(rows.map(Result::unwrap))
    }
}

/// The database of a sink, to look at beside the server.
pub(crate) fn open(path: &Path) -> Connection {
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    database
}

/// Rows of the table so far; 0 before there is a table.
pub(crate) fn rows_stored(path: &Path) -> u64 {
    let Ok(database) = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY) else { return 0 };
    let _ = database.busy_timeout(Duration::from_secs(10));
    database.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, i64>(0)).unwrap_or(0) as u64
}

impl Outcome {
    /// Panics unless everything acknowledged is there once, in order and as it was sent.
    pub(crate) fn assert_clean(&self) {
        let wrong =
            [self.lost, self.stored_twice, self.out_of_order, self.altered, self.sent_by_nobody, self.requests_lost];
        assert_eq!(wrong, [0; 6], "{self}");
    }

    /// Panics unless everything acknowledged is there, in order and as it was sent. Some may be there again.
    pub(crate) fn assert_at_least_once(&self) {
        let wrong = [self.lost, self.out_of_order, self.altered, self.sent_by_nobody, self.requests_lost];
        assert_eq!(wrong, [0; 5], "{self}");
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "frames: acknowledged {}, lost {}, stored twice {}, out of order {}; HTTP: acknowledged {}, lost {}, stored \
             twice {}; altered {}, sent by nobody {}; interruptions {}",
            self.acknowledged,
            self.lost,
            self.stored_twice,
            self.out_of_order,
            self.requests_acknowledged,
            self.requests_lost,
            self.requests_stored_twice,
            self.altered,
            self.sent_by_nobody,
            self.interruptions
        )?;
        if self.first_lost.is_empty() { Ok(()) } else { write!(out, "; lost: {:?}", self.first_lost) }
    }
}
