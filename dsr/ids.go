package dsr

import "fmt"

// ServiceID numbers a service of one protocol, BackendID a backend of one. 0 is
// none. A flow keeps them for its life, so what they mean does not change as long
// as any flow has them: they are given out by name and by address, and to another
// one only after Collect has found that nothing uses them.
type (
	ServiceID uint16
	BackendID uint32
)

// Ids gives out numbers.
type Ids struct {
	services map[serviceName]ServiceID
	backends map[backendName]BackendID

	// Given back, and the highest that were ever given out.
	freeServices []ServiceID
	freeBackends []BackendID
	topService   ServiceID
	topBackend   BackendID
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
	switch {
	case ok:
		return id, nil
	case len(i.freeServices) > 0:
		id, i.freeServices = pop(i.freeServices)
	case i.topService == 1<<16-1:
		return 0, fmt.Errorf("service %q: flows of 65535 services that were there before go on; end them with `sluice flows flush`, or restart", name)
	default:
		i.topService++
		id = i.topService
	}
	i.services[key] = id
	return id, nil
}

func (i *Ids) backend(service ServiceID, address uint32, port uint16) BackendID {
	key := backendName{service, address, port}
	id, ok := i.backends[key]
	switch {
	case ok:
		return id
	case len(i.freeBackends) > 0:
		id, i.freeBackends = pop(i.freeBackends)
	default:
		i.topBackend++
		id = i.topBackend
	}
	i.backends[key] = id
	return id
}

func pop[T any](list []T) (T, []T) { return list[len(list)-1], list[:len(list)-1] }

// Backends is the highest number of a backend.
func (i *Ids) Backends() int { return int(i.topBackend) }

// collectAt is how many numbers nobody has in the configuration before they are
// worth a walk through all flows.
const collectAt = 256

// Crowded reports whether so many numbers mean nothing in table t that Collect is
// worth its while.
func (i *Ids) Crowded(t *Table) bool {
	services, backends := 0, 0
	for _, s := range t.All() {
		services++
		backends += len(s.Backends)
	}
	return len(i.services) > 2*services+collectAt || len(i.backends) > 2*backends+collectAt
}

// Collect takes back the numbers of services and backends that table t, the one in
// force, does not have and no flow, and returns the backends' among them. Every
// worker must use t: what begins with older tables would not be among the flows.
// affinity, which may be nil, forgets the clients of the services.
func (i *Ids) Collect(t *Table, services map[ServiceID]bool, backends map[BackendID]bool, affinity *Affinity) (freed []BackendID) {
	for name, id := range i.backends {
		if t.Backend(id) == nil && !backends[id] {
			delete(i.backends, name)
			freed = append(freed, id)
		}
	}
	gone := map[ServiceID]bool{}
	for name, id := range i.services {
		if t.Service(id) == nil && !services[id] {
			delete(i.services, name)
			i.freeServices = append(i.freeServices, id)
			gone[id] = true
		}
	}
	i.freeBackends = append(i.freeBackends, freed...)
	if affinity != nil && len(gone) > 0 {
		affinity.forget(func(id ServiceID) bool { return gone[id] })
	}
	return freed
}
