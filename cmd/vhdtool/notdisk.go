package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/vhdtool/vhdtool/internal/archive"
	"github.com/vhdtool/vhdtool/internal/decompress"
)

// extractors are commands that write the contents of an archive to a pipe.
var extractors = map[string]string{
	"7z":  "7z x -so %s",
	"rar": "unrar p -inul %s",
	"tar": "tar -xOf %s",
	"zip": "unzip -p %s",
}

// refuseNoDisk returns an error if head, the start of the named file, is empty or an archive. It is
// called if no format is given. The name of a pipe is "".
func refuseNoDisk(head []byte, name string) error {
	if len(head) == 0 {
		err := errors.New("the file is empty: there is no disk in it")
		if name == "" {
			return &hintError{errors.New("no data came from the pipe"), "the program before the pipe may have failed; -f raw accepts a disk of 0 bytes"}
		}
		return &hintError{err, "-f raw accepts a disk of 0 bytes"}
	}
	kind := archive.Format(head)
	if kind == "" {
		return nil
	}
	file := "FILE"
	if name != "" {
		file = quoteArg(name)
	}
	extract := fmt.Sprintf(extractors[kind], file)
	return &hintError{
		fmt.Errorf("this is a %s archive, not a disk", kind),
		fmt.Sprintf("'%s | vhdtool convert - TARGET' converts the disk in it; -f raw accepts the archive itself", extract),
	}
}

// refuseNoDisk returns the function that refuses archives and empty sources. It is nil when called
// as qemu-img.
func (c *cli) refuseNoDisk() func(head []byte, name string) error {
	if c.likeQEMU {
		return nil
	}
	return refuseNoDisk
}

// decompressors are the commands that decompress a file to a pipe.
var decompressors = map[string]string{
	"bzip2": "bzip2 -dc",
	"gzip":  "gzip -dc",
	"xz":    "xz -dc",
	"zstd":  "zstd -dc",
}

// refuseStream returns an error if refuseNoDisk does, or if the named file is compressed. It is
// called by commands that read at any offset.
func refuseStream(head []byte, name string) error {
	if err := refuseNoDisk(head, name); err != nil {
		return err
	}
	kind := decompress.Format(head)
	if kind == "" {
		return nil
	}
	return &hintError{
		fmt.Errorf("the file is compressed with %s", kind),
		fmt.Sprintf("'%s %s >FILE' decompresses it, and 'convert' also reads it as it is; -f raw accepts the compressed bytes", decompressors[kind], quoteArg(name)),
	}
}

// errStdinRefused is the error about the name "-" where no such file exists, of a command that
// cannot read standard input.
var errStdinRefused = &hintError{
	errors.New(stdinName + " is not accepted here: the image is read at any offset"),
	"write it to a file first; 'convert', 'compare', 'dd' and 'measure' accept -",
}

// headOf returns the first bytes of a file, as many as refuseNoDisk uses.
func headOf(r io.ReaderAt) ([]byte, error) {
	b := make([]byte, archive.HeadSize)
	n, err := r.ReadAt(b, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], err
}

// compressors are programs that compress a pipe, by the suffix of their files.
var compressors = map[string]string{".gz": "gzip", ".bz2": "bzip2", ".zst": "zstd", ".xz": "xz"}

// refuseCompressedName returns an error if the name of a target has the suffix of compressed data.
// Targets are never compressed.
func (c *cli) refuseCompressedName(name string) error {
	program := compressors[strings.ToLower(filepath.Ext(name))]
	if program == "" || c.likeQEMU || c.isStream(name) {
		return nil
	}
	format := ""
	if f := formats.BySuffix(strings.TrimSuffix(name, filepath.Ext(name))); f != nil {
		format = "-O " + f.Name + " "
	}
	return &hintError{
		fmt.Errorf("a target named '%s' would not be compressed", name),
		fmt.Sprintf("'vhdtool convert %sSOURCE - | %s >%s' compresses it", format, program, quoteArg(name)),
	}
}
