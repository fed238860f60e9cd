//! The shared invalidation log in Redis: `{namespace}:seq`, a number, and `{namespace}:log`, a sorted
//! set of records by their numbers; with real braces, so that both are in one slot of a cluster.
//!
//! The log always has the record that selects everything; its number is that below which the log
//! knows nothing. Scripts see and change both keys in one step, so nobody sees one without the other.

use std::{str, sync::Arc, time::Duration};

use bytes::Bytes;
use fred::{
    interfaces::{ClientLike, KeysInterface, LuaInterface},
    types::{Expiration, SetOptions, Value, config::Options},
};
use tokio::sync::Notify;

use super::{RedisStore, hearing::GIVEN_BACK, mismatched, reply::text};
use crate::{
    error::StoreError,
    store::{
        Store, StoreFuture, StoreKey,
        coherence::{Added, Channel, Message, Page, Seen},
        record::EVERYTHING,
    },
};

/// Who has more to remember lets the oldest go.
const MAX_RECORDS: usize = 100_000;
/// How many records are read at a time; more than are ever told together.
const PAGE: usize = 1_024;
/// For a script.
pub(super) const SCRIPT: Duration = Duration::from_millis(400);

/// Adds records, all under one number. Without rights for the channel it is done all the same.
const ADD: &str = r"
local seq, log = KEYS[1], KEYS[2]
local seen, writer, channel, most, everything = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local known = redis.call('GET', seq) or ''
local previous = tonumber(known)
local whole = previous and previous >= seen and redis.call('ZSCORE', log, everything)
if whole and #ARGV == 5 then
  return {known, known, 0}
end
local now = redis.call('TIME')
local number = math.max((previous or 0) + 1, now[1] * 1000000 + now[2], seen + 1)
number = string.format('%.0f', number)
local message = {}
local function add(record)
  redis.call('ZADD', log, number, record)
  message[#message + 1] = #record .. ':' .. record
end
if not whole then
  known = '0'
  redis.call('ZREMRANGEBYSCORE', log, '-inf', '+inf')
  add(everything)
end
redis.call('SET', seq, number)
for i = 6, #ARGV do
  add(ARGV[i])
end
local surplus = redis.call('ZCARD', log) - most
if surplus > 0 then
  local oldest = redis.call('ZRANGE', log, 0, surplus, 'WITHSCORES')
  local floor = oldest[#oldest]
  redis.call('ZREMRANGEBYSCORE', log, '-inf', floor)
  if not redis.call('ZSCORE', log, everything) then
    redis.call('ZADD', log, floor, everything)
  end
end
redis.pcall('PUBLISH', channel, writer .. ' ' .. known .. ' ' .. number .. ' ' .. table.concat(message))
return {known, number, whole and 0 or 1}
";

/// Records from a number on, with the present number.
const READ: &str = r"
local number = redis.call('GET', KEYS[1])
if not number or not redis.call('ZSCORE', KEYS[2], ARGV[3]) then
  return {''}
end
local page = redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
table.insert(page, 1, number)
return page
";

/// Gives a lease back, unless it has ended and is somebody else's by now.
const GIVE_BACK: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('UNLINK', KEYS[1])
  redis.pcall('PUBLISH', ARGV[2], ARGV[3] .. KEYS[1])
end
return 0
";

/// The names of what belongs to the shared log.
pub(super) struct Names {
    pub(super) seq: Bytes,
    pub(super) log: String,
    /// Where messages come.
    pub(super) channel: String,
}

impl Names {
    pub(super) fn new(namespace: &str) -> Self {
        Self {
            seq: format!("{{{namespace}}}:seq").into(),
            log: format!("{{{namespace}}}:log"),
            channel: format!("{namespace}:invalidated"),
        }
    }
}

impl RedisStore {
    async fn script(
        &self,
        script: &'static str,
        args: Vec<Value>,
    ) -> Result<Vec<Value>, StoreError> {
        let bytes = args
            .iter()
            .map(|arg| text(arg).map_or(8, <[u8]>::len))
            .sum();
        let asked = self.pick(bytes)?;
        let names = &self.connections.names;
        let keys = vec![names.seq.clone(), names.log.clone().into()];
        let client = asked.connection.client.with_options(&Options {
            timeout: Some(SCRIPT),
            ..Options::default()
        });
        let reply: Result<Value, _> = client.eval(script, keys, args).await;
        match self.judged(asked, reply)? {
            Value::Array(values) => Ok(values),
            _ => Err(mismatched("EVAL")),
        }
    }

    async fn add_records(
        &self,
        writer: u64,
        seen: u64,
        records: Vec<Vec<u8>>,
    ) -> Result<Added, StoreError> {
        let mut args: Vec<Value> = vec![
            seen.to_string().into(),
            format!("{writer:016x}").into(),
            self.connections.names.channel.clone().into(),
            MAX_RECORDS.to_string().into(),
            bytes(&EVERYTHING),
        ];
        args.extend(records.iter().map(|record| bytes(record)));
        let values = self.script(ADD, args).await?;
        let [previous, number, is_new] = values.as_slice() else {
            return Err(mismatched("EVAL"));
        };
        match (number_of(previous), number_of(number), is_new) {
            (Some(previous), Some(number), Value::Integer(is_new)) => Ok(Added {
                previous,
                number,
                is_new: *is_new != 0,
            }),
            _ => Err(mismatched("EVAL")),
        }
    }

    async fn read_number(&self) -> Result<Option<u64>, StoreError> {
        let asked = self.pick(0)?;
        let seq = self.connections.names.seq.clone();
        let reply: Result<Value, _> = asked.connection.client.get(seq).await;
        let reply = self.judged(asked, reply)?;
        number_or_none(&reply)
    }

    async fn read_page(&self, from: u64) -> Result<Page, StoreError> {
        let args = vec![
            from.to_string().into(),
            PAGE.to_string().into(),
            bytes(&EVERYTHING),
        ];
        let values = self.script(READ, args).await?;
        let (first, records) = values.split_first().ok_or_else(|| mismatched("EVAL"))?;
        let number = number_of(first);
        let pairs = records.chunks(2);
        let record = |pair: &[Value]| match pair {
            [record, number] => Some((text(record)?.to_vec(), number_of(number)?)),
            _ => None,
        };
        let records: Option<Vec<_>> = pairs.map(record).collect();
        let records = records.ok_or_else(|| mismatched("EVAL"))?;
        Ok(Page {
            number,
            is_last: records.len() < PAGE,
            records,
        })
    }
}

/// What `GET` of the number says; `None` where there is none.
pub(super) fn number_or_none(reply: &Value) -> Result<Option<u64>, StoreError> {
    match reply {
        Value::Null => Ok(None),
        // Not as a number: that would be the answer to another command.
        Value::Integer(_) => Err(mismatched("GET")),
        other => number_of(other).map(Some).ok_or_else(|| mismatched("GET")),
    }
}

fn number_of(value: &Value) -> Option<u64> {
    if let Value::Integer(number) = value {
        return u64::try_from(*number).ok();
    }
    str::from_utf8(text(value)?).ok()?.parse().ok()
}

fn bytes(bytes: &[u8]) -> Value {
    Value::Bytes(Bytes::copy_from_slice(bytes))
}

/// What was published. What is not ours is not heard: should it have been, its number is missing, and
/// the log is read.
pub(super) fn message(payload: &[u8]) -> Option<Message> {
    let mut parts = payload.splitn(4, |byte| *byte == b' ');
    let mut text = || str::from_utf8(parts.next()?).ok();
    let writer = u64::from_str_radix(text()?, 16).ok()?;
    let (previous, number) = (text()?.parse().ok()?, text()?.parse().ok()?);
    let mut rest = parts.next()?;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let colon = rest.iter().position(|byte| *byte == b':')?;
        let length: usize = str::from_utf8(&rest[..colon]).ok()?.parse().ok()?;
        let (record, others) = rest[colon + 1..].split_at_checked(length)?;
        records.push(record.to_vec());
        rest = others;
    }
    Some(Message {
        writer,
        previous,
        number,
        records,
    })
}

impl Channel for RedisStore {
    fn add(&self, writer: u64, seen: u64, records: Vec<Vec<u8>>) -> StoreFuture<'_, Added> {
        Box::pin(self.add_records(writer, seen, records))
    }

    fn number(&self) -> StoreFuture<'_, Option<u64>> {
        Box::pin(self.read_number())
    }

    fn page(&self, from: u64) -> StoreFuture<'_, Page> {
        Box::pin(self.read_page(from))
    }

    fn heard(&self) -> StoreFuture<'_, Message> {
        Box::pin(self.hearing.next())
    }

    fn is_hearing(&self) -> bool {
        self.hearing.is_proven()
    }

    fn lease_name(&self, key: &StoreKey<'_>) -> String {
        let entry = self.name(key);
        format!(
            "{}:lease{}",
            self.connections.target.namespace,
            &entry[self.connections.target.namespace.len()..]
        )
    }

    fn take_lease(&self, name: String, token: u64, life: Duration) -> StoreFuture<'_, bool> {
        Box::pin(async move {
            let life = i64::try_from(life.as_millis()).unwrap_or(i64::MAX).max(1);
            let asked = self.pick(0)?;
            let client = &asked.connection.client;
            let (ends, unless_there) = (Some(Expiration::PX(life)), Some(SetOptions::NX));
            let reply: Result<Value, _> = client
                .set(name, token.to_string(), ends, unless_there, false)
                .await;
            let reply = self.judged(asked, reply)?;
            match (&reply, text(&reply)) {
                (_, Some(b"OK")) => Ok(true),
                (Value::Null, _) => Ok(false),
                _ => Err(mismatched("SET")),
            }
        })
    }

    fn give_back(&self, name: String, token: u64) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let channel = self.connections.names.channel.clone();
            let args: Vec<Value> =
                vec![token.to_string().into(), channel.into(), GIVEN_BACK.into()];
            let asked = self.pick(0)?;
            let client = &asked.connection.client;
            let reply: Result<Value, _> = client.eval(GIVE_BACK, vec![name], args).await;
            self.judged(asked, reply).map(|_| ())
        })
    }

    fn given_back(&self, name: &str) -> Arc<Notify> {
        self.hearing.given_back(name)
    }

    fn seen(&self) -> &Seen {
        &self.seen
    }

    fn number_time(&self) -> Option<std::time::SystemTime> {
        Store::time(self)
    }

    fn set_password(&self, password: String) {
        self.connections.target.set_password(password);
        self.connections.replace();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read_again_and_nothing_else() {
        let whole = b"00000000000000ff 41 42 3:a:b2:\0 ";
        let expected = Message {
            writer: 255,
            previous: 41,
            number: 42,
            records: vec![b"a:b".to_vec(), b"\0 ".to_vec()],
        };
        assert_eq!(message(whole), Some(expected));
        let empty = message(b"ff 0 42 ").unwrap();
        assert_eq!((empty.previous, empty.records.len()), (0, 0));
        // Between two records, and before the first.
        for end in (0..whole.len()).filter(|end| ![23, 28].contains(end)) {
            assert_eq!(message(&whole[..end]), None, "{end}");
        }
        for other in [
            "",
            "x",
            "zz 1 2 ",
            "ff -1 2 ",
            "ff 1 2 x",
            "ff 1 2 9:a",
            "ff 1 2 99999999999999999999:a",
        ] {
            assert_eq!(message(other.as_bytes()), None, "{other}");
        }
    }
}
