#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>

#include <rte_prefetch.h>

/* Packets ahead of the one that is looked at whose first line is fetched. */
#define AHEAD 4

uint16_t shim_headroom(void)
{
	return RTE_PKTMBUF_HEADROOM;
}

uint64_t shim_several_pieces(void)
{
	return RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
}

uint64_t shim_send_checksums(void)
{
	return RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
}

uint64_t shim_receive_checksums(void)
{
	return RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
}

#define TEXT_OF(number) #number
#define RELEASE(year, month) TEXT_OF(year) "." TEXT_OF(month)

const char *shim_compiled_release(void)
{
	return RELEASE(RTE_VER_YEAR, RTE_VER_MONTH);
}

int shim_errno(void)
{
	return rte_errno;
}

uint32_t shim_pieces(const struct rte_mempool *pool)
{
	return pool->nb_mem_chunks;
}

static inline void describe(const struct rte_mbuf *mbuf, struct shim_frame *frame)
{
	frame->data = rte_pktmbuf_mtod(mbuf, uint8_t *);
	frame->bytes = mbuf->data_len;
	frame->whole = mbuf->nb_segs == 1;
	frame->bad = (mbuf->ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK) == RTE_MBUF_F_RX_IP_CKSUM_BAD ||
		     (mbuf->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_BAD;
}

uint16_t shim_receive(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs,
		      struct shim_frame *frames, uint16_t count)
{
	const uint16_t got = rte_eth_rx_burst(port, queue, mbufs, count);

	for (uint16_t i = 0; i < got; i++) {
		describe(mbufs[i], &frames[i]);
		if (i < AHEAD)
			rte_prefetch0(frames[i].data);
	}
	return got;
}

int shim_linearize(struct rte_mbuf *mbuf, struct shim_frame *frame)
{
	if (rte_pktmbuf_linearize(mbuf) != 0)
		return 0;
	describe(mbuf, frame);
	return 1;
}

int shim_allocate(struct rte_mempool *pool, struct rte_mbuf **mbufs, uint8_t **data,
		  uint16_t count)
{
	if (rte_pktmbuf_alloc_bulk(pool, mbufs, count) != 0)
		return 0;
	for (uint16_t i = 0; i < count; i++)
		data[i] = rte_pktmbuf_mtod(mbufs[i], uint8_t *);
	return 1;
}

/* Never called: one count is always left. */
static void none_left(void *address, void *opaque)
{
	(void)address;
	(void)opaque;
}

static inline struct rte_mbuf_ext_shared_info *shared_of(struct shim_account *account)
{
	_Static_assert(sizeof(struct rte_mbuf_ext_shared_info) <= sizeof(*account), "room for it");
	return (void *)account;
}

void shim_open_account(struct shim_account *account)
{
	struct rte_mbuf_ext_shared_info *shared = shared_of(account);

	shared->free_cb = none_left;
	shared->fcb_opaque = NULL;
	rte_mbuf_ext_refcnt_set(shared, 1);
}

void shim_charge(struct shim_account *account, uint16_t loans)
{
	__atomic_fetch_add(&shared_of(account)->refcnt, loans, __ATOMIC_RELAXED);
}

uint16_t shim_charged(const struct shim_account *account)
{
	const struct rte_mbuf_ext_shared_info *shared = (const void *)account;

	return (uint16_t)(__atomic_load_n(&shared->refcnt, __ATOMIC_ACQUIRE) - 1);
}

void shim_lend(struct rte_mbuf *head, struct rte_mbuf *piece, const uint8_t *address,
	       uint16_t bytes, struct shim_account *account)
{
	rte_pktmbuf_attach_extbuf(piece, (void *)(uintptr_t)address, (rte_iova_t)(uintptr_t)address,
				  bytes, shared_of(account));
	piece->data_len = bytes;
	piece->pkt_len = bytes;
	head->next = piece;
	head->nb_segs = 2;
}

/* Says how long a packet is whose first buffer has `bytes` bytes. */
static inline void set_length(struct rte_mbuf *mbuf, uint32_t bytes)
{
	mbuf->data_len = (uint16_t)bytes;
	mbuf->pkt_len = bytes;
	if (mbuf->nb_segs > 1)
		mbuf->pkt_len += mbuf->next->data_len;
}

struct rte_mbuf *shim_copy(struct rte_mbuf *mbuf, uint32_t bytes, struct rte_mempool *pool)
{
	set_length(mbuf, bytes);
	return rte_pktmbuf_copy(mbuf, pool, 0, mbuf->pkt_len);
}

/* Asks the device for the checksums of a packet whose first buffer has `bytes` bytes, if it is a
 * whole UDP datagram in IPv4 without options. */
static inline void ask_for_checksums(struct rte_mbuf *mbuf, uint32_t bytes)
{
	struct rte_ether_hdr *ether = rte_pktmbuf_mtod(mbuf, struct rte_ether_hdr *);
	struct rte_ipv4_hdr *ip = (void *)(ether + 1);
	struct rte_udp_hdr *udp = (void *)(ip + 1);

	if (bytes < sizeof(*ether) + sizeof(*ip) + sizeof(*udp) ||
	    ether->ether_type != RTE_BE16(RTE_ETHER_TYPE_IPV4) || ip->version_ihl != 0x45 ||
	    ip->next_proto_id != IPPROTO_UDP ||
	    (ip->fragment_offset & ~RTE_BE16(RTE_IPV4_HDR_DF_FLAG)) != 0)
		return;
	mbuf->ol_flags |= RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_IP_CKSUM | RTE_MBUF_F_TX_UDP_CKSUM;
	mbuf->l2_len = sizeof(*ether);
	mbuf->l3_len = sizeof(*ip);
	mbuf->l4_len = sizeof(*udp);
	ip->hdr_checksum = 0;
	udp->dgram_cksum = rte_ipv4_phdr_cksum(ip, mbuf->ol_flags);
}

uint16_t shim_send(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, const uint32_t *bytes,
		   uint16_t count, int checksums)
{
	if (checksums)
		for (uint16_t i = 0; i < count; i++)
			ask_for_checksums(mbufs[i], bytes[i]);
	for (uint16_t i = 0; i < count; i++)
		set_length(mbufs[i], bytes[i]);
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

int shim_steer(uint16_t port, uint32_t address, uint16_t source_port, uint16_t queue,
	       const char **said)
{
	const struct rte_flow_attr attr = { .ingress = 1 };
	const struct rte_flow_item_ipv4 ip = { .hdr.src_addr = address };
	const struct rte_flow_item_ipv4 ip_mask = { .hdr.src_addr = UINT32_MAX };
	const struct rte_flow_item_udp udp = { .hdr.src_port = source_port };
	const struct rte_flow_item_udp udp_mask = { .hdr.src_port = UINT16_MAX };
	const struct rte_flow_item pattern[] = {
		{ .type = RTE_FLOW_ITEM_TYPE_ETH },
		{ .type = RTE_FLOW_ITEM_TYPE_IPV4, .spec = &ip, .mask = &ip_mask },
		{ .type = RTE_FLOW_ITEM_TYPE_UDP, .spec = &udp, .mask = &udp_mask },
		{ .type = RTE_FLOW_ITEM_TYPE_END },
	};
	const struct rte_flow_action_queue target = { .index = queue };
	const struct rte_flow_action actions[] = {
		{ .type = RTE_FLOW_ACTION_TYPE_QUEUE, .conf = &target },
		{ .type = RTE_FLOW_ACTION_TYPE_END },
	};
	struct rte_flow_error error = { .message = NULL };

	if (rte_flow_create(port, &attr, pattern, actions, &error) != NULL)
		return 0;
	*said = error.message;
	return rte_errno != 0 ? -rte_errno : -ENOTSUP;
}

int shim_socket(const struct rte_mempool *pool)
{
	return pool->socket_id;
}

void shim_spread(struct rte_eth_conf *conf, uint64_t offers)
{
	const uint64_t kinds = RTE_ETH_RSS_IPV4 | RTE_ETH_RSS_NONFRAG_IPV4_UDP;

	if ((offers & kinds) == 0)
		return;
	conf->rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
	conf->rx_adv_conf.rss_conf.rss_hf = offers & kinds;
}

static ssize_t log_text(void *cookie, const char *text, size_t length)
{
	((shim_said)cookie)(text, length, (uint32_t)rte_log_cur_msg_loglevel());
	return (ssize_t)length;
}

FILE *shim_open_log(shim_said said)
{
	cookie_io_functions_t functions = { .write = log_text };
	FILE *stream = fopencookie((void *)said, "a", functions);

	/* A text a call: the C library gathers what one print writes. */
	if (stream != NULL)
		setvbuf(stream, NULL, _IONBF, 0);
	return stream;
}
