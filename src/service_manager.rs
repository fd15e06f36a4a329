//! The service manager (systemd) that started this process: where it receives messages, and how long it waits for one.
//!
//! `NOTIFY_SOCKET` names a Unix datagram socket. A message is one datagram with lines of the form `KEY=VALUE`, see sd_notify(3).
//! `WATCHDOG_USEC` is the time after which a service that has sent no [`WATCHDOG`] is ended.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::escape::Quoted;
use crate::limits::NOTIFY_TIMEOUT;

/// The service has started.
pub const READY: &str = "READY=1";
/// The service reads its settings again. `MONOTONIC_USEC` has to follow, and [`READY`] when it is done.
pub const RELOADING: &str = "RELOADING=1";
/// The service begins to shut down.
pub const STOPPING: &str = "STOPPING=1";
/// The service makes progress.
pub const WATCHDOG: &str = "WATCHDOG=1";

/// Why the service manager cannot be notified.
#[derive(Debug, thiserror::Error)]
pub enum ServiceManagerError {
    /// Neither a path nor an abstract name, or one that is too long.
    #[error("NOTIFY_SOCKET is {}: expected an absolute path, or @ and an abstract name", Quoted(.0))]
    Address(String),
    /// Not a number of microseconds.
    #[error("WATCHDOG_USEC is {}: expected microseconds", Quoted(.0))]
    Watchdog(String),
    /// The system refuses a socket.
    #[error("cannot create a socket for messages to the service manager: {0}")]
    Socket(#[from] io::Error),
}

/// Where messages go.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The service manager that the environment names; `None`: this process is not a service of type `notify`.
    ///
    /// # Errors
    /// A variable has an invalid value, or there is no socket.
    pub fn from_environment() -> Result<Option<Self>, ServiceManagerError> {
        Self::from_variables(|name| std::env::var_os(name), std::process::id())
    }

    fn from_variables(
        variable: impl Fn(&str) -> Option<OsString>,
        pid: u32,
    ) -> Result<Option<Self>, ServiceManagerError> {
        let Some(name) = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(None) };
        let address = address(&name).ok_or_else(|| ServiceManagerError::Address(lossy(&name)))?;
        let watchdog = watchdog(variable, pid)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(NOTIFY_TIMEOUT))?;
        Ok(Some(Self { socket, address, watchdog }))
    }

    /// Sends `message`, and waits for [`NOTIFY_TIMEOUT`] at most.
    ///
    /// # Errors
    /// There is no such socket, or its queue stays full.
    pub fn notify(&self, message: &str) -> io::Result<()> {
        self.socket.send_to_addr(message.as_bytes(), &self.address).map(drop)
    }

    /// The service is ended if it sends no [`WATCHDOG`] for this long; `None`: it is not watched.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }
}

fn lossy(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

fn address(name: &OsStr) -> Option<SocketAddr> {
    match name.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(name).ok(),
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        _ => None,
    }
}

/// `None`: no watchdog, or it is that of another process.
fn watchdog(variable: impl Fn(&str) -> Option<OsString>, pid: u32) -> Result<Option<Duration>, ServiceManagerError> {
    let Some(text) = variable("WATCHDOG_USEC") else { return Ok(None) };
    let micros = text.to_str().and_then(|text| text.parse().ok());
    let micros: u64 = micros.ok_or_else(|| ServiceManagerError::Watchdog(lossy(&text)))?;
    let is_ours = variable("WATCHDOG_PID").is_none_or(|watched| watched.to_str() == Some(&pid.to_string()));
    Ok((micros > 0 && is_ours).then(|| Duration::from_micros(micros)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: u32 = 7;

    fn with(variables: &[(&str, &str)]) -> Result<Option<ServiceManager>, ServiceManagerError> {
        let find = |name: &str| variables.iter().find(|(found, _)| *found == name);
        ServiceManager::from_variables(|name| find(name).map(|(_, value)| value.into()), PID)
    }

    #[test]
    fn a_process_without_a_notify_socket_is_not_a_service() {
        assert!(with(&[]).unwrap().is_none());
        assert!(with(&[("NOTIFY_SOCKET", ""), ("WATCHDOG_USEC", "1000000")]).unwrap().is_none());
    }

    #[test]
    fn messages_arrive_at_a_path_and_at_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("telemetryx-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, variable) in [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{name}")),
        ] {
            let manager = with(&[("NOTIFY_SOCKET", &variable)]).unwrap().unwrap();
            manager.notify("READY=1\nSTATUS=listening").unwrap();
            let mut received = [0; 64];
            let length = socket.recv(&mut received).unwrap();
            assert_eq!(&received[..length], b"READY=1\nSTATUS=listening");
            drop(socket);
            let _ = std::fs::remove_file(&path);
            assert!(manager.notify(READY).is_err(), "{variable}");
        }
    }

    #[test]
    fn the_watchdog_is_that_of_this_process_only() {
        let watchdog = |variables: &[(&str, &str)]| {
            with(&[&[("NOTIFY_SOCKET", "/n")], variables].concat()).map(|manager| manager.unwrap().watchdog())
        };
        let half = Some(Duration::from_millis(500));
        assert_eq!(watchdog(&[]).unwrap(), None);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "500000")]).unwrap(), half);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "500000"), ("WATCHDOG_PID", "7")]).unwrap(), half);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "500000"), ("WATCHDOG_PID", "8")]).unwrap(), None);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "0")]).unwrap(), None);
        let error = watchdog(&[("WATCHDOG_USEC", "30s")]).unwrap_err();
        assert_eq!(error.to_string(), "WATCHDOG_USEC is \"30s\": expected microseconds");
    }

    #[test]
    fn an_address_of_another_kind_is_an_error() {
        let long = format!("/{}", "x".repeat(200));
        for name in ["vsock:2:1234", "notify", &long] {
            let error = with(&[("NOTIFY_SOCKET", name)]).unwrap_err();
            assert!(error.to_string().starts_with(&format!("NOTIFY_SOCKET is \"{name}\": expected")), "{error}");
        }
    }
}
