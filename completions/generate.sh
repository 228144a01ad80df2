#!/bin/sh
# Writes the completion scripts of all shells beside this file.
set -eu
cd "$(dirname "$0")/.."
mkdir -p bin
CGO_ENABLED=0 go build -o bin/orchestrate ./cmd/orchestrate
for shell in bash:bash zsh:zsh fish:fish powershell:ps1; do
	bin/orchestrate completion "${shell%:*}" >"completions/orchestrate.${shell#*:}"
done
