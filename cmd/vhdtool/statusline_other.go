//go:build !unix

package main

// isDumb reports whether a terminal cannot rewrite its line. Consoles here can, and have no TERM.
func isDumb(name string) bool { return name == "dumb" }
