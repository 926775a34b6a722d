// Package metrics is the gateway's metrics for Prometheus: the list of families,
// the collector that fills them, and the HTTP handler and listener.
//
// It owns the names, labels and help texts, which are never renamed, and the
// dashboard and alert rules in dashboards/, which tests hold to them. It counts
// nothing: a scrape asks a Source, which the daemon implements, so that what is
// not scraped costs nothing, and workers never meet this package.
//
// Names follow https://prometheus.io/docs/practices/naming/: the prefix sluice_,
// base units, _total for counters. Labels take few values: interfaces, queues,
// workers, external addresses, drop reasons; never flows or inside addresses.
//
// Concurrency: scrapes may overlap; each reads for itself. A Listener is safe for
// concurrent use.
package metrics
