//! Positions that are missing beside entries of their log. What XRANGE shows is what counts.

use std::collections::BTreeMap;

use super::tests::{Alone, down, entries, persist, row, spread};
use super::*;
use crate::sink::stores;
use crate::sink::testing::{self, delivery, identity};

/// The command in the advice, run as a person would.
fn follow_advice(server: &stores::Redis, reason: &str) {
    let (_, command) = reason.split_once(": SET ").unwrap_or_else(|| panic!("{reason}"));
    let (key, value) = command.split_once(" \"").unwrap();
    let (value, _) = value.split_once('"').unwrap();
    assert_eq!(server.cli(&["set", key, value]), "OK\n");
}

#[test]
fn a_position_that_was_evicted_beside_its_stream_is_no_new_beginning() {
    let store = Alone::new(0);
    let mut sink = store.connected(1);
    persist(&mut sink, &delivery(1..=5));
    let key = store.server.cli(&["keys", "*:position:*"]).trim().to_owned();
    store.server.cli(&["del", &key]);
    let reason = down(sink.connect());
    assert!(reason.contains("noeviction") && reason.contains(&key), "{reason}");
    follow_advice(&store.server, &reason);
    assert_eq!(sink.connect(), Ok(Some(5)));
    // With the stream gone too, it begins anew.
    store.server.cli(&["flushall"]);
    assert_eq!(sink.connect(), Ok(Some(0)));
}

#[test]
fn a_position_that_is_missing_at_the_start_is_no_new_beginning() {
    let store = Alone::new(3);
    let mut sink = store.connected(1);
    persist(&mut sink, &spread(1..=100));
    drop(sink);
    // Later entries of another log, more than one reply has; and trimmed streams, where the last entry is not the first.
    let other_log = Identity { server_id: [9; 16], ..identity(1) };
    let mut other = Redis::new("main", &store.settings(), &other_log);
    other.connect().unwrap();
    persist(&mut other, &spread(1..=200));
    for shard in 0..3 {
        store.server.cli(&["xtrim", &format!("events:{{{shard}}}"), "maxlen", "90"]);
    }
    for keys in [&[0][..], &[1], &[0, 1, 2]] {
        for shard in keys {
            let key = format!("events:{{{shard}}}:position:{}:main", uuid(&testing::SERVER_ID));
            assert_eq!(store.server.cli(&["del", &key]), "1\n");
        }
        for _ in keys {
            let reason = down(store.redis(2).connect());
            assert!(reason.contains("has events of this log up to position"), "{reason}");
            assert_eq!(store.redis(2).probe().map_err(|error| error.to_string()), Err(reason.clone()));
            follow_advice(&store.server, &reason);
        }
        let mut sink = store.connected(3);
        // From the lowest of the shards: what the others have is skipped.
        sink.deliver(&spread(1..=100)).unwrap();
    }
    store.connected(4).deliver(&spread(101..=110)).unwrap();
    let mut positions = BTreeMap::new();
    for shard in 0..3 {
        for fields in entries(&[&store.server], &format!("events:{{{shard}}}")) {
            let row = row(fields);
            if row["server_id"] == uuid(&testing::SERVER_ID).as_str() {
                *positions.entry(row["position"].as_u64().unwrap()).or_insert(0) += 1;
            }
        }
    }
    assert!(positions.keys().rev().take(10).eq((101..=110).rev().collect::<Vec<u64>>().iter()), "{positions:?}");
    assert!(positions.values().all(|times| *times == 1), "{positions:?}");
}

#[test]
fn a_stream_of_other_logs_and_one_that_was_trimmed_are_new_beginnings() {
    let store = Alone::new(0);
    let other_log = Identity { server_id: [9; 16], ..identity(1) };
    let mut other = Redis::new("main", &store.settings(), &other_log);
    other.connect().unwrap();
    persist(&mut other, &delivery(1..=100));
    let mut sink = store.redis(1);
    assert_eq!(sink.connect(), Ok(Some(0)));
    sink.deliver(&delivery(1..=3)).unwrap();
    let key = String::from_utf8(sink.shards[0].position_key.clone()).unwrap();
    store.server.cli(&["del", &key]);
    store.server.cli(&["xtrim", "events:{0}", "maxlen", "0"]);
    assert_eq!(store.redis(2).connect(), Ok(Some(0)));
}
