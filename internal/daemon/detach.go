package daemon

import (
	"errors"
	"net"

	"sluice/internal/agent"
	"sluice/xdp"
)

// DetachAgent takes the DSR agent's programs, flows and pins out of this network
// namespace, and says whether there were any.
func DetachAgent() (bool, error) { return agent.Detach() }

// Detach takes the steering program and its pins off the named interfaces of
// this network namespace, off all that have it where all is true, whether a
// daemon runs or not. It returns the names of those that had it. An interface
// that is gone has taken its program with it; nothing attached is no error.
func Detach(all bool, interfaces []string) ([]string, error) {
	if all {
		return xdp.DetachPinned(0)
	}
	var names []string
	var errs []error
	for _, name := range interfaces {
		link, err := net.InterfaceByName(name)
		if err != nil {
			continue
		}
		got, err := xdp.DetachPinned(link.Index)
		names, errs = append(names, got...), append(errs, err)
	}
	return names, errors.Join(errs...)
}
