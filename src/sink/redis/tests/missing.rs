//! Positions that are missing beside entries of their log. What XRANGE shows is what counts.

use std::collections::BTreeMap;

use super::*;
use crate::ids::uuid;
use crate::limits;
use crate::settings::Url;
use crate::sink::testing;

/// As a person follows the advice of the message.
fn follow_advice(store: &Alone, reason: &str) {
    store.run(testing::statement(reason));
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
    follow_advice(&store, &reason);
    assert_eq!(sink.connect(), Ok(Some(5)));
    // With the stream gone too, it begins anew.
    store.server.cli(&["flushall"]);
    assert_eq!(sink.connect(), Ok(Some(0)));
}

/// A sink of another log that writes to the same stream.
fn other_log(store: &Alone) -> Redis {
    let mut other = Redis::new("main", &store.settings().valid(), &Identity { server_id: [9; 16], ..identity(1) });
    other.connect().unwrap();
    other
}

#[test]
fn entries_of_others_do_not_prove_that_a_position_is_missing() {
    let store = Alone::new(0);
    let mut idle = store.connected(1);
    persist(&mut other_log(&store), &delivery(1..=9));
    store.server.cli(&["xadd", "events:{0}", "*", "server_id", "x", "position", "7"]);
    store.server.cli(&["del", &String::from_utf8(idle.shards[0].position_key.clone()).unwrap()]);
    assert_eq!(idle.connect(), Ok(Some(0)), "it has seen no position");
    persist(&mut idle, &delivery(1..=5));
    store.server.cli(&["flushall"]);
    persist(&mut other_log(&store), &delivery(1..=9));
    assert_eq!(store.redis(2).connect(), Ok(Some(0)), "nothing of this log is left");
}

#[test]
fn a_process_that_has_seen_a_position_does_not_begin_anew_beside_the_stream() {
    let store = Alone::new(0);
    persist(&mut store.connected(1), &delivery(1..=5));
    // It adds nothing itself, and the entries of this log are far behind those of others.
    let mut sink = store.redis(2);
    assert_eq!(sink.connect(), Ok(Some(5)));
    persist(&mut other_log(&store), &delivery(1..=limits::REDIS_LOOK_BACK_ENTRIES as u64 + 1));
    let key = String::from_utf8(sink.shards[0].position_key.clone()).unwrap();
    assert_eq!(store.server.cli(&["del", &key]), "1\n");
    for reason in [down(sink.connect()), down(sink.connect())] {
        assert!(reason.contains(&key) && reason.contains("had reached position 5"), "{reason}");
    }
    assert_eq!(store.server.cli(&["exists", &key]), "0\n", "it stays missing");
    let reason = down(sink.connect());
    follow_advice(&store, &reason);
    assert_eq!(sink.connect(), Ok(Some(5)));
    persist(&mut sink, &delivery(6..=9));
    // Nothing is left: a new beginning.
    store.server.cli(&["flushall"]);
    assert_eq!(sink.connect(), Ok(Some(0)));
}

#[test]
fn a_position_is_missing_however_many_entries_of_others_follow_its_own() {
    let store = Alone::new(0);
    let mut sink = store.connected(1);
    persist(&mut sink, &delivery(1..=5));
    persist(&mut other_log(&store), &delivery(1..=limits::REDIS_LOOK_BACK_ENTRIES as u64 + 1));
    let key = String::from_utf8(sink.shards[0].position_key.clone()).unwrap();
    assert_eq!(store.server.cli(&["del", &key]), "1\n");
    let reason = down(sink.connect());
    assert!(reason.contains("has events of this log up to position 5"), "{reason}");
    follow_advice(&store, &reason);
    assert_eq!(sink.connect(), Ok(Some(5)));
}

#[test]
fn a_user_with_the_rights_of_the_advice_can_do_everything() {
    let store = Alone::new(0);
    let Verdict::Down(rights) = errors::verdict(&no_permission()) else { panic!("a person has to act") };
    let (commands, pattern) = rights.trim_start_matches("allow this user ").split_once(" on ~").unwrap();
    let pattern = pattern.split(' ').next().unwrap().replace("<stream>", "events");
    let named: Vec<String> = commands.replace(" and ", ", ").split(", ").map(str::to_lowercase).collect();
    let allow = |commands: &[String]| {
        let rules = commands.iter().map(|command| format!("+{command}"));
        let mut rule: Vec<String> = ["acl", "setuser", "app", "reset", "on", ">pw"].map(str::to_owned).into();
        rule.push(format!("~{pattern}"));
        rule.extend(rules);
        let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
        assert_eq!(store.server.cli(&rule), "OK\n");
    };
    let url = store.server.url().replace("://", "://app:pw@");
    let sink =
        |owner| Redis::new("main", &RedisSection { url: Url::new(&url), ..store.settings() }.valid(), &identity(owner));
    allow(&named);
    let mut first = sink(1);
    assert_eq!(first.probe(), Ok(()));
    persist(&mut first, &delivery(1..=5));
    assert_eq!(first.connect(), Ok(Some(5)));
    let mut second = sink(2);
    assert_eq!((second.connect(), second.probe(), second.stored_position()), (Ok(Some(5)), Ok(()), Ok(Some(5))));
    persist(&mut second, &delivery(6..=9));
    assert_eq!(sink(3).replay(&delivery(1..=1)), Ok(()));
    let key = String::from_utf8(second.shards[0].position_key.clone()).unwrap();
    store.server.cli(&["del", &key]);
    let mut third = sink(3);
    for reason in [down(second.connect()), down(third.connect()), down(third.probe())] {
        assert!(reason.contains("is missing, and the stream"), "{reason}");
    }
    follow_advice(&store, &down(second.connect()));
    assert_eq!(second.connect(), Ok(Some(9)));
    // None of them too many.
    for left_out in &named {
        store.server.cli(&["del", &key]);
        allow(&named.iter().filter(|command| *command != left_out).cloned().collect::<Vec<_>>());
        let mut sink = sink(4);
        // Without a position it looks for entries, and with one it delivers.
        let without = sink.connect().map(drop).map_err(Failure::from);
        store.server.cli(&["set", &key, "9 x 1"]);
        let with = sink.connect().map_err(Failure::from).and_then(|_| sink.deliver(&delivery(10..=10)));
        let reasons = format!("{without:?} {with:?}");
        assert!(reasons.contains("NOPERM") && reasons.contains("allow this user"), "{left_out}: {reasons}");
    }
}

/// As Redis answers it.
fn no_permission() -> Trouble {
    match ::redis::Parser::new().parse_value(&b"-NOPERM this user has no permissions\r\n"[..]) {
        Ok(Value::ServerError(error)) => Trouble::Server(error),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_position_that_is_missing_at_the_start_is_no_new_beginning() {
    let store = Alone::new(3);
    let mut sink = store.connected(1);
    persist(&mut sink, &spread(1..=100));
    drop(sink);
    // Later entries of another log, more than one reply has; and trimmed streams, where the last entry is not the first.
    let other_log = Identity { server_id: [9; 16], ..identity(1) };
    let mut other = Redis::new("main", &store.settings().valid(), &other_log);
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
            follow_advice(&store, &reason);
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
    let mut other = Redis::new("main", &store.settings().valid(), &other_log);
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
