#!/usr/bin/env bash
# Compile and vet all packages and tests for every platform of a release, and for Linux without
# its fast paths.
#
# With -trimpath, the packages are the same as in 'make dist', and compiled only once for both.
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
