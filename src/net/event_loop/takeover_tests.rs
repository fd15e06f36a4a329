//! Two loops, turn by turn, in one thread: an agent that leaves one for the other (R5).

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mio::Events;

use super::tests::{
    POOL_BYTES, TIMEOUT, empty_frames, hello_of_epoch, http_settings, session_settings, wake_each_second,
};
use super::{EVENTS, EventLoop, Parts};
use crate::batch::pool::Pool;
use crate::net::loops::Mailbox;
use crate::net::{bind, testing};
use crate::pipeline::ring::{Content, Slot, SlotReceiver, ring};
use crate::pipeline::watermark::Watermarks;
use crate::session::tokens::Tokens;

const AGENT: [u8; 16] = [7; 16];
const SLOTS: usize = 8;

/// The tests are the log thread.
struct Two {
    loops: [EventLoop; 2],
    log_ends: [SlotReceiver; 2],
    watermarks: [Arc<Watermarks>; 2],
    /// How often each loop was woken by the other.
    woken: [Arc<AtomicUsize>; 2],
    address: SocketAddr,
}

impl Two {
    fn new() -> Self {
        let parts = [(); 2].map(|()| Parts::without_signals().unwrap());
        parts.iter().for_each(wake_each_second);
        let woken = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let (mut owned, mut log_ends) = (Vec::new(), Vec::new());
        for (parts, woken) in parts.iter().zip(&woken) {
            let (sender, receiver) = ring(SLOTS, Box::new(parts.wake()));
            let (wake, woken) = (parts.wake(), woken.clone());
            let mailbox = Mailbox::new(move || {
                woken.fetch_add(1, Ordering::Relaxed);
                wake();
            });
            owned.push((Pool::new(POOL_BYTES, Box::new(parts.wake())), sender, mailbox));
            log_ends.push(receiver);
        }
        let ingresses =
            testing::ingresses(session_settings(), http_settings(), testing::NO_LIMITS, Tokens::default(), owned);
        let watermarks = [0, 1].map(|index| ingresses[0].shared.watermarks[index].clone());
        let listener = bind(([127, 0, 0, 1], 0).into()).unwrap().listen().unwrap();
        let address = listener.local_addr().unwrap();
        let mut listener = Some(listener);
        let mut loops = parts.into_iter().zip(ingresses);
        let loops = [(); 2]
            .map(|()| loops.next().map(|(parts, ingress)| EventLoop::new(parts, listener.take(), ingress, TIMEOUT)));
        let loops = loops.map(|event_loop| event_loop.unwrap().unwrap());
        let [first, second] = <[SlotReceiver; 2]>::try_from(log_ends).ok().unwrap();
        Self { loops, log_ends: [first, second], watermarks, woken, address }
    }

    fn connect(&self, bytes: &[u8]) -> TcpStream {
        let mut client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(TIMEOUT)).unwrap();
        std::io::Write::write_all(&mut client, bytes).unwrap();
        client
    }

    /// Turns of both loops; neither waits for long.
    #[track_caller]
    fn turns_until(&mut self, what: &str, mut reached: impl FnMut(&mut Self) -> bool) {
        let until = Instant::now() + TIMEOUT;
        let mut events = Events::with_capacity(EVENTS);
        while !reached(self) {
            assert!(Instant::now() < until, "not within {TIMEOUT:?}: {what}");
            for event_loop in &mut self.loops {
                // A loop with nothing to do must not keep the other one from its turn.
                event_loop.poll.poll(&mut events, Some(Duration::from_millis(1))).unwrap();
                event_loop.turn_with(&events);
            }
        }
    }

    fn some_turns(&mut self) {
        let mut turns = 0;
        self.turns_until("twenty turns", |_| {
            turns += 1;
            turns > 20
        });
    }

    fn slots(&mut self, index: usize) -> Vec<Slot> {
        let mut slots = Vec::new();
        self.log_ends[index].take(SLOTS, &mut slots, |_| false);
        slots
    }

    fn depth(&self, index: usize) -> usize {
        self.loops[index].ingress.ring.gauge().depth()
    }
}

fn is_hello(slots: &[Slot]) -> bool {
    matches!(slots, [Slot { content: Content::Hello, .. }])
}

#[test]
fn the_log_hears_of_an_epoch_after_what_the_agent_sent_through_another_loop() {
    let mut two = Two::new();
    let mut older = two.connect(&hello_of_epoch(AGENT, 0));
    two.turns_until("the agent is greeted by the first loop", |two| two.depth(0) == 1);
    let mut newer = two.connect(&hello_of_epoch(AGENT, 0));
    two.turns_until("the older connection is closed", |two| two.loops[0].connections.is_empty());
    assert_eq!(older.read(&mut [0; 10]).unwrap(), 0, "it gets no word");
    two.some_turns();
    assert_eq!(two.depth(1), 0, "the epoch of the older one is not in the log yet");

    assert!(is_hello(&two.slots(0)));
    two.watermarks[0].synced(1, 1);
    assert!(two.watermarks[1].take_others_wanted(), "the log thread wakes the loop that waits");
    two.turns_until("the newer epoch is on its way", |two| two.depth(1) == 1);
    assert!(is_hello(&two.slots(1)));
    two.watermarks[1].synced(1, 1);
    two.some_turns();
    assert!(newer.read(&mut [0; 10]).unwrap() > 0, "WELCOME");
}

#[test]
fn an_agent_that_resumes_on_another_loop_is_welcome_once_its_frames_are_in_the_log() {
    let mut two = Two::new();
    let older = two.connect(&hello_of_epoch(AGENT, 0));
    two.turns_until("the agent is greeted by the first loop", |two| two.depth(0) == 1);
    let epoch = two.slots(0)[0].origin.epoch;
    two.watermarks[0].synced(1, 1);
    two.turns_until("it is welcome", |two| two.loops[0].awaiting.is_empty());
    std::io::Write::write_all(&mut &older, &empty_frames(3)).unwrap();
    two.turns_until("its frames are taken", |two| two.depth(0) == 3);

    let newer = two.connect(&hello_of_epoch(AGENT, epoch));
    two.turns_until("the older connection is closed", |two| two.loops[0].connections.is_empty());
    two.some_turns();
    newer.set_nonblocking(true).unwrap();
    assert!((&newer).read(&mut [0; 10]).is_err(), "WELCOME waits for the frames");
    two.watermarks[0].synced(4, 1);
    assert!(two.watermarks[1].take_others_wanted(), "the log thread wakes the loop that waits");
    two.some_turns();
    let mut welcome = [0; 200];
    assert!((&newer).read(&mut welcome).unwrap() > 0, "WELCOME");
    assert_eq!(two.depth(1), 0, "an epoch that goes on is not logged again");
    assert!(two.woken.iter().all(|woken| woken.load(Ordering::Relaxed) > 0), "connection, takeover, mark");
}
