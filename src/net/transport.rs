//! What carries the bytes of a connection: TCP, with TLS or without it.
//!
//! Whether there is something to read is a question to the transport, not to the poll: TLS may hold plaintext while its socket is empty.
//! The caller owns the buffers: that of its loop for ciphertext, and the connection's outbox for what TLS has to send.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};

use crate::tls::{Fill, Machine, Received};

/// A connected socket, not blocking.
pub(super) struct Transport {
    stream: TcpStream,
    /// `None`: without TLS, or not yet.
    tls: Option<Box<Machine>>,
    /// The last read took as much as it had room for: there most likely is more.
    is_more_likely: bool,
}

/// Why TLS could not be read.
#[derive(Debug)]
pub(super) enum TlsReadError {
    /// Of the socket.
    Io(io::Error),
    /// What was received is not what TLS expects; an alert is in the outbox.
    Tls(rustls::Error),
}

impl Transport {
    /// TCP without TLS.
    pub(super) fn plain(stream: TcpStream) -> Self {
        Self { stream, tls: None, is_more_likely: false }
    }

    /// Asks the poll for both directions, edge-triggered: not reading needs no system call.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Removes the socket from the poll.
    pub(super) fn deregister(&mut self, registry: &Registry) {
        // Closing the descriptor takes it out of the poll as well.
        let _ = registry.deregister(&mut self.stream);
    }

    /// Has the kernel find out when the peer is gone although nothing is sent: for protocols without timeouts.
    pub(super) fn keep_alive(&mut self, after: Duration) -> io::Result<()> {
        let keepalive = TcpKeepalive::new().with_time(after).with_interval(after / 10);
        SockRef::from(&self.stream).set_tcp_keepalive(&keepalive)
    }

    /// Ends our half of the TCP connection. The peer may still be sending.
    pub(super) fn shut_down(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// One read of the socket, again where a signal came between. `Ok(0)`: the peer sends nothing more; `room` is not empty.
    pub(super) fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let received = read(&mut self.stream, room);
        self.is_more_likely = matches!(received, Ok(bytes) if bytes == room.len());
        received
    }

    /// Whether the last read took as much as it had room for: there most likely is more.
    pub(super) fn is_more_likely(&self) -> bool {
        self.is_more_likely
    }

    /// What the kernel has received, without taking it.
    #[cfg(test)]
    pub(super) fn peek(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.stream.peek(room)
    }

    /// Writes to the socket as much as is taken at once; returns how much that was.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
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

    /// The machine, where the connection uses TLS.
    pub(super) fn tls(&self) -> Option<&Machine> {
        self.tls.as_deref()
    }

    /// The same, to encrypt.
    pub(super) fn tls_mut(&mut self) -> Option<&mut Machine> {
        self.tls.as_deref_mut()
    }

    /// What comes is TLS from now on, beginning with the `received` bytes. What is to be sent is appended to `out`.
    pub(super) fn start_tls(
        &mut self,
        config: Arc<ServerConfig>,
        received: &[u8],
        wire: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<Received, TlsReadError> {
        let machine = Machine::new(config).map_err(TlsReadError::Tls)?;
        let wire = wire.get_mut(..received.len()).unwrap_or_default();
        wire.copy_from_slice(received);
        let machine = self.tls.insert(Box::new(machine));
        machine.receive(wire, &mut [], out).map_err(TlsReadError::Tls)
    }

    /// What was decrypted before and is not taken yet, else one read of the socket, decrypted. `wire` is for ciphertext; what is to be
    /// sent is appended to `out`. `whole_records_only`: a part of a record stays with the kernel.
    pub(super) fn read_tls(
        &mut self,
        room: &mut [u8],
        wire: &mut [u8],
        fill: Fill,
        whole_records_only: bool,
        out: &mut Vec<u8>,
    ) -> Result<Received, TlsReadError> {
        let Some(machine) = &mut self.tls else { return Ok(Received::Nothing) };
        match machine.take_plain(room) {
            0 => {}
            bytes => {
                self.is_more_likely = bytes == room.len();
                return Ok(Received::Bytes(bytes));
            }
        }
        self.is_more_likely = false;
        // Memory is short: plaintext that does not fit in the room would have to be kept as well.
        let fill = if whole_records_only { Fill::Within } else { fill };
        if let Some(error) = machine.take_failure() {
            return Err(TlsReadError::Tls(error));
        }
        if machine.is_at_end() {
            return Ok(Received::End);
        }
        let at = machine.receive_at(room.len(), fill);
        let (start, mut end) = (at.start, at.end.min(wire.len()));
        if whole_records_only {
            let next = wire.get_mut(start..end).unwrap_or_default();
            let bytes = self.stream.peek(next).map_err(TlsReadError::Io)?;
            let whole = machine.whole_records(next.get(..bytes).unwrap_or_default());
            if bytes > 0 && whole == 0 && bytes < next.len() {
                // Of a record of which more has to come.
                return Err(TlsReadError::Io(io::ErrorKind::WouldBlock.into()));
            }
            end = if whole > 0 { start + whole } else { end };
        }
        let is_cut = end < at.end;
        let next = wire.get_mut(start..end).unwrap_or_default();
        let received = read(&mut self.stream, next).map_err(TlsReadError::Io)?;
        self.is_more_likely = received == next.len() && !is_cut;
        if received == 0 {
            // Without close_notify. Frames and bodies carry their lengths: what is cut off is noticed. Lines of syslog do not: see
            // `Socket::is_cut`.
            return Ok(Received::End);
        }
        let wire = wire.get_mut(..start + received).unwrap_or_default();
        machine.receive(wire, room, out).map_err(TlsReadError::Tls)
    }
}

/// One read, again where a signal came between.
fn read(stream: &mut TcpStream, room: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(room) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
