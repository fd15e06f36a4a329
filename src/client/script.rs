//! A server on loopback for tests: it follows a script, one connection after the other.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use prost::Message;

use crate::event::proto::{Event, EventBatch};
use crate::wire::{AckLevel, Decoded, FrameKind, Header, Hello, PayloadCaps, Welcome, answer, decode};

/// A WELCOME with fixed limits and ack level *received*.
pub(crate) fn welcome(last_seq: u64, resumed: bool) -> Welcome {
    Welcome {
        version: 1,
        ack: AckLevel::Received,
        codecs: 1,
        max_frame: 1 << 20,
        max_raw: 1 << 20,
        window_bytes: 4 << 20,
        window_frames: 64,
        keepalive_seconds: 30,
        resumed,
        epoch: 5,
        last_seq,
        server_id: [3; 16],
    }
}

/// The server's end of one connection.
pub(crate) struct Peer {
    /// The accepted connection.
    pub stream: TcpStream,
    inbox: Vec<u8>,
}

impl Peer {
    /// The next frame; `None` once the agent has closed its side.
    pub(crate) fn frame(&mut self) -> Option<(Header, Vec<u8>)> {
        loop {
            if let Decoded::Frame { header, payload } = decode(&self.inbox, PayloadCaps { data: 1 << 20 }).unwrap() {
                let frame = (header, payload.to_vec());
                self.inbox.drain(..32 + frame.1.len());
                return Some(frame);
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.inbox.extend_from_slice(&buffer[..count]),
            }
        }
    }

    /// The sequence number and the events of the next DATA, skipping other frames; `None` once the agent has closed its
    /// side.
    pub(crate) fn data(&mut self) -> Option<(u64, Vec<Event>)> {
        loop {
            let (header, payload) = self.frame()?;
            if header.kind == FrameKind::Data {
                return Some((header.seq, EventBatch::decode(&payload[..]).unwrap().events));
            }
        }
    }

    /// Reads HELLO and returns its `oldest_seq`.
    pub(crate) fn hello(&mut self) -> u64 {
        let (header, payload) = self.frame().expect("HELLO");
        assert_eq!(header.kind, FrameKind::Hello);
        let hello = Hello::decode(&payload).unwrap();
        hello.oldest_seq
    }

    /// Sends what `write` appends. Errors are ignored.
    pub(crate) fn say(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut bytes);
        // The agent may have gone.
        let _ = self.stream.write_all(&bytes);
    }

    /// Reads HELLO and sends WELCOME, which acknowledges everything below `oldest_seq`.
    pub(crate) fn greet(&mut self) {
        let last_seq = self.hello() - 1;
        self.say(|out| welcome(last_seq, last_seq > 0).encode(out));
    }

    /// Sends an ACK of every frame up to `seq`, with a window of 4 MiB.
    pub(crate) fn ack(&mut self, seq: u64) {
        self.say(|out| answer::ack(seq, 4 << 20, out));
    }
}

/// A server whose n-th connection (from 0) is handed to `script`; the address is returned.
pub(crate) fn serve(mut script: impl FnMut(usize, Peer) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            script(number, Peer { stream: stream.unwrap(), inbox: Vec::new() });
        }
    });
    address
}
