#!/usr/bin/env bash
# Every check of this project, for people and for CI. Needs a Rust toolchain; installs nothing
# but what a step says it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }

say "redis-server"
if ! command -v redis-server > /dev/null; then
    echo "redis-server is missing, and tests start their own: installing it"
    as_root=$([ "$(id -u)" -eq 0 ] || echo sudo)
    # Unquoted: nothing at all where it is empty.
    if ! { $as_root apt-get update && $as_root apt-get install --yes --no-install-recommends redis-server; }; then
        echo "redis-server could not be installed: do that by hand (apt-get install redis-server," >&2
        echo "brew install redis), then start this again" >&2
        exit 1
    fi
fi
redis-server --version

say "format"
cargo fmt --all --check

say "lints, all features"
cargo clippy --quiet --workspace --all-targets --all-features -- -D warnings

say "each feature alone"
for features in "" axum macros test-util redis redis-tls; do
    echo "features: ${features:-none}"
    cargo clippy --quiet --lib --no-default-features --features "$features" -- -D warnings
done

say "no newer syntax than Rust 1.85"
# Rust 1.88 brought let-chains; a newer compiler takes them without a word.
if grep -rnE '(if|while) let [^;{]*&&|&& let ' src examples benches tests --include='*.rs'; then
    echo "let-chains need Rust 1.88" >&2
    exit 1
fi

say "each file of tests is part of a program"
for file in tests/*/*.rs; do
    main="$(dirname "$file")/main.rs"
    name=$(basename "$file" .rs)
    [ -e "$main" ] && [ "$name" != main ] || continue
    if ! grep -qE "^(pub )?mod $name;" "$main"; then
        echo "$file is never compiled: $main has no line \`mod $name;\`" >&2
        exit 1
    fi
done

say "no more than 15 crates over axum"
tests/support/count_crates.sh 15

say "unit and integration tests, examples"
cargo test --quiet --workspace --all-features --lib --bins --tests --examples

say "the cores, in orders that shuttle draws"
# Without optimisation: it takes longer to build than to run.
CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=false RUSTFLAGS="--cfg shuttle" \
    cargo test --quiet --lib --target-dir target/shuttle cores

say "integration tests a second time, on memory and Redis"
tests/support/second_pass.sh

say "doc tests"
cargo test --quiet --all-features --doc

say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --all-features

say "promises have tests"
tests/support/check_promises.sh

say "all checks passed"
