#!/usr/bin/env bash
# Installs the programs that the tests compare vhdtool with, on Debian and Ubuntu, as root or
# with sudo. Does nothing if they are installed.
#
# Programs to compare with: qemu-img and qemu-io, vhdiinfo and vhdimount, sfdisk, the compressors,
# and the programs that make XFS, btrfs and ext4. Programs for the checks: shellcheck, a C compiler
# for the race detector, mandoc for the man pages, and rpm for the package.
#
# Unpacked into the cache directory, where internal/oracle finds them: qemu-img 10 of Debian
# trixie, and the newest qemu-img, VirtualBox and libvhdi of Debian sid. sid changes daily. If a
# program of it cannot be unpacked, its tests are skipped.
set -euo pipefail
cd "$(dirname "$0")"

PATH=$PATH:/usr/sbin:/sbin
missing=()
command -v qemu-img >/dev/null && command -v qemu-io >/dev/null || missing+=(qemu-utils)
command -v vhdiinfo >/dev/null || missing+=(libvhdi-utils)
command -v shellcheck >/dev/null || missing+=(shellcheck)
command -v mkfs.xfs >/dev/null || missing+=(xfsprogs)
command -v mkfs.btrfs >/dev/null || missing+=(btrfs-progs)
command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs)
command -v sfdisk >/dev/null || missing+=(fdisk)
command -v bzip2 >/dev/null || missing+=(bzip2)
command -v zstd >/dev/null || missing+=(zstd)
command -v xz >/dev/null || missing+=(xz-utils)
command -v mandoc >/dev/null || missing+=(mandoc)
command -v rpm >/dev/null || missing+=(rpm)
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
if [ ${#missing[@]} -ne 0 ]; then
	sudo=()
	if [ "$(id -u)" -ne 0 ]; then
		sudo=(sudo)
	fi
	export DEBIAN_FRONTEND=noninteractive
	"${sudo[@]}" apt-get update -qq
	"${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
	echo "peers: installed ${missing[*]}"
fi

roots=${XDG_CACHE_HOME:-$HOME/.cache}/vhdtool/peers
./peer-root.sh make "$roots/qemu-10" trixie qemu-utils

# newest NAME PACKAGE... unpacks packages of sid, if possible.
newest() {
	timeout 180 ./peer-root.sh make "$roots/$1" sid "${@:2}" ||
		echo "peers: cannot unpack $1; its tests will be skipped" >&2
}
newest qemu-sid qemu-utils
# The packages after -- are needed only to run guests, and are three times as large.
newest virtualbox virtualbox -- virtualbox-dkms python3-packaging systemd iproute2 procps libsdl2-2.0-0 libgl1
# trixie's vhdimount cannot mount.
newest libvhdi libvhdi-utils dash coreutils
echo "peers: ready"
