#!/usr/bin/env bash
# Format, vet, staticcheck and shellcheck; fails on the first finding of each.
set -euo pipefail
cd "$(dirname "$0")/.."

status=0
unformatted=$(go tool gofumpt -l cmd internal pkg)
if [ -n "$unformatted" ]; then
	echo "gofumpt: not formatted:" >&2
	echo "$unformatted" >&2
	status=1
fi
# The platforms without the Linux fast paths must build too.
for os in linux darwin windows; do
	GOOS=$os CGO_ENABLED=0 go vet ./... || status=1
done
go tool staticcheck ./... || status=1
if command -v shellcheck >/dev/null; then
	shellcheck scripts/*.sh .ci/run || status=1
elif [ -n "${VHDTOOL_REQUIRE_PEERS:-}" ]; then
	echo "lint: shellcheck is missing" >&2
	status=1
else
	echo "lint: shellcheck is missing; scripts were not checked" >&2
fi
[ $status -eq 0 ] && echo "lint: clean"
exit $status
