package vhd

// Unexported names that the tests use.
var (
	BitmapRun     = bitmapRun
	SetBits       = setBits
	BitmapSizeFor = bitmapSizeFor
)
