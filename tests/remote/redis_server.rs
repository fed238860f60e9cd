//! The servers and the faults that other tests start do what their names say.

use std::process::{Command, Stdio};

use crate::process::{Running, until};
use crate::support::redis_server::{Connection, RedisServer, Reply};

fn is_running(pid: u32) -> bool {
    let mut asked = Command::new("kill");
    asked.args(["-0", &pid.to_string()]).stderr(Stdio::null());
    asked.status().expect("kill").success()
}

#[test]
fn a_server_answers_on_its_own_port_and_ends_with_its_handle() {
    let server = RedisServer::start();
    server.command(&["SET", "a", "b"]).ok();
    server
        .command(&[b"SET".as_slice(), b"raw", b"\0\xff\r\n"])
        .ok();
    assert_eq!(server.command(&["GET", "raw"]).bytes(), b"\0\xff\r\n");
    assert_eq!(server.command(&["GET", "none"]), Reply::Nil);
    assert_eq!(server.command(&["LPUSH", "list", "x", "y"]).integer(), 2);
    assert!(matches!(server.command(&["GET", "list"]), Reply::Error(_)));
    assert_eq!(server.keys("*"), ["a", "list", "raw"]);
    assert_eq!(server.calls("lpush"), 1);
    let mut dialled = Connection::dial(server.addr()).unwrap();
    assert_eq!(dialled.command(&["GET", "a"]).unwrap().text(), "b");
    server.command(&["FLUSHALL"]).ok();
    let other = RedisServer::start();
    assert_ne!(server.port(), other.port());
    let pid = server.pid();
    drop(server);
    until("the server has ended", || !is_running(pid));
    assert_eq!(other.command(&["DBSIZE"]).integer(), 0);
}

#[test]
fn a_server_is_killed_halted_and_started_again_on_the_same_port() {
    let server = RedisServer::start_with(&["--maxmemory", "2mb", "--requirepass", "secret"]);
    assert!(server.url().contains(":secret@"));
    let config = server.command(&["CONFIG", "GET", "maxmemory"]);
    let Reply::Array(config) = config else {
        panic!("{config:?}")
    };
    assert_eq!(config[1].text(), "2097152");
    let (port, pid) = (server.port(), server.pid());
    server.kill();
    until("it is gone", || !is_running(pid));
    server.restart();
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), pid);
    server.stop();
    let mut held = Connection::dial(server.addr()).unwrap();
    held.give_up_after(std::time::Duration::from_millis(50));
    assert!(
        held.command(&["PING"]).is_err(),
        "a halted server says nothing"
    );
    server.cont();
    assert_eq!(server.command(&["PING"]).text(), "PONG");
}

#[test]
fn a_server_does_not_outlive_a_process_that_is_killed() {
    const CHILD: &str = "REDIS_SERVER_CHILD";
    if std::env::var_os(CHILD).is_some() {
        println!("\npid {}", RedisServer::shared().pid());
        loop {
            std::thread::park();
        }
    }
    let mut child = Running::spawn(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("redis_server::a_server_does_not_outlive_a_process_that_is_killed")
            .env(CHILD, "1"),
    );
    let pid = child.wait_for_line(|line| line.strip_prefix("pid ")?.parse::<u32>().ok());
    assert!(is_running(pid));
    // By SIGKILL: nothing in the process gets a turn any more.
    drop(child);
    until("the server has ended", || !is_running(pid));
}
