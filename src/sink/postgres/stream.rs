//! The connection's bytes: TLS as the settings ask for it, and a deadline on every wait.
//!
//! ```text
//!  client ─▶ Wire ┬─ Plain ─────────▶ Timed ─▶ socket        Timed: a read or write that is not ready when the
//!                 └─ Tls (rustls) ──▶ Timed ─▶ socket               deadline passes fails, so that no wait is for ever
//! ```
//!
//! The `postgres` crate has no timeout of its own for an answer: a server that is stopped, or whose disk hangs, would
//! hold the router's thread for ever. So the crate is configured to start TLS at once ("direct"), which hands the raw
//! socket to [`Connector`]; it asks the server for TLS itself, and wraps the socket in any case.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use postgres::Socket;
use postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Sleep;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::last_error::LastError;

/// PostgreSQL's request for TLS: length and code (PostgreSQL manual, "Message Formats", SSLRequest).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// When the operation in progress must have ended. Set by the sink, looked at by its connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Deadline(Arc<Mutex<Option<Instant>>>);

impl Deadline {
    /// Whatever waits from now on fails at `now + time`.
    pub(super) fn set(&self, time: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now().checked_add(time);
    }

    fn at(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether and how a connection is encrypted.
#[derive(Clone)]
pub(super) enum Encryption {
    /// Never.
    Off,
    /// Where the server offers it; its certificate is not looked at.
    Offered(Arc<ClientConfig>),
    /// Nothing is sent without it.
    Required(Arc<ClientConfig>),
}

/// The server and the settings do not agree about TLS: a person has to act.
#[derive(Debug, thiserror::Error)]
#[error("the server offers no TLS, which this sink asks for: turn on ssl in postgresql.conf, or set tls = \"off\"")]
pub(super) struct NoTlsOffered;

/// Makes a [`Wire`] of each new socket.
#[derive(Clone)]
pub(super) struct Connector {
    /// Whether and how connections are encrypted.
    pub encryption: Encryption,
    /// The deadline of every read and write, shared with the session.
    pub deadline: Deadline,
    /// Where errors that the server sends are kept.
    pub last_error: LastError,
    /// From the connected socket to the end of the login.
    pub login_timeout: Duration,
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Wire;
    type TlsConnect = ConnectOnce;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<ConnectOnce, io::Error> {
        // One of several hosts that hangs must not use up the time of the next.
        self.deadline.set(self.login_timeout);
        self.last_error.reset();
        Ok(ConnectOnce { connector: self.clone(), host: host.to_owned() })
    }
}

/// The connection that is being opened.
pub(super) struct ConnectOnce {
    connector: Connector,
    host: String,
}

impl TlsConnect<Socket> for ConnectOnce {
    type Stream = Wire;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Wire>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(self.wire(socket))
    }
}

impl ConnectOnce {
    async fn wire(self, socket: Socket) -> io::Result<Wire> {
        let mut stream = Timed { stream: socket, deadline: self.connector.deadline, sleep: None };
        let last_error = self.connector.last_error;
        let wire = |stream| Wire { stream, last_error };
        let (config, required) = match self.connector.encryption {
            Encryption::Off => return Ok(wire(Stream::Plain(stream))),
            Encryption::Offered(config) => (config, false),
            Encryption::Required(config) => (config, true),
        };
        stream.write_all(&SSL_REQUEST).await?;
        // One byte and no more: whatever came with it unencrypted would be taken for the server's word.
        match stream.read_u8().await? {
            b'S' => {}
            b'N' if required => return Err(io::Error::other(NoTlsOffered)),
            b'N' => return Ok(wire(Stream::Plain(stream))),
            // An error message begins with E: it is too busy to say more, or no PostgreSQL at all.
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "no answer to the request for TLS")),
        }
        let mut maker = MakeRustlsConnect::new(Arc::unwrap_or_clone(config));
        let tls =
            MakeTlsConnect::<Timed<Socket>>::make_tls_connect(&mut maker, &self.host).map_err(io::Error::other)?;
        Ok(wire(Stream::Tls(Box::new(tls.connect(stream).await?))))
    }
}

type Encrypted = <MakeRustlsConnect as MakeTlsConnect<Timed<Socket>>>::Stream;

/// What the client talks through.
pub(super) struct Wire {
    stream: Stream,
    last_error: LastError,
}

enum Stream {
    Plain(Timed<Socket>),
    Tls(Box<Encrypted>),
}

impl TlsStream for Wire {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.stream {
            Stream::Plain(_) => ChannelBinding::none(),
            Stream::Tls(stream) => stream.channel_binding(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, last_error } = self.get_mut();
        let before = buf.filled().len();
        let read = match stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if let Poll::Ready(Ok(())) = read {
            last_error.read(buf.filled().get(before..).unwrap_or_default());
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A stream that does not wait beyond the deadline.
pub(super) struct Timed<S> {
    stream: S,
    deadline: Deadline,
    /// Made by the first wait: it needs the runtime.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<S: Unpin> Timed<S> {
    /// Ready with an error once the deadline has passed.
    fn too_late<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let Some(at) = self.deadline.at().map(tokio::time::Instant::from_std) else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => self.too_late(cx),
            ready => ready,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, buf) {
            Poll::Pending => self.too_late(cx),
            ready => ready,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Pending => self.too_late(cx),
            ready => ready,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(cx) {
            Poll::Pending => self.too_late(cx),
            ready => ready,
        }
    }
}
