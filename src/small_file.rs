//! Small files that are read as a whole: settings, secrets, tokens, keys, certificates.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// Which kinds of files are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// Regular files, also at the end of symbolic links, and the null device, which is empty. For what settings name: it is read again
    /// on a reload, where a FIFO would give nothing, or block the thread until somebody writes.
    Regular,
    /// FIFOs and devices too, such as `<(…)` of a shell. For arguments of commands: they are read once, and who waits can interrupt.
    Any,
}

/// Reads the bytes of a file.
///
/// # Errors
/// It cannot be read, is of another kind, or has more than `bytes_max` bytes (`FileTooLarge`).
pub fn read(path: &Path, kinds: Kinds, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let count = open(path, kinds)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    is_bounded(count, bytes_max).map(|()| bytes)
}

/// Reads the text of a regular file.
///
/// # Errors
/// As those of [`read`]; or it is not UTF-8.
pub fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut text = String::new();
    let count = open(path, Kinds::Regular)?.take(bytes_max.saturating_add(1)).read_to_string(&mut text)?;
    is_bounded(count, bytes_max).map(|()| text)
}

fn is_bounded(count: usize, bytes_max: u64) -> io::Result<()> {
    match count as u64 > bytes_max {
        true => Err(io::Error::new(ErrorKind::FileTooLarge, format!("larger than {bytes_max} bytes"))),
        false => Ok(()),
    }
}

fn open(path: &Path, kinds: Kinds) -> io::Result<File> {
    if kinds == Kinds::Any {
        return File::open(path);
    }
    // Before it is opened: a socket cannot be, and opening a device may do something.
    is_regular(&fs::metadata(path)?)?;
    let mut options = OpenOptions::new();
    options.read(true);
    // Opening a FIFO that has taken its place meanwhile does not block.
    #[cfg(feature = "server")]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path)?;
    is_regular(&file.metadata()?)?;
    Ok(file)
}

/// Directories pass: reading one is an error of the system's own.
fn is_regular(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_dir() || is_null(metadata) {
        return Ok(());
    }
    let why = format!("it is a {}; a regular file is needed, which can be read again", name(kind));
    Err(io::Error::new(ErrorKind::InvalidInput, why))
}

/// Whether it is /dev/null, the character device 1:3 of Linux.
fn is_null(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0x103
}

fn name(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_fifo() => "FIFO",
        kind if kind.is_socket() => "socket",
        _ => "device",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    fn text(path: &Path) -> Result<String, String> {
        read_text(path, 10).map_err(|error| error.to_string())
    }

    #[test]
    fn a_regular_file_is_read_also_through_links_as_a_kubelet_makes_them() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("..2026")).unwrap();
        fs::write(at("..2026/token"), "secret").unwrap();
        symlink("..2026", at("..data")).unwrap();
        symlink("..data/token", at("token")).unwrap();
        assert_eq!(text(&at("token")).as_deref(), Ok("secret"));
        assert_eq!(read(&at("token"), Kinds::Regular, 6).unwrap(), b"secret");
        assert_eq!(text(Path::new("/dev/null")).as_deref(), Ok(""));
    }

    #[test]
    fn a_file_of_another_kind_is_named_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        symlink("fifo", at("link")).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        for (path, kind) in
            [(at("fifo"), "FIFO"), (at("link"), "FIFO"), (at("socket"), "socket"), ("/dev/zero".into(), "device")]
        {
            let expected = format!("it is a {kind}; a regular file is needed, which can be read again");
            assert_eq!(text(&path), Err(expected.clone()));
            assert_eq!(read(&path, Kinds::Regular, 10).unwrap_err().to_string(), expected);
        }
        assert!(text(dir.path()).unwrap_err().starts_with("Is a directory"));
        assert!(text(&at("none")).unwrap_err().starts_with("No such file"));
    }

    #[test]
    fn files_of_any_kind_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x".repeat(11)).unwrap();
        assert_eq!(text(&file).unwrap_err(), "larger than 10 bytes");
        let endless = read(Path::new("/dev/zero"), Kinds::Any, 10).unwrap_err();
        assert_eq!((endless.kind(), endless.to_string().as_str()), (ErrorKind::FileTooLarge, "larger than 10 bytes"));
        fs::write(&file, b"\xff").unwrap();
        assert!(text(&file).unwrap_err().contains("UTF-8"));
        assert_eq!(read(&file, Kinds::Any, 1).unwrap(), b"\xff");
    }
}
