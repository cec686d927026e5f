#!/usr/bin/env bash
# Format, vet for every platform, staticcheck, actionlint and shellcheck; fails if any of
# them has a finding.
set -euo pipefail
cd "$(dirname "$0")/.."

status=0
unformatted=$(go tool gofumpt -l cmd examples internal pkg scripts)
if [ -n "$unformatted" ]; then
	echo "gofumpt: not formatted:" >&2
	echo "$unformatted" >&2
	status=1
fi
scripts/platforms.sh || status=1
go tool staticcheck ./... || status=1
go run -modfile=tools/go.mod github.com/rhysd/actionlint/cmd/actionlint .github/workflows/*.yml || status=1
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
