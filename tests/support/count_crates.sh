#!/usr/bin/env bash
# How many crates the default features bring over axum itself: count_crates.sh LIMIT
set -euo pipefail
crates() { cargo tree --quiet --edges normal --prefix none --format '{p}' "$@" | sed 's/ .*//' | sort -u; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/src"
touch "$work/src/lib.rs"
cat > "$work/Cargo.toml" <<TOML
[package]
name = "axum-alone"
version = "0.0.0"
edition = "2024"
[dependencies]
axum = "0.8"
[workspace]
TOML
cp Cargo.lock "$work/" 2>/dev/null || true
crates --manifest-path "$work/Cargo.toml" > "$work/axum"
crates | grep -v '^tower-response-cache$' > "$work/ours"
more=$(comm -13 "$work/axum" "$work/ours")
count=$(printf '%s' "$more" | grep -c . || true)
echo "$count more:" $more
[ "$count" -le "$1" ]
