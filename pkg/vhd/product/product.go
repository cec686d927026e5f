// Package product knows the rules of Azure, Hyper-V, XenServer, VirtualBox, Virtual PC and AWS
// for VHD images, beyond those of the format. It changes with these products, not with package
// vhd.
package product

import (
	"fmt"
	"maps"

	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// Product is a product that accepts VHD images according to its own rules.
type Product struct {
	Name  string // such as "azure"
	Title string // such as "Azure"

	template string        // options of an image for it, as for -o
	children vhd.PathStyle // style of the paths to the parents of its differencing images
	rules    func() []Rule // builds the rules; most commands need none
}

var products = []Product{
	{
		Name: "azure", Title: "Azure",
		template: "subformat=fixed,force_size=on,align=1M,min_size=20M,creator=win",
		children: vhd.PathsWindows,
		rules:    azureRules,
	},
	{
		Name: "hyperv", Title: "Hyper-V",
		template: "subformat=dynamic,force_size=on,min_size=3M,creator=win,file_align=4k",
		children: vhd.PathsWindows,
		rules:    hypervRules,
	},
	{
		Name: "xen", Title: "XenServer",
		template: "subformat=dynamic,force_size=on,align=2M,min_size=2M,block_size=2M,creator=tap",
		children: vhd.PathsXen,
		rules:    xenRules,
	},
	{
		Name: "virtualbox", Title: "VirtualBox",
		template: "subformat=dynamic,force_size=on,min_size=512,block_size=2M,data_align=512,creator=win",
		children: vhd.PathsAll,
		rules:    virtualboxRules,
	},
	{
		Name: "virtualpc", Title: "Virtual PC",
		template: "subformat=dynamic,min_size=512,block_size=2M,data_align=512,creator=vpc",
		children: vhd.PathsAll,
		rules:    virtualpcRules,
	},
	{
		Name: "aws", Title: "AWS VM Import",
		template: "subformat=dynamic,force_size=on,min_size=512,creator=win",
		children: vhd.PathsAll,
		rules:    awsRules,
	},
}

// All returns the supported products.
func All() []*Product {
	all := make([]*Product, len(products))
	for i := range products {
		all[i] = &products[i]
	}
	return all
}

// Find returns the product with that name.
func Find(name string) (*Product, error) {
	known := ""
	for _, p := range All() {
		if p.Name == name {
			return p, nil
		}
		known += " " + p.Name
	}
	return nil, fmt.Errorf("unknown product %q: want one of%s", name, known)
}

// Options returns the options for an image that the product accepts, by name, as
// [vhd.ParseCreateOptions] reads them. Options in set, which may be nil, override its own. If
// set makes the subformat fixed, options that apply only to blocks are omitted.
func (p *Product) Options(set disk.Options) disk.Options {
	list, err := optlist.Parse(p.template)
	if err != nil {
		panic(err) // the templates are constants
	}
	o := disk.Options{}
	for _, x := range list {
		o[x.Key] = x.Value
	}
	if set["subformat"] == "fixed" {
		for _, key := range []string{"block_size", "data_align", "file_align"} {
			delete(o, key)
		}
	}
	maps.Copy(o, set)
	return o
}

// CreateOptions returns the options for an image of at least size bytes that the product
// accepts, or the error of [vhd.ParseCreateOptions].
func (p *Product) CreateOptions(size int64) (*vhd.CreateOptions, error) {
	return vhd.ParseCreateOptions(size, p.Options(nil))
}

// ResizedSize returns the least size in bytes, at least size, that an image for the product can
// have. exact reports that an image of this size keeps it instead of rounding it to a geometry.
func (p *Product) ResizedSize(size int64) (resized int64, exact bool) {
	o, err := p.CreateOptions(0)
	if err != nil {
		panic(err) // the templates are constants
	}
	size = max(size, o.MinSize)
	if rest := size % max(o.Align, vhd.SectorSize); rest != 0 {
		size += max(o.Align, vhd.SectorSize) - rest
	}
	return size, o.Exact
}

// PathStyle returns the product's style of the paths to the parents of images.
func (p *Product) PathStyle() vhd.PathStyle { return p.children }

// Rules returns the product's rules.
func (p *Product) Rules() []Rule {
	rules := p.rules()
	for i := range rules {
		rules[i].Name = p.Name + "-" + rules[i].Name
	}
	return rules
}
