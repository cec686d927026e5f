#!/usr/bin/env bash
# Compile and vet everything, tests too, for every platform of a release, and
# for Linux without its fast paths.
#
# -trimpath makes the compiled packages those that 'make dist' builds, so that
# only the first of the two compiles them.
set -euo pipefail
cd "$(dirname "$0")/.."

export CGO_ENABLED=0
for platform in $(go run ./scripts/dist -list); do
	GOOS=${platform%/*} GOARCH=${platform#*/} go vet -trimpath ./... || {
		echo "platforms: $platform: not clean" >&2
		exit 1
	}
	echo "platforms: $platform: clean"
done
go vet -trimpath -tags portable ./...
echo "platforms: portable: clean"
