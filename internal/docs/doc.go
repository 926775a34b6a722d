// Package docs is the test that holds documents to the program: docs/rfc.md to
// code, tests and citations, both ways, docs/words.md to the words that the
// packages print, and links, files and targets of make to what is there. It has no
// code of its own.
//
// The reference of the configuration and the keys that documents name are held by
// internal/config, command lines and what they print by cmd/sluice, and metrics by
// internal/metrics: they need what those do not export.
package docs
