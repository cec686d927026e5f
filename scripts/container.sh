#!/usr/bin/env bash
# Build the container image from the archive in dist that is for this machine, and run it.
# It needs docker or podman, and is skipped without.
# Usage: container.sh [NAME]; the default is vhdtool.
set -euo pipefail
cd "$(dirname "$0")/.."

engine=
for e in podman docker; do
	if command -v "$e" >/dev/null && "$e" info >/dev/null 2>&1; then
		engine=$e
		break
	fi
done
if [ -z "$engine" ]; then
	echo "container: skipped: it needs docker or podman, and its daemon"
	exit 0
fi
shopt -s nullglob
archives=(dist/vhdtool_*_linux_"$(go env GOHOSTARCH)".tar.gz)
if [ ${#archives[@]} -ne 1 ]; then
	echo "container: ${#archives[@]} archives in dist, want one: run 'make dist'" >&2
	exit 1
fi
name=${1:-vhdtool}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/context" "$scratch/images"
tar -xzf "${archives[0]}" -C "$scratch/context" --strip-components=1
"$engine" build -q -f Containerfile -t "$name" "$scratch/context"

run() {
	"$engine" run --rm -u "$(id -u):$(id -g)" -v "$scratch/images:/images" "$name" "$@"
}
run --version
run create -q disk.vhd 10M
run check -q disk.vhd
[ "$(stat -c %u "$scratch/images/disk.vhd")" = "$(id -u)" ]
echo "container: built and ran $name from ${archives[0]}"
