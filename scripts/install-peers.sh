#!/usr/bin/env bash
# Installs the programs that the tests compare vhdtool with: qemu-img and
# qemu-io, vhdiinfo, and shellcheck for the lint. For Debian and Ubuntu, as
# root or with sudo. Does nothing if they are there.
set -euo pipefail

missing=()
command -v qemu-img >/dev/null && command -v qemu-io >/dev/null || missing+=(qemu-utils)
command -v vhdiinfo >/dev/null || missing+=(libvhdi-utils)
command -v shellcheck >/dev/null || missing+=(shellcheck)
# The race detector needs a C compiler.
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
if [ ${#missing[@]} -eq 0 ]; then
	echo "peers: all there"
	exit 0
fi

sudo=()
if [ "$(id -u)" -ne 0 ]; then
	sudo=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
echo "peers: installed ${missing[*]}"
