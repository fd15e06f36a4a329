//! Rows that are deleted by their age, and clocks that are wrong.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rusqlite::params;

use super::*;

/// Events called `e<position>`, received at `seconds` since 1970.
fn received(positions: std::ops::RangeInclusive<u64>, seconds: u64) -> Delivery {
    let mut runs =
        batch_of(1, vec![positions.clone().map(|position| named(format!("e{position}"))).collect()]).runs()[0].clone();
    runs.received_unix_nano = seconds * 1_000_000_000;
    delivery_of(std::sync::Arc::new(crate::batch::Batch::new(*positions.start(), vec![runs])))
}

/// A wall clock that nobody doubts, however it jumps: hours pass between two calls.
fn at(seconds: u64) -> Clocks {
    static CALLS: AtomicU64 = AtomicU64::new(1);
    let monotonic = Duration::from_secs(CALLS.fetch_add(1, Ordering::Relaxed) * 100_000);
    Clocks { wall: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), monotonic }
}

/// A sink that keeps events for 100 seconds.
fn keeping(database: &Database, log: u8) -> Sqlite {
    keeping_for(100, database, log)
}

fn keeping_for(seconds: u64, database: &Database, log: u8) -> Sqlite {
    let settings =
        SqliteSettings { path: database.path(), keep: Some(Duration::from_secs(seconds)), indexes: Indexes::None };
    let mut sink = Sqlite::new("main", &settings, &Identity { server_id: [log; 16], ..identity(1) });
    sink.connect().unwrap();
    sink
}

/// Calls it as long as there is more; returns how often.
fn tidy(sink: &mut Sqlite, now: u64) -> u32 {
    for calls in 1.. {
        match sink.upkeep(at(now)).unwrap().again.unwrap() {
            Duration::ZERO => {}
            after => {
                assert_eq!(after, limits::CLOCK_READ_INTERVAL);
                return calls;
            }
        }
    }
    0
}

#[test]
fn events_go_when_they_are_older_than_keep_and_not_before() {
    let database = Database::new();
    let mut sink = keeping(&database, 0x5e);
    sink.deliver(&received(1..=3, 1_000)).unwrap();
    sink.deliver(&received(4..=5, 1_050)).unwrap();
    tidy(&mut sink, 1_100);
    assert_eq!(database.positions(), [1, 2, 3, 4, 5], "100 s old is not older");
    tidy(&mut sink, 1_101);
    assert_eq!(database.positions(), [4, 5]);
    // The sink goes on, and its position is its own.
    sink.deliver(&received(6..=6, 1_101)).unwrap();
    tidy(&mut sink, 1_151);
    assert_eq!(database.positions(), [6]);
    tidy(&mut sink, 9_999);
    assert!(database.positions().is_empty());
    assert_eq!(sink.connect(), Ok(Some(6)));
    tidy(&mut sink, 9_999);
}

#[test]
fn forever_is_the_default_and_deletes_nothing() {
    let (database, mut sink) = Database::with("");
    sink.deliver(&received(1..=3, 1)).unwrap();
    assert_eq!(sink.upkeep(at(u64::from(u32::MAX))), Ok(Upkeep::again(None)));
    assert_eq!(database.positions(), [1, 2, 3]);
}

#[test]
fn old_events_of_every_log_go_in_small_transactions() {
    let database = Database::new();
    let rows = 3 * limits::SQLITE_DELETE_ROWS_MAX;
    for log in [0x11, 0x5e, 0xee] {
        let mut sink = keeping(&database, log);
        sink.deliver(&received(1..=rows, 1_000)).unwrap();
        sink.deliver(&received(rows + 1..=rows + 2, 2_000)).unwrap();
    }
    let mut sink = keeping(&database, 0x5e);
    let before = database.positions().len();
    let upkeep = sink.upkeep(at(2_000)).unwrap();
    assert_eq!((upkeep.again, upkeep.expired_events), (Some(Duration::ZERO), limits::SQLITE_DELETE_ROWS_MAX));
    assert_eq!((before - database.positions().len()) as u64, limits::SQLITE_DELETE_ROWS_MAX);
    let calls = tidy(&mut sink, 2_000);
    assert!((8..=12).contains(&calls), "{calls} calls");
    assert_eq!(database.positions(), [rows + 1, rows + 2].repeat(3));
}

#[test]
fn under_load_more_goes_than_comes() {
    let database = Database::new();
    let mut sink = keeping(&database, 0x5e);
    sink.deliver(&received(1..=20_000, 1_000)).unwrap();
    sink.upkeep(at(1_000)).unwrap();
    let mut next = 20_001;
    for _ in 0..5 {
        sink.deliver(&received(next..=next + 4_999, 2_000)).unwrap();
        next += 5_000;
        sink.upkeep(at(2_000)).unwrap();
    }
    assert_eq!(database.positions().len(), 25_000);
    assert_eq!(database.positions()[0], 20_001);
}

#[test]
fn a_clock_that_was_wrong_costs_no_young_event() {
    let database = Database::new();
    let mut sink = keeping(&database, 0x5e);
    sink.deliver(&received(1..=2, 1_000)).unwrap();
    sink.deliver(&received(3..=4, 5_000)).unwrap(); // set back after it
    sink.deliver(&received(5..=6, 1_010)).unwrap();
    sink.deliver(&received(7..=8, 1_200)).unwrap();
    tidy(&mut sink, 1_200);
    assert_eq!(database.positions(), [3, 4, 7, 8]);
    tidy(&mut sink, 0);
    assert_eq!(database.positions(), [3, 4, 7, 8]);
    tidy(&mut sink, 5_101);
    assert!(database.positions().is_empty());
}

/// Both clocks, the wall clock ahead by so much.
fn clocks(seconds: u64, ahead: u64) -> Clocks {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds + ahead);
    Clocks { wall, monotonic: Duration::from_secs(seconds) }
}

const DAY: u64 = 86_400;
const TEN_YEARS: u64 = 3_652 * DAY;

#[test]
fn what_came_while_the_clock_was_doubted_is_not_deleted_by_one_call() {
    let database = Database::new();
    let mut sink = keeping(&database, 0x5e);
    let start = 1_000_000;
    sink.upkeep(clocks(start, 0)).unwrap();
    sink.upkeep(clocks(start + 40, TEN_YEARS)).unwrap();
    for part in 0..5 {
        sink.deliver(&received(part * 1_000 + 1..=(part + 1) * 1_000, start)).unwrap();
        assert_eq!(sink.upkeep(clocks(start + 50 + part, TEN_YEARS)).unwrap().expired_events, 0);
    }
    let upkeep = sink.upkeep(clocks(start + 40 + DAY, TEN_YEARS)).unwrap();
    assert_eq!((upkeep.again, upkeep.expired_events), (Some(Duration::ZERO), limits::SQLITE_DELETE_ROWS_MAX));
}

#[test]
fn a_wall_clock_that_jumps_ahead_deletes_nothing_for_a_day() {
    let database = Database::new();
    let mut sink = keeping(&database, 0x5e);
    let start = 1_000_000;
    assert_eq!(sink.upkeep(clocks(start, 0)).unwrap().expired_events, 0);
    sink.deliver(&received(1..=3, start)).unwrap();
    for seconds in [40, 41, 80, DAY] {
        let upkeep = sink.upkeep(clocks(start + seconds, TEN_YEARS)).unwrap();
        assert_eq!((upkeep.expired_events, upkeep.again), (0, Some(limits::CLOCK_READ_INTERVAL)));
    }
    assert_eq!(database.positions(), [1, 2, 3]);
    // A jump that nobody corrects within a day is the time.
    assert_eq!(sink.upkeep(clocks(start + DAY + 40, TEN_YEARS)).unwrap().expired_events, 3);
    assert!(database.positions().is_empty());
}

#[test]
fn a_start_with_a_wall_clock_that_is_far_beyond_the_newest_row_deletes_nothing_for_a_day() {
    let database = Database::new();
    let start = 1_000_000;
    for log in [0x11, 0x5e] {
        keeping(&database, log).deliver(&received(1..=3, start)).unwrap();
    }
    let mut sink = keeping(&database, 0x5e);
    // What this process stores says nothing about its clock.
    sink.deliver(&received(4..=5, start + TEN_YEARS)).unwrap();
    assert_eq!(sink.upkeep(clocks(start, TEN_YEARS)).unwrap().expired_events, 0);
    sink.connect().unwrap();
    assert_eq!(sink.upkeep(clocks(start + DAY - 1, TEN_YEARS)).unwrap().expired_events, 0);
    assert_eq!(database.positions().len(), 8);
    assert_eq!(sink.upkeep(clocks(start + DAY, TEN_YEARS)).unwrap().expired_events, 8);
    // An earlier run of the same day has stored rows by that clock, in which there is a jump of ten years.
    let database = Database::new();
    let mut sink = keeping(&database, 0x5e);
    sink.deliver(&received(1..=1_000, start)).unwrap();
    sink.deliver(&received(1_001..=1_009, start + TEN_YEARS)).unwrap();
    let mut sink = keeping(&database, 0x5e);
    assert_eq!(sink.upkeep(clocks(start + 40, TEN_YEARS)).unwrap().expired_events, 0);
    assert_eq!(sink.upkeep(clocks(start + DAY, TEN_YEARS)).unwrap().expired_events, 0);
    sink.deliver(&received(1_010..=1_010, start + DAY - 10 + TEN_YEARS)).unwrap();
    let mut sink = keeping(&database, 0x5e);
    // 40 s are left of the hold.
    assert_eq!(sink.upkeep(clocks(start + DAY + 40, TEN_YEARS)).unwrap().expired_events, 0);
    let upkeep = sink.upkeep(clocks(start + DAY + 80, TEN_YEARS)).unwrap();
    assert_eq!(upkeep.again, Some(Duration::ZERO), "a day later the clock is trusted");
    assert!(upkeep.expired_events >= 1_000, "{upkeep:?}");
    // Old events that were still in the log of a new database.
    let new = Database::new();
    let mut sink = keeping(&new, 0x5e);
    sink.deliver(&received(1..=3, start)).unwrap();
    assert_eq!(sink.upkeep(clocks(start, TEN_YEARS)).unwrap().expired_events, 0);
    assert_eq!(sink.upkeep(clocks(start + DAY, TEN_YEARS)).unwrap().expired_events, 3);
}

/// What the database says is left, for each log.
fn holds(database: &Database) -> Vec<i64> {
    let user = database.user();
    let mut statement = user.prepare("SELECT left_seconds FROM telemetryx_holds").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

#[test]
fn a_hold_outlives_a_restart() {
    let database = Database::new();
    let start = 1_000_000;
    keeping(&database, 0x11).deliver(&received(1..=3, start)).unwrap();
    let mut sink = keeping(&database, 0x5e);
    sink.upkeep(clocks(start, 0)).unwrap();
    sink.upkeep(clocks(start + 40, TEN_YEARS)).unwrap();
    // All that this log has came by the wrong clock: no row shows a jump.
    sink.deliver(&received(1..=3, start + 41 + TEN_YEARS)).unwrap();
    assert_eq!(holds(&database), [DAY as i64]);
    let mut sink = keeping(&database, 0x5e);
    assert_eq!(sink.upkeep(clocks(50, start + TEN_YEARS)).unwrap().expired_events, 0);
    // Correct again: it ends all the same, and only then.
    sink.upkeep(clocks(50 + DAY / 2, start)).unwrap();
    assert_eq!(holds(&database), [DAY as i64 / 2]);
    assert_eq!(database.positions().len(), 6);
    assert_eq!(sink.upkeep(clocks(50 + DAY, start)).unwrap().expired_events, 3);
    assert!(holds(&database).is_empty());
    // Set ahead once more.
    assert_eq!(sink.upkeep(clocks(60 + DAY, start + 2 * TEN_YEARS)).unwrap().expired_events, 0);
    assert_eq!(holds(&database), [DAY as i64]);
    assert_eq!(keeping(&database, 0x5e).upkeep(clocks(9, start + 2 * TEN_YEARS)).unwrap().expired_events, 0);
}

#[test]
fn a_host_that_is_often_switched_off_deletes_after_24_hours_on() {
    let database = Database::new();
    let mut position = 0;
    let mut deletes_in = Vec::new();
    for day in (0..60).step_by(2) {
        let wall = 1_000_000 + day * DAY;
        let mut sink = keeping_for(DAY, &database, 0x5e);
        sink.upkeep(clocks(9, wall)).unwrap();
        position += 1;
        sink.deliver(&received(position..=position, wall)).unwrap();
        // In steps, as it is written now and then only.
        let deleted: u64 =
            (1..=60).map(|minute| sink.upkeep(clocks(9 + minute * 60, wall)).unwrap().expired_events).sum();
        if deleted > 0 {
            deletes_in.push(day / 2);
        }
    }
    // The first start has nothing to compare the clock with, and nothing to delete.
    assert!(matches!(deletes_in[..], [24..=25]), "{deletes_in:?}");
    assert!(database.positions().len() < 8, "{:?}", database.positions());
}

#[test]
fn processes_that_live_for_less_than_a_minute_end_a_hold() {
    let database = Database::new();
    let start = 1_000_000;
    let mut sink = keeping(&database, 0x5e);
    sink.upkeep(clocks(start, 0)).unwrap();
    sink.upkeep(clocks(start + 1, TEN_YEARS)).unwrap();
    drop(sink);
    assert_eq!(holds(&database), [DAY as i64]);
    for run in 1..=3 {
        let mut sink = keeping(&database, 0x5e);
        // The time that the host is off does not count.
        sink.upkeep(clocks(run * 1_000, start + TEN_YEARS)).unwrap();
        sink.upkeep(clocks(run * 1_000 + 50, start + TEN_YEARS)).unwrap();
        assert_eq!(holds(&database), [DAY as i64 - (run as i64 - 1) * 50], "run {run}");
        drop(sink);
        assert_eq!(holds(&database), [DAY as i64 - run as i64 * 50], "run {run}");
    }
}

#[test]
fn what_came_in_many_deliveries_is_not_deleted_by_one_call() {
    let database = Database::new();
    let mut sink = keeping(&database, 0x5e);
    let start = 1_000_000;
    sink.upkeep(clocks(start, 0)).unwrap();
    for part in 0..5 {
        sink.deliver(&received(part * 1_000 + 1..=(part + 1) * 1_000, start)).unwrap();
    }
    // An hour is no doubt.
    let upkeep = sink.upkeep(clocks(start + 30, 1_000)).unwrap();
    assert_eq!((upkeep.again, upkeep.expired_events), (Some(Duration::ZERO), 2_000));
}

#[test]
fn a_failed_upkeep_does_not_hide_that_files_are_missing() {
    let database = Database::new();
    let mut sink = keeping(&database, 0x5e);
    sink.deliver(&received(1..=3, 1_000)).unwrap();
    database
        .user()
        .execute_batch("CREATE TRIGGER t BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'mine'); END")
        .unwrap();
    assert!(sink.upkeep(at(9_999)).unwrap_err().to_string().contains("mine"));
    assert_eq!((sink.check_in_place(), sink.check_interval()), (Ok(()), Some(limits::SQLITE_FILES_INTERVAL)));
    fs::remove_file(database.path().with_extension("db-wal")).unwrap();
    assert!(sink.check_in_place().unwrap_err().to_string().contains("events.db-wal"));
}

#[test]
fn a_database_that_was_moved_away_is_left_alone() {
    let database = Database::new();
    let mut sink = keeping(&database, 0x5e);
    sink.deliver(&received(1..=3, 1_000)).unwrap();
    let moved = database.path().with_extension("moved");
    fs::rename(database.path(), &moved).unwrap();
    assert_eq!(sink.upkeep(at(9_999)).unwrap().expired_events, 0);
    assert!(sink.check_in_place().is_err());
    let moved = sink.connection.as_ref().unwrap();
    let rows: i64 = moved.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 3);
}

#[test]
fn old_events_are_found_by_their_key() {
    let (database, _sink) = Database::with("");
    let plan: Vec<String> = database
        .user()
        .prepare(&format!("EXPLAIN QUERY PLAN {}", crate::sink::sqlite::keep::DELETE))
        .unwrap()
        .query_map(params!["a", "b", 1], |row| row.get("detail"))
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap();
    assert!(plan.iter().any(|step| step.starts_with("SEARCH events")), "{plan:#?}");
    assert!(!plan.iter().any(|step| step.contains("SCAN events") || step.contains("TEMP B-TREE")), "{plan:#?}");
}
