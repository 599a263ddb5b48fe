#!/usr/bin/env bash
# Runs make cluster-test unless it has passed with the same files before on this machine. make test calls it, and so does
# CI: a machine that has never run it does so. make release calls it with CLUSTER=always.
#
#   CLUSTER=always   in any case; that it cannot be run here is an error
#   CLUSTER=never    not at all
#
# A cluster that it brings up itself goes down afterwards; one that was there stays.
set -euo pipefail
cd "$(dirname "$0")/.."

# What the cluster tests are about. A machine without history asks nothing of Git: it may be a clean clone, or no clone at all.
parts=(internal/engine internal/reconcile internal/edge internal/fleet internal/store packaging/kubernetes test/cluster test/replicas go.mod)
passed=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/trysail-test/cluster-passed

say() { printf 'cluster tests: %s\n' "$*"; }

# state names the contents of all files there, whatever Git says of them, but for tests that have nothing to do with a cluster,
# and what fuzzing has found.
state() {
	find "${parts[@]}" -type f ! -path '*/testdata/fuzz/*' ! \( -name '*_test.go' ! -path 'internal/engine/*' ! -path 'test/*' \) -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-32
}

# impossible prints why the cluster cannot be run here, or nothing.
impossible() {
	local group
	if [[ $(id -u) != 0 ]]; then
		echo "they need root"
	elif ! command -v unshare >/dev/null || ! unshare --mount --net --pid --uts --ipc --fork mount -t tmpfs none /mnt >/dev/null 2>&1; then
		echo "they need namespaces of their own for nodes, which are not allowed here"
	else
		group=/sys/fs/cgroup
		[[ -e $group/cgroup.controllers ]] || group+=/memory
		group+=/trysail-cluster-probe
		if ! { mkdir "$group" && rmdir "$group"; } 2>/dev/null; then
			echo "they need control groups for nodes, which cannot be made here"
		fi
	fi
}

case ${CLUSTER:-} in
never)
	say "left out, CLUSTER=never"
	exit 0
	;;
always | "") ;;
*)
	echo "CLUSTER is '$CLUSTER'; it can be always or never" >&2
	exit 2
	;;
esac

why=$(impossible)
if [[ -n $why && ${CLUSTER:-} == always ]]; then
	say "they must pass, and cannot be run: $why" >&2
	exit 1
elif [[ -n $why ]]; then
	say "LEFT OUT: $why"
	exit 0
fi

before=$(state)
if [[ ${CLUSTER:-} != always && -e $passed/$before ]]; then
	say "not again, as nothing has changed since they passed on $(<"$passed/$before")"
	exit 0
fi

# end removes the cluster if it is ours. What its programs have logged stays if something went wrong.
cluster=/var/tmp/trysail-cluster
ours=
end() {
	local status=$? kept
	if ((status != 0)) && [[ -d $cluster ]]; then
		kept=$(mktemp -d -t failed-cluster-XXXXXX)
		(cd "$cluster" && find . -maxdepth 2 -name '*.log' -exec cp --parents {} "$kept" \;)
		say "failed; the logs of the cluster's programs are in $kept" >&2
	fi
	if [[ -n $ours ]]; then
		make --no-print-directory -s cluster-down
	fi
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
[[ -S $cluster/control.sock ]] || ours=1
began=$SECONDS
make --no-print-directory cluster-test RUN= # all of them
say "passed in $((SECONDS - began)) s"
if [[ $(state) == "$before" ]]; then
	mkdir -p "$passed"
	date -u '+%Y-%m-%d %H:%M' >"$passed/$before"
fi
