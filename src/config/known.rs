//! Which known key an unknown one may mean, and which keys there are.

use super::layers::Origin;
use crate::event::nearest::nearest;

/// The known key that is nearest. Each part between dots has to be near its counterpart: `limits.rate` is not `limits.burst`.
pub(super) fn nearest_key<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let is_near = |known: &&'k str| {
        let (parts, known_parts) = (key.split('.'), known.split('.'));
        parts.clone().count() != known_parts.clone().count()
            || parts.zip(known_parts).all(|(part, known)| nearest(part, &[known]).is_some())
    };
    let candidates: Vec<&str> = known.iter().copied().filter(is_near).collect();
    nearest(key, &candidates).or_else(|| of_a_section(key, known))
}

/// The key of a section whose last part a key without one may mean: `server.address` for `adress`. Several: none is known to be meant.
fn of_a_section<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    if key.contains('.') {
        return None;
    }
    let last = |known: &'k str| known.rsplit_once('.').map(|(_, last)| last);
    let meant = nearest(key, &known.iter().filter_map(|known| last(known)).collect::<Vec<_>>())?;
    let mut keys = known.iter().filter(|known| last(known) == Some(meant));
    keys.next().copied().filter(|_| keys.next().is_none())
}

/// The keys that could stand in place of `key`: those of its section, or where all are printed. `prefix`: empty, or that of a sink or client.
pub(super) fn instead_of(key: &str, prefix: &str, known: &[&str]) -> String {
    let sections: Vec<&str> = known.iter().filter_map(|key| Some(key.split_once('.')?.0)).collect();
    let section =
        key.split_once('.').map(|(section, _)| format!("{}.", nearest(section, &sections).unwrap_or(section)));
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

/// What to write in place of a value of the whole section `key`. `examples`: the known keys, each with a value.
pub(super) fn table_of(prefix: &str, key: &str, origin: &Origin, examples: &[(String, String)]) -> String {
    let part = |known: &'_ str| known.strip_prefix(key).and_then(|rest| rest.strip_prefix('.')).map(str::to_owned);
    let first = examples.iter().find_map(|(known, example)| Some((part(known)?, example)));
    match (first, origin) {
        (Some((part, example)), Origin::File { .. }) if !prefix.is_empty() => {
            format!("a table, such as {key} = {{ {part} = {example} }}")
        }
        (Some((part, example)), _) if !prefix.is_empty() => {
            format!("a key of it, such as {prefix}{key}.{part} = {example}")
        }
        _ => format!("a section, [{key}]"),
    }
}

/// What to write for `[sinks.NAME.sample]` after `[[sinks]]`, which is a section of that sink already.
pub(super) fn named_again(prefix: &str, key: &str, origin: &Origin, known: &[&str]) -> Option<String> {
    let name = prefix.strip_prefix("sinks.")?.strip_suffix('.')?;
    let rest = key.strip_prefix(name)?.strip_prefix('.')?;
    let is_of_file = matches!(origin, Origin::File { .. });
    let (section, _) = rest.split_once('.').filter(|_| is_of_file && known.contains(&rest))?;
    Some(format!(": write {rest} = …, or [sinks.{section}], without the name of the sink"))
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
            ("max_byts", Some("wal.max_bytes")),
            ("bytes_per_secnd", Some("limits.bytes_per_second")),
            ("limits.rate", None),
        ] {
            assert_eq!(nearest_key(key, &KNOWN), expected, "{key}");
        }
    }

    #[test]
    fn the_keys_of_the_section_are_named_or_the_sections() {
        assert_eq!(instead_of("limits.rate", "", &KNOWN), ": [limits] has burst, bytes_per_second");
        assert_eq!(instead_of("limit.x", "", &KNOWN), ": [limits] has burst, bytes_per_second");
        assert_eq!(instead_of("otlp.enabled", "", &KNOWN), ": `telemetryx config --defaults` prints all keys");
        assert_eq!(
            instead_of("url", "sinks.a.", &["path", "batch.max_age", "batch.max_bytes"]),
            ": this sink has path, batch"
        );
        assert_eq!(instead_of("batch.x", "sinks.a.", &["path", "batch.max_age"]), ": [sinks.a.batch] has max_age");
    }
}
