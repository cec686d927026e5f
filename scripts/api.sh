#!/usr/bin/env bash
# Compare the interface of the library with the one in api, and fail if programs written for that
# would no longer compile. Usage: api.sh [--update]
#
# --update keeps the current interface in api. Use it for a release, or for an intended
# incompatible change, which belongs in the changelog.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
packages=(disk raw convert vhd vhd/chain vhd/product)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
go build -modfile=tools/go.mod -o "$scratch/apidiff" golang.org/x/exp/cmd/apidiff

if [ "${1:-}" = --update ]; then
	# The files contain the paths of the sources, which must not depend on the user's
	# directory: copy everything, including imported packages.
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
