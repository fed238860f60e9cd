//! A Redis that refuses what is asked of it hurts nobody, and is used again when it no longer does.
#![cfg(feature = "redis")]

mod support;
#[path = "support/trial.rs"]
mod trial;

use support::redis_server::RedisServer;
use trial::{LONG, Trial};

/// A server with a user of the cache's own, and a URL with it.
fn with_user() -> (RedisServer, String) {
    let server = RedisServer::start();
    acl(&server, &["on", ">right", "~*", "&*", "+@all"]);
    let url = format!("redis://cache:right@127.0.0.1:{}", server.port());
    (server, url)
}

fn acl(server: &RedisServer, rules: &[&str]) {
    let words = ["ACL", "SETUSER", "cache"].iter().chain(rules);
    server.command(&words.collect::<Vec<_>>()).ok();
}

#[test]
fn a_wrong_password_hurts_nobody_and_is_tried_until_it_is_right() {
    let (server, url) = with_user();
    acl(&server, &["<right", ">other"]);
    let trial = Trial::start("wrong password", server, &url);
    trial.suffer(LONG);
    trial.until_said("password");
    acl(&trial.server, &[">right"]);
    trial.ends_well(6);
}

#[test]
fn a_user_who_may_not_read_hurts_nobody() {
    let (server, url) = with_user();
    let trial = Trial::start_in_use("NOPERM to read", server, &url);
    acl(&trial.server, &["-getrange"]);
    trial.suffer(LONG);
    trial.until_said("NOPERM");
    acl(&trial.server, &["+getrange"]);
    trial.ends_well(12);
}

#[test]
fn a_user_who_may_not_write_hurts_nobody() {
    let (server, url) = with_user();
    let trial = Trial::start_in_use("NOPERM to write", server, &url);
    acl(&trial.server, &["-set"]);
    trial.suffer(LONG);
    trial.until_said("NOPERM");
    acl(&trial.server, &["+set"]);
    trial.ends_well(12);
}

#[test]
fn a_user_who_may_do_nothing_at_all_hurts_nobody() {
    let (server, url) = with_user();
    acl(&server, &["-@all", "+@connection"]);
    let trial = Trial::start("NOPERM from the start", server, &url);
    trial.suffer(LONG);
    trial.until_said("may not do");
    acl(&trial.server, &["+@all"]);
    trial.ends_well(6);
}

#[test]
fn a_server_out_of_memory_hurts_nobody() {
    let server = RedisServer::start_with(&["--maxmemory", "2mb"]);
    server
        .command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
        .ok();
    let url = server.url();
    let trial = Trial::start("OOM", server, &url);
    trial.until_said("OOM");
    trial.suffer(LONG);
    trial.until_said("OOM");
    trial
        .server
        .command(&["CONFIG", "SET", "maxmemory", "0"])
        .ok();
    // A small frame fits at times, and then they are written again for a moment.
    trial.ends_well(60);
}

#[test]
fn a_server_that_became_a_replica_is_read_and_hurts_nobody() {
    let server = RedisServer::start();
    let url = server.url();
    let trial = Trial::start_in_use("READONLY", server, &url);
    // Nobody is there: what it has stays, and it goes on looking for its primary.
    trial.server.command(&["REPLICAOF", "127.0.0.1", "1"]).ok();
    trial.suffer(LONG);
    trial.until_said("READONLY");
    let before = trial.cache.stats().remote().hits();
    trial.until("read all the same", || {
        trial.cache.stats().remote().hits() > before
    });
    trial.server.command(&["REPLICAOF", "NO", "ONE"]).ok();
    trial.ends_well(12);
}

#[test]
fn a_replica_that_answers_nothing_without_its_primary_hurts_nobody() {
    let server = RedisServer::start_with(&["--replica-serve-stale-data", "no"]);
    let url = server.url();
    let trial = Trial::start_in_use("MASTERDOWN", server, &url);
    trial.server.command(&["REPLICAOF", "127.0.0.1", "1"]).ok();
    trial.suffer(LONG);
    trial.until_said("MASTERDOWN");
    trial.server.command(&["REPLICAOF", "NO", "ONE"]).ok();
    trial.ends_well(12);
}
