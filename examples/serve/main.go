// Command serve serves the disk in a VHD over HTTP, under the name disk.raw. Clients can request
// parts of it, so that other programs can read the disk without a copy.
//
//	go run ./examples/serve disk.vhd localhost:8080
//	curl -r 0-511 http://localhost:8080/disk.raw
package main

import (
	"io"
	"io/fs"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: serve IMAGE ADDRESS")
	}
	img, err := vhd.Open(os.Args[1], nil)
	if err != nil {
		log.Fatal(err)
	}
	defer img.Close()
	log.Fatal(http.ListenAndServe(os.Args[2], handler(img)))
}

func handler(img *vhd.Image) http.Handler { return http.FileServerFS(diskFS{"disk.raw", img}) }

// diskFS is a file system with one file: the contents of a disk.
type diskFS struct {
	name string
	img  *vhd.Image
}

// Open implements [fs.FS].
func (d diskFS) Open(name string) (fs.File, error) {
	if name != d.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &diskFile{io.NewSectionReader(d.img, 0, d.img.Size()), d}, nil
}

// diskFile is the open file. A SectionReader can read, seek, and read at random.
type diskFile struct {
	*io.SectionReader
	fs diskFS
}

func (f *diskFile) Close() error               { return nil }
func (f *diskFile) Stat() (fs.FileInfo, error) { return diskInfo{f.fs}, nil }

// diskInfo describes the file. Its time is that of the image.
type diskInfo struct{ diskFS }

func (i diskInfo) Name() string      { return i.name }
func (i diskInfo) Size() int64       { return i.img.Size() }
func (i diskInfo) Mode() fs.FileMode { return 0o444 }
func (i diskInfo) IsDir() bool       { return false }
func (i diskInfo) Sys() any          { return i.img }

func (i diskInfo) ModTime() time.Time {
	f := i.img.Footer()
	return f.Timestamp.Time()
}
