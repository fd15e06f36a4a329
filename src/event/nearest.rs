//! "Did you mean": the known name that is nearest to an unknown one.

/// The name of `known` with the fewest edits (insert, delete, replace, swap neighbours), where they are few enough for a
/// typing error: at most a third of the letters, and one in a shorter name. Two of four letters may make another word of
/// it (`date` of `name`). Case does not count.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (edits(name, candidate), *candidate))
        .filter(|(edits, candidate)| *edits <= (candidate.len() / 3).max(1))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Names longer than this are no typing error of a known one.
const NAME_BYTES_MAX: usize = 32;

/// Returns the edits between two short names (insert, delete, replace, swap neighbours), whatever their case;
/// `usize::MAX` for long ones.
pub fn edits(a: &str, b: &str) -> usize {
    if a.len() > NAME_BYTES_MAX || b.len() > NAME_BYTES_MAX {
        return usize::MAX;
    }
    strsim::osa_distance(&a.to_ascii_lowercase(), &b.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_typing_errors_and_nothing_else() {
        let known = ["time", "name", "body", "attributes", "trace_id", "duration_nano"];
        for (name, expected) in [
            ("nmae", Some("name")),
            ("Name", Some("name")),
            ("names", Some("name")),
            ("tme", Some("time")),
            ("timestamp", None),
            ("attribute", Some("attributes")),
            ("attrs", None),
            ("traceId", Some("trace_id")),
            ("duration_nan", Some("duration_nano")),
            ("duration", None),
            ("date", None),
            ("type", None),
            ("id", None),
            ("node", None),
            ("duration_nanos", Some("duration_nano")),
            ("", None),
            ("message", None),
            ("a name that is much longer than any name that could be meant", None),
        ] {
            assert_eq!(nearest(name, &known), expected, "{name}");
        }
    }
}
