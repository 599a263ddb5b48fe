#!/usr/bin/env bash
# Writes packages.lock: which Debian packages the OCI image has files of, with their checksums, as apt finds and verifies
# them now. Run it when Debian has fixed something in one of them. It needs nothing but apt, and changes nothing else.
set -euo pipefail
cd "$(dirname "$0")"

suite=bookworm
packages=(runc containernetworking-plugins libc6 libseccomp2 ca-certificates iptables libmnl0 libnftnl11 libxtables12)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
keys='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]'
mirror=http://deb.debian.org
cat >"$work/sources.list" <<-LIST
	deb $keys $mirror/debian $suite main
	deb $keys $mirror/debian $suite-updates main
	deb $keys $mirror/debian-security $suite-security main
LIST
{
	echo "# Debian packages of the OCI image; update.sh writes this. Files that a mirror has no more are at snapshot.debian.org."
	echo "snapshot $(date -u +%Y%m%dT%H%M%SZ)"
	for arch in amd64 arm64; do
		dir=$work/$arch
		mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
		options=(-qq -o APT::Architecture=$arch -o APT::Architectures=$arch -o APT::Sandbox::User=root
			-o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir/cache" -o Dir::State::status=/dev/null
			-o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null)
		apt-get "${options[@]}" update
		# 'URL' NAME_VERSION_ARCH.deb SIZE SHA256:SUM
		apt-get "${options[@]}" --print-uris download "${packages[@]}" | sort | while read -r url file _ sum; do
			url=${url//\'/}
			IFS=_ read -r name version _ <<<"${file//%3a/:}"
			echo "$arch $name $version ${sum#SHA256:} ${url#"$mirror/"}"
		done
	done
} >"$work/lock"
mv "$work/lock" packages.lock
chmod 644 packages.lock
