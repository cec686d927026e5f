package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

// productResult reports whether a product accepts an image, and the broken rules.
type productResult struct {
	Name     string               `json:"name"`
	Accepted bool                 `json:"accepted"`
	Rules    []product.BrokenRule `json:"rules,omitempty"`

	title string
}

func newProductResult(p *product.Product, broken []product.BrokenRule) productResult {
	return productResult{Name: p.Name, Accepted: len(broken) == 0, Rules: broken, title: p.Title}
}

// String returns the result in one line.
func (r *productResult) String() string {
	switch n := len(r.Rules); n {
	case 0:
		return r.title + " accepts this image."
	case 1:
		return r.title + " does not accept this image: 1 rule."
	default:
		return fmt.Sprintf("%s does not accept this image: %d rules.", r.title, n)
	}
}

// productLine names the products that accept an image.
func productLine(results []productResult) string {
	var names []string
	for _, r := range results {
		if r.Accepted {
			names = append(names, r.Name)
		}
	}
	switch len(names) {
	case 0:
		return "ready for: no product ('check --for NAME' says why)"
	case len(results):
		return "ready for: " + strings.Join(names, ", ")
	}
	return "ready for: " + strings.Join(names, ", ") + " ('check --for NAME' says why no other)"
}

// examineRequest is a request to examine an image for a product.
type examineRequest struct {
	r       io.ReaderAt
	size    int64 // length of the file
	ref     imageRef
	alone   bool // leave the image's parents closed
	errors  int64
	product *product.Product
}

// examineVPC implements format.examine.
func examineVPC(q *examineRequest) ([]product.BrokenRule, error) {
	o := q.ref.options
	o.Parents.None = o.Parents.None || q.alone
	vo, err := vhd.ParseOpenOptions(&o)
	if err != nil {
		return nil, err
	}
	vo.NoLock = q.ref.share
	img, err := vhd.NewImage(q.r, q.size, vo)
	var noParent *vhd.ParentError
	if errors.As(err, &noParent) { // the check has reported it
		vo.Parents.None = true
		img, err = vhd.NewImage(q.r, q.size, vo)
	}
	switch {
	case errors.Is(err, vhd.ErrNotVHD):
		return q.product.ExamineUnreadable(false, 0), nil
	case err != nil && q.errors > 0:
		return q.product.ExamineUnreadable(true, q.errors), nil
	case err != nil:
		return nil, err
	}
	defer img.Close()
	return q.product.Examine(img, product.Examination{
		Length: q.size, Dir: filepath.Dir(q.ref.name), Errors: q.errors, Now: time.Now(),
	}), nil
}

// examineResizedVPC implements format.examineResized.
func examineResizedVPC(d disk.Disk, p *product.Product, length, size int64, exact bool) ([]product.BrokenRule, error) {
	img := d.(*vhd.Image)
	f, err := img.ResizedFooter(size, exact)
	if err != nil {
		return nil, err
	}
	return p.Examine(img, product.Examination{Length: length, Now: time.Now(), Resized: &f}), nil
}

// sizeInDoubtVPC implements format.sizeInDoubt.
func sizeInDoubtVPC(d disk.Disk) string {
	img := d.(*vhd.Image)
	f := img.Footer()
	n := f.BeyondGeometry()
	switch {
	case n == 0:
		return ""
	case img.SizedBy() == vhd.SizeFromGeometry:
		return fmt.Sprintf("the disk ends with its geometry; %d bytes of the current size (%d) are left out; driver option force_size_calc=current_size includes them", n, f.CurrentSize)
	}
	return fmt.Sprintf("the disk is as large as its current size (%d bytes); qemu and Virtual PC do not see the last %d bytes, which are beyond the geometry", f.CurrentSize, n)
}

// pathStyleFor returns the form of parent paths that the named product expects. Only XenServer
// accepts a raw disk as a parent.
func pathStyleFor(name string, parent disk.Disk) (vhd.PathStyle, error) {
	p, err := product.Find(name)
	if err != nil {
		return vhd.PathStyle{}, err
	}
	if _, ok := parent.(*vhd.Image); !ok && p.Name != "xen" {
		return vhd.PathStyle{}, fmt.Errorf("%s accepts no raw disk as a parent", p.Title)
	}
	return p.PathStyle(), nil
}

// promise checks that the product of --for accepts an image with the user's options, for a disk of
// size bytes. A size below 0 is not known yet. Errors of the options themselves are left to the
// format.
func (t *targetFlags) promise(f *format, size int64, set disk.Options) error {
	p, err := product.Find(t.product)
	if err != nil {
		return nil // no product is named; apply has checked the name
	}
	return checkPromise(p, set, func(set disk.Options) ([]product.BrokenRule, error) {
		o, err := vhd.ParseCreateOptions(size, newImageOptions(f, p.Name, set))
		if err != nil {
			return nil, err
		}
		return p.ExaminePlan(o, "", time.Now())
	})
}

// promiseChild is promise for a differencing image.
func promiseChild(r *childRequest, vo *vhd.CreateOptions) error {
	p, err := product.Find(r.product)
	if err != nil {
		return nil //nolint:nilerr // no product is named
	}
	return checkPromise(p, r.set, func(set disk.Options) ([]product.BrokenRule, error) {
		o, err := vhd.ParseCreateOptions(0, newImageOptions(r.format, p.Name, set))
		if err != nil {
			return nil, err
		}
		o.Size, o.Parent, o.ParentRecord = vo.Size, vo.Parent, vo.ParentRecord
		return p.ExaminePlan(o, filepath.Dir(r.name), time.Now())
	})
}

// checkPromise returns an error if the options of the user break rules of the product. It names the
// options that break them.
func checkPromise(p *product.Product, set disk.Options, examine func(disk.Options) ([]product.BrokenRule, error)) error {
	broken, err := examine(set)
	if err != nil || len(broken) == 0 {
		return nil //nolint:nilerr // creating the image fails for the same reason
	}
	var guilty []string
	for _, key := range slices.Sorted(maps.Keys(set)) {
		without := maps.Clone(set)
		delete(without, key)
		if rest, err := examine(without); err == nil && len(rest) < len(broken) {
			guilty = append(guilty, key+"="+set[key])
		}
	}
	return promiseError(p, guilty, broken)
}

// promiseError returns the error about broken rules, with the options that break them.
func promiseError(p *product.Product, guilty []string, broken []product.BrokenRule) error {
	var rules []string
	for _, b := range broken {
		rules = append(rules, b.String())
	}
	what := "--for " + p.Name
	if len(guilty) > 0 {
		what += " contradicts " + strings.Join(guilty, ", ")
	}
	return fmt.Errorf("%s: %s", what, strings.Join(rules, "; "))
}
