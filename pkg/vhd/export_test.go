package vhd

// What the tests look at from inside.
var (
	BitmapRun     = bitmapRun
	SetBits       = setBits
	BitmapSizeFor = bitmapSizeFor
)
