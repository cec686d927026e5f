#!/usr/bin/env bash
# Makes the sample images in pkg/qcow2/testdata/images again, and their manifest.
#
# It needs zstd and the installed qemu-img and qemu-io. Each line of the manifest has the
# file, the size of its disk, the SHA-256 of the disk, and the files that belong to it.
set -euo pipefail
cd "$(dirname "$0")/.."

images=$PWD/pkg/qcow2/testdata/images
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$images"
cd "$work"

# keep FILE FILES... stores an image and the files that belong to it.
keep() {
	local file sum
	qemu-img convert -f qcow2 -O raw "$1" contents
	sum=$(sha256sum contents)
	echo "$1,$(stat -c %s contents),${sum%% *},${*:2}" >>"$images/manifest.csv"
	for file in "$@"; do
		zstd -q -f -19 "$file" -o "$images/$file.zst"
	done
}

# make NAME OPTIONS ARGUMENTS... creates an image of 1 MiB and a sector.
make() {
	qemu-img create -q -f qcow2 -o "$2" "${@:3}" "$1" 1049088
}

# text N prints N bytes of numbered lines.
text() { head -c "$1" < <(seq -f 'sample data, line %.0f' 1 "$1" 2>/dev/null); }

text 1049088 >disk.raw
truncate -s 300k hole.raw
dd if=hole.raw of=disk.raw bs=1k seek=200 conv=notrunc status=none
echo '# image, size of the disk, SHA-256 of the disk, files that belong to the image' >"$images/manifest.csv"
echo image,size,sha256,files >>"$images/manifest.csv"

make version2.qcow2 compat=0.10,cluster_size=4k
qemu-io -c 'write -P 1 0 10k' -c 'write -P 2 512k 5k' -c 'write -P 3 1M 512' version2.qcow2 >/dev/null
keep version2.qcow2
qemu-img convert -c -f raw -O qcow2 -o cluster_size=64k disk.raw zlib.qcow2
keep zlib.qcow2
qemu-img convert -c -f raw -O qcow2 -o cluster_size=4k,compression_type=zstd disk.raw zstd.qcow2
keep zstd.qcow2
make subclusters.qcow2 extended_l2=on,cluster_size=16k
qemu-io -c 'write -P 1 512 512' -c 'write -z 8k 4k' -c 'write -P 2 20k 5k' -c 'write -z 512k 1k' subclusters.qcow2 >/dev/null
keep subclusters.qcow2
make snapshot.qcow2 cluster_size=4k
qemu-io -c 'write -P 1 0 20k' snapshot.qcow2 >/dev/null
qemu-img snapshot -c first snapshot.qcow2
qemu-io -c 'write -P 2 4k 8k' -c 'write -z 12k 4k' snapshot.qcow2 >/dev/null
keep snapshot.qcow2
make wide.qcow2 cluster_size=512,refcount_bits=64
qemu-io -c 'write -P 1 0 30k' -c 'write -P 2 1M 512' wide.qcow2 >/dev/null
keep wide.qcow2
make narrow.qcow2 cluster_size=512,refcount_bits=1
qemu-io -c 'write -P 1 0 30k' -c 'write -P 2 1M 512' narrow.qcow2 >/dev/null
keep narrow.qcow2
qemu-img create -q -f raw base.raw 600k
qemu-io -f raw -c 'write -P 9 0 512k' base.raw >/dev/null
make child.qcow2 cluster_size=4k -b base.raw -F raw
qemu-io -c 'write -P 1 4k 4k' -c 'write -z 8k 4k' -c 'write -P 2 900k 512' child.qcow2 >/dev/null
make grandchild.qcow2 cluster_size=64k -b child.qcow2 -F qcow2
qemu-io -c 'write -P 3 128k 512' grandchild.qcow2 >/dev/null
keep grandchild.qcow2 child.qcow2 base.raw
make external.qcow2 cluster_size=4k,data_file=external.data
qemu-io -c 'write -P 1 0 10k' -c 'write -z 4k 4k' -c 'write -P 2 1M 512' external.qcow2 >/dev/null
keep external.qcow2 external.data
