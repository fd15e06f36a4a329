//! Runs, sharing, waking and bookkeeping of the pool.

use super::*;
use crate::random::Random;
use std::sync::atomic::AtomicUsize as Count;

const PAGE: usize = POOL_PAGE_BYTES;

fn pool(pages: usize) -> Pool {
    Pool::new(pages * PAGE, Box::new(|| {}))
}

#[test]
fn a_run_is_free_again_when_buffer_and_slices_are_gone() {
    let mut pool = pool(4);
    let mut buffer = pool.allocate(3 * PAGE).unwrap();
    assert!(buffer.extend(b"hello world"));
    let hello = buffer.share(0..5);
    let again = hello.clone();
    assert!(pool.allocate(2 * PAGE).is_none());
    drop(buffer);
    drop(hello);
    assert_eq!((&*again, pool.bytes_in_use()), (&b"hello"[..], 3 * PAGE));
    drop(again);
    assert_eq!(pool.bytes_in_use(), 0);
    assert!(pool.allocate(4 * PAGE).is_some());
}

#[test]
fn a_large_pool_begins_on_a_huge_page_and_has_every_byte() {
    const HUGE: usize = POOL_HUGE_PAGE_BYTES;
    for bytes in [PAGE, HUGE, 2 * HUGE - PAGE, 2 * HUGE, 3 * HUGE + 5 * PAGE] {
        let mut pool = Pool::new(bytes, Box::new(|| {}));
        let mut buffer = pool.allocate(bytes).unwrap();
        if bytes >= 2 * HUGE {
            assert_eq!(buffer.filled().as_ptr().addr() % HUGE, 0, "{bytes}");
        }
        assert!(buffer.unfilled().iter().all(|byte| *byte == 0));
        buffer.unfilled().fill(1);
        buffer.advance(bytes);
        assert_eq!(buffer.filled().iter().map(|byte| usize::from(*byte)).sum::<usize>(), bytes);
    }
}

#[test]
fn shared_bytes_are_never_written_again() {
    let mut pool = pool(1);
    let mut buffer = pool.allocate(1).unwrap();
    assert!(buffer.extend(b"shared, rest"));
    let shared = buffer.share(0..6);
    buffer.rewind(0);
    assert_eq!(buffer.len(), 6, "not below what is shared");
    assert!(buffer.extend(b"other"));
    assert_eq!((&*shared, buffer.filled()), (&b"shared"[..], &b"sharedother"[..]));
    assert!(!buffer.extend(&[0; PAGE]), "no room for a page more");
    assert!(buffer.unshared_mut(5..8).is_none() && buffer.unshared_mut(6..12).is_none());
    buffer.unshared_mut(6..8).unwrap().copy_from_slice(b"OT");
    assert_eq!((&*shared, buffer.filled()), (&b"shared"[..], &b"sharedOTher"[..]));
    buffer.advance(usize::MAX);
    assert_eq!(buffer.len(), PAGE);
}

#[test]
fn what_is_not_used_goes_back_at_once() {
    let mut pool = pool(8);
    let mut buffer = pool.allocate(8 * PAGE).unwrap();
    buffer.advance(PAGE + 1);
    buffer.trim();
    assert_eq!((pool.bytes_in_use(), buffer.room()), (2 * PAGE, PAGE - 1));
    let mut empty = pool.allocate(6 * PAGE).unwrap();
    empty.trim();
    assert_eq!(pool.bytes_in_use(), 3 * PAGE, "a page stays");
    drop((buffer, empty));
    assert_eq!(pool.bytes_in_use(), 0);
}

#[test]
fn who_waits_for_room_is_woken_by_the_next_free_only() {
    let woken = std::sync::Arc::new(Count::new(0));
    let count = woken.clone();
    let mut pool = Pool::new(
        2 * PAGE,
        Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }),
    );
    let (first, second) = (pool.allocate(PAGE).unwrap(), pool.allocate(PAGE).unwrap());
    assert!(pool.allocate(PAGE).is_none());
    pool.wait_for_room();
    drop(first);
    drop(second);
    assert_eq!(woken.load(Ordering::SeqCst), 1);
}

#[test]
fn slices_outlive_the_pool() {
    let mut pool = pool(2);
    let mut buffer = pool.allocate(10).unwrap();
    assert!(buffer.extend(b"kept"));
    let slice = buffer.share(0..4);
    drop(buffer);
    drop(pool);
    assert_eq!(&*slice, b"kept");
}

/// The naive twin: a list of runs.
#[derive(Default)]
struct Model {
    pages: Vec<bool>,
}

impl Model {
    fn first_fit(&self, pages: usize) -> Option<usize> {
        (0..(self.pages.len() + 1).saturating_sub(pages))
            .find(|head| self.pages[*head..head + pages].iter().all(|used| !used))
    }
}

#[test]
fn random_use_agrees_with_a_naive_model() {
    let seed = std::env::var("TELEMETRYX_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5EED);
    println!("TELEMETRYX_TEST_SEED={seed}");
    let mut random = Random::seeded(seed);
    for pages in [1, 63, 64, 65, 130, 200] {
        let (mut pool, mut model) = (pool(pages), Model { pages: vec![false; pages] });
        let mut live: Vec<(usize, usize, Buffer, Option<PoolSlice>)> = Vec::new();
        for _ in 0..2000 {
            let dice = random.next_u64();
            if !dice.is_multiple_of(3) {
                let want = 1 + (dice >> 8) as usize % (pages.min(70));
                let found = pool.allocate(want * PAGE);
                let expected = model.first_fit(want);
                assert_eq!(found.as_ref().map(|buffer| buffer.run.head as usize), expected, "{want} of {pages} pages");
                if let (Some(mut buffer), Some(head)) = (found, expected) {
                    model.pages[head..head + want].fill(true);
                    let mark = dice.to_le_bytes();
                    assert!(buffer.extend(&mark));
                    let slice = dice.is_multiple_of(2).then(|| buffer.share(0..8));
                    if slice.is_some() {
                        assert_eq!(slice.as_deref(), Some(&mark[..]));
                    }
                    live.push((head, want, buffer, slice));
                }
            } else if !live.is_empty() {
                let (head, used, buffer, slice) = live.swap_remove((dice >> 8) as usize % live.len());
                if let Some(slice) = slice {
                    assert_eq!(&*slice, &buffer.filled()[..8], "nobody wrote over it");
                }
                drop(buffer);
                model.pages[head..head + used].fill(false);
            }
            let in_use = model.pages.iter().filter(|used| **used).count();
            assert_eq!(pool.bytes_in_use(), in_use * PAGE);
        }
    }
}

#[test]
fn readers_on_other_threads_see_their_bytes_while_the_writer_goes_on() {
    let mut pool = Pool::new(64 * PAGE, Box::new(|| {}));
    let (send, receive) = std::sync::mpsc::sync_channel::<(u8, PoolSlice)>(16);
    let reader = std::thread::spawn(move || {
        receive
            .iter()
            .map(|(byte, slice)| {
                assert!(slice.iter().all(|found| *found == byte));
                slice.len()
            })
            .sum::<usize>()
    });
    let mut sent = 0;
    for round in 0..3000usize {
        let byte = round as u8;
        let Some(mut buffer) = pool.allocate(1 + round % (3 * PAGE)) else {
            std::thread::yield_now();
            continue;
        };
        for length in [100, 700, 0, 200] {
            let start = buffer.len();
            buffer.unfilled()[..length].fill(byte);
            buffer.advance(length);
            let slice = buffer.share(start..start + length);
            sent += length;
            send.send((byte, slice)).unwrap();
        }
    }
    drop(send);
    assert_eq!(reader.join().unwrap(), sent);
    assert_eq!(pool.bytes_in_use(), 0);
}

#[test]
fn a_slice_pins_its_own_bytes_or_what_its_buffer_has_beside_other_slices() {
    let mut pool = Pool::new(64 * POOL_PAGE_BYTES, Box::new(|| {}));
    let mut buffer = pool.allocate(16 * POOL_PAGE_BYTES).unwrap();
    assert!(buffer.extend(&[1; 300]));
    let (first, second) = (buffer.share(0..200), buffer.share(200..300));
    assert_eq!((first.pinned_bytes(), second.pinned_bytes()), (200, 100));
    buffer.trim();
    let last = buffer.share_pinning(300..300, buffer.capacity_bytes() - 300);
    assert_eq!(first.pinned_bytes() + second.pinned_bytes() + last.pinned_bytes(), pool.bytes_in_use());
}
