//! The server's process, if it runs on this host: found by its port, read from `/proc`. Linux only; elsewhere, or where
//! the process is another user's, there is none.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

/// State of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub pid: u32,
}

impl Process {
    /// Who listens on the port of `address`, which must be this host's.
    pub(super) fn listening_on(address: SocketAddr) -> Option<Self> {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
        let sockets: Vec<_> = tables
            .iter()
            .flat_map(|table| table.lines().skip(1))
            .filter_map(|line| listening_inode(line, address.port()))
            .map(|inode| format!("socket:[{inode}]"))
            .collect();
        let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.map(|pid| Self { pid }).find(|process| process.holds(&sockets))
    }

    fn holds(&self, sockets: &[String]) -> bool {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else { return false };
        descriptors
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .any(|target| target.to_str().is_some_and(|target| sockets.iter().any(|socket| socket == target)))
    }

    /// This process.
    pub(super) fn this() -> Self {
        Self { pid: std::process::id() }
    }

    /// CPU time so far, user and system, of all its threads. In steps of 10 ms.
    pub(super) fn cpu_time(&self) -> Option<Duration> {
        cpu_ticks(&fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?)
            .map(|ticks| Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// Memory that is resident now.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        resident_bytes(&fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?)
    }
}

/// The inode of a listening socket on `port`, from a line of `/proc/net/tcp`.
fn listening_inode(line: &str, port: u16) -> Option<&str> {
    let mut fields = line.split_ascii_whitespace();
    let (_, local_port) = fields.nth(1)?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    (state == LISTEN && u16::from_str_radix(local_port, 16) == Ok(port)).then_some(inode)
}

/// `utime` + `stime` (fields 14 and 15) of `/proc/PID/stat`; the name in parentheses before them may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_read() {
        let line =
            "   0: 0100007F:1220 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100";
        assert_eq!(listening_inode(line, 4640), Some("4711"));
        assert_eq!(listening_inode(line, 4641), None);
        assert_eq!(listening_inode(&line.replace(" 0A ", " 01 "), 4640), None);
        assert_eq!(listening_inode("", 4640), None);

        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 2300 0 5 0 123 45 0 0 20 0 4 0 99 1 1";
        assert_eq!(cpu_ticks(stat), Some(168));
        assert_eq!(cpu_ticks("42 (short) S 1"), None);

        assert_eq!(resident_bytes("VmHWM:\t  9 kB\nVmRSS:\t     8124 kB\n"), Some(8124 * 1024));
        assert_eq!(resident_bytes("Name: x\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn who_listens_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let found = Process::listening_on(address).unwrap();
        assert_eq!(found, Process::this());
        assert!(found.cpu_time().is_some() && found.resident_bytes().unwrap() > 100_000);
        drop(listener);
        assert_eq!(Process::listening_on(address), None);
    }
}
