#!/usr/bin/env bash
# Install the rpm package of dist below an empty directory, use it, and remove it. It
# needs root and rpm, and is skipped without.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" -ne 0 ] || ! command -v rpm >/dev/null; then
	echo "rpm-check: skipped: it needs root and rpm"
	exit 0
fi
shopt -s nullglob
rpms=(dist/vhdtool-*."$(uname -m)".rpm)
if [ ${#rpms[@]} -ne 1 ]; then
	echo "rpm-check: ${#rpms[@]} packages in dist, want one: run 'make dist'" >&2
	exit 1
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root
mkdir "$root"

rpm --root "$root" -i --nodeps --nosignature "${rpms[0]}"
rpm --root "$root" -V --nodeps vhdtool
rpm --root "$root" -ql vhdtool >"$scratch/files"
"$root/usr/bin/vhdtool" create -q -f vpc "$scratch/disk.vhd" 10M
"$root/usr/bin/vhdtool" check -q "$scratch/disk.vhd"
for f in man/man1/vhdtool-convert.1.gz man/man7/vhdtool-options.7.gz licenses/vhdtool/LICENSE \
	bash-completion/completions/vhdtool zsh/site-functions/_vhdtool fish/vendor_completions.d/vhdtool.fish; do
	grep -qx "/usr/share/$f" "$scratch/files" || {
		echo "rpm-check: ${rpms[0]} has no /usr/share/$f" >&2
		exit 1
	}
done
# Directories of the system must not belong to the package.
if grep -xE '/usr(/bin|/share(/[a-z]+)?)?' "$scratch/files"; then
	echo "rpm-check: ${rpms[0]} owns directories of the system" >&2
	exit 1
fi

rpm --root "$root" -e vhdtool
while read -r f; do
	if [ -e "$root$f" ]; then
		echo "rpm-check: $f is left after the package was removed" >&2
		exit 1
	fi
done <"$scratch/files"
echo "rpm-check: installed, ran, and removed ${rpms[0]}"
