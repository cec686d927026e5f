//go:build !unix

package main

// isDumb reports whether a terminal of that TERM cannot rewrite its line. Consoles here have
// no TERM, and can.
func isDumb(name string) bool { return name == "dumb" }
