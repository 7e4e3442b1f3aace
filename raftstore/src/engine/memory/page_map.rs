//! A sorted map whose copies are cheap and independent.
//!
//! ```text
//!   pages ──► [ page ][ page ][ page ]      a shared vector of shared pages, none empty
//!                │       │
//!              a=1 b=2  m=3 z=4             each a sorted run of up to 128 pairs
//! ```
//!
//! A copy shares everything. The first change after it copies the vector of page pointers and the
//! one page that changes; further changes copy nothing. For a hundred thousand keys that is a
//! thousand pointers, so snapshots may be taken at every read. Without copies every change is in
//! place.

use std::sync::Arc;

use bytes::Bytes;
use proto::KeyRange;

use crate::engine::RangeSize;

/// Pairs in a page. At the limit it is split in the middle.
const PAGE_PAIRS_MAX: usize = 128;
/// A page with fewer is joined with its right neighbour, if that leaves room.
const PAGE_PAIRS_MIN: usize = 16;

/// A sorted map from keys to values. Clones are cheap.
#[derive(Clone, Debug, Default)]
pub(super) struct PageMap {
    pages: Arc<Vec<Arc<Page>>>,
}

#[derive(Clone, Debug)]
struct Page {
    pairs: Vec<(Bytes, Bytes)>,
    bytes: u64,
}

/// A place between or on pairs: on a pair, or (page past the last, slot 0) at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    page: usize,
    slot: usize,
}

impl Page {
    fn of(pairs: Vec<(Bytes, Bytes)>) -> Arc<Self> {
        let bytes = pairs.iter().map(size).sum();
        Arc::new(Self { pairs, bytes })
    }

    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.pairs.binary_search_by(|(candidate, _)| candidate.as_ref().cmp(key))
    }
}

fn size((key, value): &(Bytes, Bytes)) -> u64 {
    (key.len() + value.len()) as u64
}

impl PageMap {
    pub(super) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        let page = self.pages.get(self.page_of(key))?;
        page.find(key).ok().map(|slot| &page.pairs[slot].1)
    }

    pub(super) fn put(&mut self, key: Bytes, value: Bytes) {
        let at = self.page_of(&key);
        let pages = Arc::make_mut(&mut self.pages);
        let Some(page) = pages.get_mut(at) else {
            pages.push(Page::of(vec![(key, value)]));
            return;
        };
        let page = Arc::make_mut(page);
        let pair = (key, value);
        page.bytes += size(&pair);
        match page.find(&pair.0) {
            Ok(slot) => {
                page.bytes -= size(&page.pairs[slot]);
                page.pairs[slot] = pair;
            }
            Err(slot) => page.pairs.insert(slot, pair),
        }
        if page.pairs.len() > PAGE_PAIRS_MAX {
            let right = Page::of(page.pairs.split_off(PAGE_PAIRS_MAX / 2));
            page.bytes -= right.bytes;
            pages.insert(at + 1, right);
        }
    }

    pub(super) fn delete(&mut self, key: &[u8]) {
        let at = self.page_of(key);
        // Looked up first: deleting what is not there must not copy a shared page.
        let Some(Ok(slot)) = self.pages.get(at).map(|page| page.find(key)) else { return };
        let pages = Arc::make_mut(&mut self.pages);
        let page = Arc::make_mut(&mut pages[at]);
        let gone = page.pairs.remove(slot);
        page.bytes -= size(&gone);
        join_if_small(pages, at);
    }

    pub(super) fn delete_range(&mut self, range: &KeyRange) {
        let (low, high) = self.places_of(range);
        if low >= high {
            return;
        }
        let pages = Arc::make_mut(&mut self.pages);
        // What stays of the first and the last page that are touched becomes pages of its own.
        let head = pages[low.page].pairs[..low.slot].to_vec();
        let (tail, end) = match pages.get(high.page) {
            Some(page) if high.slot > 0 => (page.pairs[high.slot..].to_vec(), high.page + 1),
            Some(_) | None => (Vec::new(), high.page),
        };
        let rest = [head, tail].into_iter().filter(|pairs| !pairs.is_empty()).map(Page::of);
        pages.splice(low.page..end, rest);
        join_if_small(pages, low.page);
    }

    /// What the range holds, by whole pages where possible.
    pub(super) fn size(&self, range: &KeyRange) -> RangeSize {
        let (low, high) = self.places_of(range);
        if low >= high {
            return RangeSize::default();
        }
        let part = |page: usize, from: usize, to: usize| {
            let pairs = &self.pages[page].pairs[from..to];
            RangeSize { bytes: pairs.iter().map(size).sum(), keys: pairs.len() as u64 }
        };
        if low.page == high.page {
            return part(low.page, low.slot, high.slot);
        }
        let mut sum = part(low.page, low.slot, self.pages[low.page].pairs.len());
        for page in &self.pages[low.page + 1..high.page] {
            sum += RangeSize { bytes: page.bytes, keys: page.pairs.len() as u64 };
        }
        if high.slot > 0 {
            sum += part(high.page, 0, high.slot);
        }
        sum
    }

    /// The place of the first key inside, and that of the first key behind.
    pub(super) fn places_of(&self, range: &KeyRange) -> (Place, Place) {
        let high = range.end.as_ref().map_or(self.end(), |end| self.first_from(end));
        (self.first_from(&range.start), high)
    }

    /// The place of the first key at or after this one.
    pub(super) fn first_from(&self, key: &[u8]) -> Place {
        let page = self.page_of(key);
        match self.pages.get(page) {
            Some(candidate) => {
                let slot = candidate.find(key).unwrap_or_else(|slot| slot);
                self.normal(Place { page, slot })
            }
            None => self.end(),
        }
    }

    /// The next place; the end has none.
    pub(super) fn after(&self, place: Place) -> Place {
        self.normal(Place { page: place.page, slot: place.slot + 1 })
    }

    /// The place before; the first has none.
    pub(super) fn before(&self, place: Place) -> Option<Place> {
        match (place.page, place.slot) {
            (0, 0) => None,
            (page, 0) => Some(Place { page: page - 1, slot: self.pages[page - 1].pairs.len() - 1 }),
            (page, slot) => Some(Place { page, slot: slot - 1 }),
        }
    }

    /// The pair at a place; `None` at the end.
    pub(super) fn pair(&self, place: Place) -> Option<&(Bytes, Bytes)> {
        self.pages.get(place.page).and_then(|page| page.pairs.get(place.slot))
    }

    fn end(&self) -> Place {
        Place { page: self.pages.len(), slot: 0 }
    }

    /// A place behind the last pair of a page is on the first of the next.
    fn normal(&self, place: Place) -> Place {
        match self.pages.get(place.page) {
            Some(page) if place.slot < page.pairs.len() => place,
            Some(_) | None => Place { page: place.page + 1, slot: 0 }.min(self.end()),
        }
    }

    /// The only page where the key may be; 0 when it lies before all of them.
    fn page_of(&self, key: &[u8]) -> usize {
        self.pages.partition_point(|page| page.pairs[0].0.as_ref() <= key).saturating_sub(1)
    }
}

/// Keeps pages from becoming many and tiny, or empty.
fn join_if_small(pages: &mut Vec<Arc<Page>>, at: usize) {
    let Some(page) = pages.get(at) else { return };
    if page.pairs.is_empty() {
        pages.remove(at);
        return;
    }
    let Some(next) = pages.get(at + 1) else { return };
    if page.pairs.len() < PAGE_PAIRS_MIN
        && page.pairs.len() + next.pairs.len() <= PAGE_PAIRS_MAX / 2
    {
        let joined = [page.pairs.as_slice(), &next.pairs].concat();
        pages.splice(at..at + 2, [Page::of(joined)]);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Act {
        Put(u16),
        Delete(u16),
        DeleteRange(u16, u16),
        Copy,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            20 => (0..600u16).prop_map(Act::Put),
            8 => (0..600u16).prop_map(Act::Delete),
            1 => (0..600u16, 0..300u16).prop_map(|(low, wide)| Act::DeleteRange(low, low + wide)),
            1 => Just(Act::Copy),
        ];
        proptest::collection::vec(act, 0..1500)
    }

    fn key(number: u16) -> Bytes {
        Bytes::copy_from_slice(&number.to_be_bytes())
    }

    fn pairs(map: &PageMap) -> Vec<(Bytes, Bytes)> {
        let (mut place, high) = map.places_of(&KeyRange::all());
        let mut pairs = Vec::new();
        while place < high {
            pairs.push(map.pair(place).unwrap().clone());
            place = map.after(place);
        }
        pairs
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_page_map_is_a_btree_map_and_its_copies_never_change(acts in acts()) {
            let mut map = PageMap::default();
            let mut twin = BTreeMap::new();
            let mut copies = Vec::new();
            for (step, act) in acts.into_iter().enumerate() {
                match act {
                    Act::Put(number) => {
                        let value = Bytes::from(vec![0; step % 7]);
                        map.put(key(number), value.clone());
                        twin.insert(key(number), value);
                    }
                    Act::Delete(number) => {
                        map.delete(&key(number));
                        twin.remove(&key(number));
                    }
                    Act::DeleteRange(low, high) => {
                        let range = KeyRange { start: key(low), end: Some(key(high)) };
                        let mut size = RangeSize::default();
                        twin.iter().filter(|(k, _)| range.contains(k))
                            .for_each(|(k, v): (&Bytes, &Bytes)| {
                                size += RangeSize { bytes: (k.len() + v.len()) as u64, keys: 1 };
                            });
                        prop_assert_eq!(map.size(&range), size);
                        map.delete_range(&range);
                        twin.retain(|k, _| !range.contains(k));
                    }
                    Act::Copy => copies.push((map.clone(), twin.clone())),
                }
                prop_assert!(map.pages.iter().all(|page| !page.pairs.is_empty()
                    && page.pairs.len() <= PAGE_PAIRS_MAX
                    && page.bytes == page.pairs.iter().map(size).sum::<u64>()));
            }
            copies.push((map, twin));
            for (map, twin) in copies {
                prop_assert_eq!(pairs(&map), twin.clone().into_iter().collect::<Vec<_>>());
                for number in 0..600 {
                    prop_assert_eq!(map.get(&key(number)), twin.get(&key(number)));
                }
            }
        }
    }
}
