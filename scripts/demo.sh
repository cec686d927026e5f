#!/usr/bin/env bash
# Shows the main job: a raw disk with a partition table is converted to a dynamic and a fixed
# VHD. Both are checked, converted back, and compared with the raw disk.
#
#   demo.sh VHDTOOL DIRECTORY
set -euo pipefail

tool=$(realpath "$1")
mkdir -p "$2"
cd "$2"
rm -f disk.raw dynamic.vhd fixed.vhd back-*.raw

run() {
	echo "\$ vhdtool $*"
	"$tool" "$@"
}

# A disk of 64 MiB: a master boot record with one partition from sector 2048 to
# the end, random data in a few places, and holes.
truncate -s 64M disk.raw
printf '\x80\x20\x21\x00\x0c\x28\x20\x08\x00\x08\x00\x00\x00\xf8\x01\x00' |
	dd of=disk.raw bs=1 seek=446 conv=notrunc status=none
printf '\x55\xaa' | dd of=disk.raw bs=1 seek=510 conv=notrunc status=none
for mib in 1 2 9 30 63; do
	dd if=/dev/urandom of=disk.raw bs=256K count=1 seek=$((mib * 4)) conv=notrunc status=none
done

run convert disk.raw dynamic.vhd
run convert -o subformat=fixed,force_size disk.raw fixed.vhd
run info dynamic.vhd
run info fixed.vhd
run check dynamic.vhd
run check fixed.vhd
run convert dynamic.vhd back-dynamic.raw
run convert fixed.vhd back-fixed.raw

# The size of the dynamic VHD is rounded up to a geometry.
cmp -n "$(stat -c %s disk.raw)" disk.raw back-dynamic.raw
cmp disk.raw back-fixed.raw
echo "demo: both images are identical after the round trip, in $PWD"
