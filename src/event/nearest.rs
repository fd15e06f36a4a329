//! "Did you mean": the known name that is nearest to an unknown one.

/// The name of `known` with the fewest edits (insert, delete, replace, swap neighbours), where they are few enough for a
/// typing error: at most a third of the letters, and one in a shorter name. Two of four letters may make another word of
/// it (`date` of `name`). Case does not count.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (edits(name.as_bytes(), candidate.as_bytes()), *candidate))
        .filter(|(edits, candidate)| *edits <= (candidate.len() / 3).max(1))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Names longer than this are no typing error of a known one.
const NAME_BYTES_MAX: usize = 32;

/// Returns the edits between two short names (optimal string alignment), by dynamic programming over three rows;
/// `usize::MAX` for long ones.
pub fn edits(a: &[u8], b: &[u8]) -> usize {
    if a.len() > NAME_BYTES_MAX || b.len() > NAME_BYTES_MAX {
        return usize::MAX;
    }
    let mut rows = [[0; NAME_BYTES_MAX + 1]; 3];
    let [before_last, last, row] = &mut rows;
    for (j, cost) in last.iter_mut().enumerate() {
        *cost = j;
    }
    for (i, x) in a.iter().enumerate() {
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let differ = usize::from(!x.eq_ignore_ascii_case(y));
            row[j + 1] = (last[j] + differ).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && x.eq_ignore_ascii_case(&b[j - 1]) && a[i - 1].eq_ignore_ascii_case(y) {
                row[j + 1] = row[j + 1].min(before_last[j - 1] + 1);
            }
        }
        (*before_last, *last) = (*last, *row);
    }
    last[b.len()]
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
