// Package arrows holds no code, only the test that keeps the packages of this
// module apart: who may import whom, which packages stay free of sockets, files
// and clocks, and where unsafe and x/sys may appear.
package arrows
