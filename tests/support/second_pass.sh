#!/usr/bin/env bash
# The integration tests with Redis behind memory: what they show of a cache holds for both. Each
# test program has a server of its own, and each cache in it a namespace of its own.
set -euo pipefail

# Programs that would show nothing more: with a server, a store or a program of their own, about the
# memory of this process, which the client of Redis shares, about rules alone, or with futures that
# are polled by hand in an order that a seed draws, which no answer of another process keeps to.
left_out() {
    case "$1" in
        remote | nodes | redis_* | programs | bound_of_* | differential | schedules) ;;
        *) return 1 ;;
    esac
}

# Tests of what is another thing with Redis.
skipped=(
    # Layers whose `partition_by` has one name share what is in Redis, as the name says.
    --skip layers_with_closures_of_their_own_share_nothing_and_clones_do
)

# A program is `tests/NAME.rs`, or `tests/NAME/main.rs` and the files next to it.
targets=()
files=()
for program in tests/*.rs tests/*/main.rs; do
    name=${program%/main.rs}
    name=$(basename "$name" .rs)
    left_out "$name" && continue
    targets+=(--test "$name")
    for file in "$program" "tests/$name"/*.rs; do
        # `main.rs` names the others; without a directory, the pattern stays as it is.
        case "$file" in */main.rs | *\*.rs) ;; *) files+=("$file") ;; esac
    done
done

log=$(mktemp)
trap 'rm -f "$log"' EXIT
TEST_STORE=redis TEST_STORE_LOG=$log \
    cargo test --quiet --all-features "${targets[@]}" -- "${skipped[@]}"

# Not that they all pass because none of them had Redis: each file has noted that it had a connection,
# or has panicked. Not each has written: a test may end before its write, which nobody waits for; and
# fewer have read something, as memory answers first.
count() { grep -c " $1 " "$log" || true; }
failed=0
for file in "${files[@]}"; do
    if ! grep -q "^$file connected " "$log"; then
        echo "$file has not connected to Redis: find out why, or leave its program out" >&2
        failed=1
    fi
done
echo "${#files[@]} files of tests, $(count written) wrote to Redis, $(count read) were answered by it"
[ "$failed" -eq 0 ] && [ "$(count written)" -ge 20 ] && [ "$(count read)" -ge 8 ]
