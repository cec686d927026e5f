#!/usr/bin/env bash
# Format, vet for every platform, staticcheck, actionlint, shellcheck, and the checks of prose and
# spelling; fails if any of them has a finding.
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
go run ./scripts/prose || status=1
# The spelling checker sees only the text that people read, not the code around it.
text=$(mktemp -d)
trap 'rm -rf "$text"' EXIT
go run ./scripts/prose -extract "$text"
go build -modfile=tools/go.mod -o bin/tools/misspell github.com/golangci/misspell/cmd/misspell
misspell=$PWD/bin/tools/misspell
# Not words of this project: the name go-humanize, the word "unrecognized" of qemu-img, and the
# command "optimize" of other programs.
(cd "$text" && "$misspell" -error -locale UK -i humanize,optimize,unrecognized .) || status=1
[ $status -eq 0 ] && echo "lint: clean"
exit $status
