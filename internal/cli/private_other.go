//go:build !linux

package cli

// keepToOurselves: what Linux needs for it is not there.
func keepToOurselves() {}
