#!/usr/bin/env bash
# Fails where tests/promises.txt names a test or a bench that does not exist.
# A line is: NUMBER | what is promised | names, separated by spaces. A name is that of a test in
# tests/, without its file, or of a unit test with all its modules; `bench:NAME` is a row of a bench,
# `run:FILE` a script that tests/run.sh calls.
set -euo pipefail
known=$(mktemp)
trap 'rm -f "$known"' EXIT
list() { cargo test --quiet --all-features "$@" -- --list 2>/dev/null | sed -n 's/: test$//p'; }
list --workspace --lib > "$known"
list --workspace --test '*' --examples | sed 's/^.*:://' >> "$known"
cargo bench --quiet --profile dev --all-features --benches -- --list 2>/dev/null | sed -n 's/: benchmark$/ /p' | sed 's/^/bench:/;s/ $//' >> "$known"
failed=0
lines=0
while IFS='|' read -r number promise names; do
    case "$number" in ''|'#'*) continue ;; esac
    lines=$((lines + 1))
    if [ -z "${names// /}" ]; then
        echo "promise $number ($promise) names no test" >&2
        failed=1
    fi
    for name in $names; do
        case "$name" in run:*)
            script=${name#run:}
            if [ ! -x "$script" ] || ! grep -q "^$script" tests/run.sh; then
                echo "promise $number names $script, which tests/run.sh does not call" >&2
                failed=1
            fi
            continue ;;
        esac
        if ! grep -qxF -- "$name" "$known"; then
            echo "promise $number names $name, which does not exist" >&2
            failed=1
        fi
    done
done < tests/promises.txt
echo "$lines promises checked against $(wc -l < "$known") tests and benches"
[ "$lines" -gt 0 ] && [ "$failed" -eq 0 ]
