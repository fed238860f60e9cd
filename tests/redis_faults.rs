//! A Redis that is gone, halted, or behind a bad line hurts nobody, and is used again when it is
//! back.
#![cfg(feature = "redis")]

mod support;
#[path = "support/trial.rs"]
mod trial;

use std::time::Duration;

use support::{
    fault_proxy::{Fault, FaultProxy},
    redis_server::RedisServer,
};
use trial::{LONG, Trial};

/// A proxy that belongs to a trial, and the trial.
fn behind_proxy(name: &'static str) -> (FaultProxy, Trial) {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.addr());
    let trial = Trial::start_in_use(name, server, &proxy.url());
    (proxy, trial)
}

#[test]
fn a_server_that_is_absent_at_the_start_is_used_when_it_comes() {
    let server = RedisServer::start();
    server.kill();
    let url = server.url();
    let trial = Trial::start("absent", server, &url);
    trial.suffer(LONG);
    trial.until_said("connecting (");
    trial.server.restart();
    trial.ends_well(6);
}

#[test]
fn a_server_that_was_killed_is_used_when_it_is_back() {
    let server = RedisServer::start();
    let url = server.url();
    let trial = Trial::start_in_use("killed", server, &url);
    trial.server.kill();
    trial.suffer(LONG);
    trial.until_said("connecting (");
    trial.server.restart();
    trial.ends_well(12);
}

#[test]
fn a_server_that_was_halted_for_ten_seconds_is_used_when_it_goes_on() {
    let server = RedisServer::start();
    let url = server.url();
    let trial = Trial::start_in_use("halted", server, &url);
    trial.server.stop();
    trial.suffer(Duration::from_secs(10)); // The kernel's and the client's patience end in it.
    trial.until_said("connecting (");
    trial.server.cont();
    trial.ends_well(12);
}

#[test]
fn a_black_hole_hurts_nobody() {
    let (proxy, trial) = behind_proxy("black hole");
    proxy.set(Fault::BlackHole);
    trial.suffer(LONG);
    trial.until_said("connecting (");
    proxy.set(Fault::None);
    trial.ends_well(12);
}

#[test]
fn a_slow_line_hurts_nobody() {
    let (proxy, trial) = behind_proxy("20 to 200 ms");
    proxy.set(Fault::Delay(
        Duration::from_millis(20)..Duration::from_millis(200),
    ));
    trial.suffer(LONG);
    assert!(trial.cache.stats().remote().timeouts() > 0);
    proxy.set(Fault::None);
    trial.ends_well(60);
}

#[test]
fn connections_that_are_cut_at_random_hurt_nobody() {
    let (proxy, trial) = behind_proxy("random cuts");
    proxy.set(Fault::RandomCuts(0.01));
    trial.suffer(LONG);
    assert!(proxy.counts().cut > 5, "{:?}", proxy.counts());
    proxy.set(Fault::None);
    // Some hundred connections break, each of which may have been the last one, or bring down what
    // is read or written; of thousands of requests.
    trial.ends_well(300);
}
