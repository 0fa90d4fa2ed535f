// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * flannel's udp format at kernel speed: tc programs that wrap and unwrap packets without waking any process.
 *
 *        pod ──▶ IP stack ──▶ flannel0 ─egress─▶ [overlay_encap] ──▶ neighbour ──▶ NIC
 *                               │ no peer, TTL over, too big …                      │
 *                               ▼                                                   ▼
 *                          TUN's reader (slow path: answers with ICMP)      outer IP │ UDP │ inner IP packet
 *                               ▲                                                   │
 *                               │ fragments, options …                              ▼
 *        pod ◀── IP stack ◀── flannel0 ◀─ingress─ [overlay_decap] ◀─ingress─ underlay
 *                               ▲                        │ │ a train that the underlay's GRO has joined
 *                               ├── [overlay_fou] ◀─ FOU ◀─┘ (the kernel's own socket on the port, see left_to_fou)
 *                               ▲                        │ TCP
 *                               └─ [overlay_gro] ◀─ GRO ◀┘ (a veth pair; its way back, through a device without
 *                                                            offloads, ends at overlay_finish)
 *
 * The wire: an IPv4 header (20 bytes), a UDP header (8 bytes, checksum 0), and then exactly one inner IPv4 packet.
 *
 * Three rules shape the code:
 *
 * 1. A packet is either carried as a whole or not touched at all: all checks come before the first change, so what is
 *    handed to the slow path is what the slow path would have seen without us.
 * 2. Nothing enters that a peer did not send. What fails that test is dropped here, so that a flood of forgeries never
 *    wakes a process; only what comes from a peer's address can reach the slow path (and IP fragments, which nobody can
 *    judge before they are put together).
 * 3. "Not ours" is TC_ACT_UNSPEC: the next filter on the same hook, whoever put it there, gets its turn.
 *
 * Compiled once when the package is built; no BTF of the running kernel is needed, for all types used here are the
 * kernel's stable user-space interface (linux/bpf.h). Needs Linux 5.10 (bpf_redirect_neigh with a next hop).
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define NEXT_FILTER TC_ACT_UNSPEC
#define AF_INET 2
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_FRAG_NEEDED 4
#define ICMP_ECHO 8
#define IP_DF 0x4000
#define IP_MORE_OR_OFFSET 0x3fff /* either bit set: a fragment */
#define IP_OFFSET 0x1fff
#define OUTER_TTL 64		 /* the default of a Linux socket, so flanneld's too */
#define FLOW_PORTS 0xc000		 /* IANA's dynamic ports, 49152 to 65535 (RFC 6335); no socket sends from them */
#define DSCP 0xfc     /* of the type-of-service byte; the other two bits are ECN's (RFC 3168, 5) */
#define COPY_DSCP 1   /* a flag of struct config */
#define FOU_TRAINS 2  /* another: the kernel's own FOU socket has the port, and takes trains */
#define FOU_TCP 4     /* and all TCP */
#define FOU_JOINED 8  /* and what the GRO stage has joined, as IP in IP */
#define FOU_IN_IP 16  /* all TCP, single packets as IP in IP */
#define PLAIN_IPV4 0x45  /* the first byte of a header without options */
#define IP_EXPERIMENT 30 /* an option that means nothing (RFC 4727, 3.2) */
#define PROOF_HOLDS 3 /* seconds */
#define LARGE 1000    /* bytes: of a packet that is one of many */
#define SAMPLED 65536 /* segments; one train of them is tried for the mark of a tunnel */
#define ENOUGH_SAMPLES 64 /* without it, on each processor */
#define EALREADY 114	  /* asm-generic/errno.h */
#define ANSWER_IN 1000000000 /* nanoseconds from question to answer at most */

struct outer {
	struct iphdr ip;
	struct udphdr udp;
};

_Static_assert(sizeof(struct outer) == 28, "20 bytes of IPv4 and 8 of UDP, as on the wire");

/* ------------------------------------------------------------------------------------------------------- maps ---- */

/* This node's end of the tunnel. Addresses and the port are in network order, as they are compared and written.
 * An update is not atomic for a running program: at worst a packet in flight is refused or takes the slow path. */
struct config {
	__be32 address; /* our outer address; 0: not configured, touch nothing */
	__be32 subnet;	/* our own subnet: base … */
	__be32 netmask; /* … and mask */
	__be16 port;	/* every node's UDP port */
	__u16 flags;	/* COPY_DSCP, FOU_TRAINS, FOU_TCP, FOU_JOINED, FOU_IN_IP */
	__u32 tun;	/* ifindex of flannel0 */
	/* ifindexes of the veth pair's ends; 0: there is none */
	__u32 gro;    /* what leaves here comes out merged at the other end */
	__u32 finish; /* what leaves here comes out with its checksums and segments done */
	__u16 second; /* in the kernel's ticks */
	__be16 socket; /* the slow path's port, where FOU has the tunnel's; 0: it is the tunnel's */
	__u64 secret; /* random: nobody else can make an answer or a pass of it, or tell a flow's port from its addresses */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} endpoint SEC(".maps");

/* Which subnet is behind which underlay address. Longest prefix wins, as in a routing table. */
struct subnet_key {
	__u32 prefixlen; /* bits of address that count */
	__be32 address;
};

struct peer {
	__be32 address;
	__u32 left;   /* tick since which what is left to FOU has not appeared behind it, and the way (see left_to_fou); 0: all did */
	__u64 proven; /* tick of the last proof that what is unfinished reaches it whole (see question); 0: none */
	__u64 wanted; /* tick at which the agent was last told that a proof would be of use */
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1 << 17); /* twice the /24 subnets of a /8; memory is taken as entries come */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct subnet_key);
	__type(value, struct peer);
} subnets SEC(".maps");

/* Inner destinations whose peers the agent should ask (see question). Whatever is not read is overwritten. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1024);
	__type(value, __be32);
} wishes SEC(".maps");

/* The underlay addresses of all peers, asked only when a datagram is refused, to tell a stranger from a peer, or has no
 * room on the path: the value is the path's MTU in bytes, as far as the slow path has made sure of it; 0: it has not. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 17);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __be32);
	__type(value, __u32);
} senders SEC(".maps");

/* When a router, or who pretends to be one, last said something about the path to a peer that was handed on. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __be32);
	__type(value, __u64);
} claims SEC(".maps");

/* What was passed on to FOU last, by the end of the inner source: the packets of a flow come by the dozen, and who sent one in
 * this tick of the clock may send the next. Each processor has its own, so nobody else writes meanwhile. */
struct passed {
	__be32 inner, outer; /* sources */
	__u64 tick;
};

#define PLACES 64

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PLACES);
	__type(key, __u32);
	__type(value, struct passed);
} passed SEC(".maps");

/* Counters by cause. tx: flannel0 to peers; rx: peers to flannel0; bytes and packets are of inner packets as they
 * are on the wire. The order is known to maps.py; names of drops are those of the userspace datapath. */
enum counter {
	TX_PACKETS,
	TX_BYTES,
	RX_PACKETS,
	RX_BYTES,
	/* Refused on the way in. */
	DROP_OUTER_SOURCE,
	DROP_MALFORMED,
	DROP_CHECKSUM,
	DROP_INNER_SOURCE,
	DROP_INNER_DESTINATION,
	/* Lost half-way: a helper failed (no memory), a route vanished. */
	DROP_TX_SEND,
	DROP_RX_MEMORY,
	/* Left to the slow path, by reason. */
	SLOW_TX_NOT_IPV4,
	SLOW_TX_NO_PEER,
	SLOW_TX_TTL,
	SLOW_TX_TOO_BIG,
	SLOW_TX_NO_ROUTE,
	SLOW_TX_OTHER,
	SLOW_RX_FRAGMENT,
	SLOW_RX_TTL,
	SLOW_RX_OTHER,
	/* ICMP errors about our datagrams that were handed to the socket (see path_mtu). */
	ICMP_TOO_BIG,
	/* More causes of what is above, in the order in which they were told apart. */
	DROP_TX_NESTED,	 /* the tunnel's own datagram: a peer's address is reached through the tunnel itself */
	SLOW_RX_OPTIONS, /* the inner packet has IP options */
	SLOW_RX_TRAIN,	 /* several datagrams that the interface had joined before us (rx-udp-gro-forwarding) */
	/* Of TX_PACKETS, in skbs: those that took the detour by which checksums and segments are finished. */
	TX_FINISHED,
	/* Trains that were cut before they were unwrapped. */
	RX_CUT,
	/* Left to FOU, come out of it (damaged or not), and not left to it because what was before has not come out. */
	RX_FOU_LEFT,
	RX_FOU,
	RX_FOU_REFUSED,
	/* Behind the GRO stage: packets that it has joined, and large ones that it has not. */
	RX_JOINED,
	RX_UNJOINED,
	/* Of RX_FOU_LEFT, those that the underlay had joined. */
	RX_FOU_TRAINS,
	/* Trains behind the GRO stage that were tried for the mark of a tunnel, and those that have it (see is_marked). */
	RX_SAMPLED,
	RX_SAMPLED_MARKED,
	/* Of DROP_OUTER_SOURCE, what came to FOU's device, as if from a peer and for us, and had not met overlay_decap. */
	RX_FOU_UNSEEN,
	COUNTERS,
};

/* Room for more, so that the next version's map is this one. */
struct counters {
	__u64 of[64];
};

_Static_assert(COUNTERS <= sizeof(struct counters) / sizeof(__u64), "every counter has its place");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} causes SEC(".maps");

static __always_inline void count(enum counter cause, __u64 number)
{
	__u32 zero = 0;
	struct counters *mine = bpf_map_lookup_elem(&causes, &zero);

	if (mine)
		mine->of[cause] += number;
}

static __always_inline void count_carried(enum counter packets, __u32 number, __u32 bytes)
{
	__u32 zero = 0;
	struct counters *mine = bpf_map_lookup_elem(&causes, &zero);

	if (mine) {
		mine->of[packets] += number;
		mine->of[packets + 1] += bytes; /* TX_BYTES follows TX_PACKETS, RX_BYTES follows RX_PACKETS */
	}
}

static __always_inline int slow_path(enum counter cause)
{
	count(cause, 1);
	return NEXT_FILTER;
}

static __always_inline int drop(enum counter cause)
{
	count(cause, 1);
	return TC_ACT_SHOT;
}

/* ---------------------------------------------------------------------------------------------------- helpers ---- */

/* A pointer to `length` bytes at `offset` of the packet, made linear if need be; NULL where the packet is shorter.
 * Every earlier pointer into the packet is invalid afterwards. */
static __always_inline void *header(struct __sk_buff *skb, __u32 offset, __u32 length)
{
	void *start = (void *)(long)skb->data + offset;

	if (start + length > (void *)(long)skb->data_end) {
		if (bpf_skb_pull_data(skb, offset + length))
			return NULL;
		start = (void *)(long)skb->data + offset;
		if (start + length > (void *)(long)skb->data_end)
			return NULL;
	}
	return start;
}

/* Of a few 32-bit words' sum: what is over after the first line is so small that the last has nothing left to carry. */
static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

/* RFC 1071 over a header without options: 0xffff for one that is intact. A sum of 32-bit words folds to the same
 * value as one of 16-bit words. */
static __always_inline __u16 header_sum(const struct iphdr *ip)
{
	const __u32 *word = (const void *)ip;

	return fold((__u64)word[0] + word[1] + word[2] + word[3] + word[4]);
}

/* One hop less, the checksum updated as in RFC 1624: the TTL is the high byte of its 16-bit word, and one less there is
 * 0x0100 more in the complement (net/ip.h, ip_decrease_ttl). */
static __always_inline void decrement_ttl(struct iphdr *ip)
{
	__u32 check = ip->check;

	check += bpf_htons(0x0100);
	ip->check = (__u16)(check + (check >= 0xffff));
	ip->ttl--;
}

static __always_inline struct peer *peer_of(__be32 address)
{
	struct subnet_key key = {.prefixlen = 32, .address = address};

	return bpf_map_lookup_elem(&subnets, &key);
}

/* The longest packet on the wire that the packet in `skb` becomes. One with a gso_size is a train of segments that
 * the NIC, or the kernel behind us, cuts apart: each carries `gso_size` bytes behind a copy of the headers. 0:
 * cannot tell. */
static __always_inline __u32 wire_length(struct __sk_buff *skb, const struct iphdr *ip, __u32 *headers)
{
	__u32 offset = ip->ihl * 4;
	__u8 data_offset;

	if (!skb->gso_size)
		return skb->len;
	if (ip->protocol == IPPROTO_UDP) {
		*headers = offset + sizeof(struct udphdr);
	} else if (ip->protocol == IPPROTO_TCP) {
		/* doff is the high half of TCP's 13th byte, in words of four bytes. */
		if (bpf_skb_load_bytes(skb, offset + 12, &data_offset, 1))
			return 0;
		*headers = offset + (data_offset >> 4) * 4;
	} else {
		return 0;
	}
	return *headers + skb->gso_size;
}

/* ------------------------------------------------------------------------------------- who takes it unfinished ---- */

/* Who sends TCP leaves its checksum, and cutting a train into segments, to the NIC. A NIC that knows tunnels does
 * both on the inner packet; for one that does not, the kernel does. But a virtual wire, such as veth, carries the
 * packet as it is, and while a kernel at the other end can go on with that, a process behind a socket (flanneld, or
 * our slow path) reads a packet with a wrong checksum. So what may be unfinished passes a device without offloads,
 * where the kernel must finish it (see overlay_finish), unless it is proven that the peer gets the use of it as it is.
 *
 * The proof is to do it: the agent asks with a ping to the peer's tunnel address whose checksum is left unfinished.
 * Whoever gets it whole answers: a NIC on the way has finished it, or it was unwrapped in a kernel. Behind a socket it
 * is a ping with a wrong checksum, which is no ping. Our programs answer themselves, before any firewall, whether or
 * not their agent lives; other kernels as they answer any ping. Nothing that is copied, or rewritten on the way, or
 * guessed, becomes an answer: it must hold our secret, and the time at which it was asked.
 *
 * A proof holds for three seconds, and the agent asks every second while something is sent to the peer. A node that
 * leaves the kernel path says so to its peers (a farewell), which ends it at once. */
struct question {
	struct iphdr ip;
	struct icmp { /* linux/icmp.h needs a C library */
		__u8 type, code;
		__be16 checksum;
		__be16 id, sequence;
	} icmp;
	__u32 reserved;
	__u64 kind;
	__u64 secret;
	__u64 asked; /* in nanoseconds of the monotonic clock */
};

_Static_assert(sizeof(struct question) == 56, "as proof.py writes it");

#define QUESTION 0x6e6573736f6c6f68ULL
#define FAREWELL 0x6c6c657765726166ULL

/* Whether a proof holds; the agent is told, once a second, that one is of use. */
static __always_inline int is_proven(const struct config *own, struct peer *peer, __be32 destination)
{
	__u64 now = bpf_jiffies64();

	if (now - peer->wanted >= own->second) {
		peer->wanted = now;
		bpf_map_push_elem(&wishes, &destination, BPF_EXIST);
	}
	return peer->proven && now - peer->proven <= PROOF_HOLDS * own->second;
}

/* Whether this is what our agent asks: nobody else knows the secret. */
static __always_inline int is_question(struct __sk_buff *skb, const struct config *own)
{
	struct question it;

	return skb->len == sizeof(it) && !bpf_skb_load_bytes(skb, 0, &it, sizeof(it)) &&
	       it.ip.protocol == IPPROTO_ICMP && it.icmp.type == ICMP_ECHO && it.kind == QUESTION &&
	       it.secret == own->secret;
}

/* ------------------------------------------------------------------------------------- flannel0, egress: encap ---- */

/* A number for the packet's flow, the same for all its packets. The kernel has one for what a local socket or a NIC
 * already hashed. For the rest its flow dissector would walk the packet, at a twentieth of what a small packet costs in
 * all; so where the ports are at hand, a multiplication does (Knuth's, as hash_32 in linux/hash.h), and the kernel is
 * told, lest a queue behind us dissects after all. */
static __always_inline __u32 flow_hash(struct __sk_buff *skb, const struct iphdr *ip)
{
	const __u32 *ports = (const void *)(ip + 1);
	__u32 hash;

	if (skb->hash || (void *)(ports + 1) > (void *)(long)skb->data_end || ip->ihl != 5 ||
	    (ip->frag_off & bpf_htons(IP_MORE_OR_OFFSET)) ||
	    (ip->protocol != IPPROTO_UDP && ip->protocol != IPPROTO_TCP))
		return bpf_get_hash_recalc(skb);
	hash = (ip->saddr * 0x61c88647 ^ ip->daddr) * 0x61c88647 ^ *ports;
	hash = hash * 0x61c88647 + ip->protocol;
	hash ^= hash >> 16;
	bpf_set_hash(skb, hash);
	return hash;
}

/* The source port carries the inner flow's hash, as vxlan's does (RFC 7348, 4.2), so that receive queues and equal-cost
 * paths spread flows; flanneld looks only at the address. Which flow has which port is nobody else's business: who
 * knows it can pretend to be a router that has seen it (see path_mtu). */
static __always_inline __be16 flow_port(const struct config *own, __u32 hash)
{
	hash = (hash ^ (__u32)own->secret) * 0x61c88647;
	return bpf_htons(FLOW_PORTS | ((hash >> 16) & ~FLOW_PORTS & 0xffff));
}

/* Where the kernel routes a datagram: as one from flannel0, so that every rule and each of several routes has its
 * say, and with its length, so that the route's path MTU has too. Returns BPF_FIB_LKUP_RET_…; the answer is in
 * `route`. */
static __always_inline long find_route(struct __sk_buff *skb, const struct config *own, __be32 destination,
				       __be16 source_port, __u8 tos, __u32 length, struct bpf_fib_lookup *route)
{
	*route = (struct bpf_fib_lookup){
		.family = AF_INET,
		.l4_protocol = IPPROTO_UDP,
		.sport = source_port,
		.dport = own->port,
		.tot_len = length,
		.tos = tos,
		.ifindex = own->tun,
		.ipv4_src = own->address,
		.ipv4_dst = destination,
	};
	return bpf_fib_lookup(skb, route, sizeof(*route), 0);
}

/* The route of a datagram of `length` bytes, or FRAG_NEEDED. The kernel's note of a path's MTU is not taken for true: any
 * socket of this node will do for a stranger to have it make one (RFC 1191 has no proof in it). What the slow path has
 * made sure of is, and the interface's own MTU; before Linux 5.12 that cannot be told from here, and the slow path,
 * which knows, gets what does not fit the note. */
static __always_inline long find_way(struct __sk_buff *skb, const struct config *own, __be32 destination,
				     __be16 source_port, __u8 tos, __u32 length, struct bpf_fib_lookup *route)
{
	long answer = find_route(skb, own, destination, source_port, tos, length, route);
	const __u32 *path;

	if (answer != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return answer;
	path = bpf_map_lookup_elem(&senders, &destination);
	if (path && *path && length > *path)
		return answer;
	answer = find_route(skb, own, destination, source_port, tos, 0, route);
	if (answer == BPF_FIB_LKUP_RET_NO_NEIGH ||
	    (answer == BPF_FIB_LKUP_RET_SUCCESS && length > route->mtu_result))
		return BPF_FIB_LKUP_RET_FRAG_NEEDED;
	return answer;
}

/* Whether a packet on flannel0 is the tunnel's own datagram: then the way to a peer leads through the tunnel, and each
 * packet would be wrapped until it is too big. Nothing else is sent from the underlay's address to the tunnel's port. */
static __always_inline int is_nested(struct __sk_buff *skb, const struct config *own, const struct iphdr *ip)
{
	__be16 port;

	return ip->saddr == own->address && ip->protocol == IPPROTO_UDP &&
	       !bpf_skb_load_bytes(skb, ip->ihl * 4 + offsetof(struct udphdr, dest), &port, sizeof(port)) &&
	       port == own->port;
}

static __always_inline int send(const struct bpf_fib_lookup *route, long answer)
{
	struct bpf_redir_neigh hop = {.nh_family = route->family};

	/* Nobody knows the next hop's link address yet, or there are none: the kernel routes once more, and a
	 * packet that has to wait for ARP then waits with its new route. With a next hop from us it would keep the
	 * old one, to flannel0, and be lost when the answer comes (net/core/neighbour.c, neigh_update). */
	if (answer == BPF_FIB_LKUP_RET_NO_NEIGH)
		return bpf_redirect_neigh(route->ifindex, NULL, 0, 0);
	/* The gateway's address, or the peer's own; an IPv4 route may have an IPv6 gateway (RFC 5549). */
	__builtin_memcpy(hop.ipv6_nh, route->ipv6_dst, sizeof(hop.ipv6_nh));
	return bpf_redirect_neigh(route->ifindex, &hop, sizeof(hop), 0);
}

SEC("tc")
int overlay_encap(struct __sk_buff *skb)
{
	__u32 zero = 0, length, headers = 0, segments, bytes;
	const struct config *own = bpf_map_lookup_elem(&endpoint, &zero);
	struct bpf_fib_lookup route;
	struct peer *peer;
	const struct iphdr *ip;
	struct outer *outer;
	struct iphdr *inner;
	struct ethhdr *eth;
	__be16 source_port;
	int asks, direct, train;
	__u8 tos;
	long answer;

	if (!own || !own->address)
		return NEXT_FILTER;
	/* A TUN packet has no link layer: the IP header is the first byte. */
	ip = header(skb, 0, sizeof(*ip));
	if (!ip || skb->protocol != bpf_htons(ETH_P_IP) || ip->version != 4 || ip->ihl < 5)
		return slow_path(SLOW_TX_NOT_IPV4);
	if (is_nested(skb, own, ip))
		return drop(DROP_TX_NESTED);
	peer = peer_of(ip->daddr);
	if (!peer)
		return slow_path(SLOW_TX_NO_PEER);
	if (ip->ttl <= 1)
		return slow_path(SLOW_TX_TTL);
	length = wire_length(skb, ip, &headers);
	/* Trains that nobody can unwrap whole: of datagrams, for a kernel takes the tunnel's header for a train's once
	 * more than it unwraps it; and of more bytes than the outer header can say. */
	train = skb->gso_size && (ip->protocol != IPPROTO_TCP || skb->len > 0xffff - sizeof(struct outer));
	if (!length || (!skb->gso_size && bpf_ntohs(ip->tot_len) != skb->len) || (train && !own->finish))
		return slow_path(SLOW_TX_OTHER);
	if (length > 0xffff - sizeof(struct outer))
		return slow_path(SLOW_TX_TOO_BIG);
	/* A peer leaves IP options to its slow path, even if it unwraps otherwise. */
	asks = is_question(skb, own);
	direct = !own->finish || asks || (!train && ip->ihl == 5 && is_proven(own, peer, ip->daddr));

	tos = own->flags & COPY_DSCP ? ip->tos & DSCP : 0;
	source_port = flow_port(own, flow_hash(skb, ip));
	answer = find_way(skb, own, peer->address, source_port, tos, length + sizeof(*outer), &route);
	switch (answer) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		break;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return slow_path(SLOW_TX_TOO_BIG);
	default:
		return slow_path(SLOW_TX_NO_ROUTE);
	}
	if (route.ifindex == skb->ifindex) /* a peer whose address is inside the overlay */
		return drop(DROP_TX_NESTED);

	/* The first change. Room between link and network layer (there is no link layer): so in front. Segments
	 * keep their size, and the packet is marked as a tunnel's, which tells whoever cuts it where the inner
	 * headers are. */
	segments = skb->gso_segs > 1 ? skb->gso_segs : 1;
	bytes = skb->len + (segments - 1) * headers;
	if (bpf_skb_adjust_room(skb, sizeof(struct outer), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP))
		return slow_path(SLOW_TX_OTHER); /* e.g. already a tunnel's; nothing has changed */
	/* And a blank Ethernet header: bpf_redirect_neigh wants one, and writes its own, or none where there is
	 * none. */
	if (bpf_skb_change_head(skb, sizeof(*eth), 0))
		return drop(DROP_TX_SEND);
	eth = header(skb, 0, sizeof(*eth) + sizeof(*outer) + sizeof(*inner));
	if (!eth)
		return drop(DROP_TX_SEND);
	outer = (void *)(eth + 1);
	inner = (void *)(outer + 1);

	/* A train of more than 65,535 bytes has no length that fits; who cuts it writes the segments' own. */
	length = skb->len - sizeof(*eth);
	if (length > 0xffff)
		length = 0;
	eth->h_proto = bpf_htons(ETH_P_IP);
	/* Don't fragment is set, as on a Linux socket: too big is told, not fragmented. ECN stays 0: RFC 6040 (4.3)
	 * asks for that where the far end, flanneld, would lose congestion marks. */
	outer->ip = (struct iphdr){
		.version = 4,
		.ihl = 5,
		.tos = tos,
		.tot_len = bpf_htons(length),
		.id = 0, /* means nothing where fragmenting is forbidden (RFC 6864, 4.1) */
		.frag_off = bpf_htons(IP_DF),
		.ttl = OUTER_TTL,
		.protocol = IPPROTO_UDP,
		.saddr = own->address,
		.daddr = peer->address,
	};
	outer->ip.check = ~header_sum(&outer->ip);
	outer->udp = (struct udphdr){
		.source = source_port,
		.dest = own->port,
		.len = bpf_htons(length ? length - sizeof(struct iphdr) : 0),
	};
	decrement_ttl(inner);
	if (!asks)
		count_carried(TX_PACKETS, segments, bytes);

	if (direct)
		return send(&route, answer);
	count(TX_FINISHED, 1);
	return bpf_redirect(own->finish, 0);
}

/* ----------------------------------------------------------------------------------- underlay, ingress: decap ---- */

#define NONE COUNTERS

/* `cause`, or that the sender is a stranger. */
static __always_inline enum counter blame(__be32 source, enum counter cause)
{
	return bpf_map_lookup_elem(&senders, &source) ? cause : DROP_OUTER_SOURCE;
}

/* Whether a header is intact as far as its checksum tells; with options, a socket's stack looks. */
static __always_inline int is_intact(const struct iphdr *ip)
{
	return ip->ihl != 5 || header_sum(ip) == 0xffff;
}

/* Whether the packet is from another subnet, for ours. */
static __always_inline int is_inward(const struct config *own, const struct iphdr *inner)
{
	return (inner->saddr & own->netmask) != own->subnet && (inner->daddr & own->netmask) == own->subnet;
}

/* Why the packet that begins with `inner`, in a datagram of `payload` bytes from `source`, may not come in. NONE: it may,
 * for `peer` may send it and it is for us. */
static __always_inline enum counter judge(const struct config *own, __be32 source, const struct iphdr *inner, __u32 payload,
					  struct peer **peer)
{
	__u32 header_length = inner->ihl * 4, length = bpf_ntohs(inner->tot_len);

	if (inner->version != 4 || header_length < sizeof(*inner) || length < header_length || length > payload)
		return blame(source, DROP_MALFORMED);
	if (!is_intact(inner))
		return blame(source, DROP_CHECKSUM);
	*peer = peer_of(inner->saddr);
	if (!*peer || (*peer)->address != source || (inner->saddr & own->netmask) == own->subnet)
		return blame(source, DROP_INNER_SOURCE);
	if ((inner->daddr & own->netmask) != own->subnet)
		return DROP_INNER_DESTINATION;
	return NONE;
}

/* Behind FOU nobody can tell who sent a packet, and plain IP in IP comes out there too. So what overlay_decap has judged, and
 * leaves to the stack, has a pass: its hash, which the stack keeps for the packet's flow. Who does not know the secret has it
 * once in 2^31 by chance, and gains what a forged outer source gains. As all packets of a flow have the same, GRO behind FOU
 * joins them, and with nothing else. Which kind it is stands in the middle: GRO takes the lowest bits of a hash to tell flows
 * apart, queues and processors the highest. */
enum pass {
	STRAY = 0,	  /* none, but it was seen */
	JUDGED = 1 << 12, /* it may come in, if its header is intact */
	DONE = 1 << 13,	  /* and is counted, with one hop less */
};

/* Up to its ports, where they follow the header. */
struct inner {
	struct iphdr ip;
	__u32 ports;
};

static __always_inline int has_ports(const struct iphdr *ip)
{
	return ip->protocol == IPPROTO_TCP && ip->ihl == 5 && !(ip->frag_off & bpf_htons(IP_MORE_OR_OFFSET));
}

static __always_inline __u32 pass_of(const struct config *own, const struct inner *inner, enum pass kind)
{
	__u32 hash = ((inner->ip.saddr ^ (__u32)own->secret) * 0x61c88647 ^ inner->ip.daddr) * 0x61c88647 ^ inner->ports;

	hash = (hash ^ (__u32)(own->secret >> 32)) * 0x61c88647 + inner->ip.protocol;
	return ((hash ^ hash >> 16) & ~(JUDGED | DONE)) | kind;
}

/* From `at` on; whether there is as much. */
static __always_inline int read_inner(struct __sk_buff *skb, __u32 at, struct inner *inner)
{
	inner->ports = 0;
	if (bpf_skb_load_bytes(skb, at, &inner->ip, sizeof(inner->ip)))
		return 0;
	return !has_ports(&inner->ip) ||
	       !bpf_skb_load_bytes(skb, at + sizeof(inner->ip), &inner->ports, sizeof(inner->ports));
}

/* Lets the packet that begins at `at`, and is judged, through behind FOU. */
static __always_inline void give_pass(struct __sk_buff *skb, __u32 at, const struct config *own)
{
	const struct inner *here = (void *)(long)skb->data + at;
	struct inner copy;

	if ((void *)(here + 1) <= (void *)(long)skb->data_end && has_ports(&here->ip))
		bpf_set_hash(skb, pass_of(own, here, JUDGED));
	else if (read_inner(skb, at, &copy))
		bpf_set_hash(skb, pass_of(own, &copy, JUDGED));
}

/* IP in IP for this node: what left_joined_to_fou sends, or what has no business behind FOU. That is known there as having been
 * seen, for what comes there unseen is a peer's that has not met our program. Somebody else's keeps a hash for each flow. */
static __always_inline int see(struct __sk_buff *skb, __u32 at, const struct config *own)
{
	struct inner inner;

	if (own->socket && read_inner(skb, at, &inner) && skb->hash != pass_of(own, &inner, DONE))
		bpf_set_hash(skb, pass_of(own, &inner, STRAY));
	return NEXT_FILTER;
}

/* Where GRO has joined a train of TCP, the kernel unwraps it at less cost than we do: by FOU, its own socket for just this
 * format, behind which overlay_fou takes the packet. The socket is asked by GRO as well, which looks into datagrams for it
 * alone. On some links the GRO stage joins nothing, and all TCP is left to FOU, which joins it behind the socket.
 *
 * But on the way to the socket is the host's firewall. What it takes there does not come out; so once something has not
 * for half a second, the peer's trains are carried as if there were no FOU, whether or not an agent lives. It takes
 * FOU away then; what was lost by chance is forgotten after eight seconds, and at once where the agent has since chosen
 * another way to FOU's device, which is the lowest bit. */
static __always_inline int left_to_fou(const struct config *own, struct peer *peer, const struct iphdr *outer)
{
	__u32 way = !!(own->flags & (FOU_JOINED | FOU_IN_IP));
	__u32 now = bpf_jiffies64(), since = peer->left;

	if (!since || (since & 1) != way || now - since > 8 * own->second) {
		if (header_sum(outer) == 0xffff) /* what was damaged on the way does not come out */
			peer->left = (now & ~1) | way;
	} else if (now - since > own->second / 2) {
		count(RX_FOU_REFUSED, 1);
		return 0;
	}
	return 1;
}

/* Makes IP in IP of a datagram without options, in place, and so without what a socket costs each packet: the UDP header
 * becomes an IP option. The IP header's sum changes by what is known; where a NIC has summed up all of the packet
 * (CHECKSUM_COMPLETE), the UDP header is in it no more, for an IP header's own sum is nothing; and what it, or GRO, says of the
 * UDP checksum (CHECKSUM_UNNECESSARY) must not be taken for the inner one's, as a UDP socket sees to. */
static __always_inline void to_ip_in_ip(struct __sk_buff *skb, struct outer *outer)
{
	const __u64 option = (__u64)IP_EXPERIMENT << 56 | (__u64)sizeof(struct udphdr) << 48;
	const __u16 more = (sizeof(struct outer) - sizeof(struct iphdr)) / 4 << 8, less = IPPROTO_UDP - IPPROTO_IPIP;
	__u32 check = outer->ip.check + bpf_htons(0xffff - more - (option >> 48) + less);
	const __u32 *udp = (const void *)&outer->udp;
	__u64 sum = (__u64)(__u32)~udp[0] + (__u32)~udp[1];

	outer->ip.check = (__u16)(check + (check >= 0xffff));
	outer->ip.ihl = sizeof(struct outer) / 4;
	outer->ip.protocol = IPPROTO_IPIP;
	*(__be64 *)&outer->udp = bpf_cpu_to_be64(option);
	bpf_csum_update(skb, (__u32)(sum + (sum >> 32)));
	bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC);
}

/* A router on the way says "too big" (RFC 1191) and quotes our datagram, whose source port is a flow's hash that no
 * socket has. Or somebody pretends to be one: for all that is quoted can be guessed. So it is only a claim, and goes to
 * the slow path's socket, once a second for each peer, which asks a router that is there to say it again
 * (worker/claims.py); what it makes sure of, it tells us (see senders). The socket is found by its own port in the
 * quote; the ICMP checksum is mended to match. */
static __always_inline int path_mtu(struct __sk_buff *skb, __u32 at, const struct config *own)
{
	struct message {
		struct iphdr ip;
		__u8 type, code;
		__be16 checksum;
		__be16 unused, next_hop_mtu;
		struct outer quoted;
	} *message;
	const __u64 *last, now = bpf_jiffies64();
	__be32 peer;
	__be16 port, socket;

	message = header(skb, at, sizeof(*message));
	if (!message || message->ip.ihl != 5 || message->ip.daddr != own->address ||
	    message->type != ICMP_DEST_UNREACH || message->code != ICMP_FRAG_NEEDED ||
	    message->quoted.ip.ihl != 5 || message->quoted.ip.protocol != IPPROTO_UDP ||
	    message->quoted.ip.saddr != own->address || message->quoted.udp.dest != own->port ||
	    bpf_ntohs(message->quoted.udp.source) < FLOW_PORTS ||
	    !bpf_map_lookup_elem(&senders, &message->quoted.ip.daddr))
		return NEXT_FILTER;
	port = message->quoted.udp.source;
	peer = message->quoted.ip.daddr;
	last = bpf_map_lookup_elem(&claims, &peer);
	if (last && now - *last < own->second)
		return NEXT_FILTER;
	bpf_map_update_elem(&claims, &peer, &now, BPF_ANY);
	/* Both changes together leave the packet's sum as it was, so a checksum that the NIC summed up stays right. */
	socket = own->socket ? own->socket : own->port;
	bpf_l4_csum_replace(skb, at + offsetof(struct message, checksum), port, socket, sizeof(port));
	bpf_skb_store_bytes(skb, at + offsetof(struct message, quoted.udp.source), &socket, sizeof(port), 0);
	count(ICMP_TOO_BIG, 1);
	return NEXT_FILTER;
}

/* With options, or a fragment: the stack makes of it what the socket gets. But a stranger wakes no process, as far as the
 * packet tells for whom it is: only a first fragment does. Where no socket gets it but FOU, it is judged here, by as much of
 * the inner packet as every link carries in one piece (RFC 791: 68 bytes). */
static __always_inline int unusual(struct __sk_buff *skb, __u32 at, const struct config *own, const struct iphdr *outer)
{
	__u32 inner_at = at + outer->ihl * 4 + sizeof(struct udphdr), payload = 0xffff;
	__be16 fragment = outer->frag_off & bpf_htons(IP_MORE_OR_OFFSET);
	__be32 source = outer->saddr;
	struct peer *peer = NULL;
	enum counter refused;
	struct udphdr udp;
	struct iphdr ip;

	if ((fragment & bpf_htons(IP_OFFSET)) || bpf_skb_load_bytes(skb, inner_at - sizeof(udp), &udp, sizeof(udp)) ||
	    udp.dest != own->port)
		return NEXT_FILTER;
	if (!bpf_map_lookup_elem(&senders, &source))
		return drop(DROP_OUTER_SOURCE);
	if (own->socket) {
		if (bpf_skb_load_bytes(skb, inner_at, &ip, sizeof(ip)))
			return drop(DROP_MALFORMED);
		if (!fragment)
			payload = skb->len - inner_at;
		refused = judge(own, source, &ip, payload, &peer);
		if (refused != NONE)
			return drop(refused);
		give_pass(skb, inner_at, own);
	}
	return slow_path(fragment ? SLOW_RX_FRAGMENT : SLOW_RX_OTHER);
}

/* Answers a peer's question in place: the same ping the other way. */
static __always_inline int answer_question(struct __sk_buff *skb, const __u32 at, const struct config *own)
{
	struct {
		struct outer outer;
		struct iphdr ip;
	} back;
	const __u8 reply = ICMP_ECHOREPLY;
	struct bpf_fib_lookup route;
	__be32 address;
	long found;

	if (bpf_skb_load_bytes(skb, at, &back, sizeof(back)))
		return NEXT_FILTER;
	found = find_route(skb, own, back.outer.ip.saddr, back.outer.udp.source, 0, sizeof(struct outer) + sizeof(struct question),
			   &route);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return NEXT_FILTER;
	back.outer.ip.daddr = back.outer.ip.saddr;
	back.outer.ip.saddr = own->address;
	back.outer.ip.ttl = OUTER_TTL;
	back.outer.ip.check = 0;
	back.outer.ip.check = ~header_sum(&back.outer.ip);
	back.outer.udp.dest = own->port;
	back.outer.udp.check = 0;
	address = back.ip.daddr;
	back.ip.daddr = back.ip.saddr;
	back.ip.saddr = address;
	back.ip.ttl = OUTER_TTL;
	back.ip.check = 0;
	back.ip.check = ~header_sum(&back.ip);
	/* ICMP's checksum, where somebody has finished it; what is left unfinished stays so. */
	if (bpf_l4_csum_replace(skb, at + sizeof(back) + offsetof(struct icmp, checksum), bpf_htons(ICMP_ECHO << 8),
				bpf_htons(ICMP_ECHOREPLY << 8), sizeof(__be16)) ||
	    bpf_skb_store_bytes(skb, at + sizeof(back) + offsetof(struct icmp, type), &reply, sizeof(reply), 0) ||
	    bpf_skb_store_bytes(skb, at, &back, sizeof(back), 0))
		return drop(DROP_TX_SEND);
	if (!at) {
		struct ethhdr eth = {.h_proto = bpf_htons(ETH_P_IP)};

		if (bpf_skb_change_head(skb, sizeof(eth), 0) || bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
			return drop(DROP_TX_SEND);
	}
	return send(&route, found);
}

/* What nodes say to each other about unfinished packets (see question). NEXT_FILTER: it is only a ping of that size. */
static __always_inline int talk(struct __sk_buff *skb, const __u32 at, const struct config *own, struct peer *peer)
{
	struct question it;

	if (bpf_skb_load_bytes(skb, at + sizeof(struct outer), &it, sizeof(it)) || it.ip.daddr != own->subnet)
		return NEXT_FILTER;
	if (it.icmp.type == ICMP_ECHO && it.kind == QUESTION)
		return answer_question(skb, at, own);
	if (it.icmp.type != ICMP_ECHOREPLY || (it.kind != QUESTION && it.kind != FAREWELL))
		return NEXT_FILTER;
	if (it.kind == FAREWELL)
		peer->proven = 0;
	else if (it.secret == own->secret && bpf_ktime_get_ns() - it.asked < ANSWER_IN)
		peer->proven = bpf_jiffies64();
	return TC_ACT_SHOT;
}

/* Whether it is a datagram to this node, at the tunnel's port, without options and in one piece. */
static __always_inline int is_for_tunnel(const struct outer *outer, const struct config *own)
{
	return *(const __u8 *)outer == PLAIN_IPV4 && outer->ip.daddr == own->address && outer->ip.protocol == IPPROTO_UDP &&
	       !(outer->ip.frag_off & bpf_htons(IP_MORE_OR_OFFSET)) && outer->udp.dest == own->port;
}

/* Bytes of the TCP header behind the IP header at `at`; 0: there is none, or it is not needed. */
static __always_inline __u32 tcp_header(struct __sk_buff *skb, __u32 at)
{
	struct {
		struct iphdr ip;
		struct tcphdr tcp;
	} inner;
	__u32 length;

	if (skb->gso_size || bpf_skb_load_bytes(skb, at, &inner, sizeof(inner)) ||
	    *(const __u8 *)&inner.ip != PLAIN_IPV4 || inner.ip.protocol != IPPROTO_TCP)
		return 0;
	length = inner.tcp.doff * 4;
	return at + sizeof(inner.ip) + length <= skb->len ? length : 0;
}

/* The headers of a datagram for the tunnel, outer and inner; NULL: it is none, or too short. Where a driver has left it in
 * pages, TCP's header comes along, and no byte more: everybody behind us wants it, each at the price of one more copy, and GRO
 * joins most cheaply what has all of its payload in pages. */
static __always_inline struct outer *datagram(struct __sk_buff *skb, const __u32 at, const struct config *own)
{
	const __u32 length = sizeof(struct outer) + sizeof(struct iphdr);
	struct outer *outer = (void *)(long)skb->data + at;

	if ((void *)outer + length > (void *)(long)skb->data_end) {
		outer = header(skb, at, sizeof(*outer));
		if (!outer || !is_for_tunnel(outer, own) ||
		    bpf_skb_pull_data(skb, at + length + tcp_header(skb, at + sizeof(*outer))))
			return NULL;
		outer = (void *)(long)skb->data + at;
		if ((void *)outer + length > (void *)(long)skb->data_end)
			return NULL;
	}
	return is_for_tunnel(outer, own) ? outer : NULL;
}

/* Whatever is no datagram for the tunnel as senders make them. */
static __always_inline int other(struct __sk_buff *skb, const __u32 at, const struct config *own)
{
	const struct outer *outer;

	asm volatile("" : "+r"(skb)); /* that it has been looked at is not known here: the verifier knows no such shortcut */
	outer = header(skb, at, sizeof(*outer));
	if (!outer || outer->ip.daddr != own->address || outer->ip.version != 4 || !is_intact(&outer->ip))
		return NEXT_FILTER;
	if (outer->ip.protocol == IPPROTO_ICMP)
		return path_mtu(skb, at, own);
	if (outer->ip.protocol == IPPROTO_IPIP)
		return see(skb, at + outer->ip.ihl * 4, own);
	if (outer->ip.protocol != IPPROTO_UDP)
		return NEXT_FILTER;
	if (outer->ip.ihl != 5 || (outer->ip.frag_off & bpf_htons(IP_MORE_OR_OFFSET)))
		return unusual(skb, at, own, &outer->ip);
	if (own->socket && outer->udp.dest == own->socket)
		return drop(DROP_OUTER_SOURCE); /* that one only sends */
	if (outer->udp.dest != own->port)
		return NEXT_FILTER;
	return drop(blame(outer->ip.saddr, DROP_MALFORMED)); /* too short for a packet */
}

/* Whether the datagram is one packet of TCP, or a train of them, with nothing unusual about it. */
static __always_inline int is_plain_tcp(struct __sk_buff *skb, __u32 at, const struct outer *outer, const struct iphdr *inner)
{
	__u32 length = bpf_ntohs(inner->tot_len);

	return *(const __u8 *)inner == PLAIN_IPV4 && inner->protocol == IPPROTO_TCP && inner->ttl > 1 &&
	       length >= sizeof(*inner) && bpf_ntohs(outer->udp.len) == length + sizeof(outer->udp) &&
	       bpf_ntohs(outer->ip.tot_len) == length + sizeof(*outer) && skb->len >= at + length + sizeof(*outer);
}

/* Passes a datagram on to FOU, where that takes such; whether it did. By judge's rule, with as few instructions as will do, for
 * here are all packets of a flow: whether headers are intact, the stack asks of the outer one, and overlay_fou of the inner
 * one, once for a train. */
static __always_inline int pass_to_fou(struct __sk_buff *skb, __u32 at, const struct config *own, struct outer *outer,
					const struct iphdr *inner)
{
	__u32 train = skb->gso_size, segments = train && skb->gso_segs > 1 ? skb->gso_segs : 1;
	__u32 place = bpf_ntohl(inner->saddr) % PLACES;
	__u64 tick = bpf_jiffies64();
	struct passed *last;
	struct peer *peer;

	if (!(own->flags & (train ? FOU_TRAINS : FOU_TCP)) || !is_plain_tcp(skb, at, outer, inner) || !is_inward(own, inner))
		return 0;
	last = bpf_map_lookup_elem(&passed, &place);
	if (!last)
		return 0; /* cannot be */
	if (last->tick != tick || last->inner != inner->saddr || last->outer != outer->ip.saddr) {
		peer = peer_of(inner->saddr);
		if (!peer || peer->address != outer->ip.saddr || !left_to_fou(own, peer, &outer->ip))
			return 0;
		*last = (struct passed){inner->saddr, outer->ip.saddr, tick};
	}
	count(RX_FOU_LEFT, segments);
	give_pass(skb, at + sizeof(*outer), own);
	if (train)
		count(RX_FOU_TRAINS, segments);
	else if (own->flags & FOU_IN_IP)
		to_ip_in_ip(skb, outer);
	return 1;
}

/* `at`: bytes of link layer before the outer IP header; `first`: whether nobody has had the packet before. Constants in
 * each program, so the compiler folds them in. */
static __always_inline int decapsulate(struct __sk_buff *skb, const __u32 at, const int first)
{
	__u32 zero = 0, payload, length, header_length, headers = 0, segments;
	const struct config *own = bpf_map_lookup_elem(&endpoint, &zero);
	struct outer *outer;
	struct iphdr *inner;
	struct peer *peer = NULL;
	enum counter refused, cause;
	__u8 protocol;
	int train;

	/* As the IP stack would: not what is addressed to another machine, and not what is in a VLAN, whose own
	 * interface sees it next. */
	if (!own || !own->address || skb->protocol != bpf_htons(ETH_P_IP) || skb->vlan_present ||
	    skb->pkt_type != PACKET_HOST)
		return NEXT_FILTER;
	outer = datagram(skb, at, own);
	if (!outer)
		return other(skb, at, own);

	inner = (void *)(outer + 1);
	if (first && pass_to_fou(skb, at, own, outer, inner))
		return NEXT_FILTER;
	if (header_sum(&outer->ip) != 0xffff)
		return NEXT_FILTER; /* damaged on the way: the stack drops it, and counts that where people look for it */

	/* Is it a packet, from the peer that may send it, for us? */
	payload = bpf_ntohs(outer->udp.len) - sizeof(struct udphdr);
	if (payload > 0xffff || payload < sizeof(*inner))
		return drop(blame(outer->ip.saddr, DROP_MALFORMED));
	header_length = inner->ihl * 4;
	length = bpf_ntohs(inner->tot_len);
	protocol = inner->protocol;
	refused = judge(own, outer->ip.saddr, inner, payload, &peer);
	if (refused != NONE)
		return drop(refused);

	/* It may come in. What is unusual takes the socket: IP options, bytes behind the packet. A train of the tunnel's
	 * own datagrams (one skb, but the first inner packet ends before it does), which GRO has joined, or a virtual
	 * wire never cut, is cut first, and then each is judged. */
	train = skb->gso_size != 0;
	segments = train && skb->gso_segs > 1 ? skb->gso_segs : 1;
	if (train && length < payload) {
		if (own->finish && at) {
			count(RX_CUT, 1);
			return bpf_redirect(own->finish, 0);
		}
		count(SLOW_RX_TRAIN, segments - 1);
		cause = SLOW_RX_TRAIN;
		goto slow;
	}
	cause = SLOW_RX_OPTIONS;
	if (header_length != sizeof(*inner))
		goto slow;
	cause = SLOW_RX_OTHER;
	if (length != payload || bpf_ntohs(outer->ip.tot_len) != payload + sizeof(*outer) ||
	    skb->len < at + payload + sizeof(*outer))
		goto slow;
	if (inner->ttl <= 1) {
		cause = SLOW_RX_TTL;
		goto slow;
	}
	/* A train of inner datagrams, from an older agent over a virtual wire: it is cut before it is unwrapped. */
	if (train && own->finish && at && protocol != IPPROTO_TCP) {
		count(RX_CUT, 1);
		return bpf_redirect(own->finish, 0);
	}
	if (protocol == IPPROTO_ICMP && length == sizeof(struct question)) {
		int done = talk(skb, at, own, peer);

		if (done != NEXT_FILTER)
			return done;
	}

	/* The first change: the outer headers go, the link layer's moves up to the inner packet. */
	if (bpf_skb_adjust_room(skb, -(__s32)sizeof(*outer), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		goto slow;
	inner = header(skb, at, sizeof(*inner));
	if (!inner)
		return drop(DROP_RX_MEMORY);
	decrement_ttl(inner);
	if (segments > 1 && protocol == IPPROTO_TCP)
		headers = sizeof(struct iphdr) + sizeof(struct tcphdr);
	count_carried(RX_PACKETS, segments, length + (segments - 1) * headers);

	/* TCP is worth a detour through GRO: what it merges crosses the bridge, the firewall and the pod's socket
	 * once. A packet that already is a train has that behind it. */
	if (protocol == IPPROTO_TCP && !train && own->gro) {
		if (!at) { /* veth is an Ethernet device: it reads the protocol from a header that is not there yet */
			struct ethhdr eth = {.h_proto = bpf_htons(ETH_P_IP)};

			if (bpf_skb_change_head(skb, sizeof(eth), 0) ||
			    bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
				return drop(DROP_RX_MEMORY);
		}
		return bpf_redirect(own->gro, 0);
	}
	return bpf_redirect(own->tun, BPF_F_INGRESS);
slow:
	if (own->socket)
		give_pass(skb, at + sizeof(*outer), own);
	return slow_path(cause);
}

SEC("tc")
int overlay_decap(struct __sk_buff *skb)
{
	return decapsulate(skb, sizeof(struct ethhdr), 1);
}

/* For an underlay without Ethernet headers: a tunnel, PPP. */
SEC("tc")
int overlay_decap_l3(struct __sk_buff *skb)
{
	return decapsulate(skb, 0, 1);
}

/* ------------------------------------------------------------------- the veth pair's ends, ingress: gro, finish ---- */

/* Out of the end that has no offloads, and so with checksums and segments done: packets for a peer that is not proven to
 * do that itself, and, to be unwrapped, what came as a train. */
SEC("tc")
int overlay_finish(struct __sk_buff *skb)
{
	__u32 zero = 0;
	const struct config *own = bpf_map_lookup_elem(&endpoint, &zero);
	const struct outer *outer = header(skb, sizeof(struct ethhdr), sizeof(*outer));
	struct bpf_fib_lookup route;
	long answer;

	if (!own || !outer || skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_SHOT; /* nobody else has business here */
	if (outer->ip.daddr == own->address) {
		bpf_skb_change_type(skb, PACKET_HOST);
		return decapsulate(skb, sizeof(struct ethhdr), 0);
	}
	answer = find_way(skb, own, outer->ip.daddr, outer->udp.source, outer->ip.tos, bpf_ntohs(outer->ip.tot_len),
			  &route);
	if (answer != BPF_FIB_LKUP_RET_SUCCESS && answer != BPF_FIB_LKUP_RET_NO_NEIGH)
		return drop(DROP_TX_SEND);
	return send(&route, answer);
}

/* Whether a train still has the mark of the tunnel (sk_buff's `encapsulation`) that its segments got when they were cut,
 * and that nothing between took from them: a virtual wire does not, and nor does GRO on Linux 6.1. Then the kernel takes it
 * for a tunnel's packet, which most devices cannot send as it is, and cuts it again right behind us; FOU takes the mark
 * away. Nothing tells a program of the mark, but a packet that has it refuses to get it. One that had none has it now, and
 * is cut: so this is for samples. Negative: the packet is lost. */
static __always_inline int is_marked(struct __sk_buff *skb)
{
	const __s32 room = sizeof(struct outer);
	long answer = bpf_skb_adjust_room(skb, room, BPF_ADJ_ROOM_MAC,
					  BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 |
						  BPF_F_ADJ_ROOM_ENCAP_L4_UDP);

	if (answer)
		return answer == -EALREADY;
	return bpf_skb_adjust_room(skb, -room, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
}

/* Of all that the GRO stage has joined, one train in some thousand; and no more of them once enough had no mark: kernel and
 * links are as they are. */
static __always_inline int is_sample(__u32 segments)
{
	__u32 zero = 0;
	const struct counters *mine = bpf_map_lookup_elem(&causes, &zero);

	return mine && (mine->of[RX_JOINED] + segments) / SAMPLED != mine->of[RX_JOINED] / SAMPLED &&
	       mine->of[RX_SAMPLED] - mine->of[RX_SAMPLED_MARKED] < ENOUGH_SAMPLES;
}

/* Leaves a train that has the mark (see is_marked) to the device behind FOU, which takes it away: as IP in IP from the peer,
 * the train comes in by the underlay once more. Once for a whole train, that costs next to nothing. (Not in UDP: Linux takes
 * no train for a tunnel's socket that was not sent or joined as one, udp_unexpected_gso.) Returns what bpf_redirect does;
 * NEXT_FILTER: the train is as it was. */
static __always_inline int left_joined_to_fou(struct __sk_buff *skb, const struct config *own)
{
	__u32 length = skb->len - sizeof(struct ethhdr) + sizeof(struct iphdr);
	struct bpf_fib_lookup route;
	struct iphdr outer;
	struct inner inner;
	struct peer *peer;

	if (length > 0xffff || !read_inner(skb, sizeof(struct ethhdr), &inner))
		return NEXT_FILTER;
	peer = peer_of(inner.ip.saddr);
	if (!peer || find_route(skb, own, peer->address, own->port, 0, 0, &route) != BPF_FIB_LKUP_RET_SUCCESS)
		return NEXT_FILTER;
	outer = (struct iphdr){
		.version = 4,
		.ihl = 5,
		.tot_len = bpf_htons(length),
		.frag_off = bpf_htons(IP_DF),
		.ttl = OUTER_TTL,
		.protocol = IPPROTO_IPIP,
		.saddr = peer->address,
		.daddr = own->address,
	};
	outer.check = ~header_sum(&outer);
	if (!left_to_fou(own, peer, &outer))
		return NEXT_FILTER;
	count(RX_FOU_LEFT, 1);
	if (bpf_skb_adjust_room(skb, sizeof(outer), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO) ||
	    bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest), route.smac, sizeof(route.smac), 0) ||
	    bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &outer, sizeof(outer), 0))
		return drop(DROP_RX_MEMORY);
	bpf_set_hash(skb, pass_of(own, &inner, DONE));
	bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect(route.ifindex, BPF_F_INGRESS);
}

/* Tries one train in some thousand for the mark. Whether the train is there still. */
static __always_inline int sampled(struct __sk_buff *skb, const struct config *own, __u32 segments)
{
	int marked;

	if (!(own->flags & FOU_TRAINS) || !is_sample(segments))
		return 1;
	marked = is_marked(skb);
	if (marked < 0)
		return 0;
	count(RX_SAMPLED, 1);
	count(RX_SAMPLED_MARKED, marked);
	return 1;
}

/* Only overlay_decap sends here: what else turns up (a neighbour solicitation of the pair's own) has no business
 * here. */
SEC("tc")
int overlay_gro(struct __sk_buff *skb)
{
	__u32 zero = 0, segments;
	const struct config *own = bpf_map_lookup_elem(&endpoint, &zero);
	int answer;

	if (!own || skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_SHOT;
	if (!skb->gso_size) {
		if (skb->len > LARGE)
			count(RX_UNJOINED, 1);
		return bpf_redirect(own->tun, BPF_F_INGRESS);
	}
	segments = skb->gso_segs;
	if (own->flags & FOU_JOINED) {
		answer = left_joined_to_fou(skb, own);
		if (answer != NEXT_FILTER)
			return answer;
	} else if (!sampled(skb, own, segments)) {
		return drop(DROP_RX_MEMORY);
	}
	count(RX_JOINED, segments);
	return bpf_redirect(own->tun, BPF_F_INGRESS);
}

/* ------------------------------------------------------------------------------------ FOU's device, ingress: fou ---- */

/* Whether the packet's network header, which holds `ip`, is `at` bytes behind its data. */
static __always_inline int is_at(struct __sk_buff *skb, __u32 at, const struct iphdr *ip)
{
	const __u32 *wanted = (const void *)ip;
	__u32 found[5];

	return !bpf_skb_load_bytes(skb, at, found, sizeof(found)) && found[0] == wanted[0] && found[1] == wanted[1] &&
	       found[2] == wanted[2] && found[3] == wanted[3] && found[4] == wanted[4];
}

/* Behind an ipip device that takes what FOU unwraps: trains that overlay_decap has left to it, and what it leaves to the
 * slow path where there is no FOU. But also what comes as IP in IP without UDP (protocol 4), so only what has a pass goes on,
 * and nothing is left to the IP stack of this device. TTLs that end, and options, are the IP stack's behind flannel0. */
SEC("tc")
int overlay_fou(struct __sk_buff *skb)
{
	__u32 zero = 0, segments, at, is_ours, kind;
	const struct config *own = bpf_map_lookup_elem(&endpoint, &zero);
	struct inner inner = {};
	struct peer *peer;
	struct iphdr ip;

	if (!own || !own->address || skb->protocol != bpf_htons(ETH_P_IP) ||
	    bpf_skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), BPF_HDR_START_NET))
		return TC_ACT_SHOT;
	inner.ip = ip;
	if (has_ports(&ip))
		bpf_skb_load_bytes_relative(skb, sizeof(ip), &inner.ports, sizeof(inner.ports), BPF_HDR_START_NET);
	peer = peer_of(ip.saddr);
	is_ours = peer && is_inward(own, &ip);
	kind = skb->hash ^ pass_of(own, &inner, STRAY); /* of enum pass, or another packet's */
	if (kind != JUDGED && kind != DONE) {
		count(RX_FOU_UNSEEN, is_ours && kind != STRAY);
		return drop(DROP_OUTER_SOURCE);
	}
	if (!is_ours) /* any more, or the pass is a guess */
		return drop(DROP_INNER_SOURCE);
	bpf_set_hash_invalid(skb); /* a pod may see it */
	if (bpf_ntohs(ip.tot_len) > skb->len) /* of fragments, nobody has known how much they come to */
		return drop(DROP_MALFORMED);
	peer->left = 0;
	segments = kind == JUDGED && skb->gso_segs > 1 ? skb->gso_segs : 1;
	count(RX_FOU, segments);
	if (kind == DONE)
		return bpf_redirect(own->tun, BPF_F_INGRESS);
	if (!is_intact(&ip))
		return drop(DROP_CHECKSUM);
	/* Before Linux 5.14 the packet's data begins with what was around it: the underlay's link layer, if it has one, and
	 * the outer headers. */
	if (is_at(skb, 0, &ip))
		at = 0;
	else if (is_at(skb, sizeof(struct ethhdr) + sizeof(struct outer), &ip))
		at = sizeof(struct ethhdr) + sizeof(struct outer);
	else if (is_at(skb, sizeof(struct outer), &ip))
		at = sizeof(struct outer);
	else
		return drop(DROP_RX_MEMORY);
	count_carried(RX_PACKETS, segments,
		      bpf_ntohs(ip.tot_len) + (segments - 1) * (sizeof(struct iphdr) + sizeof(struct tcphdr)));
	if (ip.ttl > 1) {
		decrement_ttl(&ip);
		if (bpf_skb_store_bytes(skb, at, &ip, sizeof(ip), 0))
			return drop(DROP_RX_MEMORY);
	}
	return bpf_redirect(own->tun, BPF_F_INGRESS);
}

/* Which of the two licences of this file the kernel gets: bpf_fib_lookup is for GPL programs only. */
char LICENSE[] SEC("license") = "GPL";
