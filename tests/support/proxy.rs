//! A TCP proxy that breaks connections on purpose: a fault injector between an agent, the server and its sinks.
//!
//! ```text
//!              ┌──────────── connection k ────────────┐
//!  client ───▶ │ to_target: cut after a random number │ ───▶ target
//!         ◀─── │ of bytes … or to_client, after its   │ ◀───
//!              └── own: whichever is reached first ───┘
//! ```
//!
//! Connection k draws its fate from (seed, k) when it is accepted, so a seed gives the same fates again. The byte
//! counts are exact: what was forwarded before a cut is that many bytes. The seed is printed, and so shown when a
//! test fails.
//!
//! Two threads a connection, at most `CONNECTIONS_MAX` connections at a time; more wait to be accepted.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use telemetryx::random::Random;

/// Connections at a time; each has two threads.
const CONNECTIONS_MAX: usize = 64;
/// How long a thread waits in a socket before it looks at the switches again.
const TICK: Duration = Duration::from_millis(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// When and how connections break. The default breaks none.
#[derive(Debug, Clone, Default)]
pub(crate) struct CutPlan {
    pub seed: u64,
    /// Bytes from client to target before the cut. Empty: this direction causes none.
    pub bytes: Range<u64>,
    /// Bytes from target to client before the cut: answers are few, so they have a range of their own.
    pub answer_bytes: Range<u64>,
    /// Of a hundred cuts, how many are a reset. The others are an ordinary close.
    pub reset_percent: u64,
    /// Added to every chunk in both directions.
    pub delay: Duration,
}

pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    target: Mutex<SocketAddr>,
    plan: CutPlan,
    calm: AtomicBool,
    stalled: AtomicBool,
    stopped: AtomicBool,
    connections: AtomicU64,
    cuts: AtomicU64,
    forwarded_bytes: AtomicU64,
    open: Mutex<usize>,
    closed: Condvar,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `target`.
    pub(crate) fn start(target: SocketAddr, plan: CutPlan) -> io::Result<Self> {
        println!("proxy to {target}: {plan:?}");
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            plan,
            calm: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            forwarded_bytes: AtomicU64::new(0),
            open: Mutex::new(0),
            closed: Condvar::new(),
        });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(SeqCst)
    }

    /// Connections cut so far.
    pub(crate) fn cuts(&self) -> u64 {
        self.shared.cuts.load(SeqCst)
    }

    /// Bytes forwarded so far, both directions together.
    pub(crate) fn forwarded_bytes(&self) -> u64 {
        self.shared.forwarded_bytes.load(SeqCst)
    }

    /// No more cuts from now on: connections live as long as their ends want.
    pub(crate) fn calm(&self) {
        self.shared.calm.store(true, SeqCst);
    }

    /// New connections go to `target`, for instance to a server that was started again on another port.
    pub(crate) fn retarget(&self, target: SocketAddr) {
        *lock(&self.shared.target) = target;
    }

    /// Forwards nothing more, but keeps all connections open and accepts new ones: half-open peers.
    pub(crate) fn stall(&self) {
        self.shared.stalled.store(true, SeqCst);
    }

    /// Ends a stall; nothing was lost.
    pub(crate) fn resume(&self) {
        self.shared.stalled.store(false, SeqCst);
    }
}

impl Drop for Proxy {
    /// Closes everything and waits for the threads.
    fn drop(&mut self) {
        self.shared.stopped.store(true, SeqCst);
        self.shared.closed.notify_all();
        drop(TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT)); // wakes the acceptor
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().expect("the proxy's acceptor does not panic");
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut number = 0;
    loop {
        shared.wait_until_open_is_below(CONNECTIONS_MAX);
        let Ok((client, _)) = listener.accept() else { continue };
        if shared.stopped.load(SeqCst) {
            break;
        }
        shared.connections.fetch_add(1, SeqCst);
        *lock(&shared.open) += 1;
        let fate = Fate::draw(&shared.plan, number);
        number += 1;
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            // A target that cannot be reached looks like a closed connection to the client.
            if let Ok(connection) = Connection::open(client, &shared) {
                connection.run(&fate);
            }
            *lock(&shared.open) -= 1;
            shared.closed.notify_all();
        });
    }
    shared.wait_until_open_is_below(1);
}

impl Shared {
    fn wait_until_open_is_below(&self, count: usize) {
        let open = lock(&self.open);
        drop(self.closed.wait_while(open, |open| *open >= count).expect(POISON));
    }
}

const POISON: &str = "no thread of the proxy panics while it holds a lock";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect(POISON)
}

struct Connection<'a> {
    client: TcpStream,
    target: TcpStream,
    shared: &'a Shared,
    /// Cut, or broken by one of its ends: both threads leave.
    over: AtomicBool,
}

impl<'a> Connection<'a> {
    fn open(client: TcpStream, shared: &'a Shared) -> io::Result<Self> {
        let address = *lock(&shared.target);
        let target = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        for socket in [&client, &target] {
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(TICK))?;
            socket.set_write_timeout(Some(TICK))?;
        }
        Ok(Self { client, target, shared, over: AtomicBool::new(false) })
    }

    /// Forwards both ways until both ends have finished, or the fate or an error ends it.
    fn run(self, fate: &Fate) {
        let cut = thread::scope(|scope| {
            let requests = scope.spawn(|| self.forward(&self.client, &self.target, fate.bytes));
            let answers_cut = self.forward(&self.target, &self.client, fate.answer_bytes);
            requests.join().expect("forwarding does not panic") || answers_cut
        });
        if cut {
            if fate.reset {
                for socket in [&self.client, &self.target] {
                    // Dropping the socket sends a reset then. Failing would make it a plain close.
                    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
                }
            }
            drop(self.client);
            drop(self.target);
            self.shared.cuts.fetch_add(1, SeqCst);
        }
    }

    /// Copies one direction. True: it forwarded `bytes` bytes, and that is where the cut is.
    fn forward(&self, mut from: &TcpStream, to: &TcpStream, bytes: u64) -> bool {
        let mut chunk = [0; 16 * 1024];
        let mut left = bytes;
        while !self.is_over() {
            let calm = self.shared.calm.load(SeqCst);
            if left == 0 && !calm {
                return !self.over.swap(true, SeqCst);
            }
            let room = if calm { chunk.len() } else { chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX)) };
            match from.read(&mut chunk[..room]) {
                Ok(0) => {
                    let _ = to.shutdown(Shutdown::Write); // a half-close is passed on; the other direction goes on
                    return false;
                }
                Ok(length) => {
                    self.hold_back();
                    if self.write(to, &chunk[..length]).is_err() {
                        break;
                    }
                    left = left.saturating_sub(length as u64);
                }
                Err(error) if is_tick(&error) => {}
                Err(_) => break,
            }
        }
        self.over.store(true, SeqCst);
        false
    }

    /// The delay, and then a stall as long as it lasts.
    fn hold_back(&self) {
        thread::sleep(self.shared.plan.delay);
        while self.shared.stalled.load(SeqCst) && !self.is_over() {
            thread::sleep(TICK);
        }
    }

    fn write(&self, mut to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() && !self.is_over() {
            match to.write(bytes) {
                Ok(length) => {
                    bytes = &bytes[length..];
                    self.shared.forwarded_bytes.fetch_add(length as u64, SeqCst);
                }
                Err(error) if is_tick(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.over.load(SeqCst) || self.shared.stopped.load(SeqCst)
    }
}

/// The socket's timeout: time to look at the switches.
fn is_tick(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// What becomes of one connection.
#[derive(Debug, Clone, PartialEq)]
struct Fate {
    bytes: u64,
    answer_bytes: u64,
    reset: bool,
}

impl Fate {
    fn draw(plan: &CutPlan, number: u64) -> Self {
        let mut random = Random::seeded(plan.seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        Self {
            bytes: within(&plan.bytes, &mut random),
            answer_bytes: within(&plan.answer_bytes, &mut random),
            reset: random.next_u64() % 100 < plan.reset_percent,
        }
    }
}

/// A number in the range; one that is never reached if the range is empty.
fn within(range: &Range<u64>, random: &mut Random) -> u64 {
    let drawn = random.next_u64();
    if range.is_empty() { u64::MAX } else { range.start + drawn % (range.end - range.start) }
}
