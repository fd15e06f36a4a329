//! What an error of a session means for a delivery: its SQLSTATE decides (`sqlstate`), or what broke the connection.

use std::fmt::Write as _;
use std::io;

use postgres::Error;
use postgres::error::DbError;

use super::Postgres;
use super::last_error::ServerError;
use super::pieces::Named;
use super::sqlstate::{Place, Verdict, advice, copy_line, copy_place, is_of_row_alone, pooler_advice, verdict};
use super::stream::NoTlsOffered;
use crate::sink::{Unavailable, connection_advice, tls};

/// Any error of a session.
pub(super) type Trouble = dyn std::error::Error + 'static;

impl Postgres {
    /// The error on one line, without the secrets of the settings: a server or a pooler may quote them.
    pub(super) fn describe(&self, error: &Trouble) -> String {
        self.settings.hide(&describe(error))
    }

    /// What the error means for the delivery, unless it refuses rows.
    pub(super) fn unavailable(&self, error: &Trouble) -> Unavailable {
        let reason = self.describe(error);
        if let Some(error) = db_error(error) {
            return self.reported(error.code().code(), error.message(), error.routine(), reason);
        }
        // A server that refuses a row goes on: that is not why the connection ended.
        let ended_by = |error: &ServerError| verdict(&error.code, Place::Elsewhere) != Verdict::Refused;
        if let Some(ServerError { code, message }) = self.last_error.take().filter(ended_by) {
            let reason = format!("{} (SQLSTATE {code}), and the connection was closed", self.settings.hide(&message));
            return self.reported(&code, &message, None, reason);
        }
        let mut passes = error.downcast_ref::<Error>().is_some_and(Error::is_closed);
        let mut look_at = "";
        for error in chain(error) {
            let Some(error) = error.downcast_ref::<io::Error>() else { continue };
            passes = true;
            if look_at.is_empty() {
                look_at = connection_advice(error);
            }
            if error.get_ref().is_some_and(|inner| inner.is::<NoTlsOffered>()) {
                return self.down(&reason);
            }
            if let Some(error) = tls::error_in(error) {
                return self.down(&format!("{reason}: {}", tls_advice(error)));
            }
        }
        match (passes, look_at) {
            (true, "") => self.retry(&reason),
            (true, advice) => self.retry(&format!("{reason}: {advice}")),
            // What is left are settings that the server asks for, such as a password.
            (false, _) if reason.contains("password missing") => self.down(&format!(
                "{reason}: the server requires one: write it into url (postgres://user:password@…), or the whole URL \
                 into \
                 the file of url_file; PGPASSWORD, PGPASSFILE and ~/.pgpass are not read"
            )),
            (false, _) => self.down(&format!("{reason}: check url")),
        }
    }

    /// What the server, or a pooler before it, reports.
    fn reported(&self, code: &str, message: &str, routine: Option<&str>, reason: String) -> Unavailable {
        if let Some(advice) = pooler_advice(message) {
            return self.down(&format!("{reason}: {advice}"));
        }
        let advice = advice(code, routine);
        let reason = if advice.is_empty() { reason } else { format!("{reason}: {advice}") };
        match verdict(code, Place::Elsewhere) {
            Verdict::Retry => self.retry(&reason),
            Verdict::Refused | Verdict::Down => self.down(&reason),
        }
    }
}

fn tls_advice(error: &rustls::Error) -> &'static str {
    match tls::trouble(error) {
        tls::Trouble::Certificate => {
            "check the server's certificate, its name, and ca_file; or set tls = \"require\" to encrypt without \
             checking it"
        }
        tls::Trouble::ClientCertificate => {
            "if the server requires a client certificate, change that in its pg_hba.conf"
        }
        tls::Trouble::NotTls | tls::Trouble::Other => "server and sink do not agree on TLS: see the server's log",
    }
}

/// The error and what it comes from.
pub(super) fn chain(error: &Trouble) -> impl Iterator<Item = &Trouble> {
    std::iter::successors(Some(error), |error| error.source())
}

/// The error that the server sent; `None`: the error is not the server's.
pub(super) fn db_error(error: &Trouble) -> Option<&DbError> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// The SQLSTATE of the error; empty if the server did not send it.
pub(super) fn code(error: &Trouble) -> &str {
    db_error(error).map_or("", |error| error.code().code())
}

/// The row of a COPY that the error names.
pub(super) fn named(error: &Trouble) -> Named {
    let Some((error, context)) = db_error(error).and_then(|error| Some((error, error.where_()?))) else {
        return Named::Nothing;
    };
    match copy_line(context).and_then(|line| line.checked_sub(1)) {
        None => Named::Nothing,
        Some(line) if is_of_row_alone(error.code().code(), context) => Named::RowAlone(line),
        Some(line) => Named::Row(line),
    }
}

/// Whether the error refuses rows, rather than postponing the delivery.
pub(super) fn refuses(error: &Trouble) -> bool {
    let place = |error: &DbError| error.where_().map_or(Place::Elsewhere, copy_place);
    db_error(error).is_some_and(|error| verdict(error.code().code(), place(error)) == Verdict::Refused)
}

/// The row belongs into a partition that is not there. The code alone is a CHECK's, and a trigger's that raises it.
pub(super) fn lacks_partition(error: &Trouble) -> bool {
    db_error(error).is_some_and(|error| error.routine() == Some("ExecFindPartition"))
}

/// In one line.
pub(super) fn describe(error: &Trouble) -> String {
    if let Some(error) = db_error(error) {
        let mut text = format!("{} (SQLSTATE {})", error.message(), error.code().code());
        // The failing row itself is in the dead letter already.
        if let Some(detail) = error.detail().filter(|detail| !detail.starts_with("Failing row contains")) {
            let _ = write!(text, ": {detail}");
        }
        return text;
    }
    chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
