//! The client's threads: one connects and writes, one a connection reads. Both only carry out the agent's actions.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Shared;
use super::wire::Wire;
use crate::limits::{CLIENT_READ_BYTES, CLIENT_WRITE_TIMEOUT};
use crate::session::agent::Action;

/// After a failed write, how long the reader may take to find the server's last frames.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Starts the writer thread; it ends when the agent stops or the client is dropped.
pub(super) fn start(shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("telemetryx-client".to_owned()).spawn(move || run(&shared))
}

/// An open connection; dropping it ends the reader, so the lock must not be held then.
struct Connection {
    wire: Wire,
    reader: Option<JoinHandle<()>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.wire.stream().shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn run(shared: &Arc<Shared>) {
    let mut connection: Option<Connection> = None;
    let mut state = shared.lock();
    while !state.abandoned {
        let now = Instant::now();
        let action = state.agent.poll(now);
        state.take_notices(&shared.address);
        match action {
            Action::Wait(until) => {
                state = shared.wait(state, until, now);
                continue;
            }
            Action::Stop => break,
            Action::Close => {
                drop(state);
                connection = None;
                state = shared.lock();
            }
            Action::Connect => {
                drop(state);
                connection = None;
                let opened = open(shared);
                state = shared.lock();
                state.connection += 1;
                let started = opened.and_then(|wire| {
                    state.agent.connected(Instant::now());
                    let number = state.connection;
                    let (reading, shared) = (wire.try_clone()?, Arc::clone(shared));
                    let reader = std::thread::Builder::new()
                        .name("telemetryx-client-read".to_owned())
                        .spawn(move || read(&reading, &shared, number))?;
                    Ok(Connection { wire, reader: Some(reader) })
                });
                match started {
                    Ok(started) => connection = Some(started),
                    Err(error) => state.agent.disconnected(error.to_string(), Instant::now()),
                }
            }
            Action::Write(bytes) => {
                drop(state);
                let written = connection.as_ref().map_or(Ok(()), |open| write(&open.wire, &bytes, shared));
                state = shared.lock();
                if let Err(error) = written {
                    // A server that closes has said why, and the reader is about to find it.
                    let until = Instant::now() + LAST_WORDS;
                    while state.agent.is_connected() && Instant::now() < until {
                        state = shared.wait(state, Some(until), Instant::now());
                    }
                    state.agent.disconnected(error.to_string(), Instant::now());
                }
            }
            Action::HalfClose => {
                drop(state);
                if let Some(open) = &connection {
                    half_close(&open.wire, shared);
                }
                state = shared.lock();
            }
        }
        state.take_notices(&shared.address);
        shared.changed.notify_all();
    }
    drop(state);
    drop(connection);
    shared.changed.notify_all();
}

fn open(shared: &Shared) -> io::Result<Wire> {
    let wire = Wire::open(shared)?;
    wire.stream().set_write_timeout(Some(CLIENT_WRITE_TIMEOUT))?;
    Ok(wire)
}

/// If this fails, the reader meets the same error.
fn half_close(wire: &Wire, shared: &Shared) {
    let _ = write_sealed(wire.stream(), &wire.end(), shared);
    let _ = wire.stream().shutdown(Shutdown::Write);
}

/// Writes all of it, unless the agent gives the connection up meanwhile.
fn write(wire: &Wire, bytes: &[u8], shared: &Shared) -> io::Result<()> {
    write_sealed(wire.stream(), &wire.seal(bytes)?, shared)
}

/// The same with bytes as they are sent.
fn write_sealed(mut stream: &TcpStream, mut bytes: &[u8], shared: &Shared) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let mut state = shared.lock();
                state.agent.tick(Instant::now());
                if state.abandoned || !state.agent.is_connected() {
                    return Err(ErrorKind::ConnectionAborted.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Passes what the server sends to the agent, until the connection ends.
fn read(wire: &Wire, shared: &Shared, connection: u64) {
    let (mut buffer, mut received) = (vec![0; CLIENT_READ_BYTES], Vec::new());
    loop {
        let outcome = wire.read(&mut buffer, &mut received);
        let now = Instant::now();
        let mut state = shared.lock();
        if state.connection != connection || !state.agent.is_connected() {
            return;
        }
        if !received.is_empty() {
            state.agent.receive(&received, now);
        }
        match outcome {
            Ok(true) => {}
            // What came last may have ended the connection.
            Ok(false) if !state.agent.is_connected() => {}
            Ok(false) => state.agent.disconnected("the server closed the connection".to_owned(), now),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => state.agent.disconnected(error.to_string(), now),
        }
        state.take_notices(&shared.address);
        shared.changed.notify_all();
        if !state.agent.is_connected() {
            // The writer may be stuck in writing.
            let _ = wire.stream().shutdown(Shutdown::Both);
            return;
        }
    }
}
