//! What the counters of a sink say, with its router and its real store.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Store, batch, identity};
use crate::batch::Delivery;
use crate::metrics::Metrics;
use crate::router::tests::counted;
use crate::router::{Drain, Router, Shared};
use crate::settings::steps::StepSettings;
use crate::sink::{BatchSettings, Clocks, Failure, Refusal, Sink, SinkSettings, Unavailable, Upkeep, discard};

const PATIENCE: Duration = Duration::from_secs(90);
const EVENTS: u64 = 200;
/// Refused by name; one after the other, at the end of a run, and all of a run.
const NAMED: [u64; 9] = [2, 50, 51, 60, 71, 72, 73, 74, 75];
/// Found by bisection.
const UNNAMED: [u64; 3] = [20, 61, EVENTS];

/// A sink whose store refuses some events, and whose answer is lost once.
struct Refusing {
    sink: Box<dyn Sink>,
    answer_lost: bool,
}

impl Sink for Refusing {
    fn connect(&mut self) -> Result<Option<u64>, Unavailable> {
        self.sink.connect()
    }

    fn reach(&mut self) -> Result<(), Unavailable> {
        self.sink.reach()
    }

    fn needs_position(&self) -> bool {
        self.sink.needs_position()
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        let positions = || delivery.records().map(|record| record.position);
        let refusal = |position| Refusal { position, code: "E".into(), reason: "named".into() };
        let named: Vec<Refusal> = positions().filter(|position| NAMED.contains(position)).map(refusal).collect();
        if !named.is_empty() {
            return Err(Failure::Refused(named));
        }
        if positions().any(|position| UNNAMED.contains(&position)) {
            return Err(Failure::BatchRefused { code: "E".into(), reason: "unnamed".into() });
        }
        self.sink.deliver(delivery)?;
        // Of a part in the middle of what is halved.
        if delivery.first_position() > 1 && !std::mem::replace(&mut self.answer_lost, true) {
            return Err(Unavailable::retry("the answer was lost").into());
        }
        Ok(())
    }

    fn upkeep(&mut self, now: Clocks) -> Result<Upkeep, Unavailable> {
        self.sink.upkeep(now)
    }
}

/// Left out by the steps: what is called `e9`, `e19` … and, of the others, half.
const EXCLUDE: &str = "{ name = '*9' }";

/// Steps that leave out what [`is_filtered`] names.
fn steps() -> StepSettings {
    let refused: Vec<String> = NAMED.iter().chain(&UNNAMED).map(|position| format!("'e{position}'")).collect();
    let always = format!("{{ name = [{}] }}", refused.join(", "));
    StepSettings::read(|key| match key {
        "exclude" => Some(EXCLUDE),
        "sample.keep" => Some("1/2"),
        "sample.by" => Some("name"),
        "sample.always" => Some(&always),
        _ => None,
    })
    .unwrap()
}

fn is_filtered(position: u64) -> bool {
    let is_refused = NAMED.contains(&position) || UNNAMED.contains(&position);
    let is_kept = xxhash_rust::xxh64::xxh64(format!("e{position}").as_bytes(), 0) <= u64::MAX / 2;
    position % 10 == 9 || (!is_refused && !is_kept)
}

/// Positions passed = delivered + filtered + dead + dropped, and every row that is written is counted once. The kept events
/// are made rows.
pub(super) fn add_up<S: Store>(store: &S) {
    let dir = tempfile::tempdir().unwrap();
    let (metrics, drain) = (Metrics::new().unwrap(), Arc::new(Drain::default()));
    let shared = Shared {
        identity: &identity(1),
        data_dir: dir.path(),
        log: None,
        log_bytes_max: 0,
        share_bytes: 0,
        metrics: &metrics,
        drain,
        notify: Arc::new(|| {}),
    };
    let settings = SinkSettings {
        name: "counted".into(),
        kind: "test",
        required: true,
        drops_oldest: false,
        steps: steps(),
        batch: BatchSettings { max_events: 64, max_bytes: 1 << 20, max_age: Duration::from_millis(1) },
        config: Box::new(discard::DiscardSettings {}),
    };
    let sink = Refusing { sink: store.sink(1), answer_lost: false };
    let (queue, router) = Router::start(&settings, Box::new(sink), &shared).unwrap();
    for first in (1..=EVENTS).step_by(5) {
        queue.offer(&batch(first..=first + 4));
    }
    let deadline = Instant::now() + PATIENCE;
    while router.progress().position() < EVENTS {
        assert!(Instant::now() < deadline, "{}", router.progress().status());
        thread::sleep(Duration::from_millis(1));
    }
    drop(queue);
    assert!(router.wait(Instant::now() + PATIENCE));
    let counts = metrics.sink("counted");
    let refused = (NAMED.len() + UNNAMED.len()) as u64;
    assert_eq!(counted(&metrics, "counted"), router.progress().position());
    let filtered = (1..=EVENTS).filter(|position| is_filtered(*position)).count() as u64;
    let by_step = counts.events_filtered.each_ref().map(|counter| counter.get());
    assert_eq!(by_step, [0, EVENTS / 10, filtered - EVENTS / 10]);
    assert_eq!((counts.events_delivered.get(), counts.events_dead.get()), (EVENTS - filtered - refused, refused));
    let Some(mut rows) = store.rows() else { return };
    if !S::EXACTLY_ONCE {
        rows.sort_unstable();
        rows.dedup();
    }
    let written = (1..=EVENTS)
        .filter(|position| !NAMED.contains(position) && !UNNAMED.contains(position) && !is_filtered(*position));
    assert_eq!(rows, super::rows(written));
    assert_eq!(counts.rows.get(), rows.len() as u64);
}
