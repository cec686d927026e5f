#!/usr/bin/env bash
# Runs every fuzz target of the project, each for the given time (default 30s). With the argument
# seeds it starts from the seeds in the repository alone: a short run would spend its time on the
# inputs that earlier runs found.
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:-30s}
corpus=()
if [ "${2:-}" = seeds ]; then
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	corpus=("-test.fuzzcachedir=$dir")
fi
# Minimising each interesting input takes up to a minute by default, so a short run would do
# nothing else.
for pkg in $(go list ./...); do
	for target in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
		echo "== $pkg $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1x "$pkg" "${corpus[@]}"
	done
done
