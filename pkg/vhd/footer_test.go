package vhd_test

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// unhex returns n bytes: the given ones, and then zeros.
func unhex(t tb, n int, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil || len(b) > n {
		t.Fatalf("%d bytes of hex, want at most %d: %v", len(b), n, err)
	}
	return append(b, make([]byte, n-len(b))...)
}

var wi2k = [4]byte{'W', 'i', '2', 'k'}

// Footers of real images.
var footers = []struct {
	name string
	hex  string // bytes 0 to 84; the others are zero
	want vhd.Footer
	time string
}{
	{
		name: "Azure export, fixed 5 GiB",
		hex: `636f6e656374697800000002 00010000 ffffffffffffffff 2ec79b96 77610000 00070000 5769326b 0000000140000000
			0000000140000000 28a2103f 00000002 ffffe747 8c54df94bd35714c945fe5444453921a 00`,
		want: vhd.Footer{
			DataOffset: allOnes, Timestamp: 784833430, Creator: vhd.Creator{'w', 'a'}, CreatorVersion: 0x70000, CreatorHostOS: wi2k,
			OriginalSize: 5 * gib, CurrentSize: 5 * gib, Geometry: chs{10402, 16, 63}, Type: vhd.Fixed, Checksum: 0xffffe747,
			UniqueID: uuid.MustParse("8c54df94-bd35-714c-945f-e5444453921a"),
		},
		time: "2024-11-13T17:17:10Z",
	},
	{
		name: "Hyper-V 2012 R2, dynamic 127 GiB",
		hex: `636f6e656374697800000002 00010000 0000000000000200 1e598ef7 77696e20 00060003 5769326b 0000001fc0000000
			0000001fc0000000 fefe10ff 00000003 ffffe9db 6d2d5fc8eebade4c8ceede3a12db7c98 00`,
		want: vhd.Footer{
			DataOffset: 512, Timestamp: 509185783, Creator: vhd.CreatorWindows, CreatorVersion: 0x60003, CreatorHostOS: wi2k,
			OriginalSize: 127 * gib, CurrentSize: 127 * gib, Geometry: chs{65278, 16, 255}, Type: vhd.Dynamic, Checksum: 0xffffe9db,
			UniqueID: uuid.MustParse("6d2d5fc8-eeba-de4c-8cee-de3a12db7c98"),
		},
		time: "2016-02-19T08:29:43Z",
	},
	{
		name: "Windows 10, differencing 4 MiB",
		hex: `636f6e656374697800000002 00010000 0000000000000200 27198e1b 77696e20 000a0000 5769326b 0000000000400000
			0000000000400000 00780411 00000004 fffff02c f84f1636cd9e9041a69edcc2380e416a 00`,
		want: vhd.Footer{
			DataOffset: 512, Timestamp: 655986203, Creator: vhd.CreatorWindows, CreatorVersion: 0xa0000, CreatorHostOS: wi2k,
			OriginalSize: 4 * mib, CurrentSize: 4 * mib, Geometry: chs{120, 4, 17}, Type: vhd.Differencing, Checksum: 0xfffff02c,
			UniqueID: uuid.MustParse("f84f1636-cd9e-9041-a69e-dcc2380e416a"),
		},
		time: "2020-10-14T10:23:23Z",
	},
	{
		name: "Virtual PC, differencing 512 MiB",
		hex: `636f6e656374697800000002 00010000 0000000000000200 192215f0 76706320 00010000 5769326b 0000000020000000
			0000000020000000 0410103f 00000004 fffff023 40d56d369ab84fe4a31a121fe2bf15eb 00`,
		want: vhd.Footer{
			DataOffset: 512, Timestamp: 421664240, Creator: vhd.CreatorVirtualPC, CreatorVersion: 0x10000, CreatorHostOS: wi2k,
			OriginalSize: 512 * mib, CurrentSize: 512 * mib, Geometry: chs{1040, 16, 63}, Type: vhd.Differencing, Checksum: 0xfffff023,
			UniqueID: uuid.MustParse("40d56d36-9ab8-4fe4-a31a-121fe2bf15eb"),
		},
		time: "2013-05-12T08:57:20Z",
	},
}

func TestKnownFooters(t *testing.T) {
	for _, c := range footers {
		t.Run(c.name, func(t *testing.T) {
			b := unhex(t, 512, c.hex)
			f := vhd.DecodeFooter((*[512]byte)(b))
			c.want.Cookie, c.want.Features, c.want.Version = [8]byte([]byte("conectix")), 2, 0x10000
			if d := cmp.Diff(c.want, f); d != "" {
				t.Errorf("decoded (-want +got):\n%s", d)
			}
			if got := f.Timestamp.Time().Format(time.RFC3339); got != c.time {
				t.Errorf("time stamp is %s, want %s", got, c.time)
			}
			enc := f.Encode()
			sameBytes(t, "encoded", enc[:], b) // with the checksum of the real image
		})
	}
}

func TestKnownHeaders(t *testing.T) {
	for _, c := range []struct {
		name string
		hex  string
		want vhd.Header
	}{
		{
			name: "Hyper-V 2012 R2, dynamic 127 GiB",
			hex:  `6378737061727365 ffffffffffffffff 0000000000000600 00010000 0000fe00 00200000 fffff379`,
			want: vhd.Header{MaxTableEntries: 65024, Checksum: 0xfffff379},
		},
		{
			name: "Virtual PC, differencing 512 MiB",
			hex: `6378737061727365 ffffffffffffffff 0000000000000600 00010000 00000100 00200000 ffffe1c1
				d49c5c80350a4a89898a5ad6d10f6578 1922077c 00000000` +
				"00640079006e0061006d00690063002e007600680064" + strings.Repeat("00", 512-22+4*24) + `
				57326b75 00000200 0000002a 00000000 0000000000001200
				57327275 00000200 0000001a 00000000 0000000000001000
				5769326b 00000200 00000015 00000000 0000000000000e00
				57693272 00000200 0000000d 00000000 0000000000000c00`,
			want: vhd.Header{
				MaxTableEntries: 256, Checksum: 0xffffe1c1,
				ParentID: uuid.MustParse("d49c5c80-350a-4a89-898a-5ad6d10f6578"), ParentTimestamp: 0x1922077c,
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := unhex(t, 1024, c.hex)
			h := vhd.DecodeHeader((*[1024]byte)(b))
			want := c.want
			want.Cookie, want.DataOffset, want.TableOffset = [8]byte([]byte("cxsparse")), allOnes, 1536
			want.Version, want.BlockSize = 0x10000, 2*mib
			copy(want.ParentName[:], b[64:])
			copy(want.Locators[:], b[576:])
			if d := cmp.Diff(want, h); d != "" {
				t.Errorf("decoded (-want +got):\n%s", d)
			}
			enc := h.Encode()
			sameBytes(t, "encoded", enc[:], b)
		})
	}
}

// Every byte of the structures is decoded to its field, in big-endian order.
func TestDecodePlacesEveryByte(t *testing.T) {
	b := make([]byte, 1024)
	for i := range b {
		b[i] = byte(i)
	}
	f := vhd.DecodeFooter((*[512]byte)(b))
	wantFooter := vhd.Footer{
		Cookie: [8]byte{0, 1, 2, 3, 4, 5, 6, 7}, Features: 0x08090a0b, Version: 0x0c0d0e0f, DataOffset: 0x1011121314151617,
		Timestamp: 0x18191a1b, Creator: vhd.Creator{28, 29, 30, 31}, CreatorVersion: 0x20212223, CreatorHostOS: [4]byte{36, 37, 38, 39},
		OriginalSize: 0x28292a2b2c2d2e2f, CurrentSize: 0x3031323334353637, Geometry: chs{0x3839, 0x3a, 0x3b},
		Type: 0x3c3d3e3f, Checksum: 0x40414243, UniqueID: uuid.UUID(b[68:84]), SavedState: 84, Reserved: [427]byte(b[85:512]),
	}
	if d := cmp.Diff(wantFooter, f); d != "" {
		t.Errorf("footer (-want +got):\n%s", d)
	}
	h := vhd.DecodeHeader((*[1024]byte)(b))
	wantHeader := vhd.Header{
		Cookie: [8]byte{0, 1, 2, 3, 4, 5, 6, 7}, DataOffset: 0x08090a0b0c0d0e0f, TableOffset: 0x1011121314151617,
		Version: 0x18191a1b, MaxTableEntries: 0x1c1d1e1f, BlockSize: 0x20212223, Checksum: 0x24252627,
		ParentID: uuid.UUID(b[40:56]), ParentTimestamp: 0x38393a3b, Reserved1: [4]byte{60, 61, 62, 63},
		ParentName: [512]byte(b[64:576]), Locators: [192]byte(b[576:768]), Reserved2: [256]byte(b[768:]),
	}
	if d := cmp.Diff(wantHeader, h); d != "" {
		t.Errorf("header (-want +got):\n%s", d)
	}
}

// Unknown bytes survive a rewrite, and the checksum matches the bytes.
func TestEncodeKeepsEveryByte(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 1024, 1024).Draw(t, "bytes")
		f := vhd.DecodeFooter((*[512]byte)(b))
		enc := f.Encode()
		want := slices.Clone(b[:512])
		sum(want, 64)
		sameBytes(t, "footer", enc[:], want)
		h := vhd.DecodeHeader((*[1024]byte)(b))
		henc := h.Encode()
		want = slices.Clone(b)
		sum(want, 36)
		sameBytes(t, "header", henc[:], want)
	})
}

// A checksum is close to the largest value, because the sum of a structure's bytes is small.
func TestChecksumBounds(t *testing.T) {
	ones := bytes.Repeat([]byte{0xff}, 1024)
	f := vhd.DecodeFooter((*[512]byte)(ones))
	if b := f.Encode(); be.Uint32(b[64:]) != ^uint32(508*255) {
		t.Errorf("checksum of a footer of ones is %#x, want %#x", be.Uint32(b[64:]), ^uint32(508*255))
	}
	h := vhd.DecodeHeader((*[1024]byte)(ones))
	if b := h.Encode(); be.Uint32(b[36:]) != ^uint32(1020*255) {
		t.Errorf("checksum of a header of ones is %#x, want %#x", be.Uint32(b[36:]), ^uint32(1020*255))
	}
	var zero vhd.Footer
	if b := zero.Encode(); be.Uint32(b[64:]) != 0xffffffff {
		t.Errorf("checksum of a footer of zeros is %#x, want all ones", be.Uint32(b[64:]))
	}
}

// XenServer sets its "hidden" flag, byte 85, in the leading copy. The first versions did not
// update the checksum.
func TestHiddenFlag(t *testing.T) {
	const size = 8 * kib
	image := func(app string, version uint32, summed bool) []byte {
		c := craft{size: size, footer: []edit{creator(app), u32(32, version)}}
		b := c.bytes()
		b[85] = 1
		if summed {
			sum(b[:512], 64)
		}
		return b
	}
	for _, c := range []struct {
		name    string
		app     string
		version uint32
		summed  bool
		ok      bool // the leading copy is valid
		same    bool // its contents equal the footer's
	}{
		{"tap 0.1, not summed", "tap\x00", 0x00000001, false, true, true},
		{"tap 1.1, not summed", "tap\x00", 0x00010001, false, true, true},
		{"tap 1.1, summed", "tap\x00", 0x00010001, true, true, true},
		{"tap 1.3, not summed", "tap\x00", 0x00010003, false, false, false},
		{"tap 1.3, summed", "tap\x00", 0x00010003, true, true, false},
		{"win, not summed", "win ", 0x00010001, false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := image(c.app, c.version, c.summed)
			var got []string
			fs, _ := findings(t, b)
			for _, f := range fs {
				got = append(got, f.ID)
			}
			want := []string(nil)
			if !c.ok {
				want = []string{"leading-footer"}
			} else if !c.same {
				want = []string{"footers-differ"}
			}
			if !slices.Equal(got, want) {
				t.Errorf("findings %q, want %q", got, want)
			}
			// Without the trailing footer the copy is used.
			end := len(b) - 512
			copy(b[end:], bytes.Repeat([]byte{0xc7}, 512))
			_, err := vhd.NewImage(bytes.NewReader(b), int64(len(b)), nil)
			if (err == nil) != c.ok {
				t.Errorf("opened by the leading copy: %v, want success: %t", err, c.ok)
			}
		})
	}
}

func TestTimestamp(t *testing.T) {
	for _, c := range []struct {
		time string
		want uint32
		ok   bool
	}{
		{"1999-12-31T23:59:59Z", 0, false},
		{"1999-12-31T23:59:59.9Z", 0, false},
		{"2000-01-01T00:00:00Z", 0, true},
		{"2000-01-01T01:00:00+01:00", 0, true},
		{"2013-05-12T08:57:20Z", 0x192215f0, true},
		{"2024-11-13T17:17:10.75Z", 0x2ec79b96, true},
		{"2068-01-19T03:14:08Z", 0x80000000, true},
		{"2136-02-07T06:28:15Z", 0xffffffff, true},
		{"2136-02-07T06:28:16Z", 0, false},
		{"9999-12-31T23:59:59Z", 0, false},
	} {
		t.Run(c.time, func(t *testing.T) {
			at, err := time.Parse(time.RFC3339, c.time)
			if err != nil {
				t.Fatal(err)
			}
			got, err := vhd.TimestampOf(at)
			if (err == nil) != c.ok || uint32(got) != c.want {
				t.Fatalf("TimestampOf = %#x, %v; want %#x, success: %t", uint32(got), err, c.want, c.ok)
			}
			if back := got.Time(); c.ok && !back.Equal(at.Truncate(time.Second)) {
				t.Errorf("Time gives %v back", back)
			}
			// The zero time means now; no other time may.
			o := &vhd.CreateOptions{Size: mib, Time: at}
			if err := o.Validate(); (err == nil) != c.ok {
				t.Errorf("creating an image of that time: %v, want success: %t", err, c.ok)
			}
		})
	}
}

func TestParseCreator(t *testing.T) {
	for _, c := range []struct {
		in   string
		want string // "" is an error
		out  string
	}{
		{"qemu", "qemu", "qemu"},
		{"vpc", "vpc ", "vpc"},
		{"vpc ", "vpc ", "vpc"},
		{"win", "win ", "win"},
		{"tap", "tap\x00", "tap"},
		{"d2v", "d2v ", "d2v"},
		{"x", "x   ", "x"},
		{"", "    ", ""},
		{"*img", "*img", "*img"},
		{"qemu2", "", ""},
		{"qém", "", ""},
		{"a\x00b", "", ""},
		{"a\tb", "", ""},
		{"a\x7f", "", ""},
	} {
		t.Run(c.in, func(t *testing.T) {
			got, err := vhd.ParseCreator(c.in)
			if (err == nil) != (c.want != "") {
				t.Fatalf("ParseCreator: %v", err)
			}
			if err == nil && (string(got[:]) != c.want || got.String() != c.out) {
				t.Errorf("ParseCreator = %q (%s), want %q (%s)", got[:], got, c.want, c.out)
			}
		})
	}
	for bytes, want := range map[vhd.Creator]string{
		{}:                    "",
		{'w', 'a', 0, 0}:      "wa",
		{'d', '2', 'v', 0}:    "d2v",
		{0xff, 'a', '\n', 0}:  `\xffa\x0a`,
		{'a', 0, 'b', ' '}:    `a\x00b`,
		{' ', 'a', ' ', '\\'}: ` a \`,
	} {
		if got := bytes.String(); got != want {
			t.Errorf("%q is shown as %q, want %q", bytes[:], got, want)
		}
	}
}
