//! Two releases side by side: frames and records of another layout, next to ours.

use tower_response_cache::{Cache, FrameFault, Selector};

use crate::{
    node::{Data, Node, within_a_second},
    support::{eventually, redis_server::RedisServer},
};

/// The frame under a name, as a later release would have written it.
fn put_later(server: &RedisServer, name: &str) -> Vec<u8> {
    let mut frame = server.command(&["GET", name]).bytes().to_vec();
    assert!(frame.starts_with(b"TRC"), "a frame");
    frame[3] += 1;
    let reply = server.command(&[b"SET", name.as_bytes(), &frame, b"PX", b"600000"]);
    reply.ok();
    frame
}

/// A record of a layout that nobody here knows, told as a later release would; by message or not.
fn tell_later(server: &RedisServer, with_message: bool) {
    let script = r"
        local seq, log = KEYS[1], KEYS[2]
        local known = redis.call('GET', seq)
        local number = string.format('%.0f', tonumber(known) + 1)
        redis.call('ZADD', log, number, ARGV[1])
        redis.call('SET', seq, number)
        if ARGV[2] == 'true' then
            redis.call('PUBLISH', 'versions:invalidated', 'ff ' .. known .. ' ' .. number .. ' ' .. #ARGV[1] .. ':' .. ARGV[1])
        end
        return 1";
    let record = "\u{2}by something new";
    let keys = ["{versions}:seq", "{versions}:log"];
    let message = with_message.to_string();
    let told = ["EVAL", script, "2", keys[0], keys[1], record, &message];
    assert_eq!(server.command(&told).integer(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_of_another_release_is_a_counted_miss_and_stays_until_it_is_replaced() {
    let (server, data) = (RedisServer::start(), Data::default());
    let builder = || Cache::redis(server.url(), "versions").purge_invalidated(true);
    let first = Node::connected(builder(), &data).await;
    for page in ["/asked", "/not-asked"] {
        assert_eq!(first.shows(page).await, 0);
    }
    first.is_written().await;
    let name = |page: &str| {
        server
            .keys(&format!("versions:response:{page}:*"))
            .remove(0)
    };
    let (asked, other) = (name("/asked"), name("/not-asked"));
    put_later(&server, &asked);
    let left = put_later(&server, &other);
    data.set(1);
    let second = Node::connected(builder(), &data).await;
    assert_eq!(second.shows("/asked").await, 1);
    let stats = second.cache.stats();
    assert_eq!(stats.remote().refused_frames(FrameFault::Version), 1);
    second.is_written().await;
    assert_eq!(
        server.command(&["GET", &asked]).bytes()[3],
        left[3] - 1,
        "replaced"
    );
    // Nor is it judged: what it says of itself nobody here can read.
    let purges = || first.cache.stats().remote().purges() + second.cache.stats().remote().purges();
    for tag in ["data", "nothing has it"] {
        let before = purges();
        let done = first.cache.invalidate(Selector::tag(tag));
        done.everywhere().await.expect("told");
        eventually("one walks", || purges() > before).await;
    }
    assert_eq!(server.command(&["GET", &other]).bytes(), left);
    within_a_second(&first, "/asked", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_another_release_selects_everything_and_all_nodes_go_on() {
    let (server, data) = (RedisServer::start(), Data::default());
    let builder = || Cache::redis(server.url(), "versions");
    let nodes = [
        Node::connected(builder(), &data).await,
        Node::connected(builder(), &data).await,
    ];
    for (round, with_message) in [(1, true), (3, false)] {
        let old = data.read();
        for node in &nodes {
            assert_eq!(node.shows("/page").await, old);
            node.is_written().await;
        }
        data.set(round);
        tell_later(&server, with_message);
        for node in &nodes {
            within_a_second(node, "/page", round).await;
        }
        // They tell each other as before, and have hits.
        data.set(round + 1);
        let done = nodes[0].cache.invalidate(Selector::tag("data"));
        done.everywhere().await.expect("told");
        for node in &nodes {
            within_a_second(node, "/page", round + 1).await;
        }
        let reads = nodes.each_ref().map(Node::reads);
        for node in &nodes {
            assert_eq!(node.shows("/page").await, round + 1);
        }
        assert_eq!(nodes.each_ref().map(Node::reads), reads);
    }
    let third = Node::connected(builder(), &data).await;
    within_a_second(&third, "/page", data.read()).await;
    let begun = |node: &Node| node.cache.stats().remote().begun_anew();
    assert_eq!(nodes.iter().map(begun).sum::<u64>(), 1, "at the start");
}
