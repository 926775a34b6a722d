// Package netlinkrequest opens the sockets by which mirrors of the kernel ask it
// questions. It owns nothing: sockets are their caller's, to use from one goroutine
// at a time and to close. What is asked, and events, are the callers'.
//
// After net/netlink/af_netlink.c.
package netlinkrequest

import (
	"errors"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
)

// Open opens a socket for requests of a netlink protocol (NETLINK_ROUTE, …) in the
// current namespace. A kernel that does not answer is given up after the
// library's time-out.
func Open(protocol int) (*nl.SocketHandle, error) {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), protocol)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.SetSendTimeout(&nl.SocketTimeoutTv), s.SetReceiveTimeout(&nl.SocketTimeoutTv)); err != nil {
		s.Close()
		return nil, err
	}
	return &nl.SocketHandle{Socket: s}, nil
}
