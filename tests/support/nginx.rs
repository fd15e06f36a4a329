//! nginx as a reverse proxy in front of a server: a process of the test, with its own settings on a free port.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::server::wait_until;
use super::stores::free_address;

/// A running nginx. Dropping it ends it.
pub(crate) struct Nginx {
    process: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Nginx {
    /// Starts nginx in front of `upstream`; `request_buffering` is nginx's own setting of that name.
    pub(crate) fn start(upstream: SocketAddr, request_buffering: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        let address = free_address();
        let buffering = if request_buffering { "on" } else { "off" };
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {path}/{name};\n"))
            .collect();
        // As root, nginx would start its workers as another user, who cannot enter the directory.
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let settings = format!(
            "{user} daemon off; worker_processes 1; pid {path}/pid; error_log {path}/error.log warn;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; {paths} client_max_body_size 0;\n\
               server {{ listen {address}; location / {{\n\
                 proxy_pass http://{upstream}; proxy_http_version 1.1; proxy_request_buffering {buffering};\n\
               }} }} }}\n"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, settings).unwrap();
        let process = Command::new(program())
            .arg("-c")
            .arg(&file)
            .arg("-e")
            .arg(directory.path().join("start.log"))
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx is installed: run tools/test");
        let mut nginx = Self { process, address, directory };
        let listens = wait_until(Duration::from_secs(30), || std::net::TcpStream::connect(address).is_ok());
        assert!(listens && nginx.process.try_wait().unwrap().is_none(), "nginx does not start:\n{}", nginx.log());
        nginx
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What nginx reported.
    pub(crate) fn log(&self) -> String {
        let read = |name| std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        read("start.log") + &read("error.log")
    }
}

/// `/usr/sbin` is not in everybody's PATH.
fn program() -> PathBuf {
    let debian = PathBuf::from("/usr/sbin/nginx");
    if debian.exists() { debian } else { "nginx".into() }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // An orderly end, so that the master ends its worker too.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}
