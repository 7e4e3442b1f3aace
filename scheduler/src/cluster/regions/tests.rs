//! The picture against a dumb twin that keeps a list and looks at all of it each time.

use proptest::prelude::*;
use proto::StoreId;

use super::*;

/// A list of regions, judged by the rules of the module's table and nothing else.
#[derive(Default)]
struct Twin(Vec<RegionRecord>);

impl Twin {
    fn offer(&mut self, mut record: RegionRecord) -> &'static str {
        let known = self.0.iter().find(|known| known.id() == record.id());
        let said = record.epoch();
        if let Some(known) = known {
            let epoch = known.epoch();
            let is_old_term = record.term != 0 && record.term < known.term;
            if is_old_term || said.version < epoch.version || said.conf_ver < epoch.conf_ver {
                return "stale";
            }
            if record.term == 0 {
                record.term = known.term;
            }
        }
        let overlaps = |other: &RegionRecord| {
            other.id() != record.id() && other.range().overlaps(&record.range())
        };
        if self.0.iter().any(|other| overlaps(other) && other.epoch().version > said.version) {
            return "stale";
        }
        if known == Some(&record) {
            return "unchanged";
        }
        let word =
            if known.is_some_and(|k| k.region == record.region) { "updated" } else { "replaced" };
        self.0.retain(|other| other.id() != record.id() && !overlaps(other));
        self.0.push(record);
        word
    }
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Unchanged => "unchanged",
        Verdict::Updated => "updated",
        Verdict::Replaced { .. } => "replaced",
        Verdict::Stale(_) => "stale",
    }
}

prop_compose! {
    fn any_record()(
        id in 1..6_u64,
        start in 0..8_u8,
        len in 1..9_u8,
        version in 1..5_u64,
        conf_ver in 1..3_u64,
        term in 0..3_u64,
        leader in 0..3_usize,
        stores in proptest::sample::subsequence(vec![1_u64, 2, 3, 4], 3),
    ) -> RegionRecord {
        let end = start + len;
        let peers: Vec<_> = stores
            .iter()
            .map(|&store_id| metapb::Peer { id: 10 * id + store_id, store_id, ..Default::default() })
            .collect();
        RegionRecord {
            leader: Some(peers[leader]),
            term,
            approximate_bytes: 1 << 20,
            region: metapb::Region {
                id,
                start_key: if start == 0 { Bytes::new() } else { vec![start].into() },
                end_key: if end > 8 { Bytes::new() } else { vec![end].into() },
                region_epoch: Some(metapb::RegionEpoch { version, conf_ver }),
                peers,
                ..Default::default()
            },
            ..Default::default()
        }
    }
}

proptest! {
    #[test]
    fn the_picture_agrees_with_a_list(reports in proptest::collection::vec(any_record(), 1..60)) {
        let (mut regions, mut twin) = (Regions::default(), Twin::default());
        for report in reports {
            let verdict = regions.offer(report.clone());
            prop_assert_eq!(word(&verdict), twin.offer(report));
            check_agreement(&regions, &twin)?;
        }
    }
}

fn check_agreement(regions: &Regions, twin: &Twin) -> Result<(), TestCaseError> {
    prop_assert_eq!(regions.len(), twin.0.len());
    for key in 0..10_u8 {
        let expected = twin.0.iter().find(|record| record.range().contains(&[key]));
        prop_assert_eq!(regions.by_key(&[key]).map(Arc::as_ref), expected);
        let range = KeyRange::from_wire(vec![key], vec![key + 3]);
        let mut expected: Vec<_> =
            twin.0.iter().filter(|record| record.range().overlaps(&range)).collect();
        expected.sort_by(|a, b| a.region.start_key.cmp(&b.region.start_key));
        let found = regions.scan(&range, 0);
        prop_assert_eq!(found.iter().map(Arc::as_ref).collect::<Vec<_>>(), expected);
    }
    let in_order: Vec<_> = regions.iter().map(|record| record.range()).collect();
    for pair in in_order.windows(2) {
        prop_assert!(!pair[0].overlaps(&pair[1]) && pair[0].start < pair[1].start);
    }
    for store in (1..5).map(StoreId) {
        let here = twin.0.iter().filter(|record| record.peer_on(store).is_some()).count();
        let led = twin.0.iter().filter(|record| record.leader_store() == Some(store)).count();
        let counts = regions.counts(store);
        prop_assert_eq!((counts.regions, counts.leaders), (here, led));
        prop_assert_eq!(counts.region_size_mib, here as u64);
        prop_assert_eq!(counts.leader_size_mib, led as u64);
        prop_assert_eq!(regions.on_store(store).count(), here);
    }
    Ok(())
}

fn report(id: u64, start: &str, end: &str, version: u64) -> RegionRecord {
    let peer = metapb::Peer { id: 1000 + id, store_id: 1, ..Default::default() };
    RegionRecord {
        region: metapb::Region {
            id,
            start_key: Bytes::copy_from_slice(start.as_bytes()),
            end_key: Bytes::copy_from_slice(end.as_bytes()),
            region_epoch: Some(metapb::RegionEpoch { version, conf_ver: 1 }),
            peers: vec![peer],
            ..Default::default()
        },
        leader: Some(peer),
        ..Default::default()
    }
}

#[test]
fn ten_thousand_regions_in_a_tiling_are_all_found() {
    let mut regions = Regions::default();
    for number in 0..10_000_u64 {
        let key = |number: u64| match number {
            0 | 10_000 => String::new(),
            other => format!("{other:05}"),
        };
        regions.offer(report(number + 1, &key(number), &key(number + 1), 1));
    }
    assert_eq!(regions.len(), 10_000);
    assert_eq!(regions.by_key(b"07654x").unwrap().id(), RegionId(7_655));
    assert_eq!(regions.previous_of(b"07654x").unwrap().id(), RegionId(7_654));
    assert_eq!(regions.counts(StoreId(1)).leaders, 10_000);
    assert_eq!(regions.ids_after(RegionId(9_998), 10), [RegionId(9_999), RegionId(10_000)]);
}

#[test]
fn a_region_without_peers_or_keys_is_no_region() {
    let mut halves = [report(1, "a", "b", 1).region];
    assert_eq!(check_description(&halves[0]), Ok(()));
    halves[0].peers.push(metapb::Peer { id: 9, store_id: 1, ..Default::default() });
    assert!(check_description(&halves[0]).is_err(), "two peers on one store");
    halves[0].peers.clear();
    assert!(check_description(&halves[0]).is_err());
    assert!(check_description(&report(1, "b", "a", 1).region).is_err());
    assert!(check_description(&report(0, "a", "b", 1).region).is_err());
}
