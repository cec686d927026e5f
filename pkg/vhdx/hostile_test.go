package vhdx_test

import (
	"errors"
	"io"
	"math"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhdx"
)

// base is the image that the hostile cases change: two blocks in the file, and one
// that is not.
func base() *sparse {
	s := craft{size: 3 * mib, entries: map[int64]uint64{0: 4*mib | 6, 1: 5*mib | 6}}.image()
	s.fill(4*mib, 2*mib, 'x')
	return s
}

// TestHostile: crafted images are refused when they are opened, and the check names the fault.
func TestHostile(t *testing.T) {
	region := func(i int64) (int64, int64) { return regions1At + 16 + 32*i, regions2At + 16 + 32*i }
	both := func(s *sparse, i, field int64, v uint64, bits int) {
		a, b := region(i)
		for _, at := range []int64{a, b} {
			if bits == 64 {
				s.put64(at+field, v)
			} else {
				s.put32(at+field, uint32(v))
			}
		}
	}
	item := func(i int64) int64 { return metadataAt + 32 + 32*i }
	for name, c := range map[string]struct {
		change func(s *sparse)
		id     string
		kind   error
	}{
		"no headers":               {func(s *sparse) { s.fill(header1At, 4096, 0); s.fill(header2At, 4096, 0) }, "header-signature", vhdx.ErrCorrupt},
		"header of version 2":      {func(s *sparse) { s.put16(header2At+66, 2) }, "header-version", vhdx.ErrUnsupported},
		"headers of one number":    {func(s *sparse) { s.put64(header1At+8, 8); s.put(header1At+16, 9) }, "header-sequence", vhdx.ErrCorrupt},
		"file ends in the headers": {func(s *sparse) { s.size = 100_000 }, "region-table-missing", vhdx.ErrCorrupt},
		"file ends before them":    {func(s *sparse) { s.size = 1000 }, "header-missing", vhdx.ErrCorrupt},
		"no region tables":         {func(s *sparse) { s.fill(regions1At, 4096, 0); s.fill(regions2At, 4096, 0) }, "region-table-signature", vhdx.ErrCorrupt},
		"too many regions":         {func(s *sparse) { s.put32(regions1At+8, 4e9); s.put32(regions2At+8, 2048) }, "region-table-count", vhdx.ErrCorrupt},
		"no BAT":                   {func(s *sparse) { s.put32(regions1At+8, 0); s.put32(regions2At+8, 0) }, "region-missing", vhdx.ErrCorrupt},
		"two BATs": {func(s *sparse) {
			for _, at := range []int64{regions1At, regions2At} {
				s.putRegion(at+48, guidBAT, batAt, mib, 1)
			}
		}, "region-duplicate", vhdx.ErrCorrupt},
		"an unknown required region": {func(s *sparse) {
			for _, at := range []int64{regions1At, regions2At} {
				s.put32(at+8, 3)
				s.putRegion(at+80, guidLog, 5*mib, mib, 1)
			}
		}, "region-unknown", vhdx.ErrUnsupported},
		"BAT over the metadata":    {func(s *sparse) { both(s, 0, 16, metadataAt, 64) }, "region-overlap", vhdx.ErrCorrupt},
		"BAT over the log":         {func(s *sparse) { both(s, 0, 16, logAt, 64) }, "region-overlap", vhdx.ErrCorrupt},
		"BAT over the headers":     {func(s *sparse) { both(s, 0, 16, 0, 64) }, "region-bounds", vhdx.ErrCorrupt},
		"BAT after the end":        {func(s *sparse) { both(s, 0, 16, 1<<40, 64) }, "region-bounds", vhdx.ErrCorrupt},
		"BAT whose end overflows":  {func(s *sparse) { both(s, 0, 16, math.MaxUint64&^(mib-1), 64) }, "region-bounds", vhdx.ErrCorrupt},
		"BAT without length":       {func(s *sparse) { both(s, 0, 24, 0, 32) }, "region-bounds", vhdx.ErrCorrupt},
		"BAT longer than the file": {func(s *sparse) { both(s, 0, 24, 0xfff00000, 32) }, "region-bounds", vhdx.ErrCorrupt},
		"odd BAT offset":           {func(s *sparse) { both(s, 0, 16, batAt+512, 64) }, "region-bounds", vhdx.ErrCorrupt},
		"metadata is the BAT":      {func(s *sparse) { both(s, 1, 16, batAt, 64) }, "region-overlap", vhdx.ErrCorrupt},
		"no metadata table":        {func(s *sparse) { s.put(metadataAt, 'x') }, "metadata-signature", vhdx.ErrCorrupt},
		"too many items":           {func(s *sparse) { s.put16(metadataAt+10, 0xffff) }, "metadata-count", vhdx.ErrCorrupt},
		"no items":                 {func(s *sparse) { s.put16(metadataAt+10, 0) }, "metadata-missing", vhdx.ErrCorrupt},
		"an item twice":            {func(s *sparse) { s.put(item(1), guidParams...) }, "metadata-duplicate", vhdx.ErrCorrupt},
		"an unknown required item": {func(s *sparse) { s.put(item(4), guidLog...) }, "metadata-unknown", vhdx.ErrUnsupported},
		"an item over the table":   {func(s *sparse) { s.put32(item(0)+16, 32) }, "metadata-bounds", vhdx.ErrCorrupt},
		"an item after the region": {func(s *sparse) { s.put32(item(0)+16, mib-4) }, "metadata-bounds", vhdx.ErrCorrupt},
		"an item that overflows":   {func(s *sparse) { s.put32(item(0)+16, 0xfffffff8); s.put32(item(0)+20, 0x10) }, "metadata-bounds", vhdx.ErrCorrupt},
		"a huge item":              {func(s *sparse) { s.put32(item(0)+20, 0xffffffff) }, "metadata-bounds", vhdx.ErrCorrupt},
		"a short item":             {func(s *sparse) { s.put32(item(1)+20, 4) }, "metadata-bounds", vhdx.ErrCorrupt},
		"an empty item":            {func(s *sparse) { s.put32(item(1)+20, 0) }, "metadata-bounds", vhdx.ErrCorrupt},
		"items over each other":    {func(s *sparse) { s.put32(item(1)+16, 64<<10) }, "metadata-overlap", vhdx.ErrCorrupt},
		"block size 0":             {func(s *sparse) { s.put32(itemsAt, 0) }, "block-size", vhdx.ErrCorrupt},
		"block size 3 MiB":         {func(s *sparse) { s.put32(itemsAt, 3*mib) }, "block-size", vhdx.ErrCorrupt},
		"block size 512 MiB":       {func(s *sparse) { s.put32(itemsAt, 512*mib) }, "block-size", vhdx.ErrCorrupt},
		"endless disk":             {func(s *sparse) { s.put64(itemsAt+8, math.MaxUint64) }, "virtual-size", vhdx.ErrCorrupt},
		"disk above 64 TiB":        {func(s *sparse) { s.put64(itemsAt+8, 64<<40+512) }, "virtual-size", vhdx.ErrCorrupt},
		"half a sector":            {func(s *sparse) { s.put64(itemsAt+8, 3*mib-256) }, "virtual-size", vhdx.ErrCorrupt},
		"disk larger than the BAT": {func(s *sparse) { s.put64(itemsAt+8, 64<<40) }, "bat-short", vhdx.ErrCorrupt},
		"sector size 0":            {func(s *sparse) { s.put32(itemsAt+32, 0) }, "logical-sector-size", vhdx.ErrCorrupt},
		"sector size 1024":         {func(s *sparse) { s.put32(itemsAt+32, 1024) }, "logical-sector-size", vhdx.ErrCorrupt},
		"physical sector size 1":   {func(s *sparse) { s.put32(itemsAt+36, 1) }, "physical-sector-size", vhdx.ErrCorrupt},
		"a parent without locator": {func(s *sparse) { s.put32(itemsAt+4, 2) }, "metadata-missing", vhdx.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			s := base()
			c.change(s)
			size := s.size
			s.resealAll()
			s.size = size
			refused(t, s, c.id, c.kind)
		})
	}
}

// TestHostileBlocks: reads refuse blocks with invalid entries, and the check names them.
// Other blocks can be read.
func TestHostileBlocks(t *testing.T) {
	for name, c := range map[string]struct {
		entry uint64 // of block 1
		id    string
		reads bool
	}{
		"reserved state":           {5*mib | 4, "bat-state", false},
		"partial without a parent": {5*mib | 7, "bat-state", false},
		"over the headers":         {6, "bat-region", false},
		"over the log":             {1*mib | 6, "bat-region", false},
		"over the metadata":        {2*mib | 6, "bat-region", false},
		"over the BAT":             {3*mib | 6, "bat-region", false},
		"at the end of the file":   {6*mib | 6, "bat-beyond-end", false},
		"far after the end":        {math.MaxUint64&^(mib-1) | 6, "bat-beyond-end", false},
		"on another block":         {4*mib | 6, "bat-overlap", true},
		"with reserved bits":       {5*mib | 1<<10 | 6, "bat-reserved", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := base()
			s.put64(batAt+8, c.entry)
			img := mustOpen(t, s)
			p := make([]byte, 3*mib)
			n, err := img.ReadAt(p, 0)
			var fe *vhdx.FormatError
			if c.reads && err != nil && !errors.Is(err, io.EOF) {
				t.Errorf("read: %v", err)
			}
			if !c.reads && (n != mib || !errors.As(err, &fe) || fe.ID != c.id) {
				t.Errorf("read: %d bytes, %v; want %d and %s", n, err, mib, c.id)
			}
			var last error
			for _, err := range img.Extents(0, img.Size()) {
				last = err
			}
			if !c.reads && !(errors.As(last, &fe) && fe.ID == c.id) {
				t.Errorf("extents: %v, want %s", last, c.id)
			}
			if found := findings(t, s); !has(found, c.id) {
				t.Errorf("findings %v, want %s", found, c.id)
			}
		})
	}
}

// TestHostileChildren: sector bitmaps and parent locators with invalid values.
func TestHostileChildren(t *testing.T) {
	const ratio = 1 << 12
	read := map[string]struct {
		bitmap uint64
		id     string // of the read
		check  string
	}{
		"no bitmap":               {0, "bitmap-missing", "bitmap-missing"},
		"bitmap in a wrong state": {4*mib | 7, "bitmap-state", "bitmap-state"},
		"bitmap over the BAT":     {3*mib | 6, "bat-region", "bat-region"},
		"bitmap after the end":    {1<<40 | 6, "bat-beyond-end", "bat-beyond-end"},
	}
	for name, c := range read {
		t.Run(name, func(t *testing.T) {
			s := childImage(512, map[string]string{"parent_linkage": linkage(0xa1)})
			s.put64(batAt+8*ratio, c.bitmap)
			_, err := mustOpen(t, s).ReadAt(make([]byte, 512), mib)
			var fe *vhdx.FormatError
			if !errors.As(err, &fe) || fe.ID != c.id {
				t.Errorf("read: %v, want %s", err, c.id)
			}
			if found := findings(t, s); !has(found, c.check) {
				t.Errorf("findings %v, want %s", found, c.check)
			}
		})
	}
	const locatorAt = itemsAt + 8 + 8 + 16 + 4 + 4
	for name, change := range map[string]func(s *sparse){
		"another type":            func(s *sparse) { s.put(locatorAt, 1) },
		"too many entries":        func(s *sparse) { s.put16(locatorAt+18, 0xffff) },
		"a key outside":           func(s *sparse) { s.put32(locatorAt+20, 0xfffffffe) },
		"a value outside":         func(s *sparse) { s.put32(locatorAt+24, 1<<20) },
		"half a character":        func(s *sparse) { s.put16(locatorAt+30, 3) },
		"no linkage":              func(s *sparse) { s.put16(locatorAt+18, 0) },
		"a linkage that is no id": func(s *sparse) { s.put(locatorAt+32+28+2, 'x') },
	} {
		t.Run(name, func(t *testing.T) {
			s := childImage(512, map[string]string{"parent_linkage": linkage(0xa1)})
			change(s)
			kind := vhdx.ErrCorrupt
			if name == "another type" {
				kind = vhdx.ErrUnsupported
			}
			refused(t, s, "parent-locator", kind)
		})
	}
}

// TestTruncatedFile: a file that ends in its last block is readable as far as the disk needs.
func TestTruncatedFile(t *testing.T) {
	s := craft{size: 2*mib - 4096, entries: map[int64]uint64{0: 4*mib | 6, 1: 5*mib | 6}, length: 6*mib - 4096}.image()
	contents(t, mustOpen(t, s))
	if found := findings(t, s); len(found) != 0 {
		t.Errorf("findings %v, want none", found)
	}
	_ = s.Truncate(6*mib - 4097)
	c := vhdx.NewChecker(s, s.size, nil)
	var ids []string
	for f, err := range c.Findings(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, f.ID)
	}
	if len(ids) != 1 || ids[0] != "bat-beyond-end" || c.Counts().Missing != 1 || c.Counts().Errors != 1 || len(c.Diagnosis()) != 1 {
		t.Errorf("findings %q, %+v; want bat-beyond-end and 1 byte missing", ids, c.Counts())
	}
}

// TestWarnings: faults that do not affect reads are reported, and the image opens.
func TestWarnings(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *sparse)
		id     string
		want   disk.Severity
	}{
		"a torn header":        {func(s *sparse) { s.put(header1At+4000, 1) }, "header-checksum", disk.Warning},
		"a torn region table":  {func(s *sparse) { s.put(regions1At+60000, 1) }, "region-table-checksum", disk.Warning},
		"region tables differ": {func(s *sparse) { s.put(regions2At+60000, 1); s.seal(regions2At, 64<<10) }, "region-tables-differ", disk.Warning},
		"optional regions": {func(s *sparse) {
			for _, at := range []int64{regions1At, regions2At} {
				s.put32(at+16+28, 0)
				s.seal(at, 64<<10)
			}
		}, "region-optional", disk.Warning},
		"an unknown optional region": {func(s *sparse) {
			for _, at := range []int64{regions1At, regions2At} {
				s.put32(at+8, 3)
				s.putRegion(at+80, guidLog, 6*mib, mib, 0)
				s.seal(at, 64<<10)
			}
			_ = s.Truncate(7 * mib)
		}, "region-unknown", disk.Warning},
		"flags of an item":      {func(s *sparse) { s.put32(metadataAt+32+24, 0) }, "metadata-flags", disk.Warning},
		"a fixed disk with gap": {func(s *sparse) { s.put32(itemsAt+4, 1) }, "bat-fixed", disk.Warning},
		"a leak":                {func(s *sparse) { _ = s.Truncate(8 * mib) }, "leak", disk.Leak},
	} {
		t.Run(name, func(t *testing.T) {
			s := base()
			c.change(s)
			contents(t, mustOpen(t, s))
			found := findings(t, s)
			if len(found) != 1 || found[0].ID != c.id || found[0].Severity != c.want {
				t.Errorf("findings %v, want %s only", found, c.id)
			}
		})
	}
	if found := findings(t, base()); len(found) != 0 {
		t.Errorf("the unchanged image: %v", found)
	}
}

// TestRuns: faults of consecutive entries are one finding.
func TestRuns(t *testing.T) {
	entries := map[int64]uint64{}
	for i := range int64(50) {
		entries[i] = 4
	}
	entries[20] = 4*mib | 6
	s := craft{size: 50 * mib, entries: entries}.image()
	found := findings(t, s)
	if len(found) != 2 || found[0].Count != 20 || found[1].Count != 29 || found[1].Disk[0] != (disk.Range{Off: 21 * mib, N: 29 * mib}) {
		t.Errorf("findings %+v, want runs of 20 and 29", found)
	}
}
