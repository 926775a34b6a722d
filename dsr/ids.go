package dsr

import "fmt"

// ServiceID numbers a service of one protocol, BackendID a backend of one. 0 is
// none. A flow keeps them for its life, so what they mean never changes while a
// process lives: they are given out by name and by address, and not used again.
type (
	ServiceID uint16
	BackendID uint32
)

// Ids gives out numbers.
type Ids struct {
	services map[serviceName]ServiceID
	backends map[backendName]BackendID
}

type serviceName struct {
	name  string
	proto uint8
}

type backendName struct {
	service ServiceID
	address uint32
	port    uint16
}

// NewIds has given out none.
func NewIds() *Ids {
	return &Ids{services: map[serviceName]ServiceID{}, backends: map[backendName]BackendID{}}
}

func (i *Ids) service(name string, proto uint8) (ServiceID, error) {
	key := serviceName{name, proto}
	id, ok := i.services[key]
	if !ok {
		if len(i.services) == 1<<16-1 {
			return 0, fmt.Errorf("service %q: 65535 services have had a number since the start; restart to begin anew", name)
		}
		id = ServiceID(len(i.services) + 1)
		i.services[key] = id
	}
	return id, nil
}

func (i *Ids) backend(service ServiceID, address uint32, port uint16) BackendID {
	key := backendName{service, address, port}
	id, ok := i.backends[key]
	if !ok {
		id = BackendID(len(i.backends) + 1)
		i.backends[key] = id
	}
	return id
}

// Backends is the highest number of a backend.
func (i *Ids) Backends() int { return len(i.backends) }
