#!/bin/sh
# $1 is remove or deconfigure (deb), 0 (rpm) when the package goes, and upgrade or
# 1 when another version comes: then the service goes on, and so do its flows.
set -e
case "$1" in
remove | deconfigure | 0)
	if [ -d /run/systemd/system ]; then
		systemctl --no-reload disable --now sluice.service >/dev/null 2>&1 || true
	fi
	# The steering program would go on dropping what no worker takes.
	/usr/bin/sluice detach >/dev/null 2>&1 || true
	;;
esac
