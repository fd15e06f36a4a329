//! Which known key an unknown one may mean, and which keys there are.

use crate::event::nearest::nearest;

/// The known key that is nearest. Each part between dots has to be near its counterpart: `limits.rate` is not `limits.burst`.
pub(super) fn nearest_key<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let is_near = |known: &&'k str| {
        let (parts, known_parts) = (key.split('.'), known.split('.'));
        parts.clone().count() != known_parts.clone().count()
            || parts.zip(known_parts).all(|(part, known)| nearest(part, &[known]).is_some())
    };
    let candidates: Vec<&str> = known.iter().copied().filter(is_near).collect();
    nearest(key, &candidates)
}

/// The keys that could stand in place of `key`: those of its section, or where all are printed. `prefix`: empty, or that of a sink or client.
pub(super) fn instead_of(key: &str, prefix: &str, known: &[&str]) -> String {
    let section = key.split_once('.').map(|(section, _)| format!("{section}."));
    let of_section = |key: &&str| section.as_ref().is_some_and(|section| key.starts_with(section));
    if let Some(section) = section.as_ref().filter(|_| known.iter().any(of_section)) {
        let keys: Vec<&str> = known.iter().filter_map(|key| key.strip_prefix(section)).collect();
        return format!(": [{prefix}{}] has {}", section.trim_end_matches('.'), keys.join(", "));
    }
    if prefix.is_empty() {
        return ": `telemetryx config --defaults` prints all keys".to_owned();
    }
    let mut names: Vec<&str> = known.iter().map(|key| key.split('.').next().unwrap_or_default()).collect();
    names.dedup();
    let what = if prefix.starts_with("clients.") { "a client" } else { "this sink" };
    format!(": {what} has {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 5] = ["data_dir", "limits.burst", "limits.bytes_per_second", "wal.enabled", "wal.max_bytes"];

    #[test]
    fn every_part_of_a_key_has_to_be_near() {
        for (key, expected) in [
            ("wal.enable", Some("wal.enabled")),
            ("wall.max_byte", Some("wal.max_bytes")),
            ("wal_enabled", Some("wal.enabled")),
            ("datadir", Some("data_dir")),
            ("otlp.enabled", None),
            ("limits.rate", None),
        ] {
            assert_eq!(nearest_key(key, &KNOWN), expected, "{key}");
        }
    }

    #[test]
    fn the_keys_of_the_section_are_named_or_the_sections() {
        assert_eq!(instead_of("limits.rate", "", &KNOWN), ": [limits] has burst, bytes_per_second");
        assert_eq!(instead_of("otlp.enabled", "", &KNOWN), ": `telemetryx config --defaults` prints all keys");
        assert_eq!(
            instead_of("url", "sinks.a.", &["path", "batch.max_age", "batch.max_bytes"]),
            ": this sink has path, batch"
        );
        assert_eq!(instead_of("batch.x", "sinks.a.", &["path", "batch.max_age"]), ": [sinks.a.batch] has max_age");
    }
}
