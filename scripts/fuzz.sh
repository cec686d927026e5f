#!/usr/bin/env bash
# Runs every fuzz target of the project, each for the given time (default 30s).
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:-30s}
for pkg in $(go list ./...); do
	for target in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
		echo "== $pkg $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$pkg"
	done
done
