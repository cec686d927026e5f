package product_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

func must(t interface {
	Helper()
	Fatal(args ...any)
}, err error,
) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Each product has these options by name, for an image of the requested size. The caller's own
// options override them.
func TestOptions(t *testing.T) {
	const size = 30<<20 + 512
	want := map[string]vhd.CreateOptions{
		"azure":      {Type: vhd.Fixed, Exact: true, Align: mib, MinSize: 20 * mib, Creator: vhd.CreatorWindows},
		"hyperv":     {Type: vhd.Dynamic, Exact: true, MinSize: 3 * mib, FileAlign: 4096, Creator: vhd.CreatorWindows},
		"xen":        {Type: vhd.Dynamic, Exact: true, Align: 2 * mib, MinSize: 2 * mib, BlockSize: 2 * mib, Creator: vhd.CreatorXenServer},
		"virtualbox": {Type: vhd.Dynamic, Exact: true, MinSize: 512, BlockSize: 2 * mib, DataAlign: 512, Creator: vhd.CreatorWindows},
		"virtualpc":  {Type: vhd.Dynamic, MinSize: 512, BlockSize: 2 * mib, DataAlign: 512, Creator: vhd.CreatorVirtualPC},
		"aws":        {Type: vhd.Dynamic, Exact: true, MinSize: 512, Creator: vhd.CreatorWindows},
	}
	for _, p := range product.All() {
		want := want[p.Name]
		want.Size = size
		got, err := p.CreateOptions(size)
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		if diff := cmp.Diff(&want, got); diff != "" {
			t.Errorf("%s: %s", p.Name, diff)
		}
		set := disk.Options{"subformat": "fixed", "force_size": "on"}
		o := p.Options(set)
		if got, err := vhd.ParseCreateOptions(size, o); err != nil || got.Type != vhd.Fixed || !got.Exact {
			t.Errorf("%s, as a fixed image: %+v, %v", p.Name, got, err)
		}
		o["creator"] = "zzzz"
		if p.Options(nil)["creator"] == "zzzz" || len(set) != 2 {
			t.Errorf("%s: the caller changed the product's own options, or lost its own", p.Name)
		}
	}
}

func TestResizedSize(t *testing.T) {
	for name, want := range map[string][3]int64{ // for 1 byte, for 20 MiB and a byte, and for 40 MiB
		"azure":      {20 * mib, 21 * mib, 40 * mib},
		"hyperv":     {3 * mib, 20*mib + 512, 40 * mib},
		"xen":        {2 * mib, 22 * mib, 40 * mib},
		"virtualbox": {512, 20*mib + 512, 40 * mib},
		"virtualpc":  {512, 20*mib + 512, 40 * mib},
	} {
		p, err := product.Find(name)
		must(t, err)
		for i, size := range []int64{1, 20*mib + 1, 40 * mib} {
			got, exact := p.ResizedSize(size)
			if got != want[i] || exact != (name != "virtualpc") {
				t.Errorf("%s: %d becomes %d, exact %t; want %d", name, size, got, exact, want[i])
			}
		}
	}
}
