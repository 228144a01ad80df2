package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// builtDir is for the binaries of one run.
var builtDir = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "orchestrate-built-")
	atExit = func() { _ = os.RemoveAll(dir) }
	return dir, err
})

// builtOnce builds the binary, for all tests of one run.
var builtOnce = sync.OnceValues(func() (string, error) {
	dir, err := builtDir()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "orchestrate")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return bin, nil
})
