//! Walking through all entries: `SCAN` on every server that is a primary, the first bytes of what it finds, and
//! `UNLINK` of what is to go.
//!
//! The turn is `{namespace}:purge`, which ends by itself; for which records was walked last is in
//! `{namespace}:purged`, for each version by itself. Both are in the slot of the shared log.

use std::{str, time::Duration};

use bytes::Bytes;
use fred::{
    interfaces::{ClientLike, ClusterInterface, LuaInterface},
    types::{
        ClusterHash, CustomCommand, Value,
        config::{Options, Server},
    },
    util::redis_keyslot as keyslot,
};

use super::{
    RedisStore, mismatched,
    reply::{bytes, integer, is_answer, store_error, text},
    shared::SCRIPT,
};
use crate::{
    error::StoreError,
    store::{
        StoreFuture, StoreKey, StoreKind,
        walk::{Names, Place, Taken, Turn, Walk},
    },
};

/// How many keys Redis looks at for one answer: a fraction of a millisecond of its time.
const COUNT: &str = "100";
/// For so long it is remembered for which records was walked; afterwards they are walked for again.
const REMEMBERED: Duration = Duration::from_secs(86_400);

/// Takes or keeps the turn, unless that is needless.
const TURN: &str = r"
local walked = tonumber(redis.call('GET', KEYS[2]) or '') or 0
if walked >= tonumber(ARGV[3]) then
  return 2
end
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
";

/// Gives the turn back, unless it has ended.
const WALKED: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('UNLINK', KEYS[1])
  redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
end
return 0
";

/// Between the look and this, another one may have come in its place: what begins with the same bytes has the
/// same key, number and tags, and is judged the same. One key, as a cluster wants it.
const TAKE_OUT: &str = r"
if redis.pcall('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) == ARGV[1] then
  return redis.call('UNLINK', KEYS[1])
end
return 0
";

/// With what the names of all entries of a version begin; nothing in it means something in a pattern, as
/// `check_namespace` and the builder of the cache see to.
fn prefix(namespace: &str, version: Option<&str>) -> String {
    let version = version.map_or_else(String::new, |version| format!("{version}:"));
    format!("{namespace}:{version}")
}

/// Where a walk goes on that has come so far: at which of these servers, in their order, and where there.
fn at<'s>(servers: &'s [String], from: &Place) -> Option<(&'s String, u64)> {
    let server = servers.iter().find(|server| **server >= from.server)?;
    // One that is no primary any more is left out.
    let cursor = if *server == from.server {
        from.cursor
    } else {
        0
    };
    Some((server, cursor))
}

/// And where after that.
fn after(servers: &[String], server: &str, cursor: u64) -> Option<Place> {
    let server = match cursor {
        0 => servers
            .iter()
            .map(String::as_str)
            .find(|other| *other > server)?,
        _ => server,
    };
    Some(Place {
        server: server.to_owned(),
        cursor,
    })
}

impl RedisStore {
    /// One command or script for each of several keys, all sent at once.
    async fn for_each(
        &self,
        command: &'static str,
        args: impl Iterator<Item = (Bytes, Vec<Value>)> + Send,
        size: usize,
    ) -> Result<Vec<Result<Value, StoreError>>, StoreError> {
        let asked = self.pick(size)?;
        let pipeline = asked.connection.client.pipeline();
        let client = pipeline.with_options(&options(None));
        for (name, args) in args {
            let slot = ClusterHash::Custom(keyslot(&name));
            let command = CustomCommand::new_static(command, slot, false);
            let queued: Result<(), _> = client.custom(command, args).await;
            queued.map_err(|error| store_error(&error))?;
        }
        let replies = pipeline.try_all::<Value>().await;
        // A key that is none of ours answers with an error.
        let is_answered = replies
            .iter()
            .all(|reply| reply.as_ref().err().is_none_or(is_answer));
        if is_answered {
            asked.answered();
        }
        let replies = replies.into_iter();
        Ok(replies
            .map(|reply| reply.map_err(|error| store_error(&error)))
            .collect())
    }

    async fn for_turn(
        &self,
        script: &'static str,
        turn: &Turn<'_>,
        life: Duration,
    ) -> Result<Value, StoreError> {
        let namespace = &self.connections.target.namespace;
        let version = turn.version.map_or_else(String::new, |it| format!(":{it}"));
        let keys = vec![
            format!("{{{namespace}}}:purge"),
            format!("{{{namespace}}}:purged{version}"),
        ];
        let args: Vec<Value> = vec![
            turn.token.to_string().into(),
            life.as_millis().to_string().into(),
            turn.number.to_string().into(),
        ];
        let asked = self.pick(0)?;
        let client = asked.connection.client.with_options(&options(None));
        let reply: Result<Value, _> = client.eval(script, keys, args).await;
        self.judged(asked, reply)
    }

    async fn scan(&self, version: Option<&str>, from: &Place) -> Result<Names, StoreError> {
        let asked = self.pick(0)?;
        let client = &asked.connection.client;
        let primaries: Option<Vec<Server>> = client
            .cached_cluster_state()
            .map(|cluster| cluster.unique_primary_nodes());
        // Without a cluster there is one, without a name.
        let mut servers: Vec<String> = match &primaries {
            Some(primaries) => primaries.iter().map(ToString::to_string).collect(),
            None => vec![String::new()],
        };
        servers.sort_unstable();
        let Some((server, cursor)) = at(&servers, from) else {
            return Ok(Names::default());
        };
        let on = primaries
            .into_iter()
            .flatten()
            .find(|it| it.to_string() == *server);
        let prefix = prefix(&self.connections.target.namespace, version);
        let args: Vec<Value> = [
            &cursor.to_string(),
            "MATCH",
            &format!("{prefix}*"),
            "COUNT",
            COUNT,
        ]
        .map(Value::from)
        .into();
        let scan = CustomCommand::new_static("SCAN", ClusterHash::Random, false);
        let reply: Result<Value, _> = client.with_options(&options(on)).custom(scan, args).await;
        let reply = self.judged(asked, reply)?;
        let (cursor, found) = page(reply).ok_or_else(|| mismatched("SCAN"))?;
        // Not those of other versions, nor leases.
        let kinds = [StoreKind::Response, StoreKind::Value];
        let starts = kinds.map(|kind| format!("{prefix}{}:", kind.as_str()));
        let is_entry = |name: &Bytes| starts.iter().any(|it| name.starts_with(it.as_bytes()));
        Ok(Names {
            names: found.into_iter().filter(is_entry).collect(),
            next: after(&servers, server, cursor),
        })
    }
}

/// With time enough for what is not urgent.
fn options(on: Option<Server>) -> Options {
    Options {
        timeout: Some(SCRIPT),
        cluster_node: on,
        ..Options::default()
    }
}

/// What `SCAN` answers: where it goes on, and names.
fn page(reply: Value) -> Option<(u64, Vec<Bytes>)> {
    let Value::Array(parts) = reply else {
        return None;
    };
    let [cursor, Value::Array(names)] = <[Value; 2]>::try_from(parts).ok()? else {
        return None;
    };
    let cursor = str::from_utf8(text(&cursor)?).ok()?.parse().ok()?;
    let names: Option<Vec<_>> = names.into_iter().map(bytes).collect();
    Some((cursor, names?))
}

impl Walk for RedisStore {
    fn name_of(&self, key: &StoreKey<'_>) -> Bytes {
        self.name(key).into()
    }

    fn turn<'a>(&'a self, turn: &'a Turn<'a>, life: Duration) -> StoreFuture<'a, Taken> {
        Box::pin(async move {
            let reply = self.for_turn(TURN, turn, life).await?;
            match integer(&reply) {
                Some(0) => Ok(Taken::Elsewhere),
                Some(1) => Ok(Taken::Held),
                Some(2) => Ok(Taken::Walked),
                _ => Err(mismatched("EVAL")),
            }
        })
    }

    fn walked<'a>(&'a self, turn: &'a Turn<'a>) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let reply = self.for_turn(WALKED, turn, REMEMBERED).await?;
            integer(&reply).map(drop).ok_or_else(|| mismatched("EVAL"))
        })
    }

    fn names<'a>(&'a self, version: Option<&'a str>, from: &'a Place) -> StoreFuture<'a, Names> {
        Box::pin(self.scan(version, from))
    }

    fn starts<'a>(&'a self, names: &'a [Bytes], limit: usize) -> StoreFuture<'a, Vec<Bytes>> {
        Box::pin(async move {
            let last = limit.saturating_sub(1).to_string();
            let args = names.iter().map(|name| {
                let args = vec![Value::Bytes(name.clone()), "0".into(), last.as_str().into()];
                (name.clone(), args)
            });
            let mut starts = Vec::with_capacity(names.len());
            for reply in self.for_each("GETRANGE", args, 0).await? {
                starts.push(match reply {
                    Ok(reply) => bytes(reply).ok_or_else(|| mismatched("GETRANGE"))?,
                    // What is no string is none of ours.
                    Err(error) if error.kind() == crate::error::StoreErrorKind::NotAFrame => {
                        Bytes::new()
                    }
                    Err(error) => return Err(error),
                });
            }
            Ok(starts)
        })
    }

    fn take_out<'a>(&'a self, those: &'a [(Bytes, Bytes)]) -> StoreFuture<'a, u64> {
        Box::pin(async move {
            let args = those.iter().map(|(name, start)| {
                let (name, start) = (name.clone(), Value::Bytes(start.clone()));
                let args = vec![
                    TAKE_OUT.into(),
                    "1".into(),
                    Value::Bytes(name.clone()),
                    start,
                ];
                (name, args)
            });
            let size = those.iter().map(|(_, start)| start.len()).sum();
            let mut taken = 0;
            for reply in self.for_each("EVAL", args, size).await? {
                taken += match integer(&reply?) {
                    Some(1) => 1,
                    Some(0) => 0,
                    _ => return Err(mismatched("EVAL")),
                };
            }
            Ok(taken)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_sees_each_server_once_and_leaves_out_those_that_are_gone() {
        let servers = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let three = servers(&["a:1", "b:1", "c:1"]);
        let place = |server: &str, cursor| Place {
            server: server.to_owned(),
            cursor,
        };
        let at = |servers: &[String], from: Place| {
            at(servers, &from).map(|(server, cursor)| (server.clone(), cursor))
        };
        let first = at(&three, Place::default());
        assert_eq!(first, Some(("a:1".to_owned(), 0)));
        assert_eq!(after(&three, "a:1", 7), Some(place("a:1", 7)));
        assert_eq!(after(&three, "a:1", 0), Some(place("b:1", 0)));
        assert_eq!(after(&three, "c:1", 0), None);
        assert_eq!(at(&three, place("b:1", 7)), Some(("b:1".to_owned(), 7)));
        // Another has taken its place: what that has is walked through from its start.
        let other = servers(&["a:1", "c:1", "d:1"]);
        assert_eq!(at(&other, place("b:1", 7)), Some(("c:1".to_owned(), 0)));
        assert_eq!(at(&servers(&["a:1"]), place("b:1", 7)), None);
        // Alone it has no name.
        let alone = servers(&[""]);
        assert_eq!(at(&alone, Place::default()), Some((String::new(), 0)));
        assert_eq!(after(&alone, "", 7), Some(place("", 7)));
        assert_eq!(after(&alone, "", 0), None);
    }

    #[test]
    fn what_scan_answers_is_a_cursor_and_names() {
        let array = |values: Vec<Value>| Value::Array(values);
        let names = array(vec!["a".into(), "b".into()]);
        let whole = array(vec!["18446744073709551615".into(), names.clone()]);
        assert_eq!(page(whole), Some((u64::MAX, vec!["a".into(), "b".into()])));
        for other in [
            Value::Null,
            array(Vec::new()),
            array(vec!["0".into()]),
            array(vec!["x".into(), names.clone()]),
            array(vec!["0".into(), array(vec![Value::Null])]),
            array(vec!["0".into(), names.clone(), names]),
        ] {
            assert_eq!(page(other.clone()), None, "{other:?}");
        }
    }
}
