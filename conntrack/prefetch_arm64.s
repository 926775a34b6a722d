//go:build !purego

#include "textflag.h"

// func prefetchLines(p *unsafe.Pointer, n int)
TEXT ·prefetchLines(SB), NOSPLIT, $0-16
	MOVD p+0(FP), R0
	MOVD n+8(FP), R1
	B    test

next:
	MOVD.P 8(R0), R2
	PRFM   (R2), PLDL1KEEP
	SUB    $1, R1

test:
	CMP $0, R1
	BGT next
	RET

// func prefetchPairs(p *unsafe.Pointer, n int)
TEXT ·prefetchPairs(SB), NOSPLIT, $0-16
	MOVD p+0(FP), R0
	MOVD n+8(FP), R1
	B    test

next:
	MOVD.P 8(R0), R2
	PRFM   (R2), PLDL1KEEP
	PRFM   64(R2), PLDL1KEEP
	SUB    $1, R1

test:
	CMP $0, R1
	BGT next
	RET
