// Command fromtar makes a VHD of a raw disk that is in a tar, without unpacking it.
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

// convertEntry finds the disk of that name in a tar, and makes the named image of
// it. After an error there is no new image.
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
	// The header says how long the disk is, but ReadFrom would find that out, too:
	// hence Growing.
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
