#!/bin/sh
# After unpacking: configure (deb: "configure", rpm: the number of installed versions).
set -e
# Without a running systemd (a container, a chroot) there is nothing to start; an administrator starts trysail serve.
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
case "$1" in
configure)
	# deb: $2 is the version before, also when the package has been removed since; empty on a first installation.
	first=$([ -z "$2" ] && echo yes || echo no) ;;
1) first=yes ;;
*) first=no ;;
esac
removed=/var/lib/trysail/.removed # the trace of preremove.sh
if [ "$first" = yes ] || [ -e "$removed" ]; then
	rm -f "$removed"
	systemctl enable --now trysail.service ||
		echo "trysail is installed, but does not start yet. See: trysail doctor; journalctl -u trysail" >&2
else
	# Containers are no part of this: they run on, and the new server takes them over. systemd holds the sockets meanwhile.
	systemctl try-restart trysail.service ||
		echo "trysail did not start again. See: journalctl -u trysail" >&2
fi
