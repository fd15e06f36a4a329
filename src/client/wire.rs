//! What a connection of the client sends and receives: the bytes of the agent, with TLS or without it.

use std::io::{self, Read};
use std::net::TcpStream;
#[cfg(feature = "tls")]
use std::sync::Arc;

use super::Shared;
use crate::limits::CLIENT_CONNECT_TIMEOUT;
#[cfg(feature = "tls")]
use crate::limits::TLS_CLIENT_TIMEOUT;
use crate::resolve;
#[cfg(feature = "tls")]
use crate::tls::Session;

/// A connected socket. A clone is the same connection, for another thread.
pub(super) struct Wire {
    stream: TcpStream,
    #[cfg(feature = "tls")]
    tls: Option<Arc<Session>>,
}

impl Wire {
    /// Connects, and does the handshake where there is one.
    pub(super) fn open(shared: &Shared) -> io::Result<Self> {
        let stream = resolve::connect_to(&shared.address, CLIENT_CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        #[cfg(feature = "tls")]
        let tls = match &shared.tls {
            None => None,
            Some(connector) => {
                let (host, _) = resolve::parts(&shared.address)?;
                Some(Arc::new(connector.connect(host, &stream, TLS_CLIENT_TIMEOUT)?))
            }
        };
        Ok(Self {
            stream,
            #[cfg(feature = "tls")]
            tls,
        })
    }

    /// For another thread.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            stream: self.stream.try_clone()?,
            #[cfg(feature = "tls")]
            tls: self.tls.clone(),
        })
    }

    /// The socket.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The bytes that stand for `bytes` in the stream: encrypted where there is TLS, so they are to be written in the order of calls.
    #[cfg(feature = "tls")]
    pub(super) fn seal<'a>(&self, bytes: &'a [u8]) -> io::Result<std::borrow::Cow<'a, [u8]>> {
        match &self.tls {
            None => Ok(bytes.into()),
            Some(session) => session.seal(bytes).map(Into::into),
        }
    }

    /// As they are.
    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unused_self)] // as with TLS
    pub(super) fn seal<'a>(&self, bytes: &'a [u8]) -> io::Result<std::borrow::Cow<'a, [u8]>> {
        Ok(bytes.into())
    }

    /// What is written before the socket is half-closed.
    pub(super) fn end(&self) -> Vec<u8> {
        #[cfg(feature = "tls")]
        if let Some(session) = &self.tls {
            return session.end();
        }
        Vec::new()
    }

    /// One read of the socket, through `buffer`; what it came to replaces the content of `received`. `false`: the server sends nothing
    /// more.
    pub(super) fn read(&self, buffer: &mut [u8], received: &mut Vec<u8>) -> io::Result<bool> {
        received.clear();
        let count = (&self.stream).read(buffer)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        #[cfg(feature = "tls")]
        if let Some(session) = &self.tls {
            return Ok(session.open(bytes, received)? && count > 0);
        }
        received.extend_from_slice(bytes);
        Ok(count > 0)
    }
}
