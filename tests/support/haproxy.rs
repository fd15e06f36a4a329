//! HAProxy with `tools/haproxy.cfg` in front of two servers: a process of the test on a free port.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::server::wait_until;
use super::stores::free_address;

/// A running HAProxy. Dropping it ends it.
pub(crate) struct Haproxy {
    process: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Haproxy {
    pub(crate) fn start(servers: [SocketAddr; 2]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = free_address();
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/haproxy.cfg")).unwrap();
        let mut settings = text.clone();
        for (shown, own) in [("0.0.0.0:4640", address), ("192.0.2.1:4640", servers[0]), ("192.0.2.2:4640", servers[1])]
        {
            assert_eq!(text.matches(shown).count(), 1, "{shown}");
            settings = settings.replace(shown, &own.to_string());
        }
        let file = directory.path().join("haproxy.cfg");
        std::fs::write(&file, settings).unwrap();
        let process = Command::new(program())
            .args(["-db", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("HAProxy is installed: run tools/test");
        let mut haproxy = Self { process, address, _directory: directory };
        let listens = wait_until(Duration::from_secs(30), || TcpStream::connect(address).is_ok());
        assert!(listens && haproxy.process.try_wait().unwrap().is_none(), "HAProxy does not start");
        haproxy
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// `/usr/sbin` is not in everybody's PATH.
fn program() -> PathBuf {
    let debian = PathBuf::from("/usr/sbin/haproxy");
    if debian.exists() { debian } else { "haproxy".into() }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.process.kill(); // fails only if it has ended
        let _ = self.process.wait();
    }
}
