#!/usr/bin/env bash
# Creates the sample images in pkg/vhdx/testdata, and their manifest.
#
# It needs zstd, qemu-img and qemu-io. qemu chooses other GUIDs each time, so run it only to
# replace the samples.
set -euo pipefail
cd "$(dirname "$0")/../pkg/vhdx/testdata"

samples=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

version=$(qemu-img --version | sed -n '1s/^qemu-img version \([0-9]*\.[0-9]*\).*/\1/p')
lines=$work/lines

# keep IMAGE stores an image. The contents are what qemu-img reads after it has replayed the log.
keep() {
	cp "$1" replayed
	qemu-img check -q -f vhdx -r all replayed || true
	qemu-img convert -f vhdx -O raw replayed raw
	zstd -q -f -19 "$1" -o "$samples/qemu-$version-$1.zst"
	echo "qemu-$version-$1,$(stat -c %s raw),$(sha256sum raw | cut -d' ' -f1)" >>"$lines"
	rm replayed raw
}

create() {
	qemu-img create -q -f vhdx -o "block_size=1M,$2" "$1" 8M
	qemu-io -f vhdx -c 'write -P 1 0 64k' -c 'write -P 2 3000k 200k' -c 'write -P 3 8388096 512' "$1" >/dev/null
}

create dynamic.vhdx subformat=dynamic
keep dynamic.vhdx
create fixed.vhdx subformat=fixed
keep fixed.vhdx

# A write to the BAT fails after it is logged, and qemu-io is killed: the log must be replayed.
create log.vhdx subformat=dynamic
bat=$(($(od -An -tu8 -j $((192 * 1024 + 32)) -N 8 log.vhdx)))
fail=file.inject-error.0.event=none,file.inject-error.0.iotype=write,file.inject-error.0.sector=$((bat / 512))
qemu-io -c 'write -P 4 5M 2M' -c 'sigraise 9' --image-opts \
	"driver=vhdx,file.driver=blkdebug,file.image.driver=file,file.image.filename=log.vhdx,$fail" >/dev/null 2>&1 || true
keep log.vhdx

{
	echo image,size,sha256
	cat "$lines"
} >"$samples/manifest.csv"
