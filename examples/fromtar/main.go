// Command fromtar converts a raw disk in a tar archive to a VHD, without unpacking the archive.
//
//	curl … | gzip -dc | go run ./examples/fromtar disk.raw disk.vhd
package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: fromtar NAME IMAGE <TAR")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := convertEntry(ctx, os.Stdin, os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

// convertEntry converts the disk entry of a tar archive to the new image. After an error there
// is no new image.
func convertEntry(ctx context.Context, archive io.Reader, entry, image string) error {
	r := tar.NewReader(archive)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the archive has no %s", entry)
		}
		if err != nil {
			return err
		}
		if path.Clean(h.Name) == entry && h.Typeflag == tar.TypeReg {
			break
		}
	}
	// The tar header has the size of the disk, but ReadFrom determines it, too. So the size
	// is left open with Growing.
	img, err := vhd.Create(image, &vhd.CreateOptions{Exact: true, Growing: true})
	if err != nil {
		return err
	}
	if _, err := convert.ReadFrom(ctx, img, r, nil, nil); err != nil {
		img.Discard()
		return err
	}
	return img.Close()
}
