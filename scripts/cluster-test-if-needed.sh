#!/bin/bash
# Runs make cluster-test when it has something to say: when what it tests differs from what it passed with last on this
# machine. CLUSTER=always runs it in any case (before a release), CLUSTER=never not at all.
set -euo pipefail
cd "$(dirname "$0")/.."

parts=(internal/engine internal/reconcile internal/edge internal/fleet internal/store packaging/kubernetes test/cluster test/replicas)
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/trysail
stamp=$cache/cluster-test

# The contents of all files there, committed or not: the trees of Git, and what differs from them.
state() {
	for part in "${parts[@]}"; do
		echo "$part $(git rev-parse --quiet --verify "HEAD:$part" || echo none)"
	done
	git diff HEAD -- "${parts[@]}" | sha256sum
	git ls-files --others --exclude-standard -z -- "${parts[@]}" | sort -z | xargs -0 --no-run-if-empty sha256sum
}

case ${CLUSTER:-} in
never)
	echo "cluster tests: left out, CLUSTER=never"
	exit 0
	;;
always) ;;
"")
	if [[ $(id -u) != 0 ]]; then
		echo "cluster tests: left out, they need root"
		exit 0
	fi
	if [[ -f $stamp && $(<"$stamp") == "$(state)" ]]; then
		echo "cluster tests: nothing has changed since they passed"
		exit 0
	fi
	;;
*)
	echo "CLUSTER is '$CLUSTER'; it can be always or never" >&2
	exit 2
	;;
esac

before=$(state)
make --no-print-directory cluster-test
mkdir -p "$cache"
echo "$before" >"$stamp"
