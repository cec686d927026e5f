package vhd_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// TestDerivedID: equal options give equal ids, and every option that changes the metadata of an
// image gives another id.
func TestDerivedID(t *testing.T) {
	base := vhd.CreateOptions{Size: 8 << 20, DeriveID: true, Time: time.Unix(1700000000, 0)}
	id := func(change func(o *vhd.CreateOptions)) uuid.UUID {
		t.Helper()
		o := base
		change(&o)
		f, _, err := o.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		return f.UniqueID
	}
	same := id(func(*vhd.CreateOptions) {})
	if same.Version() != 5 || same.Variant() != uuid.RFC4122 {
		t.Errorf("%v is of version %d and variant %v, want 5 and %v", same, same.Version(), same.Variant(), uuid.RFC4122)
	}
	given := uuid.MustParse("0f2c3e5a-6b1d-4c8e-9a57-3d2b1e0f4c6d")
	if got := id(func(o *vhd.CreateOptions) { o.UniqueID = given }); got != given {
		t.Errorf("with UniqueID %v the id is %v", given, got)
	}
	seen := map[uuid.UUID]string{same: "the base"}
	for name, change := range map[string]func(o *vhd.CreateOptions){
		"size":       func(o *vhd.CreateOptions) { o.Size *= 2 },
		"exact":      func(o *vhd.CreateOptions) { o.Exact = true },
		"type":       func(o *vhd.CreateOptions) { o.Type = vhd.Fixed },
		"block size": func(o *vhd.CreateOptions) { o.BlockSize = 512 << 10 },
		"creator":    func(o *vhd.CreateOptions) { o.Creator = vhd.CreatorXenServer },
		"time":       func(o *vhd.CreateOptions) { o.Time = o.Time.Add(time.Second) },
	} {
		got := id(change)
		if other, ok := seen[got]; ok {
			t.Errorf("another %s gives the id of %s", name, other)
		}
		seen[got] = "another " + name
		if again := id(change); again != got {
			t.Errorf("another %s gives %v, and then %v", name, got, again)
		}
	}
}
