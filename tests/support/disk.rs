//! Disks to break: a small tmpfs that gets full, and an ext4 whose power can be cut.
//!
//! ```text
//!  ext4 in a file on a loop device ── cut_power ──▶ every call fails, what was not synced is gone ── remount ──▶ ext4
//! ```
//!
//! Mounting needs root. Where it cannot be done, the reason is returned, for a test to print and skip.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A file system of its own. Dropping it unmounts it.
pub(crate) struct Disk {
    directory: TempDir,
}

/// `EXT4_IOC_SHUTDOWN` without flushing the journal (`EXT4_GOING_FLAGS_NOLOGFLUSH`).
const SHUTDOWN: &str = "
import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))
";

impl Disk {
    /// Memory that is full after so many bytes.
    pub(crate) fn tmpfs(bytes: u64) -> Result<Self, String> {
        let disk = Self::unmounted()?;
        run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "telemetryx-test"], &disk.path())?;
        Ok(disk)
    }

    /// An ext4 of so many bytes.
    pub(crate) fn ext4(bytes: u64) -> Result<Self, String> {
        let disk = Self::unmounted()?;
        let image = disk.image();
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(bytes).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-F"], &image)?;
        disk.mount_image()?;
        Ok(disk)
    }

    fn unmounted() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root may mount".to_owned());
        }
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        std::fs::create_dir(directory.path().join("mount")).map_err(|error| error.to_string())?;
        Ok(Self { directory })
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    /// The power goes: whatever was not synced is lost, and until [`Disk::remount`] every call fails.
    pub(crate) fn cut_power(&self) {
        run("python3", &["-c", SHUTDOWN], &self.path()).expect("an ext4 can be shut down");
    }

    /// The power is back. Nobody may have a file open.
    pub(crate) fn remount(&self) {
        run("umount", &[], &self.path()).expect("nobody uses the disk any more");
        self.mount_image().expect("ext4 recovers by its journal");
    }

    fn mount_image(&self) -> Result<(), String> {
        run_with(Command::new("mount").args(["-o", "loop"]).args([self.image(), self.path()]))
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run("umount", &["-l"], &self.path()); // fails if it was never mounted
    }
}

fn run(program: &str, words: &[&str], path: &Path) -> Result<(), String> {
    run_with(Command::new(program).args(words).arg(path))
}

fn run_with(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", said.trim())) }
}

/// Says why a test shows nothing here.
pub(crate) fn skip(test: &str, reason: &str) {
    println!("SKIPPED {test}: {reason}");
}

/// Size of a file or of all files in a folder.
pub(crate) fn bytes_in(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return path.metadata().map_or(0, |data| data.len()) };
    entries.filter_map(Result::ok).map(|entry| bytes_in(&entry.path())).sum()
}
