#!/usr/bin/env bash
# Build a release twice, the second time in another directory and without a cache. Compare the
# files byte for byte, and run the program of this platform.
# Usage: dist-check.sh [PLATFORM,...]; default: all platforms.
#
# The files remain in dist.
set -euo pipefail
cd "$(dirname "$0")/.."

platforms=${1:-$(go run ./scripts/dist -list | paste -sd,)}
version=$(git describe --tags --always --dirty)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

scratch=$(mktemp -d)
trap 'chmod -R u+w "$scratch"; rm -rf "$scratch"' EXIT
tools=$PWD/bin/tools

rm -rf dist
go run ./scripts/dist -tools "$tools" -version "$version" -platforms "$platforms"

mkdir "$scratch/elsewhere"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$scratch/elsewhere"
(
	cd "$scratch/elsewhere"
	umask 077
	TZ=Asia/Kathmandu GOCACHE=$scratch/cache go run ./scripts/dist \
		-tools "$tools" -version "$version" -platforms "$platforms" -o "$scratch/second" >/dev/null
)
diff -r dist "$scratch/second"
(cd dist && sha256sum --quiet -c SHA256SUMS)

host=$(go env GOHOSTOS)_$(go env GOHOSTARCH)
archive=dist/vhdtool_${version#v}_$host.tar.gz
if [ -e "$archive" ]; then
	tar -xzf "$archive" -C "$scratch" --strip-components=1
	# grep -q would end before it has read everything.
	"$scratch/vhdtool" --version | grep -F "version $version (vhdtool"
	"$scratch/vhdtool" create -q -f vpc "$scratch/disk.vhd" 10M
	"$scratch/vhdtool" check -q "$scratch/disk.vhd"
	for f in README.md LICENSE CHANGELOG.md man/vhdtool.1 man/vhdtool-convert.1 man/vhdtool-options.7 schema/info.json vhdtool.cdx.json THIRD-PARTY-LICENSES \
		completions/vhdtool.bash completions/_vhdtool completions/vhdtool.fish completions/vhdtool.ps1; do
		[ -s "$scratch/$f" ] || {
			echo "dist-check: $archive has no $f" >&2
			exit 1
		}
	done
	# The container image consists of these files.
	while read -r f; do
		[ -s "$scratch/$f" ] || {
			echo "dist-check: $archive has no $f, which the Containerfile copies" >&2
			exit 1
		}
	done < <(awk '$1 == "COPY" { for (i = 2; i < NF; i++) print $i }' Containerfile)
	if [ "$(go env GOHOSTOS)" = linux ] && ldd "$scratch/vhdtool" >/dev/null 2>&1; then
		echo "dist-check: the program is not static" >&2
		exit 1
	fi
fi
echo "dist-check: the same bytes twice: $platforms"
