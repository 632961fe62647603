//! Bytes as a stream of choices. After the last one every choice is the first.

pub(crate) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `count` bytes, or what is left of them.
    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        let (now, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        now
    }

    fn word(&mut self, count: usize) -> u64 {
        let mut word = [0; 8];
        let bytes = self.take(count);
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.word(1) as u8
    }

    pub(crate) fn u16(&mut self) -> u16 {
        self.word(2) as u16
    }

    pub(crate) fn u32(&mut self) -> u32 {
        self.word(4) as u32
    }

    pub(crate) fn u64(&mut self) -> u64 {
        self.word(8)
    }

    /// A number below `bound`, at most 256.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.u8()) % bound
    }

    /// One of `options`.
    pub(crate) fn pick<T: Copy>(&mut self, options: &[T]) -> T {
        options[self.below(options.len())]
    }
}
