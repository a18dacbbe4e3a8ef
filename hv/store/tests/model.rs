//! The store against a map of vectors, and its limits one by one.

use std::collections::BTreeMap;

use monovisor_store::{FileId, IfExists, MAX_FILE_SIZE, MAX_FILES, MAX_NAME, PAGE_SIZE, Store, StoreError};
use proptest::prelude::*;

const NAMES: [&str; 4] = ["a", "/tmp/image", "./dir/b", "fixed"];

#[derive(Clone, Debug)]
enum Step {
    Create(usize, IfExists),
    Write(usize, u64, Vec<u8>),
    Read(usize, u64, usize),
    Truncate(usize, u64),
    Zero(usize, u64, u64),
    Page(usize, u64, u8),
    Remove(usize),
    Rename(usize, usize),
}

/// Offsets around pages, around index pages (4 MiB) and far out.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..20_000,
        (0u64..4).prop_map(|n| n * 4096),
        (4_190_000u64..4_200_000),
        ((4u64 << 30) - 5000..(4 << 30) + 5000),
        Just(1 << 41),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    let mode = prop::sample::select(vec![IfExists::Fail, IfExists::Truncate, IfExists::Keep]);
    prop_oneof![
        2 => (name.clone(), mode).prop_map(|(name, mode)| Step::Create(name, mode)),
        6 => (name.clone(), offset(), prop::collection::vec(1u8..255, 0..10_000))
            .prop_map(|(name, offset, data)| Step::Write(name, offset, data)),
        4 => (name.clone(), offset(), 0usize..10_000).prop_map(|(n, o, l)| Step::Read(n, o, l)),
        3 => (name.clone(), offset()).prop_map(|(name, size)| Step::Truncate(name, size)),
        2 => (name.clone(), offset(), 0u64..20_000).prop_map(|(n, o, l)| Step::Zero(n, o, l)),
        2 => (name.clone(), offset(), 1u8..255).prop_map(|(n, o, value)| Step::Page(n, o, value)),
        1 => name.clone().prop_map(Step::Remove),
        1 => (name.clone(), name).prop_map(|(from, to)| Step::Rename(from, to)),
    ]
}

/// Size, and the bytes that are not zero.
#[derive(Clone, Debug, Default)]
struct Model {
    size: u64,
    bytes: BTreeMap<u64, u8>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn does_what_a_map_of_vectors_does(steps in prop::collection::vec(step(), 1..60)) {
        let mut memory = vec![0xa5u8; 120 * PAGE_SIZE];
        let mut store = Store::new();
        prop_assert!(store.set_pool(&mut memory));
        store.add_read_only("fixed", b"of the bundle").unwrap();
        let mut model: BTreeMap<usize, Model> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Create(name, mode) => {
                    let result = store.create(NAMES[name], mode);
                    if name == 3 {
                        let expected =
                            if mode == IfExists::Fail { StoreError::Exists } else { StoreError::ReadOnly };
                        prop_assert_eq!(result, Err(expected));
                    } else if model.contains_key(&name) && mode == IfExists::Fail {
                        prop_assert_eq!(result, Err(StoreError::Exists));
                    } else {
                        prop_assert!(result.is_ok());
                        let file = model.entry(name).or_default();
                        if mode == IfExists::Truncate {
                            *file = Model::default();
                        }
                    }
                }
                Step::Write(name, offset, data) => {
                    let Ok(id) = store.open(NAMES[name]) else {
                        prop_assert!(!model.contains_key(&name));
                        continue;
                    };
                    let before = store.stat(id).unwrap().size;
                    match store.write_at(id, offset, &data) {
                        Ok(()) => {
                            let file = model.get_mut(&name).unwrap();
                            if !data.is_empty() {
                                file.size = file.size.max(offset + data.len() as u64);
                            }
                            file.bytes.extend((offset..).zip(data));
                        }
                        Err(StoreError::ReadOnly) => prop_assert_eq!(name, 3),
                        Err(StoreError::NoSpace) => {
                            // A leading part is there: take it over from the store.
                            let file = model.get_mut(&name).unwrap();
                            file.size = store.stat(id).unwrap().size;
                            prop_assert!(file.size >= before);
                            let mut now = vec![0; data.len()];
                            let length = store.read_at(id, offset, &mut now).unwrap();
                            let mut same = true;
                            for (index, byte) in now[..length].iter().enumerate() {
                                let at = offset + index as u64;
                                let old = file.bytes.get(&at).copied().unwrap_or(0);
                                same &= *byte == data[index];
                                prop_assert!(same || *byte == old);
                                file.bytes.insert(at, *byte);
                            }
                        }
                        Err(error) => prop_assert!(false, "{error}"),
                    }
                }
                Step::Read(name, offset, length) => {
                    let Ok(id) = store.open(NAMES[name]) else { continue };
                    let mut buffer = vec![0xee; length];
                    let read = store.read_at(id, offset, &mut buffer).unwrap();
                    if name == 3 {
                        let fixed = b"of the bundle".get(offset as usize..).unwrap_or_default();
                        prop_assert_eq!(&buffer[..read], &fixed[..length.min(fixed.len())]);
                        continue;
                    }
                    let file = &model[&name];
                    prop_assert_eq!(read as u64, file.size.saturating_sub(offset).min(length as u64));
                    for (at, byte) in (offset..).zip(&buffer[..read]) {
                        prop_assert_eq!(*byte, file.bytes.get(&at).copied().unwrap_or(0));
                    }
                }
                Step::Truncate(name, size) => {
                    let Ok(id) = store.open(NAMES[name]) else { continue };
                    match store.truncate(id, size) {
                        Ok(()) => {
                            let file = model.get_mut(&name).unwrap();
                            file.size = size;
                            file.bytes.split_off(&size);
                        }
                        Err(error) => prop_assert_eq!((error, name), (StoreError::ReadOnly, 3)),
                    }
                }
                Step::Zero(name, offset, length) => {
                    let Ok(id) = store.open(NAMES[name]) else { continue };
                    match store.zero(id, offset, length) {
                        Ok(()) => {
                            let file = model.get_mut(&name).unwrap();
                            file.bytes.retain(|at, _| !(offset..offset + length).contains(at));
                            if length >= 2 * PAGE_SIZE as u64 && file.size >= offset + length {
                                let whole = offset.next_multiple_of(PAGE_SIZE as u64);
                                prop_assert_eq!(store.page(id, whole), Ok(None));
                            }
                        }
                        Err(error) => prop_assert_eq!((error, name), (StoreError::ReadOnly, 3)),
                    }
                }
                Step::Page(name, offset, value) => {
                    let Ok(id) = store.open(NAMES[name]) else { continue };
                    let size = store.stat(id).unwrap().size;
                    match store.page_mut(id, offset) {
                        Ok(bytes) => {
                            bytes.fill(value);
                            let length = bytes.len() as u64;
                            let page = PAGE_SIZE as u64 - offset % PAGE_SIZE as u64;
                            prop_assert_eq!(length, page.min(size.saturating_sub(offset)));
                            let file = model.get_mut(&name).unwrap();
                            file.bytes.extend((offset..offset + length).map(|at| (at, value)));
                            if length != 0 {
                                let bytes = store.page(id, offset).unwrap().unwrap();
                                prop_assert!(bytes.len() as u64 == length && bytes.iter().all(|b| *b == value));
                            }
                        }
                        Err(StoreError::ReadOnly) => prop_assert_eq!(name, 3),
                        Err(error) => prop_assert_eq!(error, StoreError::NoSpace),
                    }
                }
                Step::Remove(name) => {
                    let result = store.remove(NAMES[name]);
                    let expected = match (name, model.remove(&name)) {
                        (3, _) => Err(StoreError::ReadOnly),
                        (_, Some(_)) => Ok(()),
                        (_, None) => Err(StoreError::NotFound),
                    };
                    prop_assert_eq!(result, expected);
                }
                Step::Rename(from, to) => {
                    let result = store.rename(NAMES[from], NAMES[to]);
                    if !model.contains_key(&from) {
                        prop_assert!(result.is_err());
                    } else if to == 3 {
                        prop_assert_eq!(result, Err(StoreError::ReadOnly));
                    } else {
                        prop_assert!(result.is_ok());
                        let file = model.remove(&from).unwrap();
                        model.insert(to, file);
                    }
                }
            }
            let allocated: u64 = store.list().map(|(_, stat)| stat.allocated).sum();
            prop_assert_eq!(store.usage().0, allocated);
            prop_assert_eq!(store.list().count(), model.len() + 1);
        }
        for name in &NAMES[..3] {
            let _ = store.remove(name);
        }
        prop_assert_eq!(store.usage(), (0, 120 * PAGE_SIZE as u64));
    }
}

#[test]
fn names_are_paths_without_ceremony() {
    let mut memory = vec![0; 8 * PAGE_SIZE];
    let mut store = Store::new();
    store.set_pool(&mut memory);
    let id = store.create("/tmp/image", IfExists::Fail).unwrap();
    for name in ["tmp/image", "/tmp/image", "./tmp/image", "//tmp/image"] {
        assert_eq!(store.open(name), Ok(id));
    }
    for name in ["", "/", ".", "..", "tmp/", "a/..", "a\0b"] {
        assert_eq!(store.create(name, IfExists::Keep), Err(StoreError::InvalidName), "{name:?}");
    }
    assert_eq!(store.open("none"), Err(StoreError::NotFound));
    assert_eq!(store.create(&"x".repeat(MAX_NAME + 1), IfExists::Keep), Err(StoreError::NameTooLong));
    assert!(store.create(&"x".repeat(MAX_NAME), IfExists::Keep).is_ok());
}

#[test]
fn an_unnamed_file_is_in_no_list() {
    let mut memory = vec![0; 8 * PAGE_SIZE];
    let mut store = Store::new();
    store.set_pool(&mut memory);
    let (one, two) = (store.create_unnamed(100).unwrap(), store.create_unnamed(1 << 30).unwrap());
    assert_ne!(one, two);
    assert_eq!((store.list().count(), store.open("")), (0, Err(StoreError::InvalidName)));
    store.page_mut(two, 5 << 20).unwrap().fill(7);
    assert_eq!(store.page(one, 0), Ok(None));
    let mut bytes = [0; 2];
    assert_eq!(store.read_at(two, (5 << 20) - 1, &mut bytes), Ok(2));
    assert_eq!(bytes, [0, 7]);
    assert_eq!(store.create_unnamed(MAX_FILE_SIZE + 1), Err(StoreError::TooLarge));
}

#[test]
fn a_removed_file_leaves_a_dead_handle() {
    let mut memory = vec![0; 8 * PAGE_SIZE];
    let mut store = Store::new();
    store.set_pool(&mut memory);
    let old = store.create("a", IfExists::Fail).unwrap();
    store.remove("a").unwrap();
    let new = store.create("a", IfExists::Fail).unwrap();
    assert_ne!(old, new);
    assert_eq!(store.write_at(old, 0, b"x"), Err(StoreError::BadHandle));
    assert_eq!(store.read_at(old, 0, &mut [0]), Err(StoreError::BadHandle));
    assert_eq!(store.stat(old), Err(StoreError::BadHandle));
}

#[test]
fn each_capacity_has_its_error() {
    let mut memory = vec![0; 3 * PAGE_SIZE];
    let mut store = Store::new();
    assert_eq!(
        store.create("a", IfExists::Fail).map(|id| store.write_at(id, 0, b"x")),
        Ok(Err(StoreError::NoSpace))
    );
    store.set_pool(&mut memory);
    let id: FileId = store.open("a").unwrap();
    assert_eq!(store.write_at(id, MAX_FILE_SIZE, b"x"), Err(StoreError::TooLarge));
    assert_eq!(store.write_at(id, u64::MAX, b"x"), Err(StoreError::TooLarge));
    assert_eq!(store.truncate(id, MAX_FILE_SIZE + 1), Err(StoreError::TooLarge));
    // Three pages: one index, two of data.
    assert_eq!(store.write_at(id, 0, &[1; 3 * PAGE_SIZE]), Err(StoreError::NoSpace));
    assert_eq!(store.stat(id).unwrap().size, 2 * PAGE_SIZE as u64);
    for index in 0..MAX_FILES - 1 {
        store.create(&format!("f{index}"), IfExists::Fail).unwrap();
    }
    assert_eq!(store.create("one more", IfExists::Fail), Err(StoreError::TooManyFiles));
    assert_eq!(store.add_read_only("f3", b"data").map(|id| store.fixed(id)), Ok(Ok(Some(&b"data"[..]))));
}
