/*
 * The hot work of a NAT in C, with as little as it can be done with: the measure
 * for the same work in Go.
 *
 * For each packet: Ethernet and IPv4 header checked (checksum too), UDP header
 * checked, five-tuple hashed and found, addresses and ports rewritten, TTL taken
 * down, both checksums updated by a difference worked out beforehand, MAC
 * addresses set, packet, bytes and time counted.
 *
 * The table is the cheapest known: buckets of one cache line with eight 16-bit
 * tags compared at once, leading to a session that is one line for each
 * direction. Bursts of 64 go through three stages, each of which prefetches for
 * the next. One thread; nothing expires, nothing is removed.
 *
 * Standard input: struct header, flows, packets; then commands, one a line:
 *     verify N      process N packets, print a digest of all frames that left
 *     run NS        process for NS of timed work, print packets, ns, delay in ns
 * Times are of the work alone; frames are written between groups, untimed, as a
 * kernel in copy mode writes them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum {
	BURST = 64,
	GROUP = 256,
	STRIDE = 2048,
	HEADROOM = 256,
	FRAME = 60,
	L3 = 14,
	L4 = 34,
	UDP_LENGTH = 26,
	TOTAL_LENGTH = 46,
	NOW = 1000,
};

struct header {
	uint64_t magic, flows, packets;
	int64_t cpu; /* to run on; negative = any */
	uint8_t mac[4][6]; /* the gateway's inside and outside, then those of the next hops outside and inside */
	uint8_t frame[FRAME + 4]; /* what all frames share; checksum fields hold its share of the sums, not complemented */
};

struct flow {
	uint32_t src, dst, external;
	uint16_t sport, dport, eport, pad;
};

struct vector {
	uint32_t src, dst;
	uint16_t sport, dport;
};

struct key {
	uint64_t a, b;
};

struct session {
	struct key key;
	uint32_t src, dst; /* in network byte order, ready to be stored */
	uint16_t sport, dport;
	uint16_t l3, l4; /* what the rewrite does to the two checksums */
	uint32_t seen, pad;
	uint64_t packets, bytes;
} __attribute__((aligned(64)));

struct bucket {
	uint16_t tag[8]; /* 0 = empty */
	uint32_t id[8];
	uint32_t overflow, pad[3];
} __attribute__((aligned(64)));

struct parsed {
	struct key key;
	uint64_t hash;
	uint32_t bucket, id;
	uint8_t *frame;
};

static struct header head;
static struct vector *vectors;
static struct session *sessions;
static struct bucket *buckets;
static uint32_t nbuckets;
static uint8_t *frames;
static uint64_t at; /* the next packet */
static uint64_t refused;

static void die(const char *what)
{
	fprintf(stderr, "twin: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *map(size_t n)
{
	const size_t huge = 2 << 20;
	n = (n + huge - 1) & ~(huge - 1);
	uint8_t *p = mmap(NULL, n + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		die("mmap");
	p += -(uintptr_t)p & (huge - 1);
	madvise(p, n, MADV_HUGEPAGE);
	memset(p, 0, n);
	return p;
}

static inline uint16_t get16(const uint8_t *p)
{
	uint16_t v;
	memcpy(&v, p, 2);
	return __builtin_bswap16(v);
}

static inline uint32_t get32(const uint8_t *p)
{
	uint32_t v;
	memcpy(&v, p, 4);
	return __builtin_bswap32(v);
}

static inline void put16(uint8_t *p, uint16_t v)
{
	v = __builtin_bswap16(v);
	memcpy(p, &v, 2);
}

static inline void put32(uint8_t *p, uint32_t v)
{
	v = __builtin_bswap32(v);
	memcpy(p, &v, 4);
}

static inline uint16_t fold(uint32_t s)
{
	s = (s >> 16) + (s & 0xffff);
	return s + (s >> 16);
}

static inline uint64_t mix(uint64_t a, uint64_t b)
{
	unsigned __int128 m = (unsigned __int128)a * b;
	return (uint64_t)(m >> 64) ^ (uint64_t)m;
}

static inline uint64_t hash(struct key k)
{
	return mix(0xe7037ed1a0b428db ^ 16, mix(k.a ^ 0xa0761d6478bd642f, k.b ^ 0x9e3779b97f4a7c15));
}

static inline struct key key_of(uint32_t src, uint32_t dst, uint16_t sport, uint16_t dport)
{
	return (struct key){ (uint64_t)src << 32 | dst, (uint64_t)sport << 32 | (uint32_t)dport << 16 | 17 };
}

static inline uint16_t tag_of(uint64_t h)
{
	return (uint16_t)h | 1;
}

static inline uint32_t bucket_of(uint64_t h)
{
	return (uint32_t)(((unsigned __int128)h * nbuckets) >> 64);
}

/* match is a bit for each slot of b with the tag. */
static inline unsigned match(const struct bucket *b, uint16_t tag)
{
#ifdef __SSE2__
	__m128i eq = _mm_cmpeq_epi16(_mm_load_si128((const __m128i *)b->tag), _mm_set1_epi16((short)tag));
	return (unsigned)_mm_movemask_epi8(_mm_packs_epi16(eq, _mm_setzero_si128()));
#else
	unsigned m = 0;
	for (int i = 0; i < 8; i++)
		m |= (unsigned)(b->tag[i] == tag) << i;
	return m;
#endif
}

static void insert(struct key k, uint32_t id)
{
	uint64_t h = hash(k);
	for (uint32_t at = bucket_of(h);; at = at + 1 == nbuckets ? 0 : at + 1) {
		struct bucket *b = &buckets[at];
		for (int i = 0; i < 8; i++) {
			if (b->tag[i] == 0) {
				b->tag[i] = tag_of(h);
				b->id[i] = id;
				return;
			}
		}
		b->overflow = 1;
	}
}

/* find is the look-up of whatever the staged one did not settle; 0 = none. */
static uint32_t find(struct key k, uint64_t h)
{
	for (uint32_t at = bucket_of(h);; at = at + 1 == nbuckets ? 0 : at + 1) {
		struct bucket *b = &buckets[at];
		for (unsigned m = match(b, tag_of(h)); m; m &= m - 1) {
			uint32_t id = b->id[__builtin_ctz(m)];
			if (sessions[id].key.a == k.a && sessions[id].key.b == k.b)
				return id;
		}
		if (!b->overflow)
			return 0;
	}
}

static uint16_t change32(uint32_t old, uint32_t new)
{
	return fold((uint32_t)fold((~old >> 16) + (~old & 0xffff)) + fold((new >> 16) + (new & 0xffff)));
}

static void session(uint32_t id, uint32_t src, uint32_t dst, uint16_t sport, uint16_t dport,
		    uint32_t tsrc, uint32_t tdst, uint16_t tsport, uint16_t tdport)
{
	struct session *s = &sessions[id];
	s->key = key_of(src, dst, sport, dport);
	s->src = __builtin_bswap32(tsrc);
	s->dst = __builtin_bswap32(tdst);
	s->sport = __builtin_bswap16(tsport);
	s->dport = __builtin_bswap16(tdport);
	uint32_t addresses = change32(src, tsrc) + change32(dst, tdst);
	s->l3 = fold(addresses + 0xfeff); /* the TTL goes down by one */
	s->l4 = fold(addresses + (uint16_t)~sport + tsport + (uint16_t)~dport + tdport);
	insert(s->key, id);
}

/* write_frame makes packet i of the traffic at p, as bench/traffic.go does. */
static inline void write_frame(uint8_t *p, uint64_t i)
{
	const struct vector *v = &vectors[i & (head.packets - 1)];
	memcpy(p, head.frame, FRAME);
	memcpy(p, head.mac[(i / BURST) & 1], 6);
	uint32_t addresses = (v->src >> 16) + (v->src & 0xffff) + (v->dst >> 16) + (v->dst & 0xffff);
	put32(p + L3 + 12, v->src);
	put32(p + L3 + 16, v->dst);
	put16(p + L3 + 10, ~fold(get16(head.frame + L3 + 10) + addresses));
	put16(p + L4, v->sport);
	put16(p + L4 + 2, v->dport);
	uint16_t sum = ~fold(get16(head.frame + L4 + 6) + addresses + v->sport + v->dport);
	put16(p + L4 + 6, sum ? sum : 0xffff);
}

static inline int parse(uint8_t *f, struct parsed *p)
{
	const uint8_t *h = f + L3;
	if (get16(f + 12) != 0x0800 || h[0] != 0x45)
		return 0;
	unsigned total = get16(h + 2);
	if (total < 28 || total > FRAME - L3)
		return 0;
	uint32_t w[5];
	memcpy(w, h, 20);
	uint64_t sum = (uint64_t)w[0] + w[1] + w[2] + w[3] + w[4];
	sum = (sum >> 32) + (sum & 0xffffffff);
	sum = (sum >> 32) + (sum & 0xffffffff);
	if (fold((uint32_t)sum) != 0xffff)
		return 0;
	if ((get16(h + 6) & 0x3fff) || h[8] <= 1 || h[9] != 17)
		return 0;
	const uint8_t *u = h + 20;
	unsigned length = get16(u + 4);
	if (length < 8 || length > total - 20)
		return 0;
	p->key = key_of(get32(h + 12), get32(h + 16), get16(u), get16(u + 2));
	p->hash = hash(p->key);
	p->bucket = bucket_of(p->hash);
	p->frame = f;
	__builtin_prefetch(&buckets[p->bucket]);
	return 1;
}

static inline void rewrite(uint8_t *f, struct session *s, int direction)
{
	uint8_t *h = f + L3, *u = f + L4;
	memcpy(h + 12, &s->src, 4);
	memcpy(h + 16, &s->dst, 4);
	h[8]--;
	put16(h + 10, ~fold((uint16_t)~get16(h + 10) + s->l3));
	memcpy(u, &s->sport, 2);
	memcpy(u + 2, &s->dport, 2);
	uint16_t sum = get16(u + 6);
	if (sum != 0) {
		sum = ~fold((uint16_t)~sum + s->l4);
		put16(u + 6, sum ? sum : 0xffff);
	}
	memcpy(f, head.mac[2 + direction], 6);
	memcpy(f + 6, head.mac[!direction], 6);
	s->seen = NOW;
	s->packets++;
	s->bytes += get16(h + 2);
}

static void burst(uint8_t *first, int direction)
{
	struct parsed p[BURST];
	int n = 0;
	for (int i = 0; i < BURST; i++)
		n += parse(first + i * STRIDE, &p[n]);
	for (int i = 0; i < n; i++) {
		const struct bucket *b = &buckets[p[i].bucket];
		unsigned m = match(b, tag_of(p[i].hash));
		p[i].id = m ? b->id[__builtin_ctz(m)] : 0; /* session 0 matches nothing */
		__builtin_prefetch(&sessions[p[i].id], 1);
	}
	for (int i = 0; i < n; i++) {
		struct session *s = &sessions[p[i].id];
		if (s->key.a != p[i].key.a || s->key.b != p[i].key.b) {
			uint32_t id = find(p[i].key, p[i].hash);
			if (id == 0) {
				refused++;
				continue;
			}
			s = &sessions[id];
		}
		rewrite(p[i].frame, s, direction);
	}
	refused += BURST - n;
}

static inline uint8_t *frame_at(int i)
{
	return frames + i * STRIDE + HEADROOM;
}

/* group processes the next GROUP packets and returns how long that took. */
static uint64_t group(void)
{
	struct timespec t0, t1;
	for (int i = 0; i < GROUP; i++)
		write_frame(frame_at(i), at + i);
	clock_gettime(CLOCK_MONOTONIC, &t0);
	for (int i = 0; i < GROUP; i += BURST)
		burst(frame_at(i), (i / BURST) & 1);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	at += GROUP;
	return (t1.tv_sec - t0.tv_sec) * 1000000000ull + t1.tv_nsec - t0.tv_nsec;
}

/* delay is how long this thread has waited for a CPU so far. */
static uint64_t delay(void)
{
	unsigned long long ran, waited = 0;
	FILE *f = fopen("/proc/self/schedstat", "r");
	if (!f)
		return 0;
	if (fscanf(f, "%llu %llu", &ran, &waited) != 2)
		waited = 0;
	fclose(f);
	return waited;
}

static void verify(uint64_t n)
{
	uint64_t digest = 0xcbf29ce484222325;
	at = 0;
	while (at < n) {
		group();
		for (int i = 0; i < GROUP; i++)
			for (int j = 0; j < FRAME; j++)
				digest = (digest ^ frame_at(i)[j]) * 0x100000001b3; /* FNV-1a */
	}
	printf("%016llx %llu\n", (unsigned long long)digest, (unsigned long long)refused);
}

static void run(uint64_t budget)
{
	uint64_t packets = 0, ns = 0, waited = delay();
	while (ns < budget) {
		ns += group();
		packets += GROUP;
	}
	printf("%llu %llu %llu\n", (unsigned long long)packets, (unsigned long long)ns,
	       (unsigned long long)(delay() - waited));
}

static void load(void)
{
	struct flow f;
	if (fread(&head, sizeof head, 1, stdin) != 1 || head.magic != 0x6e697774 || (head.packets & (head.packets - 1)))
		die("header");
	if (head.cpu >= 0) {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET(head.cpu, &set);
		if (sched_setaffinity(0, sizeof set, &set))
			die("sched_setaffinity");
	}
	/* Mean load is four of the eight slots at most. */
	for (nbuckets = 64; nbuckets < head.flows / 2; nbuckets *= 2)
		;
	buckets = map(nbuckets * sizeof *buckets);
	sessions = map((2 * head.flows + 2) * sizeof *sessions);
	frames = map(GROUP * STRIDE);
	vectors = map(head.packets * sizeof *vectors);
	for (uint32_t i = 0; i < head.flows; i++) {
		if (fread(&f, sizeof f, 1, stdin) != 1)
			die("flows");
		session(2 * i + 2, f.src, f.dst, f.sport, f.dport, f.external, f.dst, f.eport, f.dport);
		session(2 * i + 3, f.dst, f.external, f.dport, f.eport, f.dst, f.src, f.dport, f.sport);
	}
	if (fread(vectors, sizeof *vectors, head.packets, stdin) != head.packets)
		die("packets");
}

int main(void)
{
	char line[64];
	unsigned long long n;
	setvbuf(stdout, NULL, _IOLBF, 0);
	load();
	printf("ready\n");
	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "verify %llu", &n) == 1)
			verify(n);
		else if (sscanf(line, "run %llu", &n) == 1)
			run(n);
		else
			die(line);
	}
	return 0;
}
