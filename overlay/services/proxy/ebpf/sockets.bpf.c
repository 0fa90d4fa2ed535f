// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Services at the socket: a backend takes the virtual address's place before there is a packet.
 *
 *     connect(10.96.0.7:80) ──▶ [connect4] ──▶ the kernel connects to 10.0.39.2:8080
 *     sendto(10.96.0.10:53) ──▶ [sendmsg4] ──▶ … sends to 10.0.58.3:5353
 *     recvfrom() = 10.96.0.10:53 ◀── [recvmsg4] ◀── the answer of 10.0.58.3:5353
 *     getpeername() = 10.96.0.7:80 ◀── [getpeername4] ◀── 10.0.39.2:8080
 *
 * The programs stand at the root of the cgroup tree (version 2), so every process of the machine passes them, in
 * whatever network namespace. A process with an IPv6 socket that speaks to an IPv4 address (::ffff:10.96.0.7, as Java
 * does) passes those whose names end in 6; real IPv6 addresses are left alone.
 *
 * Three rules shape the code:
 *
 * 1. What is not known here is left as it is: an address that is no Service's, a Service without backends, a protocol
 *    without a socket hook. Packets to it meet the rules of nftables beneath, which know all of them, and refuse with
 *    the ICMP error that a connect turns into ECONNREFUSED. So a program never refuses, and always returns ALLOW.
 * 2. A backend is chosen once: by connect for its connection, by the first datagram for a UDP socket. From then on the
 *    socket keeps it until it is not a backend any more.
 * 3. Only sockets of network namespaces that are known to be inside the cluster (the node's, pods') are translated. From
 *    another, as of a container on a Docker network of its own, a backend's own address may be out of reach, where the
 *    rules beneath, which know what they have translated, lead through.
 *
 * How a Service changes under running programs: its backends stand side by side in one array, and the entry in `services`
 * says where and how many. New backends are written to places that nobody reads; then the entry is replaced, which is
 * atomic. Places are used again only long after (slots.py), and each backend names its pool, so that who read the
 * entry before and the backend after sees it, and looks again.
 *
 * Needs Linux 5.8 (getpeername; the cookie of a network namespace is 5.7's). No loops, no BTF of the running kernel.
 */
#include <linux/bpf.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ALLOW 1
#define MAPPED 0xffff	   /* third word of an IPv4 address within IPv6 (RFC 4291, 2.5.5.2) */
#define SECOND 1000000000ULL /* nanoseconds */

/* ------------------------------------------------------------------------------------------------------- maps ---- */

/* Addresses and ports are in network order everywhere. The layouts are known to layout.py. */
struct address {
	__be32 ip;
	__be16 port;
	__u16 zero;
};

/* A virtual address: ClusterIP, external or load balancer's address, a node's own with a node port. */
struct service_key {
	__be32 ip;
	__be16 port;
	__u16 protocol;
};

struct service {
	__u32 pool;	/* the backends that it shares with other addresses of the same port of a Service */
	__u32 first;	/* index of the first one in `backends` */
	__u32 count;	/* 0: there is none */
	__u32 affinity; /* seconds that a client keeps its backend after its last connection (ClientIP); 0: it does not */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 17);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

struct backend {
	struct address at;
	__u32 pool;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << 18);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

/* The same backends as a set, and those that serve while they terminate: whether one that was chosen before may be kept,
 * by a UDP socket (READY or DRAINING) or by a client's next connection (READY alone). */
#define READY 1
#define DRAINING 2
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 18);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct backend);
	__type(value, __u32);
} members SEC(".maps");

/* Which virtual address a socket means by a backend's: for answers, and for who asks whom it is connected to. */
struct socket_peer {
	__u64 cookie;
	struct address at;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 17);
	__type(key, struct socket_peer);
	__type(value, struct address);
} reverse SEC(".maps");

/* What a UDP socket has for a virtual address. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, struct socket_peer);
	__type(value, struct backend);
} choices SEC(".maps");

/* ClientIP: a client is a network namespace, for the address that a socket will have is not known before it connects,
 * and all sockets of a namespace have the same one towards a Service, as a rule. */
struct client {
	__u64 namespace;
	__u32 pool;
	__u32 zero;
};

struct kept {
	struct address at;
	__u64 used; /* when it connected last: nanoseconds of CLOCK_MONOTONIC */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, struct client);
	__type(value, struct kept);
} affinities SEC(".maps");

/* Network namespaces (their cookies) whose sockets are inside the cluster; which those are is inside.py's to know. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} inside SEC(".maps");

/* The order is known to layout.py. */
enum counter {
	CHOSEN,	 /* a backend was chosen anew */
	KEPT,	 /* the client's or the socket's own was taken again */
	MISSING, /* a Service without backends: left to the rules beneath */
	COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 which)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &which);

	if (counter)
		*counter += 1;
}

/* ---------------------------------------------------------------------------------------------------- choosing ---- */

/* READY, DRAINING, or 0: it is none of the pool's. */
static __always_inline __u32 membership(__u32 pool, const struct address *at)
{
	struct backend backend = {.at = *at, .pool = pool};
	const __u32 *state = bpf_map_lookup_elem(&members, &backend);

	return state ? *state : 0;
}

/* Any backend of the Service at `key`; false if there is none. */
static __always_inline int draw(const struct service_key *key, struct backend *drawn)
{
	__u32 random = bpf_get_prandom_u32();

#pragma unroll
	for (int attempt = 0; attempt < 2; attempt++) {
		const struct service *service = bpf_map_lookup_elem(&services, key);
		if (!service || service->count == 0)
			return 0;
		__u32 pool = service->pool, at = service->first + random % service->count;
		const struct backend *backend = bpf_map_lookup_elem(&backends, &at);
		if (backend && backend->pool == pool) {
			*drawn = *backend;
			return 1;
		}
	}
	return 0; /* twice changed between two lines of ours */
}

static __always_inline int is_inside(struct bpf_sock_addr *ctx)
{
	__u64 namespace = bpf_get_netns_cookie(ctx);

	return bpf_map_lookup_elem(&inside, &namespace) != NULL;
}

/* The backend of this socket for the virtual address `key`; false: leave the packet to the rules beneath. */
static __always_inline int choose(struct bpf_sock_addr *ctx, const struct service_key *key, struct address *chosen)
{
	const struct service *service = bpf_map_lookup_elem(&services, key);
	if (!service || !is_inside(ctx))
		return 0;
	if (service->count == 0) {
		count(MISSING);
		return 0;
	}
	__u32 affinity = service->affinity, pool = service->pool;
	struct socket_peer socket = {.cookie = bpf_get_socket_cookie(ctx), .at = {.ip = key->ip, .port = key->port}};
	struct client client = {.pool = pool};
	struct backend drawn = {};
	struct kept *kept = NULL;
	__u64 now = 0;

	if (key->protocol == IPPROTO_UDP) {
		const struct backend *before = bpf_map_lookup_elem(&choices, &socket);
		if (before && before->pool == pool && membership(pool, &before->at)) {
			*chosen = before->at;
			count(KEPT);
			return 1;
		}
	}
	if (affinity) {
		now = bpf_ktime_get_ns();
		client.namespace = bpf_get_netns_cookie(ctx);
		kept = bpf_map_lookup_elem(&affinities, &client);
	}
	if (kept && now - kept->used < affinity * SECOND && membership(pool, &kept->at) == READY) {
		drawn.at = kept->at;
		drawn.pool = pool;
		kept->used = now;
		count(KEPT);
	} else {
		if (!draw(key, &drawn))
			return 0;
		count(CHOSEN);
		if (affinity) {
			struct kept fresh = {.at = drawn.at, .used = now};
			client.pool = drawn.pool;
			bpf_map_update_elem(&affinities, &client, &fresh, BPF_ANY);
		}
	}
	if (key->protocol == IPPROTO_UDP)
		bpf_map_update_elem(&choices, &socket, &drawn, BPF_ANY);
	*chosen = drawn.at;
	return 1;
}

/* Puts a backend in the place of the virtual address `at`; whether it did. */
static __always_inline int translate(struct bpf_sock_addr *ctx, struct address *at)
{
	struct service_key key = {.ip = at->ip, .port = at->port, .protocol = ctx->protocol};
	struct socket_peer peer = {};

	if (!choose(ctx, &key, &peer.at))
		return 0;
	peer.cookie = bpf_get_socket_cookie(ctx);
	const struct address *known = bpf_map_lookup_elem(&reverse, &peer);
	if (!known || known->ip != at->ip || known->port != at->port) {
		struct address virtual = *at;
		bpf_map_update_elem(&reverse, &peer, &virtual, BPF_ANY);
	}
	*at = peer.at;
	return 1;
}

/* A UDP socket that is connected anew, to a backend itself, means that one from now on. */
static __always_inline void forget(struct bpf_sock_addr *ctx, const struct address *at)
{
	if (ctx->protocol != IPPROTO_UDP)
		return;
	struct socket_peer peer = {.cookie = bpf_get_socket_cookie(ctx), .at = *at};
	if (bpf_map_lookup_elem(&reverse, &peer))
		bpf_map_delete_elem(&reverse, &peer);
}

/* Puts the virtual address in the place of a backend's; whether this socket has one for it. */
static __always_inline int restore(struct bpf_sock_addr *ctx, struct address *at)
{
	struct socket_peer peer = {.cookie = bpf_get_socket_cookie(ctx), .at = *at};
	const struct address *virtual = bpf_map_lookup_elem(&reverse, &peer);

	if (!virtual)
		return 0;
	*at = *virtual;
	return 1;
}

/* ---------------------------------------------------------------------------------------------------- programs ---- */

static __always_inline struct address read4(const struct bpf_sock_addr *ctx)
{
	struct address at = {.ip = ctx->user_ip4, .port = (__be16)ctx->user_port};

	return at;
}

static __always_inline void write4(struct bpf_sock_addr *ctx, const struct address *at)
{
	ctx->user_ip4 = at->ip;
	ctx->user_port = at->port;
}

static __always_inline int is_mapped(const struct bpf_sock_addr *ctx)
{
	return ctx->user_ip6[0] == 0 && ctx->user_ip6[1] == 0 && ctx->user_ip6[2] == bpf_htonl(MAPPED);
}

static __always_inline struct address read6(const struct bpf_sock_addr *ctx)
{
	struct address at = {.ip = ctx->user_ip6[3], .port = (__be16)ctx->user_port};

	return at;
}

static __always_inline void write6(struct bpf_sock_addr *ctx, const struct address *at)
{
	ctx->user_ip6[3] = at->ip; /* the words before it say already that it is mapped */
	ctx->user_port = at->port;
}

SEC("cgroup/connect4")
int overlay_connect4(struct bpf_sock_addr *ctx)
{
	struct address at = read4(ctx);

	if (translate(ctx, &at))
		write4(ctx, &at);
	else
		forget(ctx, &at);
	return ALLOW;
}

SEC("cgroup/connect6")
int overlay_connect6(struct bpf_sock_addr *ctx)
{
	if (!is_mapped(ctx))
		return ALLOW;
	struct address at = read6(ctx);
	if (translate(ctx, &at))
		write6(ctx, &at);
	else
		forget(ctx, &at);
	return ALLOW;
}

/* Also for a mapped address: the kernel has made an IPv4 one of it by then. */
SEC("cgroup/sendmsg4")
int overlay_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct address at = read4(ctx);

	if (translate(ctx, &at))
		write4(ctx, &at);
	return ALLOW;
}

static __always_inline int restore4(struct bpf_sock_addr *ctx)
{
	struct address at = read4(ctx);

	if (restore(ctx, &at))
		write4(ctx, &at);
	return ALLOW;
}

static __always_inline int restore6(struct bpf_sock_addr *ctx)
{
	if (!is_mapped(ctx))
		return ALLOW;
	struct address at = read6(ctx);
	if (restore(ctx, &at))
		write6(ctx, &at);
	return ALLOW;
}

SEC("cgroup/recvmsg4")
int overlay_recvmsg4(struct bpf_sock_addr *ctx)
{
	return restore4(ctx);
}

SEC("cgroup/recvmsg6")
int overlay_recvmsg6(struct bpf_sock_addr *ctx)
{
	return restore6(ctx);
}

SEC("cgroup/getpeername4")
int overlay_getpeername4(struct bpf_sock_addr *ctx)
{
	return restore4(ctx);
}

SEC("cgroup/getpeername6")
int overlay_getpeername6(struct bpf_sock_addr *ctx)
{
	return restore6(ctx);
}

char LICENSE[] SEC("license") = "GPL"; /* one of the two that this file has */
