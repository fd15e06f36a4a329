//! The fault-injecting proxy of the other tests does what it says.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::proxy::{CutPlan, Proxy};
use crate::support::server::wait_until;

const DEADLINE: Duration = Duration::from_secs(10);

/// A listener; each connection is given to `serve` in a thread of its own.
fn target(serve: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let (serve, socket) = (serve.clone(), socket.unwrap());
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            thread::spawn(move || serve(socket));
        }
    });
    address
}

fn echo(mut socket: TcpStream) {
    let mut reader = socket.try_clone().unwrap();
    let _ = std::io::copy(&mut reader, &mut socket); // a cut connection is what these tests want
    let _ = socket.shutdown(Shutdown::Write);
}

fn connect(proxy: &Proxy) -> TcpStream {
    let socket = TcpStream::connect(proxy.address()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Sends `bytes`, half-closes, and reads to the end: what came back, and the error that ended it.
fn exchange(proxy: &Proxy, bytes: &[u8]) -> (Vec<u8>, Option<ErrorKind>) {
    let mut socket = connect(proxy);
    let sent = socket.write_all(bytes).and_then(|()| socket.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    let read = socket.read_to_end(&mut answer);
    (answer, sent.err().or(read.err()).map(|error| error.kind()))
}

#[test]
fn both_directions_and_the_half_close_are_forwarded() {
    let proxy = Proxy::start(target(echo), CutPlan::default()).unwrap();
    let bytes: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert!(exchange(&proxy, &bytes) == (bytes.clone(), None)));
        }
    });
    let counted = || (proxy.connections(), proxy.cuts(), proxy.forwarded_bytes());
    assert!(wait_until(DEADLINE, || counted() == (3, 0, 6_000_000)), "{:?}", counted());
}

#[test]
fn a_connection_is_cut_after_exactly_the_drawn_number_of_answer_bytes() {
    let plan = CutPlan { seed: 1, answer_bytes: 1_000..1_001, ..CutPlan::default() };
    let proxy = Proxy::start(target(echo), plan).unwrap();
    assert_eq!(exchange(&proxy, &[7; 1_000]).0.len(), 1_000);
    assert_eq!(exchange(&proxy, &[7; 5_000]).0.len(), 1_000);
    assert!(wait_until(DEADLINE, || proxy.cuts() == 2), "{} cuts", proxy.cuts());
}

#[test]
fn a_connection_is_cut_after_exactly_the_drawn_number_of_request_bytes() {
    let (sender, received) = std::sync::mpsc::channel();
    let sink = target(move |mut socket| {
        let mut bytes = Vec::new();
        let _ = socket.read_to_end(&mut bytes);
        sender.send(bytes.len()).unwrap();
    });
    let plan = CutPlan { seed: 1, bytes: 70_000..70_001, ..CutPlan::default() };
    let proxy = Proxy::start(sink, plan).unwrap();
    exchange(&proxy, &[7; 100_000]);
    assert_eq!(received.recv_timeout(DEADLINE), Ok(70_000));
    assert!(wait_until(DEADLINE, || proxy.cuts() == 1), "{} cuts", proxy.cuts());
}

#[test]
fn the_same_seed_cuts_at_the_same_bytes() {
    let lengths = |seed| {
        let plan = CutPlan { seed, answer_bytes: 0..10_000, ..CutPlan::default() };
        let proxy = Proxy::start(target(echo), plan).unwrap();
        (0..20).map(|_| exchange(&proxy, &[7; 10_000]).0.len()).collect::<Vec<_>>()
    };
    assert_eq!(lengths(42), lengths(42));
    assert_ne!(lengths(42), lengths(43));
}

#[test]
fn a_cut_is_a_reset_where_the_plan_says_so() {
    for (reset_percent, expected) in [(100, Some(ErrorKind::ConnectionReset)), (0, None)] {
        let plan = CutPlan { seed: 1, answer_bytes: 10..11, reset_percent, ..CutPlan::default() };
        let proxy = Proxy::start(target(echo), plan).unwrap();
        let mut socket = connect(&proxy);
        socket.write_all(&[7; 10]).unwrap();
        let ended = socket.read_to_end(&mut Vec::new());
        assert_eq!(ended.err().map(|error| error.kind()), expected);
    }
}

#[test]
fn after_calm_nothing_is_cut() {
    let plan = CutPlan { seed: 1, bytes: 0..100, answer_bytes: 0..100, ..CutPlan::default() };
    let proxy = Proxy::start(target(echo), plan).unwrap();
    exchange(&proxy, &[7; 100]);
    assert!(wait_until(DEADLINE, || proxy.cuts() == 1));
    proxy.calm();
    assert!(exchange(&proxy, &[7; 10_000]) == (vec![7; 10_000], None));
    assert_eq!(proxy.cuts(), 1);
}

#[test]
fn a_stall_holds_everything_back_and_loses_nothing() {
    let proxy = Proxy::start(target(echo), CutPlan::default()).unwrap();
    let mut socket = connect(&proxy);
    proxy.stall();
    socket.write_all(b"late").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut answer = [0; 4];
    let error = socket.read_exact(&mut answer).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    proxy.resume();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"late");
}

#[test]
fn new_connections_follow_a_moved_target() {
    let proxy = Proxy::start(target(echo), CutPlan::default()).unwrap();
    assert_eq!(exchange(&proxy, b"one").0, b"one");
    proxy.retarget(target(|mut socket| socket.write_all(b"moved").unwrap()));
    assert_eq!(exchange(&proxy, b"").0, b"moved");
}
