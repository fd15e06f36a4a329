//! A request in protobuf: resources, in them scopes, in them records. All three signals are built alike.
//!
//! The fields of a message may come in any order, and a resource in several parts; so the keys and lengths of a group are
//! read once to find its resource or scope, and once more to map what is in it.

use super::mapping::{DEPTH_REQUEST, Group, Mapping};
use super::parts::{Joined, join};
use super::schema::{Kind, Message};
use super::tables::{EXPORT_LOGS_SERVICE_REQUEST, EXPORT_METRICS_SERVICE_REQUEST, EXPORT_TRACE_SERVICE_REQUEST};
use super::{Malformed, OtlpError, Output, Signal};
use crate::event::protobuf::{DELIMITED, delimited, field_key, key, skip};

/// `resource_logs` and its like.
const RESOURCES: u32 = key(1, DELIMITED);
/// `resource` or `scope`.
const HEAD: u32 = key(1, DELIMITED);
/// `scope_logs` or `log_records`, and their like.
const MEMBERS: u32 = key(2, DELIMITED);

/// The messages of a signal.
#[derive(Clone, Copy)]
pub(super) struct Messages {
    /// `Export…ServiceRequest`.
    pub request: &'static Message,
    /// `ResourceLogs` and its like.
    pub resources: &'static Message,
    /// `ScopeLogs` and its like.
    pub scopes: &'static Message,
}

impl Messages {
    /// Those of `signal`.
    pub(super) fn of(signal: Signal) -> Self {
        let request = match signal {
            Signal::Logs => &EXPORT_LOGS_SERVICE_REQUEST,
            Signal::Metrics => &EXPORT_METRICS_SERVICE_REQUEST,
            Signal::Traces => &EXPORT_TRACE_SERVICE_REQUEST,
        };
        let resources = member(request, 1);
        Self { request, resources, scopes: member(resources, 2) }
    }
}

/// The message of the field `number`. The tables have it.
pub(super) fn member(message: &'static Message, number: u32) -> &'static Message {
    match message.fields.iter().find(|field| field.number == number).map(|field| field.kind) {
        Some(Kind::Message(member)) => member,
        _ => message,
    }
}

impl<O: Output> Mapping<'_, O> {
    /// Maps a whole request.
    ///
    /// # Errors
    /// It is malformed or too large, or the output takes no more.
    pub(super) fn request(&mut self, body: &[u8]) -> Result<(), OtlpError<O::Error>> {
        let messages = Messages::of(self.signal);
        let mut rest = body;
        while !rest.is_empty() {
            let (key, after) = field_key(rest).map_err(|fault| messages.request.malformed(fault))?;
            rest = if key == RESOURCES {
                let (group, after) = delimited(after).map_err(|fault| messages.request.malformed(fault))?;
                self.resource_group(messages, group)?;
                after
            } else {
                messages.request.pass(key, after, DEPTH_REQUEST)?
            };
        }
        Ok(())
    }

    fn resource_group(&mut self, messages: Messages, bytes: &[u8]) -> Result<(), OtlpError<O::Error>> {
        let resource = head(messages.resources, bytes, DEPTH_REQUEST - 2)?;
        let resource = resource.as_deref().unwrap_or_default();
        self.begin_resource(resource)?;
        each_member(messages.resources, bytes, DEPTH_REQUEST - 1, |scope_group| {
            let scope = head(messages.scopes, scope_group, DEPTH_REQUEST - 3)?;
            let scope = scope.as_deref().unwrap_or_default();
            self.begin_scope(scope)?;
            let group = Group { resource, scope };
            each_member(messages.scopes, scope_group, DEPTH_REQUEST - 2, |record| self.record(group, record))
        })
    }
}

/// The resource or scope of a group, joined where it comes in several parts. `depth`: levels that may be entered within it.
fn head<'a>(message: &'static Message, bytes: &'a [u8], depth: usize) -> Result<Joined<'a>, Malformed> {
    let malformed = |fault| message.malformed(fault);
    let (mut head, mut rest) = (None, bytes);
    while !rest.is_empty() {
        let (key, after) = field_key(rest).map_err(malformed)?;
        rest = if key & 7 == DELIMITED {
            let (content, after) = delimited(after).map_err(malformed)?;
            if key == HEAD {
                join(&mut head, content, member(message, 1), depth)?;
            }
            after
        } else {
            // What is wrong with the field is said when it is passed for the second time.
            skip(key, after, 0, DEPTH_REQUEST).map_err(malformed)?
        };
    }
    Ok(head)
}

/// Calls `each` with the members of a group, and checks its other fields. `depth`: levels that may be entered within it.
fn each_member<'a, E: From<Malformed>>(
    message: &Message,
    bytes: &'a [u8],
    depth: usize,
    mut each: impl FnMut(&'a [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let malformed = |fault| message.malformed(fault);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (key, after) = field_key(rest).map_err(malformed)?;
        rest = match key {
            MEMBERS => {
                let (member, after) = delimited(after).map_err(malformed)?;
                each(member)?;
                after
            }
            // It was read before.
            HEAD => delimited(after).map_err(malformed)?.1,
            _ => message.pass(key, after, depth)?,
        };
    }
    Ok(())
}
