package xdp

// The object and its Go declarations are committed, so that building needs no
// clang. Sources, these flags and what came of them are recorded as sums in
// steering.sha256, which a test compares with the files.

//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -no-global-types -type reason -output-stem steering steer steering/steering.c -- -O2 -mcpu=v3 -Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
//go:generate sh -c "sha256sum steering/* steering_generate.go steering_bpfel.go steering_bpfel.o > steering.sha256"
