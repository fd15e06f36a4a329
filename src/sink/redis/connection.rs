//! A connection to one Redis: bytes out, replies in, nothing is tried again without the caller.
//!
//! The `redis` crate gives URLs, replies and their errors. The socket is ours: WATCH needs the node's own connection,
//! which the crate's Cluster client keeps to itself, and the crate's TLS looks for the system's certificates at every
//! connect and fails where there are none.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Parser, RedisError, ServerError, Value};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use thiserror::Error;

use super::mismatch;
use super::settings::{Place, Server};
use crate::limits;
use crate::resolve;

/// Why a command has no usable answer.
#[derive(Debug, Error)]
pub(super) enum Trouble {
    /// The connection cannot be opened, failed, or was silent for too long.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Redis answered with an error.
    #[error("{} {}", .0.code(), without_arguments(.0.details().unwrap_or_default()))]
    Server(ServerError),
    /// A reply of another type than the command has, shortened.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
    /// TLS on one side only.
    #[error(transparent)]
    Tls(#[from] TlsMismatch),
}

/// Client and server do not agree whether the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum TlsMismatch {
    /// This side uses TLS, the server does not.
    #[error("the server does not speak TLS")]
    Plain,
    /// The server uses TLS, this side does not.
    #[error("the server speaks TLS only")]
    Encrypted,
}

impl Trouble {
    /// An unexpected reply, shortened for messages.
    pub(super) fn unexpected(answer: &Value) -> Self {
        Self::Unexpected(format!("{answer:?}").chars().take(limits::REFUSAL_REASON_BYTES_MAX).collect())
    }
}

/// Of a command that it does not know, Redis quotes the arguments: they may be user and password.
fn without_arguments(details: &str) -> &str {
    details.split_once("with args").map_or(details, |(before, _)| before.trim_end_matches([',', ' ']))
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Self {
        Self::Io(io::Error::new(io::ErrorKind::ConnectionAborted, error.to_string()))
    }
}

/// As a socket with a timeout reports it.
fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn silence() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer within timeout")
}

/// Commands in the form in which they are sent (RESP, <https://redis.io/docs/latest/develop/reference/protocol-spec/>).
#[derive(Debug, Default)]
pub(super) struct Commands {
    bytes: Vec<u8>,
    count: usize,
}

impl Commands {
    /// Appends a command: its name, then its arguments.
    pub(super) fn command(&mut self, arguments: &[&[u8]]) {
        self.begin(arguments.len());
        for argument in arguments {
            self.argument(argument);
        }
    }

    /// Begins a command of so many arguments, its name counted.
    pub(super) fn begin(&mut self, arguments: usize) {
        self.count += 1;
        self.number(b'*', arguments);
    }

    /// Appends the next argument of the command that was begun.
    pub(super) fn argument(&mut self, argument: &[u8]) {
        self.number(b'$', argument.len());
        self.bytes.extend_from_slice(argument);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// How many there are: as many replies will come.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Removes all commands; keeps the memory.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    fn number(&mut self, sign: u8, number: usize) {
        self.bytes.push(sign);
        // Two an argument: `write!` took a quarter of the time that an entry takes.
        let (start, mut rest) = (self.bytes.len(), number);
        loop {
            self.bytes.push(b'0' + (rest % 10) as u8);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.bytes.get_mut(start..).unwrap_or_default().reverse();
        self.bytes.extend_from_slice(b"\r\n");
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// A connection to one server.
pub(super) struct Connection {
    stream: Stream,
    parser: Parser,
    /// Where it leads, until the first reply has come.
    unanswered: Option<Place>,
    /// MULTI has been answered once. Where it is refused, the commands after it would be executed one by one.
    pub takes_multi: bool,
}

impl Connection {
    /// Connects and logs in. `tls` is looked at where the server asks for it.
    pub(super) fn open(server: &Server, tls: Option<&Arc<ClientConfig>>, timeout: Duration) -> Result<Self, Trouble> {
        let stream = match &server.place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                Stream::Unix(stream)
            }
            Place::Tcp(host, port) => {
                let stream = resolve::connect(host, *port, limits::STORE_CONNECT_TIMEOUT)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                match tls.filter(|_| server.tls) {
                    None => Stream::Tcp(stream),
                    Some(config) => {
                        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                        let session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
                        let mut stream = StreamOwned::new(session, stream);
                        handshake(&mut stream, timeout, || mismatch::speaks_plain(host, *port))?;
                        Stream::Tls(Box::new(stream))
                    }
                }
            }
        };
        let unanswered = Some(server.place.clone()).filter(|_| !server.tls);
        let mut connection = Self { stream, parser: Parser::new(), unanswered, takes_multi: false };
        connection.log_in(server)?;
        Ok(connection)
    }

    fn log_in(&mut self, server: &Server) -> Result<(), Trouble> {
        let mut commands = Commands::default();
        match (&server.user, &server.password) {
            (Some(user), Some(password)) => commands.command(&[b"AUTH", user.as_bytes(), &password.0]),
            (None, Some(password)) => commands.command(&[b"AUTH", &password.0]),
            (_, None) => {}
        }
        if server.database != 0 {
            commands.command(&[b"SELECT", server.database.to_string().as_bytes()]);
        }
        if commands.count() > 0 {
            self.ask_all(&commands)?;
        }
        Ok(())
    }

    /// Sends the commands and returns their replies; the first error among them once all have come.
    pub(super) fn ask_all(&mut self, commands: &Commands) -> Result<Vec<Value>, Trouble> {
        self.ask_each(commands)?.into_iter().map(|reply| reply.map_err(Trouble::Server)).collect()
    }

    /// Sends the commands and returns the reply to each.
    pub(super) fn ask_each(&mut self, commands: &Commands) -> Result<Vec<Result<Value, ServerError>>, Trouble> {
        self.send(commands)?;
        let mut replies = Vec::with_capacity(commands.count());
        for _ in 0..commands.count() {
            match self.reply() {
                Ok(reply) => replies.push(Ok(reply)),
                Err(Trouble::Server(error)) => replies.push(Err(error)),
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(replies)
    }

    /// Sends all commands.
    pub(super) fn send(&mut self, commands: &Commands) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(&commands.bytes),
            Stream::Unix(stream) => stream.write_all(&commands.bytes),
            Stream::Tls(stream) => stream.write_all(&commands.bytes).and_then(|()| stream.flush()),
        }
    }

    /// Reads one reply.
    ///
    /// # Errors
    /// The reply is an error, is not RESP, is too large, or did not come in time.
    pub(super) fn reply(&mut self) -> Result<Value, Trouble> {
        let mut failure = None;
        let reply = match &mut self.stream {
            Stream::Tcp(stream) => self.parser.parse_value(Bounded::new(stream, &mut failure)),
            Stream::Unix(stream) => self.parser.parse_value(Bounded::new(stream, &mut failure)),
            Stream::Tls(stream) => self.parser.parse_value(Bounded::new(stream, &mut failure)),
        };
        let first = self.unanswered.take();
        let reply = reply.map_err(|error| match failure {
            Some(failure) if is_silence(&failure) => silence().into(),
            Some(failure) => Trouble::Io(failure),
            None => error.into(),
        });
        if let (Err(Trouble::Io(error)), Some(Place::Tcp(host, port))) = (&reply, first)
            && error.kind() != io::ErrorKind::TimedOut
            && mismatch::speaks_tls(&host, port)
        {
            return Err(TlsMismatch::Encrypted.into());
        }
        match reply? {
            Value::ServerError(error) => Err(Trouble::Server(error)),
            reply => Ok(reply),
        }
    }
}

/// Of one reply. Reads again where a signal came in between, so that the parser sees errors only where something is
/// wrong; keeps such an error as it is, which the parser does not.
struct Bounded<'a, R> {
    stream: R,
    bytes_left: usize,
    failure: &'a mut Option<io::Error>,
}

impl<'a, R: Read> Bounded<'a, R> {
    fn new(stream: R, failure: &'a mut Option<io::Error>) -> Self {
        Self { stream, bytes_left: limits::REDIS_ANSWER_BYTES_MAX, failure }
    }
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.bytes_left == 0 {
            return Err(io::Error::other("an answer that does not end: is this a Redis server?"));
        }
        loop {
            match self.stream.read(buf) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let kind = error.kind();
                    *self.failure = Some(error);
                    return Err(kind.into());
                }
                Ok(bytes) => {
                    self.bytes_left = self.bytes_left.saturating_sub(bytes);
                    return Ok(bytes);
                }
            }
        }
    }
}

/// Does the whole handshake. A server of Redis without TLS waits for the end of a line, and sends nothing: after a
/// short silence it is asked whether it is one.
fn handshake(
    stream: &mut StreamOwned<ClientConnection, TcpStream>,
    timeout: Duration,
    is_plain: impl FnOnce() -> bool,
) -> Result<(), Trouble> {
    let deadline = Instant::now() + timeout;
    let mut is_plain = Some(is_plain);
    stream.sock.set_read_timeout(Some(limits::STORE_TLS_SILENCE.min(timeout)))?;
    while stream.conn.is_handshaking() {
        match stream.conn.complete_io(&mut stream.sock) {
            Ok(_) => {}
            Err(error) if is_silence(&error) => {
                if is_plain.take().is_some_and(|is_plain| is_plain()) {
                    return Err(TlsMismatch::Plain.into());
                }
                if Instant::now() >= deadline {
                    return Err(silence().into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    stream.sock.set_read_timeout(Some(timeout))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_end_is_given_up() {
        let endless = (&b"$9000000000000000000\r\n"[..]).chain(io::repeat(b'x'));
        let mut parser = Parser::new();
        let answer = parser.parse_value(Bounded { stream: endless, bytes_left: 100_000, failure: &mut None });
        assert!(answer.unwrap_err().to_string().contains("an answer that does not end"));
    }

    #[test]
    fn what_redis_quotes_of_a_command_is_not_shown() {
        let mut parser = Parser::new();
        let reply = b"-ERR unknown command 'AUTH', with args beginning with: 'user' 'secret' \r\n";
        let Ok(Value::ServerError(error)) = parser.parse_value(&reply[..]) else { panic!("an error") };
        assert_eq!(Trouble::Server(error).to_string(), "ERR unknown command 'AUTH'");
    }
}
