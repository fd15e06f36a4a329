//! A file of lines that several processes change: one appends, others take lines out.
//!
//! The lock is on the file, not beside it: no other file whose owner could keep the server out. A rewrite puts another
//! file under the name, so after locking it is checked that the lock is on the file that is there now.
//!
//! What is below the end that a [`Snapshot`] saw never changes: an append that fails cuts off its own lines only, and
//! holds the lock meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Take, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::limits;

/// Opens with `open`, and locks what then is at `path`. Unlocked when the file is dropped.
pub(super) fn locked(path: &Path, open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    loop {
        let file = open()?;
        file.lock()?;
        if is_at(&file, path)? {
            return Ok(file);
        }
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The file as it was at one moment, whatever is appended or rewritten later.
pub struct Snapshot {
    file: File,
    bytes: u64,
}

impl Snapshot {
    /// `None`: there is no file.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match locked(path, || File::open(path)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let bytes = file.metadata()?.len();
        file.unlock()?;
        Ok(Some(Self { file, bytes }))
    }

    /// From the beginning. One at a time: they share the place in the file.
    pub fn lines(&self) -> io::Result<Lines<'_>> {
        (&self.file).seek(SeekFrom::Start(0))?;
        Ok(Lines { reader: BufReader::new((&self.file).take(self.bytes)), line: Vec::new(), number: 0, ended: true })
    }
}

/// Lines with bounded memory.
pub struct Lines<'f> {
    reader: BufReader<Take<&'f File>>,
    line: Vec<u8>,
    number: u64,
    /// The last piece ended its line.
    ended: bool,
}

/// A line, or a part of one that is too long.
pub struct Piece<'l> {
    /// Of the line, from 1.
    pub number: u64,
    /// With the end of the line, where it has one.
    pub bytes: &'l [u8],
    /// Whether the piece is the start of its line.
    pub begins: bool,
    /// Whether the piece has the end of its line.
    pub ends: bool,
}

impl Piece<'_> {
    /// A whole line, without its end; `None`: partial, or longer than any letter.
    pub fn line(&self) -> Option<&[u8]> {
        if self.begins && self.ends { self.bytes.strip_suffix(b"\n") } else { None }
    }
}

impl Lines<'_> {
    /// The next piece; `None`: the end of the file.
    pub fn next(&mut self) -> io::Result<Option<Piece<'_>>> {
        self.line.clear();
        let begins = self.ended;
        if (&mut self.reader).take(limits::DEAD_LETTER_BYTES_MAX).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        self.number += u64::from(begins);
        self.ended = self.line.ends_with(b"\n");
        Ok(Some(Piece { number: self.number, bytes: &self.line, begins, ends: self.ended }))
    }
}

/// Removes the lines for which `removes` returns true, and returns how many. Lines that were appended meanwhile
/// stay, and so does a partial line. When it returns, the change survives power loss; after an error the file is
/// as it was.
pub fn rewrite(path: &Path, mut removes: impl FnMut(&[u8]) -> bool) -> io::Result<u64> {
    let new_path = beside(path, "rewritten");
    loop {
        let Some(snapshot) = Snapshot::open(path)? else { return Ok(0) };
        let removed = replace(path, &new_path, &snapshot, &mut removes);
        if !matches!(removed, Ok(Some(1..))) {
            match fs::remove_file(&new_path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        // `None`: somebody else put another file there.
        if let Some(removed) = removed? {
            return Ok(removed);
        }
    }
}

fn replace(
    path: &Path,
    new_path: &Path,
    snapshot: &Snapshot,
    removes: &mut impl FnMut(&[u8]) -> bool,
) -> io::Result<Option<u64>> {
    let mut removed = 0;
    let mut new = BufWriter::new(create_anew(new_path)?);
    let mut lines = snapshot.lines()?;
    while let Some(piece) = lines.next()? {
        if piece.line().is_some_and(&mut *removes) {
            removed += 1;
        } else {
            new.write_all(piece.bytes)?;
        }
    }
    if removed == 0 {
        return Ok(Some(0));
    }
    let mut new = new.into_inner().map_err(io::IntoInnerError::into_error)?;
    give_mode_and_owner(&snapshot.file, &new)?;
    new.sync_all()?;

    // From here on the server waits, so there is little left to do.
    snapshot.file.lock()?;
    if !is_at(&snapshot.file, path)? {
        return Ok(None);
    }
    (&snapshot.file).seek(SeekFrom::Start(snapshot.bytes))?;
    io::copy(&mut &snapshot.file, &mut new)?;
    new.sync_all()?;
    fs::rename(new_path, path)?;
    File::open(folder_of(path))?.sync_all()?;
    Ok(Some(removed))
}

/// Readable by its owner only, until it has the mode of the file that it replaces. What lies there already may be a
/// link that leads elsewhere.
pub(super) fn create_anew(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Whichever user runs this, the server must be able to write it.
pub(super) fn give_mode_and_owner(old: &File, new: &File) -> io::Result<()> {
    let (old, ours) = (old.metadata()?, new.metadata()?);
    new.set_permissions(old.permissions())?;
    if (ours.uid(), ours.gid()) != (old.uid(), old.gid()) {
        fchown(new, Some(old.uid()), Some(old.gid()))?;
    }
    Ok(())
}

/// Another file in the same directory.
pub(super) fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new(".")).to_owned()
}
