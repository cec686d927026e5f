//go:build unix

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// A torture is an image, with the expected contents of its disk.
type torture struct {
	t     *testing.T
	rnd   *rand.Rand
	image string
	want  []byte
	// parents of the image. A repair of the image does not change them.
	parents []string
	usual   map[string]time.Duration // duration of each command without a kill
}

const (
	tortureBlock = 64 << 10
	tortureMost  = 4 << 20 // of the disk
)

// TestKill kills commands that change an image at random moments. Afterwards the image opens,
// check -r all repairs it, and the disk holds all its data. VHDTOOL_TORTURE is the number of
// rounds.
func TestKill(t *testing.T) {
	t.Parallel()
	k := newTorture(t)
	k.do("create", "-q", "-o", "force_size,block_size=64k", k.image, strconv.Itoa(len(k.want)))
	k.rounds(func() (string, bool) {
		switch k.rnd.IntN(4) {
		case 0:
			return "resize", k.resize()
		case 1:
			return "check", k.repair()
		}
		return "dd", k.write()
	})
}

// TestKillChain kills commands that change a differencing image and its parents. Its disk stays
// the same, however far they came.
func TestKillChain(t *testing.T) {
	t.Parallel()
	k := newTorture(t)
	dir := filepath.Dir(k.image)
	parents := []string{filepath.Join(dir, "a.vhd"), filepath.Join(dir, "b.vhd")}
	for i, name := range parents {
		k.do("create", "-q", "-o", "force_size,block_size=64k", name, strconv.Itoa(len(k.want)))
		k.do("dd", "-f", "raw", "if="+os.Args[0], "of="+name, "conv=notrunc", "bs=1000", fmt.Sprintf("seek=%d", 100*i), "count=700")
	}
	k.parents = parents
	k.do("create", "-q", "-o", "block_size=16k", "-b", parents[0], k.image)
	k.want = k.read("new child")
	k.rounds(func() (string, bool) {
		switch k.rnd.IntN(5) {
		case 0:
			return "commit", k.run("commit", "-q", k.image)
		case 1, 2:
			return "rebase", k.run("rebase", "-q", "-b", parents[k.rnd.IntN(2)], k.image)
		}
		return "dd", k.write()
	})
}

func newTorture(t *testing.T) *torture {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return &torture{
		t: t, rnd: rand.New(rand.NewPCG(seed, 0)),
		image: filepath.Join(t.TempDir(), "disk.vhd"), want: make([]byte, tortureMost/2), usual: map[string]time.Duration{},
	}
}

// rounds runs random commands, some of which are killed. It examines the image after each.
func (k *torture) rounds(one func() (name string, done bool)) {
	t := k.t
	t.Helper()
	rounds := 60
	if s := os.Getenv("VHDTOOL_TORTURE"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatalf("VHDTOOL_TORTURE: %v", err)
		}
	}
	killed := map[string]int{}
	for i := range rounds {
		name, done := one()
		if !done {
			killed[name]++
		}
		k.verify(fmt.Sprintf("round %d (%s, killed: %v)", i, name, !done))
		for _, image := range append(k.parents, k.image) {
			if out, err := repairAll(image); err != nil {
				t.Fatalf("round %d (%s, killed: %v): check -r all %s: %v\n%s", i, name, !done, image, err, out)
			}
		}
		k.verify(fmt.Sprintf("round %d (%s, killed: %v), and repaired", i, name, !done))
	}
	t.Logf("killed: %v of %d rounds", killed, rounds)
	if len(killed) == 0 {
		t.Error("no command was killed")
	}
}

// do runs a command without killing it.
func (k *torture) do(args ...string) {
	k.t.Helper()
	if out, err := exec.Command("vhdtool", args...).CombinedOutput(); err != nil {
		k.t.Fatalf("%q: %v\n%s", args, err, out)
	}
}

// run runs a command, and mostly kills it after a random time. It reports whether the command was
// complete.
func (k *torture) run(args ...string) bool {
	k.t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("vhdtool", args...)
	cmd.Stderr = &stderr
	start := time.Now()
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	usual, known := k.usual[args[0]]
	if known {
		select {
		case err := <-ended:
			return k.ended(args, err, &stderr)
		case <-time.After(time.Duration(k.rnd.Float64() * 1.3 * float64(usual))):
			_ = cmd.Process.Kill()
		}
	}
	err := <-ended
	if cmd.ProcessState.ExitCode() < 0 {
		return false
	}
	k.usual[args[0]] = time.Since(start)
	return k.ended(args, err, &stderr)
}

func (k *torture) ended(args []string, err error, stderr *bytes.Buffer) bool {
	k.t.Helper()
	if err != nil {
		k.t.Fatalf("%q: %v\n%s", args, err, stderr)
	}
	return true
}

// write writes random data with dd. After a kill, each sector is old or new.
func (k *torture) write() bool {
	sectors := len(k.want) / vhd.SectorSize
	at := k.rnd.IntN(sectors)
	data := make([]byte, min(1+k.rnd.IntN(2048), sectors-at)*vhd.SectorSize)
	for i := 0; i < len(data); i += 8 {
		binary.NativeEndian.PutUint64(data[i:], k.rnd.Uint64())
	}
	source := k.image + ".raw"
	if err := os.WriteFile(source, data, 0o666); err != nil {
		k.t.Fatal(err)
	}
	done := k.run("dd", "-f", "raw", "if="+source, "of="+k.image, "conv=notrunc", "seek="+strconv.Itoa(at))
	at *= vhd.SectorSize
	old := k.want[at : at+len(data)]
	if done {
		copy(old, data)
		return true
	}
	now := k.read("after dd was killed")
	if len(now) != len(k.want) {
		k.t.Fatalf("after dd was killed the disk has %d bytes, want %d", len(now), len(k.want))
	}
	now = now[at:]
	for i := 0; i < len(data); i += vhd.SectorSize {
		s := now[i : i+vhd.SectorSize]
		if !bytes.Equal(s, old[i:i+vhd.SectorSize]) && !bytes.Equal(s, data[i:i+vhd.SectorSize]) {
			k.t.Fatalf("after dd was killed sector %d, which it was to write, is neither old nor new", (at+i)/vhd.SectorSize)
		}
		copy(old[i:], s)
	}
	return false
}

// resize changes the size of the disk. After a kill the size is the old or the new one.
func (k *torture) resize() bool {
	size := (1 + k.rnd.IntN(tortureMost/vhd.SectorSize)) * vhd.SectorSize
	args := []string{"resize", k.image, strconv.Itoa(size)}
	if size < len(k.want) {
		args = []string{"resize", "--shrink", k.image, strconv.Itoa(size)}
	}
	done := k.run(args...)
	resized := make([]byte, size)
	copy(resized, k.want)
	if done {
		k.want = resized
		return true
	}
	switch now := len(k.read("after resize was killed")); now {
	case len(k.want):
	case size:
		k.want = resized
	default:
		k.t.Fatalf("after resize was killed the disk has %d bytes, want %d or %d", now, len(k.want), size)
	}
	return false
}

// repair damages the image, and repairs it.
func (k *torture) repair() bool {
	b, err := os.ReadFile(k.image)
	if err != nil {
		k.t.Fatal(err)
	}
	be := binary.BigEndian
	table := int(be.Uint64(b[512+16:]))
	for i := range len(k.want) / tortureBlock {
		if be.Uint32(b[table+4*i:]) != 0xffffffff && k.rnd.IntN(4) == 0 {
			be.PutUint32(b[table+4*i:], 0xffffffff)
			clear(k.want[i*tortureBlock : (i+1)*tortureBlock])
		}
	}
	switch k.rnd.IntN(4) {
	case 0:
		clear(b[:512])
	case 1:
		b = b[:len(b)-512]
	case 2:
		b[512+36] ^= 1
	}
	if err := os.WriteFile(k.image, b, 0o666); err != nil {
		k.t.Fatal(err)
	}
	if k.run("check", "-r", "all", "--discard-orphans", k.image) {
		return true
	}
	// The damage may still be there.
	out, err := repairAll(k.image)
	if err != nil {
		k.t.Fatalf("after check -r all was killed, the next one: %v\n%s", err, out)
	}
	return false
}

// repairAll repairs the named image. A run that changes BAT entries returns no space, so the
// second run must leave nothing.
func repairAll(name string) (out []byte, err error) {
	for range 2 {
		out, err = exec.Command("vhdtool", "check", "-r", "all", "--discard-orphans", name).CombinedOutput()
		if err == nil {
			break
		}
	}
	return out, err
}

func (k *torture) read(what string) []byte {
	k.t.Helper()
	img, err := vhd.Open(k.image, nil)
	if err != nil {
		k.t.Fatalf("%s: %v", what, err)
	}
	defer img.Close()
	b := make([]byte, img.Size())
	if n, err := img.ReadAt(b, 0); n < len(b) || err != nil && err != io.EOF {
		k.t.Fatalf("%s: %v", what, err)
	}
	return b
}

// verify compares the disk.
func (k *torture) verify(what string) {
	k.t.Helper()
	b := k.read(what)
	if len(b) != len(k.want) {
		k.t.Fatalf("%s: the disk has %d bytes, want %d", what, len(b), len(k.want))
	}
	for i := 0; i < len(b); i += vhd.SectorSize {
		if !bytes.Equal(b[i:i+vhd.SectorSize], k.want[i:i+vhd.SectorSize]) {
			k.t.Fatalf("%s: sector %d is not what it was", what, i/vhd.SectorSize)
		}
	}
}
