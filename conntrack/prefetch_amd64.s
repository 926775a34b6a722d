//go:build !purego

#include "textflag.h"

// func prefetchLines(p *unsafe.Pointer, n int)
TEXT ·prefetchLines(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), SI
	MOVQ n+8(FP), CX
	JMP  test

next:
	MOVQ       (SI), AX
	PREFETCHT0 (AX)
	ADDQ       $8, SI
	DECQ       CX

test:
	TESTQ CX, CX
	JG    next
	RET

// func prefetchPairs(p *unsafe.Pointer, n int)
TEXT ·prefetchPairs(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), SI
	MOVQ n+8(FP), CX
	JMP  test

next:
	MOVQ       (SI), AX
	PREFETCHT0 (AX)
	PREFETCHT0 64(AX)
	ADDQ       $8, SI
	DECQ       CX

test:
	TESTQ CX, CX
	JG    next
	RET
