//! What carries the bytes of a connection.
//!
//! Whether there is something to read is a question to the transport, not to the poll: one that decrypts may hold bytes
//! while its socket is empty.

use std::io::{self, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// A connected socket, not blocking.
pub(super) enum Transport {
    /// TCP without encryption.
    Plain(TcpStream),
}

impl Transport {
    /// Asks the poll for both directions, edge-triggered: not reading needs no system call.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let Self::Plain(stream) = self;
        registry.register(stream, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Removes the socket from the poll.
    pub(super) fn deregister(&mut self, registry: &Registry) {
        let Self::Plain(stream) = self;
        // Closing the descriptor takes it out of the poll as well.
        let _ = registry.deregister(stream);
    }

    /// Says that we send nothing more. The peer may still be sending.
    pub(super) fn end_sending(&mut self) -> io::Result<()> {
        let Self::Plain(stream) = self;
        stream.shutdown(Shutdown::Write)
    }

    /// One read, again where a signal came between. `Ok(0)`: the peer sends nothing more; `room` is not empty.
    pub(super) fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let Self::Plain(stream) = self;
        loop {
            match stream.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Writes as much as is taken at once; returns how much that was.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<usize> {
        let Self::Plain(stream) = self;
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
}
