#include "shim.h"

#include <rte_prefetch.h>

/* Packets ahead of the one that is looked at whose first line is fetched. */
#define AHEAD 4

uint16_t shim_headroom(void)
{
	return RTE_PKTMBUF_HEADROOM;
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

struct rte_mbuf *shim_copy(struct rte_mbuf *mbuf, uint32_t bytes, struct rte_mempool *pool)
{
	mbuf->data_len = (uint16_t)bytes;
	mbuf->pkt_len = bytes;
	return rte_pktmbuf_copy(mbuf, pool, 0, bytes);
}

uint16_t shim_send(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, const uint32_t *bytes,
		   uint16_t count)
{
	for (uint16_t i = 0; i < count; i++) {
		mbufs[i]->data_len = (uint16_t)bytes[i];
		mbufs[i]->pkt_len = bytes[i];
	}
	return rte_eth_tx_burst(port, queue, mbufs, count);
}
