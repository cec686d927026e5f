#!/usr/bin/env bash
# Compare the library's interface with the one kept in api, and fail if programs
# that were written for that would no longer compile. Usage: api.sh [--update]
#
# --update keeps the interface as it is now: do so for a release, or together with
# an incompatible change that is meant (and say so in the changelog).
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
packages=(disk raw convert vhd vhd/chain vhd/product)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
go build -modfile=tools/go.mod -o "$scratch/apidiff" golang.org/x/exp/cmd/apidiff

if [ "${1:-}" = --update ]; then
	# The files have the paths of the sources in them, which must not be those of
	# whoever updates them: copy everything, what is imported too.
	copy=/tmp/vhdtool-api
	mkdir "$copy"
	trap 'rm -rf "$scratch" "$copy"' EXIT
	cp -r go.mod go.sum pkg internal "$copy"
	mkdir -p api
	cd "$copy"
	go mod vendor
	for p in "${packages[@]}"; do
		"$scratch/apidiff" -w "$root/api/${p//\//-}.export" "github.com/vhdtool/vhdtool/pkg/$p"
	done
	echo "api: kept"
	exit
fi

status=0
for p in "${packages[@]}"; do
	changes=$("$scratch/apidiff" -incompatible "api/${p//\//-}.export" "github.com/vhdtool/vhdtool/pkg/$p")
	if [ -n "$changes" ]; then
		echo "api: pkg/$p: incompatible changes; if they are meant, run 'make api':" >&2
		echo "$changes" >&2
		status=1
	fi
done
[ $status -eq 0 ] && echo "api: compatible"
exit $status
