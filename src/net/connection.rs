//! One socket: what was read and not yet parsed, what was said and not yet written.
//!
//! ```text
//!              first byte          GOAWAY, error, end          written            end, pause, 30 s
//!  Undecided ─────────────▶ Frames │ Http ─────────────▶ Closing ─────▶ Lingering ──────────────────▶ gone
//! ```

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use mio::net::TcpStream;

use crate::http;
use crate::limits::{HELLO_TIMEOUT, OUTBOX_BYTES_MAX, SILENT_AFTER, WRITE_TIMEOUT};
use crate::net::linger::Linger;
use crate::pipeline::batch::Origin;
use crate::pipeline::pool::Buffer;
use crate::session::marks::ConnectionId;
use crate::session::server::ServerSession;

/// What the peer speaks.
pub enum Protocol {
    /// Nothing was read yet.
    Undecided,
    Frames(Box<ServerSession>),
    Http(Box<http::Connection>),
    /// The last words are being written.
    Closing,
    /// They are written and our half is closed: the peer may read them while what it still sends is discarded (R15).
    Lingering(Linger),
}

/// Bytes in the pool that belong to this connection alone.
pub enum Held {
    Nothing,
    /// A frame of `total` bytes, a part of which has come.
    Frame {
        buffer: Buffer,
        total: usize,
    },
}

pub struct Connection {
    pub id: ConnectionId,
    pub stream: TcpStream,
    pub peer: SocketAddr,
    pub loopback: bool,
    /// Over `max_connections`: is told so, in its own protocol, and closed.
    pub overloaded: bool,
    pub protocol: Protocol,
    pub origin: Arc<Origin>,
    /// Bytes outside the pool: a torn head, a torn frame header, a HELLO.
    pub small: Vec<u8>,
    pub held: Held,
    outbox: Vec<u8>,
    /// When the peer last took something of the outbox.
    outbox_progress: Instant,
    pub opened: Instant,
    /// When bytes last came.
    pub heard: Instant,
    /// The socket may have bytes: no read has come back empty since the poll said so.
    pub readable: bool,
    /// Is in the list of those to be served.
    pub queued: bool,
    /// Is in the line of those that wait for memory or ring.
    pub waiting: bool,
    /// Is in the list of those that wait for a watermark.
    pub awaiting: bool,
    /// The peer has closed its half.
    pub end_of_stream: bool,
    /// The poll reported that both directions are closed.
    pub is_reset: bool,
    /// Counts towards the cap of those that have not shown who they are.
    pub unauthenticated: bool,
    /// The earliest timer entry of this connection.
    pub scheduled: Option<Instant>,
    /// Why it was closed, for the counter: the first reason stands.
    pub close_reason: Option<&'static str>,
}

/// What a read came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadEnd {
    Bytes(usize),
    /// Nothing for now.
    Empty,
    /// The peer has closed its half.
    End,
    /// The connection is broken.
    Broken,
}

impl Connection {
    pub fn new(id: ConnectionId, stream: TcpStream, peer: SocketAddr, overloaded: bool, now: Instant) -> Self {
        let default_source = peer.ip().to_canonical().to_string();
        Self {
            id,
            stream,
            peer,
            loopback: peer.ip().to_canonical().is_loopback(),
            overloaded,
            protocol: Protocol::Undecided,
            origin: Arc::new(Origin { agent_id: None, agent: None, default_source, epoch: 0 }),
            small: Vec::new(),
            held: Held::Nothing,
            outbox: Vec::new(),
            outbox_progress: now,
            opened: now,
            heard: now,
            readable: true,
            queued: false,
            waiting: false,
            awaiting: false,
            end_of_stream: false,
            is_reset: false,
            unauthenticated: true,
            scheduled: None,
            close_reason: None,
        }
    }

    pub fn session(&mut self) -> Option<&mut ServerSession> {
        match &mut self.protocol {
            Protocol::Frames(session) => Some(session),
            _ => None,
        }
    }

    /// One read into `room`, which is not empty.
    pub fn read(&mut self, room: &mut [u8], now: Instant) -> ReadEnd {
        loop {
            match self.stream.read(room) {
                Ok(0) => {
                    (self.readable, self.end_of_stream) = (false, true);
                    return ReadEnd::End;
                }
                Ok(bytes) => {
                    self.heard = now;
                    return ReadEnd::Bytes(bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return ReadEnd::Empty;
                }
                Err(_) => {
                    self.readable = false;
                    return ReadEnd::Broken;
                }
            }
        }
    }

    /// Writes `bytes`, or keeps what the socket does not take. `Err`: the connection is broken.
    pub fn send(&mut self, bytes: &[u8], now: Instant) -> io::Result<()> {
        if !self.outbox.is_empty() {
            self.outbox.extend_from_slice(bytes);
            return Ok(());
        }
        let written = write_some(&mut self.stream, bytes)?;
        if let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            self.outbox.extend_from_slice(rest);
            self.outbox_progress = now;
        }
        Ok(())
    }

    /// The socket may take more.
    pub fn flush(&mut self, now: Instant) -> io::Result<()> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        let written = write_some(&mut self.stream, &self.outbox)?;
        if written > 0 {
            self.outbox.drain(..written);
            self.outbox_progress = now;
        }
        if self.outbox.is_empty() {
            self.outbox = Vec::new();
        }
        Ok(())
    }

    /// Bytes said and not yet written.
    pub fn unwritten(&self) -> usize {
        self.outbox.len()
    }

    /// Everything said is written.
    pub fn is_flushed(&self) -> bool {
        self.outbox.is_empty()
    }

    /// The peer leaves so much unread that it is not read either.
    pub fn is_choked(&self) -> bool {
        self.outbox.len() >= OUTBOX_BYTES_MAX
    }

    /// Begins to close: the last words are in the outbox or written. Later calls change nothing.
    pub fn close(&mut self, reason: &'static str) {
        if self.close_reason.is_none() {
            self.close_reason = Some(reason);
        }
        if !self.is_closing() {
            self.protocol = Protocol::Closing;
            self.held = Held::Nothing;
            self.small = Vec::new();
        }
    }

    /// Goes on closing once everything is written. `true`: the connection can be dropped.
    pub fn finish_closing(&mut self, now: Instant) -> bool {
        match self.protocol {
            Protocol::Closing if self.is_flushed() => {
                if self.end_of_stream || self.stream.shutdown(Shutdown::Write).is_err() {
                    return true;
                }
                self.protocol = Protocol::Lingering(Linger::new(now));
                false
            }
            // Its time is looked at after a read that found nothing, see `deadline`.
            Protocol::Lingering(_) => self.end_of_stream,
            _ => false,
        }
    }

    /// The last answer is in the outbox or written.
    pub fn is_closing(&self) -> bool {
        matches!(self.protocol, Protocol::Closing | Protocol::Lingering(_))
    }

    /// The answer is written, our half is closed, and the peer may still be sending.
    pub fn is_lingering(&self) -> bool {
        matches!(self.protocol, Protocol::Lingering(_))
    }

    /// Bytes of frames that came with the HELLO, or of a partial header: they need slots of the ring once they are parsed.
    pub fn kept_frame_bytes(&self) -> usize {
        match &self.protocol {
            Protocol::Frames(session) if session.is_authenticated() => self.small.len(),
            _ => 0,
        }
    }

    /// Neither authenticated nor heard of for a while, and nothing of it waits to be read (R12).
    pub fn is_silent(&self, now: Instant) -> bool {
        self.unauthenticated && !self.queued && !self.waiting && now >= self.heard + SILENT_AFTER
    }

    /// When something must happen here although the peer does nothing.
    pub fn deadline(&self, pressure: bool) -> Option<Instant> {
        let unwritten = (!self.outbox.is_empty()).then(|| self.outbox_progress + WRITE_TIMEOUT);
        let own = match &self.protocol {
            Protocol::Undecided => Some(self.opened + HELLO_TIMEOUT),
            Protocol::Frames(session) => session.deadline(pressure),
            Protocol::Http(http) => http.deadline(),
            Protocol::Closing => None,
            Protocol::Lingering(linger) => Some(linger.deadline()),
        };
        [unwritten, own].into_iter().flatten().min()
    }

    /// The peer has left answers unread for too long.
    pub fn is_write_timed_out(&self, now: Instant) -> bool {
        !self.outbox.is_empty() && now >= self.outbox_progress + WRITE_TIMEOUT
    }
}

fn write_some(stream: &mut TcpStream, mut bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                written += count;
                bytes = bytes.get(count..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
