#!/bin/sh
# Builds a Prometheus that can ask Kubernetes for pods, as the file $1, unless one on PATH can. `go install` refuses a module
# that excludes others, so it is the dependency of an empty one.
set -eu
version=v0.307.3  # Of the Go module; of Prometheus, 3.7.3.
into=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
printf 'scrape_configs: [{job_name: pods, kubernetes_sd_configs: [{role: pod}]}]\n' >config.yml
if found=$(command -v prometheus) && promtool check config config.yml >/dev/null 2>&1; then
  ln -sf "$found" "$into"
  exit
fi
command -v go >/dev/null || { echo "a Prometheus with Kubernetes's discovery on PATH, or Go to build one, is needed" >&2; exit 1; }
printf 'module build\n\nrequire github.com/prometheus/prometheus %s\n' $version >go.mod
printf 'package build\n\nimport _ "github.com/prometheus/prometheus/cmd/prometheus"\n' >build.go
go mod tidy >/dev/null 2>&1 || true  # The import of a program is not allowed, and found all the same.
go build -o "$into" github.com/prometheus/prometheus/cmd/prometheus
