package daemon

import (
	"fmt"
	"net"
	"os"
)

// notify tells systemd about the state of the service (sd_notify(3)): READY=1,
// RELOADING=1, STOPPING=1, WATCHDOG=1, STATUS=…. Without NOTIFY_SOCKET it does nothing. An
// abstract socket is written with a leading @.
func notify(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("NOTIFY_SOCKET %s: %w; start Sluice as a Type=notify service or unset the variable", name, err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("NOTIFY_SOCKET %s: %w", name, err)
	}
	return nil
}
