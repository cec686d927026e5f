//go:build linux && !portable

package chain_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/chain"
)

// A process that reads the image or the parent makes a commit fail. One that writes to any
// parent makes a rebase fail. Afterwards all locks are released.
func TestLocks(t *testing.T) {
	commit := func(s scene, noLock bool) error {
		return chain.Commit(context.Background(), s.path("grand.vhd"), &chain.CommitOptions{Open: vhd.OpenOptions{NoLock: noLock}})
	}
	rebase := func(parent string) func(s scene, noLock bool) error {
		return func(s scene, noLock bool) error {
			return chain.Rebase(context.Background(), s.path("grand.vhd"), &chain.RebaseOptions{
				Parent: s.path(parent), Raw: parent == "other.raw", Open: vhd.OpenOptions{NoLock: noLock},
			})
		}
	}
	rawCommit := func(s scene, noLock bool) error {
		if err := rebase("other.raw")(s, true); err != nil {
			return err
		}
		return commit(s, noLock)
	}
	for _, c := range []struct {
		name   string
		locked string
		write  bool
		do     func(s scene, noLock bool) error
	}{
		{"commit, image read", "grand.vhd", false, commit},
		{"commit, parent read", "child.vhd", false, commit},
		{"commit, base written", "base.vhd", true, commit},
		{"commit, raw parent read", "other.raw", false, rawCommit},
		{"rebase, image read", "grand.vhd", false, rebase("other.vhd")},
		{"rebase, old parent written", "child.vhd", true, rebase("other.vhd")},
		{"rebase, new parent written", "other.vhd", true, rebase("other.vhd")},
		{"rebase, new raw parent written", "other.raw", true, rebase("other.raw")},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			want := s.contents("grand.vhd")
			f, err := os.OpenFile(s.path(c.locked), os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			if err := imagelock.Lock(f, c.write); err != nil {
				t.Skip(err)
			}
			if err := c.do(s, false); !errors.Is(err, vhd.ErrLocked) {
				t.Errorf("%v, want ErrLocked", err)
			}
			must(t, c.do(s, true))
			must(t, f.Close())
			s.reads("grand.vhd", want)
			for _, name := range []string{"base.vhd", "child.vhd", "grand.vhd", "other.vhd", "other.raw"} {
				f, err := os.OpenFile(s.path(name), os.O_RDWR, 0)
				must(t, err)
				if err := imagelock.Lock(f, true); err != nil {
					t.Errorf("%s is locked afterwards: %v", name, err)
				}
				must(t, f.Close())
			}
		})
	}
}
