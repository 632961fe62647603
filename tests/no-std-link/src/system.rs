//! What a program without a standard library has to bring itself: a start, an end, a way to
//! panic, the four memory functions that compiled code calls, and memory that is taken once.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// Where the kernel jumps to: aligns the stack as compiled code expects it and calls `main`.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    core::arch::naked_asm!("xor ebp, ebp", "and rsp, -16", "call {main}", "ud2", main = sym start)
}

extern "C" fn start() -> ! {
    exit(crate::main())
}

/// Ends the process with `code`.
pub fn exit(code: i32) -> ! {
    // SAFETY: system call 60 is `exit`: it takes a number and does not return.
    unsafe {
        core::arch::asm!("syscall", in("rax") 60, in("rdi") code, options(noreturn, nostack));
    }
}

/// Writes to standard error.
pub fn print(text: &str) {
    // SAFETY: system call 1 is `write`: it reads `len` bytes at `ptr`, which are `text`'s, and
    // clobbers what is named.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") 1usize => _,
            in("rdi") 2,
            in("rsi") text.as_ptr(),
            in("rdx") text.len(),
            out("rcx") _,
            out("r11") _,
            options(nostack)
        );
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    print("panic");
    if let Some(place) = info.location() {
        print(" in ");
        print(place.file());
    }
    print("\n");
    exit(101)
}

/// Named by the unwind tables of the precompiled core library; nothing here unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As in C: copies `bytes` bytes between places that do not overlap.
///
/// # Safety
/// `source` is valid for reads and `target` for writes of `bytes` bytes, and they do not overlap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(target: *mut u8, source: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: exactly what the caller promises; the direction flag is clear by the C convention.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rcx") bytes => _,
            inout("rdi") target => _,
            inout("rsi") source => _,
            options(nostack, preserves_flags)
        );
    }
    target
}

/// As in C: copies `bytes` bytes between places that may overlap.
///
/// # Safety
/// `source` is valid for reads and `target` for writes of `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(target: *mut u8, source: *const u8, bytes: usize) -> *mut u8 {
    if (target as usize).wrapping_sub(source as usize) >= bytes {
        // SAFETY: going upwards, no byte is written before it is read.
        return unsafe { memcpy(target, source, bytes) };
    }
    // SAFETY: exactly what the caller promises, from the last byte down; the flag is restored.
    unsafe {
        core::arch::asm!(
            "std",
            "rep movsb",
            "cld",
            inout("rcx") bytes => _,
            inout("rdi") target.wrapping_add(bytes).wrapping_sub(1) => _,
            inout("rsi") source.wrapping_add(bytes).wrapping_sub(1) => _,
            options(nostack)
        );
    }
    target
}

/// As in C: fills `bytes` bytes.
///
/// # Safety
/// `target` is valid for writes of `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(target: *mut u8, byte: i32, bytes: usize) -> *mut u8 {
    // SAFETY: exactly what the caller promises.
    unsafe {
        core::arch::asm!(
            "rep stosb",
            inout("rcx") bytes => _,
            inout("rdi") target => _,
            in("al") byte as u8,
            options(nostack, preserves_flags)
        );
    }
    target
}

/// As in C: compares `bytes` bytes.
///
/// # Safety
/// `left` and `right` are valid for reads of `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    let mut at = 0;
    while at < bytes {
        // SAFETY: `at < bytes`, for which the caller promises that both can be read. Volatile, or
        // the compiler may make the loop a call of itself.
        let (a, b) = unsafe { (left.add(at).read_volatile(), right.add(at).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
        at += 1;
    }
    0
}

/// As in C: whether `bytes` bytes differ.
///
/// # Safety
/// As [`memcmp`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    // SAFETY: the caller's promise is the same.
    unsafe { memcmp(left, right, bytes) }
}

/// Memory of the program that is handed out once.
pub struct Once<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through `take` alone, which succeeds once.
unsafe impl<T: Send> Sync for Once<T> {}

impl<T> Once<T> {
    /// Holds `value` until it is taken.
    pub const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Hands the value out.
    ///
    /// # Panics
    /// The second time.
    #[allow(clippy::mut_from_ref, reason = "the flag lets one caller through")]
    pub fn take(&'static self) -> &'static mut T {
        assert!(!self.taken.swap(true, Ordering::Relaxed), "taken once");
        // SAFETY: the swap gives this to the first caller and to nobody else.
        unsafe { &mut *self.value.get() }
    }
}
