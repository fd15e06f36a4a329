//! Sinks that are no longer in the settings, found by the position files that they left.

use std::fs;
use std::path::Path;

use super::positions::PositionFile;
use crate::limits;

/// A sink that had not taken all when it was removed from the settings.
#[derive(Debug, PartialEq, Eq)]
pub struct Removed {
    /// The sink's former name in the settings.
    pub name: String,
    /// Events that the log still has and the sink has not taken.
    pub events: u64,
}

/// The sinks without a place in `configured` whose position file of this log is behind; in order of name, at most
/// [`limits::REMOVED_SINKS_MAX`]. The log has the positions from `oldest` to the one before `next`. Sinks whose store keeps
/// the position leave no file and are not found, as are files that cannot be read.
pub fn removed(data_dir: &Path, server_id: &[u8; 16], configured: &[&str], oldest: u64, next: u64) -> Vec<Removed> {
    let Ok(files) = fs::read_dir(data_dir.join("positions")) else { return Vec::new() };
    let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
    let unknown = names.filter(|name| !name.ends_with(".new") && !configured.contains(&name.as_str()));
    let behind = unknown.filter_map(|name| {
        let saved = PositionFile::new(data_dir, &name, server_id).load().ok()??;
        let events = next.saturating_sub(oldest.max(saved.position.saturating_add(1)));
        (events > 0).then_some(Removed { name, events })
    });
    let mut removed: Vec<_> = behind.take(limits::REMOVED_SINKS_MAX).collect();
    removed.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sinks_that_are_not_configured_and_behind_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let found = |oldest, next| removed(dir.path(), &[1; 16], &["kept"], oldest, next);
        assert_eq!(found(1, 10), []);
        let save = |name: &str, server: u8, position| {
            PositionFile::new(dir.path(), name, &[server; 16]).save(position).unwrap();
        };
        save("kept", 1, 3);
        save("done", 1, 9);
        save("other-log", 2, 3);
        save("gone", 1, 3);
        PositionFile::new(dir.path(), "began", &[1; 16]).save_begin(7).unwrap();
        fs::write(dir.path().join("positions/corrupt"), "x").unwrap();
        fs::copy(dir.path().join("positions/gone"), dir.path().join("positions/gone.new")).unwrap();
        let named = |name: &str, events| Removed { name: name.to_owned(), events };
        assert_eq!(found(1, 10), [named("began", 2), named("gone", 6)]);
        // The log has dropped what only they had not taken.
        assert_eq!(found(8, 10), [named("began", 2), named("gone", 2)]);
        assert_eq!(found(10, 10), []);
        assert_eq!(found(1, 1), []);
    }
}
