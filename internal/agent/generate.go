package agent

// The object and its Go declarations are committed, so that building needs no
// clang. Sources, these flags and what came of them are recorded as sums in
// agent.sha256, which a test compares with the files.

//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -no-global-types -type event -type flow_key -type flow -type gateway -type service -output-stem agent programs bpf/agent.c -- -O2 -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
//go:generate sh -c "sha256sum bpf/* generate.go agent_bpfel.go agent_bpfel.o > agent.sha256"
