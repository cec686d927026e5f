package vhd_test

import (
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// An image that is salvaged cannot be written.
func TestSalvageRefusesWrite(t *testing.T) {
	m := newMemFile(craft{size: 8 * kib}.bytes())
	if img, err := vhd.NewImage(m, m.size(), &vhd.OpenOptions{Write: true, Salvage: true}); err == nil {
		t.Errorf("opened %v, want an error", img)
	}
}
