package chain_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/chain"
)

// exampleChild makes an image that says "hello" at 4 MiB, and a child that says "Jello"
// there.
func exampleChild(dir string) (base, child string) {
	base, child = filepath.Join(dir, "disk.vhd"), filepath.Join(dir, "child.vhd")
	img, err := vhd.Create(base, &vhd.CreateOptions{Size: 10 << 20, Exact: true})
	check(err)
	_, err = img.WriteAt([]byte("hello"), 4<<20)
	check(err)
	check(img.Close())
	parent, err := vhd.Open(base, nil)
	check(err)
	o := &vhd.CreateOptions{Parent: parent}
	o.ParentRecord, err = vhd.ParentRecordOf(child, base, parent, vhd.PathsAll)
	check(err)
	img, err = vhd.Create(child, o)
	check(err)
	_, err = img.WriteAt([]byte("J"), 4<<20)
	check(err)
	check(img.Close())
	return base, child
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// greeting is the five bytes of a disk at 4 MiB, and how many blocks its image has.
func greeting(name string) string {
	img, err := vhd.Open(name, nil)
	check(err)
	defer img.Close()
	b := make([]byte, 5)
	_, err = img.ReadAt(b, 4<<20)
	check(err)
	_, allocated := img.BlockCounts()
	return fmt.Sprintf("%s (%d blocks)", b, allocated)
}

// The blocks of a child go into its parent.
func ExampleCommit() {
	dir, err := os.MkdirTemp("", "vhd-example-")
	check(err)
	defer os.RemoveAll(dir)
	base, child := exampleChild(dir)
	check(chain.Commit(context.Background(), child, nil))
	fmt.Println("parent:", greeting(base))
	fmt.Println("child:", greeting(child))
	// Output:
	// parent: Jello (1 blocks)
	// child: Jello (0 blocks)
}

// A child gets all that it inherits, and needs no parent afterwards.
func ExampleRebase() {
	dir, err := os.MkdirTemp("", "vhd-example-")
	check(err)
	defer os.RemoveAll(dir)
	base, child := exampleChild(dir)
	check(chain.Rebase(context.Background(), child, &chain.RebaseOptions{Parent: ""}))
	check(os.Remove(base))
	fmt.Println(greeting(child))
	// Output: Jello (1 blocks)
}
