package faults

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"sluice/internal/lab"
	"sluice/internal/packet"
)

const (
	// crowd is how many further addresses each client has.
	crowd = 30

	closedPort = 9 // nobody listens there: the answer is an ICMP error
)

// kind is the traffic of a churner: it makes one short flow. The error is why it
// went no further, which may well be a fault.
type kind func(c *churner) error

// churner makes flows from one host, each from an address and a port of its own,
// as fast as pause lets it.
type churner struct {
	host    *lab.Namespace
	sources []net.IP
	targets []net.IP
	pause   time.Duration
	random  *rand.Rand
	raw     net.PacketConn // for echo requests
}

// churn is traffic that goes on until it is stopped.
type churn struct {
	stop atomic.Bool
	done sync.WaitGroup
	made atomic.Int64 // flows that were begun
}

// start adds n churners to a host.
func (c *churn) start(r *rig, n int, host *lab.Namespace, k kind, sources, targets []net.IP, pause time.Duration, seed uint64) {
	for i := range n {
		from := &churner{host: host, sources: sources, targets: targets, pause: pause, random: rand.New(rand.NewPCG(seed, uint64(i)))}
		c.done.Go(func() {
			// A thread of its own, which stays in the host's namespace.
			if err := host.Do(func() error { return c.run(from, k) }); err != nil {
				r.whole.Error(err)
			}
		})
	}
}

func (c *churn) run(from *churner, k kind) (err error) {
	if from.raw, err = net.ListenPacket("ip4:icmp", "0.0.0.0"); err != nil {
		return err
	}
	defer from.raw.Close()
	for !c.stop.Load() {
		_ = k(from)
		c.made.Add(1)
		time.Sleep(from.pause)
	}
	return nil
}

// end stops the traffic, waits until all of it has stopped, and returns how many
// flows were begun.
func (c *churn) end() int64 {
	c.stop.Store(true)
	c.done.Wait()
	return c.made.Load()
}

func (c *churner) source() net.IP { return c.sources[c.random.IntN(len(c.sources))] }
func (c *churner) target() net.IP { return c.targets[c.random.IntN(len(c.targets))] }

// datagrams sends one to three datagrams by one socket, and sometimes waits for an
// answer.
func (c *churner) datagrams(port int) error {
	s, err := net.DialUDP("udp4", &net.UDPAddr{IP: c.source()}, &net.UDPAddr{IP: c.target(), Port: port})
	if err != nil {
		return err
	}
	defer s.Close()
	buf := make([]byte, 64)
	for range 1 + c.random.IntN(3) {
		if _, err := s.Write(buf[:8+c.random.IntN(56)]); err != nil {
			return err
		}
	}
	s.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	_, err = s.Read(buf)
	return err
}

// answered is datagrams to a server that answers.
func answered(c *churner) error { return c.datagrams(echoPort) }

// connection opens a TCP connection, says something, and leaves it in one of the
// ways that there are.
func connection(c *churner) error {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: c.source()}, Timeout: 300 * time.Millisecond}
	conn, err := d.Dial("tcp4", (&net.TCPAddr{IP: c.target(), Port: echoPort}).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	s := conn.(*net.TCPConn)
	s.SetDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := s.Write([]byte("and so on")); err != nil {
		return err
	}
	buf := make([]byte, 64)
	if _, err := s.Read(buf); err != nil {
		return err
	}
	switch c.random.IntN(3) {
	case 0:
		return s.SetLinger(0) // closes with a reset
	case 1:
		return s.CloseWrite()
	}
	return nil
}

// query sends an echo request under an identifier of its own.
func query(c *churner) error {
	b := make([]byte, 16)
	b[0] = 8 // echo request
	binary.BigEndian.PutUint16(b[4:], uint16(c.random.Uint32()))
	binary.BigEndian.PutUint16(b[2:], packet.Checksum(b))
	_, err := c.raw.WriteTo(b, &net.IPAddr{IP: c.target()})
	return err
}

// mixed is a little of everything.
func mixed(c *churner) error {
	switch n := c.random.IntN(10); {
	case n < 5:
		return answered(c)
	case n < 7:
		return c.datagrams(closedPort)
	case n < 9:
		return connection(c)
	}
	return query(c)
}

// addCrowd gives both clients more addresses, and returns those of each.
func (r *rig) addCrowd() (one, two []net.IP) {
	r.Helper()
	one, two = []net.IP{net.ParseIP(lab.Client1Address)}, []net.IP{net.ParseIP(lab.Client2Address)}
	for i := range crowd {
		a, b := net.IPv4(10, 20, 30, byte(100+i)), net.IPv4(10, 20, 30, byte(200+i))
		r.must(r.top.Client1.AddAddress(lab.HostNIC, a.String()+"/24"))
		r.must(r.top.Client2.AddAddress(lab.HostNIC, b.String()+"/24"))
		one, two = append(one, a), append(two, b)
	}
	return one, two
}
