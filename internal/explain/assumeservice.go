package explain

import (
	"sluice/conntrack"
	"sluice/dsr"
)

// AssumeServices adds the services of the file, whose packets leave with the
// addresses of interfaces that the file does not say. They count as held by the
// gateway alone.
func (g *Gateway) AssumeServices(table *dsr.Table, dispatch dsr.Dispatch) error {
	if len(table.All()) == 0 {
		return nil
	}
	x := g.Table.External(assumedAddress)
	if x == nil {
		x = conntrack.NewExternal(assumedAddress, nil)
		if err := g.Table.AddExternal(x); err != nil {
			return err
		}
	}
	b := &g.Snapshot.Balance
	b.Table, b.Dispatch = table, dispatch
	for i := range g.Config.Interfaces {
		b.Sources[i] = x
	}
	return nil
}
