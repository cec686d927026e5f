#!/usr/bin/env bash
# Install, use and remove the Debian package in dist. Skipped without root or dpkg.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" -ne 0 ] || ! command -v dpkg >/dev/null; then
	echo "deb-check: skipped: it needs root and dpkg"
	exit 0
fi
if dpkg -s vhdtool >/dev/null 2>&1; then
	echo "deb-check: skipped: a package vhdtool is installed already"
	exit 0
fi
shopt -s nullglob
debs=(dist/vhdtool_*_"$(dpkg --print-architecture)".deb)
if [ ${#debs[@]} -ne 1 ]; then
	echo "deb-check: ${#debs[@]} packages in dist, want one: run 'make dist'" >&2
	exit 1
fi

scratch=$(mktemp -d)
trap 'dpkg --purge vhdtool >/dev/null 2>&1 || true; rm -rf "$scratch"' EXIT

dpkg -i "${debs[0]}" >/dev/null
dpkg -L vhdtool >"$scratch/files"
dpkg --verify vhdtool
/usr/bin/vhdtool create -q -f vpc "$scratch/disk.vhd" 10M
/usr/bin/vhdtool check -q "$scratch/disk.vhd"
grep -qx /usr/share/man/man1/vhdtool-convert.1.gz "$scratch/files"
# A minimal installation omits the files in doc and man.
if [ -e /usr/share/man/man1/vhdtool.1.gz ] && command -v man >/dev/null; then
	man -P cat vhdtool >/dev/null
fi
bash -c 'source /usr/share/bash-completion/completions/vhdtool && declare -F __start_vhdtool >/dev/null'

dpkg --purge vhdtool >/dev/null
while read -r f; do
	if [ -e "$f" ] && ! [ -d "$f" ] || [ -d "$f" ] && [ "${f##*/}" = vhdtool ]; then
		echo "deb-check: $f is left after the package was removed" >&2
		exit 1
	fi
done <"$scratch/files"
echo "deb-check: installed, ran, and removed ${debs[0]}"
