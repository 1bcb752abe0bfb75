#!/usr/bin/env bash
# fuzz.sh  Runs every native fuzz target for FUZZTIME (default 20000x: executions, not seconds), two workers.
set -euo pipefail
cd "$(dirname "$0")/.."
n=0
while IFS=: read -r file _; do
  pkg=./$(dirname "$file")
  while read -r f; do
    echo "fuzz: $pkg $f"; n=$((n+1))
    go test -tags containers_image_openpgp,seccomp -run '^$' -fuzz "^$f\$" -fuzztime "${FUZZTIME:-20000x}" -parallel 2 "$pkg"
  done < <(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$file" | awk '{print $2}')
done < <(grep -rlE '^func Fuzz' --include='*_test.go' cmd privsep policy profiles verify runtime audit fuzz test | sed 's/$/:/')
[ $n -gt 0 ] || { echo "fuzz: no target found" >&2; exit 1; }
echo "fuzz: $n targets"
