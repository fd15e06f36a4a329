//! Whether files and directories can be created. Nothing is left over: what is asked for is a file without a name, and
//! where the file system has none of these, one that is removed at once.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Whether the file at `path`, which does not exist, can be created with the directories that lead to it.
///
/// # Errors
/// Why not, on one line for a person.
pub fn check_file(path: &Path) -> Result<(), String> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let failed = |why: String| format!("cannot create {}: {why}", path.display());
    let parent = path.parent().unwrap_or(Path::new("/"));
    match fs::symlink_metadata(&path) {
        Ok(_) => {
            // A link to what does not exist: the file is created where it leads, and no directory is.
            let target = fs::read_link(&path).map_err(|error| failed(error.to_string()))?;
            let directory = parent.join(target).parent().map(Path::to_owned).unwrap_or_default();
            check_write(&directory).map_err(|error| failed(format!("link to {}: {error}", directory.display())))
        }
        Err(error) if is_missing(&error) => {
            let directory = nearest(parent).map_err(failed)?;
            check_write(&directory).map_err(|error| failed(format!("{}: {error}", directory.display())))
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Whether the directory at `path` can be written or, where it does not exist, be created.
///
/// # Errors
/// Why not, on one line for a person.
pub fn check_directory(path: &Path) -> Result<(), String> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let failed = |why: String| format!("cannot create directory {}: {why}", path.display());
    let directory = nearest(&path).map_err(failed)?;
    check_write(&directory).map_err(|error| match directory == path {
        true => format!("cannot write to {}: {error}", path.display()),
        false => failed(format!("{}: {error}", directory.display())),
    })
}

/// The directory at `path`, or the nearest one above it that exists.
fn nearest(path: &Path) -> Result<PathBuf, String> {
    for directory in path.ancestors() {
        match fs::symlink_metadata(directory) {
            Ok(_) => {
                let shown = directory.display();
                return match fs::metadata(directory) {
                    Ok(metadata) if metadata.is_dir() => Ok(directory.to_owned()),
                    Ok(_) => Err(format!("{shown} is not a directory")),
                    Err(error) => Err(format!("{shown} is a link that leads nowhere: {error}")),
                };
            }
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(format!("{}: {error}", directory.display())),
        }
    }
    Err("no directory above it exists".to_owned())
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Whether a file can be created in the directory.
fn check_write(directory: &Path) -> io::Result<()> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
            let path = directory.join(format!(".telemetryx-check-{}", std::process::id()));
            OpenOptions::new().write(true).create_new(true).open(&path)?;
            fs::remove_file(path)
        }
        opened => Ok(opened.map(drop)?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_cannot_be_created_is_named_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "x").unwrap();
        symlink("nowhere/x", at("dangling")).unwrap();
        symlink("new", at("link")).unwrap();
        let long = "x".repeat(256);
        for (path, in_a_file, in_a_directory) in [
            (at("a/b/c"), "", ""),
            (dir.path().to_owned(), "-", ""),
            (at("link"), "", "a link that leads nowhere"),
            (at("dangling"), "No such file", "a link that leads nowhere"),
            (at("dangling/x"), "a link that leads nowhere", "a link that leads nowhere"),
            (at("file/x"), "file is not a directory", "file is not a directory"),
            (at("file"), "-", "file is not a directory"),
            (at(&long), "File name too long", "File name too long"),
            (at(&format!("{long}/x")), "File name too long", "File name too long"),
            ("/proc/telemetryx/x".into(), "/proc: ", "/proc: "),
        ] {
            for (result, expected) in [(check_file(&path), in_a_file), (check_directory(&path), in_a_directory)] {
                match (expected, result) {
                    ("-", _) | ("", Ok(())) => {}
                    (expected, Err(why)) if !expected.is_empty() => {
                        assert!(why.contains(expected) && why.starts_with("cannot create"), "{why}");
                    }
                    (_, result) => panic!("{}: {result:?}", path.display()),
                }
            }
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is created");
    }
}
