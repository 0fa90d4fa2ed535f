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
 *                               ▲                        │ TCP
 *                               └─ [overlay_gro] ◀─ GRO ◀┘ (a veth pair, whose way back is for overlay_finish)
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
#define ICMP_DEST_UNREACH 3
#define ICMP_FRAG_NEEDED 4
#define IP_DF 0x4000
#define IP_MORE_OR_OFFSET 0x3fff /* either bit set: a fragment */
#define OUTER_TTL 64		 /* the default of a Linux socket, so flanneld's too */
#define FLOW_PORTS 0xc000		 /* IANA's dynamic ports, 49152 to 65535 (RFC 6335); no socket sends from them */
#define TICKS_SHIFT 12
#define UNWRAPS_FOR 2 /* units of now() that a peer's last proof holds */
#define DSCP 0xfc     /* of the type-of-service byte; the other two bits are ECN's (RFC 3168, 5) */
#define COPY_DSCP 1   /* a flag of struct config */

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
	__u16 flags;	/* COPY_DSCP */
	__u32 tun;	/* ifindex of flannel0 */
	/* ifindexes of the veth pair's ends; 0: there is none */
	__u32 gro;    /* what leaves here comes out merged at the other end */
	__u32 finish; /* what leaves here comes out with its checksums and segments done */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

/* Which subnet is behind which underlay address. Longest prefix wins, as in a routing table. */
struct subnet_key {
	__u32 prefixlen; /* bits of address that count */
	__be32 address;
};

struct peer {
	__be32 address;
	__u32 unwrapped; /* when its kernel last proved to unwrap (see overlay_finish), as now() tells it; 0: not lately */
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1 << 17); /* twice the /24 subnets of a /8; memory is taken as entries come */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct subnet_key);
	__type(value, struct peer);
} peers SEC(".maps");

/* The underlay addresses of all peers, asked only when a datagram is refused: to tell a stranger from a peer. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 17);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __be32);
	__type(value, __u32);
} senders SEC(".maps");

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

/* Time in units of 4,096 of the kernel's ticks, from 4 s (HZ=1000) to 41 s (HZ=100): one load, where a clock is a call. */
static __always_inline __u32 now(void)
{
	return bpf_jiffies64() >> TICKS_SHIFT;
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
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

	return bpf_map_lookup_elem(&peers, &key);
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
 * paths spread flows; flanneld looks only at the address. */
static __always_inline __be16 flow_port(__u32 hash)
{
	return bpf_htons(FLOW_PORTS | ((hash ^ hash >> 16) & ~FLOW_PORTS & 0xffff));
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
	const struct config *own = bpf_map_lookup_elem(&config, &zero);
	struct bpf_fib_lookup route;
	const struct peer *peer;
	const struct iphdr *ip;
	struct outer *outer;
	struct iphdr *inner;
	struct ethhdr *eth;
	__be16 source_port;
	__u8 tos;
	int finished;
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
	if (!length || (!skb->gso_size && bpf_ntohs(ip->tot_len) != skb->len))
		return slow_path(SLOW_TX_OTHER);
	if (length > 0xffff - sizeof(struct outer))
		return slow_path(SLOW_TX_TOO_BIG);

	tos = own->flags & COPY_DSCP ? ip->tos & DSCP : 0;
	source_port = flow_port(flow_hash(skb, ip));
	answer = find_route(skb, own, peer->address, source_port, tos, length + sizeof(*outer), &route);
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

	/* A peer leaves IP options to its slow path, even if it unwraps otherwise. */
	finished = !own->finish || (now() - peer->unwrapped <= UNWRAPS_FOR && ip->ihl == 5);

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
	count_carried(TX_PACKETS, segments, bytes);

	return finished ? send(&route, answer) : bpf_redirect(own->finish, 0);
}

/* Who sends TCP leaves its checksum, and cutting a train into segments, to the NIC. A NIC that knows tunnels does
 * both on the inner packet; for one that does not, the kernel does. But a virtual wire, such as veth, carries the
 * packet as it is, and while a kernel at the other end can go on with that, a process behind a socket (flanneld, or
 * our slow path) reads a packet with a wrong checksum. So packets for peers that are not known to unwrap in the
 * kernel go through a device that has no offloads, where the kernel must finish them, and come out here. A peer
 * that unwraps sends from flow ports, and no socket of a tunnel does; so overlay_decap knows. What it knows ages, for
 * the peer's next agent may be one with a socket, and nothing that its pods get would make them answer. */
SEC("tc")
int overlay_finish(struct __sk_buff *skb)
{
	__u32 zero = 0;
	const struct config *own = bpf_map_lookup_elem(&config, &zero);
	const struct outer *outer = header(skb, sizeof(struct ethhdr), sizeof(*outer));
	struct bpf_fib_lookup route;
	long answer;

	if (!own || !outer || skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_SHOT; /* nobody else has business here */
	answer = find_route(skb, own, outer->ip.daddr, outer->udp.source, outer->ip.tos,
			    bpf_ntohs(outer->ip.tot_len), &route);
	if (answer != BPF_FIB_LKUP_RET_SUCCESS && answer != BPF_FIB_LKUP_RET_NO_NEIGH)
		return drop(DROP_TX_SEND);
	return send(&route, answer);
}

/* ----------------------------------------------------------------------------------- underlay, ingress: decap ---- */

static __always_inline int refuse(const struct iphdr *outer, enum counter cause)
{
	return drop(bpf_map_lookup_elem(&senders, &outer->saddr) ? cause : DROP_OUTER_SOURCE);
}

/* A router on the way says "too big" (RFC 1191) and quotes our datagram, whose source port is a flow's hash that no
 * socket has. With the socket's own port in the quote, the kernel finds the socket, and notes the path's MTU in the
 * routing table as for any UDP sender; from then on the lookup in overlay_encap sees it. The ICMP checksum is
 * mended to match. */
static __always_inline int path_mtu(struct __sk_buff *skb, __u32 at, const struct config *own)
{
	struct message {
		struct iphdr ip;
		__u8 type, code;
		__be16 checksum;
		__be16 unused, next_hop_mtu;
		struct outer quoted;
	} *message;
	__be16 port;

	message = header(skb, at, sizeof(*message));
	if (!message || message->ip.ihl != 5 || message->ip.daddr != own->address ||
	    message->type != ICMP_DEST_UNREACH || message->code != ICMP_FRAG_NEEDED ||
	    message->quoted.ip.ihl != 5 || message->quoted.ip.protocol != IPPROTO_UDP ||
	    message->quoted.ip.saddr != own->address || message->quoted.udp.dest != own->port ||
	    message->quoted.udp.source == own->port || !bpf_map_lookup_elem(&senders, &message->quoted.ip.daddr))
		return NEXT_FILTER;
	port = message->quoted.udp.source;
	/* Both changes together leave the packet's sum as it was, so a checksum that the NIC summed up stays right. */
	bpf_l4_csum_replace(skb, at + offsetof(struct message, checksum), port, own->port, sizeof(port));
	bpf_skb_store_bytes(skb, at + offsetof(struct message, quoted.udp.source), &own->port, sizeof(port), 0);
	count(ICMP_TOO_BIG, 1);
	return NEXT_FILTER;
}

/* `at`: bytes of link layer before the outer IP header. A constant in each program, so the compiler folds it in. */
static __always_inline int decapsulate(struct __sk_buff *skb, const __u32 at)
{
	__u32 zero = 0, payload, length, header_length, headers = 0, segments;
	const struct config *own = bpf_map_lookup_elem(&config, &zero);
	const struct outer *outer;
	struct iphdr *inner;
	struct peer *peer;
	__u32 unwrapped;
	__u8 protocol;

	/* As the IP stack would: not what is addressed to another machine, and not what is in a VLAN, whose own
	 * interface sees it next. */
	if (!own || !own->address || skb->protocol != bpf_htons(ETH_P_IP) || skb->vlan_present ||
	    skb->pkt_type != PACKET_HOST)
		return NEXT_FILTER;
	outer = header(skb, at, sizeof(*outer));
	if (!outer || outer->ip.daddr != own->address || outer->ip.version != 4)
		return NEXT_FILTER;
	if (outer->ip.ihl == 5 && header_sum(&outer->ip) != 0xffff)
		return NEXT_FILTER; /* damaged on the way: the stack drops it, and counts that where people look for it */
	if (outer->ip.protocol == IPPROTO_ICMP)
		return path_mtu(skb, at, own);
	if (outer->ip.protocol != IPPROTO_UDP)
		return NEXT_FILTER;
	if (outer->ip.frag_off & bpf_htons(IP_MORE_OR_OFFSET)) {
		/* Which port it is for, only a first fragment knows; the stack puts them together for the socket. */
		if (!(outer->ip.frag_off & bpf_htons(0x1fff)) && outer->udp.dest == own->port)
			count(SLOW_RX_FRAGMENT, 1);
		return NEXT_FILTER;
	}
	if (outer->ip.ihl != 5 || outer->udp.dest != own->port)
		return NEXT_FILTER;

	/* It is for the tunnel. Is it a packet, from the peer that may send it, for us? */
	payload = bpf_ntohs(outer->udp.len) - sizeof(struct udphdr);
	if (payload > 0xffff || payload < sizeof(*inner))
		return refuse(&outer->ip, DROP_MALFORMED);
	inner = header(skb, at + sizeof(*outer), sizeof(*inner));
	if (!inner)
		return drop(DROP_MALFORMED); /* cut short on the way */
	outer = (void *)inner - sizeof(*outer);
	if ((void *)outer < (void *)(long)skb->data)
		return drop(DROP_MALFORMED); /* cannot be; the verifier does not know */
	header_length = inner->ihl * 4;
	length = bpf_ntohs(inner->tot_len);
	if (inner->version != 4 || header_length < sizeof(*inner) || length < header_length || length > payload)
		return refuse(&outer->ip, DROP_MALFORMED);
	if (header_length == sizeof(*inner) && header_sum(inner) != 0xffff)
		return refuse(&outer->ip, DROP_CHECKSUM);
	peer = peer_of(inner->saddr);
	if (!peer || peer->address != outer->ip.saddr || (inner->saddr & own->netmask) == own->subnet)
		return refuse(&outer->ip, DROP_INNER_SOURCE);
	if ((inner->daddr & own->netmask) != own->subnet)
		return drop(DROP_INNER_DESTINATION);

	/* It may come in. Where did its sender wrap it: in the kernel, with a flow's port, or behind a socket? */
	unwrapped = outer->udp.source != own->port && bpf_ntohs(outer->udp.source) >= FLOW_PORTS ? now() : 0;
	if (peer->unwrapped != unwrapped)
		peer->unwrapped = unwrapped;

	/* What is unusual takes the socket: IP options; bytes behind the packet; a train of datagrams that
	 * GRO built for the socket (one skb, but the first inner packet ends before it does). */
	if (header_length != sizeof(*inner))
		return slow_path(SLOW_RX_OPTIONS);
	if (skb->gso_size && length < payload) {
		count(SLOW_RX_TRAIN, skb->gso_segs > 1 ? skb->gso_segs : 1);
		return NEXT_FILTER;
	}
	if (length != payload || bpf_ntohs(outer->ip.tot_len) != payload + sizeof(*outer) ||
	    skb->len < at + payload + sizeof(*outer))
		return slow_path(SLOW_RX_OTHER);
	if (inner->ttl <= 1)
		return slow_path(SLOW_RX_TTL);
	protocol = inner->protocol;
	segments = skb->gso_segs > 1 ? skb->gso_segs : 1;

	/* The first change: the outer headers go, the link layer's moves up to the inner packet. */
	if (bpf_skb_adjust_room(skb, -(__s32)sizeof(*outer), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return slow_path(SLOW_RX_OTHER);
	inner = header(skb, at, sizeof(*inner));
	if (!inner)
		return drop(DROP_RX_MEMORY);
	decrement_ttl(inner);
	if (segments > 1 && protocol == IPPROTO_TCP)
		headers = sizeof(struct iphdr) + sizeof(struct tcphdr);
	count_carried(RX_PACKETS, segments, length + (segments - 1) * headers);

	/* TCP is worth a detour through GRO: what it merges crosses the bridge, the firewall and the pod's socket
	 * once. A packet that already is a train has that behind it. */
	if (protocol == IPPROTO_TCP && !skb->gso_size && own->gro) {
		if (!at) { /* veth is an Ethernet device: it reads the protocol from a header that is not there yet */
			struct ethhdr eth = {.h_proto = bpf_htons(ETH_P_IP)};

			if (bpf_skb_change_head(skb, sizeof(eth), 0) ||
			    bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
				return drop(DROP_RX_MEMORY);
		}
		return bpf_redirect(own->gro, 0);
	}
	return bpf_redirect(own->tun, BPF_F_INGRESS);
}

SEC("tc")
int overlay_decap(struct __sk_buff *skb)
{
	return decapsulate(skb, sizeof(struct ethhdr));
}

/* For an underlay without Ethernet headers: a tunnel, PPP. */
SEC("tc")
int overlay_decap_l3(struct __sk_buff *skb)
{
	return decapsulate(skb, 0);
}

/* -------------------------------------------------------------------- the veth pair's other end, ingress: gro ---- */

/* Only overlay_decap sends here: what else turns up (a neighbour solicitation of the pair's own) has no business
 * here. */
SEC("tc")
int overlay_gro(struct __sk_buff *skb)
{
	__u32 zero = 0;
	const struct config *own = bpf_map_lookup_elem(&config, &zero);

	if (!own || skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_SHOT;
	return bpf_redirect(own->tun, BPF_F_INGRESS);
}

/* Which of the two licences of this file the kernel gets: bpf_fib_lookup is for GPL programs only. */
char LICENSE[] SEC("license") = "GPL";
