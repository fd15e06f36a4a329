//! The SPSC ring between the event loop and the log thread, with its two wake-ups.
//!
//! ```text
//!  event loop ── push ──▶ [ slot slot slot … ] ── take ──▶ log thread
//!        └─ flush: unpark, once a turn ──────────────────────▲
//!        ◀─ wake, if the loop waits for room ─────────────────┘
//! ```
//!
//! * The loop pushes in order of tickets, so the ring's order is the order of positions.
//! * The log thread parks only after it found the ring empty; unparking a thread that is awake is remembered, so no
//!   wake-up is lost.
//! * A full ring is the loop's reason to stop reading: [`SlotSender::wait_for_room`] arms one wake-up.
//! * The log thread notices when the loop is gone; it waits for all rings at once ([`super::rings`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::thread::Thread;

use ringbuf::HeapRb;
use ringbuf::traits::{Consumer, Observer, Producer, Split};
use ringbuf::wrap::Wrap;

use crate::batch::Origin;
use crate::batch::pool::{PoolSlice, Wake};
use crate::ids::{LoopId, Ticket};
use crate::wire::NackCode;

/// What one frame or request hands on. Refused payloads travel the same way, so that their dead letter is written in
/// its place among what is accepted.
#[derive(Debug)]
pub struct Slot {
    /// The event loop that it comes from.
    pub event_loop: LoopId,
    /// Number of its ticket, one more than that of the slot before. (Not a `Ticket`, whose padding every slot would have.)
    pub number: u64,
    /// What is handed on.
    pub content: Content,
    /// When it was received: nanoseconds since 1970-01-01T00:00:00Z.
    pub received_unix_nano: u64,
    /// The frame's sequence number; that before the first one for a new epoch; the last one of an agent that is done; 0
    /// over HTTP.
    pub seq: u64,
    /// CRC-32 of the frame's payload as it was sent (R7); 0 over HTTP.
    pub sent_crc: u32,
    /// Its sender holds nothing of it any more once the turn is over: it asked for level *received*.
    pub is_let_go: bool,
    /// Where it came from.
    pub origin: Arc<Origin>,
}

impl Slot {
    /// What its sender waits for.
    pub fn ticket(&self) -> Ticket {
        Ticket { event_loop: self.event_loop, number: self.number }
    }
}

/// What a slot hands on.
#[derive(Debug)]
pub enum Content {
    /// `EventBatch` bytes of accepted events only. May be empty: a frame without events. `payload_crc`: their CRC-32,
    /// where it is known because they are what was sent.
    Events {
        /// The encoded batch, in the pool.
        payload: PoolSlice,
        /// Number of events in it.
        events: u32,
        /// CRC-32 of the encoded batch; `None`: not known yet.
        payload_crc: Option<u32>,
        /// As in `event::Counts`; `false`: not known.
        are_head_first: bool,
    },
    /// A payload as it was sent, `events` of it refused.
    Refused {
        /// The payload as sent, in the pool.
        payload: PoolSlice,
        /// Number of refused events in it.
        events: u32,
        /// Code of the NACK.
        code: NackCode,
        /// Text of the NACK.
        reason: Box<str>,
    },
    /// An agent came in with a new epoch, which must be in the log before its WELCOME (R4).
    Hello,
    /// An agent is done: its mark is deleted, in the log's table too (R3, BYE).
    Bye,
}

struct Shared {
    /// The loop waits for room.
    waiting: AtomicBool,
    wake: Wake,
}

/// The loop's end.
pub struct SlotSender {
    // Fields are dropped in this order: the log thread is woken once the ring says that this end is gone.
    ring: ringbuf::HeapProd<Slot>,
    log_thread: LogThread,
    shared: Arc<Shared>,
    pushed: bool,
    let_go: LetGo,
}

/// The ticket of the last slot whose sender holds nothing of it any more; 0: there was none.
#[derive(Debug, Clone, Default)]
pub struct LetGo(Arc<AtomicU64>);

impl LetGo {
    /// Number of the ticket within its loop.
    pub fn ticket(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How full a ring is.
#[derive(Clone)]
pub struct RingGauge(Arc<HeapRb<Slot>>);

impl RingGauge {
    /// Slots that the log thread has not taken.
    pub fn depth(&self) -> usize {
        self.0.occupied_len()
    }

    /// Slots that the ring holds.
    pub fn capacity(&self) -> usize {
        self.0.capacity().get()
    }
}

struct LogThread(Option<Thread>);

impl LogThread {
    fn wake(&self) {
        if let Some(thread) = &self.0 {
            thread.unpark();
        }
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.wake();
    }
}

/// The log thread's end.
pub struct SlotReceiver {
    ring: ringbuf::HeapCons<Slot>,
    shared: Arc<Shared>,
}

/// A ring of `slots`. `wake` is called by the log thread when there is room that the loop waits for.
pub fn ring(slots: usize, wake: Wake) -> (SlotSender, SlotReceiver) {
    let (producer, consumer) = HeapRb::new(slots).split();
    let shared = Arc::new(Shared { waiting: AtomicBool::new(false), wake });
    let sender = SlotSender {
        ring: producer,
        shared: shared.clone(),
        log_thread: LogThread(None),
        pushed: false,
        let_go: LetGo::default(),
    };
    (sender, SlotReceiver { ring: consumer, shared })
}

impl SlotSender {
    /// Whom [`SlotSender::flush`] wakes.
    pub fn set_log_thread(&mut self, thread: Thread) {
        self.log_thread.0 = Some(thread);
    }

    /// How full the ring is, for any thread.
    pub fn gauge(&self) -> RingGauge {
        RingGauge(self.ring.rb_ref().clone())
    }

    /// What senders have let go of, to be read once the loop has ended.
    pub fn let_go(&self) -> LetGo {
        self.let_go.clone()
    }

    /// Slots that can be pushed now.
    pub fn room(&self) -> usize {
        self.ring.vacant_len()
    }

    /// Hands `slot` on, or gives it back where the ring is full: ask for [`SlotSender::room`] first.
    #[inline]
    pub fn push(&mut self, slot: Slot) -> Result<(), Slot> {
        let (number, is_let_go) = (slot.number, slot.is_let_go);
        self.ring.try_push(slot)?;
        if is_let_go {
            self.let_go.0.store(number, Ordering::Relaxed);
        }
        self.pushed = true;
        Ok(())
    }

    /// Wakes the log thread if something was pushed since the last call; once a turn of the loop.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.pushed) {
            self.log_thread.wake();
        }
    }

    /// Says that the loop waits for room. Look at [`SlotSender::room`] once more after this call, then sleep.
    pub fn wait_for_room(&self) {
        self.shared.waiting.store(true, Ordering::SeqCst);
        // Pairs with the fence in `take`: either the look after this call sees the room, or the log thread sees us.
        fence(Ordering::SeqCst);
    }
}

impl SlotReceiver {
    /// Moves up to `max` slots into `slots` while `enough` of the last one is false, without waiting.
    #[inline]
    pub fn take(&mut self, max: usize, slots: &mut Vec<Slot>, mut enough: impl FnMut(&Slot) -> bool) {
        let mut taken = 0;
        while taken < max
            && let Some(slot) = self.ring.try_pop()
        {
            taken += 1;
            let full = enough(&slot);
            slots.push(slot);
            if full {
                break;
            }
        }
        if taken > 0 {
            fence(Ordering::SeqCst);
            if self.shared.waiting.load(Ordering::SeqCst) && self.shared.waiting.swap(false, Ordering::SeqCst) {
                (self.shared.wake)();
            }
        }
    }

    /// The loop is gone: what is not in the ring by now will not come. Ask before [`SlotReceiver::is_empty`].
    pub fn is_closed(&self) -> bool {
        !self.ring.write_is_held()
    }

    /// Whether no slot waits.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }
}

/// Slots for tests.
#[cfg(test)]
pub mod testing {
    use super::*;
    use crate::batch::pool::Pool;
    use crate::ids::LoopId;

    /// A slot without events.
    pub fn slot(pool: &mut Pool, event_loop: LoopId, number: u64) -> Slot {
        let mut buffer = pool.allocate(1).unwrap();
        let payload = buffer.share(0..0);
        let origin = Origin { agent_id: None, agent: None, default_source: String::new(), epoch: 0 };
        let content = Content::Events { payload, events: 0, payload_crc: None, are_head_first: false };
        let origin = Arc::new(origin);
        Slot { event_loop, number, content, received_unix_nano: 0, seq: 0, sent_crc: 0, is_let_go: false, origin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::pool::Pool;
    use crate::ids::LoopId;
    use crate::pipeline::rings::Rings;
    use std::sync::atomic::AtomicUsize;

    fn slot(pool: &mut Pool, number: u64) -> Slot {
        super::testing::slot(pool, LoopId(0), number)
    }

    #[test]
    fn slots_arrive_in_order_across_threads_and_the_end_is_noticed() {
        const SLOTS: u64 = 10_000;
        let (mut sender, receiver) = ring(8, Box::new(|| {}));
        let mut rings = Rings::new(vec![receiver]);
        let reader = std::thread::spawn(move || {
            let (mut slots, mut tickets) = (Vec::new(), Vec::new());
            while rings.wait() {
                rings.take(3, &mut slots, |_| false);
                tickets.extend(slots.drain(..).map(|slot| slot.number));
            }
            tickets
        });
        sender.set_log_thread(reader.thread().clone());
        let mut pool = Pool::new(1 << 20, Box::new(|| {}));
        for ticket in 1..=SLOTS {
            let mut next = slot(&mut pool, ticket);
            while let Err(back) = sender.push(next) {
                sender.flush();
                std::thread::yield_now();
                next = back;
            }
        }
        drop(sender);
        assert_eq!(reader.join().unwrap(), (1..=SLOTS).collect::<Vec<_>>());
    }

    #[test]
    fn a_loop_that_waits_for_room_is_woken_once() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        let (mut sender, mut receiver) = ring(
            2,
            Box::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
            }),
        );
        let mut pool = Pool::new(1 << 20, Box::new(|| {}));
        sender.push(slot(&mut pool, 1)).unwrap();
        sender.push(slot(&mut pool, 2)).unwrap();
        assert_eq!(sender.room(), 0);
        sender.wait_for_room();
        let mut slots = Vec::new();
        receiver.take(1, &mut slots, |_| false);
        receiver.take(1, &mut slots, |_| false);
        assert_eq!((woken.load(Ordering::SeqCst), sender.room(), slots.len()), (1, 2, 2));
    }

    #[test]
    fn taking_stops_where_it_is_enough() {
        let (mut sender, mut receiver) = ring(8, Box::new(|| {}));
        let mut pool = Pool::new(1 << 20, Box::new(|| {}));
        for ticket in 1..=5 {
            sender.push(slot(&mut pool, ticket)).unwrap();
        }
        let mut slots = Vec::new();
        receiver.take(9, &mut slots, |slot| slot.number == 2);
        assert_eq!(slots.len(), 2);
    }
}
