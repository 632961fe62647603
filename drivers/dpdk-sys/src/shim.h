/* What the driver needs of DPDK's static inline functions, a burst a call. */
#ifndef DMRPC_SHIM_H
#define DMRPC_SHIM_H

#include <stdio.h>
#include <rte_alarm.h>
#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_ip.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_udp.h>
#include <rte_version.h>

/* What a port offers that sends packets of several pieces. */
uint64_t shim_several_pieces(void);

/* What a port offers that computes the checksums of IPv4 and of UDP, and that checks them. */
uint64_t shim_send_checksums(void);
uint64_t shim_receive_checksums(void);

/* Where the bytes of a packet lie. */
struct shim_frame {
	uint8_t *data;
	uint32_t bytes;
	/* Whether all of them lie there; else only the first `bytes` of the packet's first buffer. */
	uint16_t whole;
	/* Whether the device found a checksum of IPv4's or UDP's that is wrong. */
	uint16_t bad;
};

/* Room that every buffer keeps in front of a packet, in bytes. */
uint16_t shim_headroom(void);

/* The release that this was compiled against, such as "22.11": what shares one ABI. */
const char *shim_compiled_release(void);

/* The error that the last call on this thread left, as a positive errno. */
int shim_errno(void);

/* How many pieces of memory a pool is made of. */
uint32_t shim_pieces(const struct rte_mempool *pool);

/* Receives up to `count` packets. */
uint16_t shim_receive(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs,
		      struct shim_frame *frames, uint16_t count);

/* Makes one piece of a packet of several buffers, if the first has room. Returns whether it did. */
int shim_linearize(struct rte_mbuf *mbuf, struct shim_frame *frame);

/* Takes `count` empty buffers from a pool, all or none. Returns whether it did. */
int shim_allocate(struct rte_mempool *pool, struct rte_mbuf **mbufs, uint8_t **data,
		  uint16_t count);

/* A copy, in one piece, of a packet that is not sent yet and has `bytes` bytes in its first buffer;
 * null if the pool is empty. */
struct rte_mbuf *shim_copy(struct rte_mbuf *mbuf, uint32_t bytes, struct rte_mempool *pool);

/* How many loans are out: what DPDK knows as the count of an external buffer's users. */
struct shim_account {
	uint64_t words[3];
};

/* Makes an account without loans. */
void shim_open_account(struct shim_account *account);

/* Adds loans, to be made by shim_lend: fewer than 65,535 may be on an account at a time. */
void shim_charge(struct shim_account *account, uint16_t loans);

/* Loans that are on an account. */
uint16_t shim_charged(const struct shim_account *account);

/* Has packet `head` go on with `bytes` bytes at `address`, by the empty buffer `piece`, until the
 * device has no more use for them: then there is one loan less on `account`, on whatever thread. */
void shim_lend(struct rte_mbuf *head, struct rte_mbuf *piece, const uint8_t *address,
	       uint16_t bytes, struct shim_account *account);

/* Sends packets of the given lengths, which lie at the start of their buffers; what was lent comes
 * after that. With `checksums` the device is asked for those of UDP datagrams. Returns how many the
 * device took: those are its own from then on. */
uint16_t shim_send(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, const uint32_t *bytes,
		   uint16_t count, int checksums);

/* Has a port lead UDP datagrams from an IPv4 address and a port, both in network byte order, to one
 * of its queues. Returns 0, or a negative errno with the driver's explanation, which may be null. */
int shim_steer(uint16_t port, uint32_t address, uint16_t source_port, uint16_t queue,
	       const char **said);

/* Asks for datagrams to be spread over the queues by their flow, as far as a port `offers` that. */
void shim_spread(struct rte_eth_conf *conf, uint64_t offers);

/* What is told of each text that DPDK logs, on the thread that logs it, with its level. */
typedef void (*shim_said)(const char *text, size_t length, uint32_t level);

/* A stream for DPDK's log that calls `said`; null if there is no memory. */
FILE *shim_open_log(shim_said said);

/* The NUMA node that a pool was asked to be on; -1 for any. */
int shim_socket(const struct rte_mempool *pool);

#endif
