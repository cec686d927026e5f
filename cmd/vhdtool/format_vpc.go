package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/internal/picture"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

var vpcFormat = format{
	Format: &vhd.Format,
	createOptions: []optionSpec{
		sizeOption,
		{
			name: "subformat", kind: textValue, values: []string{"dynamic", "fixed"},
			help: "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ",
		},
		{
			name: "force_size", kind: boolValue,
			help: "Force disk size calculation to use the actual size specified, rather than using the nearest CHS-based calculation",
		},
		{name: "block_size", kind: sizeValue, own: true, help: "Size of the blocks of a dynamic disk, a power of two from 4k to 256M (default 2M)"},
		{name: "creator", kind: textValue, own: true, help: "Creator application, up to four characters (default qemu, or qem2 with force_size)"},
		{name: "uuid", kind: textValue, own: true, help: "Unique id (default random)"},
		alignOption,
		{name: "timestamp", kind: textValue, own: true, help: "Time of creation, RFC 3339 or seconds since 1970 (default SOURCE_DATE_EPOCH, or now)"},
	},
	describe: describeVPC,
	fileSize: vpcFileSize,

	stream:      streamVPC,
	streamEnd:   endVPC,
	examine:     examineVPC,
	createChild: createVPCChild,
	set:         setVPC,
	fileParts:   partsOfVPC,
}

// createVPCChild starts a new differencing image.
func createVPCChild(r *childRequest) (disk.Disk, error) {
	if r.set["subformat"] != "" {
		return nil, errors.New("an image with a parent is a differencing one, and has no other subformat")
	}
	vo, err := vhd.ParseCreateOptions(0, r.options)
	if err != nil {
		return nil, err
	}
	spelling, err := spellingFor(r.product, r.parent)
	if err != nil {
		return nil, err
	}
	vo.Size, vo.Parent = r.size, r.parent
	if vo.ParentRecord, err = vhd.ParentRecordOf(r.name, r.parentName, r.parent, spelling); err != nil {
		return nil, err
	}
	img, err := vhd.CreateIn(r.file, vo)
	if err != nil {
		return nil, err // not img: a nil *Image is not a nil Disk
	}
	return img, nil
}

// spellingFor is how the named product spells the path to a parent; "" is no product. Only
// XenServer's take a raw disk for one.
func spellingFor(name string, parent disk.Disk) (vhd.PathStyle, error) {
	if name == "" {
		return vhd.PathsAll, nil
	}
	consumer, err := product.Find(name)
	if err != nil {
		return 0, err
	}
	if _, ok := parent.(*vhd.Image); !ok && parent != nil && consumer.PathStyle() != vhd.PathsXen {
		return 0, fmt.Errorf("%s takes no raw disk for a parent", consumer.Title)
	}
	return consumer.PathStyle(), nil
}

// streamVPC writes a new image to a pipe. Of a dynamic one it reads the source
// twice.
func streamVPC(ctx context.Context, w io.Writer, src disk.Disk, o disk.Options, all bool) error {
	vo, err := vhd.ParseCreateOptions(src.Size(), o)
	if err != nil {
		return err
	}
	blocks, blockSize, err := vo.BlockLayout()
	if err != nil {
		return err
	}
	var used []int64
	if all {
		for b := range blocks {
			used = append(used, b)
		}
	} else if blockSize > 0 {
		if used, err = convert.UsedBlocks(ctx, src, blockSize); err != nil {
			return err
		}
	}
	return vhd.WriteStream(ctx, w, vo, src, used, nil)
}

// endVPC writes what follows the bytes of a fixed disk.
func endVPC(w io.Writer, size int64, o disk.Options) error {
	vo, err := vhd.ParseCreateOptions(size, o)
	if err != nil {
		return err
	}
	return vhd.WriteFixedEnd(w, vo)
}

func vpcFileSize(size int64, o disk.Options) (fileSize, error) {
	vo, err := vhd.ParseCreateOptions(size, o)
	if err != nil {
		return fileSize{}, err
	}
	virtual, err := vo.VirtualSize()
	if err != nil {
		return fileSize{}, err
	}
	blocks, blockSize, err := vo.BlockLayout()
	return fileSize{virtual, blocks, blockSize, vo.FileLength}, err
}

// vpcDetails is what info tells about a VHD.
type vpcDetails struct {
	Subformat      string `json:"subformat"`
	Creator        string `json:"creator"`
	CreatorVersion string `json:"creator-version"`
	CreatorHostOS  string `json:"creator-host-os"`
	Created        string `json:"created"`
	Geometry       string `json:"geometry"`
	UUID           string `json:"uuid"`
	OriginalSize   uint64 `json:"original-size"`
	CurrentSize    uint64 `json:"current-size"`
	GeometrySize   int64  `json:"geometry-size"`
	SizedBy        string `json:"sized-by"`
	SavedState     bool   `json:"saved-state"`
	Hidden         bool   `json:"hidden,omitempty"`

	Parent *vpcParent `json:"parent,omitempty"`

	Blocks      *int64 `json:"blocks,omitempty"`
	BlocksInUse *int64 `json:"blocks-in-use,omitempty"`

	Consumers []readiness `json:"consumers"`

	created time.Time
}

// vpcParent is what a differencing image records of its parent.
type vpcParent struct {
	UUID     string       `json:"uuid,omitempty"` // none: a raw disk
	Name     string       `json:"name"`
	Changed  string       `json:"changed,omitempty"` // when it was last
	Locators []vpcLocator `json:"locators"`

	changed time.Time
}

// vpcLocator is a path to the parent.
type vpcLocator struct {
	Code string `json:"code"`
	Path string `json:"path"`
}

// readiness says whether a consumer takes an image, and if not, why.
type readiness struct {
	Name    string   `json:"name"`
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons,omitempty"`
}

func describeVPC(d disk.Disk, length int64) description {
	img := d.(*vhd.Image)
	f := img.Footer()
	v := &vpcDetails{
		Subformat:      f.Type.String(),
		Creator:        f.Creator.String(),
		CreatorVersion: fmt.Sprintf("%d.%d", f.CreatorVersion>>16, f.CreatorVersion&0xffff),
		CreatorHostOS:  vhd.Creator(f.CreatorHostOS).String(),
		Created:        f.Timestamp.Time().Format(time.RFC3339),
		Geometry:       f.Geometry.String(),
		UUID:           f.UniqueID.String(),
		OriginalSize:   f.OriginalSize,
		CurrentSize:    f.CurrentSize,
		GeometrySize:   f.Geometry.Product() * vhd.SectorSize,
		SizedBy:        img.SizedBy().String(),
		SavedState:     f.SavedState != 0,
		Hidden:         f.Hidden(),
		created:        f.Timestamp.Time(),
	}
	if f.Type == vhd.Differencing {
		v.Parent = describeParent(img.ParentRecord())
	}
	for _, c := range product.All() {
		r := readiness{Name: c.Name}
		for _, b := range c.Examine(img, length, time.Now()) {
			r.Reasons = append(r.Reasons, fmt.Sprintf("%s: found %s, wanted %s", strings.TrimPrefix(b.ID, c.Name+"-")+" ("+afterColon(b.Field)+")", b.Got, b.Want))
		}
		r.Ready = len(r.Reasons) == 0
		v.Consumers = append(v.Consumers, r)
	}
	if f.Type != vhd.Fixed {
		total, used := img.BlockCounts()
		v.Blocks, v.BlocksInUse = &total, &used
	}
	return v
}

func describeParent(p vhd.ParentRecord) *vpcParent {
	v := &vpcParent{Name: p.Name, Locators: []vpcLocator{}}
	if p.ID != uuid.Nil {
		v.UUID = p.ID.String()
	}
	if p.Time != 0 {
		v.changed = p.Time.Time()
		v.Changed = v.changed.Format(time.RFC3339)
	}
	for _, l := range p.Locators {
		v.Locators = append(v.Locators, vpcLocator(l))
	}
	return v
}

// afterColon is what follows the first colon of a text.
func afterColon(s string) string {
	_, after, _ := strings.Cut(s, ": ")
	return after
}

// lines implements description.
func (v *vpcDetails) lines() []string {
	out := []string{
		"subformat: " + v.Subformat,
		fmt.Sprintf("creator: %s %s (%s)", v.Creator, v.CreatorVersion, v.CreatorHostOS),
		fmt.Sprintf("created: %s (%s)", v.Created, humanize.Time(v.created)),
		fmt.Sprintf("geometry: %s, %s", v.Geometry, humanSize(v.GeometrySize)),
		"uuid: " + v.UUID,
	}
	if uint64(v.GeometrySize) != v.CurrentSize {
		out = append(out, fmt.Sprintf("size taken from: %s; current size: %s", v.SizedBy, humanSize(int64(v.CurrentSize))))
	}
	if v.Blocks != nil {
		out = append(out, fmt.Sprintf("blocks in use: %s of %s", humanize.Comma(*v.BlocksInUse), humanize.Comma(*v.Blocks)))
	}
	if p := v.Parent; p != nil {
		out = append(out, fmt.Sprintf("parent: %s (%s)", strconv.Quote(p.Name), cmp.Or(p.UUID, "a raw disk")))
		for _, l := range p.Locators {
			out = append(out, fmt.Sprintf("parent locator: %s %s", l.Code, strconv.Quote(l.Path)))
		}
		if p.Changed != "" {
			out = append(out, fmt.Sprintf("parent last changed: %s (%s)", p.Changed, humanize.Time(p.changed)))
		}
	}
	if v.Hidden {
		out = append(out, "hidden: not to be attached")
	}
	if v.SavedState {
		out = append(out, "saved state: a suspended virtual machine depends on this image")
	}
	ready := []string{}
	for _, r := range v.Consumers {
		if r.Ready {
			ready = append(ready, r.Name)
		}
	}
	out = append(out, "ready for: "+cmp.Or(strings.Join(ready, ", "), "none"))
	for _, r := range v.Consumers {
		if !r.Ready {
			out = append(out, fmt.Sprintf("not ready for %s: rule %s", r.Name, strings.Join(r.Reasons, "; rule ")))
		}
	}
	return out
}

// examineVPC returns what keeps a product from accepting an image.
func examineVPC(r io.ReaderAt, size int64, o disk.Options, name string) ([]disk.Finding, error) {
	p, err := product.Find(name)
	if err != nil {
		return nil, err
	}
	vo, err := vhd.ParseOpenOptions(&disk.OpenOptions{Options: o, Parents: disk.ParentSearch{None: true}})
	if err != nil {
		return nil, err
	}
	img, err := vhd.NewImage(r, size, vo)
	if err != nil {
		return nil, err
	}
	return p.Examine(img, size, time.Now()), nil
}

// partKind is how pictures show a use of a file's parts.
func partKind(use vhd.FileUse) picture.Kind {
	switch use {
	case vhd.UseBitmap:
		return picture.Bitmap
	case vhd.UseData:
		return picture.Data
	case vhd.UsePadding:
		return picture.Padding
	case vhd.UseLeak:
		return picture.Leak
	}
	return picture.Metadata
}

func partsOfVPC(d disk.Disk, length int64) iter.Seq2[filePart, error] {
	img := d.(*vhd.Image)
	return func(yield func(filePart, error) bool) {
		for e := range img.FileMap(length) {
			if e.Use == vhd.UseData && e.Block < 0 { // of a fixed disk, which knows the file's holes
				for p, err := range plainParts(d, length) {
					if !yield(p, err) || err != nil {
						return
					}
				}
				continue
			}
			if !yield(filePart{e.Off, e.Len, partKind(e.Use), e.Block * img.BlockSize()}, nil) {
				return
			}
		}
	}
}
