#!/bin/sh
# Before removing (deb: "remove", rpm: 0). On an upgrade the service goes on until the new version restarts it.
set -e
case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl disable --now trysail.service || true
fi
echo "Containers that trysail has started run on, and /var/lib/trysail stays. Install it again to manage them." >&2
