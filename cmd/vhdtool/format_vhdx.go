package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/dustin/go-humanize"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhdx"
)

var vhdxFormat = format{
	Format: &vhdx.Format,
	createOptions: []optionSpec{
		sizeOption,
		{
			name: "subformat", kind: textValue, values: []string{"dynamic", "fixed"},
			help: "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
		},
		{name: "block_size", kind: sizeValue, help: "Block Size; min 1MB, max 256MB, a power of two (default 32M)"},
		{name: "log_size", kind: sizeValue, help: "Log size; min 1MB."},
		{name: "logical_sector_size", kind: sizeValue, values: []string{"512", "4k"}, own: true, help: "Logical sector size of the disk {512 (default) | 4k}"},
		{name: "creator", kind: textValue, own: true, help: "Name of the creating program (default vhdtool)"},
		{name: "uuid", kind: textValue, own: true, help: "Id of the disk, or random, or derived from the other options (default random, or derived with SOURCE_DATE_EPOCH)"},
	},
	describe: describeVHDX,
	fileSize: vhdxFileSize,

	sectorSize: vhdxSectorSize,
	stream:     streamVHDX,
}

// streamVHDX writes a new image to a pipe. For a dynamic image it reads the source twice.
func streamVHDX(ctx context.Context, w io.Writer, src disk.Disk, o disk.Options, co *convert.Options) error {
	vo, err := vhdx.ParseCreateOptions(src.Size(), o)
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
	return vhdx.WriteStream(ctx, w, vo, src, used, writing)
}

func vhdxFileSize(size int64, o disk.Options) (fileSize, error) {
	vo, err := vhdx.ParseCreateOptions(size, o)
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

// vhdxDetails are the properties of a VHDX in info.
type vhdxDetails struct {
	Subformat          string      `json:"subformat"`
	Creator            string      `json:"creator"`
	UUID               string      `json:"uuid"`
	DataWriteGUID      string      `json:"data-write-guid"`
	BlockSize          int64       `json:"block-size"`
	LogicalSectorSize  int64       `json:"logical-sector-size"`
	PhysicalSectorSize int64       `json:"physical-sector-size"`
	Blocks             int64       `json:"blocks"`
	BlocksInUse        int64       `json:"blocks-in-use"`
	PendingLogEntries  int         `json:"pending-log-entries"`
	Parent             *vhdxParent `json:"parent,omitempty"`
}

// vhdxParent is the parent record of a differencing image.
type vhdxParent struct {
	DataWriteGUID string   `json:"data-write-guid"`
	Paths         []string `json:"paths"`
}

func describeVHDX(d disk.Disk, _ int64) description {
	img := d.(*vhdx.Image)
	m, h := img.Metadata(), img.Header()
	v := &vhdxDetails{
		Subformat: img.Subformat(), Creator: img.Creator(), UUID: m.DiskID.String(), DataWriteGUID: h.DataWriteGUID.String(),
		BlockSize: m.BlockSize, LogicalSectorSize: m.LogicalSector, PhysicalSectorSize: m.PhysicalSector, PendingLogEntries: img.PendingLogEntries(),
	}
	v.Blocks, v.BlocksInUse, _ = img.BlockCounts() // check reports an unreadable BAT
	if m.HasParent {
		l := img.ParentLocator()
		v.Parent = &vhdxParent{l.Linkage.String(), append([]string{}, l.Paths()...)}
	}
	return v
}

// lines implements [description].
func (v *vhdxDetails) lines(o *infoLines) []string {
	out := []string{"subformat: " + v.Subformat, "uuid: " + v.UUID}
	if o.verbose {
		out = append(
			out,
			fmt.Sprintf("creator: %q", v.Creator),
			"data write GUID: "+v.DataWriteGUID,
		)
	}
	out = append(
		out,
		fmt.Sprintf("sector size: %s bytes (physical: %s)", humanize.Comma(v.LogicalSectorSize), humanize.Comma(v.PhysicalSectorSize)),
		fmt.Sprintf("blocks in use: %s of %s", humanize.Comma(v.BlocksInUse), humanize.Comma(v.Blocks)),
	)
	if v.PendingLogEntries > 0 {
		out = append(out, fmt.Sprintf("log entries replayed in memory: %s", humanize.Comma(int64(v.PendingLogEntries))))
	}
	if p := v.Parent; p != nil && (o.verbose || !o.parentFollows) {
		out = append(out, "parent: data write GUID "+p.DataWriteGUID)
		for _, path := range p.Paths {
			out = append(out, "parent path: "+strconv.Quote(path))
		}
	}
	return out
}

func vhdxSectorSize(o disk.Options) (int64, error) {
	vo, err := vhdx.ParseCreateOptions(0, o)
	if err != nil {
		return 0, err
	}
	return cmp.Or(vo.LogicalSectorSize, disk.SectorSize), nil
}
