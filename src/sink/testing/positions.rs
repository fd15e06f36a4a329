//! The suite for sinks that keep their position in the store: [`ownership`](crate::sink::ownership), with real stores.

use super::results::{down, retry};
use super::{Store, check, delivery, identity};
use crate::sink::{Identity, Sink};

/// What the suite does with the store beside its sinks.
pub(crate) trait KeepsPositions: Store {
    /// A sink of this name and process. [`Store::sink`] calls its sinks `main`.
    fn sink_of(&self, name: &str, identity: &Identity) -> Box<dyn Sink>;

    /// Whether nothing was ever created in the store.
    fn is_untouched(&self) -> bool;

    /// Changes every position to this one. The owner stays.
    fn set_positions(&self, position: u64);

    /// Removes all positions.
    fn remove_positions(&self);

    /// Removes all events.
    fn remove_events(&self);

    /// Runs the statement that a message names, as a person would.
    fn run(&self, statement: &str);
}

/// Every sink that keeps positions passes this.
pub(crate) fn keeps_positions<S: KeepsPositions>(new_store: impl Fn() -> S) {
    is_read_without_a_change(&new_store());
    the_newest_owner_wins_and_the_older_one_does_not_take_it_back(&new_store());
    sinks_and_logs_have_their_own_positions(&new_store());
    a_position_that_was_changed_is_read_again(&new_store());
    an_event_that_is_there_stays_as_it_is(&new_store());
    a_position_that_is_missing_is_not_a_new_beginning(&new_store());
}

fn other_log() -> Identity {
    Identity { server_id: [9; 16], ..identity(1) }
}

/// Whether the store recognizes an event that it has.
fn recognizes<S: Store>() -> bool {
    S::REPLAYS == Some(true)
}

/// The statement in the message about a missing position.
pub(crate) fn statement(reason: &str) -> &str {
    let (_, advice) = reason.split_once("To continue after position ").unwrap_or_else(|| panic!("{reason}"));
    advice.split_once(": ").unwrap().1.split_once(';').unwrap().0
}

fn is_read_without_a_change<S: KeepsPositions>(store: &S) {
    let read = |name: &str| store.sink_of(name, &identity(9)).stored_position();
    assert_eq!(read("main"), Ok(Some(0)));
    assert!(store.is_untouched());
    let mut sink = store.sink(1);
    sink.connect().unwrap();
    assert_eq!(read("main"), Ok(Some(0)));
    sink.deliver(&delivery(1..=7)).unwrap();
    assert_eq!((read("main"), read("other")), (Ok(Some(7)), Ok(Some(0))));
    sink.deliver(&delivery(8..=9)).unwrap();
    assert_eq!(read("main"), Ok(Some(9)), "the owner is not fenced");
}

fn the_newest_owner_wins_and_the_older_one_does_not_take_it_back<S: KeepsPositions>(store: &S) {
    let (mut old, mut new) = (store.sink(1), store.sink(2));
    old.connect().unwrap();
    old.deliver(&delivery(1..=2)).unwrap();
    assert_eq!(new.connect(), Ok(Some(2)));
    let reason = down(old.deliver(&delivery(3..=4)));
    assert!(
        reason.contains("fenced at position 2: another server with the same log delivers as sink `main`"),
        "{reason}"
    );
    assert!(down(old.connect()).contains("fenced at position 2"));
    new.deliver(&delivery(3..=4)).unwrap();
    assert_eq!(new.deliver(&delivery(3..=4)), Ok(()), "what is stored is stored");
    assert!(down(old.connect()).contains("fenced at position 4"));
    check(store, 1..=4);
}

fn sinks_and_logs_have_their_own_positions<S: KeepsPositions>(store: &S) {
    let mut first = store.sink(1);
    first.connect().unwrap();
    first.deliver(&delivery(1..=5)).unwrap();
    let mut second = store.sink_of("main", &other_log());
    assert_eq!(second.connect(), Ok(Some(0)));
    // A sink that was renamed begins anew, unless that would store all events a second time.
    let renamed = store.sink_of("other", &identity(1)).connect();
    if recognizes::<S>() {
        assert_eq!(renamed, Ok(Some(0)));
    } else {
        let reason = down(renamed);
        assert!(reason.contains("up to position 5") && reason.contains("the sink had another name"), "{reason}");
    }
    first.deliver(&delivery(6..=6)).unwrap();
    check(store, 1..=6);
    second.deliver(&delivery(1..=3)).unwrap();
    assert_eq!(first.connect(), Ok(Some(6)));
    assert_eq!(second.connect(), Ok(Some(3)));
}

fn a_position_that_was_changed_is_read_again<S: KeepsPositions>(store: &S) {
    let mut sink = store.sink(1);
    sink.connect().unwrap();
    sink.deliver(&delivery(1..=3)).unwrap();
    store.set_positions(2);
    let reason = retry(sink.deliver(&delivery(4..=5)));
    assert!(reason.contains("the position of this sink was changed"), "{reason}");
    assert_eq!(sink.connect(), Ok(Some(2)));
    assert_eq!(sink.deliver(&delivery(4..=5)), Ok(()));
    check(store, 1..=5);
}

/// The store was restored from a copy in which the position is older than the events.
fn an_event_that_is_there_stays_as_it_is<S: KeepsPositions>(store: &S) {
    if !recognizes::<S>() {
        return;
    }
    let mut sink = store.sink(1);
    sink.connect().unwrap();
    sink.deliver(&delivery(1..=3)).unwrap();
    store.set_positions(1);
    sink.connect().unwrap();
    assert_eq!(sink.deliver(&delivery(2..=4)), Ok(()));
    check(store, 1..=4);
}

fn a_position_that_is_missing_is_not_a_new_beginning<S: KeepsPositions>(store: &S) {
    let mut sink = store.sink(1);
    sink.connect().unwrap();
    sink.deliver(&delivery(1..=5)).unwrap();
    store.remove_positions();
    // At run time, after a restart, and asked beside the server.
    retry(sink.deliver(&delivery(6..=7)));
    let at_run_time = down(sink.connect());
    let mut restarted = store.sink(2);
    for reason in [&at_run_time, &down(restarted.connect()), &down(store.sink(3).probe())] {
        assert!(
            reason.contains(" is missing, and ") && reason.contains("events of this log up to position 5"),
            "{reason}"
        );
    }
    // As the message says: the process that found it continues.
    store.run(statement(&at_run_time));
    assert_eq!(sink.connect(), Ok(Some(5)));
    sink.deliver(&delivery(6..=7)).unwrap();
    assert_eq!(restarted.connect(), Ok(Some(7)));
    check(store, 1..=7);
    if recognizes::<S>() {
        // With 0, nothing is stored twice.
        store.remove_positions();
        let reason = down(store.sink(4).connect());
        store.run(&statement(&reason).replace(", 7, ", ", 0, "));
        let mut again = store.sink(5);
        assert_eq!(again.connect(), Ok(Some(0)));
        again.deliver(&delivery(3..=8)).unwrap();
        check(store, 1..=8);
    }
    // Events of another log are not this one's; and with its own gone as well, it begins anew.
    store.remove_positions();
    assert_eq!(store.sink_of("main", &other_log()).connect(), Ok(Some(0)));
    assert!(down(store.sink(6).connect()).contains("up to position "));
    store.remove_events();
    assert_eq!(store.sink(7).connect(), Ok(Some(0)));
}
