#!/bin/sh
set -e
case "$1" in
remove | purge | 0)
	rm -rf /run/sluice /dev/shm/sluice
	[ ! -d /run/systemd/system ] || systemctl daemon-reload || true
	;;
esac
if [ "$1" = purge ]; then
	rm -rf /etc/sluice
fi
