//! PostgreSQL: rows and position in one transaction, so that every event is stored exactly once.
//!
//! ```text
//!  BEGIN
//!    UPDATE telemetryx_positions  old position ─▶ last of the delivery, under the own owner   no row: fenced, or done
//!    COPY events … BINARY         one row an event
//!  COMMIT                         synchronous_commit = on
//!     │
//!     ├─ a row is refused ─▶ ROLLBACK, the delivery again in pieces, each under a savepoint: all refused rows at once;
//!     │                      COMMIT once the router has kept them (`refused`, `pieces`)
//!     ├─ (server_id, position) is there ─▶ the same, without what is there
//!     └─ no answer ─▶ connect again: the position shows whether it was committed
//! ```
//!
//! **Sorting.** SQLSTATE decides who has to act (`errors`, `sqlstate`). The row that COPY names is refused if all rows before it
//! are accepted; where it names none, a row is refused because it was refused alone. Not where it is the table that is
//! wrong: a column that requires a value which no row brings, or a partition that no row of many finds. While deliveries have
//! refused rows, they are not tried as a whole first.
//!
//! **Waiting.** The server ends a statement after `timeout`. A server that is silent is given up a little later
//! (`stream`), the connection is thrown away, and the router connects again, for ever. (Not on a Unix socket, which the
//! client library does not hand out.)
//!
//! **Fencing**: see [`ownership`](super::ownership); the statements are in `position`. A connect locks the row of the
//! position first, and so waits for a COMMIT of a lost connection that is still on its way.
//!
//! **Replay** copies what is not there yet, in pieces, and leaves the position alone.

mod encode;
mod errors;
mod last_error;
mod pieces;
mod position;
mod refused;
mod session;
mod settings;
mod sqlstate;
mod stream;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io::{self, Write as _};

use postgres::config::{Host, SslMode, SslNegotiation};
use postgres::{Error, ToStatement};

use self::encode::Rows;
use self::errors::{code, refuses};
use self::last_error::LastError;
use self::pieces::Pieces;
use self::session::{Session, columns, text};
pub use self::settings::{Indexes, KIND, PostgresSettings, Tls};
use self::sqlstate::advice;
use self::stream::{Connector, Deadline, Encryption};
use self::tables::Tables;
use super::ownership::{Connect, FIRST, Ownership, OwnershipError};
use super::{Failure, Identity, Sink, Unavailable, tls};
use crate::batch::{Delivery, Record};
use crate::{descriptors, limits};

/// The sink, with its connection.
pub struct Postgres {
    settings: PostgresSettings,
    tables: Option<Tables>,
    server_id: [u8; 16],
    ownership: Ownership,
    session: Option<Session>,
    /// Of `session`, or of the one that ended last.
    last_error: LastError,
    rows: Rows,
    /// Rows without a partition that were refused, since it last took a row.
    unplaced_in_a_row: u64,
    /// Valid rows between two that were refused of the last delivery; `None`: none was, and the next one is tried as a whole.
    usual: Option<usize>,
}

/// How the transaction of a delivery ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Commit,
    /// When it is certain that it could be committed.
    RollBack,
}

impl Postgres {
    /// A sink that is not connected. `sink`: its name, under which the position is stored.
    pub fn new(sink: &str, settings: &PostgresSettings, identity: &Identity) -> Self {
        Self {
            settings: settings.clone(),
            tables: Some(settings.tables.clone()),
            server_id: identity.server_id,
            ownership: Ownership::new(sink, identity, 1),
            session: None,
            last_error: LastError::default(),
            rows: Rows::default(),
            unplaced_in_a_row: 0,
            usual: None,
        }
    }

    fn open(&self) -> Result<Session, Unavailable> {
        // Its client panics where it cannot create its poll.
        if descriptors::lack(limits::POSTGRES_DESCRIPTORS) {
            return Err(self.retry("out of file descriptors"));
        }
        let mut config = self.settings.config.clone();
        settings::give_unknown_localhost(&mut config);
        let encryption = self.encryption(config.get_ssl_mode()).map_err(|why| self.down(&why))?;
        let deadline = Deadline::default();
        let connector = Connector {
            encryption,
            deadline: deadline.clone(),
            last_error: self.last_error.clone(),
            login_timeout: limits::STORE_CONNECT_TIMEOUT,
        };
        if config.get_application_name().is_none() {
            config.application_name("telemetryx");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(limits::STORE_CONNECT_TIMEOUT);
        }
        if config.get_hosts().iter().all(|host| matches!(host, Host::Tcp(_))) {
            config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        } else {
            config.ssl_mode(SslMode::Disable);
        }
        config.tcp_user_timeout(self.settings.timeout).keepalives_idle(limits::STORE_KEEPALIVE_IDLE);
        let settings = self.settings.clone();
        config.notice_callback(move |notice| {
            let (code, notice) = (notice.code().code(), settings.hide(notice.message()));
            tracing::debug!(code, notice, "notice of PostgreSQL")
        });
        let client = config.connect(connector).map_err(|error| self.unavailable(&error))?;
        Ok(Session { client, deadline, timeout: self.settings.timeout, held: None })
    }

    fn encryption(&self, in_url: SslMode) -> Result<Encryption, String> {
        // The stricter of the two holds.
        Ok(match self.settings.tls {
            Tls::Verify => Encryption::Required(tls::verifying(self.settings.ca_file.as_deref())?),
            Tls::Require => Encryption::Required(tls::unverified()?),
            Tls::Off | Tls::Prefer if in_url == SslMode::Require => Encryption::Required(tls::unverified()?),
            Tls::Prefer if in_url != SslMode::Disable => Encryption::Offered(tls::unverified()?),
            Tls::Off | Tls::Prefer => Encryption::Off,
        })
    }

    /// Creates or checks the tables and takes the position, or looks whether it is still ours. Returns it: one that
    /// this log does not reach is left alone.
    fn prepare(&mut self, session: &mut Session) -> Result<u64, Unavailable> {
        let Some(tables) = self.tables.clone() else { return Err(self.down("no such name for a table")) };
        let sql = |error| self.unavailable(&error);
        session.run(&self.begin()).map_err(sql)?;
        self.prepare_tables(session, &tables)?;
        let held = self.read_position(session, " FOR UPDATE").map_err(sql)?;
        let position = match self.ownership.connect(FIRST, held.as_ref()).map_err(|error| self.stopped(&error))? {
            Connect::LeaveAlone { position } => return Ok(position),
            Connect::Take { position } => position,
            Connect::New => {
                self.check_missing(session)?;
                0
            }
        };
        self.take_position(session).map_err(sql)?;
        session.run("COMMIT").map_err(sql)?;
        self.ownership.taken(FIRST, position);
        Ok(position)
    }

    fn prepare_tables(&self, session: &mut Session, tables: &Tables) -> Result<(), Unavailable> {
        let sql = |error| self.unavailable(&error);
        for (table, wanted) in tables.each() {
            let mut found = columns(session, table).map_err(sql)?;
            if found.is_empty() && self.settings.create {
                let ddl = if table == tables.events { tables.ddl() } else { tables.ddl_of_tables() };
                session.run(&ddl).map_err(|error| match code(&error) {
                    // Another server made it in the same moment.
                    "23505" | "42P07" | "42710" => self.retry(&self.describe(&error)),
                    _ => self.unavailable(&error),
                })?;
                found = columns(session, table).map_err(sql)?;
            }
            self.check_table(table, wanted, &found)?;
        }
        Ok(())
    }

    /// Whether the events still fit into their table.
    fn check_events(&self, session: &mut Session) -> Result<(), Unavailable> {
        let Some((table, wanted)) = self.tables.as_ref().and_then(|tables| tables.each().into_iter().next()) else {
            return Ok(());
        };
        let found = columns(session, table).map_err(|error| self.unavailable(&error))?;
        self.check_table(table, wanted, &found)
    }

    fn check_table(&self, table: &str, wanted: &[tables::Column], found: &[tables::Found]) -> Result<(), Unavailable> {
        if found.is_empty() {
            return Err(self.down(&format!(
                "there is no table {table}: run what `telemetryx config --ddl {}` prints, or set create = true",
                self.ownership.sink()
            )));
        }
        let problems = tables::problems(wanted, found);
        if !problems.is_empty() {
            return Err(self.down(&format!(
                "table {table} {}: alter it (`telemetryx config --ddl {}` prints what it must have), or name another table",
                problems.join(", "),
                self.ownership.sink()
            )));
        }
        Ok(())
    }

    /// Whatever the server's, the user's and the database's own settings are.
    fn begin(&self) -> String {
        let ms = self.settings.timeout.as_millis();
        format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = on; \
             SET LOCAL statement_timeout = {ms}; SET LOCAL lock_timeout = {ms}; \
             SET LOCAL idle_in_transaction_session_timeout = {ms}"
        )
    }

    fn write_in_session(&mut self, delivery: &Delivery, end: End) -> Result<(), Failure> {
        let Some(mut session) = self.session.take() else {
            return Err(self.retry("not connected").into());
        };
        let result = self.write(&mut session, delivery, end);
        // After a refusal nothing is open on the server. What else went wrong is left behind with the connection.
        if !matches!(result, Err(Failure::Unavailable(_))) {
            self.session = Some(session);
        }
        result
    }

    fn write(&mut self, session: &mut Session, delivery: &Delivery, end: End) -> Result<(), Failure> {
        if self.end_held(session, delivery, end)? {
            return Ok(());
        }
        if self.usual.is_some() {
            return self.write_in_pieces(session, delivery, end, None);
        }
        let last = delivery.last_position();
        if !self.begin_delivery(session, last)? {
            return self.not_moved(session, last);
        }
        match self.copy(session, self.copy_statement().as_str(), delivery.records()) {
            Ok(()) => {
                if delivery.events() > 0 {
                    self.unplaced_in_a_row = 0;
                }
                self.finish(session, end)
            }
            Err(error) if refuses(&error) => {
                session.run("ROLLBACK").map_err(|error| self.unavailable(&error))?;
                let cause = self.cause(&error);
                self.write_in_pieces(session, delivery, end, Some(cause))
            }
            Err(error) => Err(self.unavailable(&error).into()),
        }
    }

    /// Begins the transaction of a delivery. `false`: the position is not as this process left it, and nothing has begun.
    fn begin_delivery(&self, session: &mut Session, last: u64) -> Result<bool, Failure> {
        if !self.move_position(session, last).map_err(|error| self.unavailable(&error))? {
            session.run("ROLLBACK").map_err(|error| self.unavailable(&error))?;
            return Ok(false);
        }
        Ok(true)
    }

    fn finish(&self, session: &mut Session, end: End) -> Result<(), Failure> {
        let ended = match end {
            End::Commit => session.run("COMMIT"),
            // Deferred constraints are checked as COMMIT does.
            End::RollBack => session.run("SET CONSTRAINTS ALL IMMEDIATE"),
        };
        if end == End::RollBack {
            session.run("ROLLBACK").map_err(|error| self.unavailable(&error))?;
        }
        match ended {
            Ok(_) => Ok(()),
            // A deferred constraint names no row.
            Err(error) if refuses(&error) => {
                Err(Failure::BatchRefused { code: code(&error).to_owned(), reason: self.describe(&error) })
            }
            Err(error) => Err(self.unavailable(&error).into()),
        }
    }

    fn copy_statement(&self) -> String {
        self.tables.as_ref().map(Tables::copy).unwrap_or_default()
    }

    fn copy<'a>(
        &mut self,
        session: &mut Session,
        statement: &(impl ToStatement + ?Sized),
        records: impl Iterator<Item = Record<'a>>,
    ) -> io::Result<()> {
        let (deadline, wait) = (session.deadline.clone(), session.timeout + limits::STORE_ANSWER_GRACE);
        deadline.set(wait);
        let mut writer = session.client.copy_in(statement).map_err(io::Error::other)?;
        self.rows.begin();
        for record in records {
            self.rows.push(&self.server_id, &record);
            if self.rows.bytes().len() >= limits::COPY_CHUNK_BYTES {
                deadline.set(wait);
                // A failure here is the connection's; a refusal waits for the end. Dropped unfinished, a COPY is void.
                writer.write_all(self.rows.bytes())?;
                self.rows.taken();
            }
        }
        self.rows.end();
        writer.write_all(self.rows.bytes())?;
        deadline.set(wait);
        writer.finish().map_err(io::Error::other)?;
        Ok(())
    }

    /// Those of this log that the table has, of the ones that fit `within`.
    fn positions_there(&self, session: &mut Session, within: &str) -> Result<HashSet<u64>, Error> {
        let events = self.tables.as_ref().map_or("", |tables| &tables.events);
        let server_id = self.ownership.server_id();
        let rows = session
            .select(&format!("SELECT position FROM {events} WHERE server_id = '{server_id}' AND position {within}"))?;
        Ok(rows.iter().filter_map(|row| text(row, 0).parse().ok()).collect())
    }

    /// Stores what is not there yet.
    fn write_again(&mut self, session: &mut Session, delivery: &Delivery) -> Result<(), Failure> {
        self.end_held(session, delivery, End::RollBack)?;
        let mut records: Vec<Record<'_>> = delivery.records().collect();
        if records.is_empty() {
            return Ok(());
        }
        session.run(&self.begin()).map_err(|error| self.unavailable(&error))?;
        // Between the first and the last may lie all that the table has.
        let positions: Vec<String> = records.iter().map(|record| record.position.to_string()).collect();
        let within = format!("IN ({})", positions.join(","));
        let there = self.positions_there(session, &within).map_err(|error| self.unavailable(&error))?;
        records.retain(|record| !there.contains(&record.position));
        let found = self.store_in_pieces(session, &records, Pieces::of(records.len(), None))?;
        if found.refusals.is_empty() {
            return self.finish(session, End::Commit);
        }
        session.run("ROLLBACK").map_err(|error| self.unavailable(&error))?;
        Err(Failure::Refused(found.refusals))
    }

    fn retry(&self, reason: &str) -> Unavailable {
        Unavailable::retry(format!("{}: {reason}", self.settings.place()))
    }

    fn down(&self, reason: &str) -> Unavailable {
        Unavailable::down(format!("{}: {reason}", self.settings.place()))
    }

    fn stopped(&self, error: &OwnershipError) -> Unavailable {
        error.at(&self.settings.place())
    }
}

impl Sink for Postgres {
    fn probe(&mut self) -> Result<(), Unavailable> {
        let Some(tables) = self.tables.clone() else { return Err(self.down("no such name for a table")) };
        let mut session = self.open()?;
        let mut missing = false;
        for (table, wanted) in tables.each() {
            let found = columns(&mut session, table).map_err(|error| self.unavailable(&error))?;
            missing |= found.is_empty();
            if !(found.is_empty() && self.settings.create) {
                self.check_table(table, wanted, &found)?;
            }
            let (asked, what) = if found.is_empty() {
                (tables::may_create_query(table), "create")
            } else if table == tables.positions {
                (tables::may_query(table, &["SELECT", "INSERT", "UPDATE"]), "read and write")
            } else {
                (tables::may_query(table, &["SELECT", "INSERT"]), "read and write")
            };
            let answer = session.select(&asked).map_err(|error| self.unavailable(&error))?;
            if answer.first().is_none_or(|row| text(row, 0) != "t") {
                let advice = advice(INSUFFICIENT_PRIVILEGE, None);
                return Err(self.down(&format!("this user may not {what} the table {table}: {advice}")));
            }
        }
        if missing || self.read_position(&mut session, "").map_err(|error| self.unavailable(&error))?.is_some() {
            return Ok(());
        }
        self.check_missing(&mut session)
    }

    fn stored_position(&mut self) -> Result<Option<u64>, Unavailable> {
        let mut session = self.open()?;
        match self.read_position(&mut session, "") {
            Ok(held) => Ok(Some(held.map_or(0, |held| held.position))),
            Err(error) if code(&error) == UNDEFINED_TABLE => Ok(Some(0)),
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    fn connect(&mut self) -> Result<Option<u64>, Unavailable> {
        self.session = None;
        let mut session = self.open()?;
        let position = self.prepare(&mut session)?;
        if self.ownership.is_owner() {
            self.session = Some(session);
        }
        Ok(Some(position))
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        if self.ownership.lowest() >= delivery.last_position() {
            return Ok(());
        }
        let result = self.write_in_session(delivery, End::Commit);
        if result.is_ok() {
            self.ownership.moved(FIRST, delivery.last_position());
        }
        result
    }

    fn rehearses(&self) -> bool {
        true
    }

    fn rehearse(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        self.write_in_session(delivery, End::RollBack)
    }

    fn replays(&self) -> bool {
        true
    }

    fn replay(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.open()?,
        };
        let result = self.write_again(&mut session, delivery);
        if !matches!(result, Err(Failure::Unavailable(_))) {
            self.session = Some(session);
        }
        result
    }
}

const UNDEFINED_TABLE: &str = "42P01";
const INSUFFICIENT_PRIVILEGE: &str = "42501";
