//! Directories whose names survive power loss.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// Creates the directory if it is missing, for this user only: it will hold what peers have sent. One that exists keeps its mode,
/// and parent directories that are missing have the default one.
///
/// # Errors
/// As those of `mkdir`.
pub fn create_private(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        created => created,
    }
}

/// Creates the directory if it is missing. When it returns, its name is on the disk, and that of its parent directory:
/// both may be new.
pub fn make(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    for parent in std::path::absolute(path)?.ancestors().skip(1).take(2) {
        match File::open(parent).and_then(|parent| parent.sync_all()) {
            // A folder that we may not read is none that was just made.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_new_directory_is_private_and_one_that_exists_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let new = directory.path().join("a/b");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        create_private(&new).unwrap();
        assert_eq!(mode(&new), 0o700);
        assert_ne!(mode(&directory.path().join("a")), 0o700, "the mode that the umask leaves");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o750)).unwrap();
        create_private(&new).unwrap();
        create_private(&new.join("..")).unwrap();
        assert_eq!(mode(&new), 0o750);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&new, &link).unwrap();
        create_private(&link).unwrap();
        fs::write(directory.path().join("file"), "").unwrap();
        assert!(create_private(&directory.path().join("file")).is_err());
        assert!(create_private(Path::new("")).is_err());
    }
}
