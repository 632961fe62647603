//! A memory node's account of itself, as text lines in pages that fit an answer.

use core::fmt::Write;

use super::memory_node::{MemoryNode, OPERATIONS};
use crate::endpoint::host::{Reply, SessionId};
use crate::memory::Memory;
use crate::store::{HolderUsage, Usage};
use crate::wire::message::{HEAD_BYTES_MAX, Status};

/// Counters on a page.
const COUNTERS_A_PAGE: usize = 12;
/// Sessions on a page: six lines each of some 40 bytes.
const SESSIONS_A_PAGE: usize = 3;

impl<M: Memory> MemoryNode<'_, M> {
    /// Answers [`Method::STATISTICS`](crate::wire::message::Method::STATISTICS): page `n` (a u16 in
    /// the parameters) of lines `name value`; past the last page, nothing.
    pub(super) fn statistics_page(&self, parameters: &[u8], reply: &mut Reply<'_>) {
        let Ok(page) = <[u8; 2]>::try_from(parameters) else {
            return reply.head(Status::MALFORMED, &[], &[]);
        };
        reply.head(Status::OK, &[], &[]);
        let mut text = heapless::String::<HEAD_BYTES_MAX>::new();
        let written = match u16::from_le_bytes(page) {
            page @ 0..=1 => self.pools_page(page.into(), &mut text),
            page @ 2..=3 => self.operations_page(usize::from(page) - 2, &mut text),
            page @ 4..=5 => self.counters_page(usize::from(page) - 4, &mut text),
            page => self.sessions_page(usize::from(page) - 6, &mut text),
        };
        let room = reply.inline_room();
        debug_assert!(written.is_ok() && text.len() <= room, "a page fits an answer");
        reply.body(&text.as_bytes()[..text.len().min(room)]);
    }

    fn pools_page(&self, page: usize, out: &mut impl Write) -> core::fmt::Result {
        let stats = self.store.stats();
        let pools: [(&str, Usage); 8] = [
            ("frames", stats.frames),
            ("nodes", stats.nodes),
            ("versions", stats.versions),
            ("regions", stats.regions),
            ("references", stats.entries),
            ("holders", stats.holders),
            ("pins", stats.pins),
            ("stages", stats.stages),
        ];
        for (name, usage) in &pools[page * 4..page * 4 + 4] {
            writeln!(out, "{name}_limit {}", usage.limit)?;
            writeln!(out, "{name}_in_use {}", usage.in_use)?;
            writeln!(out, "{name}_reserved {}", usage.reserved)?;
        }
        if page == 1 {
            writeln!(out, "detached {}", stats.detached)?;
            writeln!(out, "reclaiming {}", u8::from(self.store.pending()))?;
            writeln!(out, "refused_holders {}", self.refused_holders)?;
            self.backlog(out)?;
        }
        Ok(())
    }

    /// How much is being reclaimed, or waits for the grace of its owner that left.
    fn backlog(&self, out: &mut impl Write) -> core::fmt::Result {
        let backlog = self.store.backlog();
        writeln!(out, "reclaiming_versions {}", backlog.versions)?;
        writeln!(out, "reclaiming_stages {}", backlog.stages)?;
        writeln!(out, "holders_leaving {}", backlog.leaving)?;
        writeln!(out, "holders_in_grace {}", backlog.in_grace)?;
        writeln!(out, "holders_expiring {}", backlog.expiring)?;
        writeln!(out, "left_pages {}", backlog.pages)?;
        writeln!(out, "left_regions {}", backlog.regions)?;
        writeln!(out, "left_references {}", backlog.references)
    }

    fn operations_page(&self, page: usize, out: &mut impl Write) -> core::fmt::Result {
        let all = OPERATIONS.iter().zip(&self.operations);
        for (name, counts) in all.skip(page * 6).take(6) {
            writeln!(out, "{name}_done {}", counts.done)?;
            writeln!(out, "{name}_bytes {}", counts.bytes)?;
            writeln!(out, "{name}_failed {}", counts.failed)?;
        }
        Ok(())
    }

    /// What became of packets and requests: every kind that was dropped or refused. On the last
    /// page what the core's poll loop did.
    fn counters_page(&self, page: usize, out: &mut impl Write) -> core::fmt::Result {
        let (mut number, mut written) = (0, Ok(()));
        self.counters.for_each(|name, value| {
            if number / COUNTERS_A_PAGE == page && written.is_ok() {
                written = writeln!(out, "{name} {value}");
            }
            number += 1;
        });
        if page > 0 {
            for (name, value) in self.core.iter().filter(|(name, _)| !name.is_empty()) {
                writeln!(out, "{name} {value}")?;
            }
        }
        written
    }

    /// What a session holds; nothing if it is over.
    pub fn holdings(&self, session: SessionId) -> HolderUsage {
        let entry = self.sessions.get(session.index as usize);
        let known = entry.filter(|entry| entry.generation == session.generation);
        let holder = known.and_then(|entry| entry.holder);
        holder.and_then(|holder| self.store.holder_usage(holder).ok()).unwrap_or_default()
    }

    /// Who holds what: some sessions, by index. Nothing past the last one.
    fn sessions_page(&self, page: usize, out: &mut impl Write) -> core::fmt::Result {
        let first = page * SESSIONS_A_PAGE;
        if first >= self.sessions.len() {
            return Ok(());
        }
        let end = self.sessions.len().min(first + SESSIONS_A_PAGE);
        // A page is never empty before the last.
        writeln!(out, "sessions_listed {end}")?;
        for (index, session) in self.sessions.iter().enumerate().take(end).skip(first) {
            let usage = session.holder.and_then(|holder| self.store.holder_usage(holder).ok());
            let Some(usage) = usage else { continue };
            if let Some(peer) = session.peer {
                writeln!(out, "session_{index}_address {peer}")?;
            }
            writeln!(out, "session_{index}_incarnation {}", session.incarnation)?;
            writeln!(out, "session_{index}_pages {}", usage.pages)?;
            writeln!(out, "session_{index}_regions {}", usage.regions)?;
            writeln!(out, "session_{index}_references {}", usage.entries)?;
            writeln!(out, "session_{index}_pins {}", session.pins)?;
        }
        Ok(())
    }
}
