#!/usr/bin/env bash
# The integration tests with Redis behind memory: what they show of a cache holds for both. Each
# test program has a server of its own, and each cache in it a namespace of its own.
set -euo pipefail

# Programs that would show nothing more: with a server, a store or a program of their own, or about
# the memory of this process, which the client of Redis shares.
left_out() {
    case "$1" in
        redis* | remote* | review_redis | review_remote | fault_proxy) ;;
        examples | reverse_proxy) ;;
        bound_of_*) ;;
        *) return 1 ;;
    esac
}

# Tests of what is another thing with Redis.
skipped=(
    # Layers whose `partition_by` has one name share what is in Redis, as the name says.
    --skip layers_with_closures_of_their_own_share_nothing_and_clones_do
)

targets=()
names=()
for file in tests/*.rs; do
    name=$(basename "$file" .rs)
    left_out "$name" && continue
    names+=("$name")
    targets+=(--test "$name")
done

log=$(mktemp)
trap 'rm -f "$log"' EXIT
TEST_STORE=redis TEST_STORE_LOG=$log \
    cargo test --quiet --all-features "${targets[@]}" -- "${skipped[@]}"

# Not that they all pass because none of them had Redis: each has noted that it had a connection, or
# has panicked. Not each has written: a test may end before its write, which nobody waits for; and
# fewer have read something, as memory answers first.
count() { grep -c " $1 " "$log" || true; }
failed=0
for name in "${names[@]}"; do
    if ! grep -q "^$name connected " "$log"; then
        echo "$name has not connected to Redis: add it to left_out, or find out why" >&2
        failed=1
    fi
done
echo "${#names[@]} programs, $(count written) wrote to Redis, $(count read) were answered by it"
[ "$failed" -eq 0 ] && [ "$(count written)" -ge 20 ] && [ "$(count read)" -ge 8 ]
