#!/bin/sh
# After removing (deb: "remove", "purge" and others, rpm: the number of versions that are left).
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
[ "$1" = purge ] || exit 0
