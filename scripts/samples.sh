#!/usr/bin/env bash
# Creates the sample images in testdata/images, and their manifest.
#
#   samples.sh [PRODUCER...]   qemu-7.2, qemu-10, virtualbox-7.2, vhdtool (default: all)
#
# It needs zstd and the programs of scripts/install-peers.sh. Samples of vhdtool are the same each
# time. The other producers choose a new UUID and time for each image, so run the script for
# them only to replace their samples. PEER_ROOT names another peer-root.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

repo=$PWD
images=$repo/testdata/images
peers=${XDG_CACHE_HOME:-$HOME/.cache}/vhdtool/peers
peer_root=${PEER_ROOT:-$repo/scripts/peer-root.sh}
epoch=1700000000

# Images of VirtualBox record the path of their parent, so the directory has a fixed name.
work=/tmp/vhdtool-samples
rm -rf "$work"
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
export VBOX_USER_HOME=$work/.virtualbox VBOX_IPC_SOCKETID=vhdtool-samples

# text FILE OFFSET N writes N bytes of numbered lines that name their offset.
text() {
	head -c "$3" < <(seq -f "sample data from offset $2 on, line %.0f" 1 "$3" 2>/dev/null) |
		dd of="$1" bs=4K seek="$2" oflag=seek_bytes conv=notrunc status=none
}

# new_disk FILE SIZE creates the raw disk of the samples: data at its start, across the border of
# the first two blocks, and in its last sector. The third block is empty.
new_disk() {
	truncate -s "$2" "$1"
	text "$1" 0 3000
	printf '\125\252' | dd of="$1" bs=1 seek=510 conv=notrunc status=none
	text "$1" $((2 * 1024 * 1024 - 5000)) 9000
	text "$1" $(($(stat -c %s "$1") - 512)) 512
}

# keep PRODUCER IMAGE DISK PARENTS COMMAND stores an image and its line of the manifest. The
# contents are those of DISK, with zeros up to the size in the image's footer.
keep() {
	local size sum
	case $2 in
	*.vhd) size=$((16#$(tail -c 512 "$2" | od -An -tx1 -j48 -N8 | tr -d ' \n'))) ;;
	*) size=$(stat -c %s "$2") ;;
	esac
	touch -d "@$epoch" "$2" # a child records the time of its parent
	cp "$3" contents
	truncate -s "$size" contents
	sum=$(sha256sum contents)
	rm contents
	mkdir -p "$images/$1"
	zstd -q -f -19 "$2" -o "$images/$1/$2.zst"
	echo "$1/$2,$size,${sum%% *},$4,\"$5\"" >>"$lines"
}

qemu() { # PRODUCER COMMAND...: COMMAND is qemu-img
	local producer=$1 options
	shift
	for options in subformat=dynamic subformat=dynamic,force_size=on subformat=fixed subformat=fixed,force_size=on; do
		local name=${options#subformat=}
		name=${name/,force_size=on/-exact}.vhd
		"$@" convert -f raw -O vpc -o "$options" disk.raw "$name"
		keep "$producer" "$name" disk.raw "" "qemu-img convert -f raw -O vpc -o $options disk.raw $name"
	done
}

virtualbox() {
	local box=("$peer_root" run "$peers/virtualbox")
	local bin=/usr/lib/virtualbox variant name
	for variant in Standard Fixed; do
		name=dynamic.vhd
		[ "$variant" = Standard ] || name=fixed.vhd
		local command="vbox-img convert --srcfilename disk.raw --srcformat RAW --dstfilename $name --dstformat VHD --variant $variant"
		# shellcheck disable=SC2086 # words of a command
		"${box[@]}" "$bin/"$command >/dev/null 2>&1
		keep virtualbox-7.2 "$name" disk.raw "" "$command"
	done
	"${box[@]}" "$bin/VBoxManage" createmedium disk --filename "$PWD/child.vhd" --diffparent "$PWD/dynamic.vhd" --format VHD >/dev/null 2>&1
	keep virtualbox-7.2 child.vhd disk.raw dynamic.vhd "VBoxManage createmedium disk --filename child.vhd --diffparent dynamic.vhd --format VHD"
}

# ours IMAGE DISK PARENTS COMMAND...: COMMAND is a command line of vhdtool.
ours() {
	local name=$1 disk=$2 parents=$3
	shift 3
	number=$((number + 1))
	local id
	id=$(printf 'uuid=00000000-0000-4000-8000-%012d' "$number")
	SOURCE_DATE_EPOCH=$epoch "$repo/bin/vhdtool" "$@" -o "$id" >/dev/null
	local command="vhdtool $*"
	if [ -n "$parents" ]; then
		local write=(dd "if=$disk" "of=$name" bs=64k skip=32 seek=32 count=1 conv=notrunc)
		"$repo/bin/vhdtool" "${write[@]}" 2>/dev/null
		command+="; vhdtool ${write[*]}"
	fi
	keep vhdtool "$name" "$disk" "$parents" "$command"
}

vhdtool() {
	number=0
	make -s -C "$repo" build
	ours dynamic.vhd disk.raw "" convert disk.raw dynamic.vhd
	ours dynamic-exact.vhd disk.raw "" convert -o force_size disk.raw dynamic-exact.vhd
	ours dynamic-64k.vhd disk.raw "" convert -o force_size,block_size=64k disk.raw dynamic-64k.vhd
	ours fixed.vhd disk.raw "" convert -o subformat=fixed disk.raw fixed.vhd
	ours fixed-exact.vhd disk.raw "" convert -o subformat=fixed,force_size disk.raw fixed-exact.vhd
	local product
	new_disk large.raw 20M
	for product in azure hyperv xen virtualbox virtualpc aws; do
		ours "$product.vhd" large.raw "" convert --for "$product" large.raw "$product.vhd"
	done
	# Chains: each child overwrites 64 KiB at the start of block 1. The data has no zeros,
	# because a child stores those only if the file system has no hole there.
	cp disk.raw one.raw
	text one.raw $((2 * 1024 * 1024)) 65536
	cp one.raw two.raw
	text two.raw $((2 * 1024 * 1024 + 100)) 65436
	ours child.vhd one.raw dynamic-exact.vhd create -b dynamic-exact.vhd child.vhd
	ours grandchild.vhd two.raw "child.vhd dynamic-exact.vhd" create -b child.vhd grandchild.vhd
	cp disk.raw base.raw
	keep vhdtool base.raw disk.raw "" "cp disk.raw base.raw"
	ours child-of-raw.vhd one.raw base.raw create -b base.raw -F raw child-of-raw.vhd
}

all=(qemu-7.2 qemu-10 virtualbox-7.2 vhdtool)
[ $# -gt 0 ] || set -- "${all[@]}"
lines=$work/manifest
: >"$lines"
new_disk "$work/disk.raw" 7M
for producer; do
	mkdir "$work/$producer"
	cp "$work/disk.raw" "$work/$producer"
	cd "$work/$producer"
	rm -rf "${images:?}/$producer"
	case $producer in
	qemu-7.2) qemu "$producer" qemu-img ;;
	qemu-10) qemu "$producer" "$peer_root" run "$peers/qemu-10" qemu-img ;;
	virtualbox-7.2) virtualbox ;;
	vhdtool) vhdtool ;;
	*)
		echo "samples.sh: unknown producer $producer, want one of: ${all[*]}" >&2
		exit 2
		;;
	esac
done

manifest=$images/manifest.csv
{
	cat <<'END'
# Sample images. size and sha256 are those of the disk, in bytes and hexadecimal. parents are the
# file names of the parents, nearest first. command converted a raw disk to the image.
image,size,sha256,parents,command
END
	{
		[ ! -e "$manifest" ] || grep -v -e '^#' -e '^image,' "$manifest" | grep -v -F "$(printf '%s/\n' "$@")" || :
		cat "$lines"
	} | LC_ALL=C sort
} >"$work/manifest.csv"
mv "$work/manifest.csv" "$manifest"
