package demo

import (
	"strings"
	"testing"
)

// TestDemoAsavie tells the whole story over the driver asavie.
func TestDemoAsavie(t *testing.T) {
	for _, queues := range []string{"1", "2"} {
		c := startLab(t, "demo", "--driver", "asavie", "--queues", queues)
		err := c.wait()
		t.Logf("\n%s%s", c.text.Bytes(), c.errs.Bytes())
		if err != nil {
			t.Errorf("%s queues: %v", queues, err)
		}
		if left := c.namespaces(t); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

// TestUnknownDriver: the configuration says what the option asks for.
func TestUnknownDriver(t *testing.T) {
	c := startLab(t, "demo", "--driver", "dpdk")
	if err := c.wait(); err == nil || !strings.Contains(c.errs.String(), "driver: ") {
		t.Errorf("%v: %s", err, c.errs.Bytes())
	}
}
