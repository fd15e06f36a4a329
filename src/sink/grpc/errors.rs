//! What a status, or a connection that fails, means for a delivery.

use std::error::Error;
use std::fmt::Write as _;

use tonic::{Code, Status};

use super::super::{Failure, Unavailable, connection_advice, with_advice};
use crate::limits;
use crate::text::cut;
use crate::tls::{self, Trouble};

/// Why a call has no answer. `place`: the receiver, for the message. `hide` leaves the token out of a text, which the
/// receiver may quote.
pub(super) fn failure(place: &str, status: &Status, hide: impl Fn(&str) -> String) -> Failure {
    let code = name(status.code());
    let mut reason = format!("{place}: {code}");
    if !status.message().is_empty() {
        // Writing into a String cannot fail.
        let _ = write!(reason, ": {}", cut(&hide(status.message()), limits::REFUSAL_REASON_BYTES_MAX));
    }
    if let Some(source) = status.source() {
        if let Some(unavailable) = tls_trouble(place, source) {
            return unavailable.into();
        }
        append_chain(&mut reason, source, &hide);
    }
    let down = |advice: &str| Failure::Unavailable(Unavailable::down(format!("{reason}: {advice}")));
    match status.code() {
        Code::Unauthenticated => down("the receiver does not know this token: see token, or the file of token_file"),
        Code::PermissionDenied => down("the receiver does not let this token deliver: see its log, then token"),
        Code::Unimplemented | Code::NotFound => {
            down("no service telemetryx.v1.Sink is there: see url, and whether the receiver runs")
        }
        Code::FailedPrecondition | Code::DataLoss => down("the receiver must be fixed first: see its log"),
        // The library's own words, when the answer is larger than it may be; a receiver in Rust says the same of requests.
        Code::OutOfRange if status.message().starts_with("Error, decoded message length too large") => down(
            "its answer is above 4 MiB (give short reasons), or the receiver does not accept requests of 1 MiB \
                  (raise its limit)",
        ),
        Code::InvalidArgument | Code::OutOfRange => Failure::BatchRefused { code: code.to_owned(), reason },
        _ => Failure::Unavailable(Unavailable::retry(reason)),
    }
}

/// Why there is no connection. `hide`: as of [`failure`].
pub(super) fn unconnected(place: &str, error: &(dyn Error + 'static), hide: impl Fn(&str) -> String) -> Unavailable {
    tls_trouble(place, error).unwrap_or_else(|| {
        let mut reason = format!("{place}: ");
        let _ = write!(reason, "{error}");
        if let Some(source) = error.source() {
            append_chain(&mut reason, source, hide);
        }
        let io_error = chain(error).find_map(|error| error.downcast_ref::<std::io::Error>());
        Unavailable::retry(with_advice(&reason, io_error.map_or("", connection_advice)))
    })
}

/// A certificate that is not trusted does not pass by itself.
fn tls_trouble(place: &str, error: &(dyn Error + 'static)) -> Option<Unavailable> {
    let error = tls::error_in(error)?;
    let down = |advice: &str| Some(Unavailable::down(format!("{place}: {error}: {advice}")));
    match tls::trouble(error) {
        Trouble::Certificate => down("check the receiver's certificate, its name, and ca_file"),
        Trouble::NotTls => down("the receiver does not speak TLS: name it with http:// in url"),
        Trouble::ClientCertificate => down("if the receiver requires a client certificate, it cannot be used"),
        Trouble::Other => Some(Unavailable::retry(format!("{place}: {error}: is TLS spoken there?"))),
    }
}

/// An error and its causes.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Adds the causes that say something new. They may quote the receiver, as GOAWAY's data does.
fn append_chain(reason: &mut String, first: &(dyn Error + 'static), hide: impl Fn(&str) -> String) {
    for error in chain(first) {
        let text = hide(&error.to_string());
        let text = cut(&text, limits::REFUSAL_REASON_BYTES_MAX);
        if !reason.contains(text) {
            let _ = write!(reason, ": {text}");
        }
    }
}

/// As gRPC's documents spell it.
pub(super) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
