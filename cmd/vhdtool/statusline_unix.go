//go:build unix

package main

// isDumb reports whether a terminal with this TERM cannot rewrite its line.
func isDumb(name string) bool { return name == "" || name == "dumb" }
