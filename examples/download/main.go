// Command download serves a raw disk as a VHD over HTTP. The image is made while it is
// sent, and is stored nowhere.
//
//	go run ./examples/download disk.raw localhost:8080
//	curl -O http://localhost:8080/disk.vhd
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: download DISK ADDRESS")
	}
	src, _, err := disk.Open(os.Args[1], disk.Formats{&raw.Format}, &disk.OpenOptions{Lock: vhd.Lock})
	if err != nil {
		log.Fatal(err)
	}
	defer src.Close()
	http.Handle("GET /disk.vhd", handler(src))
	log.Fatal(http.ListenAndServe(os.Args[2], nil))
}

// handler answers with the disk as a dynamic VHD.
func handler(src disk.Disk) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := send(r.Context(), w, src); err != nil {
			// What was sent cannot be taken back: cut the connection, so that the
			// client does not take it for the whole.
			log.Print(err)
			panic(http.ErrAbortHandler)
		}
	})
}

func send(ctx context.Context, w http.ResponseWriter, src disk.Disk) error {
	o := &vhd.CreateOptions{Size: src.Size(), Exact: true}
	_, blockSize, err := o.BlockLayout()
	if err != nil {
		return err
	}
	// Which blocks there are must be known first: their places are in the BAT, which
	// is sent before them. It also tells how long the file will be.
	used, err := convert.UsedBlocks(ctx, src, blockSize, nil)
	if err != nil {
		return err
	}
	length, err := o.FileLength(int64(len(used)))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-vhd")
	w.Header().Set("Content-Length", fmt.Sprint(length))
	return vhd.WriteStream(ctx, w, o, src, used, nil)
}
