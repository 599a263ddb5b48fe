#!/bin/sh
# Before removing (deb: "remove", rpm: 0). On an upgrade the service goes on until the new version restarts it.
set -e
case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	if systemctl is-enabled --quiet trysail.service && [ -d /var/lib/trysail ]; then
		: >/var/lib/trysail/.removed # so that installing it again starts it again
	fi
	systemctl disable --now trysail.service || true
fi
cat >&2 <<'END'
Containers that trysail has started run on, and /var/lib/trysail stays. Install it again to manage them;
purge the package (apt-get purge trysail, or /usr/lib/trysail/purge.sh before rpm -e) to end them and to delete all data.
END
