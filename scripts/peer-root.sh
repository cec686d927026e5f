#!/usr/bin/env bash
# Unpacks and runs programs of another Debian suite, without installing them.
#
#   peer-root.sh make DIR SUITE PACKAGE... [-- UNNEEDED...]
#   peer-root.sh run DIR PROGRAM ARG...
#
# make unpacks the packages and their dependencies into the directory DIR, except the packages
# after -- and dependencies that only those need. Nothing is installed, and root is not needed.
# The packages come from the machine's Debian mirror, or from deb.debian.org if it has none. A
# complete DIR is not changed: remove it to renew it.
#
# run executes PROGRAM with the /usr of DIR instead of the machine's. File names, and everything
# outside /usr, are the machine's. Child processes of PROGRAM end with it.
set -euo pipefail

usage() {
	sed -n '/^#   /s/^#   //p' "$0" >&2
	exit 2
}

# mirror prints the URI of the machine's Debian mirror.
mirror() {
	local uri
	uri=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
		sed -n -E 's/^URIs: *([^ ]*).*/\1/p; s/^deb (\[[^]]*\] )?([^ ]+) .*/\2/p' |
		grep -E '/debian/?$' | head -n 1) || :
	echo "${uri:-http://deb.debian.org/debian}"
}

make_root() {
	[ $# -ge 3 ] || usage
	local dir=$1 suite=$2 wanted="$*" packages=() package deb
	wanted=${wanted#"$dir "}
	shift 2
	if [ "$(cat "$dir/contents" 2>/dev/null)" = "$wanted" ]; then
		return
	fi
	while [ $# -gt 0 ] && [ "$1" != -- ]; do
		packages+=("$1")
		shift
	done
	[ $# -eq 0 ] || shift

	mkdir -p "$(dirname "$dir")"
	# Not local: the trap runs after the function has returned.
	new=$(mktemp -d "$dir.XXXXXX")
	trap 'rm -rf "$new"' EXIT
	local apt=$new/apt
	mkdir -p "$apt"/{lists,cache/archives}/partial
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $suite main contrib" >"$apt/sources.list"
	# Packages after -- count as installed.
	for package; do
		printf 'Package: %s\nStatus: install ok installed\nVersion: 999:0\nArchitecture: all\nMulti-Arch: foreign\nMaintainer: none\nDescription: not needed\n\n' "$package"
	done >"$apt/status"
	cat >"$apt/conf" <<-CONF
		Dir::Etc::sourcelist "$apt/sources.list";
		Dir::Etc::sourceparts "-";
		Dir::State "$apt";
		Dir::State::status "$apt/status";
		Dir::Cache "$apt/cache";
		Dir::Log "$apt";
		APT::Sandbox::User "";
		APT::Install-Recommends "false";
		Acquire::Languages "none";
		Acquire::Retries "1";
		Acquire::http::Timeout "20";
		Acquire::https::Timeout "20";
	CONF
	APT_CONFIG=$apt/conf apt-get -qq -o APT::Update::Error-Mode=any update
	APT_CONFIG=$apt/conf apt-get -qq install -y --download-only "${packages[@]}"

	# In these suites /bin, /sbin and /lib are below /usr. Older packages have only the links.
	mkdir -p "$new"/usr/{bin,sbin,lib,lib64}
	local link
	for link in bin sbin lib lib64; do
		ln -s "usr/$link" "$new/$link"
	done
	for deb in "$apt"/cache/archives/*.deb; do
		dpkg-deb --extract "$deb" "$new"
	done
	rm -rf "$apt"
	echo "$wanted" >"$new/contents"
	rm -rf "$dir"
	mv -T "$new" "$dir"
}

run_in_root() {
	[ $# -ge 2 ] || usage
	local dir=$1 user=()
	shift
	if [ ! -e "$dir/contents" ]; then
		echo "peer-root: $dir: not unpacked; run 'peer-root.sh make' first" >&2
		exit 2
	fi
	if [ "$(id -u)" -ne 0 ]; then
		user=(--map-root-user)
	fi
	# shellcheck disable=SC2016 # the inner shell expands these
	exec unshare "${user[@]}" --mount --pid --fork --kill-child --mount-proc \
		sh -c 'mount --bind "$1/usr" /usr && shift && exec "$@"' sh "$(realpath "$dir")" "$@"
}

case ${1-} in
make) shift && make_root "$@" ;;
run) shift && run_in_root "$@" ;;
*) usage ;;
esac
