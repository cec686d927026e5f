package vhd

// leadingFooter rewrites the copy of the footer at the start of an image whose header is
// lost. The trailing footer must be valid, because nothing else says what the copy holds.
// The first sector must hold something like a footer: in a raw disk that only ends with
// an image it would be the boot sector.
func (r *repairer) leadingFooter(fs *footers) error {
	footer := &fs.trailing
	if !footer.valid() || footer.Type == Fixed || !fs.leading.marked() || fs.leading.valid() && fs.leading.same(&footer.Footer) {
		return nil
	}
	id := "leading-footer"
	if fs.leading.valid() {
		id = "footers-differ"
	}
	b := footer.Encode()
	if err := r.write(b[:], 0); err != nil {
		return err
	}
	r.did(id, 0, footerSize, "the copy of the footer at the start was rewritten")
	return nil
}
