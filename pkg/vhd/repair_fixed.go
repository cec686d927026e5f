package vhd

// fixedFooter repairs the footer of a fixed disk. The disk has no copy of it, so only a few
// fields can be derived.
func (r *repairer) fixedFooter(c *footerCopy, fs *footers) error {
	footer := c.Footer
	footer.DataOffset = noOffset
	b := footer.Encode()
	rest := r.size % SectorSize
	var id, text string
	switch {
	case c.short:
		id, text = "file-length", "the last byte of the 511-byte footer was added"
	case rest != 0:
		// The missing bytes are not the disk's, and their contents are unknown.
		return nil
	case footer != fs.trailing.Footer:
		id, text = "fixed-data-offset", "the footer's data offset was set to all ones"
	case c.Checksum != c.checksumWanted():
		id, text = "footer-checksum", "the footer's checksum was corrected"
	default:
		return nil
	}
	if err := r.write(b[:], c.off); err != nil {
		return err
	}
	r.did(id, c.off, footerSize, "%s", text)
	return nil
}
