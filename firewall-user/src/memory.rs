//! Memory for commands that make thousands of small things and end soon.
#![expect(
    unsafe_code,
    reason = "the C library and the kernel are told how memory will be used"
)]

/// Has the C library ask the kernel for memory once and not for each hundred kilobytes, give none back, and the kernel give it in large
/// pages. Nothing depends on it: where something is refused it takes longer. Of a command that reads ten thousand rules a sixth of the time
/// goes into getting memory page by page.
pub(crate) fn in_large_pieces() {
    /// Less than what glibc takes from the kernel apart, at the most 32 MiB (`DEFAULT_MMAP_THRESHOLD_MAX`, malloc/malloc.c). The kernel
    /// gives what is used of it.
    const PIECE: usize = 31 << 20;
    #[cfg(target_env = "gnu")]
    // SAFETY: these numbers are only compared with sizes.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
    let mut piece: Vec<u8> = Vec::new();
    if piece.try_reserve_exact(PIECE).is_err() {
        return;
    }
    let pages = piece.spare_capacity_mut();
    let start = pages.as_ptr().align_offset(HUGE_PAGE).min(pages.len());
    let pages = &mut pages[start..];
    let length = pages.len() - pages.len() % HUGE_PAGE;
    // SAFETY: which pages memory lies in changes nothing about it.
    let _ = unsafe {
        rustix::mm::madvise(
            pages.as_mut_ptr().cast(),
            length,
            rustix::mm::Advice::LinuxHugepage,
        )
    };
}

/// Bytes of a large page, of most processors: elsewhere it is a multiple or a part of one.
const HUGE_PAGE: usize = 2 << 20;
