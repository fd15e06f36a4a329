//! The commands about the key of a shard's position. What follows from it decides [`ownership`](crate::sink::ownership).

use redis::Value;

use super::connection::{Commands, Connection, Trouble};
use super::errors::{Verdict, verdict};
use super::{Redis, Stop};
use crate::sink::ownership::{Connect, Held, OwnershipError};

/// The value of a position's key: `position owner shards`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    /// Position and owner.
    pub held: Held,
    /// How many shards the stream had then.
    pub shards: u64,
}

impl Written {
    fn parse(text: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        let held = Held { position: words.next()?.parse().ok()?, owner: words.next()?.to_owned() };
        let written = Self { held, shards: words.next()?.parse().ok()? };
        words.next().is_none().then_some(written)
    }
}

impl Redis {
    /// The value that makes this process the owner of a key.
    pub(super) fn value(&self, position: u64) -> String {
        format!("{position} {} {}", self.ownership.owner(), self.settings.shards)
    }

    /// Takes the shard's position, or verifies that it is still this process's.
    pub(super) fn take(&mut self, index: usize, connection: &mut Connection, asking: bool) -> Result<(), Stop> {
        let (written, has_stream) = self.look(index, connection, asking)?;
        if let Some(written) = &written {
            self.check_shards(written)?;
        }
        let position = match self.ownership.connect(index, written.map(|written| written.held).as_ref())? {
            Connect::Take { position } => position,
            // It was moved after all shards were read: they are read again.
            Connect::LeaveAlone { .. } => return Err(OwnershipError::Changed.into()),
            Connect::New => {
                if has_stream {
                    self.check_missing(index, connection, asking)?;
                }
                0
            }
        };
        if let Some(shard) = self.shards.get_mut(index) {
            shard.commands.clear();
        }
        self.commit(index, Some(position), connection, asking)?;
        self.ownership.taken(index, position);
        Ok(())
    }

    /// Fails with what to do where the stream was written with another number of shards.
    pub(super) fn check_shards(&self, written: &Written) -> Result<(), Stop> {
        let (was, is) = (written.shards, self.settings.shards);
        if was == is {
            return Ok(());
        }
        Err(Stop::Unavailable(self.down(&format!(
            "written with {was} shards so far, now set to {is}: set shards = {was}, or another stream"
        ))))
    }

    /// Watches the shard's position and reads it, and looks whether the stream is there: it must be one, or none yet.
    pub(super) fn look(
        &self,
        index: usize,
        connection: &mut Connection,
        asking: bool,
    ) -> Result<(Option<Written>, bool), Stop> {
        let Some(shard) = self.shards.get(index) else { return Ok((None, false)) };
        let mut commands = Commands::default();
        for command in [[&b"WATCH"[..], &shard.position_key], [b"GET", &shard.position_key], [b"TYPE", &shard.stream]] {
            if asking {
                commands.command(&[b"ASKING"]);
            }
            commands.command(&command);
        }
        let replies = connection.ask_each(&commands)?;
        let mut answers = replies.into_iter().skip(usize::from(asking)).step_by(1 + usize::from(asking));
        let mut next = || answers.next().unwrap_or(Ok(Value::Nil)).map_err(Trouble::Server);
        next()?; // of WATCH
        let written = match next()? {
            Value::Nil => None,
            Value::BulkString(text) => match Written::parse(&text) {
                Some(written) => Some(written),
                None => {
                    let key = String::from_utf8_lossy(&shard.position_key);
                    let why = format!(
                        "the key {key} is not what this sink wrote there: put its value back, or set another stream"
                    );
                    return Err(Stop::Unavailable(self.down(&why)));
                }
            },
            other => return Err(Trouble::unexpected(&other).into()),
        };
        match next() {
            Ok(Value::SimpleString(kind)) if kind == "none" || kind == "stream" => Ok((written, kind == "stream")),
            Ok(Value::SimpleString(kind)) => {
                let key = String::from_utf8_lossy(&shard.stream);
                let why =
                    format!("WRONGTYPE the key {key} is a {kind}, not a stream: rename it, or set another stream");
                Err(Stop::Unavailable(self.down(&why)))
            }
            // The position is here, the stream is not or no longer: the other node knows nothing of the position yet.
            Err(trouble) if matches!(verdict(&trouble), Verdict::Ask(..)) => {
                Err(Stop::Unavailable(self.retry("the slot of a shard is being moved to another node")))
            }
            Err(trouble) => Err(trouble.into()),
            Ok(other) => Err(Trouble::unexpected(&other).into()),
        }
    }

    /// Sends the shard's commands and its new position in one transaction, under the WATCH of [`Redis::look`]. Without a
    /// position: the commands alone, whatever the position is.
    pub(super) fn commit(
        &mut self,
        index: usize,
        position: Option<u64>,
        connection: &mut Connection,
        asking: bool,
    ) -> Result<(), Stop> {
        let value = position.map(|position| self.value(position));
        let Some(shard) = self.shards.get_mut(index) else { return Ok(()) };
        let begin = begin(connection, asking)?;
        connection.send(&shard.commands)?;
        let mut end = Commands::default();
        if let Some(value) = &value {
            end.command(&[b"SET", &shard.position_key, value.as_bytes()]);
        }
        end.command(&[b"EXEC"]);
        connection.send(&end)?;

        let mut has_begun = true;
        let answers = executed(connection, begin, shard.commands.count() + end.count() - 1, &mut has_begun);
        if let (false, Some(position)) = (has_begun, position) {
            self.ownership.moved_without_events(index, position);
        }
        let answers = answers?;
        // SET answers OK, which is of another kind.
        let last_id = answers.iter().rev().find_map(|answer| match answer {
            Value::BulkString(id) => Some(id.clone()),
            _ => None,
        });
        shard.last_id = last_id.or_else(|| shard.last_id.take());
        let failed = answers.into_iter().find_map(|answer| match answer {
            Value::ServerError(error) => Some(error),
            _ => None,
        });
        let Some(error) = failed else { return Ok(()) };
        // Redis does not undo: the position has moved although an entry was refused.
        if let Some(position) = position {
            self.ownership.moved_without_events(index, position);
        }
        Err(Trouble::Server(error).into())
    }

    /// The shard's part of a delivery that ends at `last`.
    pub(super) fn store(
        &mut self,
        index: usize,
        last: u64,
        connection: &mut Connection,
        asking: bool,
    ) -> Result<(), Stop> {
        let (written, _) = self.look(index, connection, asking)?;
        self.ownership.confirm(index, written.map(|written| written.held).as_ref())?;
        let committed = self.commit(index, Some(last), connection, asking);
        if committed.is_err() {
            // Else a stop before the next connect would leave the position ahead of its entries.
            self.move_back(index, connection, asking);
        }
        committed?;
        self.ownership.moved(index, last);
        Ok(())
    }

    /// Takes back a position that was moved without its entries. Where that fails, the next connect does it.
    fn move_back(&mut self, index: usize, connection: &mut Connection, asking: bool) {
        if !self.ownership.may_be_without_events(index) {
            return;
        }
        let Ok((written, _)) = self.look(index, connection, asking) else { return };
        let held = written.map(|written| written.held);
        let Some(before) = self.ownership.position_to_restore(index, held.as_ref()) else { return };
        if let Some(shard) = self.shards.get_mut(index) {
            shard.commands.clear();
        }
        if self.commit(index, Some(before), connection, asking).is_ok() {
            self.ownership.restored(index);
        }
    }
}

/// Sends MULTI. Returns how many replies to it are still to be read.
fn begin(connection: &mut Connection, asking: bool) -> Result<usize, Stop> {
    let mut commands = Commands::default();
    if asking {
        // Holds until EXEC.
        commands.command(&[b"ASKING"]);
    }
    commands.command(&[b"MULTI"]);
    if connection.takes_multi {
        connection.send(&commands)?;
        return Ok(commands.count());
    }
    connection.ask_all(&commands)?;
    connection.takes_multi = true;
    Ok(0)
}

/// Reads the replies to a transaction: `begin` to MULTI, `queued` to its commands, and that to EXEC, which it returns.
/// `has_begun`: set to false where MULTI was refused.
fn executed(
    connection: &mut Connection,
    begin: usize,
    queued: usize,
    has_begun: &mut bool,
) -> Result<Vec<Value>, Stop> {
    // The first error says why; EXEC then only says that there was one.
    let mut refused = None;
    for index in 0..begin + queued {
        match connection.reply() {
            Ok(_) => {}
            Err(Trouble::Server(error)) => {
                // MULTI is no longer allowed: what follows it was executed by itself, the position too.
                *has_begun &= index >= begin;
                refused = refused.or(Some(error));
            }
            Err(trouble) => return Err(trouble.into()),
        }
    }
    match connection.reply() {
        Err(Trouble::Server(error)) => Err(Trouble::Server(refused.unwrap_or(error)).into()),
        Err(trouble) => Err(trouble.into()),
        Ok(Value::Nil) => Err(OwnershipError::Changed.into()),
        Ok(Value::Array(answers)) => Ok(answers),
        Ok(other) => Err(Trouble::unexpected(&other).into()),
    }
}
