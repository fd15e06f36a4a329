//! `process_*`: what the system knows of this process, under the names that Prometheus' client libraries use. Read when
//! the page is asked for.
//!
//! The numbers are there when descriptors have run out: `/proc/self/stat` is opened at the start, and from Linux 6.2 on the
//! number of open descriptors needs no other file. On an older system that number keeps its last value meanwhile.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::{Counter, Gauge, IntGauge, proto};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Bytes of `/proc/self/stat`: one line of numbers and a name of 16 characters.
const STAT_BYTES: usize = 1024;

/// All `process_*` metrics.
pub(super) struct Process {
    /// `/proc/self/stat`, open. `None`: there is no /proc, and all of it stays 0.
    stat: Option<File>,
    cpu_seconds: Counter,
    /// Two pages at a time must not count the same seconds twice.
    counting: Mutex<()>,
    resident_bytes: IntGauge,
    virtual_bytes: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    start_seconds: Gauge,
}

/// The fields of `/proc/self/stat` that are shown.
#[derive(Debug, Default, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    /// Since the system's start.
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Process {
    /// Opens what is read later.
    ///
    /// # Errors
    /// Never with these names.
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let gauge = IntGauge::new;
        let process = Self {
            stat: File::open("/proc/self/stat").ok(),
            cpu_seconds: Counter::new("process_cpu_seconds_total", "User and system CPU time, in seconds.")?,
            counting: Mutex::new(()),
            resident_bytes: gauge("process_resident_memory_bytes", "Memory in RAM, in bytes.")?,
            virtual_bytes: gauge("process_virtual_memory_bytes", "Address space in use, in bytes.")?,
            open_fds: gauge("process_open_fds", "Open file descriptors.")?,
            max_fds: gauge("process_max_fds", "Most file descriptors that may be open.")?,
            start_seconds: Gauge::new("process_start_time_seconds", "Start of the process, in seconds since 1970.")?,
        };
        let start_ticks = process.stat().unwrap_or_default().start_ticks;
        process.start_seconds.set(boot_unix_seconds() + seconds(start_ticks));
        Ok(process)
    }

    fn stat(&self) -> Option<Stat> {
        let mut bytes = [0; STAT_BYTES];
        let read = self.stat.as_ref()?.read_at(&mut bytes, 0).ok()?;
        parse(std::str::from_utf8(bytes.get(..read)?).ok()?)
    }

    fn update(&self) {
        let _counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stat) = self.stat() {
            self.cpu_seconds.inc_by((seconds(stat.cpu_ticks) - self.cpu_seconds.get()).max(0.0));
            self.virtual_bytes.set(stat.virtual_bytes.cast_signed());
            let page_bytes = rustix::param::page_size() as u64;
            self.resident_bytes.set((stat.resident_pages * page_bytes).cast_signed());
        }
        if let Some(open) = open_fds() {
            self.open_fds.set(open.cast_signed());
        }
        // None: there is no limit.
        let max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        self.max_fds.set(i64::try_from(max).unwrap_or(i64::MAX));
    }

    fn all(&self) -> [&dyn Collector; 6] {
        [
            &self.cpu_seconds,
            &self.resident_bytes,
            &self.virtual_bytes,
            &self.open_fds,
            &self.max_fds,
            &self.start_seconds,
        ]
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        self.update();
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Descriptors in use.
fn open_fds() -> Option<u64> {
    const FDS: &str = "/proc/self/fd";
    // Linux 6.2 and later: the size is the number, and nothing is opened for it.
    match fs::metadata(FDS).ok()?.size() {
        0 => Some(fs::read_dir(FDS).ok()?.count().saturating_sub(1) as u64),
        open => Some(open),
    }
}

/// When the system started, in seconds since 1970. Not from /proc/stat, which a service may be unable to read.
fn boot_unix_seconds() -> f64 {
    let since_boot = clock_gettime(ClockId::Boottime);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs_f64() - (since_boot.tv_sec as f64 + since_boot.tv_nsec as f64 / 1e9)
}

/// See proc(5). The second field is the program's name in parentheses, and may hold anything.
fn parse(stat: &str) -> Option<Stat> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The first of these is field 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: field(14)? + field(15)?,
        start_ticks: field(22)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        for name in ["telemetryx", "a b", ") 1 2", ""] {
            let stat = format!("7 ({name}) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 4 0 9876 123456 321 1844 1");
            let expected = Stat { cpu_ticks: 300, start_ticks: 9876, virtual_bytes: 123_456, resident_pages: 321 };
            assert_eq!(parse(&stat), Some(expected), "{stat}");
        }
        for stat in ["", "7 (a) S 1", "7 (a) S x x x x x x x x x x x x x x x x x x x x x x"] {
            assert_eq!(parse(stat), None, "{stat}");
        }
    }

    #[test]
    fn this_process_has_them_all() {
        let process = Process::new().unwrap();
        let held: Vec<_> = (0..50).map(|_| File::open("/dev/null").unwrap()).collect();
        process.update();
        assert!(process.resident_bytes.get() > 1 << 20);
        assert!(process.virtual_bytes.get() >= process.resident_bytes.get());
        assert!(process.open_fds.get() > held.len() as i64);
        assert!(process.max_fds.get() >= process.open_fds.get());
        assert!(process.start_seconds.get() > 1.7e9);
        let stat = fs::read_to_string("/proc/stat").unwrap();
        let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok()).unwrap();
        assert!((boot_unix_seconds() - boot).abs() < 2.0, "{} {boot}", boot_unix_seconds());
    }
}
