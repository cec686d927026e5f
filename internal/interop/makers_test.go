package interop

import (
	"fmt"
	"testing"

	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// A maker creates an empty image of size bytes, which it may round up.
type maker func(t *testing.T, image string, size int64)

// qemuMakers returns the makers of each qemu-img, by their options.
func qemuMakers(t *testing.T) map[string]maker {
	t.Helper()
	makers := map[string]maker{}
	for _, q := range oracle.QEMUs(t) {
		for _, options := range qemuOptions {
			makers["qemu "+q.Version+"/"+options] = func(t *testing.T, image string, size int64) {
				t.Helper()
				q.Img(t, "create", "-q", "-f", "vpc", "-o", options, image, fmt.Sprint(size))
			}
		}
	}
	return makers
}

// ourMaker creates images with vhdtool and these options.
func ourMaker(o vhd.CreateOptions) maker {
	return func(t *testing.T, image string, size int64) {
		t.Helper()
		o := o
		o.Size = size
		img, err := vhd.Create(image, &o)
		if err != nil {
			t.Fatal(err)
		}
		if err := img.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
