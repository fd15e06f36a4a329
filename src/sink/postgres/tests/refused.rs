//! Which rows are refused, what it costs to find them, and that nothing else is lost or stored twice.

use super::*;
use crate::sink::proxy::{CutPlan, Proxy};

/// Counts COPYs, and the rows that PostgreSQL looks at, also of what is rolled back.
const COUNTERS: &str = "CREATE SEQUENCE copies; CREATE SEQUENCE looked_at;
     CREATE FUNCTION count_copy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('copies'); RETURN NULL; END $$;
     CREATE TRIGGER count_copy BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION count_copy();
     ALTER TABLE events ADD CHECK (nextval('looked_at') > 0);";

impl Database {
    /// COPYs so far, and rows that were looked at.
    fn counted(&self) -> (u64, u64) {
        let counted = self.sql(
            "SELECT (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM copies),
                    (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM looked_at)",
        );
        let (copies, rows) = counted.trim().split_once('|').unwrap();
        (copies.parse().unwrap(), rows.parse().unwrap())
    }

    /// Delivers until all is stored, and returns which rows were refused.
    fn deliver_all(&self, sink: &mut Postgres, delivery: &Delivery) -> Vec<u64> {
        let found: Vec<u64> = refused(sink.deliver(delivery)).into_iter().map(|(position, _)| position).collect();
        assert_eq!(sink.deliver(&without(delivery, &found)), Ok(()));
        found
    }
}

fn positions_but(rows: u64, refused: &[u64]) -> Vec<u64> {
    (1..=rows).filter(|position| !refused.contains(position)).collect()
}

// ---- cost ----

#[test]
fn a_refused_row_costs_little_more_than_one_copy_and_no_row_is_looked_at_more_than_twice() {
    let (database, mut sink) =
        Database::with(&format!("{COUNTERS} ALTER TABLE events ADD CHECK (position % 100 <> 0)"));
    let first = delivery(1..=2_000);
    let found = refused(sink.deliver(&first));
    assert_eq!(found.len(), 20);
    let (copies, looked_at) = database.counted();
    assert!(copies <= 20 + 4, "{copies} COPYs");
    assert!(looked_at <= 2 * 2_000, "{looked_at} rows");
    let found: Vec<u64> = found.into_iter().map(|(position, _)| position).collect();
    assert_eq!(sink.deliver(&without(&first, &found)), Ok(()));
    assert_eq!(database.counted(), (copies, looked_at), "what was stored before the answer is only committed");
    // What comes next is no longer sent at once as a whole.
    let second = delivery(2_001..=4_000);
    assert_eq!(database.deliver_all(&mut sink, &second).len(), 20);
    let (copies, looked_at) = (database.counted().0 - copies, database.counted().1 - looked_at);
    assert!(copies <= 20 + 4, "{copies} COPYs");
    assert!(looked_at <= 2 * 2_000, "{looked_at} rows");
    assert_eq!(database.positions().len(), 2 * 1_980);
    // The first delivery without a refused row ends that.
    database.sql("ALTER TABLE events DROP CONSTRAINT events_position_check");
    assert_eq!(sink.deliver(&delivery(4_001..=5_000)), Ok(()));
    let before = database.counted().0;
    assert_eq!(sink.deliver(&delivery(5_001..=6_000)), Ok(()));
    assert_eq!(database.counted().0 - before, 1);
}

#[test]
fn one_refused_row_of_many_costs_three_copies() {
    let (database, mut sink) = Database::with(&format!("{COUNTERS} ALTER TABLE events ADD CHECK (position <> 700)"));
    let found = database.deliver_all(&mut sink, &delivery(1..=1_500));
    assert_eq!(found, [700]);
    let (copies, looked_at) = database.counted();
    assert_eq!(copies, 3, "the whole up to the row, what is before it, what is after it");
    assert_eq!(looked_at, 700 + 1_499);
    assert_eq!(database.positions(), positions_but(1_500, &[700]));
}

// ---- which ----

#[test]
fn exactly_the_refused_rows_are_found_wherever_they_are() {
    let all: Vec<u64> = (1..=40).collect();
    for refused in
        [&[1][..], &[40], &[1, 40], &[2, 39], &[7, 8, 9, 10], &[1, 2, 3, 20, 21, 40], &all, &all[1..], &all[..39]]
    {
        let list = refused.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let by_check = format!("ALTER TABLE events ADD CHECK (position NOT IN ({list}))");
        let by_trigger = |when: &str| {
            format!(
                "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     IF new.position IN ({list}) THEN RAISE 'not %', new.name USING ERRCODE = 'TX001'; END IF; RETURN new;
                 END $$;
                 CREATE TRIGGER no {when} INSERT ON events FOR EACH ROW EXECUTE FUNCTION no();"
            )
        };
        // One that COPY names, one in a trigger, and one that is reported at the end of the COPY, without a row.
        for sql in [by_check, by_trigger("BEFORE"), by_trigger("AFTER").replace("TX001", "P0001")] {
            let (database, mut sink) = Database::with(&sql);
            assert_eq!(database.deliver_all(&mut sink, &delivery(1..=40)), refused, "{sql}");
            assert_eq!(database.positions(), positions_but(40, refused), "{sql}");
            assert_eq!(sink.deliver(&delivery(41..=80)), Ok(()), "{sql}");
        }
    }
}

#[test]
fn each_refused_row_has_its_own_reason() {
    let (_database, mut sink) = Database::with(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF new.position % 5 = 0 THEN RAISE 'not %', new.name; END IF; RETURN new;
         END $$;
         CREATE TRIGGER no BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION no();",
    );
    let Err(Failure::Refused(refusals)) = sink.deliver(&delivery(1..=20)) else { panic!("all is stored") };
    for (refusal, position) in refusals.iter().zip([5, 10, 15, 20]) {
        assert_eq!((refusal.position, &*refusal.code), (position, "P0001"));
        assert_eq!(refusal.reason, format!("not e{position} (SQLSTATE P0001)"));
    }
    assert_eq!(refusals.len(), 4);
}

#[test]
fn a_row_is_refused_beside_those_that_are_stored_before_it() {
    // A row needs its parent: the first name in its body, or none.
    let (database, mut sink) = Database::with(
        "ALTER TABLE events ADD CHECK (name <> 'e2');
         CREATE FUNCTION orphan() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF new.body <> '' AND NOT EXISTS (SELECT 1 FROM events WHERE name = new.body) THEN RAISE 'orphan'; END IF;
             RETURN new;
         END $$;
         CREATE TRIGGER orphan BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION orphan();",
    );
    let child = |name: &str, parent: &str| Event { body: parent.into(), ..named(name) };
    let events =
        vec![named("e1"), named("e2"), child("e3", "e1"), child("e4", "e2"), child("e5", "e3"), child("e6", "e4")];
    let delivery = delivery_of(batch_of(1, vec![events]));
    assert_eq!(database.deliver_all(&mut sink, &delivery), [2, 4, 6]);
    assert_eq!(database.positions(), [1, 3, 5]);
}

#[test]
fn a_row_named_because_of_one_that_is_refused_later_is_stored() {
    // The unique index names row 4, because of row 3; that one is refused at the end of the COPY.
    let (database, mut sink) = Database::with(
        "CREATE UNIQUE INDEX ON events (body);
         CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF new.name = 'e3' THEN RAISE 'not e3'; END IF; RETURN new;
         END $$;
         CREATE TRIGGER no AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION no();",
    );
    let body = |position: u64, body: &str| Event { body: body.into(), ..named(format!("e{position}")) };
    let events = vec![named("e1"), named("e2"), body(3, "same"), body(4, "same"), body(5, "same"), named("e6")];
    let delivery = delivery_of(batch_of(1, vec![events]));
    assert_eq!(database.deliver_all(&mut sink, &delivery), [3, 5]);
    assert_eq!(database.positions(), [1, 2, 4, 6]);
}

#[test]
fn a_check_is_named_before_the_index_that_refuses_an_earlier_row() {
    let (database, mut sink) =
        Database::with("CREATE UNIQUE INDEX ON events (body); ALTER TABLE events ADD CHECK (name <> 'e8')");
    let body = |position: u64| Event { body: format!("{}", position / 2), ..named(format!("e{position}")) };
    let delivery = delivery_of(batch_of(1, vec![(1..=9).map(body).collect()]));
    // 2 and 3 have the same body, as 4 and 5; 9 has that of 8, which is not stored.
    assert_eq!(database.deliver_all(&mut sink, &delivery), [3, 5, 7, 8]);
    assert_eq!(database.positions(), [1, 2, 4, 6, 9]);
}

#[test]
fn a_row_that_copy_misnames_is_found() {
    // A row that is too big is noticed when a thousand rows are written, at the last of them.
    let (database, mut sink) = Database::with("ALTER TABLE events ALTER body SET STORAGE PLAIN");
    let large = |position: u64| match position {
        20 | 1_203 => Event { body: "x".repeat(20_000), ..named(format!("e{position}")) },
        _ => named(format!("e{position}")),
    };
    let delivery = delivery_of(batch_of(1, vec![(1..=2_500).map(large).collect()]));
    assert_eq!(database.deliver_all(&mut sink, &delivery), [20, 1_203]);
    assert_eq!(database.positions(), positions_but(2_500, &[20, 1_203]));
}

// ---- between the answer and the commit ----

#[test]
fn nothing_is_committed_before_the_refused_rows_are_left_out() {
    let (database, mut sink) = Database::with("ALTER TABLE events ADD CHECK (name <> 'e5')");
    assert_eq!(refused(sink.deliver(&delivery(1..=10))), [(5, "23514".into())]);
    assert!(database.positions().is_empty());
    assert_eq!(database.sql("SELECT position FROM telemetryx_positions"), "0\n");
    // What is delivered then is what counts, not what was stored before the answer.
    assert_eq!(sink.deliver(&without(&delivery(1..=10), &[5, 6])), Ok(()));
    assert_eq!(database.positions(), [1, 2, 3, 4, 7, 8, 9, 10]);
    assert_eq!(database.sql("SELECT position FROM telemetryx_positions"), "10\n");
}

#[test]
fn a_session_that_ends_before_the_commit_has_stored_nothing() {
    let (database, mut sink) = Database::with("ALTER TABLE events ADD CHECK (name <> 'e5')");
    assert_eq!(refused(sink.deliver(&delivery(1..=10))), [(5, "23514".into())]);
    database.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name = 'telemetryx'",
    );
    retry(sink.deliver(&without(&delivery(1..=10), &[5])));
    assert_eq!(sink.connect(), Ok(Some(0)));
    assert!(database.positions().is_empty());
    assert_eq!(sink.deliver(&without(&delivery(1..=10), &[5])), Ok(()));
    assert_eq!(database.positions(), positions_but(10, &[5]));
    // A process that was ended in between, and the next one.
    assert_eq!(sink.deliver(&delivery(11..=14)), Ok(()));
    let again = delivery_of(batch_of(15, vec![vec![named("e5"), named("e16")]]));
    assert_eq!(refused(sink.deliver(&again)), [(15, "23514".into())]);
    drop(sink);
    let mut sink = database.postgres(2);
    assert_eq!(sink.connect(), Ok(Some(14)));
    assert_eq!(database.deliver_all(&mut sink, &again), [15]);
    assert_eq!(database.positions(), [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16]);
}

#[test]
fn a_connection_cut_anywhere_loses_and_doubles_nothing_beside_refused_rows() {
    let (database, sink) = Database::with("ALTER TABLE events ADD CHECK (position % 7 <> 0)");
    drop(sink);
    let server = database.address().unwrap();
    let mut next = 1;
    for cut in 0..40 {
        let reset_percent = if cut % 2 == 0 { 100 } else { 0 };
        let proxy = Proxy::start(
            server,
            CutPlan { answer_bytes: 130 * cut..130 * cut + 1, reset_percent, ..CutPlan::default() },
        );
        let proxy = proxy.unwrap();
        let mut rest = delivery(next..=next + 29);
        let mut sink = database.sink_through(proxy.address(), 1);
        for attempt in 0.. {
            assert!(attempt < 10, "no delivery in {attempt} attempts");
            let mut result = match sink.connect() {
                Ok(Some(position)) if position >= rest.last_position() => Ok(()),
                Ok(_) => sink.deliver(&rest),
                Err(unavailable) => Err(unavailable.into()),
            };
            if let Err(Failure::Refused(refusals)) = result {
                rest.leave_out(&refusals.iter().map(|refusal| refusal.position).collect::<Vec<_>>());
                result = sink.deliver(&rest);
            }
            match result {
                Ok(()) => break,
                Err(Failure::Unavailable(Unavailable::Retry { .. })) => proxy.calm(),
                other => panic!("a broken connection passes: {other:?}"),
            }
        }
        next += 30;
    }
    let stored: Vec<u64> = (1..next).filter(|position| position % 7 != 0).collect();
    assert_eq!(database.positions(), stored);
}

#[test]
fn a_rehearsal_with_refused_rows_leaves_nothing_behind() {
    let (database, mut sink) = Database::with("ALTER TABLE events ADD CHECK (name <> 'e5')");
    for _ in 0..2 {
        assert_eq!(refused(sink.rehearse(&delivery(1..=10))), [(5, "23514".into())]);
    }
    let rest = without(&delivery(1..=10), &[5]);
    assert_eq!(sink.rehearse(&rest), Ok(()));
    // A delivery that was refused, and a rehearsal before what is left of it.
    assert_eq!(refused(sink.deliver(&delivery(1..=10))), [(5, "23514".into())]);
    assert_eq!(sink.rehearse(&rest), Ok(()));
    assert!(database.positions().is_empty());
    assert_eq!(sink.deliver(&rest), Ok(()));
    assert_eq!(database.positions(), positions_but(10, &[5]));
}

#[test]
fn a_constraint_that_is_checked_at_the_commit_is_found_beside_refused_rows() {
    let (database, mut sink) = Database::with(
        "ALTER TABLE events ADD CHECK (name <> 'e5'); CREATE TABLE kinds (name text PRIMARY KEY);
         ALTER TABLE events ADD FOREIGN KEY (kind) REFERENCES kinds DEFERRABLE INITIALLY DEFERRED;",
    );
    assert_eq!(refused(sink.deliver(&delivery(1..=10))), [(5, "23514".into())]);
    let rest = without(&delivery(1..=10), &[5]);
    let result = sink.deliver(&rest);
    assert!(matches!(&result, Err(Failure::BatchRefused { code, .. }) if code == "23503"), "{result:?}");
    database.sql("INSERT INTO kinds VALUES ('log')");
    assert_eq!(sink.deliver(&rest), Ok(()));
    assert_eq!(database.positions(), positions_but(10, &[5]));
}
