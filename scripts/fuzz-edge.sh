#!/bin/bash
# Fuzzes the edge's own HTTP/1.1 engine for FUZZHOURS of CPU time, its targets in turns, on one core and at the lowest
# priority, and writes down in docs/fuzzing.md what was spent. What a target finds interesting is kept in GOCACHE between runs;
# a crasher lands in testdata, as always with go test. KEEP=1 copies the corpus into testdata as well.
set -euo pipefail
cd "$(dirname "$0")/.."
hours=${FUZZHOURS:-0.1}
package=./internal/edge/http1
doc=docs/fuzzing.md
turn=${FUZZTURN:-5m} # how long one target runs at a time
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cache=$(go env GOCACHE)/fuzz/trysail-edge
mkdir -p "$cache"
go test -c -fuzz=. -o "$work/fuzz.test" $package # once: what is fuzzed is this state of the code
mapfile -t targets < <("$work/fuzz.test" -test.list '^Fuzz' | grep ^Fuzz)
commit=$(git rev-parse --short HEAD)
root=$PWD
cd $package

# record adds a row: date, commit, target, CPU seconds, executions.
record() {
	[ -e "$root/$doc" ] || { echo "no $doc"; return 1; }
	printf '| %s | %s | %s | %s | %s |\n' "$(date -u +%F)" "$commit" "$1" "$2" "$3" >>"$root/$doc"
	total=$(awk -F'|' '/^\| 20/ { s += $5 } END { printf "%.2f", s / 3600 }' "$root/$doc")
	sed -i "s/^In all: .*/In all: $total CPU-hours./" "$root/$doc"
}

spent=0
failed=()
while awk "BEGIN { exit !($spent < $hours * 3600) }"; do
	[ ${#failed[@]} -lt ${#targets[@]} ] || break
	for target in "${targets[@]}"; do
		[[ " ${failed[*]} " == *" $target "* ]] && continue # until it is mended
		status=0
		# The target's goroutines use at most two cores' worth; one worker, so that others can work on this machine.
		TIMEFORMAT='%U %S'
		{ time nice -n 19 "$work/fuzz.test" -test.run '^$' -test.fuzz "^$target\$" -test.fuzzcachedir "$cache" -test.fuzztime "$turn" \
			-test.parallel 1 >"$work/out" 2>&1 || status=$?; } 2>"$work/time"
		seconds=$(tail -1 "$work/time" | awk '{ printf "%.0f", $1 + $2 }')
		record "$target" "$seconds" "$(grep -oP 'execs: \K\d+' "$work/out" | tail -1 || true)"
		spent=$((spent + seconds))
		if [ "$status" != 0 ]; then
			grep -v '^fuzz: elapsed' "$work/out"
			failed+=("$target")
		fi
	done
done
if [ -n "${KEEP:-}" ]; then
	for target in "${targets[@]}"; do
		[ -d "$cache/$target" ] && mkdir -p "testdata/fuzz/$target" && cp -n "$cache/$target"/* "testdata/fuzz/$target/"
	done
fi
[ ${#failed[@]} = 0 ]
