// Command orchestrate is a durable inbox for GitHub webhooks.
package main

import (
	"os"

	"orchestrate/internal/cli"
)

// version is set by the linker; without it the module's own counts.
var version string

func main() {
	os.Exit(cli.Main(cli.Process{Version: version, Args: os.Args[1:], In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
