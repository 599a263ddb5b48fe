#!/usr/bin/env bash
# Installs what the make targets need on a Debian 12 machine that has Go and make.
#
#   scripts/setup.sh build | demo | test | bench | cluster | release | package
#
# It is safe to run again and again: it looks first and installs only what is missing, so a machine that has
# everything is not touched and needs no network. It starts no daemon, asks nothing, needs no systemd (a chroot will
# do) and is silent unless it installs something or fails.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
	printf 'setup: %s\n' "$*" >&2
	exit 1
}

# quiet CMD…: show the output only when the command fails.
quiet() {
	local log rc=0
	log=$(mktemp)
	"$@" >"$log" 2>&1 </dev/null || rc=$?
	if ((rc != 0)); then
		cat "$log" >&2
		rm -f "$log"
		die "'$*' ended with exit status $rc"
	fi
	rm -f "$log"
}

have() { command -v "$1" >/dev/null 2>&1; }

# --- distribution packages ---------------------------------------------------------------------------------------

missing=()

# need PACKAGE FILE…: PACKAGE is missing unless one of the files exists. A name without a slash is looked up in PATH.
need() {
	local package=$1 file
	shift
	for file in "$@"; do
		case $file in
		*/*) [[ -e $file ]] && return ;;
		*) have "$file" && return ;;
		esac
	done
	missing+=("$package")
}

apt() {
	DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o APT::Sandbox::User=root "$@"
}

# fetch_lists: apt-get update, at most once, and only when somebody needs it.
lists_fresh=
fetch_lists() {
	[[ -n $lists_fresh ]] && return
	quiet apt update
	lists_fresh=1
}

# Package scripts ask policy-rc.d before they start a daemon; 101 forbids it. A policy that is there already stays.
policy=/usr/sbin/policy-rc.d
our_policy=
forbid_daemons() {
	[[ -e $policy ]] && return
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	our_policy=1
}
allow_daemons() {
	[[ -z $our_policy ]] || rm -f "$policy"
	our_policy=
}

# PostgreSQL's package makes a database and lets it start with every boot. The tests want the programs only.
clusters=/etc/postgresql-common/createcluster.conf
our_clusters=
forbid_clusters() {
	[[ -e $clusters ]] && return
	mkdir -p "${clusters%/*}"
	printf 'create_main_cluster = false\n' >"$clusters"
	our_clusters=1
}
allow_clusters() {
	[[ -z $our_clusters ]] || cp /usr/share/postgresql-common/createcluster.conf "$clusters" 2>/dev/null || rm -f "$clusters"
	our_clusters=
}

restore() {
	allow_daemons
	allow_clusters
}

install_missing() {
	((${#missing[@]})) || return 0
	((EUID == 0)) || die "these packages are missing and only root can install them: ${missing[*]}"
	have apt-get || die "please install: ${missing[*]}"
	printf 'setup: installing %s\n' "${missing[*]}" >&2
	trap restore EXIT
	forbid_daemons
	if [[ " ${missing[*]} " == *" postgresql "* ]]; then forbid_clusters; fi
	# The lists may be absent or name versions that are gone from the mirror: then, and only then, renew them.
	if ! apt install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 </dev/null; then
		fetch_lists
		quiet apt install -y --no-install-recommends "${missing[@]}"
	fi
	restore
	trap - EXIT
	missing=()
}

# --- packages that are unpacked, not installed -------------------------------------------------------------------

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/trysail-test

# What the test images and the test registry are made of. These programs are never installed on the machine: their
# packages would leave a service behind that starts with the next boot. test/kit takes the shared libraries that a
# program names from here too, and says so when one is not in this list.
debs=(
	docker-registry
	nginx nginx-common
	redis-tools # holds the server program as well
	libatomic1 libc6 libcap2 libcrypt1 libgcc-s1 libgcrypt20 libgpg-error0 libjemalloc2 liblz4-1 liblzf1 liblzma5 libpcre2-8-0
	libssl3 libstdc++6 libsystemd0 libzstd1 zlib1g
)

# What pushes to the registry in the tests and what make bench compares with: clients and daemons that stay off the machine.
container_debs=(
	skopeo buildah podman conmon
	libassuan0 libdevmapper1.02.1 libglib2.0-0 libgpg-error0 libgpgme11 libpcre2-8-0 libseccomp2 libselinux1 libsemanage2 libsepol2 libsubid4 libsystemd0 libudev1
)
# What logs are shipped to in the tests.
rsyslog_debs=(rsyslog rsyslog-openssl libestr0 libfastjson4 liblognorm5 libssl3 libuuid1)
# The firewalls that the pods' network has to live with.
firewall_debs=(
	firewalld python3-firewall python3-nftables libnftables1 python3-dbus python3-gi gir1.2-glib-2.0 libgirepository-1.0-1 libglib2.0-0 libffi8
	dbus-daemon dbus-bin libdbus-1-3 libapparmor1 libaudit1 libcap-ng0 libexpat1
	ufw
)
# What make bench compares the name server with.
unbound_debs=(unbound libevent-2.1-7 libhiredis0.14 libprotobuf-c1 libpython3.11 libnghttp2-14 libssl3 libexpat1)
# What make bench compares the edge with, beside nginx.
haproxy_debs=(haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1 libpcre2-8-0 libssl3 libsystemd0 libcrypt1 libstdc++6 libgcc-s1)
docker_debs=(docker.io containerd libdevmapper1.02.1 libpcre2-8-0 libselinux1 libsystemd0 libudev1)

# unpack_debs NAME PACKAGE…: unpack the packages into the cache's folder NAME.
unpack_debs() {
	local name=$1 stamp tmp deb
	shift
	stamp=$(printf '%s\n' "$@" | sha256sum | cut -c1-16)
	[[ -e $cache/$name/.$stamp ]] && return
	mkdir -p "$cache"
	tmp=$(mktemp -d "$cache/tmp.XXXXXX")
	if ! (cd "$tmp" && apt download "$@") >/dev/null 2>&1; then
		fetch_lists
		(cd "$tmp" && quiet apt download "$@") || die "cannot download $*"
	fi
	for deb in "$tmp"/*.deb; do dpkg-deb -x "$deb" "$tmp/root"; done
	touch "$tmp/root/.$stamp"
	rm -rf "${cache:?}/$name"
	mv "$tmp/root" "$cache/$name"
	rm -rf "$tmp"
}

# merge_usr NAME: put what is in /lib into /usr/lib, where it is on a machine.
merge_usr() {
	[[ -d $cache/$1/lib ]] || return 0
	cp -a "$cache/$1/lib/." "$cache/$1/usr/lib/"
	rm -rf "${cache:?}/$1/lib"
}

javascript_sdk() {
	local dir=test/js
	[[ $dir/node_modules/.package-lock.json -nt $dir/package-lock.json ]] && return
	quiet npm --prefix "$dir" ci --no-audit --no-fund --no-update-notifier
	touch "$dir/node_modules/.package-lock.json"
}

# --- targets -----------------------------------------------------------------------------------------------------

for_build() {
	have go || die "Go is missing: https://go.dev/dl/ (go.mod names the version)"
	need ca-certificates /etc/ssl/certs/ca-certificates.crt # for the Go module proxy
}

for_running() {
	need runc runc
	need containernetworking-plugins /usr/lib/cni/bridge /opt/cni/bin/bridge
	need iptables iptables /usr/sbin/iptables
}

for_demo() {
	for_build
	for_running
	need curl curl
}

for_bench() {
	for_build
	for_running
	need iproute2 ip # a network bridge for the Docker to compare with
	need ripgrep rg  # to compare the search with
	need wrk wrk     # load on the edge
	need openssl openssl # what it agrees on with others
}

for_cluster() {
	for_demo
	need gcc gcc cc
	need iproute2 ip /usr/sbin/ip
	need nftables nft /usr/sbin/nft # what policies say, in the nodes' networks
	need util-linux nsenter
}

# build_cluster: the programs of Kubernetes and its database, built from their Go modules into the cache. That takes ten
# minutes the first time, and is done again only when a version or Go has changed. The build cache of its own goes
# afterwards: it has 3 GB, and nobody else needs it.
build_cluster() {
	local folder=$cache/kube name stamp flags
	mkdir -p "$folder"
	exec 9>"$folder/lock"
	flock 9
	for name in etcd hyperkube; do
		stamp=$(cat test/cluster/$name/{go.mod,go.sum,main.go} <(go env GOVERSION GOARCH) | sha256sum | cut -c1-16)
		[[ -x $folder/$name && -e $folder/.$name-$stamp ]] && continue
		printf 'setup: building %s, once; this takes some minutes\n' "$name" >&2
		flags='-s -w'
		if [[ $name == hyperkube ]]; then
			# Without a version, clients cannot tell what the API server is able to do.
			local version=k8s.io/component-base/version v
			v=$(cd test/cluster/hyperkube && go list -m -f '{{.Version}}' k8s.io/kubernetes)
			flags+=" -X $version.gitVersion=$v -X $version.gitMajor=$(cut -d. -f1 <<<"${v#v}") -X $version.gitMinor=$(cut -d. -f2 <<<"$v")"
		fi
		(cd test/cluster/$name && quiet env GOCACHE="$folder/gocache" CGO_ENABLED=0 nice go build -p 2 -trimpath -buildvcs=false -ldflags "$flags" -o "$folder/$name.new" .)
		mv "$folder/$name.new" "$folder/$name"
		rm -rf "$folder/gocache" "$folder"/."$name"-*
		touch "$folder/.$name-$stamp"
	done
	exec 9>&-
}

for_release() {
	for_build
	need git git # says which version this is, and of what time
	need dpkg dpkg-deb
}

for_package() {
	for_release
	need debootstrap debootstrap /usr/sbin/debootstrap
	need iproute2 ip /usr/sbin/ip
	need nftables nft /usr/sbin/nft
	need util-linux nsenter
}

# build_machine: a clean Debian, once, in the cache. It has what debootstrap gives every Debian and no more: packages that
# are installed on it have to bring what they need.
build_machine() {
	local mirror=${TRYSAIL_DEBIAN_MIRROR:-http://deb.debian.org} suite=bookworm stamp tmp
	stamp=2-$suite
	[[ -e $cache/machine/.$stamp ]] && return
	mkdir -p "$cache"
	tmp=$(mktemp -d "$cache/tmp.XXXXXX")
	printf 'setup: making a clean Debian, once; this takes a minute or two\n' >&2
	quiet debootstrap --include=dbus "$suite" "$tmp/root" "$mirror/debian"
	printf 'deb %s main\n' "$mirror/debian $suite" "$mirror/debian $suite-updates" "$mirror/debian-security $suite-security" >"$tmp/root/etc/apt/sources.list"
	rm -rf "$tmp/root/var/cache/apt/archives"/*.deb "$tmp/root/var/lib/apt/lists"/*
	touch "$tmp/root/.$stamp"
	rm -rf "${cache:?}/machine"
	mv "$tmp/root" "$cache/machine"
	rm -rf "$tmp"
}

# build_caddy: Caddy, which make bench compares the edge with, built from its Go module into the cache, once.
build_caddy() {
	local folder=$cache/proxies stamp
	stamp=$(cat test/proxies/caddy/{go.mod,go.sum,main.go} <(go env GOVERSION GOARCH) | sha256sum | cut -c1-16)
	[[ -x $folder/caddy && -e $folder/.caddy-$stamp ]] && return
	mkdir -p "$folder"
	printf 'setup: building Caddy, once; this takes some minutes\n' >&2
	(cd test/proxies/caddy && quiet env CGO_ENABLED=0 nice go build -p 2 -trimpath -buildvcs=false -o "$folder/caddy" .)
	rm -f "$folder"/.caddy-*
	touch "$folder/.caddy-$stamp"
}

for_test() {
	for_demo
	need gcc gcc cc # go test -race
	need libc6-dev /usr/include/stdlib.h
	need iproute2 ip /usr/sbin/ip # a network namespace as the outside of the pods' network
	need awscli /usr/bin/aws
	need nftables nft /usr/sbin/nft # looks at the rules, and flushes them as others may
	need openssl openssl           # shows what the edge presents, with curl and dig
	need bind9-dnsutils dig
	need libnss3-tools certutil # the browsers' stores of trusted certificates
	need chromium chromium      # loads pages with certificates of ours, and the console
	need python3-boto3 /usr/lib/python3/dist-packages/boto3
	need python3 /usr/bin/python3         # it, busybox and node are put into images
	need busybox-static /bin/busybox
	need bash-completion /usr/share/bash-completion/bash_completion # the shells that commands are completed in
	need zsh zsh
	need fish fish
	need mandoc mandoc # reads the manual pages
	need jq jq
	need postgresql /usr/lib/postgresql/*/bin/initdb
	if ! have node || ! have npm; then
		need nodejs node
		need npm npm
	fi
}

main() {
	case ${1:-} in
	build) for_build ;;
	demo) for_demo ;;
	test) for_test ;;
	bench) for_bench ;;
	cluster) for_cluster ;;
	release) for_release ;;
	package) for_package ;;
	*) die "usage: scripts/setup.sh build | demo | test | bench | cluster | release | package" ;;
	esac
	install_missing
	case $1 in
	test)
		unpack_debs debian "${debs[@]}"
		unpack_debs containers "${container_debs[@]}"
		unpack_debs rsyslog "${rsyslog_debs[@]}"
		unpack_debs docker "${docker_debs[@]}"
		unpack_debs firewalls "${firewall_debs[@]}"
		merge_usr firewalls
		javascript_sdk
		;;
	cluster) build_cluster ;;
	package)
		build_machine
		unpack_debs docker "${docker_debs[@]}"
		;;
	bench)
		unpack_debs debian "${debs[@]}"
		unpack_debs unbound "${unbound_debs[@]}"
		unpack_debs haproxy "${haproxy_debs[@]}"
		merge_usr haproxy
		build_caddy
		unpack_debs docker "${docker_debs[@]}"
		;;
	esac
}

main "$@"
