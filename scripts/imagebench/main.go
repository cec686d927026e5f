// Command imagebench reads or writes an image in place at scattered offsets, like "qemu-img
// bench". It prints the seconds of the requests, and separately those of closing the image,
// which flushes it.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

func main() {
	write := flag.Bool("w", false, "write instead of reading")
	count := flag.Int("c", 10000, "requests")
	size := flag.Int("s", 4096, "bytes of each")
	step := flag.Int64("S", 1<<20, "bytes from the start of one to that of the next, modulo the size of the disk")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *write, *count, *size, *step); err != nil {
		fmt.Fprintln(os.Stderr, "imagebench:", err)
		os.Exit(1)
	}
}

func run(name string, write bool, count, size int, step int64) error {
	img, err := vhd.Open(name, &vhd.OpenOptions{Write: write})
	if err != nil {
		return err
	}
	do := img.ReadAt
	buf := make([]byte, size)
	if write {
		do = img.WriteAt
		for i := range buf {
			buf[i] = 0xa5
		}
	}
	start := time.Now()
	for off := int64(0); count > 0; count-- {
		if _, err := do(buf, min(off, img.Size()-int64(size))); err != nil {
			img.Close()
			return err
		}
		off = (off + step) % img.Size()
	}
	requests := time.Since(start)
	if err := img.Close(); err != nil {
		return err
	}
	fmt.Printf("%.6f %.6f\n", requests.Seconds(), time.Since(start).Seconds())
	return nil
}
