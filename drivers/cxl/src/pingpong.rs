//! The yardstick of shared memory: one cache line that goes to and fro between two cores.
//!
//! Nothing that two processes tell each other through memory can be faster. One side stores an odd
//! number and waits for the next even one; the other waits for the odd one and stores the even.

use dmrpc_core::memory::Memory;
use dmrpc_core::time::Duration;
use dmrpc_host::clock::Clock;

/// Says that the answering side shall end.
const END: u64 = u64::MAX;

/// Answers at `offset` until [`stop`].
pub fn answer(memory: &impl Memory, offset: u64) {
    loop {
        let number = memory.load_u64(offset);
        if number == END {
            return;
        }
        if number % 2 == 1 {
            memory.store_u64(offset, number + 1);
        } else {
            std::hint::spin_loop();
        }
    }
}

/// Makes `rounds` round trips with whoever runs [`answer`] on another core; the time of all.
pub fn ask(memory: &impl Memory, clock: &Clock, offset: u64, rounds: u32) -> Duration {
    let mut number = memory.load_u64(offset);
    let start = clock.now();
    for _ in 0..rounds {
        memory.store_u64(offset, number + 1);
        number += 2;
        while memory.load_u64(offset) != number {
            std::hint::spin_loop();
        }
    }
    clock.now().since(start)
}

/// Ends the answering side.
pub fn stop(memory: &impl Memory, offset: u64) {
    memory.store_u64(offset, END);
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmrpc_core::memory::Atomic;

    #[test]
    fn every_question_is_answered() {
        let mut words = vec![0; 16];
        let memory = Atomic::new(&mut words);
        std::thread::scope(|scope| {
            scope.spawn(|| answer(&memory, 64));
            let span = ask(&memory, &Clock::new(), 64, 1000);
            assert!(span.as_nanos() > 0);
            assert_eq!(memory.load_u64(64), 2000);
            stop(&memory, 64);
        });
    }
}
