// Package packaging has what an installed Sluice consists of besides the program:
// the systemd unit, the contents and scripts of deb and rpm, the tarball; and the
// tests that install it, run it under a real systemd and remove it again.
//
//	sluice.service   the unit, with the least capabilities that suffice
//	nfpm.yaml        what the packages hold; nfpm.mod pins the tool that makes them
//	build.sh         one architecture's tarball, deb and rpm, reproducible
//	licences         the program that collects the licences of what is linked in
//	*install.sh, *remove.sh   the packages' scripts
package packaging
