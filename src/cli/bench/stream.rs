//! The socket of one connection, with TLS or without it.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustls::ClientConnection;

use crate::tls::{Connector, failed};

/// Where to connect to.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// The name that the certificate of the server has to have.
    pub(super) host: String,
    /// `None`: without TLS.
    pub(super) tls: Option<Connector>,
}

/// A connected socket. Blocking at first, then not.
pub(super) struct Stream {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Stream {
    /// Connects. The handshake comes with the first bytes that are written and read.
    pub(super) fn connect(target: &Target, timeout: Duration) -> io::Result<Self> {
        let tcp = TcpStream::connect_timeout(&target.address, timeout)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(timeout))?;
        let mut stream = Self { tcp, tls: None };
        if let Some(connector) = &target.tls {
            let mut connection = connector.start(&target.host)?;
            while connection.is_handshaking() {
                connection.complete_io(&mut stream.tcp)?;
            }
            stream.tls = Some(Box::new(connection));
        }
        Ok(stream)
    }

    /// The socket.
    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Writes what was encrypted and is not written yet. `false`: the socket does not take all of it now.
    pub(super) fn is_flushed(&mut self) -> io::Result<bool> {
        let Some(connection) = &mut self.tls else { return Ok(true) };
        while connection.wants_write() {
            match connection.write_tls(&mut self.tcp) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Writes some of the bytes; with TLS they may be encrypted and not all written, see [`Stream::is_flushed`].
    pub(super) fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.tls.is_some() && !self.is_flushed()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match &mut self.tls {
            None => self.tcp.write_vectored(slices),
            Some(connection) => connection.writer().write_vectored(slices),
        }
    }

    /// Writes all of `bytes` to a socket that blocks, or fails.
    pub(super) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            None => self.tcp.write_all(bytes),
            Some(connection) => {
                connection.writer().write_all(bytes)?;
                if self.is_flushed()? { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
            }
        }
    }

    /// Reads what has come; with TLS all that was decrypted, as far as there is room.
    pub(super) fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let Some(connection) = &mut self.tls else { return self.tcp.read(room) };
        loop {
            match connection.reader().read(room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if connection.read_tls(&mut self.tcp)? == 0 {
                return Ok(0);
            }
            connection.process_new_packets().map_err(failed)?;
        }
    }

    /// Half-closes.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if let Some(connection) = &mut self.tls {
            connection.send_close_notify();
            self.is_flushed()?;
        }
        self.tcp.shutdown(Shutdown::Write)
    }
}
