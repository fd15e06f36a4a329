//! INSERTs of events, one after the other into one statement.
//!
//! A statement keeps what is bound to it from one row to the next, and half of the columns are mostly what they were:
//! the server_id always; received_at within a frame; often agent, source, name and kind; NULL where events have no such
//! field. Only what changes is bound again.
//!
//! ```text
//!  row 1   server_id position received_at time kind source name body NULL NULL agent attributes       all
//!  row 2             position             time                  body                 attributes       the same frame
//!  row 3             position received_at time      source      body           agent attributes       another agent's
//! ```

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Transaction};

use crate::batch::Record;
use crate::event::{rfc3339, write_attributes_json};
use crate::ids::write_hex;

/// Only a row of the same position is "already there"; every other conflict is the user's constraint and is reported.
pub(super) const INSERT: &str = "
    INSERT INTO events (server_id, position, received_at, time, kind, severity, source, name, body, value,
        duration_nano, trace_id, span_id, parent_span_id, agent, attributes)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)
    ON CONFLICT (server_id, position) DO NOTHING";

/// Whether [`INSERT`] writes the column.
pub(super) fn writes(column: &str) -> bool {
    let columns = INSERT.split(['(', ')']).nth(1).unwrap_or_default();
    columns.split(',').any(|own| own.trim().eq_ignore_ascii_case(column))
}

/// The parameters of [`INSERT`].
#[derive(Debug, Clone, Copy)]
enum Column {
    ServerId = 1,
    Position,
    ReceivedAt,
    Time,
    Kind,
    Severity,
    Source,
    Name,
    Body,
    Value,
    DurationNano,
    TraceId,
    SpanId,
    ParentSpanId,
    Agent,
    Attributes,
}

/// The statement and what is bound to it. Only here are its parameters touched.
pub(super) struct Rows<'t> {
    statement: CachedStatement<'t>,
    /// Bit n: the column of number n is not NULL. A statement out of the cache has nothing bound to it.
    bound: u32,
    received_unix_nano: Option<u64>,
    /// What [`Rows::bind_repeated`] has bound, by column.
    repeated: [Option<String>; Column::Attributes as usize],
    /// Reused, so that a row costs no allocation of ours.
    text: Vec<u8>,
}

impl<'t> Rows<'t> {
    /// Inserts into `transaction` for events that this server received.
    pub(super) fn new(transaction: &'t Transaction<'_>, server_id: &str) -> rusqlite::Result<Self> {
        let statement = transaction.prepare_cached(INSERT)?;
        let mut rows =
            Self { statement, bound: 0, received_unix_nano: None, repeated: Default::default(), text: Vec::new() };
        rows.bind(Column::ServerId, server_id)?;
        Ok(rows)
    }

    /// An error is of this row only where the store refuses it; the next one may be inserted.
    pub(super) fn insert(&mut self, record: &Record<'_>) -> rusqlite::Result<()> {
        let event = &record.event;
        self.bind(Column::Position, record.position.cast_signed())?;
        if self.received_unix_nano != Some(record.received_unix_nano) {
            self.received_unix_nano = None;
            self.bind(Column::ReceivedAt, utf8(&rfc3339::format(record.received_unix_nano)))?;
            self.received_unix_nano = Some(record.received_unix_nano);
        }
        self.bind(Column::Time, utf8(&rfc3339::format(record.time_unix_nano())))?;
        self.bind_repeated(Column::Kind, event.kind().name())?;
        self.bind_or_null(Column::Severity, (event.severity() != 0).then_some(event.severity()))?;
        self.bind_repeated(Column::Source, record.source())?;
        self.bind_repeated(Column::Name, event.name())?;
        self.bind_text(Column::Body, event.body())?;
        // SQLite has no NaN and stores NULL.
        self.bind_or_null(Column::Value, event.value())?;
        let duration = event.duration_nano();
        self.bind_or_null(Column::DurationNano, (duration != 0).then_some(duration.cast_signed()))?;
        self.bind_hex(Column::TraceId, event.trace_id().map(|id| id.as_slice()))?;
        self.bind_hex(Column::SpanId, event.span_id().map(|id| id.as_slice()))?;
        self.bind_hex(Column::ParentSpanId, event.parent_span_id().map(|id| id.as_slice()))?;
        self.bind_repeated(Column::Agent, record.origin.agent.as_deref().unwrap_or_default())?;
        let any = event.attributes().next().is_some();
        self.bind_written(Column::Attributes, any.then_some(|out: &mut Vec<u8>| write_attributes_json(event, out)))?;
        self.statement.raw_execute()?;
        Ok(())
    }

    fn bind(&mut self, column: Column, value: impl ToSql) -> rusqlite::Result<()> {
        self.statement.raw_bind_parameter(column as usize, value)?;
        self.bound |= 1 << column as u32;
        Ok(())
    }

    fn bind_or_null(&mut self, column: Column, value: Option<impl ToSql>) -> rusqlite::Result<()> {
        if let Some(value) = value {
            return self.bind(column, value);
        }
        if self.bound & 1 << column as u32 != 0 {
            self.statement.raw_bind_parameter(column as usize, None::<&str>)?;
            self.bound &= !(1 << column as u32);
        }
        Ok(())
    }

    /// NULL where it is empty: unset.
    fn bind_text(&mut self, column: Column, text: &str) -> rusqlite::Result<()> {
        self.bind_or_null(column, (!text.is_empty()).then_some(text))
    }

    /// Text that is often that of the row before: to compare costs less than to bind, which copies it into memory of its
    /// own.
    fn bind_repeated(&mut self, column: Column, text: &str) -> rusqlite::Result<()> {
        if self.repeated[column as usize].as_deref() != Some(text) {
            // After an error nothing is known of what is bound.
            let mut bound = self.repeated[column as usize].take().unwrap_or_default();
            self.bind_text(column, text)?;
            text.clone_into(&mut bound);
            self.repeated[column as usize] = Some(bound);
        }
        Ok(())
    }

    fn bind_hex(&mut self, column: Column, bytes: Option<&[u8]>) -> rusqlite::Result<()> {
        self.bind_written(column, bytes.map(|bytes| |out: &mut Vec<u8>| write_hex(bytes, out)))
    }

    /// `write` writes UTF-8.
    fn bind_written(&mut self, column: Column, write: Option<impl FnOnce(&mut Vec<u8>)>) -> rusqlite::Result<()> {
        let Some(write) = write else { return self.bind_or_null(column, None::<&str>) };
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        write(&mut text);
        let done = self.bind(column, utf8(&text));
        self.text = text;
        done
    }
}

/// Text that is known to be UTF-8.
pub(super) fn utf8(text: &[u8]) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(ValueRef::Text(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_of_the_statement_is_written_and_no_other() {
        for column in ["server_id", "received_at", "duration_nano", "attributes", "NAME"] {
            assert!(writes(column), "{column}");
        }
        for column in ["", "site", "server", "?1"] {
            assert!(!writes(column), "{column}");
        }
    }
}
