//! Each fault between a client and Redis does what its name says, and no more.

use std::time::{Duration, Instant};

use crate::support::{
    fault_proxy::{Fault, FaultProxy, whole_reply},
    redis_server::{Connection, RedisServer},
};

type Dialled = Connection<std::net::TcpStream>;

/// A client of a fresh server through a proxy; its handshake is one `ECHO`.
fn client(fault: Fault) -> (FaultProxy, Dialled) {
    let proxy = FaultProxy::start(RedisServer::shared().addr());
    proxy.spare(1);
    proxy.set(fault);
    let mut client = Connection::dial(proxy.addr()).unwrap();
    assert_eq!(echo(&mut client, "hello"), "hello");
    (proxy, client)
}

fn echo(client: &mut Dialled, word: &str) -> String {
    let reply = client.command(&["ECHO", word]).expect("a reply");
    reply.text().to_owned()
}

/// Asks for these words at once and reads `replies` of them.
fn pipeline(client: &mut Dialled, words: &[&str], replies: usize) -> Vec<String> {
    for word in words {
        client.send(&["ECHO", word]).unwrap();
    }
    let read = |_| client.reply().expect("a reply").text().to_owned();
    (0..replies).map(read).collect()
}

#[test]
fn replies_are_taken_apart_into_whole_ones() {
    let rows: [&[u8]; 12] = [
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":12\r\n",
        b"_\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"$4\r\na\r\nb\r\n",
        b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
        b"%1\r\n+a\r\n~2\r\n#t\r\n,1.5\r\n",
        b">2\r\n+pubsub\r\n=5\r\ntxt:a\r\n",
        b"|1\r\n+a\r\n+b\r\n:1\r\n",
        b"*0\r\n",
    ];
    for row in rows {
        let shown = row.escape_ascii();
        for end in 0..row.len() {
            assert_eq!(whole_reply(&row[..end]), None, "{shown} cut at {end}");
        }
        assert_eq!(whole_reply(row), Some(row.len()), "{shown}");
        assert_eq!(whole_reply(&[row, b"+more"].concat()), Some(row.len()));
    }
}

#[test]
fn without_a_fault_everything_arrives_as_it_was_sent() {
    let (proxy, mut client) = client(Fault::None);
    let long = "x".repeat(3 << 20);
    assert_eq!(echo(&mut client, &long), long);
    let words = ["a", "b", "c"];
    assert_eq!(pipeline(&mut client, &words, 3), words);
    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.replies), (1, 5));
    assert_eq!(counts.mangled() + counts.cut + counts.delayed, 0);
}

#[test]
fn delayed_replies_come_late_and_in_order() {
    let range = Duration::from_millis(30)..Duration::from_millis(60);
    let begin = Instant::now();
    let (proxy, mut client) = client(Fault::Delay(range));
    let words = ["a", "b", "c"];
    assert_eq!(pipeline(&mut client, &words, 3), words);
    assert!(begin.elapsed() >= Duration::from_millis(60));
    assert_eq!(proxy.counts().delayed, 4);
}

#[test]
fn a_cut_ends_the_present_connections_and_no_later_one() {
    let (proxy, mut client) = client(Fault::None);
    proxy.set(Fault::Cut);
    assert!(client.reply().is_err());
    let mut later = Connection::dial(proxy.addr()).unwrap();
    assert_eq!(echo(&mut later, "again"), "again");
    assert_eq!(proxy.counts().cut, 1);
}

#[test]
fn a_random_cut_ends_a_connection_within_a_reply() {
    let (proxy, mut client) = client(Fault::RandomCuts(1.0));
    assert!(client.command(&["ECHO", "word"]).is_err());
    assert_eq!(proxy.counts().cut, 1);
}

#[test]
fn a_black_hole_takes_everything_and_gives_it_back_when_it_closes() {
    let (proxy, mut client) = client(Fault::None);
    proxy.set(Fault::BlackHole);
    let mut other = Connection::dial(proxy.addr()).unwrap();
    for client in [&mut client, &mut other] {
        client.give_up_after(Duration::from_millis(30));
        assert!(client.command(&["ECHO", "late"]).is_err());
        client.give_up_after(Duration::from_secs(30));
    }
    assert_eq!(proxy.counts().replies, 1, "Redis has heard nothing");
    proxy.set(Fault::None);
    assert_eq!(client.reply().unwrap().text(), "late");
    assert_eq!(other.reply().unwrap().text(), "late");
}

#[test]
fn new_connections_are_refused_while_the_present_ones_stay() {
    let (proxy, mut client) = client(Fault::None);
    proxy.set(Fault::Refuse);
    let mut refused = Connection::dial(proxy.addr()).unwrap();
    assert!(refused.command(&["PING"]).is_err());
    assert_eq!(echo(&mut client, "still here"), "still here");
    assert_eq!(proxy.counts().refused, 1);
    proxy.set(Fault::None);
    let mut taken = Connection::dial(proxy.addr()).unwrap();
    assert_eq!(echo(&mut taken, "back"), "back");
}

#[test]
fn neighbouring_replies_change_places_and_a_lone_one_does_not_hang() {
    let (proxy, mut client) = client(Fault::SwapReplies(1.0));
    assert_eq!(echo(&mut client, "alone"), "alone");
    assert_eq!(proxy.counts().swapped, 0);
    let answered = pipeline(&mut client, &["a", "b", "c", "d"], 4);
    assert_eq!(answered.len(), 4);
    assert!(proxy.counts().swapped > 0, "{answered:?}");
    let mut sorted = answered.clone();
    sorted.sort();
    assert_eq!(sorted, ["a", "b", "c", "d"]);
    assert_ne!(answered, sorted);
}

#[test]
fn a_dropped_reply_moves_those_behind_it_up() {
    let (proxy, mut client) = client(Fault::DropReply(1.0));
    client.give_up_after(Duration::from_millis(30));
    assert!(client.command(&["ECHO", "lost"]).is_err());
    client.give_up_after(Duration::from_secs(30));
    proxy.set(Fault::None);
    assert_eq!(echo(&mut client, "next"), "next");
    assert_eq!(proxy.counts().dropped, 1);
}

#[test]
fn an_inserted_reply_is_one_of_before() {
    let (proxy, mut client) = client(Fault::None);
    assert_eq!(echo(&mut client, "earlier"), "earlier");
    proxy.set(Fault::InsertReply(1.0));
    assert_eq!(pipeline(&mut client, &["now"], 2), ["earlier", "now"]);
    assert_eq!(proxy.counts().inserted, 1);
}

#[test]
fn the_same_seed_makes_the_same_faults() {
    let run = |seed| {
        let proxy = FaultProxy::start_with_seed(RedisServer::shared().addr(), seed);
        proxy.set(Fault::InsertReply(0.5));
        let mut client = Connection::dial(proxy.addr()).unwrap();
        let words: Vec<String> = (0..100).map(|word| word.to_string()).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        pipeline(&mut client, &words, 100)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    assert_eq!(
        run(1)[..16],
        [
            "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"
        ]
    );
}
