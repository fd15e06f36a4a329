//! For the tests of sinks and routers: events, batches and deliveries, and the suite that every sink passes.

mod counts;
mod extremes;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis"))]
mod positions;
mod results;

#[cfg(feature = "http-sink")]
pub(crate) use extremes::every_field;
pub(crate) use extremes::number;
#[cfg(feature = "redis")]
pub(crate) use positions::statement;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis"))]
pub(crate) use positions::{KeepsPositions, keeps_positions};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use results::refused;
#[cfg(any(feature = "grpc", feature = "http-sink"))]
pub(crate) use results::retry_after;
pub(crate) use results::{down, retry};

use std::net::SocketAddr;
use std::sync::Arc;

use prost::Message;

use super::proxy::{CutPlan, Proxy};
use super::{Failure, Identity, Sink, Unavailable};
use crate::batch::{Batch, Delivery, Origin, Payload, Run};
use crate::event::proto::{Event, EventBatch};

/// The server of all test events.
pub(crate) const SERVER_ID: [u8; 16] = [0x5e; 16];
/// 2026-01-02T03:04:05.000000006Z
pub(crate) const RECEIVED_UNIX_NANO: u64 = 1_767_323_045_000_000_006;

/// The owner whose log is a copy from before the first event.
pub(crate) const OLDER_COPY: u8 = 0;

/// This process as `owner`, with [`SERVER_ID`].
pub(crate) fn identity(owner: u8) -> Identity {
    let log_end = if owner == OLDER_COPY { 1 } else { u64::MAX };
    Identity { server_id: SERVER_ID, owner: [owner; 16], log_end }
}

/// An agent's origin.
pub(crate) fn origin() -> Origin {
    Origin { agent_id: Some([0xa9; 16]), agent: Some("api".to_owned()), default_source: "api".to_owned(), epoch: 7 }
}

/// Of a request over HTTP.
pub(crate) fn http_origin() -> Origin {
    Origin { agent_id: None, agent: None, default_source: "192.0.2.1".to_owned(), epoch: 0 }
}

/// An event with nothing but a name.
pub(crate) fn named(name: impl Into<String>) -> Event {
    Event { name: name.into(), ..Event::default() }
}

/// Events that were received together.
pub(crate) fn run(events: Vec<Event>, origin: impl Into<Arc<Origin>>) -> Run {
    let count = events.len() as u32;
    let payload = Payload::Read(EventBatch { events }.encode_to_vec().into());
    Run { payload, events: count, received_unix_nano: RECEIVED_UNIX_NANO, origin: origin.into(), are_head_first: false }
}

/// A batch of one run for each element of `runs`.
pub(crate) fn batch_of(first_position: u64, runs: Vec<Vec<Event>>) -> Arc<Batch> {
    let origin = Arc::new(origin());
    Arc::new(Batch::new(first_position, runs.into_iter().map(|events| run(events, origin.clone())).collect()))
}

/// Events called `e<position>`, in one run.
pub(crate) fn batch(positions: std::ops::RangeInclusive<u64>) -> Arc<Batch> {
    batch_of(*positions.start(), vec![positions.map(|position| named(format!("e{position}"))).collect()])
}

/// A whole batch.
pub(crate) fn delivery_of(batch: Arc<Batch>) -> Delivery {
    let positions = batch.first_position()..=batch.end_position() - 1;
    Delivery::new(vec![batch], positions)
}

/// One batch with an event at each position, as a delivery.
pub(crate) fn delivery(positions: std::ops::RangeInclusive<u64>) -> Delivery {
    delivery_of(batch(positions))
}

/// The delivery after a sink refused the events at `positions`, which are in order.
pub(crate) fn without(delivery: &Delivery, positions: &[u64]) -> Delivery {
    let mut delivery = delivery.clone();
    delivery.leave_out(positions);
    delivery
}

/// The events of the delivery at `positions`, as a delivery of their own.
#[cfg(feature = "grpc")]
pub(crate) fn part(delivery: &Delivery, positions: std::ops::RangeInclusive<u64>) -> Delivery {
    let (first, end) = (*positions.start(), positions.end() + 1);
    delivery.of_picks(delivery.picks().filter_map(|pick| pick.split_at(first).1?.split_at(end).0))
}

/// What the suite must know of a store.
pub(crate) trait Store {
    /// A second delivery of the same events leaves no second copy.
    const EXACTLY_ONCE: bool;
    /// The store keeps positions.
    const KEEPS_POSITIONS: bool;
    /// U+0000 comes back as U+FFFD.
    const REPLACES_NUL: bool = false;
    /// NaN in `value` comes back as nothing.
    const NAN_IS_UNSET: bool = false;
    /// Takes replays; `Some(true)`: a second one of the same events leaves no second copy.
    const REPLAYS: Option<bool> = None;

    /// A sink of a process start that `owner` stands for.
    fn sink(&self, owner: u8) -> Box<dyn Sink>;

    /// All that is stored, in the order of the store; `None`: it cannot be seen.
    fn stored(&self) -> Option<Vec<Row>>;

    /// Position and name of all that is stored.
    fn rows(&self) -> Option<Vec<(u64, String)>> {
        let row = |row: Row| {
            let position = row["position"].as_u64().expect("a position");
            (position, row.get("name").and_then(|name| name.as_str()).unwrap_or_default().to_owned())
        };
        Some(self.stored()?.into_iter().map(row).collect())
    }

    /// The positions of all that is stored.
    fn positions(&self) -> Vec<u64> {
        self.rows().expect("it can be seen").into_iter().map(|(position, _)| position).collect()
    }

    /// Where its server is, if it is one.
    fn address(&self) -> Option<SocketAddr> {
        None
    }

    /// As [`Store::sink`], but `address` is taken for the server's.
    fn sink_through(&self, address: SocketAddr, owner: u8) -> Box<dyn Sink> {
        let _ = address;
        self.sink(owner)
    }
}

/// An event as a store has it, by the names of the columns, without what is unset: times as RFC 3339 with nanoseconds,
/// ids as hex digits, NaN and infinities as text.
pub(crate) type Row = serde_json::Map<String, serde_json::Value>;

/// All rows of a table `events` of SQLite.
#[cfg(feature = "sqlite")]
pub(crate) fn rows_of_sqlite(database: &rusqlite::Connection) -> Vec<Row> {
    use rusqlite::types::Value;
    let mut statement = database.prepare("SELECT * FROM events ORDER BY server_id, position").unwrap();
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let rows = statement.query_map([], |row| {
        let mut fields = Row::new();
        for (index, name) in names.iter().enumerate() {
            let value = match row.get::<_, Value>(index)? {
                Value::Null => continue,
                Value::Integer(number) => number.into(),
                Value::Real(number) => self::number(number),
                Value::Text(json) if name == "attributes" => serde_json::from_str(&json).unwrap(),
                Value::Text(text) => text.into(),
                Value::Blob(_) => panic!("{name} is a blob"),
            };
            fields.insert(name.clone(), value);
        }
        Ok(fields)
    });
    rows.unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

/// Every sink passes this.
pub(crate) fn conformance<S: Store>(new_store: impl Fn() -> S) {
    stores_in_order(&new_store());
    keeps_every_field(&new_store());
    leaves_out_what_was_refused(&new_store());
    takes_a_repeated_delivery(&new_store());
    goes_on_after_a_restart(&new_store());
    rolls_back_what_is_rehearsed(&new_store());
    is_not_taken_over_by_an_older_copy_of_the_log(&new_store());
    asks_to_connect_first(&new_store());
    replays_beside_the_sink(&new_store());
    survives_a_cut_anywhere(&new_store());
    counts::add_up(&new_store());
}

/// Field by field, at the extremes of each type.
fn keeps_every_field<S: Store>(store: &S) {
    let mut sink = store.sink(1);
    sink.connect().unwrap();
    // A run of an agent, then one that came over HTTP.
    let (agent, http) = (Arc::new(origin()), Arc::new(http_origin()));
    let runs =
        [(extremes::every_field(), agent.clone()), (extremes::every_field(), http), (extremes::many_keys(), agent)];
    let mut expected = Vec::new();
    let mut batch_runs = Vec::new();
    for (events, origin) in runs {
        for event in &events {
            expected.push(extremes::row::<S>(expected.len() as u64 + 1, event, &origin));
        }
        batch_runs.push(run(events, origin));
    }
    let delivery = delivery_of(Arc::new(Batch::new(1, batch_runs)));
    assert_eq!(sink.deliver(&delivery), Ok(()));
    let Some(stored) = store.stored() else { return };
    assert_eq!(stored.len(), expected.len());
    for (stored, expected) in stored.iter().zip(&expected) {
        extremes::assert_same(stored, expected);
    }
}

/// A rehearsal leaves nothing behind, and the delivery after it is stored.
fn rolls_back_what_is_rehearsed<S: Store>(store: &S) {
    let mut sink = store.sink(1);
    sink.connect().unwrap();
    if !sink.rehearses() {
        return;
    }
    assert_eq!(sink.deliver(&delivery(1..=3)), Ok(()));
    for _ in 0..2 {
        assert_eq!(sink.rehearse(&delivery(4..=9)), Ok(()));
        assert_eq!(sink.stored_position(), Ok(Some(3)));
        check(store, 1..=3);
    }
    assert_eq!(sink.deliver(&delivery(4..=9)), Ok(()));
    assert_eq!(sink.stored_position(), Ok(Some(9)));
    check(store, 1..=9);
}

/// The connection breaks after some byte, in either direction, in every part of the talk; then the same process connects
/// again, or another one does. Nothing is lost or doubled.
fn survives_a_cut_anywhere<S: Store>(store: &S) {
    let Some(server) = store.address() else { return };
    let mut next = 1;
    let mut round = |plan: CutPlan, restarts: bool| {
        let proxy = Proxy::start(server, plan).unwrap();
        let delivery = delivery(next..=next + EVENTS_A_CUT - 1);
        let mut sink = store.sink_through(proxy.address(), 1);
        let mut attempts = 0;
        loop {
            attempts += 1;
            assert!(attempts < 10, "no delivery in {attempts} attempts");
            let stored = match sink.connect() {
                Ok(Some(position)) if position >= delivery.last_position() => Ok(()),
                Ok(_) => sink.deliver(&delivery),
                Err(unavailable) => Err(unavailable.into()),
            };
            match stored {
                Ok(()) => break,
                Err(Failure::Unavailable(Unavailable::Retry { .. })) => proxy.calm(),
                other => panic!("a broken connection passes: {other:?}"),
            }
            if restarts {
                sink = store.sink_through(proxy.address(), attempts + 1);
            }
        }
        next = delivery.last_position() + 1;
        proxy.forwarded_bytes()
    };
    let whole = round(CutPlan::default(), false);
    for cut in 0..CUTS {
        let (restarts, reset_percent) = (cut % 2 == 1, if cut % 4 < 2 { 100 } else { 0 });
        let at = whole * cut / CUTS;
        round(CutPlan { bytes: at..at + 1, reset_percent, ..CutPlan::default() }, restarts);
        // Answers are few: most of what is said is our rows.
        let at = ANSWER_BYTES_A_CUT * cut;
        round(CutPlan { answer_bytes: at..at + 1, reset_percent, ..CutPlan::default() }, restarts);
    }
    if S::EXACTLY_ONCE {
        return check(store, 1..next);
    }
    // Some came again, and the store can tell.
    if let Some(mut stored) = store.rows() {
        stored.sort_unstable();
        stored.dedup();
        assert_eq!(stored, rows(1..next));
    }
}

const EVENTS_A_CUT: u64 = 50;
const CUTS: u64 = 24;
const ANSWER_BYTES_A_CUT: u64 = 60;

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
    assert_eq!(sink.deliver(&delivery(1..=3)), Ok(()));
    // A part of two batches, and positions that jumped.
    let two = Delivery::new(vec![batch(4..=6), batch(7..=9)], 5..=8);
    assert_eq!(sink.deliver(&two), Ok(()));
    check(store, [1, 2, 3, 5, 6, 7, 8]);
    // Larger than any buffer of a sink.
    assert_eq!(sink.deliver(&delivery(100..=5_000)), Ok(()));
    check(store, [1, 2, 3, 5, 6, 7, 8].into_iter().chain(100..=5_000));
}

fn leaves_out_what_was_refused<S: Store>(store: &S) {
    let mut sink = store.sink(1);
    sink.connect().unwrap();
    assert_eq!(sink.deliver(&without(&delivery(1..=5), &[1, 4, 9])), Ok(()));
    check(store, [2, 3, 5]);
    assert_eq!(sink.deliver(&without(&delivery(6..=7), &[6, 7])), Ok(()));
    check(store, [2, 3, 5]);
    drop(sink);
    assert_eq!(store.sink(1).connect(), Ok(S::KEEPS_POSITIONS.then_some(7)));
}

fn takes_a_repeated_delivery<S: Store>(store: &S) {
    let mut sink = store.sink(1);
    sink.connect().unwrap();
    sink.deliver(&delivery(1..=3)).unwrap();
    // The answer was lost; the router connects and delivers again.
    sink.connect().unwrap();
    assert_eq!(sink.deliver(&delivery(1..=3)), Ok(()));
    assert_eq!(sink.deliver(&delivery(2..=2)), Ok(()));
    assert_eq!(sink.deliver(&delivery(3..=4)), Ok(()));
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
        assert_eq!(sink.deliver(&delivery(position..=position)), Ok(()));
    }
    check(store, [1, 2, 3]);
}

fn is_not_taken_over_by_an_older_copy_of_the_log<S: Store>(store: &S) {
    if !S::KEEPS_POSITIONS {
        return;
    }
    let mut sink = store.sink(1);
    sink.connect().unwrap();
    sink.deliver(&delivery(1..=2)).unwrap();
    let mut older = store.sink(OLDER_COPY);
    for _ in 0..2 {
        assert_eq!(older.connect(), Ok(Some(2)), "the router says what is wrong");
    }
    retry(older.deliver(&delivery(3..=3)));
    assert_eq!(sink.deliver(&delivery(3..=4)), Ok(()), "not fenced");
    check(store, 1..=4);
}

fn asks_to_connect_first<S: Store>(store: &S) {
    let mut sink = store.sink(1);
    match sink.deliver(&delivery(1..=1)) {
        Ok(()) | Err(Failure::Unavailable(_)) => {}
        other => panic!("{other:?}"),
    }
    sink.connect().unwrap();
    assert_eq!(sink.deliver(&delivery(1..=1)), Ok(()));
}

fn replays_beside_the_sink<S: Store>(store: &S) {
    let mut sink = store.sink(1);
    sink.connect().unwrap();
    sink.deliver(&without(&delivery(1..=9), &[7, 8, 9])).unwrap();
    // Positions that leave gaps, as letters do.
    let letters = Delivery::new(vec![batch(7..=7), batch(9..=9)], 7..=9);
    let mut beside = store.sink(9);
    let Some(once) = S::REPLAYS else {
        down(beside.replay(&letters));
        return;
    };
    assert_eq!(beside.replay(&without(&letters, &[9])), Ok(()));
    assert_eq!(beside.replay(&without(&letters, &[7, 9])), Ok(()));
    assert_eq!(beside.replay(&without(&letters, &[7])), Ok(()));
    if once {
        // Stored, but the file still had it.
        assert_eq!(store.sink(8).replay(&letters), Ok(()));
    }
    assert_eq!(sink.deliver(&delivery(10..=12)), Ok(()), "not fenced, and where it was");
    check(store, (1..=7).chain(9..=12));
    drop(sink);
    assert_eq!(store.sink(1).connect(), Ok(Some(12)));
}
