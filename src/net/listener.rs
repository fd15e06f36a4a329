//! The listening socket: bind, bounded accepts, pause when descriptors run out.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::{ACCEPT_PAUSE, ACCEPTS_PER_TURN};

/// Connections that the kernel completes before they are accepted; it caps this at its own `somaxconn`.
const BACKLOG: i32 = 4096;

/// An address on which no other socket listens. Until [`Bound::listen`], connections are refused.
pub struct Bound(Socket);

/// Takes the address.
///
/// # Errors
/// See [`bind_problem`].
pub fn bind(address: SocketAddr) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    // A restarted server must not wait for the connections of its former life to time out.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(Bound(socket))
}

impl Bound {
    /// From here on the kernel completes connections.
    ///
    /// # Errors
    /// See [`bind_problem`]: another process may have begun to listen since.
    pub fn listen(self) -> io::Result<std::net::TcpListener> {
        self.0.listen(BACKLOG)?;
        Ok(self.0.into())
    }
}

/// Why [`bind`] failed, and what a person does about it.
pub fn bind_problem(error: &io::Error) -> String {
    let kind = error.kind();
    let (what, hint) = match kind {
        ErrorKind::AddrInUse => ("address already in use", "another process listens there; see \"ss -ltnp\""),
        ErrorKind::AddrNotAvailable => {
            ("this machine does not have the address", "see \"ip address\"; 0.0.0.0 and [::] stand for all of them")
        }
        ErrorKind::PermissionDenied => {
            // The capability is without effect in a user namespace, as the unit's PrivateUsers=yes creates one.
            (
                "permission denied",
                "a port below 1024 needs CAP_NET_BIND_SERVICE, in a systemd unit also PrivateUsers=no; or set \
                 server.address to a higher one",
            )
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {
            ("address family not supported", "IPv6 is turned off here; set server.address to an IPv4 address")
        }
        _ => return format!("{error} (see server.address)"),
    };
    format!("{what} ({hint})")
}

/// What one turn of accepting came to.
pub(super) enum Accepted {
    /// A new connection and its peer's address.
    Connection(TcpStream, SocketAddr),
    /// No more for now.
    Nothing,
    /// Descriptors or kernel memory ran out; accepting continues after the pause.
    Paused(io::Error),
}

/// The listening socket and its state.
pub(super) struct Listener {
    listener: TcpListener,
    /// Connections may wait in the backlog.
    ready: bool,
    paused_until: Option<Instant>,
    accepts_left: usize,
}

impl Listener {
    /// A listener that has connections to accept.
    pub(super) fn new(listener: std::net::TcpListener) -> Self {
        Self { listener: TcpListener::from_std(listener), ready: true, paused_until: None, accepts_left: 0 }
    }

    /// The socket, to be added to or removed from a poll.
    pub(super) fn source(&mut self) -> &mut TcpListener {
        &mut self.listener
    }

    /// Notes that the poll reported the socket as ready.
    pub(super) fn set_ready(&mut self) {
        self.ready = true;
    }

    /// A new turn begins.
    pub(super) fn begin_turn(&mut self, now: Instant) {
        self.accepts_left = ACCEPTS_PER_TURN;
        if self.paused_until.is_some_and(|until| now >= until) {
            (self.paused_until, self.ready) = (None, true);
        }
    }

    /// Whether the next turn has connections to accept without an event of the poll.
    pub(super) fn is_ready(&self) -> bool {
        self.ready && self.paused_until.is_none()
    }

    /// When accepting continues after a pause; `None`: it is not paused.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Accepts one connection, unless this turn's number is reached. Skips connections that the peer gave up.
    pub(super) fn accept(&mut self, now: Instant) -> Accepted {
        while self.is_ready() && self.accepts_left > 0 {
            self.accepts_left -= 1;
            match self.listener.accept() {
                Ok((stream, peer)) => return Accepted::Connection(stream, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready = false,
                Err(error) if out_of_resources(&error) => {
                    self.paused_until = Some(now + ACCEPT_PAUSE);
                    return Accepted::Paused(error);
                }
                // The peer gave up between SYN and accept, or a signal came: the next one may be fine.
                Err(_) => {}
            }
        }
        Accepted::Nothing
    }
}

fn out_of_resources(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
