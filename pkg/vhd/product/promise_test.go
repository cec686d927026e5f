package product_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

// A planned image keeps its promises. If the plan breaks no rule, the image breaks none when it
// is made, written and resized, and a check finds no error. A plan that breaks rules does not
// break more when carried out.
func TestPromise(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom(product.All()).Draw(t, "product")
		o := p.Options(randomOptions(t))
		size := randomSize(t, "size")
		vo, err := vhd.ParseCreateOptions(size, o)
		if err != nil {
			return // the options contradict each other
		}
		if vo.Type == vhd.Fixed && vo.Size > 64*mib {
			vo.Size = 64*mib - vo.Size%(5*mib)
		}
		child := vo.Type != vhd.Fixed && rapid.Bool().Draw(t, "child")
		name := filepath.Join(dir, "image.vhd")
		if child {
			parent := randomParent(t, filepath.Join(dir, "base.vhd"), p)
			defer parent.Close()
			vo.Parent = parent
			if vo.Size < parent.Size() || rapid.Bool().Draw(t, "as large as the parent") {
				vo.Size = 0
			}
			if vo.ParentRecord, err = vhd.ParentRecordOf(name, filepath.Join(dir, "base.vhd"), parent, p.PathStyle()); err != nil {
				t.Fatal(err)
			}
		}
		planned, err := p.ExaminePlan(vo, dir, time.Now())
		if err != nil {
			return
		}
		img, err := vhd.Create(name, vo)
		if err != nil {
			t.Fatalf("%+v: %v", vo, err)
		}
		for range rapid.IntRange(0, 5).Draw(t, "writes") {
			off := rapid.Int64Range(0, img.Size()-1).Draw(t, "off")
			if _, err := img.WriteAt([]byte{1}, off); err != nil {
				t.Fatal(err)
			}
		}
		must(t, img.Close())
		examine(t, p, name, planned)
		// A packed file does not show that its length must be a multiple of 4096.
		if vo.DataAlign == 512 && vo.FileAlign == 4096 {
			return
		}
		change(t, p, name, !child && len(planned) == 0)
		examine(t, p, name, planned)
	})
}

// randomOptions are options that a user may set.
func randomOptions(t *rapid.T) disk.Options {
	set := disk.Options{}
	for _, list := range [][]string{
		{"subformat", "fixed", "dynamic"},
		{"force_size", "on", "off"},
		{"align", "512", "4k", "1M", "2M", "3M"},
		{"min_size", "0", "1M", "50M"},
		{"block_size", "4k", "512k", "1M", "2M", "4M"},
		{"data_align", "512", "4k"},
		{"file_align", "512", "4k"},
		{"creator", "win", "qemu", "qem2", "vpc", "tap", "vbox", "abc"},
		{"timestamp", "2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z"},
	} {
		if key := list[0]; rapid.IntRange(0, 3).Draw(t, "set "+key) == 0 {
			set[key] = rapid.SampledFrom(list[1:]).Draw(t, key)
		}
	}
	return set
}

func randomSize(t *rapid.T, label string) int64 {
	return rapid.OneOf(
		rapid.Int64Range(1, 60*mib),
		rapid.Map(rapid.Int64Range(1, 60), func(n int64) int64 { return n * mib }),
		rapid.SampledFrom([]int64{1, 127 * gib, 128 * gib, 136899993600, 136899993601, 2040 * gib}),
	).Draw(t, label)
}

// randomParent makes a parent, half of the time with the options of a product.
func randomParent(t *rapid.T, name string, p *product.Product) *vhd.Image {
	set := disk.Options{"timestamp": "2020-01-01T00:00:00Z", "subformat": "dynamic"}
	if rapid.Bool().Draw(t, "parent of the product") {
		set = p.Options(set)
	}
	o, err := vhd.ParseCreateOptions(randomSize(t, "parent size"), set)
	must(t, err)
	img, err := vhd.Create(name, o)
	must(t, err)
	must(t, img.Close())
	img, err = vhd.Open(name, nil)
	must(t, err)
	return img
}

// examine checks an image. It may only break the rules in planned.
func examine(t *rapid.T, p *product.Product, name string, planned []product.BrokenRule) {
	img, err := vhd.Open(name, nil)
	must(t, err)
	defer img.Close()
	st, err := os.Stat(name)
	must(t, err)
	var errors int64
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	checker := vhd.NewChecker(f, st.Size(), nil)
	for finding, err := range checker.Findings(context.Background()) {
		must(t, err)
		// Space between pages can hold a block of 4 KiB.
		if finding.Severity == vhd.Error || finding.Severity == vhd.Leak && img.BlockSize() > 4*kib {
			t.Errorf("%v", finding)
		}
	}
	errors = checker.Counts().Errors
	for _, b := range p.Examine(img, product.Examination{Length: st.Size(), Dir: filepath.Dir(name), Errors: errors, Now: time.Now()}) {
		if !slices.ContainsFunc(planned, func(x product.BrokenRule) bool { return x.Name == b.Name }) {
			t.Errorf("%v\nplanned were %v", b, planned)
		}
	}
}

// change writes to an image in place, and gives it another size that its product accepts.
func change(t *rapid.T, p *product.Product, name string, resize bool) {
	img, err := vhd.Open(name, &vhd.OpenOptions{Write: true})
	must(t, err)
	defer func() { must(t, img.Close()) }()
	for range rapid.IntRange(0, 3).Draw(t, "writes in place") {
		_, err := img.WriteAt([]byte{2}, rapid.Int64Range(0, img.Size()-1).Draw(t, "off"))
		must(t, err)
	}
	if !resize || !rapid.Bool().Draw(t, "resize") {
		return
	}
	must(t, img.Sync())
	st, err := os.Stat(name)
	must(t, err)
	size, exact := p.ResizedSize(rapid.Int64Range(1, 100*mib).Draw(t, "new size"))
	footer, err := img.ResizedFooter(size, exact)
	must(t, err)
	if rules := p.Examine(img, product.Examination{Length: st.Size(), Now: time.Now(), Resized: &footer}); len(rules) > 0 {
		return // it is refused
	}
	apply := img.Resize
	if exact {
		apply = img.ResizeExact
	}
	must(t, apply(context.Background(), size, nil))
	if img.Size() < size {
		t.Errorf("%d bytes, want at least %d", img.Size(), size)
	}
}
