#!/usr/bin/env bash
# Compares the speed of vhdtool and qemu-img, as whole processes and pair by pair, and
# verifies their output.
#
#   scripts/bench.sh [-n PAIRS] [-d DIR] [-g GIB,...] [-s SECTION,...] [VHDTOOL]
#
#   VHDTOOL  the binary; default bin/vhdtool
#   -n       counted pairs of each case, after an uncounted one (default 5)
#   -d       working directory with 12 GiB or more (default: a new one in TMPDIR)
#   -g       GiB of data in the table of sizes (default 1,4,16)
#   -s       only these: convert, small, inplace, reflink, sizes
#
# The order within a pair changes from pair to pair. The ratio of a case is the median of the
# ratios of its pairs. Inputs are in the page cache, no program is asked to flush, and dirty
# pages are flushed between the runs. The reflink cases need root, mkfs.xfs and mkfs.btrfs, and
# are skipped if mounting is not permitted.
set -euo pipefail
cd "$(dirname "$0")/.."

pairs=5 dir='' gibs=1,4,16 sections=convert,small,inplace,reflink,sizes
while getopts n:d:g:s:h opt; do
	case $opt in
	n) pairs=$OPTARG ;;
	d) dir=$OPTARG ;;
	g) gibs=$OPTARG ;;
	s) sections=$OPTARG ;;
	*)
		sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"
		exit 2
		;;
	esac
done
shift $((OPTIND - 1))
tool=$(realpath "${1:-bin/vhdtool}")
command -v qemu-img >/dev/null || { echo "bench: qemu-img is missing" >&2; exit 1; }
if [ -z "$dir" ]; then
	dir=$(mktemp -d "${TMPDIR:-/var/tmp}/vhdtool-bench.XXXXXX")
	trap 'rm -rf "$dir"' EXIT
fi
mkdir -p "$dir"
failed=0

# seconds COMMAND... prints the run time of a command, whose output goes to $dir/log.
seconds() {
	local start=$EPOCHREALTIME
	"$@" >"$dir/log" 2>&1 || { echo "bench: failed: $*" >&2; tail -n 3 "$dir/log" >&2; exit 1; }
	local end=$EPOCHREALTIME
	echo $((${end/./} - ${start/./}))
}

# median prints the median of the numbers on standard input.
median() { sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

# peak COMMAND... prints the peak memory of a command in MiB.
peak() {
	python3 - "$@" <<'PY'
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print("%.0f" % (resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024))
PY
}

# pair NAME OUTPUT VERIFY ARG... times both programs with these arguments, and prints a row.
# OUTPUT is removed before each run; VERIFY is a command, or "".
pair() {
	local name=$1 out=$2 verify=$3 a=() b=() ratios=() i who t
	shift 3
	for ((i = 0; i <= pairs; i++)); do
		for who in $((i % 2)) $(((i + 1) % 2)); do
			[ -z "$out" ] || rm -f "$out"
			sync -f "$dir"
			if [ "$who" = 0 ]; then
				t=$(seconds "$tool" "$@")
				# Our last output is verified, outside of the measurement.
				if [ "$i" = "$pairs" ] && [ -n "$verify" ] && ! $verify >/dev/null; then
					echo "bench: $name: the output is wrong" >&2
					failed=1
				fi
				a+=("$t")
			else
				t=$(seconds qemu-img "$@")
				b+=("$t")
			fi
		done
		[ "$i" = 0 ] || ratios+=("$(awk "BEGIN { print ${a[i]} / ${b[i]} }")")
	done
	printf '%-34s %10.1f %10.1f %8.3f\n' "$name" \
		"$(printf '%s\n' "${a[@]:1}" | median | awk '{ print $1 / 1000 }')" \
		"$(printf '%s\n' "${b[@]:1}" | median | awk '{ print $1 / 1000 }')" \
		"$(printf '%s\n' "${ratios[@]}" | median)"
	[ -z "$out" ] || rm -f "$out"
}

heading() {
	echo
	echo "$1"
	printf '%-34s %10s %10s %8s\n' case 'vhdtool ms' 'qemu ms' ratio
}

# fill FILE SIZE DATA STEP creates a file of SIZE bytes with DATA bytes of random data. The data
# is in pieces of at most 16 MiB at multiples of STEP.
fill() {
	python3 - "$@" <<'PY'
import os, sys
name, size, data, step = sys.argv[1], *map(int, sys.argv[2:])
with open(name, "wb", buffering=0) as f:
    f.truncate(size)
    off = 0
    while data > 0:
        f.seek(off)
        data -= f.write(os.urandom(min(data, 16 << 20)))
        off += step
PY
}

wanted() { [[ ,$sections, == *,$1,* ]]; }

GIB=$((1 << 30))
MIB=$((1 << 20))
dynamic=subformat=dynamic,force_size=on
fixed=subformat=fixed,force_size=on
out=$dir/out

inputs() { # DIR: creates a sparse disk, a disk of random data, and both as dynamic VHDs
	[ -e "$1/random.vhd" ] && return
	fill "$1/sparse.raw" $GIB $((GIB / 4)) $((64 * MIB))
	fill "$1/random.raw" $((GIB / 2)) $((GIB / 2)) $((16 * MIB))
	for x in sparse random; do
		qemu-img convert -f raw -O vpc -o $dynamic "$1/$x.raw" "$1/$x.vhd"
	done
}

same() { qemu-img compare -f "$1" -F raw "$2" "$3"; }

if wanted convert; then
	inputs "$dir"
	truncate -s $GIB "$dir/zeros.raw"
	dd if=/dev/zero of="$dir/zeros.raw" bs=1M count=1024 conv=notrunc status=none
	heading "Conversions: sparse is 1 GiB with 256 MiB of data, random 512 MiB, zeros 1 GiB that was written"
	for x in sparse random zeros; do
		pair "$x, raw to dynamic" "$out" "same vpc $out $dir/$x.raw" \
			convert -f raw -O vpc -o $dynamic "$dir/$x.raw" "$out"
	done
	for x in sparse random; do
		pair "$x, raw to fixed" "$out" "same vpc $out $dir/$x.raw" \
			convert -f raw -O vpc -o $fixed "$dir/$x.raw" "$out"
		pair "$x, dynamic to raw" "$out" "cmp $out $dir/$x.raw" \
			convert -f vpc -O raw "$dir/$x.vhd" "$out"
	done
	pair "sparse, dynamic to fixed" "$out" "same vpc $out $dir/sparse.raw" \
		convert -f vpc -O vpc -o $fixed "$dir/sparse.vhd" "$out"
	pair "random, dynamic to dynamic" "$out" "same vpc $out $dir/random.raw" \
		convert -f vpc -O vpc -o $dynamic "$dir/random.vhd" "$out"
	for x in sparse random; do
		pair "$x, compare" "" "" compare -f vpc -F raw "$dir/$x.vhd" "$dir/$x.raw"
	done
fi

if wanted small; then
	heading "Commands that move no data"
	pair "create, dynamic of 2040 GiB" "$out" "qemu-img info -f vpc $out" create -f vpc -o subformat=dynamic "$out" 2040G
	pair "create, fixed of 100 GiB" "$out" "qemu-img info -f vpc $out" create -f vpc -o subformat=fixed "$out" 100G
	if [ ! -e "$dir/big.vhd" ]; then # 10000 blocks in scattered order
		qemu-img create -q -f vpc -o $dynamic "$dir/big.vhd" 2040G
		go run ./scripts/imagebench -w -c 10000 -s 4096 -S $((((7919 << 21) * 13) + (2 << 21))) "$dir/big.vhd" >/dev/null
	fi
	pair "info, 2040 GiB with 10000 blocks" "" "" info -f vpc --output=json "$dir/big.vhd"
	pair "map of the same" "" "" map -f vpc --output=json "$dir/big.vhd"
	pair "--version" "" "" --version
fi

if wanted inplace; then
	go build -o "$dir/imagebench" ./scripts/imagebench
	echo
	echo "Requests in place, one at a time, 4000 scattered over 16 GiB: seconds, and the time of qemu-img bench divided by that"
	printf '%-34s %10s %10s %8s %12s\n' case vhdtool qemu times 'with flush'
	step=$((370 * MIB + 17 * 4096))
	for size in 4096 65536; do
		for x in vhdtool qemu; do
			rm -f "$dir/$x.vhd"
			qemu-img create -q -f vpc -o $dynamic "$dir/$x.vhd" 16G
		done
		for touch in 'first write' 'second write' read; do
			flag=(-w)
			[ "$touch" = read ] && flag=()
			sync -f "$dir"
			read -r ours closed < <("$dir/imagebench" "${flag[@]}" -c 4000 -s $size -S $step "$dir/vhdtool.vhd")
			sync -f "$dir"
			theirs=$(qemu-img bench -f vpc "${flag[@]}" -c 4000 -d 1 -s $size -S $step "$dir/qemu.vhd" | awk '/completed/ { print $4 }')
			awk -v name="$((size / 1024)) KiB, $touch" -v a="$ours" -v c="$closed" -v b="$theirs" \
				'BEGIN { printf "%-34s %10.3f %10.3f %8.1f %12.1f\n", name, a, b, b / a, b / c }'
		done
		qemu-img check -f vpc "$dir/vhdtool.vhd" >/dev/null 2>&1 || [ $? = 63 ] || failed=1
		"$tool" check -q "$dir/vhdtool.vhd" || failed=1
	done
	rm -f "$dir/vhdtool.vhd" "$dir/qemu.vhd"
fi

reflink() { # file system
	local kind=$1 mnt=$dir/mnt
	rm -f "$dir/fs"
	truncate -s 6G "$dir/fs"
	mkdir -p "$mnt"
	if ! "mkfs.$kind" -q "$dir/fs" >/dev/null 2>&1 || ! mount -o loop "$dir/fs" "$mnt" 2>/dev/null; then
		echo "bench: skipped: cannot create and mount $kind" >&2
		return
	fi
	trap 'umount "$mnt"' RETURN
	fill "$mnt/random.raw" $GIB $GIB $((16 * MIB))
	"$tool" convert -f raw -O vpc -o $dynamic "$mnt/random.raw" "$mnt/random.vhd"
	sync -f "$mnt"
	local s
	for s in 0 4k; do
		heading "$kind, 1 GiB of random data, -S $s"
		pair "raw to fixed" "$mnt/out" "same vpc $mnt/out $mnt/random.raw" \
			convert -S $s -f raw -O vpc -o $fixed "$mnt/random.raw" "$mnt/out"
		pair "raw to dynamic" "$mnt/out" "same vpc $mnt/out $mnt/random.raw" \
			convert -S $s -f raw -O vpc -o $dynamic "$mnt/random.raw" "$mnt/out"
		pair "dynamic to raw" "$mnt/out" "cmp $mnt/out $mnt/random.raw" \
			convert -S $s -f vpc -O raw "$mnt/random.vhd" "$mnt/out"
	done
}

if wanted reflink; then
	for kind in xfs btrfs; do
		reflink $kind
	done
	rm -f "$dir/fs"
fi

if wanted sizes; then
	echo
	echo "Raw to dynamic, by size"
	printf '%12s %12s %10s %10s\n' 'data GiB' 'disk GiB' seconds 'peak MiB'
	row() { # data, size, name of the source
		rm -f "$out"
		sync -f "$dir"
		local t
		t=$(seconds "$tool" convert -f raw -O vpc -o $dynamic "$3" "$out")
		rm -f "$out"
		printf '%12s %12s %10s %10s\n' "$1" "$2" "$(awk "BEGIN { printf \"%.2f\", $t / 1e6 }")" \
			"$(peak "$tool" convert -f raw -O vpc -o $dynamic "$3" "$out")"
	}
	for g in ${gibs//,/ }; do
		fill "$dir/grow.raw" $((4 * g * GIB)) $((g * GIB)) $((64 * MIB))
		row "$g" $((4 * g)) "$dir/grow.raw"
	done
	for size in 10 100 1000 2040; do
		fill "$dir/grow.raw" $((size * GIB)) $GIB $((size * GIB / 64))
		row 1 $size "$dir/grow.raw"
	done
	rm -f "$dir/grow.raw" "$out"
fi

echo
if [ $failed -ne 0 ]; then
	echo "bench: outputs were wrong"
	exit 1
fi
echo "bench: all outputs verified"
