//! One socket: what was read and not yet parsed, what was written for it and not yet sent.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustls::ServerConfig;

use crate::limits::{OUTBOX_BYTES_MAX, WRITE_TIMEOUT};
use crate::net::transport::{TlsReadError, Transport};
use crate::tls::{Fill, Machine, Received};

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
    /// There may be bytes: since the poll reported the socket, no read has come back empty, and no [`Socket::read_once`] with room left.
    readable: bool,
    end_of_stream: bool,
    /// The poll reported that the peer has closed its half, or an error: what the kernel has is all that comes.
    is_closed_by_peer: bool,
    /// With TLS, a part of a record stays with the kernel: connections keep much already.
    whole_records_only: bool,
    /// When bytes last came.
    heard: Instant,
    /// Bytes outside the pool that were read and are not parsed: a part of a head or of a frame's header, a HELLO.
    pub unparsed: Vec<u8>,
    /// With TLS: encrypted.
    outbox: Vec<u8>,
    /// When the peer last took something of the outbox.
    outbox_progress: Instant,
    /// Why TLS has failed, until it is logged.
    tls_error: Option<rustls::Error>,
    /// close_notify is in the outbox or sent, or cannot be sent.
    is_ending: bool,
    /// What of `outbox`, and of bytes that are kept outside the pool, is part of the sums of the loop.
    counted_unsent: usize,
    counted_kept: KeptBytes,
}

/// Bytes that are kept outside the pool until more has come: of one connection, or the sums of a loop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct KeptBytes {
    /// Not parsed: parts of heads and of frames' headers, messages of syslog; and what TLS keeps where the peer is not an agent that
    /// was accepted.
    pub unparsed: usize,
    /// What TLS keeps of agents that were accepted: parts of records.
    pub of_agents: usize,
}

impl KeptBytes {
    /// Brings a sum up to date: one of its connections has `now` what was `before`.
    pub(super) fn replace(&mut self, before: Self, now: Self) {
        self.unparsed = (self.unparsed + now.unparsed).saturating_sub(before.unparsed);
        self.of_agents = (self.of_agents + now.of_agents).saturating_sub(before.of_agents);
    }
}

impl Socket {
    /// A socket that may have bytes to read.
    pub(super) fn new(transport: Transport, now: Instant) -> Self {
        Self {
            transport,
            readable: true,
            end_of_stream: false,
            is_closed_by_peer: false,
            whole_records_only: false,
            heard: now,
            unparsed: Vec::new(),
            outbox: Vec::new(),
            outbox_progress: now,
            tls_error: None,
            is_ending: false,
            counted_unsent: 0,
            counted_kept: KeptBytes::default(),
        }
    }

    /// The connection below, to register it with a poll.
    pub(super) fn transport(&mut self) -> &mut Transport {
        &mut self.transport
    }

    /// The poll reported that there may be something to read.
    pub(super) fn set_readable(&mut self) {
        self.readable = true;
    }

    /// The poll reported that the peer has closed its half, or an error.
    pub(super) fn set_closed_by_peer(&mut self) {
        self.is_closed_by_peer = true;
    }

    /// Whether parts of TLS records stay with the kernel.
    pub(super) fn set_whole_records_only(&mut self, whole_records_only: bool) {
        self.whole_records_only = whole_records_only;
    }

    /// Takes what TLS has decrypted and nobody has read, without reading the socket. Returns how much.
    pub(super) fn take_decrypted(&mut self, room: &mut [u8]) -> usize {
        self.transport.tls_mut().map_or(0, |machine| machine.take_plain(room))
    }

    /// Whether the last read took as much as it had room for: there most likely is more.
    pub(super) fn is_more_likely(&self) -> bool {
        self.transport.is_more_likely()
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

    /// Whether the peer has closed its half without close_notify of TLS: what was received may be a part of what it sent.
    pub(super) fn is_cut(&self) -> bool {
        self.end_of_stream && self.transport.tls().is_some_and(|machine| !machine.has_ended())
    }

    /// Whether a part of a TLS record was received.
    pub(super) fn holds_part_of_record(&self) -> bool {
        self.transport.tls().is_some_and(Machine::holds_part_of_record)
    }

    /// When bytes were last received; at first, when the connection was accepted.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// As [`Socket::read`]. If it leaves room, the socket counts as empty until the poll reports it again, without a second read that
    /// finds nothing. For protocols whose timers do not depend on such a read (R11), and which need no urgent data of TCP, before which a
    /// read ends too.
    pub(super) fn read_once(&mut self, room: &mut [u8], wire: &mut [u8], now: Instant) -> ReadEnd {
        let end = self.read(room, wire, now);
        if let ReadEnd::Bytes(bytes) = end
            && self.transport.tls().is_none()
        {
            // The poll has reported the end already.
            self.readable = bytes == room.len() || self.is_closed_by_peer;
        }
        end
    }

    /// One read into `room`, which is not empty: nothing read would be taken for the peer's end. `wire`: for ciphertext.
    pub(super) fn read(&mut self, room: &mut [u8], wire: &mut [u8], now: Instant) -> ReadEnd {
        self.read_as(Fill::Within, room, wire, now)
    }

    /// The same into a room for what is missing of a frame: with TLS one read takes what fills it, as far as that has come and the loop's
    /// buffer for ciphertext has room.
    pub(super) fn read_rest(&mut self, room: &mut [u8], wire: &mut [u8], now: Instant) -> ReadEnd {
        self.read_as(Fill::Whole, room, wire, now)
    }

    fn read_as(&mut self, fill: Fill, room: &mut [u8], wire: &mut [u8], now: Instant) -> ReadEnd {
        debug_assert!(!room.is_empty(), "a read without room looks like the peer's end");
        if self.transport.tls().is_none() {
            return self.read_raw(room, now);
        }
        let unsent = self.outbox.len();
        let read = {
            let whole_records_only = self.whole_records_only && !self.is_closed_by_peer;
            self.transport.read_tls(room, wire, fill, whole_records_only, &mut self.outbox)
        };
        self.received_tls(read, unsent, now)
    }

    /// One read of what is thrown away; with TLS it is not decrypted.
    pub(super) fn discard(&mut self, room: &mut [u8], now: Instant) -> ReadEnd {
        self.read_raw(room, now)
    }

    /// The peer begins with a TLS handshake, whose first bytes are in `received`.
    pub(super) fn start_tls(
        &mut self,
        config: Arc<ServerConfig>,
        received: &[u8],
        wire: &mut [u8],
        now: Instant,
    ) -> ReadEnd {
        let unsent = self.outbox.len();
        let read = self.transport.start_tls(config, received, wire, &mut self.outbox);
        self.received_tls(read, unsent, now)
    }

    /// Takes what a read of TLS came to, and sends at once what is to be sent because of it: no answer may follow that takes it along.
    fn received_tls(&mut self, read: Result<Received, TlsReadError>, unsent: usize, now: Instant) -> ReadEnd {
        let end = match read {
            Ok(Received::Bytes(bytes)) => {
                self.heard = now;
                ReadEnd::Bytes(bytes)
            }
            // There may be more to read.
            Ok(Received::Nothing) => {
                self.heard = now;
                ReadEnd::Empty
            }
            Ok(Received::End) => {
                (self.readable, self.end_of_stream) = (false, true);
                ReadEnd::End
            }
            Err(TlsReadError::Io(error)) => {
                self.readable = false;
                if error.kind() == io::ErrorKind::WouldBlock { ReadEnd::Empty } else { ReadEnd::Broken }
            }
            Err(TlsReadError::Tls(error)) => {
                self.tls_error = Some(error);
                ReadEnd::Broken
            }
        };
        if self.send_added(unsent, now).is_err() {
            // Nothing can be sent any more. What was received before is taken first; then a read finds that the connection is broken.
            self.outbox = Vec::new();
            if !matches!(end, ReadEnd::Bytes(_)) {
                self.readable = false;
                return ReadEnd::Broken;
            }
        }
        end
    }

    /// Why TLS has failed, once.
    pub(super) fn take_tls_error(&mut self) -> Option<rustls::Error> {
        self.tls_error.take()
    }

    /// The machine of a connection with TLS.
    pub(super) fn tls(&self) -> Option<&Machine> {
        self.transport.tls()
    }

    fn read_raw(&mut self, room: &mut [u8], now: Instant) -> ReadEnd {
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
        if let Some(machine) = self.transport.tls_mut() {
            let unsent = self.outbox.len();
            machine.encrypt(bytes, &mut self.outbox).map_err(io::Error::other)?;
            return self.send_added(unsent, now);
        }
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

    /// Sends what was added to an outbox that had `unsent` bytes.
    fn send_added(&mut self, unsent: usize, now: Instant) -> io::Result<()> {
        if unsent > 0 || self.outbox.is_empty() {
            return Ok(());
        }
        self.outbox_progress = now;
        self.flush(now)
    }

    /// Ends our half, once everything is sent: the peer may still be sending. `Ok(false)`: close_notify is not sent yet.
    pub(super) fn end_sending(&mut self, now: Instant) -> io::Result<bool> {
        if let Some(machine) = self.transport.tls_mut()
            && !std::mem::replace(&mut self.is_ending, true)
        {
            let unsent = self.outbox.len();
            machine.end_sending(&mut self.outbox);
            self.send_added(unsent, now)?;
        }
        if !self.outbox.is_empty() {
            return Ok(false);
        }
        // Where the peer has ended its half too, the connection is closed.
        if !self.end_of_stream {
            self.transport.shut_down()?;
        }
        Ok(true)
    }

    /// Brings a sum of what is not sent up to date.
    pub(super) fn count_unsent(&mut self, sum: &mut usize) {
        *sum = (*sum + self.outbox.len()).saturating_sub(self.counted_unsent);
        self.counted_unsent = self.outbox.len();
    }

    /// What the sum has of this socket.
    pub(super) fn counted_unsent(&self) -> usize {
        self.counted_unsent
    }

    /// Brings the sums of bytes that are kept outside the pool up to date.
    pub(super) fn count_kept(&mut self, is_agent: bool, sums: &mut KeptBytes) {
        let (unparsed, of_tls) = (self.unparsed.len(), self.transport.tls().map_or(0, Machine::kept_bytes));
        let kept = match is_agent {
            true => KeptBytes { unparsed, of_agents: of_tls },
            false => KeptBytes { unparsed: unparsed + of_tls, of_agents: 0 },
        };
        sums.replace(self.counted_kept, kept);
        self.counted_kept = kept;
    }

    /// What the sums have of this socket.
    pub(super) fn counted_kept(&self) -> KeptBytes {
        self.counted_kept
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
