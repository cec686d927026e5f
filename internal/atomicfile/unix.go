//go:build unix && !portable

package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		return nil // a file system that has no such thing
	}
	return err
}

// isReadOnly reports whether the error is that of a read-only file system.
func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }

// takeAttributes gives f the attributes of the file old that it replaces, which is open
// as w. An error of fs.ErrPermission means that the owner cannot be kept.
func takeAttributes(f, w *os.File, old os.FileInfo) error {
	st, ok := old.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	now, err := f.Stat()
	if err != nil {
		return err
	}
	if mine, ok := now.Sys().(*syscall.Stat_t); !ok || mine.Uid != st.Uid || mine.Gid != st.Gid {
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if err := f.Chmod(old.Mode().Perm()); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return copyXattrs(f, w, old)
}

// cannotReplace returns why the file target cannot be renamed over, or nil.
func cannotReplace(target string, old os.FileInfo) error {
	if isMountPoint(target) {
		return errors.New("it is a mount point")
	}
	dir, err := os.Stat(filepath.Dir(target))
	if err != nil || dir.Mode()&os.ModeSticky == 0 || os.Geteuid() == 0 {
		return nil
	}
	for _, info := range []os.FileInfo{old, dir} {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == os.Geteuid() {
			return nil
		}
	}
	return errors.New("its directory is sticky, and another user owns the file")
}

// Links returns how many names the file has, through hard links.
func Links(info os.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink)
	}
	return 1
}
