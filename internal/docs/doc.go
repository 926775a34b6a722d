// Package docs is the test that holds documents to the program: docs/rfc.md to
// code, tests and citations, both ways, docs/words.md to the words that the
// packages print, and links to what they point at. It has no code of its own.
//
// The reference of the configuration is held by internal/config, and the command
// lines that documents show by cmd/sluice: they need what those do not export.
package docs
