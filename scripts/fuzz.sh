#!/usr/bin/env bash
# Runs every fuzz target of the project, each for the given time (default 30s).
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:-30s}
# Minimising each interesting input takes up to a minute by default: a short run would do nothing
# else.
for pkg in $(go list ./...); do
	for target in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
		echo "== $pkg $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1x "$pkg"
	done
done
