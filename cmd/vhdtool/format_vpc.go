package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/internal/picture"
	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

var vpcFormat = format{
	Format: disk.Format{
		Name:     "vpc",
		Aliases:  []string{"vhd"},
		Suffixes: []string{".vhd", ".vpc", ".avhd"},
		Probe:    vhd.Probe,
		Open:     openVPC,
		Create:   createVPC,
		Check:    checkVPC,
		Repair:   vhd.Repair,
	},
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

	stream:    streamVPC,
	streamEnd: endVPC,
	examine:   examineVPC,
	parent:    parentVPC,
	subformat: func(d disk.Disk) string { return d.(*vhd.Image).Type().String() },
	fileParts: partsOfVPC,
}

func openVPC(f *os.File, size int64, o *disk.OpenOptions) (disk.Disk, error) {
	vo, err := vpcOpenOptions(o)
	if err != nil {
		return nil, err
	}
	img, err := vhd.NewImage(f, size, vo)
	if err != nil {
		return nil, err // not img: a nil *Image is not a nil Disk
	}
	return img, nil
}

// vpcOpenOptions reads the options of --image-opts.
func vpcOpenOptions(o *disk.OpenOptions) (*vhd.OpenOptions, error) {
	if err := onlyOptions(o.Options, "force_size_calc", "ignore_checksums"); err != nil {
		return nil, err
	}
	vo := &vhd.OpenOptions{Write: o.Write, Force: o.Force, Parents: o.Parents, NoLock: o.Lock == nil}
	switch calc, given := o.Options["force_size_calc"]; {
	case !given:
	case calc == "chs":
		vo.SizeRule = vhd.SizeFromGeometry
	case calc == "current_size":
		vo.SizeRule = vhd.SizeFromCurrent
	default:
		return nil, qemuErrorf("Invalid size calculation mode: '%s'", calc)
	}
	if v, given := o.Options["ignore_checksums"]; given {
		on, ok := parseBool(v)
		if !ok {
			return nil, qemuErrorf("Parameter 'ignore_checksums' expects 'on' or 'off'")
		}
		vo.IgnoreChecksums = on
	}
	return vo, nil
}

func createVPC(f disk.File, size int64, o disk.Options) (disk.Disk, error) {
	vo, err := vpcCreateOptions(max(size, 0), o)
	if err != nil {
		return nil, err
	}
	vo.Growing = size < 0
	img, err := vhd.CreateIn(f, vo)
	if err != nil {
		return nil, err
	}
	return img, nil
}

// createVPCChild starts a new differencing image in a file, which will have the given
// name: a child of the disk in parentName.
func createVPCChild(f disk.File, name string, size int64, o disk.Options, parent disk.Disk, parentName string) (disk.Disk, error) {
	if o["subformat"] != "" {
		return nil, errors.New("an image with a parent is a differencing one, and has no other subformat")
	}
	vo, err := vpcCreateOptions(0, o)
	if err != nil {
		return nil, err
	}
	spelling, err := spellingFor(o[consumerOption], parent)
	if err != nil {
		return nil, err
	}
	vo.Size, vo.Parent = size, parent
	if vo.ParentRecord, err = vhd.ParentRecordOf(name, parentName, parent, spelling); err != nil {
		return nil, err
	}
	img, err := vhd.CreateIn(f, vo)
	if err != nil {
		return nil, err
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
	vo, err := vpcCreateOptions(src.Size(), o)
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
	vo, err := vpcCreateOptions(size, o)
	if err != nil {
		return err
	}
	return vhd.WriteFixedEnd(w, vo)
}

func vpcFileSize(size int64, o disk.Options) (fileSize, error) {
	vo, err := vpcCreateOptions(size, o)
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

// vpcCreateOptions reads the options of -o, which are of the right kinds.
func vpcCreateOptions(size int64, o disk.Options) (*vhd.CreateOptions, error) {
	vo := &vhd.CreateOptions{Type: vhd.Dynamic, Size: size}
	if name, given := o[consumerOption]; given {
		consumer, err := product.Find(name)
		if err != nil {
			return nil, err
		}
		vo = consumer.CreateOptions(size)
	}
	switch o["subformat"] {
	case "fixed":
		vo.Type = vhd.Fixed
	case "dynamic":
		vo.Type = vhd.Dynamic
	}
	if v, given := o[alignOption.name]; given {
		vo.Align, _ = sizearg.Parse(v)
		vo.Exact = true // nothing else stays aligned
	}
	if v, given := o["force_size"]; given {
		vo.Exact, _ = parseBool(v)
	}
	if v, given := o["block_size"]; given {
		vo.BlockSize, _ = sizearg.Parse(v)
		if vo.BlockSize == 0 {
			return nil, qemuErrorf("Parameter 'block_size' expects a power of two from 4k to 256M")
		}
	}
	if v, given := o["creator"]; given {
		creator, err := vhd.ParseCreator(v)
		if err != nil {
			return nil, err
		}
		vo.Creator = creator
	}
	if v, given := o["uuid"]; given {
		id, err := uuid.Parse(v)
		if err != nil || id == uuid.Nil {
			return nil, qemuErrorf("Parameter 'uuid' expects an id like 0f2c3e5a-6b1d-4c8e-9a57-3d2b1e0f4c6d, not '%s'", v)
		}
		vo.UniqueID = id
	}
	stamp, given := o["timestamp"]
	if !given {
		stamp = os.Getenv("SOURCE_DATE_EPOCH")
	}
	if stamp != "" {
		t, err := parseTime(stamp)
		if err != nil {
			return nil, err
		}
		vo.Time = t
		if !given { // builds set it to 1970 or 1980, before the format's time begins
			vo.Time = vhd.NearestTime(t)
		}
	}
	return vo, vo.Validate()
}

func parseTime(s string) (time.Time, error) {
	if sec, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(sec, 0), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("time stamp '%s': want RFC 3339, such as 2026-01-31T12:00:00Z, or seconds since 1970", s)
	}
	return t, nil
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
}

// vpcParent is what a differencing image records of its parent.
type vpcParent struct {
	UUID     string       `json:"uuid,omitempty"` // none: a raw disk
	Name     string       `json:"name"`
	Changed  string       `json:"changed,omitempty"` // when it was last
	Locators []vpcLocator `json:"locators"`
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
		v.Changed = p.Time.Time().Format(time.RFC3339)
	}
	for _, l := range p.Locators {
		v.Locators = append(v.Locators, vpcLocator(l))
	}
	return v
}

// parentVPC is the parent of an image, and its file.
func parentVPC(d disk.Disk) (disk.Disk, string) {
	img := d.(*vhd.Image)
	return img.Parent(), img.ParentPath()
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
		"created: " + v.Created,
		fmt.Sprintf("geometry: %s (%d bytes)", v.Geometry, v.GeometrySize),
		"uuid: " + v.UUID,
	}
	if uint64(v.GeometrySize) != v.CurrentSize {
		out = append(out, fmt.Sprintf("size taken from: %s (current size is %d)", v.SizedBy, v.CurrentSize))
	}
	if v.Blocks != nil {
		out = append(out, fmt.Sprintf("blocks in use: %d of %d", *v.BlocksInUse, *v.Blocks))
	}
	if p := v.Parent; p != nil {
		out = append(out, fmt.Sprintf("parent: %s (%s)", strconv.Quote(p.Name), cmp.Or(p.UUID, "a raw disk")))
		for _, l := range p.Locators {
			out = append(out, fmt.Sprintf("parent locator: %s %s", l.Code, strconv.Quote(l.Path)))
		}
		if p.Changed != "" {
			out = append(out, "parent last changed: "+p.Changed)
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

func checkVPC(r io.ReaderAt, size int64, o *disk.CheckOptions) (disk.Checker, error) {
	vo, err := vpcOpenOptions(&disk.OpenOptions{Options: o.Options})
	if err != nil {
		return nil, err
	}
	return vhd.NewChecker(r, size, &vhd.CheckOptions{
		SizeRule: vo.SizeRule, Device: o.Device, Deep: o.Deep, Chain: o.Chain, Parents: o.Parents, NoLock: o.NoLock,
		Now: o.Now, Progress: o.Progress,
	}), nil
}

// examineVPC returns what keeps a product from accepting an image.
func examineVPC(r io.ReaderAt, size int64, o disk.Options, name string) ([]disk.Finding, error) {
	p, err := product.Find(name)
	if err != nil {
		return nil, err
	}
	vo, err := vpcOpenOptions(&disk.OpenOptions{Options: o, Parents: disk.ParentSearch{None: true}})
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
