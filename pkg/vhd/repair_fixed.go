package vhd

// fixedFooter mends the only footer of a fixed disk, which nothing but itself
// can tell.
func (r *repairer) fixedFooter(c *footerCopy, fs *footers) error {
	footer := c.Footer
	footer.DataOffset = noOffset
	b := footer.Encode()
	rest := r.size % SectorSize
	var id, text string
	switch {
	case c.short:
		id, text = "file-length", "the footer of 511 bytes got its last byte"
	case rest != 0:
		// What is torn off is not the disk's, but whose it is nobody knows.
		return nil
	case footer != fs.trailing.Footer:
		id, text = "fixed-data-offset", "the footer got all ones for its data offset"
	case c.Checksum != c.checksumWanted():
		id, text = "footer-checksum", "the footer got its right checksum"
	default:
		return nil
	}
	if err := r.write(b[:], c.off); err != nil {
		return err
	}
	r.did(id, c.off, footerSize, "%s", text)
	return nil
}
