//! The parts of a replay, with sinks made here.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::replay::store;
use crate::batch::Delivery;
use crate::sink::testing::batch;
use crate::sink::{Failure as SinkFailure, Refusal, Sink, Unavailable};

/// Names what it refuses, or says only that it refuses.
#[derive(Default)]
struct Picky {
    bad: BTreeSet<u64>,
    names: bool,
    /// Refuses them even when it is not asked to take them.
    stubborn: bool,
    /// Once something is stored, it cannot be reached for events from here on; 0: it can.
    goes_away_at: u64,
    stored: Vec<u64>,
}

impl Sink for Picky {
    fn connect(&mut self) -> Result<Option<u64>, Unavailable> {
        panic!("a replay does not take the position")
    }

    fn deliver(&mut self, _: &Delivery) -> Result<(), SinkFailure> {
        panic!("a replay does not move the position")
    }

    fn replay(&mut self, delivery: &Delivery) -> Result<(), SinkFailure> {
        let mut asked: Vec<u64> = delivery.records().map(|record| record.position).collect();
        if self.stubborn {
            let covered = delivery.first_position()..=delivery.last_position();
            asked.extend(self.bad.iter().filter(|position| covered.contains(position)));
        }
        let gone = |position: &u64| self.goes_away_at != 0 && *position >= self.goes_away_at;
        if !self.stored.is_empty() && asked.iter().any(gone) {
            return Err(Unavailable::retry("gone").into());
        }
        let refuse = |position: &u64| Refusal { position: *position, code: "E1".into(), reason: "no".into() };
        let refused: Vec<Refusal> = asked.iter().filter(|position| self.bad.contains(position)).map(refuse).collect();
        match refused.is_empty() {
            true => self.stored.extend(asked),
            false if self.names => return Err(SinkFailure::Refused(refused)),
            false => return Err(SinkFailure::BatchRefused { code: "E2".into(), reason: "something".into() }),
        }
        Ok(())
    }
}

#[test]
fn what_is_refused_again_is_found_among_positions_far_apart() {
    let positions = [1, 2, 900, 1 << 24, (1 << 24) + 1, 1 << 40];
    let batches: Vec<Arc<_>> = positions.iter().map(|position| batch(*position..=*position)).collect();
    let delivery = Delivery::new(batches, 1..=1 << 40);
    for names in [true, false] {
        let bad = BTreeSet::from([2, 1 << 24]);
        let mut sink = Picky { bad: bad.clone(), names, ..Picky::default() };
        let outcome = store(&mut sink, delivery.clone());
        let refused: Vec<u64> = outcome.refused.into_iter().map(|refusal| refusal.position).collect();
        assert_eq!((&outcome.stored, outcome.trouble), (&sink.stored, None));
        assert_eq!(refused, [2, 1 << 24]);
        assert_eq!(sink.stored, [1, 900, (1 << 24) + 1, 1 << 40]);
        let mut sink = Picky { bad, names, stubborn: true, ..Picky::default() };
        assert!(store(&mut sink, delivery.clone()).trouble.is_some(), "and not asked for ever");
    }
}

#[test]
fn what_was_stored_before_the_store_went_away_is_known() {
    let positions = [1, 2, 3, 900, 901, 902];
    let batches: Vec<Arc<_>> = positions.iter().map(|position| batch(*position..=*position)).collect();
    let delivery = Delivery::new(batches, 1..=902);
    // Refused as a whole, then in halves of the letters: 1 to 3 is found out about before 900 is asked for.
    let mut sink = Picky { bad: BTreeSet::from([2]), goes_away_at: 900, ..Picky::default() };
    let outcome = store(&mut sink, delivery.clone());
    assert!(outcome.trouble.is_some());
    assert_eq!(sink.stored, [1, 3]);
    let refused: Vec<u64> = outcome.refused.into_iter().map(|refusal| refusal.position).collect();
    assert_eq!(refused, [2]);
    assert_eq!(outcome.stored, [1, 3]);
}

#[cfg(feature = "sqlite")]
#[test]
fn letters_of_several_logs_in_any_order_are_stored_once_in_bounded_deliveries() {
    use std::fs;

    use super::replay;
    use super::selection::Selection;
    use crate::config;
    use crate::router::dead;
    use crate::sink::{Identity, SinkSettings};

    let dir = tempfile::tempdir().unwrap();
    let set = [
        ("data_dir".to_owned(), dir.path().display().to_string()),
        ("sinks.sqlite.batch.max_events".to_owned(), "2".to_owned()),
    ];
    let config = config::load(None, set.to_vec()).unwrap().config;
    let settings: &SinkSettings = &config.sinks[0];
    let mut server = settings.open(&Identity { server_id: [1; 16], owner: [1; 16], log_end: u64::MAX });
    server.connect().unwrap();
    fs::create_dir(dir.path().join("dead")).unwrap();
    let line = |log: &str, position: u64| {
        let id = format!("{0}{0}{0}{0}-{0}{0}-{0}{0}-{0}{0}-{0}{0}{0}{0}{0}{0}", log);
        format!(
            "{{\"server_id\":\"{id}\",\"position\":{position},\"code\":\"X\",\"reason\":\"\",\"event\":{{\"time\":\"2026-01-02T03:04:05Z\",\"name\":\"e\"}}}}\n"
        )
    };
    let letters = [("02", 9), ("01", 5), ("01", 5), ("01", 1), ("01", 7), ("01", 3), ("02", 8), ("01", 9)];
    let text: String = letters.iter().map(|(log, position)| line(log, *position)).collect();
    let spoilt = line("01", 4).replace("\"name\"", "\"nmae\"");
    let path = dead::path(&config.data_dir, "sqlite");
    fs::write(&path, text + &spoilt).unwrap();

    let failure = replay::run(&config, "sqlite", &Selection::default(), false).unwrap_err().to_string();
    assert!(failure.contains("1 letter (no event): line 9: ") && failure.contains("nmae"), "{failure}");
    assert_eq!(fs::read_to_string(&path).unwrap(), spoilt);
    let database = rusqlite::Connection::open(dir.path().join("events.db")).unwrap();
    let all = "SELECT group_concat(substr(server_id, 1, 2) || ':' || position, ' ') FROM events";
    let rows: String = database.query_row(all, [], |row| row.get(0)).unwrap();
    assert_eq!(rows, "01:1 01:3 01:5 01:7 01:9 02:8 02:9");
}
