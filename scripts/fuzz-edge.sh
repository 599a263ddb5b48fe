#!/bin/bash
# Fuzzes the edge's own HTTP/1.1 engine for FUZZHOURS of CPU time, its targets in turns, on one core and at the lowest
# priority, and writes down in docs/fuzzing.md what was spent. What a target finds interesting is kept in GOCACHE between runs;
# a crasher lands in testdata, as always with go test. KEEP=1 copies the corpus into testdata as well.
set -euo pipefail
cd "$(dirname "$0")/.."
hours=${FUZZHOURS:-0.1}
doc=docs/fuzzing.md
turn=${FUZZTURN:-5m} # how long one target runs at a time
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cache=$(go env GOCACHE)/fuzz/trysail-edge
mkdir -p "$cache"
# Once: what is fuzzed is this state of the code.
go test -c -fuzz=. -o "$work/http1.test" ./internal/edge/http1
go test -c -fuzz=. -o "$work/edge.test" ./internal/edge
targets=(FuzzRequest FuzzResponse FuzzChunked FuzzStream FuzzStreamLoops FuzzEngine FuzzEngineLoops)
commit=$(git rev-parse --short HEAD)
root=$PWD

# enter goes where the tests of a target are, and sets program.
enter() {
	if [[ $1 == FuzzEngine* ]]; then
		program=$work/edge.test
		cd "$root/internal/edge"
	else
		program=$work/http1.test
		cd "$root/internal/edge/http1"
	fi
}

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
		enter "$target"
		status=0
		# The target's goroutines use at most two cores' worth; one worker, so that others can work on this machine.
		TIMEFORMAT='%U %S'
		{ time nice -n 19 "$program" -test.run '^$' -test.fuzz "^$target\$" -test.fuzzcachedir "$cache" -test.fuzztime "$turn" \
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
		enter "$target"
		[ -d "$cache/$target" ] && mkdir -p "testdata/fuzz/$target" && cp -n "$cache/$target"/* "testdata/fuzz/$target/"
	done
fi
[ ${#failed[@]} = 0 ]
