package xdp

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Undone says what another process undid of a port's attachment since Attach:
// that the link was detached, so that the kernel has the packets of the interface,
// or that its pin was removed, so that it will have them when this process ends.
// A device that is gone has detached its link, too. A port that is not attached has
// nothing to undo.
func (s *Steering) Undone(port int) (detached, unpinned bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.attached[port]
	if a == nil {
		return false, false, nil
	}
	if detached, err = a.detached(); err != nil {
		return false, false, fmt.Errorf("%s: BPF_OBJ_GET_INFO_BY_FD: %w", s.config.Ports[port].NIC.Name, err)
	}
	return detached, a.path != "" && !exists(a.path), nil
}

// detached reports whether the link holds its program on no interface any more:
// the kernel then says ifindex 0 (bpf_xdp_link_fill_link_info in net/core/dev.c).
func (a *attachment) detached() (bool, error) {
	about, err := a.Info()
	if err != nil {
		return false, err
	}
	x := about.XDP()
	return x != nil && x.Ifindex == 0, nil
}

func exists(path string) bool {
	var st unix.Stat_t
	return !errors.Is(unix.Stat(path, &st), fs.ErrNotExist)
}
