package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/vhdtool/vhdtool/internal/sizearg"
)

// limits are the limits of requests to a disk, in bytes. Disks are read and written through the
// page cache, which accepts any request.
type limits struct {
	RequestAlignment int64 `json:"request-alignment"`
	MinMemAlignment  int64 `json:"min-mem-alignment"`
	OptMemAlignment  int64 `json:"opt-mem-alignment"`
	MaxIOV           int64 `json:"max-iov"`
}

var cachedLimits = limits{RequestAlignment: 1, MinMemAlignment: 1, OptMemAlignment: 4096, MaxIOV: 1024}

// lines returns the limits for people. A nil *limits has none.
func (l *limits) lines() string {
	if l == nil {
		return ""
	}
	return fmt.Sprintf("Block limits:\n    request alignment: %d\n    min mem alignment: %d\n    opt mem alignment: %d\n    max iov: %d\n",
		l.RequestAlignment, l.MinMemAlignment, l.OptMemAlignment, l.MaxIOV)
}

// childInfo is the file below an image's format. qemu-img prints it from 8.0 on.
type childInfo struct {
	Name string   `json:"name"`
	Info fileInfo `json:"info"`
}

type fileInfo struct {
	Limits         *limits      `json:"limits,omitempty"`
	Children       []childInfo  `json:"children"`
	VirtualSize    int64        `json:"virtual-size"`
	Filename       string       `json:"filename"`
	Format         string       `json:"format"`
	ActualSize     int64        `json:"actual-size"`
	FormatSpecific fileSpecific `json:"format-specific"`
	DirtyFlag      bool         `json:"dirty-flag"`
}

type fileSpecific struct {
	Type string   `json:"type"`
	Data struct{} `json:"data"`
}

// lines returns the child for people.
func (i *childInfo) lines() string {
	f := &i.Info
	s := fmt.Sprintf("filename: %s\nprotocol type: %s\nfile length: %s (%d bytes)\ndisk size: %s\n",
		f.Filename, f.Format, sizearg.Format(f.VirtualSize), f.VirtualSize, sizearg.Format(f.ActualSize)) + f.Limits.lines()
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	return "Child node '/" + i.Name + "':\n    " + strings.Join(lines, "\n    ") + "\n"
}

// addChild adds the named file below the format, if the release of qemu-img shows it. withLimits
// adds the limits.
func (c *cli) addChild(info *imageInfo, name string, withLimits bool) error {
	var below *limits
	if withLimits {
		own := cachedLimits
		if info.probedRaw { // qemu compares each written first sector with the formats
			own.RequestAlignment = 512
		}
		info.Limits, below = &own, &cachedLimits
	}
	if c.qemu < qemuChildren {
		return nil
	}
	st, err := os.Stat(name)
	if err != nil {
		return err
	}
	length, err := fileLength(name, st)
	if err != nil {
		return err
	}
	child := fileInfo{
		Limits: below, Children: []childInfo{}, VirtualSize: (length + 511) / 512 * 512, Filename: name,
		Format: "file", ActualSize: info.ActualSize,
	}
	if !st.Mode().IsRegular() {
		child.Format = "host_device"
	}
	child.FormatSpecific.Type = "file"
	info.Children = []childInfo{{"file", child}}
	return nil
}

// expandEmpty writes empty arrays and objects of indented JSON on two lines, as qemu-img does.
func expandEmpty(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		body := strings.TrimRight(line, ",\n")
		indent := line[:len(line)-len(strings.TrimLeft(line, " "))]
		for _, pair := range []string{"[]", "{}"} {
			if head, found := strings.CutSuffix(body, ": "+pair); found {
				line = head + ": " + pair[:1] + "\n" + indent + pair[1:] + line[len(body):]
			}
		}
		b.WriteString(line)
	}
	return b.String()
}
