//! An agent by hand: says exactly what a test wants it to say, hears everything.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use prost::Message as _;
use telemetryx::event::proto::{Attribute, Event, EventBatch, attribute};
use telemetryx::wire::{Decoded, FrameKind, Goaway, GoawayCode, Header, Hello, PayloadCaps, Welcome, decode};

/// Longest wait for an answer: a debug build on a busy machine needs a while.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const CAPS: PayloadCaps = PayloadCaps { data: 1 << 20 };

/// A frame that the server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub header: Header,
    pub payload: Vec<u8>,
}

impl Answer {
    /// GOAWAY's code.
    pub(crate) fn goaway(&self) -> Option<GoawayCode> {
        (self.header.kind == FrameKind::Goaway).then(|| Goaway::decode(&self.payload)?.code.ok()).flatten()
    }
}

pub(crate) struct RawAgent {
    pub stream: TcpStream,
    unread: Vec<u8>,
}

pub(crate) fn hello(agent_id: [u8; 16], epoch: u64) -> Hello<'static> {
    Hello {
        min_version: 1,
        max_version: 1,
        codecs: 1,
        ack: Ok(None),
        agent_id,
        epoch,
        oldest_seq: 1,
        token: b"",
        name: "",
    }
}

impl RawAgent {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("the server listens")
    }

    pub(crate) fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { stream, unread: Vec::new() })
    }

    /// Connects, says HELLO, and hears WELCOME.
    pub(crate) fn greeted(address: SocketAddr, hello: Hello<'_>) -> (Self, Welcome) {
        let mut agent = Self::connect(address);
        agent.send(&hello_bytes(hello));
        let welcome = agent.answer(FrameKind::Welcome);
        (agent, Welcome::decode(&welcome.payload).unwrap())
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// The next frame. `None`: the server has closed its half.
    pub(crate) fn next(&mut self) -> io::Result<Option<Answer>> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Ok(Decoded::Frame { header, payload }) = decode(&self.unread, CAPS) {
                let answer = Answer { header, payload: payload.to_vec() };
                self.unread.drain(..32 + answer.payload.len());
                return Ok(Some(answer));
            }
            match self.stream.read(&mut chunk)? {
                0 => return Ok(None),
                bytes => self.unread.extend_from_slice(&chunk[..bytes]),
            }
        }
    }

    /// Whether [`RawAgent::next`] would not wait long: something has come, or the connection has ended.
    pub(crate) fn has_unread(&self) -> io::Result<bool> {
        if matches!(decode(&self.unread, CAPS), Ok(Decoded::Frame { .. })) {
            return Ok(true);
        }
        self.stream.set_nonblocking(true)?;
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false)?;
        Ok(!matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock))
    }

    /// The next frame, which must be of this kind.
    pub(crate) fn answer(&mut self, kind: FrameKind) -> Answer {
        let answer = self.next().expect("the server answers in time").expect("the server has not closed");
        assert_eq!(answer.header.kind, kind, "{answer:?}");
        answer
    }

    /// Reads ACKs until one covers `seq`.
    pub(crate) fn acknowledged(&mut self, seq: u64) {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while self.answer(FrameKind::Ack).header.seq < seq {
            assert!(Instant::now() < deadline, "no ACK of {seq} in time");
        }
    }

    /// Half-closes and reads to the end; what is heard on the way.
    pub(crate) fn finish(mut self) -> Vec<Answer> {
        self.stream.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        while let Some(answer) = self.next().expect("the server closes in order") {
            heard.push(answer);
        }
        heard
    }
}

pub(crate) fn hello_bytes(hello: Hello<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    hello.encode(&mut bytes);
    bytes
}

/// A DATA frame of `payload`.
pub(crate) fn data(seq: u64, payload: &[u8]) -> Vec<u8> {
    [&Header::data(seq, payload).encode()[..], payload].concat()
}

pub(crate) fn batch(events: Vec<Event>) -> Vec<u8> {
    EventBatch { events }.encode_to_vec()
}

pub(crate) fn named(name: &str) -> Event {
    Event { name: name.to_owned(), ..Event::default() }
}

/// A log line of about 220 bytes with four attributes; `value` numbers it.
pub(crate) fn log_line(value: u64) -> Event {
    let attribute = |key: &str, value| Attribute { key: key.to_owned(), value: Some(value) };
    Event {
        time_unix_nano: 1_700_000_000_000_000_000 + value,
        severity: 9,
        name: "request".to_owned(),
        body: "GET /api/v1/accounts/4711/statements?page=3&size=50 finished with 200 in 12.7 ms, 5120 bytes".to_owned(),
        attributes: vec![
            attribute("http.route", attribute::Value::StringValue("/api/v1/accounts/{id}/statements".to_owned())),
            attribute("host", attribute::Value::StringValue("edge-7".to_owned())),
            attribute("status", attribute::Value::IntValue(200)),
            attribute("seconds", attribute::Value::DoubleValue(0.0127)),
        ],
        value: Some(value as f64),
        ..Event::default()
    }
}
