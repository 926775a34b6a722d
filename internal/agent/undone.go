package agent

import "slices"

// takenOff names the interfaces whose programs another process detached, which
// `sluice detach` does: the link then says ifindex 0 (tcx_link_fill_info in
// kernel/bpf/tcx.c). Those of devices that are gone are not among the attached any
// more. Filters of clsact have no link to ask.
func (a *Agent) takenOff() (names []string) {
	for h, at := range a.attached {
		if at.link == nil {
			continue
		}
		about, err := at.link.Info()
		if err != nil {
			continue
		}
		if x := about.TCX(); x != nil && x.Ifindex == 0 {
			names = append(names, a.nameOf(h.ifindex))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
