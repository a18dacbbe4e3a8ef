//! Second-level paging on frames of the test's own.

use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const RWX: Access = Access::all();

fn pool(frames: usize) -> Vec<Frame> {
    (0..frames).map(|_| Frame::new()).collect()
}

fn raw(tables: &Tables<'_>, guest: u64) -> u64 {
    tables.walk(guest).entry
}

/// Everything a format must do alike.
fn common(format: Format) {
    let pool = pool(32);
    let mut tables = Tables::new(&pool, PageSize::Size1G, format).unwrap();
    assert_eq!(tables.root(), core::ptr::from_ref(&pool[0]) as u64);
    assert_eq!(tables.translate(0), None);

    // 1 GiB + 2 MiB + 4 KiB, aligned to 1 GiB on both sides: one page of each size.
    tables.map(GIB, 8 * GIB, GIB + 2 * MIB + 0x1000, RWX, MemoryType::WriteBack).unwrap();
    for (guest, size) in [
        (GIB + 0x123_4567, PageSize::Size1G),
        (2 * GIB + 5, PageSize::Size2M),
        (2 * GIB + 2 * MIB, PageSize::Size4K),
    ] {
        let found = tables.translate(guest).unwrap();
        assert_eq!(
            found,
            Translation { host: guest + 7 * GIB, access: RWX, memory: MemoryType::WriteBack, size }
        );
    }
    assert_eq!(tables.translate(GIB - 1), None);
    assert_eq!(tables.translate(2 * GIB + 2 * MIB + 0x1000), None);
    assert_eq!(tables.frames_in_use(), 4);

    // Nothing is mapped over.
    assert_eq!(tables.map(GIB, 0, GIB, RWX, MemoryType::WriteBack), Err(PagingError::AlreadyMapped(GIB)));
    assert_eq!(
        tables.map(2 * GIB, 0, GIB, RWX, MemoryType::WriteBack),
        Err(PagingError::AlreadyMapped(2 * GIB))
    );
    assert_eq!(
        tables.map(GIB + 0x1000, 0, 0x1000, RWX, MemoryType::WriteBack),
        Err(PagingError::AlreadyMapped(GIB + 0x1000))
    );

    // Rights of one page inside a 1 GiB page: it is split twice, and nothing else changes.
    let hole = GIB + 6 * MIB + 0x3000;
    tables.protect(hole, 0x1000, Access::READ).unwrap();
    assert_eq!(tables.translate(hole).unwrap().access, Access::READ);
    assert_eq!(tables.translate(hole).unwrap().host, hole + 7 * GIB);
    for near in [hole - 1, hole + 0x1000] {
        let found = tables.translate(near).unwrap();
        assert_eq!((found.access, found.host, found.size), (RWX, near + 7 * GIB, PageSize::Size4K));
    }
    assert_eq!(tables.translate(GIB + 8 * MIB).unwrap().size, PageSize::Size2M);
    assert_eq!(tables.frames_in_use(), 6);

    // Taken out in the middle; then all: every table but the root goes, and comes back only after a flush.
    tables.unmap(GIB + 4 * MIB, 4 * MIB).unwrap();
    assert_eq!(tables.translate(GIB + 4 * MIB - 1).unwrap().host, 8 * GIB + 4 * MIB - 1);
    assert_eq!(tables.translate(GIB + 4 * MIB), None);
    assert_eq!(tables.translate(hole), None);
    assert_eq!(tables.translate(GIB + 8 * MIB).unwrap().host, 8 * GIB + 8 * MIB);
    assert_eq!(tables.protect(GIB, GIB, RWX), Err(PagingError::NotMapped(GIB + 4 * MIB)));
    tables.unmap(0, ADDRESS_LIMIT).unwrap();
    assert_eq!(tables.frames_in_use(), 1);
    assert!(tables.free == NIL && tables.retired != NIL);
    for at in [GIB, hole, 2 * GIB, 2 * GIB + 2 * MIB] {
        assert_eq!(tables.translate(at), None);
    }
    let fresh = tables.fresh;
    tables.flushed();
    assert!(tables.free != NIL && tables.retired == NIL);
    tables.map(0, 0, 0x1000, Access::READ, MemoryType::Uncacheable).unwrap();
    assert_eq!(tables.fresh, fresh);
    let found = tables.translate(0).unwrap();
    assert_eq!((found.access, found.memory), (Access::READ, MemoryType::Uncacheable));

    // What links a retired table is not a present entry.
    set_link(&pool[31], 0);
    assert!(!format.present(pool[31].0[0].load(Ordering::Relaxed)));
    assert_eq!(link(&pool[31]), 0);
    set_link(&pool[31], NIL);
    assert_eq!(link(&pool[31]), NIL);
}

#[test]
fn ept_maps_splits_and_unmaps() {
    common(Format::Ept);
}

#[test]
fn npt_maps_splits_and_unmaps() {
    common(Format::Npt);
}

#[test]
fn pages_are_as_large_as_both_addresses_allow() {
    let pool = pool(16);
    let mut tables = Tables::new(&pool, PageSize::Size1G, Format::Npt).unwrap();
    // The host address is only 2 MiB-aligned.
    tables.map(0, 2 * MIB, GIB, RWX, MemoryType::WriteBack).unwrap();
    assert_eq!(tables.translate(0).unwrap().size, PageSize::Size2M);
    // And only 4 KiB-aligned.
    tables.map(GIB, 0x1000, 2 * MIB, RWX, MemoryType::WriteBack).unwrap();
    assert_eq!(tables.translate(GIB).unwrap().size, PageSize::Size4K);

    let mut without = Tables::new(&pool, PageSize::Size2M, Format::Npt).unwrap();
    without.map(0, 0, GIB, RWX, MemoryType::WriteBack).unwrap();
    assert_eq!(without.translate(0).unwrap().size, PageSize::Size2M);
}

#[test]
fn the_end_of_the_pool_is_an_error() {
    assert_eq!(Tables::new(&[], PageSize::Size4K, Format::Ept).err(), Some(PagingError::OutOfFrames));
    let pool = pool(3);
    let mut tables = Tables::new(&pool, PageSize::Size1G, Format::Ept).unwrap();
    assert_eq!(tables.map(0, 0, 0x1000, RWX, MemoryType::WriteBack), Err(PagingError::OutOfFrames));
    // A 1 GiB page still fits; there is nothing to split it with.
    tables.map(GIB, GIB, GIB, RWX, MemoryType::WriteBack).unwrap();
    assert_eq!(tables.protect(GIB, 0x1000, Access::READ), Err(PagingError::OutOfFrames));
}

#[test]
fn ranges_are_checked() {
    let pool = pool(8);
    let mut tables = Tables::new(&pool, PageSize::Size1G, Format::Npt).unwrap();
    let mut map = |guest, host, length| tables.map(guest, host, length, RWX, MemoryType::WriteBack);
    assert_eq!(map(1, 0, 0x1000), Err(PagingError::Misaligned));
    assert_eq!(map(0, 0x800, 0x1000), Err(PagingError::Misaligned));
    assert_eq!(map(0, 0, 0x1001), Err(PagingError::Misaligned));
    assert_eq!(map(0, 0, 0), Err(PagingError::OutOfRange));
    assert_eq!(map(ADDRESS_LIMIT, 0, 0x1000), Err(PagingError::OutOfRange));
    assert_eq!(map(!0xfff, 0, 0x2000), Err(PagingError::OutOfRange));
    assert_eq!(map(0, 1 << 52, 0x1000), Err(PagingError::OutOfRange));
    assert_eq!(map(0, !0xfff, 0x2000), Err(PagingError::OutOfRange));
    assert_eq!(map(ADDRESS_LIMIT - 0x1000, (1 << 52) - 0x1000, 0x1000), Ok(()));
    assert_eq!(tables.translate(ADDRESS_LIMIT - 1).unwrap().host, (1 << 52) - 1);
    assert_eq!(tables.translate(ADDRESS_LIMIT), None);
    assert_eq!(
        tables.map(0, 0, 0x1000, Access::WRITE | Access::EXECUTE, MemoryType::WriteBack),
        Err(PagingError::InvalidAccess)
    );
    tables.unmap(ADDRESS_LIMIT - 0x1000, 0x1000).unwrap();
    assert_eq!(tables.frames_in_use(), 1);
}

#[test]
fn entries_are_written_as_the_manuals_say() {
    let pool = pool(8);
    let mut ept = Tables::new(&pool[..4], PageSize::Size1G, Format::Ept).unwrap();
    ept.map(0, 0x1234_5000, 0x1000, Access::READ | Access::WRITE, MemoryType::WriteBack).unwrap();
    assert_eq!(raw(&ept, 0), 0x1234_5000 | 1 << 6 | 6 << 3 | 0b011);
    ept.map(2 * MIB, 0x4000_0000, 2 * MIB, RWX, MemoryType::Uncacheable).unwrap();
    assert_eq!(raw(&ept, 2 * MIB), 0x4000_0000 | 1 << 7 | 0b111);
    assert_eq!(pool[0].0[0].load(Ordering::Relaxed) & 0xfff, 0b111);

    let mut npt = Tables::new(&pool[4..], PageSize::Size1G, Format::Npt).unwrap();
    npt.map(0, 0x1234_5000, 0x1000, Access::READ | Access::WRITE, MemoryType::WriteBack).unwrap();
    assert_eq!(raw(&npt, 0), 1 << 63 | 0x1234_5000 | 0b111);
    npt.map(2 * MIB, 0x4000_0000, 2 * MIB, Access::READ | Access::EXECUTE, MemoryType::Uncacheable).unwrap();
    assert_eq!(raw(&npt, 2 * MIB), 0x4000_0000 | 1 << 7 | 0b11101);
    assert_eq!(pool[4].0[0].load(Ordering::Relaxed) & 0xfff, 0b111);
}
