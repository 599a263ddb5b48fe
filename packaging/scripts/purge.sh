#!/bin/sh
# Ends all containers that trysail has started with its default settings, and deletes all of its data: services, images,
# logs, keys, certificates. The service must have been stopped. What was made with another --data-dir is left alone.
set -e

if [ -d /run/systemd/system ] && systemctl is-active --quiet trysail.service; then
	echo "trysail still runs. First: systemctl disable --now trysail" >&2
	exit 1
fi

data=/var/lib/trysail
engine=$data/engine

# The first eight digits of a checksum of the engine's folder tell it from others on this machine.
id=$(printf %s "$engine" | sha256sum | cut -c 1-8)

# shims prints the processes that hold containers: they are told the engine's socket.
shims() {
	for dir in /proc/[0-9]*; do
		if tr '\0' ' ' 2>/dev/null <"$dir/cmdline" | grep -q "[-]address /run/trysail/$id/"; then echo "${dir#/proc/}"; fi
	done
}

# Shims first: they would report the end of containers to nobody.
for pid in $(shims); do kill -KILL "$pid" 2>/dev/null || true; done
for procs in $(find /sys/fs/cgroup -path "*/trysail/$id/*" -name cgroup.procs 2>/dev/null); do
	for pid in $(cat "$procs" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null || true; done
done

# Containers' mounts, the innermost first.
mounts() { cut -d ' ' -f 5 /proc/self/mountinfo | grep -E "^(/run/trysail|$data)/" | sort -r || true; }
for dir in $(mounts); do umount -l "$dir" || true; done
if [ -n "$(mounts)" ]; then
	echo "trysail: these mounts cannot be undone, so nothing is deleted:" $(mounts) >&2
	exit 1
fi

# The kernel takes a moment to end processes; until then their cgroups stay.
for _ in 1 2 3 4 5 6 7 8 9 10; do
	left=
	for dir in $(find /sys/fs/cgroup -depth -type d -path "*/trysail/$id*" 2>/dev/null); do rmdir "$dir" 2>/dev/null || left=yes; done
	[ -n "$left" ] || break
	sleep 1
done
find /sys/fs/cgroup -depth -type d -name trysail -exec rmdir {} + 2>/dev/null || true

# The network of the pods. Without these programs it goes with the next boot.
bridge=trysail$(echo "$id" | cut -c 1-6)
if command -v ip >/dev/null; then ip link delete "$bridge" 2>/dev/null || true; fi
if command -v nft >/dev/null; then nft delete table inet "trysail-$id" 2>/dev/null || true; fi

rm -rf /run/trysail
# The data may be a file system of its own.
if [ -d "$data" ]; then find "$data" -mindepth 1 -delete; fi
if [ -d "$data" ]; then rmdir "$data" 2>/dev/null || true; fi
