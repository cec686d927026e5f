package product_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

// What a product says by name are these options, for an image of the size that is asked
// for. The caller's own go over them.
func TestOptions(t *testing.T) {
	const size = 30<<20 + 512
	want := map[string]vhd.CreateOptions{
		"azure":      {Type: vhd.Fixed, Exact: true, Align: 1 << 20, Creator: vhd.CreatorWindows},
		"hyperv":     {Type: vhd.Dynamic, Exact: true, Creator: vhd.CreatorWindows},
		"xen":        {Type: vhd.Dynamic, Exact: true, Align: 2 << 20, Creator: vhd.CreatorXenServer},
		"virtualbox": {Type: vhd.Dynamic, Exact: true, Creator: vhd.CreatorWindows},
		"virtualpc":  {Type: vhd.Dynamic, Creator: vhd.CreatorVirtualPC},
		"aws":        {Type: vhd.Dynamic, Exact: true, Creator: vhd.CreatorWindows},
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
		o := p.Options()
		o["subformat"], o["force_size"] = "fixed", "on"
		if p.Options()["subformat"] == "fixed" && p.Name != "azure" {
			t.Errorf("%s: the caller changed the product's own options", p.Name)
		}
		if got, err := vhd.ParseCreateOptions(size, o); err != nil || got.Type != vhd.Fixed || !got.Exact {
			t.Errorf("%s, as a fixed image: %+v, %v", p.Name, got, err)
		}
	}
}
