//! Adds TLS to what clients without it send: a connection to the front is one with TLS to the server.
//!
//! ```text
//!  client ── plain ──▶ front ── TLS ──▶ (proxy that cuts) ──▶ server
//! ```
//!
//! Half-closing is passed on in both directions; a connection that breaks on one side is dropped on the other.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::{ClientConfig, ClientConnection};

/// Bytes that wait for a client before the server is not read any more.
const WAITING_MAX: usize = 256 * 1024;

/// A listening front. It ends with the process.
pub(crate) struct TlsFront {
    address: SocketAddr,
}

impl TlsFront {
    pub(crate) fn start(target: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let config = config.clone();
                thread::spawn(move || drop(serve(client, target, config)));
            }
        });
        Ok(Self { address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

struct Front {
    client: TcpStream,
    server: TcpStream,
    tls: ClientConnection,
    for_client: Vec<u8>,
    client_has_ended: bool,
    server_has_ended: bool,
}

fn serve(client: TcpStream, target: SocketAddr, config: Arc<ClientConfig>) -> io::Result<()> {
    let server = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
    }
    let tls = ClientConnection::new(config, "localhost".try_into().unwrap()).map_err(io::Error::other)?;
    let mut front =
        Front { client, server, tls, for_client: Vec::new(), client_has_ended: false, server_has_ended: false };
    while !front.is_over() {
        front.step()?;
    }
    Ok(())
}

/// What a call on a socket that does not block has come to; `None`: nothing for now.
fn now(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        other => other.map(Some),
    }
}

impl Front {
    fn is_over(&self) -> bool {
        self.client_has_ended && self.server_has_ended && self.for_client.is_empty() && !self.tls.wants_write()
    }

    fn step(&mut self) -> io::Result<()> {
        let reads_client = !self.client_has_ended && !self.tls.wants_write() && !self.tls.is_handshaking();
        let reads_server = !self.server_has_ended && self.for_client.len() < WAITING_MAX;
        let interest = |reads, writes| {
            let flags = if reads { PollFlags::IN } else { PollFlags::empty() };
            if writes { flags | PollFlags::OUT } else { flags }
        };
        let mut sockets = [
            PollFd::new(&self.client, interest(reads_client, !self.for_client.is_empty())),
            PollFd::new(&self.server, interest(reads_server, self.tls.wants_write())),
        ];
        poll(&mut sockets, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }))?;
        let broken = sockets.iter().any(|socket| socket.revents().contains(PollFlags::ERR));
        if broken {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if reads_client {
            self.read_client()?;
        }
        while self.tls.wants_write() && now(self.tls.write_tls(&mut self.server))?.is_some() {}
        if self.client_has_ended && !self.tls.wants_write() {
            let _ = self.server.shutdown(Shutdown::Write);
        }
        if reads_server {
            self.read_server()?;
        }
        while let Some(written @ 1..) = now(self.client.write(&self.for_client))? {
            self.for_client.drain(..written);
        }
        if self.server_has_ended && self.for_client.is_empty() {
            let _ = self.client.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    fn read_client(&mut self) -> io::Result<()> {
        let mut room = [0; 16 * 1024];
        match now(self.client.read(&mut room))? {
            None => {}
            Some(0) => {
                self.client_has_ended = true;
                self.tls.send_close_notify();
            }
            Some(bytes) => self.tls.writer().write_all(&room[..bytes])?,
        }
        Ok(())
    }

    fn read_server(&mut self) -> io::Result<()> {
        match now(self.tls.read_tls(&mut self.server))? {
            None => return Ok(()),
            // Without close_notify: it was cut.
            Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Some(_) => {}
        }
        let state = self.tls.process_new_packets().map_err(io::Error::other)?;
        let start = self.for_client.len();
        self.for_client.resize(start + state.plaintext_bytes_to_read(), 0);
        self.tls.reader().read_exact(&mut self.for_client[start..])?;
        self.server_has_ended |= state.peer_has_closed();
        Ok(())
    }
}
