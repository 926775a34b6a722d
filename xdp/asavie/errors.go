package asavie

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"sluice/xdp"
)

// causes are what opening a socket can fail with, and what to do about it.
var causes = []struct {
	errno  unix.Errno
	remedy string
}{
	{unix.EBUSY, "another socket holds the queue: stop the process that `ss --xdp -ap` shows for it"},
	{unix.EPERM, "CAP_NET_RAW or CAP_IPC_LOCK is missing: run as root or grant them (systemd: AmbientCapabilities=)"},
	{unix.ENOBUFS, "the UMEM exceeds RLIMIT_MEMLOCK: grant CAP_IPC_LOCK or raise the limit (systemd: LimitMEMLOCK=infinity)"},
	{unix.ENOMEM, "free memory: the driver asavie needs a UMEM for every queue"},
	{unix.EOPNOTSUPP, "the NIC's driver has no zero-copy: use mode auto or copy"},
	{unix.EINVAL, "the interface has no such queue, or its driver refuses the mode: see `ethtool -l NAME`"},
	{unix.ENODEV, "the interface is gone"},
	{unix.ENETDOWN, "the interface is down: ip link set NAME up"},
	{unix.EMFILE, "too many open files: raise RLIMIT_NOFILE (systemd: LimitNOFILE=)"},
}

// openError wraps an error of the library's NewSocket. The library formats its
// cause with %v, so that only the words are left to tell it by.
func openError(nic *xdp.NIC, queue int, err error) *xdp.SetupError {
	e := &xdp.SetupError{Interface: nic.Name, Queue: queue, Call: "driver asavie", Err: err}
	for _, c := range causes {
		if before, ok := strings.CutSuffix(err.Error(), ": "+c.errno.Error()); ok {
			e.Err = fmt.Errorf("%s: %w", before, c.errno)
			e.Remedy = strings.ReplaceAll(c.remedy, "NAME", nic.Name)
			break
		}
	}
	return e
}
