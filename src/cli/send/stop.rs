//! Ctrl-C and SIGTERM: reading ends, what was sent is waited for a little, and the command says how far it came.
//!
//! ```text
//!  signal ─▶ pipe ─┬─▶ Stop::wait_for: the reader wakes up, the command ends in its usual way
//!                  └─▶ watcher thread: not ended within SEND_INTERRUPT_TIMEOUT, or a second signal ─▶ `give_up`
//! ```

use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::limits::SEND_INTERRUPT_TIMEOUT;

/// Whether the command is to stop. A clone is another handle.
#[derive(Clone, Default)]
pub(super) struct Stop {
    /// Number of the last signal; 0: none came.
    signal: Arc<AtomicUsize>,
    /// Readable once a signal came; `None`: signals are not watched.
    signalled: Option<Arc<UnixStream>>,
}

impl Stop {
    /// Watches for signals from now on. Once one came and the command has not ended in time, `give_up` is called with
    /// the signal's number, in a thread of its own; it ends the process.
    ///
    /// # Errors
    /// The system gives no pipe, signal slot or thread.
    pub(super) fn on_signals(give_up: impl FnOnce(u8) + Send + 'static) -> io::Result<Self> {
        let (signalled, wake_reader) = UnixStream::pair()?;
        let (mut watched, wake_watcher) = UnixStream::pair()?;
        let stop = Self { signal: Arc::default(), signalled: Some(Arc::new(signalled)) };
        for signal in [SIGINT, SIGTERM] {
            // In this order: whoever is woken finds the number.
            signal_hook::flag::register_usize(signal, stop.signal.clone(), signal as usize)?;
            signal_hook::low_level::pipe::register(signal, wake_reader.try_clone()?)?;
            signal_hook::low_level::pipe::register(signal, wake_watcher.try_clone()?)?;
        }
        thread::Builder::new().name("signals".to_owned()).spawn({
            let stop = stop.clone();
            move || {
                let mut byte = [0];
                if watched.read_exact(&mut byte).is_ok() {
                    let _ = watched.set_read_timeout(Some(SEND_INTERRUPT_TIMEOUT));
                    // A second signal, or the end of the time.
                    let _ = watched.read(&mut byte);
                    give_up(stop.signal().unwrap_or_default());
                }
            }
        })?;
        Ok(stop)
    }

    /// The signal that asked the command to stop.
    pub(super) fn signal(&self) -> Option<u8> {
        u8::try_from(self.signal.load(Ordering::Relaxed)).ok().filter(|signal| *signal > 0)
    }

    /// Waits until there is something to read, or the input's end.
    ///
    /// # Errors
    /// The command is to stop: [`Stop::signal`] says so too.
    pub(super) fn wait_for(&self, input: BorrowedFd<'_>) -> io::Result<()> {
        let Some(signalled) = &self.signalled else { return Ok(()) };
        loop {
            if self.signal().is_some() {
                return Err(io::Error::other("interrupted"));
            }
            let mut waited = [PollFd::from_borrowed_fd(input, PollFlags::IN), PollFd::new(signalled, PollFlags::IN)];
            match poll(&mut waited, None) {
                Ok(_) if !waited[0].revents().is_empty() => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
