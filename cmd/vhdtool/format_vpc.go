package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
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
		{name: "uuid", kind: textValue, own: true, help: "Unique id, or random, or derived from the other options (default random, or derived with SOURCE_DATE_EPOCH)"},
		alignOption,
		{name: "min_size", kind: sizeValue, own: true, help: "Minimum size of the disk"},
		{
			name: "data_align", kind: sizeValue, values: []string{"512", "4k"}, own: true,
			help: "Alignment of the data of blocks in the file {4k (default) | 512: packed, for VirtualBox}",
		},
		{
			name: "file_align", kind: sizeValue, values: []string{"512", "4k"}, own: true,
			help: "Alignment of the length of a file with blocks {512 (default) | 4k, for Hyper-V}",
		},
		{name: "timestamp", kind: textValue, own: true, help: "Time of creation, RFC 3339 or seconds since 1970 (default SOURCE_DATE_EPOCH, or now)"},
	},
	describe: describeVPC,
	fileSize: vpcFileSize,

	sectorSize: func(disk.Options) (int64, error) { return disk.SectorSize, nil },

	stream:    streamVPC,
	streamEnd: endVPC,
	examine:   examineVPC,

	examineResized: examineResizedVPC,
	sizeInDoubt:    sizeInDoubtVPC,

	createChild: createVPCChild,
	set:         setVPC,
	fileParts:   partsOfVPC,
}

// createVPCChild starts a new differencing image.
func createVPCChild(r *childRequest) (disk.Disk, error) {
	if r.set["subformat"] != "" {
		return nil, errors.New("an image with a parent is a differencing one, and has no other subformat")
	}
	if err := refuseParentFormat(r.parent, r.parentName); err != nil {
		return nil, err
	}
	vo, err := vhd.ParseCreateOptions(0, r.options)
	if err != nil {
		return nil, err
	}
	style := vhd.PathsAll
	if r.product != "" {
		if style, err = pathStyleFor(r.product, r.parent); err != nil {
			return nil, err
		}
	}
	vo.Size, vo.Parent = r.size, r.parent
	if vo.ParentRecord, err = vhd.ParentRecordOf(r.name, r.parentName, r.parent, style); err != nil {
		return nil, err
	}
	if err := promiseChild(r, vo); err != nil {
		return nil, err
	}
	img, err := vhd.CreateIn(r.file, vo)
	if err != nil {
		return nil, err // not img: that would be a Disk that is not nil
	}
	return img, nil
}

// streamVPC writes a new image to a pipe. For a dynamic image it reads the source twice.
func streamVPC(ctx context.Context, w io.Writer, src disk.Disk, o disk.Options, co *convert.Options) error {
	vo, err := vhd.ParseCreateOptions(src.Size(), o)
	if err != nil {
		return err
	}
	blocks, blockSize, err := vo.BlockLayout()
	if err != nil {
		return err
	}
	used, writing, err := streamedBlocks(ctx, src, blocks, blockSize, co)
	if err != nil {
		return err
	}
	return vhd.WriteStream(ctx, w, vo, src, used, writing)
}

// endVPC writes the trailing footer of a fixed disk.
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

// vpcDetails are the fields of a VHD in info.
type vpcDetails struct {
	Subformat      string       `json:"subformat"`
	Creator        string       `json:"creator"`
	CreatorVersion string       `json:"creator-version"`
	CreatorHostOS  string       `json:"creator-host-os"`
	Created        string       `json:"created"`
	Geometry       vhd.Geometry `json:"geometry"`
	UUID           string       `json:"uuid"`
	OriginalSize   uint64       `json:"original-size"`
	CurrentSize    uint64       `json:"current-size"`
	GeometrySize   int64        `json:"geometry-size"`
	SizedBy        vhd.SizeRule `json:"sized-by"`
	SavedState     bool         `json:"saved-state"`
	Hidden         bool         `json:"hidden,omitempty"`

	Parent *vpcParent `json:"parent,omitempty"`

	Blocks      *int64 `json:"blocks,omitempty"`
	BlocksInUse *int64 `json:"blocks-in-use,omitempty"`

	BeyondGeometry int64           `json:"beyond-geometry,omitempty"`
	Products       []productResult `json:"products"`

	created time.Time
}

// vpcParent is the parent record of a differencing image.
type vpcParent struct {
	UUID     string       `json:"uuid,omitempty"` // empty for a raw disk
	Name     string       `json:"name"`
	Changed  string       `json:"changed,omitempty"` // parent time stamp
	Locators []vpcLocator `json:"locators"`

	changed time.Time
}

// vpcLocator is a parent locator.
type vpcLocator struct {
	Code string `json:"code"`
	Path string `json:"path"`
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
		Geometry:       f.Geometry,
		UUID:           f.UniqueID.String(),
		OriginalSize:   f.OriginalSize,
		CurrentSize:    f.CurrentSize,
		GeometrySize:   f.Geometry.Product() * vhd.SectorSize,
		SizedBy:        img.SizedBy(),
		SavedState:     f.SavedState != 0,
		Hidden:         f.Hidden(),
		created:        f.Timestamp.Time(),
		BeyondGeometry: f.BeyondGeometry(),
	}
	if f.Type == vhd.Differencing {
		v.Parent = describeParent(img.ParentRecord())
	}
	for _, p := range product.All() {
		v.Products = append(v.Products, newProductResult(p, p.Examine(img, product.Examination{Length: length, Now: time.Now()})))
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

// lines implements [description].
func (v *vpcDetails) lines(o *infoLines) []string {
	out := []string{"subformat: " + v.Subformat, "uuid: " + v.UUID}
	if v.SavedState {
		out = append(out, "saved state: a suspended virtual machine depends on this image")
	}
	if v.Hidden {
		out = append(out, "hidden: XenServer does not attach this image")
	}
	if o.verbose {
		out = append(
			out,
			fmt.Sprintf("creator: %s %s (%s)", v.Creator, v.CreatorVersion, v.CreatorHostOS),
			fmt.Sprintf("created: %s (%s)", v.Created, humanize.Time(v.created)),
			fmt.Sprintf("geometry: %s, %s", v.Geometry, humanSize(v.GeometrySize)),
		)
		if uint64(v.GeometrySize) != v.CurrentSize {
			out = append(out, fmt.Sprintf("size taken from: %s; current size: %s", v.SizedBy, humanSize(int64(v.CurrentSize))))
		}
	}
	if v.BeyondGeometry > 0 {
		out = append(out, fmt.Sprintf("beyond the geometry: qemu and Virtual PC do not see the last %s", humanSize(v.BeyondGeometry)))
	}
	if v.Blocks != nil {
		out = append(out, fmt.Sprintf("blocks in use: %s of %s", humanize.Comma(*v.BlocksInUse), humanize.Comma(*v.Blocks)))
	}
	if v.Parent != nil && (o.verbose || !o.parentFollows) {
		out = append(out, v.Parent.lines(o.verbose)...)
	}
	if o.isParent && !o.verbose {
		return out
	}
	if o.damaged {
		return append(out, "ready for: no product while it is damaged")
	}
	return append(out, productLine(v.Products))
}

// lines returns the parent record in lines for people.
func (p *vpcParent) lines(verbose bool) []string {
	out := []string{fmt.Sprintf("parent: %s (%s)", strconv.Quote(p.Name), cmp.Or(p.UUID, "a raw disk"))}
	if !verbose {
		return out
	}
	for _, l := range p.Locators {
		out = append(out, fmt.Sprintf("parent locator: %s %s", l.Code, strconv.Quote(l.Path)))
	}
	if p.Changed != "" {
		out = append(out, fmt.Sprintf("parent last changed: %s (%s)", p.Changed, humanize.Time(p.changed)))
	}
	return out
}

// partKind returns the picture's kind for a use of a part of the file.
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
			if e.Use == vhd.UseData && e.Block < 0 { // a fixed disk, which can have holes in the file
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
