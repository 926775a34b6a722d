// Package docs is the test that holds docs/rfc.md to the code, both ways. It has
// no code of its own.
package docs
