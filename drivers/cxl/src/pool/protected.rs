//! What the kernel keeps compute nodes from.

use dmrpc_core::store::Layout;

use super::Pool;
use crate::superblock::{Geometry, Mode};

impl Pool {
    /// Lets the kernel refuse what a compute node has no business to write, where it can: the
    /// superblock, and in flush mode all of the store but its pages, whose one owner is the memory
    /// node. A stray write there ends this process instead. To be called by processes that are
    /// neither the memory node nor share their mapping with it. Returns the bytes protected.
    ///
    /// The kernel cannot within huge pages. What another host has not written back cannot be read
    /// here, so the store is protected on the memory node's own host only. In coherent mode
    /// participants write to the store's tables themselves.
    pub fn protect(&self) -> u64 {
        let Geometry { participants_offset, store_offset, mode, .. } = self.geometry;
        let own_host = crate::process::own_host();
        let knows_store = mode == Mode::Flush && self.table().host_of(0) == Some(own_host);
        let layout = knows_store.then(|| Layout::of(&self.store_memory()).ok()).flatten();
        let tables = layout.map_or(0, |layout| layout.frame_base());
        [(0, participants_offset), (store_offset, tables)]
            .into_iter()
            .filter(|(offset, bytes)| self.mapping.protect(*offset, *bytes))
            .map(|(_, bytes)| bytes)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use dmrpc_core::store::{Config, Store};

    use super::*;
    use crate::Mapping;
    use crate::pool::{Overwrite, PoolConfig};

    /// How the kernel lets this process use the page at an address.
    fn rights_at(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux");
        let line = maps.lines().find(|line| {
            let mut ends = line.split([' ', '-']).map(|end| usize::from_str_radix(end, 16).ok());
            let (start, end) = (ends.next().flatten(), ends.next().flatten());
            start.is_some_and(|start| start <= address) && end.is_some_and(|end| address < end)
        });
        line.expect("mapped").split(' ').nth(1).expect("rights").to_owned()
    }

    #[test]
    fn the_kernel_keeps_compute_nodes_from_what_is_not_theirs() {
        for mode in [Mode::Coherent, Mode::Flush] {
            let mapping = Mapping::memfd("dmrpc-protected", 32 << 20).expect("memory");
            let path = mapping.path().to_owned();
            let config = PoolConfig { ring_participants: 4, ..PoolConfig::default() };
            let pool = Pool::format(mapping, mode, &config, (5, [7; 2]), Overwrite::Unused);
            let pool = pool.expect("room");
            let _node = pool.attach(Some(0), 1).expect("free");
            let bytes = pool.geometry().store_bytes;
            let config = Config { participants: 1, ..Config::for_pool_bytes(bytes) };
            let store = Store::format(pool.store_memory(), &config).expect("room");
            // A process of its own, as far as its mapping goes.
            let theirs =
                Pool::open(Mapping::open(&path).expect("it is there"), mode).expect("a pool");
            let tables = Layout::of(&pool.store_memory()).expect("a store").frame_base();
            let expected = 4096 + if mode == Mode::Flush { tables } else { 0 };
            assert_eq!(theirs.protect(), expected, "{mode}");
            let geometry = theirs.geometry();
            // The store begins where its mapping does, and so on.
            let base = theirs.mapping.address();
            let at = |offset: u64| rights_at(base + offset as usize);
            assert_eq!(at(0), "r--s", "{mode}: the superblock");
            assert_eq!(at(geometry.participants_offset), "rw-s", "{mode}: slots");
            assert_eq!(at(geometry.rings_offset), "rw-s", "{mode}: rings");
            let of_tables = if mode == Mode::Flush { "r--s" } else { "rw-s" };
            assert_eq!(at(geometry.store_offset), of_tables, "{mode}: the store's superblock");
            assert_eq!(at(geometry.store_offset + tables - 1), of_tables, "{mode}: its last node");
            assert_eq!(at(geometry.store_offset + tables), "rw-s", "{mode}: its first page");
            assert!(at(geometry.pool_bytes - 1).starts_with("rw"), "{mode}: its last page");
            drop(store);
        }
    }
}
