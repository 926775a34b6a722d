// Package config reads the configuration file and finds every mistake in it at
// once, each with the line it stands on and what to do about it.
//
// It owns the types of the configuration, their defaults (Default), the strict
// reading of YAML (Parse, Load), the rules that hold between keys, the list of
// keys whose feature this version does not have, the example text, and the
// reading of an ip-masq-agent file. It never looks at the machine: whether an
// interface exists is found by who opens it.
//
// The struct tags are the one list of keys. The reader walks YAML nodes along
// the Go types by reflection, so that a key that is added to a struct is at once
// known to the reader, to the suggestions for misspelt keys and to the tests
// that hold the example to the defaults.
//
// Concurrency: everything returned is new and shared with nobody; a *Config is
// read-only once it is published.
package config
