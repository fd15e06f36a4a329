//! The store in memory, and the dead letters of ingress: what outlives a restart of the server.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::batch::Delivery;
use crate::event::Events;
use crate::pipeline::without_log::RefusedPayload;
use crate::sink::{Failure, Refusal, Sink, Unavailable};

/// Names of events that the store refuses begin with this.
pub(super) const POISON: &str = "poison ";

#[derive(Debug, Default)]
pub(super) struct Rows {
    /// Position and name of each event, in the order in which they were stored.
    pub rows: Vec<(u64, String)>,
    /// Everything up to here is stored; changes together with the rows.
    pub position: u64,
    /// So many calls from now on fail.
    pub failures: u64,
    /// So many deliveries from now on are stored, and then reported as failed.
    pub answers_lost: u64,
    /// Whether the store says which events it refuses.
    pub names_refused: bool,
}

/// A transactional store.
#[derive(Clone, Default)]
pub(super) struct Store(Arc<Mutex<Rows>>);

impl Store {
    pub(super) fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap()
    }
}

impl Rows {
    fn call(&mut self) -> Result<(), Unavailable> {
        if self.failures == 0 {
            return Ok(());
        }
        self.failures -= 1;
        Err(Unavailable::retry("away"))
    }
}

impl Sink for Store {
    fn connect(&mut self) -> Result<Option<u64>, Unavailable> {
        let mut rows = self.rows();
        rows.call()?;
        Ok(Some(rows.position))
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        let mut rows = self.rows();
        rows.call()?;
        assert!(delivery.first_position() > rows.position, "a delivery of what is stored");
        let poison = delivery.records().filter(|record| record.event.name().starts_with(POISON));
        let refusal = |position| Refusal { position, code: "E".into(), reason: "poison".into() };
        let refusals: Vec<_> = poison.map(|record| refusal(record.position)).collect();
        match refusals.is_empty() {
            true => {}
            false if rows.names_refused => return Err(Failure::Refused(refusals)),
            false => return Err(Failure::BatchRefused { code: "E".into(), reason: "poison".into() }),
        }
        rows.rows.extend(delivery.records().map(|record| (record.position, record.event.name().to_owned())));
        rows.position = delivery.last_position();
        if rows.answers_lost > 0 {
            rows.answers_lost -= 1;
            return Err(Unavailable::retry("the answer was lost").into());
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(super) struct Kept {
    /// What identifies each refused event: see `Kind::Invalid` and `Kind::Garbage`.
    pub events: Vec<String>,
    /// So many attempts from now on find a full disk.
    pub failures: u64,
}

/// What is rejected on receipt.
#[derive(Clone, Default)]
pub(super) struct Letters(Arc<Mutex<Kept>>);

impl Letters {
    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }

    /// As the dead letters of the server: all of it, or an error.
    pub(super) fn keep(&self, refused: &[RefusedPayload]) -> io::Result<()> {
        let mut kept = self.kept();
        if kept.failures > 0 {
            kept.failures -= 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        for RefusedPayload { payload, .. } in refused {
            match payload.strip_prefix(&[0xff]) {
                Some(garbage) => kept.events.push(String::from_utf8(garbage.to_vec()).unwrap()),
                None => kept.events.extend(Events::accepted(payload).map(|event| event.source().to_owned())),
            }
        }
        Ok(())
    }
}
