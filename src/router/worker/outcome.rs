//! What a sink answered to an attempt, for its log line.

use crate::sink::{Failure, Unavailable};

/// The answer in one word. `is_rehearsal`: what was stored is rolled back.
pub(super) fn name(answer: &Result<(), Failure>, is_rehearsal: bool) -> &'static str {
    match answer {
        Ok(()) if is_rehearsal => "rehearsed",
        Ok(()) => "stored",
        Err(Failure::Refused(_) | Failure::BatchRefused { .. }) => "refused",
        Err(Failure::Unavailable(_)) => "unavailable",
    }
}

/// Why nothing was stored; of several events that were refused, why the first one was.
pub(super) fn reason(answer: &Result<(), Failure>) -> Option<&str> {
    match answer.as_ref().err()? {
        Failure::Refused(refusals) => refusals.first().map(|refusal| refusal.reason.as_str()),
        Failure::BatchRefused { reason, .. } => Some(reason),
        Failure::Unavailable(Unavailable::Retry { reason, .. } | Unavailable::Down { reason }) => Some(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Refusal;

    #[test]
    fn every_answer_has_a_name_and_a_failure_its_reason() {
        let refusal = |reason: &str| Refusal { position: 1, code: "E".to_owned(), reason: reason.to_owned() };
        let cases = [
            (Ok(()), "stored", None),
            (Err(Failure::Refused(vec![refusal("one"), refusal("two")])), "refused", Some("one")),
            (Err(Failure::BatchRefused { code: "E".to_owned(), reason: "all".to_owned() }), "refused", Some("all")),
            (Err(Unavailable::retry("later").into()), "unavailable", Some("later")),
            (Err(Unavailable::down("act").into()), "unavailable", Some("act")),
        ];
        for (answer, expected, why) in cases {
            assert_eq!((name(&answer, false), reason(&answer)), (expected, why), "{answer:?}");
        }
        assert_eq!(name(&Ok(()), true), "rehearsed");
    }
}
