//! Memory for what is large and read once a step: weights in panels.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// A fixed number of values, zeros at first, in pages of their own: huge ones where the system has them, which
/// a pass over all weights notices (a page of 4 KiB has an address to look up every 64 lines).
pub struct Pages<T> {
    /// `None` for no values: nothing cannot be mapped.
    map: Option<memmap2::MmapMut>,
    values: PhantomData<T>,
}

impl<T> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pages({} bytes)", self.map.as_ref().map_or(0, |m| m.len()))
    }
}

impl<T: bytemuck::Pod> Pages<T> {
    /// Room for `len` values.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn zeroed(len: usize) -> io::Result<Pages<T>> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
        if bytes == 0 {
            return Ok(Pages { map: None, values: PhantomData });
        }
        let map = memmap2::MmapOptions::new().len(bytes).map_anon()?;
        // Advice only: small pages hold the same.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Pages { map: Some(map), values: PhantomData })
    }
}

impl<T: bytemuck::Pod> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.map.as_deref().map_or(&[], bytemuck::cast_slice)
    }
}

impl<T: bytemuck::Pod> DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.map.as_deref_mut().map_or(&mut [], bytemuck::cast_slice_mut)
    }
}

/// Asks the cache for the lines of `bytes`, and waits for nothing.
#[inline]
pub fn fetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 has this instruction, which changes nothing but the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zeros_that_can_be_written() {
        let mut pages = Pages::<[f32; 16]>::zeroed(70_000).unwrap();
        assert_eq!(pages.len(), 70_000);
        assert!(pages.iter().all(|v| *v == [0.0; 16]));
        pages[69_999] = [1.0; 16];
        assert_eq!(pages[69_999], [1.0; 16]);
        assert!(Pages::<u8>::zeroed(0).unwrap().is_empty());
        assert!(Pages::<u64>::zeroed(usize::MAX / 4).is_err());
    }
}
