// Package control is the control plane's door: HTTP/1.1 and JSON over a unix
// socket, and the typed client that the commands use.
//
// docs/api.md describes the endpoints, and a test holds it to Server.routes.
//
// Whoever can open the socket (mode 0660) may read; what changes the gateway
// asks for a peer that is root or runs as the daemon's user (SO_PEERCRED).
//
// The package owns the types that cross the socket (their JSON tags are the
// stable interface), the socket file, and who may do what. It owns no state of
// the gateway: it asks a Gateway, which the daemon implements.
//
// Concurrency: every request is served on its own goroutine, so a Gateway must
// be safe for concurrent use. A listing of flows or mappings is streamed: the server holds
// one buffer per listing whatever the number of flows, and stops when the client
// goes away.
package control
