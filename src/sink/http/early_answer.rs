//! Lets a service answer before it has read the whole request, and close.
//!
//! A service that refuses a body for its size may do so while it is still being sent. Writing the rest then fails, and
//! that failure would be all that is known; but the answer that explains it has already arrived:
//!
//! ```text
//!  head, body … ──▶ ✗ connection reset       the rest cannot be written
//!       ◀── HTTP/1.1 413 … ── closed         and the answer is read; without one, the first error is reported
//! ```
//!
//! Stands between the socket and TLS, which would give up on the connection. Such an answer may say why nothing is
//! stored, but not that something is.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// Wraps the connections of the connector before it.
#[derive(Debug, Clone, Default)]
pub(super) struct EarlyAnswers {
    cut_short: Arc<AtomicBool>,
}

impl EarlyAnswers {
    /// Whether a request since the last call was not sent whole.
    pub(super) fn take_cut_short(&self) -> bool {
        self.cut_short.swap(false, Ordering::Relaxed)
    }
}

impl<In: Transport> Connector<In> for EarlyAnswers {
    type Out = EarlyAnswer<In>;

    fn connect(&self, _: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| EarlyAnswer { inner, broken: None, cut_short: self.cut_short.clone() }))
    }
}

/// A transport that reads the peer's answer after a write has failed.
#[derive(Debug)]
pub(super) struct EarlyAnswer<T> {
    inner: T,
    /// Why the peer accepts no more bytes; `None`: it does.
    broken: Option<io::Error>,
    cut_short: Arc<AtomicBool>,
}

impl<T: Transport> Transport for EarlyAnswer<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if self.broken.is_some() {
            return Ok(());
        }
        match self.inner.transmit_output(amount, timeout) {
            Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                self.broken = Some(error);
                self.cut_short.store(true, Ordering::Relaxed);
                Ok(())
            }
            sent => sent,
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        match (self.inner.await_input(timeout), &self.broken) {
            (Ok(false) | Err(_), Some(broken)) => {
                let words = format!("{broken}, while the request was sent: if this goes on, lower batch.max_bytes");
                Err(io::Error::new(broken.kind(), words).into())
            }
            (input, _) => input,
        }
    }

    fn is_open(&mut self) -> bool {
        self.broken.is_none() && self.inner.is_open()
    }
}
