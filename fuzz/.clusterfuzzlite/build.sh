#!/bin/bash -eu
# Compiles every Fuzz function of the module: a new target needs no line here.
# The name is the package and the function, so that no two are the same.
cd "$SRC/postern"
module=$(go list -m)
grep -rlE --include='*_test.go' --exclude-dir=test '^func Fuzz[A-Za-z0-9]*\(' . | sort | while read -r file; do
  dir=$(dirname "${file#./}")
  sed -nE 's/^func (Fuzz[A-Za-z0-9]*)\(.*/\1/p' "$file" | while read -r target; do
    compile_native_go_fuzzer_v2 "$module/$dir" "$target" "$(echo "$dir" | tr / _)_$target"
  done
done
