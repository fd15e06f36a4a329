//! How profiles begin and end, without taking samples.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use super::*;

/// There is one profile in a process, and tests share one.
static ONE_TEST: Mutex<()> = Mutex::new(());
const PATIENCE: Duration = Duration::from_secs(60);
const ORDER: Order = Order { format: Format::Protobuf, time: Duration::from_secs(3_600) };

fn one_test() -> MutexGuard<'static, ()> {
    ONE_TEST.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn there_is_one_profile_at_a_time_and_the_next_may_begin_once_its_answer_is_there() {
    let _alone = one_test();
    let ((go, gone), (woke, woken)) = (channel::<()>(), channel());
    let wake = move || woke.send(()).unwrap();
    let mut first = begin_by(ORDER, wake, move |_, _| {
        gone.recv().unwrap();
        Some(Ok(b"profile".to_vec()))
    })
    .unwrap();
    assert!(first.take().is_none());
    let refused = begin_by(ORDER, || {}, |_, _| None).unwrap_err();
    let NotBegun::Busy { wait } = refused else { panic!("{refused:?}") };
    assert!(wait > Duration::from_secs(3_000) && wait <= ORDER.time, "{wait:?}");
    go.send(()).unwrap();
    woken.recv_timeout(PATIENCE).expect("whoever waits is woken");
    assert_eq!(first.take(), Some(Ok(b"profile".to_vec())));
    begin_by(ORDER, || {}, |_, _| None).expect("the next one may begin");
    wait_until_free();
}

fn wait_until_free() {
    let until = Instant::now() + PATIENCE;
    while running().is_some() {
        assert!(Instant::now() < until, "the profile has not ended");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_profile_that_nobody_waits_for_ends_at_once() {
    let _alone = one_test();
    let (waited, was_wanted) = channel();
    let pending = begin_by(
        ORDER,
        || panic!("nobody is woken"),
        move |order, task| {
            waited.send(task.wait(order.time)).unwrap();
            None
        },
    );
    drop(pending.unwrap());
    assert_eq!(was_wanted.recv_timeout(PATIENCE), Ok(false), "an hour is not over");
    wait_until_free();
}

#[test]
fn a_profile_that_ends_by_its_time_is_wanted() {
    let (_pending, task) = pending();
    assert!(task.wait(Duration::from_millis(1)));
}

#[test]
fn a_profile_beyond_the_bound_is_an_error_and_so_is_one_whose_thread_is_gone() {
    assert_eq!(within_bound(vec![0; 3]), Ok(vec![0; 3]));
    let error = within_bound(vec![0; PROFILE_BYTES_MAX + 1]).unwrap_err();
    assert!(error.ends_with("ask for fewer seconds"), "{error}");
    let (mut pending, task) = pending();
    drop(task);
    assert!(pending.take().is_some_and(|outcome| outcome.is_err()));
}
