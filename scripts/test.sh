#!/usr/bin/env bash
# Runs Go tests.
#
#   scripts/test.sh PACKAGES [FLAG of go test]...
#
# The tests use real daemons, networks and clocks. Up to three that fail are run once more, by themselves. What fails again is
# broken; what passes is named as flaky, which is a fault all the same. After a data race nothing is tried again.
set -euo pipefail
packages=$1
shift
again=$(mktemp)
trap 'rm -f "$again"' EXIT
go run gotest.tools/gotestsum@v1.13.0 --format pkgname-and-test-fails --hide-summary skipped \
	--rerun-fails=1 --rerun-fails-max-failures=3 --rerun-fails-run-root-test --rerun-fails-abort-on-data-race --rerun-fails-report="$again" \
	--packages "$packages" -- "$@"
sed 's/^/flaky: /' "$again"
