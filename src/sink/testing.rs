//! For the tests of sinks and routers: events, batches and deliveries, and the suite that every sink passes.

use std::sync::Arc;

use prost::Message;

use super::{Failure, Identity, Sink};
use crate::event::proto::{Event, EventBatch};
use crate::pipeline::batch::{Batch, Delivery, Origin, Payload, Run};

pub const SERVER_ID: [u8; 16] = [0x5e; 16];
/// 2026-01-02T03:04:05.000000006Z
pub const RECEIVED_UNIX_NANO: u64 = 1_767_323_045_000_000_006;

pub fn identity(owner: u8) -> Identity {
    Identity { server_id: SERVER_ID, owner: [owner; 16] }
}

pub fn origin() -> Origin {
    Origin { agent_id: Some([0xa9; 16]), agent: Some("api".to_owned()), default_source: "api".to_owned(), epoch: 7 }
}

pub fn named(name: impl Into<String>) -> Event {
    Event { name: name.into(), ..Event::default() }
}

/// A batch of one run for each element of `runs`.
pub fn batch_of(first_position: u64, runs: Vec<Vec<Event>>) -> Arc<Batch> {
    let origin = Arc::new(origin());
    let runs = runs.into_iter().map(|events| {
        let count = events.len() as u32;
        let payload = Payload::Read(EventBatch { events }.encode_to_vec().into());
        Run { payload, events: count, received_unix_nano: RECEIVED_UNIX_NANO, origin: origin.clone() }
    });
    Arc::new(Batch::new(first_position, runs.collect()))
}

/// Events called `e<position>`, in one run.
pub fn batch(positions: std::ops::RangeInclusive<u64>) -> Arc<Batch> {
    batch_of(*positions.start(), vec![positions.map(|position| named(format!("e{position}"))).collect()])
}

/// A whole batch.
pub fn delivery_of(batch: Arc<Batch>) -> Delivery {
    let positions = batch.first_position()..=batch.end_position() - 1;
    Delivery::new(vec![batch], positions)
}

pub fn delivery(positions: std::ops::RangeInclusive<u64>) -> Delivery {
    delivery_of(batch(positions))
}

/// What the suite must know of a store.
pub trait Store {
    /// A second delivery of the same events leaves no second copy.
    const EXACTLY_ONCE: bool;
    /// The store keeps positions.
    const KEEPS_POSITIONS: bool;

    /// A sink of a process start that `owner` stands for.
    fn sink(&self, owner: u8) -> Box<dyn Sink>;

    /// Position and name of all that is stored, in the order of the store; `None`: it cannot be seen.
    fn rows(&self) -> Option<Vec<(u64, String)>>;
}

/// Every sink passes this.
pub fn conformance<S: Store>(new_store: impl Fn() -> S) {
    stores_in_order(&new_store());
    leaves_out_what_was_refused(&new_store());
    takes_a_repeated_delivery(&new_store());
    goes_on_after_a_restart(&new_store());
    asks_to_connect_first(&new_store());
}

fn rows(positions: impl IntoIterator<Item = u64>) -> Vec<(u64, String)> {
    positions.into_iter().map(|position| (position, format!("e{position}"))).collect()
}

fn check<S: Store>(store: &S, positions: impl IntoIterator<Item = u64>) {
    if let Some(stored) = store.rows() {
        assert_eq!(stored, rows(positions));
    }
}

fn stores_in_order<S: Store>(store: &S) {
    let mut sink = store.sink(1);
    assert_eq!(sink.connect(), Ok(S::KEEPS_POSITIONS.then_some(0)));
    check(store, []);
    assert_eq!(sink.deliver(&delivery(1..=3), &[]), Ok(()));
    // A part of two batches, and positions that jumped.
    let two = Delivery::new(vec![batch(4..=6), batch(7..=9)], 5..=8);
    assert_eq!(sink.deliver(&two, &[]), Ok(()));
    check(store, [1, 2, 3, 5, 6, 7, 8]);
    // Larger than any buffer of a sink.
    assert_eq!(sink.deliver(&delivery(100..=5_000), &[]), Ok(()));
    check(store, [1, 2, 3, 5, 6, 7, 8].into_iter().chain(100..=5_000));
}

fn leaves_out_what_was_refused<S: Store>(store: &S) {
    let mut sink = store.sink(1);
    sink.connect().unwrap();
    assert_eq!(sink.deliver(&delivery(1..=5), &[1, 4, 9]), Ok(()));
    check(store, [2, 3, 5]);
    assert_eq!(sink.deliver(&delivery(6..=7), &[6, 7]), Ok(()));
    check(store, [2, 3, 5]);
    drop(sink);
    assert_eq!(store.sink(1).connect(), Ok(S::KEEPS_POSITIONS.then_some(7)));
}

fn takes_a_repeated_delivery<S: Store>(store: &S) {
    let mut sink = store.sink(1);
    sink.connect().unwrap();
    sink.deliver(&delivery(1..=3), &[]).unwrap();
    // The answer was lost; the router connects and delivers again.
    sink.connect().unwrap();
    assert_eq!(sink.deliver(&delivery(1..=3), &[]), Ok(()));
    assert_eq!(sink.deliver(&delivery(2..=2), &[]), Ok(()));
    assert_eq!(sink.deliver(&delivery(3..=4), &[]), Ok(()));
    match S::EXACTLY_ONCE {
        true => check(store, [1, 2, 3, 4]),
        false => check(store, [1, 2, 3, 1, 2, 3, 2, 3, 4]),
    }
    assert_eq!(sink.connect(), Ok(S::KEEPS_POSITIONS.then_some(4)));
}

fn goes_on_after_a_restart<S: Store>(store: &S) {
    for (owner, position) in [(1, 1), (2, 2), (3, 3)] {
        let mut sink = store.sink(owner);
        assert_eq!(sink.connect(), Ok(S::KEEPS_POSITIONS.then_some(position - 1)));
        assert_eq!(sink.deliver(&delivery(position..=position), &[]), Ok(()));
    }
    check(store, [1, 2, 3]);
}

fn asks_to_connect_first<S: Store>(store: &S) {
    let mut sink = store.sink(1);
    match sink.deliver(&delivery(1..=1), &[]) {
        Ok(()) | Err(Failure::Unavailable(_)) => {}
        other => panic!("{other:?}"),
    }
    sink.connect().unwrap();
    assert_eq!(sink.deliver(&delivery(1..=1), &[]), Ok(()));
}
