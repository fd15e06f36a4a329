//! One socket: what was read and not yet parsed, what was written for it and not yet sent.

use std::io;
use std::time::Instant;

use crate::limits::{OUTBOX_BYTES_MAX, WRITE_TIMEOUT};
use crate::net::transport::Transport;

/// What a read came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadEnd {
    /// So many bytes were read; at least one.
    Bytes(usize),
    /// Nothing for now.
    Empty,
    /// The peer has closed its half.
    End,
    /// The connection is broken.
    Broken,
}

/// A socket with its buffers and state.
pub(super) struct Socket {
    transport: Transport,
    /// There may be bytes: no read has come back empty since the poll reported the socket.
    readable: bool,
    end_of_stream: bool,
    /// When bytes last came.
    heard: Instant,
    /// Bytes outside the pool that were read and are not parsed: a part of a head or of a frame's header, a HELLO.
    pub unparsed: Vec<u8>,
    outbox: Vec<u8>,
    /// When the peer last took something of the outbox.
    outbox_progress: Instant,
}

impl Socket {
    /// A socket that may have bytes to read.
    pub(super) fn new(transport: Transport, now: Instant) -> Self {
        Self {
            transport,
            readable: true,
            end_of_stream: false,
            heard: now,
            unparsed: Vec::new(),
            outbox: Vec::new(),
            outbox_progress: now,
        }
    }

    /// The connection below, to register it with a poll or end sending.
    pub(super) fn transport(&mut self) -> &mut Transport {
        &mut self.transport
    }

    /// The poll reported that there may be something to read.
    pub(super) fn set_readable(&mut self) {
        self.readable = true;
    }

    /// Whether a read may return bytes.
    pub(super) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether there is something to parse, here or still to be read.
    pub(super) fn has_more(&self) -> bool {
        self.readable || !self.unparsed.is_empty()
    }

    /// The peer has closed its half.
    pub(super) fn is_at_end(&self) -> bool {
        self.end_of_stream
    }

    /// When bytes were last received; at first, when the connection was accepted.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// One read into `room`, which is not empty: nothing read would be taken for the peer's end.
    pub(super) fn read(&mut self, room: &mut [u8], now: Instant) -> ReadEnd {
        debug_assert!(!room.is_empty(), "a read without room looks like the peer's end");
        match self.transport.read(room) {
            Ok(0) => {
                (self.readable, self.end_of_stream) = (false, true);
                ReadEnd::End
            }
            Ok(bytes) => {
                self.heard = now;
                ReadEnd::Bytes(bytes)
            }
            Err(error) => {
                self.readable = false;
                if error.kind() == io::ErrorKind::WouldBlock { ReadEnd::Empty } else { ReadEnd::Broken }
            }
        }
    }

    /// Sends `bytes`, or keeps what is not taken at once. `Err`: the connection is broken.
    pub(super) fn send(&mut self, bytes: &[u8], now: Instant) -> io::Result<()> {
        if !self.outbox.is_empty() {
            self.outbox.extend_from_slice(bytes);
            return Ok(());
        }
        let written = self.transport.write(bytes)?;
        if let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            self.outbox.extend_from_slice(rest);
            self.outbox_progress = now;
        }
        Ok(())
    }

    /// The socket may take more.
    pub(super) fn flush(&mut self, now: Instant) -> io::Result<()> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        let written = self.transport.write(&self.outbox)?;
        if written > 0 {
            self.outbox.drain(..written);
            self.outbox_progress = now;
        }
        if self.outbox.is_empty() {
            self.outbox = Vec::new();
        }
        Ok(())
    }

    /// Bytes that are not sent yet.
    pub(super) fn unsent(&self) -> usize {
        self.outbox.len()
    }

    /// Whether everything is sent.
    pub(super) fn is_flushed(&self) -> bool {
        self.outbox.is_empty()
    }

    /// The peer leaves so much unread that it is not read either.
    pub(super) fn is_choked(&self) -> bool {
        self.outbox.len() >= OUTBOX_BYTES_MAX
    }

    /// When the peer has left answers unread for too long; `None`: there are none.
    pub(super) fn write_deadline(&self) -> Option<Instant> {
        (!self.outbox.is_empty()).then(|| self.outbox_progress + WRITE_TIMEOUT)
    }
}
