//! A position's key that is missing: a new beginning, unless the stream has entries of this log, or is there while this
//! process has seen a position.

use redis::Value;

use super::connection::{Commands, Connection, Trouble};
use super::{Redis, Stop};
use crate::limits;
use crate::sink::ownership::{Proof, Remains, Wording};

impl Redis {
    /// Fails with what to do where the shard's position is missing beside its stream and the stream has entries of this
    /// log, or this process has seen the position before: the same events would be added once more. Entries of others
    /// prove nothing to a process that has seen no position.
    pub(super) fn check_missing(&self, index: usize, connection: &mut Connection, asking: bool) -> Result<(), Stop> {
        let Some(shard) = self.shards.get(index) else { return Ok(()) };
        let found = match &shard.last_id {
            // However many entries of others follow it.
            Some(id) => entries(&shard.stream, [id, id], 1, connection, asking)?.pop(),
            None => None,
        };
        // A consumer may have removed it.
        let found = match found.and_then(|entry| position_of(&entry, self.ownership.server_id())) {
            None => self.last_entry(&shard.stream, connection, asking)?,
            found => found,
        };
        let (key, stream) = (String::from_utf8_lossy(&shard.position_key), String::from_utf8_lossy(&shard.stream));
        self.ownership.check_missing(index, Remains::Partly(found), |position, proof| Wording {
            place: format!("the key {key}"),
            events: format!("the stream {stream}"),
            cause: "Redis evicted the key (set maxmemory-policy noeviction), somebody removed it, or the sink had another \
                    name",
            restore: format!("SET {key} \"{}\"", self.value(position)),
            otherwise: match proof {
                Proof::Events => "to deliver again what the log has, remove the stream too",
                Proof::Seen => "to deliver again what the log has, restart the server, or remove the stream too",
            }
            .to_owned(),
        })?;
        Ok(())
    }

    /// The position of this log's last entry in the stream; `None`: it has none among the last
    /// [`limits::REDIS_LOOK_BACK_ENTRIES`].
    fn last_entry(&self, stream: &[u8], connection: &mut Connection, asking: bool) -> Result<Option<u64>, Stop> {
        let mut end = b"+".to_vec();
        for _ in 0..limits::REDIS_LOOK_BACK_ENTRIES / limits::REDIS_LOOK_BACK_PAGE {
            let entries = entries(stream, [&end, b"-"], limits::REDIS_LOOK_BACK_PAGE, connection, asking)?;
            if let Some(position) = entries.iter().find_map(|entry| position_of(entry, self.ownership.server_id())) {
                return Ok(Some(position));
            }
            match entries.last().and_then(id_before) {
                Some(id) if entries.len() == limits::REDIS_LOOK_BACK_PAGE => end = id.into_bytes(),
                _ => break,
            }
        }
        Ok(None)
    }
}

/// Entries of the stream from an id back to another, at most so many.
fn entries(
    stream: &[u8],
    [from, to]: [&[u8]; 2],
    count: usize,
    connection: &mut Connection,
    asking: bool,
) -> Result<Vec<Value>, Stop> {
    let mut commands = Commands::default();
    if asking {
        commands.command(&[b"ASKING"]);
    }
    commands.command(&[b"XREVRANGE", stream, from, to, b"COUNT", count.to_string().as_bytes()]);
    match connection.ask_all(&commands)?.pop() {
        Some(Value::Array(entries)) => Ok(entries),
        reply => Err(Trouble::unexpected(reply.as_ref().unwrap_or(&Value::Nil)).into()),
    }
}

/// The position of an entry `[id, [name, value …]]` of the log `server_id`.
fn position_of(entry: &Value, server_id: &str) -> Option<u64> {
    let Value::Array(entry) = entry else { return None };
    let [_, Value::Array(fields)] = entry.as_slice() else { return None };
    let field = |wanted: &[u8]| {
        fields.chunks_exact(2).find_map(|field| match field {
            [Value::BulkString(name), Value::BulkString(value)] if name == wanted => std::str::from_utf8(value).ok(),
            _ => None,
        })
    };
    field(b"position").filter(|_| field(b"server_id") == Some(server_id))?.parse().ok()
}

/// The id before that of an entry. (`(id`, for the same, is of Redis 6.2.)
fn id_before(entry: &Value) -> Option<String> {
    let Value::Array(entry) = entry else { return None };
    let Some(Value::BulkString(id)) = entry.first() else { return None };
    let (milliseconds, number) = std::str::from_utf8(id).ok()?.split_once('-')?;
    let (milliseconds, number): (u64, u64) = (milliseconds.parse().ok()?, number.parse().ok()?);
    match number.checked_sub(1) {
        Some(number) => Some(format!("{milliseconds}-{number}")),
        None => Some(format!("{}-{}", milliseconds.checked_sub(1)?, u64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn entry(id: &str, fields: &[&str]) -> Value {
        Value::Array(vec![text(id), Value::Array(fields.iter().map(|field| text(field)).collect())])
    }

    #[test]
    fn an_entry_of_this_log_names_its_position() {
        for (fields, position) in [
            (&["server_id", "a", "position", "7", "kind", "log"][..], Some(7)),
            (&["position", "7", "server_id", "a"], Some(7)),
            (&["server_id", "b", "position", "7"], None),
            (&["server_id", "a", "position", "x"], None),
            (&["server_id", "a"], None),
            (&["body", "position", "server_id", "a"], None),
            (&["position"], None),
            (&[], None),
        ] {
            assert_eq!(position_of(&entry("1-1", fields), "a"), position, "{fields:?}");
        }
        assert_eq!(position_of(&Value::Nil, "a"), None);
    }

    #[test]
    fn the_page_before_ends_before_the_first_entry() {
        for (id, before) in [
            ("5-2", Some("5-1")),
            ("5-0", Some("4-18446744073709551615")),
            ("0-1", Some("0-0")),
            ("0-0", None),
            ("x", None),
        ] {
            assert_eq!(id_before(&entry(id, &[])).as_deref(), before, "{id}");
        }
    }
}
